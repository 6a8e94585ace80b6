"""One class a text, or a pair of texts: two classes or two hundred, however unbalanced."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tinybert.data_config import DataConfig
from tinybert.errors import DataError
from tinybert.kinds.reading import class_names, label_name, plain_text
from tinybert.kinds.task_kind import Answers, Columns, Example, Features, Label, TaskKind
from tinybert.metrics import Floats, Metric, class_scores, confusions, divided, f1_macro, found_members, hits, share

if TYPE_CHECKING:
    from torch import Tensor


def _hits(labels: Sequence[int], answers: Sequence[int], names: Sequence[str]) -> Floats:
    """Whether it is right, and 1."""
    return hits(np.asarray(labels) == np.asarray(answers))


def _confusions(labels: Sequence[int], answers: Sequence[int], names: Sequence[str]) -> Floats:
    return confusions(_one_hot(labels, names), _one_hot(answers, names))


def _positives(labels: Sequence[int], answers: Sequence[int], names: Sequence[str]) -> Floats:
    """Of the last class, the positive one of two: 2 tp, and 2 tp + fp + fn."""
    label_N, answer_N = (np.asarray(numbers) == len(names) - 1 for numbers in (labels, answers))
    both_N = 2.0 * (label_N & answer_N)
    return np.stack([both_N, both_N + (label_N != answer_N)], axis=1)


def _correlations(labels: Sequence[int], answers: Sequence[int], names: Sequence[str]) -> Floats:
    """Whether it is right, 1, and which class it has and was given."""
    return np.concatenate(
        [_hits(labels, answers, names), _one_hot(labels, names), _one_hot(answers, names)], axis=1, dtype=np.float64
    )


def _one_hot(numbers: Sequence[int], names: Sequence[str]) -> NDArray[np.bool_]:
    """`_NC`; a number that is no class, e.g. -1, has none."""
    one_hot_NC: NDArray[np.bool_] = np.asarray(numbers)[:, None] == np.arange(len(names))
    return one_hot_NC


def _mcc(sums_K: Floats) -> Floats:
    """Gorodkin's correlation of several classes (R_K), for two that of Matthews; 0 where one answer is all there is."""
    right, rows = sums_K[..., 0], sums_K[..., 1]
    label_C, answer_C = np.split(sums_K[..., 2:], 2, axis=-1)
    covariance = right * rows - (label_C * answer_C).sum(axis=-1)
    spread = [rows**2 - (counts_C**2).sum(axis=-1) for counts_C in (label_C, answer_C)]
    return divided(covariance, np.sqrt(np.maximum(spread[0] * spread[1], 0)))


class WholeText(TaskKind):
    """A text, or a pair of texts, is answered as a whole, by a head on its first token."""

    pipeline = "text-classification"

    def auto_class(self) -> Any:
        """A sequence classifier."""
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification


class Classification(WholeText):
    """Single sentences and pairs, one label each."""

    name = "classification"
    metrics = {
        "accuracy": Metric(_hits, share),
        "f1_macro": Metric(_confusions, f1_macro),
        "f1": Metric(_positives, share),
        "mcc": Metric(_correlations, _mcc),
    }
    label_type = answer_type = pa.int64()

    def measured(self, names: Sequence[str]) -> list[str]:
        """F1 of the last class only where it is one of two."""
        return [name for name in self.metrics if name != "f1" or len(names) == 2]

    def example(self, text: Any, pair: Any, label: Any, config: DataConfig) -> Example:
        """The label is the name of a class."""
        return Example(plain_text(text), None if pair is None else plain_text(pair), label_name(label, config))

    def label_names(self, labels: Collection[Label], config: DataConfig) -> list[str]:
        """As the form lists them, else sorted."""
        names = class_names(set(labels), config)
        if len(set(labels)) < 2:
            column = config.label_column
            raise DataError(f"only one class, {next(iter(labels))!r}, in column {column!r}; a classifier needs two")
        return names

    def stratum(self, label: Label) -> str:
        """Its class."""
        return str(label)

    def number(self, label: Label, names: Sequence[str]) -> Label:
        """The place of its name."""
        return names.index(label)

    def counts(self, labels: Sequence[Label], names: Sequence[str]) -> dict[str, int]:
        """Rows of each class."""
        found = Counter(labels)
        return {name: found[number] for number, name in enumerate(names)}

    def missing(self, labels: Sequence[Label], names: Sequence[str]) -> list[str]:
        """Classes without a row."""
        return [name for name, count in self.counts(labels, names).items() if not count]

    def options(self, names: Sequence[str]) -> dict[str, Any]:
        """With the problem type, so that pipelines take a softmax."""
        return {**super().options(names), "problem_type": "single_label_classification"}

    def targets(self, labels: Sequence[Label], features: Features, names: Sequence[str]) -> NDArray[Any]:
        """Class numbers (F)."""
        return np.asarray(labels, np.int64)

    def hard_loss(self, logits: "Tensor", targets: "Tensor") -> "Tensor":
        """Cross entropy."""
        from torch.nn import functional as F

        return F.cross_entropy(logits.float(), targets)

    def soft_loss(
        self, student: "Tensor", teacher: "Tensor", batch: "Mapping[str, Tensor]", temperature: float
    ) -> "Tensor":
        """Soft cross entropy (eq. 10 of the paper)."""
        from tinybert.losses import soft_cross_entropy

        return soft_cross_entropy(student, teacher, temperature)

    def answers(self, logits: NDArray[np.floating[Any]], features: Features, rows: Columns) -> Answers:
        """The likeliest class."""
        logits_NC = np.asarray(logits, np.float64)
        sums_N = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True)).sum(axis=1)
        return Answers(logits_NC.argmax(axis=1).tolist(), 1 / sums_N)

    def trivial(self, labels: Sequence[Label], names: Sequence[str]) -> list[Any]:
        """The most frequent class."""
        return [Counter(labels).most_common(1)[0][0]] * len(labels)

    def wrong(self, labels: Sequence[Label], names: Sequence[str]) -> list[Any]:
        """The next class that the rows have; -1, which is none, where they have but one."""
        present, places_N = np.unique(np.asarray(labels), return_inverse=True)
        wrong_N = np.roll(present, -1)[places_N] if len(present) > 1 else np.full(len(labels), -1)
        return [int(number) for number in wrong_N]

    def decisions(
        self, logits: NDArray[np.floating[Any]], features: Features, labels: Sequence[Label]
    ) -> tuple[NDArray[np.floating[Any]], NDArray[np.int64]] | None:
        """One for each row."""
        return logits, np.asarray(labels, np.int64)

    def recalls(self, labels: Sequence[Label], answers: Sequence[Any], names: Sequence[str]) -> dict[str, Floats]:
        """A row is a member of its class."""
        return found_members(_confusions(labels, answers, names), names)

    def per_class(
        self, labels: Sequence[Label], answers: Sequence[Any], names: Sequence[str]
    ) -> dict[str, dict[str, float]]:
        """As scikit-learn counts; what is divided by no row is 0."""
        return class_scores(_confusions(labels, answers, names), names)

    def confusion(
        self, labels: Sequence[Label], answers: Sequence[Any], names: Sequence[str]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]] | None:
        """One choice a row."""
        return np.asarray(labels), np.asarray(answers), list(names)

    def shown(self, value: Label, names: Sequence[str]) -> str:
        """The name of the class."""
        return names[value]
