"""One class a row: scores against scikit-learn, the rest by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, classification_report, f1_score, matthews_corrcoef

from tinybert.data_config import DataConfig
from tinybert.errors import DataError
from tinybert.kinds.classification import Classification
from tinybert.kinds.task_kind import Features

KIND = Classification()
NAMES = ["a", "b", "c", "d", "e"]
ROWS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30)
CONFIG = DataConfig(source="package:tinybert/samples.csv")
FEATURES = Features(np.array([3, 3], np.int32), np.array([0, 1]))


def score(metric, labels, answers, names=NAMES):
    return KIND.metrics[metric].score(labels, answers, names)


@settings(deadline=None, max_examples=30)
@given(ROWS)
def test_scores_are_those_of_scikit_learn(rows):
    labels, answers = map(list, zip(*rows, strict=True))
    assert score("accuracy", labels, answers) == pytest.approx(accuracy_score(labels, answers))
    assert score("f1_macro", labels, answers) == pytest.approx(f1_score(labels, answers, average="macro"))
    assert score("mcc", labels, answers) == pytest.approx(matthews_corrcoef(labels, answers), abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=20))
def test_f1_is_that_of_the_last_of_two_classes(rows):
    labels, answers = map(list, zip(*rows, strict=True))
    expected = f1_score(labels, answers, zero_division=0)
    assert score("f1", labels, answers, NAMES[:2]) == pytest.approx(expected)


def test_f1_is_measured_of_two_classes_only():
    assert KIND.measured(NAMES[:2]) == ["accuracy", "f1_macro", "f1", "mcc"]
    assert KIND.measured(NAMES[:3]) == ["accuracy", "f1_macro", "mcc"]


def test_one_answer_to_all_correlates_with_nothing():
    assert score("mcc", [0, 1, 2], [1, 1, 1]) == 0
    assert score("mcc", [1, 1, 1], [0, 1, 2]) == 0


def test_no_class_is_a_wrong_answer_to_any():
    for metric in ("accuracy", "f1_macro"):
        assert score(metric, [0, 1, 2], [0, -1, -1]) == pytest.approx(1 / 3)


def test_without_rows_all_scores_are_0():
    assert [score(metric, [], []) for metric in KIND.metrics] == [0, 0, 0, 0]
    assert KIND.per_class([], [], ["a"]) == {"a": {"precision": 0, "recall": 0, "f1": 0, "support": 0}}
    assert KIND.recalls([], [], NAMES) == {}


@settings(deadline=None, max_examples=30)
@given(ROWS)
def test_classes_are_scored_as_scikit_learn_does(rows):
    labels, answers = map(list, zip(*rows, strict=True))
    report = classification_report(
        labels, answers, labels=range(5), target_names=NAMES, output_dict=True, zero_division=0
    )
    found = KIND.per_class(labels, answers, NAMES)
    assert list(found) == NAMES
    for name, scores in found.items():
        expected = {key.replace("f1-score", "f1"): value for key, value in report[name].items()}
        assert scores == pytest.approx(expected)


def test_recalls_are_those_of_the_rows_of_each_class():
    found = KIND.recalls([0, 2, 0], [0, 1, 2], NAMES)
    assert {name: rows.tolist() for name, rows in found.items()} == {
        "a": [[1, 1], [0, 0], [0, 1]],
        "c": [[0, 0], [0, 1], [0, 0]],
    }


def test_labels_are_names_or_numbers_of_names():
    named = CONFIG.model_copy(update={"labels": ["no", "yes"]})
    assert KIND.example(" a\tb ", None, 1, named) == ("a b", None, "yes")
    assert KIND.example("a", " b  c", "no", named) == ("a", "b c", "no")
    assert KIND.label_names({"yes", "no"}, named) == ["no", "yes"]
    assert KIND.label_names({"10", "9", "x"}, CONFIG) == ["x", "9", "10"]


def test_labels_that_cannot_be_are_refused():
    with pytest.raises(DataError, match="column 'label' is empty in some rows"):
        KIND.example("a", None, "", CONFIG)
    with pytest.raises(DataError, match="only one class, 'x', in column 'label'"):
        KIND.label_names({"x"}, CONFIG)


def test_the_loss_is_the_cross_entropy_of_the_rows():
    # ln(1 + e^-2) and ln(1 + e^1): the right class is ahead by 2, and behind by 1.
    loss = KIND.hard_loss(torch.tensor([[2.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]))
    assert float(loss) == pytest.approx((np.log1p(np.exp(-2)) + np.log1p(np.exp(1))) / 2, rel=1e-5)


def test_an_answer_is_the_likeliest_class():
    said = KIND.answers(np.array([[0.0, 3.0], [800.0, -800.0]], np.float32), FEATURES, {})
    assert said.values == [1, 0]
    assert said.confidence == pytest.approx([1 / (1 + np.exp(-3)), 1])


def test_wrong_answers_are_the_next_class_there_is():
    assert KIND.wrong([0, 3, 0, 4], NAMES) == [3, 4, 3, 0]
    assert KIND.wrong([2, 2], NAMES) == [-1, -1]
    assert KIND.trivial([0, 3, 3], NAMES) == [3, 3, 3]
