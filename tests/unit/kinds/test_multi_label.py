"""Any number of classes a row: scores against scikit-learn, the rest by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, classification_report, f1_score
from sklearn.preprocessing import MultiLabelBinarizer

from tinybert.data_config import DataConfig
from tinybert.errors import DataError
from tinybert.kinds.multi_label import MultiLabel
from tinybert.kinds.task_kind import Features

KIND = MultiLabel()
NAMES = ["anger", "fear", "joy", "love"]
CONFIG = DataConfig(source="package:tinybert/samples.csv", kind="multi_label")
FEATURES = Features(np.array([3, 3], np.int32), np.array([0, 1]))
CLASSES = st.sets(st.integers(0, 3)).map(sorted)
ROWS = st.lists(st.tuples(CLASSES, CLASSES), min_size=1, max_size=12)


def binary(rows):
    return MultiLabelBinarizer(classes=range(4)).fit_transform(rows)


def score(metric, labels, answers):
    return KIND.metrics[metric].score(labels, answers, NAMES)


@settings(deadline=None, max_examples=30)
@given(ROWS)
def test_scores_are_those_of_scikit_learn(rows):
    labels, answers = zip(*rows, strict=True)
    pair = binary(labels), binary(answers)
    assert score("accuracy", labels, answers) == pytest.approx(accuracy_score(*pair))
    assert score("f1_micro", labels, answers) == pytest.approx(f1_score(*pair, average="micro", zero_division=0))
    there = np.flatnonzero(pair[0].any(axis=0) | pair[1].any(axis=0))  # a class nobody spoke of is not scored
    expected = f1_score(*pair, labels=there, average="macro", zero_division=0) if len(there) else 0
    assert score("f1_macro", labels, answers) == pytest.approx(expected)


def test_scores_by_hand():
    # Found: joy. Invented: love. Missed: anger. Of three rows the second is right.
    labels, answers = [[0, 2], [], [1]], [[2, 3], [], [1]]
    assert score("f1_micro", labels, answers) == pytest.approx(4 / 6)
    assert score("f1_macro", labels, answers) == pytest.approx((0 + 1 + 1 + 0) / 4)
    assert score("accuracy", labels, answers) == pytest.approx(2 / 3)


@settings(deadline=None, max_examples=30)
@given(ROWS)
def test_classes_are_scored_as_scikit_learn_does(rows):
    labels, answers = zip(*rows, strict=True)
    report = classification_report(
        binary(labels), binary(answers), target_names=NAMES, output_dict=True, zero_division=0
    )
    for name, scores in KIND.per_class(labels, answers, NAMES).items():
        assert scores == pytest.approx({key.replace("f1-score", "f1"): value for key, value in report[name].items()})


def test_recalls_are_those_of_the_rows_that_have_a_class():
    found = KIND.recalls([[0, 2], [2], []], [[2], [0, 3], [1]], NAMES)
    assert {name: rows.tolist() for name, rows in found.items()} == {
        "anger": [[0, 1], [0, 0], [0, 0]],
        "joy": [[1, 1], [0, 1], [0, 0]],
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("joy, anger", ("anger", "joy")),
        (["joy", "anger", "joy"], ("anger", "joy")),
        (("joy",), ("joy",)),
        ("joy,,", ("joy",)),
        ([2, 0], ("anger", "joy")),
        ("2,0", ("anger", "joy")),
        (2, ("joy",)),
        (0, ("anger",)),
        ("", ()),
        (" ", ()),
        ([], ()),
        (None, ()),
    ],
)
def test_labels_are_lists_or_texts_of_names_or_numbers(value, expected):
    named = CONFIG.model_copy(update={"labels": NAMES})
    example = KIND.example(" a  b", None, value, named)
    assert example == ("a b", None, expected)
    assert hash(example) == hash(("a b", None, expected))


def test_another_separator():
    config = CONFIG.model_copy(update={"label_separator": "|"})
    assert KIND.example("a", "b", "x, y|z", config) == ("a", "b", ("x, y", "z"))


def test_names_are_those_of_all_rows():
    assert KIND.label_names([("joy",), (), ("anger", "joy")], CONFIG) == ["anger", "joy"]
    assert KIND.label_names([("joy",)], CONFIG.model_copy(update={"labels": NAMES})) == NAMES
    assert KIND.number(("love", "anger"), NAMES) == [0, 3]


def test_labels_that_cannot_be_are_refused():
    with pytest.raises(DataError, match=r"only the class 'joy' in column 'labels'; kind multi_label needs two or more"):
        KIND.label_names([("joy",), ()], CONFIG)
    with pytest.raises(DataError, match="no class at all in column 'labels'"):
        KIND.label_names([()], CONFIG)
    with pytest.raises(DataError, match=r"holds 'hate'; data.labels allows anger, fear, joy, love"):
        KIND.label_names([("hate",)], CONFIG.model_copy(update={"labels": NAMES}))
    with pytest.raises(DataError, match=r"holds 4, but data.labels names only 4 classes"):
        KIND.example("a", None, [4], CONFIG.model_copy(update={"labels": NAMES}))


def test_a_split_without_any_class_is_of_no_use_and_a_rare_class_may_be_missing():
    assert KIND.missing([[], []], NAMES) == NAMES
    assert KIND.missing([[], [2]], NAMES) == []
    assert KIND.counts([[0, 2], [2], []], NAMES) == {"anger": 1, "fear": 0, "joy": 2, "love": 0}


def test_the_loss_sums_classes_and_averages_rows():
    logits, targets = torch.tensor([[2.0, 0.0], [-1.0, 3.0]]), KIND.targets([[0], [0, 1]], FEATURES, NAMES[:2])
    assert targets.dtype == np.float32
    assert targets.tolist() == [[1, 0], [1, 1]]
    rows = np.log1p(np.exp([-2, 0])).sum(), np.log1p(np.exp([1, -3])).sum()
    assert float(KIND.hard_loss(logits, torch.from_numpy(targets))) == pytest.approx(np.mean(rows), rel=1e-5)


def test_what_a_class_says_does_not_shrink_with_the_number_of_the_others():
    logits = torch.zeros(1, 50, requires_grad=True)
    KIND.hard_loss(logits, torch.ones(1, 50)).backward()
    assert logits.grad.flatten().tolist() == pytest.approx([-0.5] * 50)


def test_the_soft_loss_is_least_where_the_student_says_the_same():
    teacher = torch.tensor([[2.0, -1.0, 0.5]])
    student = teacher.clone().requires_grad_()
    KIND.soft_loss(student, teacher, {}, 2.0).backward()
    assert student.grad.abs().max() < 1e-6


def test_answers_are_the_classes_above_one_half():
    logits = np.array([[0.1, -0.1, 5, -5], [-2000, -3, -4, -5]], np.float32)
    said = KIND.answers(logits, FEATURES, {})
    assert said.values == [[0, 2], []]
    assert said.confidence == pytest.approx([1 / (1 + np.exp(-0.1)), 1 / (1 + np.exp(-3))])


def test_the_trivial_answer_has_what_most_rows_have():
    assert KIND.trivial([[0, 2], [2], [0, 1]], NAMES) == [[0, 2]] * 3
    assert KIND.trivial([[0, 2], [1]], NAMES) == [[], []]  # half is not most


def test_wrong_answers_are_wrong_about_every_class():
    labels = [[0, 2], [], [0, 1, 2, 3]]
    assert KIND.wrong(labels, NAMES) == [[1, 3], [0, 1, 2, 3], []]
    assert score("f1_micro", labels, KIND.wrong(labels, NAMES)) == 0


def test_decisions_are_as_sure_as_a_sigmoid():
    logits, targets = KIND.decisions(np.array([[1.5, -2.0], [0.5, 3.0]]), FEATURES, [[0], [1]])
    assert targets.tolist() == [1, 0, 0, 1]
    yes = torch.from_numpy(logits).softmax(dim=1)[:, 1]
    assert torch.allclose(yes, torch.tensor([1.5, -2.0, 0.5, 3.0], dtype=torch.float64).sigmoid())


def test_shown():
    assert KIND.shown([0, 3], NAMES) == "anger, love"
    assert KIND.shown([], NAMES) == "none"
