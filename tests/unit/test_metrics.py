"""Formulas on sums by hand; whole scores stand against other libraries in the tests of the kinds of task."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_fscore_support

from tinybert.errors import ModelError
from tinybert.metrics import (
    Metric,
    check_finite,
    class_scores,
    confusions,
    divided,
    f1_macro,
    f1_micro,
    found_members,
    hits,
    share,
)

# Two classes. Found: one a, two b. Invented: one b. Missed: two a.
LABELS = np.array([[1, 0], [1, 1], [1, 0], [0, 1]], bool)
ANSWERS = np.array([[1, 0], [0, 1], [0, 1], [0, 1]], bool)
SUMS = np.array([1.0, 2, 0, 1, 2, 0])


def test_sums_by_hand():
    assert confusions(LABELS, ANSWERS).sum(axis=0).tolist() == SUMS.tolist()
    assert hits(np.array([True, False, True])).tolist() == [[1, 1], [0, 1], [1, 1]]


def test_scores_by_hand():
    assert f1_macro(SUMS) == pytest.approx((2 / 4 + 4 / 5) / 2)
    assert f1_micro(SUMS) == pytest.approx(6 / 9)
    assert share(np.array([3.0, 4.0])) == 0.75


def test_a_class_that_nobody_spoke_of_has_no_f1():
    assert f1_macro(np.array([1.0, 0, 0, 0, 2, 0])) == 0.5


def test_nothing_over_nothing_is_0():
    assert f1_macro(np.zeros(6)) == f1_micro(np.zeros(6)) == share(np.zeros(2)) == 0
    assert divided(np.array([[1.0, 2], [3, 4]]), np.array([0, 2.0])).tolist() == [[0, 1], [0, 2]]


@pytest.mark.parametrize("value", [f1_macro, f1_micro])
def test_many_sums_are_scored_at_once(value):
    many = np.stack([SUMS, SUMS[::-1], np.zeros(6)])
    assert value(many).tolist() == [value(sums) for sums in many]
    assert value(np.stack([many, many])).shape == (2, 3)


def test_a_score_is_the_value_of_the_sums_over_rows():
    mean = Metric(lambda labels, answers, names: np.array([[len(label), 1] for label in labels], float), share)
    assert mean.score(["a", "bb", "ccc"], [], []) == 2


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(*[st.booleans()] * 6), min_size=1, max_size=20))
def test_classes_are_scored_as_scikit_learn_does(rows):
    labels, answers = np.split(np.array(rows), 2, axis=1)
    found = class_scores(confusions(labels, answers), "abc")
    expected = precision_recall_fscore_support(labels, answers, zero_division=0)
    for place, name in enumerate("abc"):
        assert list(found[name]) == ["precision", "recall", "f1", "support"]
        assert list(found[name].values()) == pytest.approx([column[place] for column in expected])


def test_found_members_of_the_classes_there_are():
    found = found_members(confusions(LABELS[:1], ANSWERS[:1]), "ab")
    assert {name: rows.tolist() for name, rows in found.items()} == {"a": [[1, 1]]}
    both = found_members(confusions(LABELS, ANSWERS), "ab")
    assert both["a"].tolist() == [[1, 1], [0, 1], [0, 1], [0, 0]]
    assert both["b"].tolist() == [[0, 0], [1, 1], [0, 0], [1, 1]]


def test_logits_that_are_no_numbers_are_refused():
    logits = np.array([[0.0, 1.0], [np.nan, 1.0], [np.inf, 0.0]])
    check_finite(logits[:1], "student")
    with pytest.raises(ModelError, match=r"^student: 2 of 3 logits are not finite; export or train it again$"):
        check_finite(logits, "student")
