"""What the test rows' being a sample does to scores: intervals by bootstrap, and tests between two models' answers.

Rows with the same statistics are interchangeable. So a bootstrap draws how often each distinct row comes (multinomial),
a permutation in how many of its rows the two models change places (binomial): the same distributions as drawing row by
row, at a cost that does not grow with the rows where statistics are counts; of a correlation every row is distinct.
Shapes: N rows, K statistics of a row, U distinct rows, R resamples.
"""

from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from tinybert.errors import DataError
from tinybert.metrics import Floats, Metric

CELLS = 2**22
"""Numbers drawn at once: 32 MB."""
ALIKE = 1e-12
"""Differences this small are rounding."""
BISECTIONS = 60
NUDGE = 1e-4
"""Share of a row by which sums are moved to see the score move."""


def interval(
    metric: Metric, statistics_NK: Floats, confidence: float, resamples: int, seed: int
) -> tuple[float, float]:
    """Bootstrap percentile interval of a score.

    Raises:
        DataError: There are no rows.
    """
    return _percentiles(_bootstrap(statistics_NK, metric.value, resamples, seed), confidence)


def difference_interval(
    metric: Metric, first_NK: Floats, second_NK: Floats, confidence: float, resamples: int, seed: int
) -> tuple[float, float]:
    """Bootstrap percentile interval of the first score minus the second; rows are drawn with both answers.

    Raises:
        DataError: There are no rows.
    """
    both_NK = np.concatenate([first_NK, second_NK], axis=1)
    return _percentiles(_bootstrap(both_NK, _difference(metric), resamples, seed), confidence)


def better_p_value(metric: Metric, first_NK: Floats, second_NK: Floats, resamples: int, seed: int) -> float:
    """One-sided p value of the first model's being no better than the second: the larger of two.

    A paired permutation test is exact where both answer alike: each row's answers could then change places. For
    accuracy it is McNemar's test. p = (1 + permutations with at least this difference) / (1 + permutations), so
    p <= alpha has a chance of alpha at most however few permutations are made. Two models may also score the same F1 in
    different ways, one bold and one shy, and the difference then varies otherwise: the score test of
    `not_worse_p_value`, with a margin of 0, accounts for that.

    Raises:
        DataError: There are no rows.
    """
    rows_UK, counts_U = _distinct(np.concatenate([first_NK, second_NK], axis=1))
    sums_K, swapped_UK = counts_U @ rows_UK, np.roll(rows_UK, first_NK.shape[1], axis=1) - rows_UK
    differ_U = swapped_UK.any(axis=1)
    generator, difference = np.random.default_rng(seed), _difference(metric)
    found, as_large = difference(sums_K), 0
    for size in _chunks(resamples, rows_UK.shape):
        swaps_RU = generator.binomial(counts_U[differ_U], 0.5, size=(size, differ_U.sum()))
        as_large += int((difference(sums_K + swaps_RU @ swapped_UK[differ_U]) >= found - ALIKE).sum())
    exact = (1 + as_large) / (1 + resamples)
    return max(exact, not_worse_p_value(metric, first_NK, second_NK, second_NK, margin=0))


def not_worse_p_value(metric: Metric, first_NK: Floats, second_NK: Floats, wrong_NK: Floats, margin: float) -> float:
    """One-sided p value of the first model's being worse than the second by the margin, or by more.

    Args:
        metric: The score.
        first_NK: Statistics of the first model's answers.
        second_NK: Of the second's, to the same rows.
        wrong_NK: Of wrong answers to these rows: they say what a loss of the size of the margin is made of.
        margin: How much lower the score may be.

    Raises:
        DataError: There are no rows.
    """
    return 1 - NormalDist().cdf(_score(metric, first_NK, second_NK, wrong_NK, margin))


def worse_p_value(metric: Metric, first_NK: Floats, second_NK: Floats, wrong_NK: Floats, margin: float) -> float:
    """One-sided p value of the first model's being worse by the margin at most; as `not_worse_p_value` otherwise."""
    return NormalDist().cdf(_score(metric, first_NK, second_NK, wrong_NK, margin))


def holm(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Which of many tests are significant when one false alarm among them all may have the chance alpha (Holm 1979)."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    found = [False] * len(p_values)
    for rank, number in enumerate(order):
        if p_values[number] > alpha / (len(p_values) - rank):
            break
        found[number] = True
    return found


def _score(metric: Metric, first_NK: Floats, second_NK: Floats, wrong_NK: Floats, margin: float) -> float:
    """Difference plus margin, in standard errors that hold where the first is worse by exactly the margin.

    To first order the difference is a mean over rows of d_i. Its variance comes from the likeliest distribution of d
    among those whose mean is -margin: on the d found, and on losses and gains of the size h, which a few rows may not
    have shown. h is the largest d found, or what a lost row costs on average, rows weighted by their cost. For accuracy
    this is the score test of Tango (1998), for other scores its likeness to first order.
    """
    rows_UK, counts_U = _distinct(np.concatenate([first_NK, second_NK, wrong_NK], axis=1))
    rows = counts_U.sum()
    first_UK, second_UK, wrong_UK = np.split(rows_UK, 3, axis=1)
    first_K, second_K = counts_U @ first_UK, counts_U @ second_UK
    moved_U = _influence(metric, second_K, second_UK)
    lost_U = rows * (moved_U - _influence(metric, second_K, wrong_UK))
    difference = float(metric.value(first_K) - metric.value(second_K))
    found_U = difference + rows * (_influence(metric, first_K, first_UK) - moved_U)
    worth = float(counts_U @ lost_U)
    cost = float(counts_U @ lost_U**2) / worth if worth > ALIKE else 0.0
    variance = _null_variance(found_U, counts_U / rows, max(cost, float(np.abs(found_U).max())), margin)
    if abs(difference + margin) <= ALIKE:
        return 0.0
    return (difference + margin) / float(np.sqrt(max(variance, ALIKE) / rows))


def _null_variance(found_U: Floats, shares_U: Floats, size: float, margin: float) -> float:
    """Of the distribution with the mean -margin that is likeliest, on what was found and on -size and size.

    It gives what was found the weight share / (1 + tilt * (found + margin)) (empirical likelihood, Owen 1988). Where no
    tilt gets the mean there, -size or size, which were perhaps never seen, take the weight that is missing.
    """
    if size <= margin:
        return 0.0  # nothing there is to lose amounts to the margin
    moved_U = found_U + margin
    low, high = -1 / (size + margin), 1 / (size - margin)
    for _ in range(BISECTIONS):
        tilt = (low + high) / 2
        above = float(shares_U @ (moved_U / (1 + tilt * moved_U))) > 0
        low, high = (tilt, high) if above else (low, tilt)
    weights_U = shares_U / (1 + tilt * moved_U)
    missing = max(0.0, 1 - float(weights_U.sum()))
    return float(weights_U @ found_U**2) + missing * size**2 - margin**2


def _influence(metric: Metric, sums_K: Floats, rows_UK: Floats) -> Floats:
    """By how much each row moves the score, to first order."""
    up_U, down_U = (metric.value(sums_K + sign * NUDGE * rows_UK) for sign in (1, -1))
    influence: Floats = (up_U - down_U) / (2 * NUDGE)
    return influence


def _difference(metric: Metric) -> Callable[[Floats], Floats]:
    """The first score minus the second, out of the sums of both."""

    def difference(sums_RK: Floats) -> Floats:
        first_RK, second_RK = np.split(sums_RK, 2, axis=-1)
        return metric.value(first_RK) - metric.value(second_RK)

    return difference


def _bootstrap(rows_NK: Floats, value: Callable[[Floats], Floats], resamples: int, seed: int) -> Floats:
    """Values on rows drawn with replacement."""
    rows_UK, counts_U = _distinct(rows_NK)
    generator, total = np.random.default_rng(seed), counts_U.sum()
    drawn = (generator.multinomial(total, counts_U / total, size=size) for size in _chunks(resamples, rows_UK.shape))
    return np.concatenate([value(draws_RU @ rows_UK) for draws_RU in drawn])


def _distinct(rows_NK: Floats) -> tuple[Floats, NDArray[np.int64]]:
    if not len(rows_NK):
        raise DataError("no rows to resample; name more test rows")
    whole_N = np.ascontiguousarray(rows_NK).view(np.dtype((np.void, rows_NK.dtype.itemsize * rows_NK.shape[1])))
    _, first_U, counts_U = np.unique(whole_N, return_index=True, return_counts=True)  # fifty times faster than axis=0
    return rows_NK[first_U], counts_U


def _chunks(resamples: int, shape: tuple[int, ...]) -> list[int]:
    """How many resamples to draw at once, so that memory stays bounded."""
    size = max(1, CELLS // max(shape))
    return [min(size, resamples - done) for done in range(0, resamples, size)]


def _percentiles(values_R: Floats, confidence: float) -> tuple[float, float]:
    low, high = np.quantile(values_R, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
