"""How a student begins: its shape from the form, its weights from chance or from the teacher's."""

import copy
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModel, PretrainedConfig, PreTrainedModel, set_seed

from tinybert.checks import check_start
from tinybert.config import StudentConfig
from tinybert.families import LAYER_MODULES, shape_fields
from tinybert.models import load_config
from tinybert.narrowing import copy_outside, main_directions, narrow, narrow_ffn
from tinybert.states import transformer_layers

SAMPLE = 64
"""Sequences, and tokens of each, that the teacher reads where its states are sampled."""


def student_config(student: StudentConfig, teacher: PretrainedConfig) -> PretrainedConfig:
    """The teacher's architecture and vocabulary in the student's shape.

    ELECTRA's embeddings get the student's width where they have the states' width in the teacher, else keep theirs.
    """
    config = copy.deepcopy(teacher)
    if getattr(teacher, "embedding_size", None) == teacher.hidden_size:
        config.embedding_size = student.hidden
    for width, field in shape_fields(teacher.model_type).items():
        setattr(config, field, getattr(student, width))
    config.architectures = None
    config.dtype = torch.float32
    return config


def build_student(
    student: StudentConfig, teacher: Path, mapped: list[int], seed: int, text_BL: Tensor | None = None
) -> tuple[PreTrainedModel, Tensor | None]:
    """A fresh student encoder.

    Args:
        student: Its shape, and how its weights begin.
        teacher: Directory of the pretrained teacher.
        mapped: Teacher layer (from 1) for each student layer; with `start="teacher"` these are copied, or cut down.
        seed: Of the random weights.
        text_BL: Token ids without padding, in whose states a narrower student's directions are found. None: random
            ids, which find most of them.

    Returns:
        An encoder without a head, in fp32; and, where it was cut out of a wider teacher, the matrix (D, S) that leads
        from its states h to the teacher's, `h @ matrix.T`.

    Raises:
        ModelError: The student does not fit into the teacher it is to start from.
    """
    check_start(student, teacher)
    set_seed(seed)
    model = AutoModel.from_config(student_config(student, load_config(teacher)))
    if student.start == "random":
        return model, None
    encoder = AutoModel.from_pretrained(teacher, use_safetensors=True, trust_remote_code=False, dtype=torch.float32)
    if student.hidden == encoder.config.hidden_size:
        _copy(model, encoder, mapped)
        return model, None
    ids_BL = _random_ids(encoder.config, seed) if text_BL is None else text_BL
    basis_DS = main_directions(encoder, [0, *mapped], student.hidden, ids_BL)
    narrow(model, encoder, mapped, basis_DS)
    return model, basis_DS.float()


def _copy(student: PreTrainedModel, teacher: PreTrainedModel, mapped: list[int]) -> None:
    """All outside the layers, and teacher layer g(m) as student layer m; of a wider ffn the strongest neurons."""
    copy_outside(student, teacher)
    stack, whole_DD = transformer_layers(teacher), torch.eye(teacher.config.hidden_size, dtype=torch.float64)
    for own, number in zip(transformer_layers(student), mapped, strict=True):
        shapes = {name: tensor.shape for name, tensor in own.state_dict().items()}
        taught = stack[number - 1].state_dict()
        same = {name: tensor for name, tensor in taught.items() if tensor.shape == shapes[name]}
        own.load_state_dict(same, strict=False)
        if len(same) < len(taught):
            narrow_ffn(own, stack[number - 1], LAYER_MODULES[teacher.config.model_type], whole_DD)


def _random_ids(teacher: PretrainedConfig, seed: int) -> Tensor:
    length = min(SAMPLE, teacher.max_position_embeddings // 2)
    return torch.randint(teacher.vocab_size, (SAMPLE, length), generator=torch.Generator().manual_seed(seed))
