"""A teacher copied weight by weight is the one that transformers loads."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    DistilBertConfig,
    ElectraConfig,
    MPNetConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from tests.unit.kind_data import NAMES
from tests.unit.teachers import DISTIL, FAMILIES, SHAPE
from tinybert.kinds import KINDS
from tinybert.models import load_model, load_teacher
from tinybert.precision import halve_linears
from tinybert.stages.logits import take_over_head
from tinybert.states import transformer_layers

BATCH = {
    "input_ids": torch.tensor([[7, 8, 9, 10, 11], [12, 13, 14, 1, 1]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
}


def whole(directory):
    """The same teacher, loaded the common way."""
    return AutoModel.from_pretrained(directory, dtype=torch.float32).eval()


def states(model, layers, precision):
    """Hidden states of the first layers."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        return model(**BATCH, output_hidden_states=True).hidden_states[: layers + 1]


@pytest.fixture(params=FAMILIES)
def directory(request, tmp_path):
    torch.manual_seed(0)
    FAMILIES[request.param]().save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_teacher_computes_what_the_whole_model_does(directory, precision):
    teacher = load_teacher(directory, 3, precision)
    expected = states(whole(directory), 3, precision)
    # The last state of a model may lack what follows in a longer one, so the layer below it is compared too.
    for mine, theirs in zip(states(teacher, 3, precision), expected, strict=True):
        assert torch.equal(mine, theirs)
    assert len(transformer_layers(teacher)) == 3
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_only_linear_layers_are_in_bf16(directory):
    teacher, expected = load_teacher(directory, 4, "bf16"), whole(directory)
    halve_linears(expected)
    kept = dict(expected.named_parameters())
    found = dict(teacher.named_parameters())
    assert {name: weight.dtype for name, weight in found.items()} == {n: w.dtype for n, w in kept.items()}
    stored = [name for name in found if not name.startswith("pooler")]  # random where the file has none
    assert all(torch.equal(found[name], kept[name]) for name in stored)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_teacher_of_some_tokens_computes_the_same_of_them(directory, precision):
    known = BATCH["input_ids"].unique().numpy()
    teacher = load_teacher(directory, 4, precision, known)
    expected = states(whole(directory), 4, precision)
    for mine, theirs in zip(states(teacher, 4, precision), expected, strict=True):
        assert torch.equal(mine, theirs)
    rows = whole(directory).get_input_embeddings().weight[known]
    assert torch.equal(teacher.get_input_embeddings().weight, rows)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    with pytest.raises(IndexError):  # no other token is silently taken for one of them
        teacher(input_ids=torch.tensor([[7, 20]]))


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux tells of a process")
def test_weights_are_in_memory_once_while_a_teacher_is_loaded(tmp_path):
    def told(name):
        return int(Path("/proc/self/status").read_text().partition(f"{name}:")[2].split()[0]) * 1024

    shape = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "num_hidden_layers": 8}
    model = BertModel(BertConfig(vocab_size=50, **shape))
    linears = sum(4 * w.numel() for n, w in model.named_parameters() if "layer" in n and n.endswith("weight"))
    model.save_pretrained(tmp_path)
    del model
    load_teacher(tmp_path, 1)  # what the first call leaves in memory is not the weights'
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = told("VmRSS")
    load_teacher(tmp_path, 8, "bf16")
    # Half of fp32's bytes, and no more of the mapped file than a few weights; all of it would be thrice that.
    assert told("VmHWM") - before < 0.75 * linears


def test_a_teacher_in_several_files_or_half_precision_is_read_too(tmp_path):
    torch.manual_seed(0)
    model = BertModel(BertConfig(**SHAPE))
    for name, changed in (("parts", model), ("half", model.to(torch.float16))):
        changed.save_pretrained(tmp_path / name, max_shard_size="20KB")
        assert len(list((tmp_path / name).glob("model-*.safetensors"))) > 1
        teacher = load_teacher(tmp_path / name, 4)
        for mine, theirs in zip(states(teacher, 4, "fp32"), states(whole(tmp_path / name), 4, "fp32"), strict=True):
            assert torch.equal(mine, theirs)


def test_weights_under_another_name_are_still_the_models(tmp_path):
    torch.manual_seed(0)
    model = BertModel(BertConfig(**SHAPE))
    names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    old = {}
    for name, tensor in model.state_dict().items():
        path, _, last = name.rpartition("LayerNorm.")
        old[path + names[f"LayerNorm.{last}"] if path else name] = tensor
    assert old.keys() != model.state_dict().keys()
    model.save_pretrained(tmp_path, state_dict=old)
    for mine, theirs in zip(states(load_teacher(tmp_path, 4), 4, "fp32"), states(model.eval(), 4, "fp32"), strict=True):
        assert torch.equal(mine, theirs)


CONFIGS = {
    "bert": BertConfig(**SHAPE),
    "roberta": RobertaConfig(**SHAPE, type_vocab_size=1),
    "xlm-roberta": XLMRobertaConfig(**SHAPE, type_vocab_size=1),
    "electra": ElectraConfig(**SHAPE, embedding_size=16),
    "distilbert": DistilBertConfig(**DISTIL),
    "mpnet": MPNetConfig(**SHAPE),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_has_a_head_for_every_kind(family, kind, tmp_path):
    """An encoder gets a new one, which is the same after it was saved, and the one that `logits` gives a student."""
    torch.manual_seed(0)
    AutoModel.from_config(CONFIGS[family]).save_pretrained(tmp_path / "encoder")
    teacher, names = load_model(tmp_path / "encoder", KINDS[kind], NAMES[kind]).eval(), NAMES[kind]
    teacher.save_pretrained(tmp_path / "teacher")
    assert list(teacher.config.id2label.values()) == names
    loaded = load_model(tmp_path / "teacher", KINDS[kind]).eval()
    with torch.no_grad():
        logits, again = (KINDS[kind].logits(model(**BATCH)) for model in (teacher, loaded))
    torch.testing.assert_close(logits, again)  # a kernel may depend on where the weights begin
    assert logits.shape == ((2, 5, len(names)) if KINDS[kind].per_token else (2, len(names)))

    student = load_model(tmp_path / "encoder", KINDS[kind], names)
    head = {name for name, _ in teacher.named_parameters() if not name.startswith(f"{teacher.base_model_prefix}.")}
    assert head
    assert take_over_head(student, teacher)
    own, taught = dict(student.named_parameters()), dict(teacher.named_parameters())
    assert all(torch.equal(own[name], taught[name]) for name in head)
