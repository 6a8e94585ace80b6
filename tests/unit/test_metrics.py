"""Scores by hand, and against scikit-learn."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from tinybert.errors import ModelError
from tinybert.metrics import METRICS, answers, classification_scores, majority_share

ROWS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30)


def test_scores_by_hand():
    # Three of four right. Class 0: precision 1, recall 1/2, F1 2/3. Class 1: precision 2/3, recall 1, F1 4/5.
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [0.0, 3.0], [-1.0, 0.0]])
    scores = classification_scores(logits, np.array([0, 0, 1, 1]))
    assert scores == {"accuracy": 0.75, "f1_macro": pytest.approx((2 / 3 + 4 / 5) / 2)}


@settings(deadline=None, max_examples=60)
@given(ROWS)
def test_scores_are_those_of_scikit_learn(rows):
    labels, predicted = np.array(rows).T
    assert METRICS["accuracy"].score(labels, predicted, 5) == pytest.approx(accuracy_score(labels, predicted))
    expected = f1_score(labels, predicted, average="macro")  # over the classes that are there
    assert METRICS["f1_macro"].score(labels, predicted, 5) == pytest.approx(expected)


def test_many_sums_are_scored_at_once():
    labels, predicted = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0])
    for metric in METRICS.values():
        statistics = metric.statistics(labels, predicted, 3)
        sums = np.stack([statistics.sum(axis=0), statistics[:2].sum(axis=0)])
        parts = [metric.score(labels[:size], predicted[:size], 3) for size in (4, 2)]
        assert metric.value(np.stack([sums, sums])).tolist() == [pytest.approx(parts)] * 2


def test_no_class_is_a_wrong_answer_to_any():
    labels = np.array([0, 1, 2])
    assert METRICS["accuracy"].score(labels, np.array([0, -1, -1]), 3) == pytest.approx(1 / 3)
    assert METRICS["f1_macro"].score(labels, np.array([0, -1, -1]), 3) == pytest.approx(1 / 3)


def test_logits_that_are_no_numbers_are_refused():
    logits = np.array([[0.0, 1.0], [np.nan, 1.0], [np.inf, 0.0]])
    assert answers(logits[:1], "student").tolist() == [1]
    with pytest.raises(ModelError, match=r"^student: the logits of 2 of 3 rows are not finite"):
        answers(logits, "student")


def test_majority_share():
    assert majority_share(np.array([1, 1, 0, 2])) == 0.5
