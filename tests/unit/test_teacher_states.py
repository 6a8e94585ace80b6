"""The tensors a teacher gives, and what is cut off it."""

import pytest
import torch

from tests.unit.teachers import FAMILIES
from tinybert.states import StateCapture
from tinybert.teacher_states import TeacherStates, remembered_states, state_names

BATCH = {
    "input_ids": torch.tensor([[7, 8, 9, 10, 11], [12, 13, 14, 1, 1]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
    "token_type_ids": torch.tensor([[0, 0, 0, 1, 1], [0, 1, 1, 0, 0]]),
    "labels": torch.tensor([0, 1]),
}


@pytest.fixture(params=FAMILIES)
def build(request):
    def build():
        torch.manual_seed(0)
        return FAMILIES[request.param]()

    return build


@pytest.mark.parametrize(
    ("kind", "name", "shape"),
    [
        ("scores", "teacher_scores", (2, 2, 3, 5, 5)),
        ("relations", "teacher_relations", (2, 2, 3, 5, 24)),
        ("hidden", None, None),
    ],
)
def test_tensors_are_the_states_of_the_whole_teacher(build, kind, name, shape):
    whole = build().eval()
    capture = StateCapture(whole, [0, 1, 3], kind)
    reads = {"input_ids", "attention_mask"} | (
        {"token_type_ids"} if whole.config.model_type in ("bert", "electra") else set()
    )
    with torch.no_grad(), capture.capturing() as expected:
        whole(**{part: BATCH[part] for part in reads})
    tensors = TeacherStates(build().train(), [1, 3], kind).train()(**BATCH)
    assert list(tensors) == state_names(kind) == ["teacher_hidden", *([name] if name else [])]
    assert tensors["teacher_hidden"].shape == (2, 3, 5, 24)
    for place, layer in enumerate((0, 1, 3)):
        assert torch.equal(tensors["teacher_hidden"][:, place], expected.hidden[layer])
    if name:
        assert tensors[name].shape == shape
        for place, layer in enumerate((1, 3)):
            assert torch.equal(tensors[name][:, place], getattr(expected, kind)[layer])
    assert not any(tensor.requires_grad for tensor in tensors.values())


@pytest.mark.parametrize("kind", ["scores", "relations", "hidden"])
def test_remembered_states_are_those_that_were_given(build, kind):
    teacher = TeacherStates(build(), [1, 3], kind)
    states, remembered = teacher.states(BATCH), remembered_states(teacher(**BATCH), [1, 3], kind)
    for part, layers in (("hidden", [0, 1, 3]), ("scores", [1, 3]), ("relations", [1, 3])):
        by_layer, again = getattr(states, part), getattr(remembered, part)
        assert sorted(by_layer) == sorted(again) == (layers if part in ("hidden", kind) else [])
        assert all(torch.equal(by_layer[layer], again[layer]) for layer in by_layer)


def test_what_no_state_needs_is_cut_off(build):
    teacher = build()
    layers = 4
    before = {name: parameter.clone() for name, parameter in teacher.base_model.named_parameters()}
    states = TeacherStates(teacher, [1, 3], "scores")
    states(**BATCH)
    left = dict(states.encoder.named_parameters())
    gone = {name for name in before if name not in left}
    assert gone == {name for name in before if f"layer.{layers - 1}." in name or name.startswith("pooler.")}
    assert all(torch.equal(left[name], before[name]) for name in left)
    assert not any(parameter.requires_grad for parameter in left.values())
    assert not states.encoder.training
    TeacherStates(states.encoder, [3], "hidden")(**BATCH)  # still an encoder, of three layers
