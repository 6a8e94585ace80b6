"""Building a student: its shape from the form, its weights from chance or from teacher layers."""

import copy
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel, set_seed

from tinybert.config import StudentConfig
from tinybert.states import transformer_layers


def student_config(student: StudentConfig, teacher: PretrainedConfig) -> PretrainedConfig:
    """The teacher's architecture and vocabulary in the student's shape."""
    config = copy.deepcopy(teacher)
    config.num_hidden_layers = student.layers
    config.hidden_size = student.hidden
    config.intermediate_size = student.ffn
    config.num_attention_heads = student.heads
    config.architectures = None
    config.dtype = torch.float32
    return config


def build_student(student: StudentConfig, teacher: Path, mapped: list[int], seed: int) -> PreTrainedModel:
    """A fresh student encoder.

    Args:
        student: Its shape, and whether its weights start random or as copies.
        teacher: Directory of the pretrained teacher.
        mapped: Teacher layer (from 1) for each student layer; these are copied with `start="teacher"`.
        seed: Of the random weights.

    Returns:
        An encoder without a head, in fp32.
    """
    set_seed(seed)
    model = AutoModel.from_config(student_config(student, AutoConfig.from_pretrained(teacher)))
    if student.start == "teacher":
        _copy_weights(model, AutoModel.from_pretrained(teacher, use_safetensors=True, dtype=torch.float32), mapped)
    return model


def _copy_weights(student: PreTrainedModel, teacher: PreTrainedModel, mapped: list[int]) -> None:
    """Everything outside the layers as it is, and student layer m from teacher layer g(m)."""
    student_layers, teacher_layers = transformer_layers(student), transformer_layers(teacher)
    inside = {id(p) for layer in student_layers for p in layer.parameters()}
    source = dict(teacher.named_parameters())
    for name, parameter in student.named_parameters():
        if id(parameter) not in inside:
            parameter.data.copy_(source[name].data)
    for layer, taught_by in zip(student_layers, mapped, strict=True):
        layer.load_state_dict(teacher_layers[taught_by - 1].state_dict())
