"""What must hold for every kind of task, whatever it is."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoTokenizer

from tinybert.data import schema
from tinybert.data_config import DEFAULTS, DataConfig
from tinybert.kinds import KINDS, kind_of
from tinybert.metrics import TITLES
from tinybert.rows import TokenTable

CONTEXT = "In Paris Ann met Bob. It rained, and Bob was wet."
RAW = {
    "classification": [("a b", None, "yes"), ("c", None, "no"), ("d", None, "yes"), ("e f", None, "maybe")],
    "multi_label": [("a b", None, "x,y"), ("c", None, []), ("d", None, ["y"]), ("e", None, ["z", "y"])],
    "regression": [("a", "b", 1.5), ("c", "d", "2"), ("e", "f", 4.25), ("g", "h", 0)],
    "token_classification": [
        ("in Paris", None, "O B-LOC"),
        (["Ann", "Lee", "left"], None, ["B-PER", "I-PER", "O"]),
        ("it rained", None, "O O"),
        ("Bob", None, "I-PER"),
    ],
    "question_answering": [
        ("who met Bob?", CONTEXT, {"text": ["Ann"], "answer_start": [9]}),
        ("who was wet?", CONTEXT, {"text": ["Bob", "Bob"], "answer_start": [37, 17]}),
        ("who was dry?", CONTEXT, {"text": [], "answer_start": []}),
        ("where?", CONTEXT, {"text": ["In Paris"], "answer_start": [0]}),
    ],
}
ROWS = 4


class Task:
    """Rows of a kind, prepared."""

    def __init__(self, name):
        self.kind, self.config = KINDS[name], DataConfig(source="package:tinybert/samples.csv", kind=name)
        self.examples = [self.kind.example(*row, self.config) for row in RAW[name]]
        self.names = self.kind.label_names([example.label for example in self.examples], self.config)
        self.labels = [self.kind.number(example.label, self.names) for example in self.examples]

    def answered(self, smoke_material):
        """Features and logits of a tokenizer that cuts words into letters, and chance."""
        tokenizer = AutoTokenizer.from_pretrained(smoke_material / "teacher")
        columns = {"text": [row.text for row in self.examples], "text_pair": [row.pair for row in self.examples]}
        features = TokenTable(columns, tokenizer, 64, self.kind).features
        shape = (int(features.starts[-1]) if self.kind.per_token else len(features.lengths), len(self.names))
        logits = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        return features, logits, self.kind.answers(logits, features, columns)


@pytest.fixture(params=sorted(KINDS))
def task(request):
    return Task(request.param)


def test_the_form_knows_the_kinds_and_their_scores():
    assert KINDS.keys() == DEFAULTS.keys()
    for name, kind in KINDS.items():
        assert kind_of(name) is kind
        assert kind.name == name
        assert tuple(kind.metrics) == DEFAULTS[name].metrics
        assert set(kind.metrics) <= set(TITLES)


def test_examples_are_hashable_and_labels_fit_the_rows_type(task):
    assert len({*task.examples}) == ROWS
    assert pa.array(task.labels, task.kind.label_type).to_pylist() == task.labels
    assert schema(task.kind).field("label").type == task.kind.label_type


def test_the_strata_are_texts(task):
    assert {type(task.kind.stratum(example.label)) for example in task.examples} == {str}


def test_every_class_that_is_counted_can_be_missing(task):
    counts = task.kind.counts(task.labels, task.names)
    assert task.kind.missing(task.labels, task.names) == []
    assert set(task.kind.missing([], task.names)) <= set(counts)
    assert task.kind.counts([], task.names) == dict.fromkeys(counts, 0)
    assert counts == {
        name: one + other
        for (name, one), other in zip(
            task.kind.counts(task.labels[:2], task.names).items(),
            task.kind.counts(task.labels[2:], task.names).values(),
            strict=True,
        )
    }


def test_a_models_config_knows_its_outputs(task):
    options = task.kind.options(task.names)
    assert options["num_labels"] == len(task.names)
    assert options["id2label"] == dict(enumerate(task.names))


def test_right_answers_score_1_and_wrong_ones_less(task):
    right = [answer_of(task, label) for label in task.labels]
    for name in task.kind.measured(task.names):
        metric = task.kind.metrics[name]
        assert metric.score(task.labels, right, task.names) == pytest.approx(1)
        assert metric.score(task.labels, task.kind.wrong(task.labels, task.names), task.names) < 0.7
        assert metric.score(task.labels, task.kind.trivial(task.labels, task.names), task.names) < 0.7


def answer_of(task, label):
    """The right answer to a row: its label, but for questions."""
    if task.kind.name == "question_answering":
        return label[0]["text"] if label else ""
    return label


def test_wrong_answers_are_wrong_in_every_row(task):
    found = task.kind.right(task.labels, task.kind.wrong(task.labels, task.names))
    right = task.kind.right(task.labels, [answer_of(task, label) for label in task.labels])
    assert (found is None) == (right is None)
    if right is not None:
        assert right.tolist() == [True] * ROWS
        assert found.tolist() == [False] * ROWS


def test_answers_fit_their_type(task, smoke_material):
    _, _, said = task.answered(smoke_material)
    for values in (said.values, task.kind.wrong(task.labels, task.names), task.kind.trivial(task.labels, task.names)):
        assert len(values) == ROWS
        assert pa.array(values, task.kind.answer_type).to_pylist() == values
        assert pa.array(task.kind.as_labels(values), task.kind.label_type)
    assert said.confidence.shape == (ROWS,)
    assert ((said.confidence > 0) & (said.confidence <= 1)).all()


def test_answers_taken_as_labels_agree_with_themselves(task, smoke_material):
    _, _, said = task.answered(smoke_material)
    name = next(iter(task.kind.metrics))
    if any(said.values):
        assert task.kind.metrics[name].score(
            task.kind.as_labels(said.values), said.values, task.names
        ) == pytest.approx(1)


def test_scores_follow_from_sums_over_rows(task, smoke_material):
    _, _, said = task.answered(smoke_material)
    for metric in task.kind.metrics.values():
        rows = metric.statistics(task.labels, said.values, task.names)
        assert rows.dtype == np.float64
        assert len(rows) == ROWS
        assert rows.flags.c_contiguous
        whole = metric.score(task.labels, said.values, task.names)
        assert metric.value(np.stack([rows.sum(axis=0)] * 2)).tolist() == pytest.approx([whole] * 2)
        assert metric.value(7 * rows.sum(axis=0)) == pytest.approx(whole)  # seven of each row are as good as one
        empty = metric.statistics([], [], task.names)
        assert empty.shape == (0, rows.shape[1])
        assert metric.score([], [], task.names) == 0


def test_targets_stand_along_features_or_tokens(task, smoke_material):
    features, _, _ = task.answered(smoke_material)
    targets = task.kind.targets(task.labels, features, task.names)
    assert len(targets) == (features.starts[-1] if task.kind.targets_per_token else len(features.lengths))
    assert targets.dtype in (np.int64, np.float32)


def test_losses_have_a_gradient_and_shrink_down_it(task, smoke_material):
    """One feature a batch, so that logits along tokens have no padding."""
    features, logits, _ = task.answered(smoke_material)
    targets = task.kind.targets(task.labels, features, task.names)
    tokens = slice(features.starts[0], features.starts[1])
    own = torch.from_numpy(logits[tokens] if task.kind.per_token else logits[0])[None].requires_grad_()
    label = torch.from_numpy(targets[tokens] if task.kind.targets_per_token else targets[:1])
    batch = {
        "labels": label[None] if task.kind.targets_per_token else label,
        "attention_mask": torch.ones(1, len(own[0])),
    }
    for loss in (
        lambda logits: task.kind.hard_loss(logits, batch["labels"]),
        lambda logits: task.kind.soft_loss(logits, torch.zeros_like(own), batch, 2.0),
    ):
        before = loss(own)
        assert before.shape == ()
        (gradient,) = torch.autograd.grad(before, own)
        assert loss(own - 0.01 * gradient) < before
    assert task.kind.items(batch) >= 1


def test_decisions_are_choices_between_classes(task, smoke_material):
    features, logits, _ = task.answered(smoke_material)
    found = task.kind.decisions(logits, features, task.labels)
    if found is not None:
        choices, right = found
        assert len(choices) == len(right) > 0
        assert 0 <= right.min() <= right.max() < choices.shape[1]


def test_recalls_are_additive_and_those_of_the_classes(task, smoke_material):
    _, _, said = task.answered(smoke_material)
    scores = task.kind.per_class(task.labels, said.values, task.names)
    for name, rows in task.kind.recalls(task.labels, said.values, task.names).items():
        assert rows.shape == (ROWS, 2)
        found, members = rows.sum(axis=0)
        assert members > 0
        assert scores[name]["support"] == members
        assert scores[name]["recall"] == pytest.approx(found / members)


def test_confusion_counts_right_answers_on_its_diagonal(task):
    found = task.kind.confusion(task.labels, [answer_of(task, label) for label in task.labels], task.names)
    if found is not None:
        right, given, names = found
        assert right.tolist() == given.tolist()
        assert right.max() < len(names)


def test_labels_and_answers_can_be_shown(task):
    texts = [task.kind.shown(label, task.names) for label in task.labels]
    answers = [task.kind.shown(answer_of(task, label), task.names) for label in task.labels]
    assert texts == answers
    assert len(set(texts)) == len({str(answer_of(task, label)) for label in task.labels})


def test_what_a_copy_keeps_stands_in_the_texts(task):
    for example, label in zip(task.examples, task.labels, strict=True):
        fixed = task.kind.fixed(example.text, example.pair, label)
        if fixed is None:
            continue
        for text, spans in zip((example.text, example.pair or ""), fixed, strict=True):
            assert all(0 <= start < end <= len(text) for start, end in spans)
        assert task.kind.moved(label, example.pair, []) == label
