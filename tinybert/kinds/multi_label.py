"""Any number of classes a text: each is a yes or no of its own."""

from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tinybert.data_config import DataConfig
from tinybert.errors import DataError
from tinybert.kinds.classification import WholeText
from tinybert.kinds.reading import class_names, label_name, plain_text
from tinybert.kinds.task_kind import Answers, Columns, Example, Features, Label
from tinybert.metrics import Floats, Metric, class_scores, confusions, f1_macro, f1_micro, found_members, hits, share

if TYPE_CHECKING:
    from torch import Tensor


def _held(rows: Sequence[Sequence[int]], names: Sequence[str]) -> NDArray[np.bool_]:
    """Which classes each row has (N, C)."""
    held_NC = np.zeros((len(rows), len(names)), bool)
    for held_C, numbers in zip(held_NC, rows, strict=True):
        held_C[list(numbers)] = True
    return held_NC


def _hits(labels: Sequence[Label], answers: Sequence[Label], names: Sequence[str]) -> Floats:
    """Whether all classes of the row are right, and 1."""
    return hits((_held(labels, names) == _held(answers, names)).all(axis=1))


def _confusions(labels: Sequence[Label], answers: Sequence[Label], names: Sequence[str]) -> Floats:
    return confusions(_held(labels, names), _held(answers, names))


class MultiLabel(WholeText):
    """Single sentences and pairs. A row's label, and an answer, is the rising list of its classes, maybe empty."""

    name = "multi_label"
    metrics = {
        "f1_micro": Metric(_confusions, f1_micro),
        "f1_macro": Metric(_confusions, f1_macro),
        "accuracy": Metric(_hits, share),
    }
    label_type = answer_type = pa.list_(pa.int64())

    def example(self, text: Any, pair: Any, label: Any, config: DataConfig) -> Example:
        """The label is the names of the classes, each once, sorted. An empty column means none."""
        if isinstance(label, str):
            label = [name.strip() for name in label.split(config.label_separator) if name.strip()]
        values = label if isinstance(label, list | tuple) else [] if label is None else [label]
        named = tuple(sorted({label_name(value, config) for value in values}))
        return Example(plain_text(text), None if pair is None else plain_text(pair), named)

    def label_names(self, labels: Collection[Label], config: DataConfig) -> list[str]:
        """As the form lists them, else sorted."""
        names = class_names(set(chain(*labels)), config)
        if len(names) < 2:
            found = f"only the class {names[0]!r}" if names else "no class at all"
            raise DataError(f"{found} in column {config.label_column!r}; kind multi_label needs two or more")
        return names

    def number(self, label: Label, names: Sequence[str]) -> Label:
        """The places of the names, rising."""
        return sorted(names.index(name) for name in label)

    def counts(self, labels: Sequence[Label], names: Sequence[str]) -> dict[str, int]:
        """Rows that have each class."""
        return dict(zip(names, _held(labels, names).sum(axis=0).tolist(), strict=True))

    def missing(self, labels: Sequence[Label], names: Sequence[str]) -> list[str]:
        """All classes where no row has any; that a rare one is missing is no reason to refuse rows."""
        return [] if any(labels) else list(names)

    def options(self, names: Sequence[str]) -> dict[str, Any]:
        """With the problem type, so that pipelines take a sigmoid."""
        return {**super().options(names), "problem_type": "multi_label_classification"}

    def targets(self, labels: Sequence[Label], features: Features, names: Sequence[str]) -> NDArray[Any]:
        """1 for each class a row has, else 0 (F, C)."""
        return _held(labels, names).astype(np.float32)

    def hard_loss(self, logits: "Tensor", targets: "Tensor") -> "Tensor":
        """Binary cross entropy, a sum over classes and a mean over rows.

        A mean over the classes, as transformers has it, would shrink what one class says with the number of the others.
        """
        from torch.nn import functional as F

        return F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none").sum(dim=-1).mean()

    def soft_loss(
        self, student: "Tensor", teacher: "Tensor", batch: "Mapping[str, Tensor]", temperature: float
    ) -> "Tensor":
        """Binary cross entropy under the teacher's probabilities, a sum over classes."""
        from tinybert.losses import binary_soft_cross_entropy

        return binary_soft_cross_entropy(student, teacher, temperature)

    def answers(self, logits: NDArray[np.floating[Any]], features: Features, rows: Columns) -> Answers:
        """The classes whose probability is above one half."""
        logits_NC = np.asarray(logits, np.float64)
        least_N = np.abs(logits_NC).min(axis=1)
        return Answers([np.flatnonzero(row_C > 0).tolist() for row_C in logits_NC], 1 / (1 + np.exp(-least_N)))

    def trivial(self, labels: Sequence[Label], names: Sequence[str]) -> list[Any]:
        """The classes that more than half of the rows have."""
        often = np.flatnonzero(2 * _held(labels, names).sum(axis=0) > len(labels)).tolist()
        return [often] * len(labels)

    def wrong(self, labels: Sequence[Label], names: Sequence[str]) -> list[Any]:
        """The classes that a row does not have."""
        return [np.flatnonzero(~held_C).tolist() for held_C in _held(labels, names)]

    def decisions(
        self, logits: NDArray[np.floating[Any]], features: Features, labels: Sequence[Label]
    ) -> tuple[NDArray[np.floating[Any]], NDArray[np.int64]] | None:
        """A yes or no for each class of each row: a softmax of 0 and the logit is the logit's sigmoid."""
        held_NC = _held(labels, [""] * logits.shape[1])
        return np.stack([np.zeros(logits.size, logits.dtype), logits.ravel()], axis=1), held_NC.ravel().astype(np.int64)

    def recalls(self, labels: Sequence[Label], answers: Sequence[Any], names: Sequence[str]) -> dict[str, Floats]:
        """A row is a member of each of its classes."""
        return found_members(_confusions(labels, answers, names), names)

    def per_class(
        self, labels: Sequence[Label], answers: Sequence[Any], names: Sequence[str]
    ) -> dict[str, dict[str, float]]:
        """As scikit-learn counts; what is divided by no row is 0."""
        return class_scores(_confusions(labels, answers, names), names)

    def shown(self, value: Label, names: Sequence[str]) -> str:
        """The names of the classes."""
        return ", ".join(names[number] for number in value) or "none"
