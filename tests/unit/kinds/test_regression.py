"""Numbers: correlations against scipy, the rest by hand."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from tinybert.data_config import DataConfig
from tinybert.errors import DataError
from tinybert.kinds.regression import Regression
from tinybert.kinds.task_kind import Features

KIND = Regression()
NAMES = ["label"]
CONFIG = DataConfig(source="package:tinybert/samples.csv", kind="regression")
FEATURES = Features(np.array([3, 3], np.int32), np.array([0, 1]))
NUMBERS = st.floats(-5, 5).map(lambda number: round(number, 2))
ROWS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=30)


def score(metric, labels, answers):
    return KIND.metrics[metric].score(labels, answers, NAMES)


@settings(deadline=None, max_examples=30)
@given(ROWS)
def test_correlations_are_scipys(rows):
    labels, answers = map(list, zip(*rows, strict=True))
    assume(len(set(labels)) > 1 and len(set(answers)) > 1)
    assert score("pearson", labels, answers) == pytest.approx(stats.pearsonr(labels, answers)[0], abs=1e-8)
    assert score("spearman", labels, answers) == pytest.approx(stats.spearmanr(labels, answers)[0], abs=1e-8)


def test_correlations_far_from_0_are_not_drowned():
    generator = np.random.default_rng(0)
    labels = 1e6 + generator.random(200)
    answers = labels + generator.random(200)
    assert score("pearson", labels, answers) == pytest.approx(stats.pearsonr(labels, answers)[0], abs=1e-6)


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
@pytest.mark.parametrize("constant", [0.0, 0.1, 3.3, -1e4])
def test_the_same_answer_to_all_correlates_with_nothing(metric, constant):
    labels = [0.1, 0.2, 0.7, 3.1, 2.9]
    assert score(metric, labels, [constant] * 5) == 0
    assert score(metric, [constant] * 5, labels) == 0
    assert score(metric, labels, KIND.trivial(labels, NAMES)) == 0


def test_without_rows_all_scores_are_0():
    assert [score(metric, [], []) for metric in KIND.metrics] == [0, 0]
    assert KIND.trivial([], NAMES) == KIND.wrong([], NAMES) == []


def test_worse_than_nothing_is_below_0():
    assert score("pearson", [1, 2, 3], [3, 2, 1]) == pytest.approx(-1)


@pytest.mark.parametrize(("value", "expected"), [(3, 3.0), (2.5, 2.5), (" 4.0 ", 4.0), ("-1e2", -100.0)])
def test_labels_are_numbers(value, expected):
    assert KIND.example(" a  b", "c ", value, CONFIG) == ("a b", "c", expected)


@pytest.mark.parametrize("value", ["nan", float("inf"), float("nan"), "", None, "many", [1.0]])
def test_labels_that_are_no_numbers_are_refused(value):
    with pytest.raises(DataError, match=r"column 'label' holds .*; kind regression needs a number in every row"):
        KIND.example("a", None, value, CONFIG)


def test_the_output_has_the_name_of_the_column():
    assert KIND.label_names({1.0, 2.0}, CONFIG) == ["label"]
    assert KIND.label_names({1.0, 2.0}, CONFIG.model_copy(update={"label": "score|similarity"})) == ["score"]
    with pytest.raises(DataError, match=r"column 'label' holds 1.0 in every row; there is nothing to predict"):
        KIND.label_names([1.0, 1.0], CONFIG)
    assert KIND.options(NAMES)["problem_type"] == "regression"
    assert KIND.options(NAMES)["num_labels"] == 1


def test_the_losses_are_squared_distances():
    targets = KIND.targets([1.0, 4.5], FEATURES, NAMES)
    assert targets.dtype == np.float32
    logits = torch.tensor([[2.0], [3.0]])
    assert float(KIND.hard_loss(logits, torch.from_numpy(targets))) == pytest.approx((1 + 2.25) / 2)
    assert float(KIND.soft_loss(logits, torch.tensor([[2.0], [1.0]]), {}, 4.0)) == pytest.approx(2)  # whatever t is


def test_answers_are_the_outputs():
    said = KIND.answers(np.array([[2.5], [-1.0]], np.float32), FEATURES, {})
    assert said.values == [2.5, -1.0]
    assert said.confidence.tolist() == [1, 1]


def test_wrong_answers_say_nothing_of_the_row():
    assert KIND.wrong([0, 1, 4, 5], NAMES) == [2.5] * 4
    assert KIND.right([1.0], [1.0]) is None


@pytest.mark.parametrize(
    ("value", "text"), [(3.14159, "3.142"), (0.5, "0.5"), (12.0, "12"), (0.000123456, "0.0001235")]
)
def test_shown(value, text):
    assert KIND.shown(value, NAMES) == text
