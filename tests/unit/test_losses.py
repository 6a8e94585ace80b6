"""Every loss against values worked out by hand, an independent formula in float64, and what must not change it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tinybert.errors import ShapeError
from tinybert.losses import (
    attention_loss,
    binary_soft_cross_entropy,
    hidden_loss,
    regression_loss,
    relation_loss,
    soft_cross_entropy,
    span_soft_cross_entropy,
    token_soft_cross_entropy,
)


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


def test_relation_loss_ignores_whatever_stands_in_the_padding():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(2, 3, 4, 6)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    expected = relation_loss(student, teacher, mask, heads=2)
    (slope,) = torch.autograd.grad(expected, student)
    garbage = student.detach().clone()
    teacher[1, :, 2:], garbage[1, :, 2:] = math.inf, math.nan
    loss = relation_loss(garbage.requires_grad_(), teacher, mask, heads=2)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(garbage.grad, slope)
    assert not slope[1, :, 2:].any()


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


def test_binary_soft_cross_entropy_by_hand():
    # Teacher's probabilities 3/4 and 1/2, student's 1/2 each: log 2 for either class, summed; two rows, the same mean.
    teacher = torch.tensor([[math.log(3.0), 0.0]] * 2)
    assert binary_soft_cross_entropy(torch.zeros(2, 2), teacher).item() == pytest.approx(2 * math.log(2))
    # At the teacher's own: the entropies.
    entropy = 0.75 * math.log(4 / 3) + 0.25 * math.log(4) + math.log(2)
    assert binary_soft_cross_entropy(teacher, teacher).item() == pytest.approx(entropy)
    # Student (3/4, 1/2) at t = 2 under a teacher of (1/2, 1/2), times t^2.
    student = torch.tensor([[2 * math.log(3.0), 0.0]])
    expected = 4 * (0.5 * math.log(4 / 3) + 0.5 * math.log(4) + math.log(2))
    assert binary_soft_cross_entropy(student, torch.zeros(1, 2), temperature=2.0).item() == pytest.approx(expected)


@pytest.mark.parametrize("classes", [1, 200])
def test_what_one_class_of_many_says_does_not_depend_on_the_others(classes):
    student = torch.zeros(3, classes, requires_grad=True)
    binary_soft_cross_entropy(student, torch.full((3, classes), math.log(3.0))).backward()
    # d/dz = (1/2 - 3/4) / rows
    torch.testing.assert_close(student.grad, torch.full((3, classes), -0.25 / 3))


def test_token_soft_cross_entropy_by_hand_is_a_mean_over_scored_tokens():
    # Three scored tokens, one of them in the second sentence: log 2, log 2, and the entropy of (3/4, 1/4).
    student, teacher = torch.zeros(2, 2, 2), torch.zeros(2, 2, 2)
    teacher[0, 0, 0] = teacher[1, 0, 0] = student[1, 0, 0] = math.log(3.0)
    teacher[1, 1] = torch.tensor([9.0, -9.0])  # not scored
    entropy = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    loss = token_soft_cross_entropy(student, teacher, torch.tensor([[1, 1], [1, 0]]))
    assert loss.item() == pytest.approx((2 * math.log(2) + entropy) / 3)


@pytest.mark.parametrize("loss", [token_soft_cross_entropy, span_soft_cross_entropy])
def test_losses_of_tokens_ignore_whatever_stands_beside_what_is_scored(loss):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 4, 2, requires_grad=True), torch.randn(2, 4, 2)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    expected = loss(student, teacher, mask, 0.5)
    (slope,) = torch.autograd.grad(expected, student)
    garbage = student.detach().clone()
    teacher[1, 2:], garbage[1, 2:] = math.inf, math.nan
    found = loss(garbage.requires_grad_(), teacher, mask, 0.5)
    found.backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(garbage.grad, slope)
    assert not slope[1, 2:].any()


def test_no_scored_token_at_all_is_no_loss_and_no_gradient():
    student = torch.randn(2, 3, 4, requires_grad=True)
    loss = token_soft_cross_entropy(student, torch.randn(2, 3, 4), torch.zeros(2, 3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0.0
    assert not student.grad.any()


def test_span_soft_cross_entropy_by_hand():
    # Two real tokens of three. Start: teacher (3/4, 1/4), student uniform, log 2; end: both uniform, log 2. A second
    # sentence of one token: whatever the logits, its distribution is certain, 0.
    student, teacher = torch.zeros(2, 3, 2), torch.zeros(2, 3, 2)
    teacher[0, 0, 0] = math.log(3.0)
    student[1, 0] = torch.tensor([5.0, -5.0])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    assert span_soft_cross_entropy(student, teacher, mask).item() == pytest.approx((math.log(2) + 0) / 2)
    # Both of the first sentence's start at the teacher's own distribution: its entropy, with log 2 for the end.
    entropy = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    loss = span_soft_cross_entropy(teacher[:1], teacher[:1], mask[:1])
    assert loss.item() == pytest.approx((entropy + math.log(2)) / 2)


def test_relation_loss_by_hand():
    # Two tokens, one head of width 1; keys and values are all 0 and add nothing. Teacher queries (log 3, 1): token 1's
    # products are (log 3)^2 and log 3, token 2's log 3 and 1. The student's are 0, so uniform: KL of (p, 1 - p) to
    # uniform is log 2 - H(p).
    def divergence(first, second):
        p = 1 / (1 + math.exp(second - first))
        return math.log(2) + p * math.log(p) + (1 - p) * math.log(1 - p)

    a = math.log(3)
    teacher = torch.zeros(1, 3, 2, 1)
    teacher[0, 0, :, 0] = torch.tensor([a, 1.0])
    expected = (divergence(a * a, a) + divergence(a, 1.0)) / 2
    loss = relation_loss(torch.zeros(1, 3, 2, 1), teacher, torch.ones(1, 2), heads=1)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    three = relation_loss(torch.zeros(1, 3, 2, 1), teacher[:, :1].expand(1, 3, 2, 1), torch.ones(1, 2), heads=1)
    assert three.item() == pytest.approx(3 * expected, rel=1e-5)


def test_relation_loss_is_nothing_for_equal_relations_of_another_width():
    # Twice the same column halved, over twice the width: the products per root of the width are kept.
    torch.manual_seed(0)
    student = torch.randn(2, 3, 4, 2)
    teacher = torch.cat([student, student], dim=-1) * 2**-0.25
    assert relation_loss(student, teacher, torch.ones(2, 4), heads=1).item() == pytest.approx(0.0, abs=1e-6)


def test_regression_loss_by_hand():
    # Differences 1 and 3: (1 + 9) / 2.
    assert regression_loss(torch.tensor([[1.0], [5.0]]), torch.tensor([[0.0], [2.0]])).item() == pytest.approx(5.0)


def softmax(values):
    exponents = np.exp(values - values.max(-1, keepdims=True))
    return exponents / exponents.sum(-1, keepdims=True)


def numpy_attention(student, teacher, lengths):
    return np.mean(
        [((s[:, :n, :n] - t[:, :n, :n]) ** 2).mean() for s, t, n in zip(student, teacher, lengths, strict=True)]
    )


def numpy_hidden(student, teacher, lengths):
    return np.mean([((s[:n] - t[:n]) ** 2).mean() for s, t, n in zip(student, teacher, lengths, strict=True)])


def numpy_relations(student, teacher, lengths, heads=2):
    total = 0.0
    for s, t, n in zip(student, teacher, lengths, strict=True):
        for part in range(3):
            for own, other in zip(
                np.split(s[part, :n], heads, axis=-1), np.split(t[part, :n], heads, axis=-1), strict=True
            ):
                taught = softmax(other @ other.T / np.sqrt(other.shape[-1]))
                learnt = softmax(own @ own.T / np.sqrt(own.shape[-1]))
                total += (taught * np.log(taught / learnt)).sum() / (n * heads)
    return total / len(lengths)


def numpy_cross_entropy(student, teacher, lengths, t=3.0):
    return -(softmax(teacher / t) * np.log(softmax(student / t))).sum(-1).mean() * t**2


def numpy_binary(student, teacher, lengths, t=3.0):
    p, q = (1 / (1 + np.exp(-logits / t)) for logits in (teacher, student))
    return -(p * np.log(q) + (1 - p) * np.log(1 - q)).sum(-1).mean() * t**2


def numpy_tokens(student, teacher, lengths, t=3.0):
    pairs = [(s[:n], o[:n]) for s, o, n in zip(student, teacher, lengths, strict=True)]
    own, other = (np.concatenate(rows) for rows in zip(*pairs, strict=True))
    return numpy_cross_entropy(own, other, lengths, t)


def numpy_spans(student, teacher, lengths, t=3.0):
    pairs = [(s[:n].T, o[:n].T) for s, o, n in zip(student, teacher, lengths, strict=True)]
    return np.mean([numpy_cross_entropy(own, other, lengths, t) for own, other in pairs])


def numpy_regression(student, teacher, lengths):
    return ((student - teacher) ** 2).mean()


LENGTHS = [3, 1, 4]
FORMULAS = {
    "attention": (attention_loss, numpy_attention, (3, 2, 4, 4), (3, 2, 4, 4), {}),
    "hidden": (hidden_loss, numpy_hidden, (3, 4, 5), (3, 4, 5), {}),
    "relations": (relation_loss, numpy_relations, (3, 3, 4, 4), (3, 3, 4, 6), {"heads": 2}),
    "cross entropy": (soft_cross_entropy, numpy_cross_entropy, (3, 5), (3, 5), {"temperature": 3.0}),
    "binary cross entropy": (binary_soft_cross_entropy, numpy_binary, (3, 5), (3, 5), {"temperature": 3.0}),
    "tokens": (token_soft_cross_entropy, numpy_tokens, (3, 4, 5), (3, 4, 5), {"temperature": 3.0}),
    "spans": (span_soft_cross_entropy, numpy_spans, (3, 4, 2), (3, 4, 2), {"temperature": 3.0}),
    "regression": (regression_loss, numpy_regression, (3, 2), (3, 2), {}),
}


@pytest.fixture(params=FORMULAS)
def formula(request):
    """Loss as a function of the student, the same in numpy and float64, and a student."""
    loss, independent, own, other, more = FORMULAS[request.param]
    chance = np.random.default_rng(0)
    student, teacher = chance.normal(size=own), chance.normal(size=other)
    mask = torch.tensor([[1] * n + [0] * (4 - n) for n in LENGTHS])
    after = (mask,) if {"mask_BL", "scored_BL"} & loss.__annotations__.keys() else ()
    taught = torch.tensor(teacher, dtype=torch.float32)
    return lambda s: loss(s, taught, *after, **more), lambda s: independent(s, teacher, LENGTHS), student


def test_losses_agree_with_an_independent_formula(formula):
    loss, independent, student = formula
    assert loss(torch.tensor(student)).item() == pytest.approx(independent(student), rel=1e-5)


def test_gradients_agree_with_finite_differences_of_the_formula(formula):
    loss, independent, student = formula
    leaf = torch.tensor(student, requires_grad=True)
    loss(leaf).backward()
    slopes, step = np.empty_like(student), 1e-5
    for index in np.ndindex(student.shape):
        up, down = student.copy(), student.copy()
        up[index] += step
        down[index] -= step
        slopes[index] = (independent(up) - independent(down)) / (2 * step)
    assert np.abs(slopes).max() > 1e-2
    np.testing.assert_allclose(leaf.grad.numpy(), slopes, atol=1e-5)


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
    parts, taught = torch.randn(batch, 3, longest, 4), torch.randn(batch, 3, longest, 6)
    wide_parts, wide_taught = (torch.nn.functional.pad(x, (0, 0, 0, padding), value=7.0) for x in (parts, taught))
    torch.testing.assert_close(attention_loss(*wide_scores, wide_mask), attention_loss(*scores, mask))
    torch.testing.assert_close(hidden_loss(*wide_hidden, wide_mask), hidden_loss(*hidden, mask))
    torch.testing.assert_close(
        relation_loss(wide_parts, wide_taught, wide_mask, heads=2), relation_loss(parts, taught, mask, heads=2)
    )


def test_losses_of_equal_slices_average_to_the_loss_of_the_batch():
    torch.manual_seed(0)
    scores, logits = torch.randn(2, 4, 2, 3, 3), torch.randn(2, 4, 5)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]])
    halves = [attention_loss(*scores[:, part], mask[part]) for part in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(torch.stack(halves).mean(), attention_loss(*scores, mask))
    halves = [soft_cross_entropy(*logits[:, part]) for part in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(torch.stack(halves).mean(), soft_cross_entropy(*logits))


def test_shapes_that_differ_are_named():
    with pytest.raises(ShapeError, match=r"attention scores .*: student has \(1, 2, 3, 3\), teacher \(1, 4, 3, 3\)"):
        attention_loss(torch.zeros(1, 2, 3, 3), torch.zeros(1, 4, 3, 3), torch.ones(1, 3))
    with pytest.raises(ShapeError, match=r"hidden states .*: student has \(1, 3, 2\), teacher \(1, 3, 4\)"):
        hidden_loss(torch.zeros(1, 3, 2), torch.zeros(1, 3, 4), torch.ones(1, 3))
    with pytest.raises(ShapeError, match=r"mask .*: expected \(1, 3\), found \(1, 2\)"):
        hidden_loss(torch.zeros(1, 3, 4), torch.zeros(1, 3, 4), torch.ones(1, 2))
    with pytest.raises(ShapeError, match=r"queries, keys, .*: student has \(1, 3, 2\), teacher \(1, 3, 4\)"):
        relation_loss(torch.zeros(1, 3, 2, 4), torch.zeros(1, 3, 4, 4), torch.ones(1, 2), heads=1)
    with pytest.raises(ShapeError, match="relation heads: found 4, which does not divide the width 6"):
        relation_loss(torch.zeros(1, 3, 2, 4), torch.zeros(1, 3, 2, 6), torch.ones(1, 2), heads=4)
    with pytest.raises(ShapeError, match="outputs"):
        regression_loss(torch.zeros(1, 1), torch.zeros(2, 1))
    for loss in (soft_cross_entropy, binary_soft_cross_entropy):
        with pytest.raises(ShapeError, match="logits"):
            loss(torch.zeros(1, 2), torch.zeros(1, 3))
    for loss in (token_soft_cross_entropy, span_soft_cross_entropy):
        with pytest.raises(ShapeError, match=r"logits .*: student has \(1, 3, 2\), teacher \(1, 3, 4\)"):
            loss(torch.zeros(1, 3, 2), torch.zeros(1, 3, 4), torch.ones(1, 3))
        with pytest.raises(ShapeError, match=r"mask .*: expected \(1, 3\), found \(1, 2\)"):
            loss(torch.zeros(1, 3, 4), torch.zeros(1, 3, 4), torch.ones(1, 2))
