"""A number a text, or a pair of texts: how alike, how severe, how many stars."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tinybert.data_config import DataConfig
from tinybert.errors import DataError
from tinybert.kinds.classification import WholeText
from tinybert.kinds.reading import plain_text
from tinybert.kinds.task_kind import Answers, Columns, Example, Features, Label
from tinybert.metrics import Floats, Metric, divided

if TYPE_CHECKING:
    from torch import Tensor

CONSTANT = 1e-12
"""Of the mean square: numbers that vary by no more differ by rounding."""


def _moments(labels: Sequence[float] | Floats, answers: Sequence[float] | Floats, names: Sequence[str]) -> Floats:
    """x, y, xx, yy, xy and 1, both less the labels' mean: far from 0, the sums of squares would drown what varies."""
    label_N, answer_N = np.asarray(labels, np.float64), np.asarray(answers, np.float64)
    centre = _mean(labels)
    x_N, y_N = label_N - centre, answer_N - centre
    return np.stack([x_N, y_N, x_N**2, y_N**2, x_N * y_N, np.ones_like(x_N)], axis=1)


def _rank_moments(labels: Sequence[float], answers: Sequence[float], names: Sequence[str]) -> Floats:
    """The same of ranks from 0 to 1 among these rows, equals sharing theirs.

    A resample keeps the ranks of all rows instead of ranking anew, which is what makes it a sum.
    """
    return _moments(_ranks(labels), _ranks(answers), names)


def _ranks(numbers: Sequence[float]) -> Floats:
    _, places_N, counts_U = np.unique(np.asarray(numbers, np.float64), return_inverse=True, return_counts=True)
    ranks_U = (np.cumsum(counts_U) - (counts_U - 1) / 2) / max(1, len(places_N))
    ranks_N: Floats = ranks_U[places_N]
    return ranks_N


def _correlation(sums_K: Floats) -> Floats:
    """Pearson's, out of the sums of `_moments`; 0 where labels or answers are all the same."""
    x, y, xx, yy, xy = np.moveaxis(divided(sums_K[..., :5], sums_K[..., 5:]), -1, 0)
    spread_x, spread_y = (
        np.where(square - mean**2 > CONSTANT * square, square - mean**2, 0) for mean, square in ((x, xx), (y, yy))
    )
    return divided(xy - x * y, np.sqrt(spread_x * spread_y))


def _mean(labels: Sequence[float] | Floats) -> float:
    return float(np.mean(labels)) if len(labels) else 0.0


class Regression(WholeText):
    """Single sentences and pairs. A row's label, and an answer, is a number on the data's own scale."""

    name = "regression"
    metrics = {"pearson": Metric(_moments, _correlation), "spearman": Metric(_rank_moments, _correlation)}
    label_type = answer_type = pa.float64()

    def example(self, text: Any, pair: Any, label: Any, config: DataConfig) -> Example:
        """The label is a number, which may be written as text."""
        try:
            number = float(label)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise DataError(
                f"column {config.label_column!r} holds {label!r}; kind regression needs a number in every row"
            )
        return Example(plain_text(text), None if pair is None else plain_text(pair), number)

    def label_names(self, labels: Collection[Label], config: DataConfig) -> list[str]:
        """The label's column; "score" where there is a choice of columns."""
        column = config.label_column
        if len(set(labels)) < 2:
            raise DataError(f"column {column!r} holds {next(iter(labels))} in every row; there is nothing to predict")
        return ["score" if "|" in column else column]

    def number(self, label: Label, names: Sequence[str]) -> Label:
        """Itself."""
        return label

    def options(self, names: Sequence[str]) -> dict[str, Any]:
        """With the problem type, so that pipelines give the number as it is."""
        return {**super().options(names), "problem_type": "regression"}

    def targets(self, labels: Sequence[Label], features: Features, names: Sequence[str]) -> NDArray[Any]:
        """The numbers (F)."""
        return np.asarray(labels, np.float32)

    def hard_loss(self, logits: "Tensor", targets: "Tensor") -> "Tensor":
        """Squared distance."""
        from tinybert.losses import regression_loss

        return regression_loss(logits, targets[:, None])

    def soft_loss(
        self, student: "Tensor", teacher: "Tensor", batch: "Mapping[str, Tensor]", temperature: float
    ) -> "Tensor":
        """Squared distance to the teacher's number; a temperature has nothing to soften."""
        from tinybert.losses import regression_loss

        return regression_loss(student, teacher)

    def answers(self, logits: NDArray[np.floating[Any]], features: Features, rows: Columns) -> Answers:
        """The output itself. It comes without a probability, so each has confidence 1."""
        return Answers(np.asarray(logits, np.float64)[:, 0].tolist(), np.ones(len(logits)))

    def trivial(self, labels: Sequence[Label], names: Sequence[str]) -> list[Any]:
        """The mean, which correlates with nothing."""
        return [_mean(labels)] * len(labels)

    def wrong(self, labels: Sequence[Label], names: Sequence[str]) -> list[Any]:
        """The mean, which says nothing of the row; far ends would make a lost row dearer than any model's mistakes."""
        return self.trivial(labels, names)

    def right(self, labels: Sequence[Label], answers: Sequence[Any]) -> NDArray[np.bool_] | None:
        """A number is nearer or farther, not right or wrong."""
        return None

    def shown(self, value: Label, names: Sequence[str]) -> str:
        """Four significant digits."""
        return f"{value:.4g}"
