"""Scores as sums over rows and a formula on the sums, so that a resample of the rows is a matrix product.

Shapes: N rows, C classes, K statistics of a row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinybert.errors import ModelError

Floats = NDArray[np.float64]

TITLES = {
    "accuracy": "accuracy",
    "f1_macro": "macro F1",
    "f1": "F1",
    "mcc": "Matthews correlation",
    "f1_micro": "micro F1",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "entity_f1": "entity F1",
    "answer_f1": "answer F1",
    "exact_match": "exact match",
}
"""What people call the scores."""


@dataclass(frozen=True)
class Metric:
    """A score, the higher the better, that follows from sums over rows."""

    statistics: Callable[[Sequence[Any], Sequence[Any], Sequence[str]], Floats]
    """Of each row: labels, answers and the names of the classes give `_NK`."""
    value: Callable[[Floats], Floats]
    """The score out of the statistics' sums: `_..K` gives `_...`."""

    def score(self, labels: Sequence[Any], answers: Sequence[Any], names: Sequence[str]) -> float:
        """The score on these rows."""
        return float(self.value(self.statistics(labels, answers, names).sum(axis=0)))


def hits(right_N: NDArray[np.bool_]) -> Floats:
    """Statistics of a share of rows: whether each is right, and 1."""
    return np.stack([right_N, np.ones_like(right_N)], axis=1).astype(np.float64)


def confusions(label_NC: NDArray[np.bool_], answer_NC: NDArray[np.bool_]) -> Floats:
    """True positives of all classes, then false positives, then false negatives `_N3C`, of rows that have classes."""
    parts = [label_NC & answer_NC, answer_NC & ~label_NC, label_NC & ~answer_NC]
    return np.concatenate(parts, axis=1).astype(np.float64)


def share(sums_K: Floats) -> Floats:
    """The first sum over the second, 0 where that is 0."""
    return divided(sums_K[..., 0], sums_K[..., 1])


def f1_macro(sums_K: Floats) -> Floats:
    """Mean of 2 tp / (2 tp + fp + fn) over the classes that are some row's label or answer, as scikit-learn has it.

    The sums are those of `confusions`.
    """
    true_C, false_C, missed_C = np.split(sums_K, 3, axis=-1)
    all_C = 2 * true_C + false_C + missed_C
    return divided(divided(2 * true_C, all_C).sum(axis=-1), (all_C > 0).sum(axis=-1))


def f1_micro(sums_K: Floats) -> Floats:
    """2 tp / (2 tp + fp + fn) of all classes together; the sums are those of `confusions`."""
    true, false, missed = (part_C.sum(axis=-1) for part_C in np.split(sums_K, 3, axis=-1))
    return divided(2 * true, 2 * true + false + missed)


def class_scores(rows_NK: Floats, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and support of each class, out of rows of `confusions`."""
    true_C, false_C, missed_C = np.split(rows_NK.sum(axis=0), 3)
    scores = {
        "precision": divided(true_C, true_C + false_C),
        "recall": divided(true_C, true_C + missed_C),
        "f1": divided(2 * true_C, 2 * true_C + false_C + missed_C),
        "support": true_C + missed_C,
    }
    return {name: {key: float(of_C[place]) for key, of_C in scores.items()} for place, name in enumerate(names)}


def found_members(rows_NK: Floats, names: Sequence[str]) -> dict[str, Floats]:
    """Of each class that there is, how many of its members each row found, and how many it has (N, 2).

    The rows are those of `confusions`.
    """
    true_NC, _, missed_NC = np.split(rows_NK, 3, axis=1)
    found_NC2 = np.stack([true_NC, true_NC + missed_NC], axis=2)
    return {name: found_NC2[:, place] for place, name in enumerate(names) if found_NC2[:, place, 1].any()}


def divided(one: Floats, other: Floats) -> Floats:
    """One over the other; 0 where the other is 0."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    quotient: Floats = np.divide(one, other, out=np.zeros(np.broadcast(one, other).shape), where=other != 0)
    return quotient


def check_finite(logits: NDArray[np.floating[Any]], model: str) -> None:
    """Refuse logits, (N, C) or (T, C), that are no finite numbers.

    Raises:
        ModelError: Some are not; the message names the model.
    """
    broken = int((~np.isfinite(logits)).any(axis=1).sum())
    if broken:
        raise ModelError(f"{model}: {broken:,} of {len(logits):,} logits are not finite; export or train it again")
