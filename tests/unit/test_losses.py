"""Every loss against values worked out by hand, and against what must not change it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tinybert.errors import ShapeError
from tinybert.losses import attention_loss, hidden_loss, soft_cross_entropy


def test_attention_loss_by_hand():
    # Two heads of a two-token sentence; differences 1, 2, 3, 4 and 0, 0, 0, 2:
    # head means are 30/4 and 4/4, their mean is 4.25.
    student = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[5.0, 5.0], [5.0, 7.0]]]])
    teacher = torch.tensor([[[[0.0, 0.0], [0.0, 0.0]], [[5.0, 5.0], [5.0, 5.0]]]])
    assert attention_loss(student, teacher, torch.ones(1, 2)).item() == pytest.approx(4.25)


def test_attention_loss_is_a_mean_over_examples_not_tokens():
    # A one-token and a two-token sentence, every difference 1 in the first and 3 in the second: (1 + 9) / 2.
    student = torch.zeros(2, 1, 2, 2)
    teacher = torch.stack([torch.full((1, 2, 2), 1.0), torch.full((1, 2, 2), 3.0)])
    mask = torch.tensor([[1, 0], [1, 1]])
    assert attention_loss(student, teacher, mask).item() == pytest.approx(5.0)


def test_attention_loss_ignores_whatever_stands_in_the_padding():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    expected = attention_loss(student, teacher, mask)
    teacher[1, :, 2:, :] = teacher[1, :, :, 2:] = math.inf
    torch.testing.assert_close(attention_loss(student, teacher, mask), expected)


def test_hidden_loss_by_hand():
    # First sentence, two tokens: squares 1, 4 and 9, 16, mean 7.5. Second, one token: squares 1, 1, mean 1.
    student = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[1.0, 1.0], [9.0, 9.0]]])
    mask = torch.tensor([[1, 1], [1, 0]])
    assert hidden_loss(student, torch.zeros(2, 2, 2), mask).item() == pytest.approx((7.5 + 1.0) / 2)


def test_hidden_loss_after_a_projection_by_hand():
    # W = [[1, 0], [0, 1], [1, 1]] takes (1, 2) to (1, 2, 3); against (1, 1, 1) the squares are 0, 1, 4.
    project = torch.nn.Linear(2, 3, bias=False)
    project.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    loss = hidden_loss(project(torch.tensor([[[1.0, 2.0]]])), torch.ones(1, 1, 3), torch.ones(1, 1))
    assert loss.item() == pytest.approx(5 / 3)


def test_soft_cross_entropy_by_hand():
    # Teacher (3/4, 1/4), student uniform: log 2. Both at (3/4, 1/4): the entropy, 0.75 log 4/3 + 0.25 log 4.
    teacher = torch.tensor([[math.log(3.0), 0.0]])
    assert soft_cross_entropy(torch.zeros(1, 2), teacher).item() == pytest.approx(math.log(2))
    entropy = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    assert soft_cross_entropy(teacher, teacher).item() == pytest.approx(entropy)


def test_soft_cross_entropy_softens_and_scales_with_the_temperature():
    # Logits 2 log 3 at t = 2 are (3/4, 1/4); a uniform student gives log 2, times t^2.
    teacher = torch.tensor([[2 * math.log(3.0), 0.0]])
    loss = soft_cross_entropy(torch.zeros(1, 2), teacher, temperature=2.0)
    assert loss.item() == pytest.approx(4 * math.log(2))


@pytest.mark.parametrize("classes", [2, 200])
def test_soft_cross_entropy_does_not_shrink_with_classes(classes):
    # Uniform against uniform is log C whatever C is; the reference divides by C as well.
    logits = torch.zeros(3, classes)
    assert soft_cross_entropy(logits, logits).item() == pytest.approx(math.log(classes))


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    padding=st.integers(0, 4),
    seed=st.integers(0, 1000),
)
def test_state_losses_do_not_change_with_padding(lengths, padding, seed):
    torch.manual_seed(seed)
    longest, batch = max(lengths), len(lengths)
    mask = torch.tensor([[1] * n + [0] * (longest - n) for n in lengths])
    wide_mask = torch.nn.functional.pad(mask, (0, padding))
    scores = torch.randn(2, batch, 2, longest, longest)
    hidden = torch.randn(2, batch, longest, 3)
    wide_scores = torch.nn.functional.pad(scores, (0, padding, 0, padding), value=7.0)
    wide_hidden = torch.nn.functional.pad(hidden, (0, 0, 0, padding), value=7.0)
    torch.testing.assert_close(attention_loss(*wide_scores, wide_mask), attention_loss(*scores, mask))
    torch.testing.assert_close(hidden_loss(*wide_hidden, wide_mask), hidden_loss(*hidden, mask))


def test_losses_of_equal_slices_average_to_the_loss_of_the_batch():
    torch.manual_seed(0)
    scores, logits = torch.randn(2, 4, 2, 3, 3), torch.randn(2, 4, 5)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]])
    halves = [attention_loss(*scores[:, part], mask[part]) for part in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(torch.stack(halves).mean(), attention_loss(*scores, mask))
    halves = [soft_cross_entropy(*logits[:, part]) for part in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(torch.stack(halves).mean(), soft_cross_entropy(*logits))


@pytest.mark.parametrize("loss", [attention_loss, hidden_loss, soft_cross_entropy])
def test_gradients_agree_with_finite_differences(loss):
    torch.manual_seed(0)
    shape = {attention_loss: (2, 2, 3, 3), hidden_loss: (2, 3, 4), soft_cross_entropy: (2, 4)}[loss]
    student, teacher = torch.randn(shape, requires_grad=True), torch.randn(shape)
    more = () if loss is soft_cross_entropy else (torch.tensor([[1, 1, 1], [1, 1, 0]]),)
    loss(student, teacher, *more).backward()
    step = 1e-2
    for index in [(0,) * len(shape), (1,) + (1,) * (len(shape) - 1)]:
        up, down = student.detach().clone(), student.detach().clone()
        up[index] += step
        down[index] -= step
        slope = (loss(up, teacher, *more) - loss(down, teacher, *more)) / (2 * step)
        assert student.grad[index].item() == pytest.approx(slope.item(), abs=1e-3)


def test_shapes_that_differ_are_named():
    with pytest.raises(ShapeError, match=r"attention scores .*: student has \(1, 2, 3, 3\), teacher \(1, 4, 3, 3\)"):
        attention_loss(torch.zeros(1, 2, 3, 3), torch.zeros(1, 4, 3, 3), torch.ones(1, 3))
    with pytest.raises(ShapeError, match=r"hidden states .*: student has \(1, 3, 2\), teacher \(1, 3, 4\)"):
        hidden_loss(torch.zeros(1, 3, 2), torch.zeros(1, 3, 4), torch.ones(1, 3))
    with pytest.raises(ShapeError, match=r"mask .*: expected \(1, 3\), found \(1, 2\)"):
        hidden_loss(torch.zeros(1, 3, 4), torch.zeros(1, 3, 4), torch.ones(1, 2))
    with pytest.raises(ShapeError, match="logits"):
        soft_cross_entropy(torch.zeros(1, 2), torch.zeros(1, 3))
