"""Scores as sums over rows and a formula on the sums, so that a resample of the rows is a matrix product.

Shapes: N rows, C classes, K statistics of a row.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tinybert.errors import ModelError

Floats = NDArray[np.float64]
Classes = NDArray[np.int64]
"""Numbers of classes. -1 is none of them: a wrong answer to every row."""


@dataclass(frozen=True)
class Metric:
    """A score, the higher the better, that follows from sums over rows."""

    statistics: Callable[[Classes, Classes, int], Floats]
    """Of each row: labels `_N`, predicted `_N` and the number of classes give `_NK`."""
    value: Callable[[Floats], Floats]
    """The score out of the statistics' sums: `_..K` gives `_...`."""

    def score(self, labels_N: Classes, predicted_N: Classes, classes: int) -> float:
        """The score on these rows."""
        return float(self.value(self.statistics(labels_N, predicted_N, classes).sum(axis=0)))


def _hits(labels_N: Classes, predicted_N: Classes, classes: int) -> Floats:
    """Whether it is right, and 1."""
    right_N = labels_N == predicted_N
    return np.stack([right_N, np.ones_like(right_N)], axis=1).astype(np.float64)


def _share(sums_K: Floats) -> Floats:
    """Hits per row."""
    share: Floats = sums_K[..., 0] / sums_K[..., 1]
    return share


def _confusions(labels_N: Classes, predicted_N: Classes, classes: int) -> Floats:
    """True positives, false positives and false negatives of each class."""
    label_NC, predicted_NC = (numbers[:, None] == np.arange(classes) for numbers in (labels_N, predicted_N))
    parts = [label_NC & predicted_NC, predicted_NC & ~label_NC, label_NC & ~predicted_NC]
    return np.concatenate(parts, axis=1).astype(np.float64)


def _f1_macro(sums_K: Floats) -> Floats:
    """Mean of 2 tp / (2 tp + fp + fn) over the classes that are some row's label or answer, as scikit-learn has it."""
    true_C, false_C, missed_C = np.split(sums_K, 3, axis=-1)
    all_C = 2 * true_C + false_C + missed_C
    present_C = all_C > 0
    f1_C = np.divide(2 * true_C, all_C, out=np.zeros_like(all_C), where=present_C)
    mean: Floats = f1_C.sum(axis=-1) / present_C.sum(axis=-1)
    return mean


METRICS = {"accuracy": Metric(_hits, _share), "f1_macro": Metric(_confusions, _f1_macro)}
"""By the names the form knows."""


def classification_scores(logits_NC: Tensor, labels: Classes) -> dict[str, float]:
    """Every metric for the class with the highest logit."""
    predicted_N, classes = logits_NC.argmax(dim=1).numpy(), logits_NC.shape[1]
    return {name: metric.score(labels, predicted_N, classes) for name, metric in METRICS.items()}


def answers(logits_NC: NDArray[np.floating], model: str) -> Classes:
    """The class with the highest logit.

    Raises:
        ModelError: A logit is no finite number; the message names the model.
    """
    broken = int((~np.isfinite(logits_NC)).any(axis=1).sum())
    if broken:
        raise ModelError(
            f"{model}: the logits of {broken:,} of {len(logits_NC):,} rows are not finite; export or train it again"
        )
    highest: Classes = logits_NC.argmax(axis=1)
    return highest


def majority_share(labels: Classes) -> float:
    """Accuracy of always naming the most frequent label."""
    return float(np.bincount(labels).max() / len(labels))
