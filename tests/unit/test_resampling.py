"""Intervals and tests against scipy, closed forms, slow implementations, and simulated or counted error rates."""

import itertools

import numpy as np
import pytest
from scipy import stats

from tinybert import resampling
from tinybert.errors import DataError
from tinybert.kinds import KINDS
from tinybert.metrics import Metric
from tinybert.resampling import (
    better_p_value,
    difference_interval,
    holm,
    interval,
    not_worse_p_value,
    worse_p_value,
)

ACCURACY, F1 = (KINDS["classification"].metrics[name] for name in ("accuracy", "f1_macro"))
MEAN = Metric(lambda labels, answers, names: np.stack([labels, np.ones(len(labels))], axis=1), ACCURACY.value)


def hits(rows, lost=0, won=0):
    """Statistics of two models that differ on these rows, and of wrong answers; half of the rest is right."""
    second = np.arange(rows) % 2 == 0
    second[: lost + won] = np.arange(lost + won) < lost
    first = second.copy()
    first[: lost + won] ^= True
    return tuple(np.stack([right, np.ones(rows)], axis=1) for right in (first, second, np.zeros(rows)))


def three_classes(rows=300, seed=0):
    """Labels, and answers of two models."""
    generator = np.random.default_rng(seed)
    labels = generator.choice(3, rows, p=[0.6, 0.3, 0.1])
    answers = [np.where(generator.random(rows) < right, labels, generator.integers(0, 3, rows)) for right in (0.8, 0.7)]
    return labels, *answers


def tango(lost, won, rows, margin):
    """The score of Tango (1998): maximum likelihood at the margin in closed form."""
    same = rows - lost - won
    a, b, c = 2 * rows, 2 * won * margin - (won + lost) * (1 - margin) + 2 * same * margin, -won * margin * (1 - margin)
    share = (-b + np.sqrt(b * b - 4 * a * c)) / (2 * a)
    return ((won - lost) / rows + margin) / np.sqrt((2 * share + margin - margin**2) / rows)


def test_the_interval_is_scipys():
    labels, predicted, _ = three_classes()
    statistics = F1.statistics(labels, predicted, "abc")
    expected = stats.bootstrap(
        (np.arange(300),),
        lambda rows, axis: F1.value(statistics[rows].sum(axis=axis - 1 if axis < 0 else axis)),
        method="percentile",
        n_resamples=4000,
        confidence_level=0.9,
        vectorized=True,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert interval(F1, statistics, 0.9, 4000, 0) == pytest.approx(tuple(expected), abs=0.005)


def test_the_interval_of_an_accuracy_is_binomial():
    (statistics, *_) = hits(400)
    expected = stats.binom.ppf([0.025, 0.975], 400, 0.5) / 400
    assert interval(ACCURACY, statistics, 0.95, 20_000, 0) == pytest.approx(tuple(expected), abs=0.003)


def test_rows_that_are_all_distinct_are_resampled_too(monkeypatch):
    values = np.random.default_rng(0).normal(size=200)
    statistics = MEAN.statistics(values, [], [])
    expected = stats.norm.interval(0.9, values.mean(), values.std() / 200**0.5)
    found = interval(MEAN, statistics, 0.9, 4000, 0)
    assert found == pytest.approx(expected, abs=0.01)
    monkeypatch.setattr(resampling, "CELLS", 1000)  # chunks are about memory only
    assert interval(MEAN, statistics, 0.9, 4000, 0) == pytest.approx(found, rel=1e-9)


def test_the_interval_of_a_difference_is_paired():
    first, second, _ = hits(1000, lost=30, won=60)
    low, high = difference_interval(ACCURACY, first, second, 0.95, 20_000, 0)
    deviation = (0.09 - 0.03**2) ** 0.5 / 1000**0.5
    assert (low, high) == pytest.approx((0.03 - 1.96 * deviation, 0.03 + 1.96 * deviation), abs=0.001)
    assert difference_interval(ACCURACY, first, first, 0.95, 100, 0) == (0, 0)


@pytest.mark.parametrize(("lost", "won"), [(5, 15), (40, 61), (0, 4), (10, 10), (12, 3)])
def test_better_is_mcnemars_exact_test(lost, won):
    first, second, _ = hits(500, lost, won)
    expected = stats.binomtest(won, won + lost, 0.5, alternative="greater").pvalue
    assert better_p_value(ACCURACY, first, second, 40_000, 0) == pytest.approx(expected, abs=0.008)


def test_a_permutation_changes_row_by_row():
    labels, one, two = three_classes(12, seed=3)
    pair = [F1.statistics(labels, predicted, "abc") for predicted in (one, two)]
    differences = []
    for swaps in itertools.product([False, True], repeat=12):
        kept, changed = (np.where(np.array(swaps)[:, None], a, b) for a, b in (pair[::-1], pair))
        differences.append(float(F1.value(kept.sum(axis=0)) - F1.value(changed.sum(axis=0))))
    exact = np.mean(np.array(differences) >= differences[0] - 1e-12)
    assert exact > not_worse_p_value(F1, *pair, pair[1], 0)  # or the larger of the two would be another
    assert better_p_value(F1, *pair, 40_000, 0) == pytest.approx(exact, abs=0.008)


def test_models_that_never_differ_are_not_better():
    first, second, _ = hits(500)
    assert better_p_value(ACCURACY, first, second, 100, 0) == 1
    assert better_p_value(F1, *(F1.statistics(*[np.zeros(5, int)] * 2, "ab"),) * 2, 100, 0) == 1


def test_a_p_value_is_never_0():
    first, second, _ = hits(500, won=400)
    assert better_p_value(ACCURACY, first, second, 99, 0) == 0.01


@pytest.mark.parametrize("margin", [0.01, 0.05])
@pytest.mark.parametrize(("lost", "won"), [(0, 0), (3, 0), (0, 4), (7, 4), (30, 2), (50, 50)])
def test_not_worse_is_tangos_test(lost, won, margin):
    triple = hits(200, lost, won)
    expected = stats.norm.sf(tango(lost, won, 200, margin))
    assert not_worse_p_value(ACCURACY, *triple, margin) == pytest.approx(expected, abs=1e-6)
    assert worse_p_value(ACCURACY, *triple, margin) == pytest.approx(1 - expected, abs=1e-6)


def test_without_a_margin_it_is_mcnemars_asymptotic_test():
    triple = hits(200, lost=9, won=16)
    assert not_worse_p_value(ACCURACY, *triple, 0) == pytest.approx(stats.norm.sf(7 / 25**0.5))
    assert not_worse_p_value(ACCURACY, *hits(200), 0) == 0.5


def test_few_rows_that_agree_show_little():
    # Of 20 rows a model that loses 5 points answers all like the other with a chance of 0.36.
    assert not_worse_p_value(ACCURACY, *hits(20), 0.05) == pytest.approx(0.15, abs=0.01)
    assert not_worse_p_value(ACCURACY, *hits(200), 0.05) == pytest.approx(0.0006, abs=0.0001)


@pytest.mark.parametrize("rows", [100, 200, 2000])
@pytest.mark.parametrize("margin", [0.01, 0.02, 0.05])
def test_not_worse_errs_as_often_as_alpha_says(rows, margin):
    # At the boundary, counted exactly over all tables but for a tail of 1e-6; won is the share of rows gained.
    # That Tango's test is ours, another test shows.
    for won in (0.0, 0.01, 0.05):
        tail = [stats.binom.ppf(1 - 1e-6, rows, share).astype(int) for share in (won + margin, won)]
        lost_, won_ = np.meshgrid(*(np.arange(end + 1) for end in tail), indexing="ij")
        chance = stats.multinomial.pmf(
            np.stack([lost_, won_, rows - lost_ - won_], axis=-1), rows, [won + margin, won, 1 - 2 * won - margin]
        )
        rejected = tango(lost_, won_, rows, margin) >= stats.norm.ppf(0.95)
        assert chance[rejected].sum() <= 0.056


def draw(generator, share, rows, first, second):
    """Labels and answers of two models with these recalls of class 0 and class 1; most noise is common to both."""
    labels = (generator.random(rows) < share).astype(int)
    common = generator.random(rows)

    def answer(recalls):
        noise = np.where(generator.random(rows) < 0.3, generator.random(rows), common)
        return np.where(noise < np.where(labels == 1, recalls[1], recalls[0]), labels, 1 - labels)

    return labels, answer(first), answer(second)


def f1_of(share, recalls):
    hit, miss = recalls * np.array([1 - share, share]), (1 - recalls) * np.array([1 - share, share])
    return float(F1.value(np.concatenate([hit, miss[::-1], miss])))


def recall_for(share, recall, wanted):
    """Of class 1, so that the macro F1 is as wanted."""
    grid = np.linspace(0, 1, 20_001)
    return grid[np.argmin([abs(f1_of(share, np.array([recall, other])) - wanted) for other in grid])]


@pytest.mark.parametrize(("share", "rows"), [(0.5, 1000), (0.1, 600)])
def test_an_f1_that_is_worse_by_the_margin_seldom_passes(share, rows):
    generator, second = np.random.default_rng(0), np.array([0.95, 0.8])
    first = np.array([0.95, recall_for(share, 0.95, f1_of(share, second) - 0.02)])
    passed = 0
    for _ in range(200):
        labels, *answers = draw(generator, share, rows, first, second)
        triple = [F1.statistics(labels, predicted, "ab") for predicted in (*answers, 1 - labels)]
        passed += not_worse_p_value(F1, *triple, 0.02) <= 0.05
    assert 2 <= passed <= stats.binom.ppf(0.999, 200, 0.05)


def test_the_f1_of_a_shy_and_a_bold_model_differs_by_chance_more_than_permutations_show(monkeypatch):
    # Equals in macro F1. With the permutations alone, 7% of such shy models were promoted at alpha 0.05.
    generator, bold, shy = np.random.default_rng(1), np.array([0.94, 0.773]), np.array([0.97, 0.5])
    labels, *answers = draw(generator, 0.03, 2000, shy, bold)
    pair = [F1.statistics(labels, predicted, "ab") for predicted in answers]
    found, score = better_p_value(F1, *pair, 10_000, 0), not_worse_p_value(F1, *pair, pair[1], 0)
    monkeypatch.setattr(resampling, "not_worse_p_value", lambda *_, **__: 0.0)
    assert better_p_value(F1, *pair, 10_000, 0) < found == score


# Scores of other kinds ------------------------------------------------------------------------------------------------

TAGS = ["O", "B-LOC", "B-PER", "I-LOC", "I-PER"]
ENTITIES = ["BO", "OLl", "OOO", "OBbO", "LOB", "LOBb", "O"]


def tagged(rows, seed, *qualities):
    """Labels of sentences, and answers of models that know so much of them: they overlook entities and invent some."""
    generator = np.random.default_rng(seed)
    labels = [["OLBlb".index(tag) for tag in ENTITIES[number]] for number in generator.integers(0, 7, rows)]

    def answer(label, quality):
        return [tag if generator.random() < quality else int(generator.choice([0, 2])) for tag in label]

    return labels, *([answer(label, quality) for label in labels] for quality in qualities)


def scattered(rows, seed, *noises):
    """Numbers, and answers of models with so much noise."""
    generator = np.random.default_rng(seed)
    labels = generator.normal(3, 1, rows)
    return labels, *(labels + generator.normal(0, noise, rows) for noise in noises)


OTHERS = {
    "entity_f1": (KINDS["token_classification"], TAGS, tagged, (0.8, 0.8)),
    "pearson": (KINDS["regression"], ["label"], scattered, (0.6, 0.6)),
    "spearman": (KINDS["regression"], ["label"], scattered, (0.6, 0.6)),
    "f1_micro": (
        KINDS["multi_label"],
        TAGS,
        lambda *args: ([sorted({*row}) for row in rows] for rows in tagged(*args)),
        (0.8, 0.8),
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_intervals_are_those_of_drawing_rows(name):
    kind, names, rows, qualities = OTHERS[name]
    metric = kind.metrics[name]
    labels, answers = rows(100, 0, *qualities[:1])
    generator, drawn = np.random.default_rng(1), []
    for _ in range(400):
        chosen = generator.integers(0, 100, 100)
        drawn.append(metric.score([labels[n] for n in chosen], [answers[n] for n in chosen], names))
    low, high = interval(metric, metric.statistics(labels, answers, names), 0.9, 4000, 0)
    assert low < metric.score(labels, answers, names) < high
    assert (low, high) == pytest.approx(np.quantile(drawn, [0.05, 0.95]), abs=0.02)


@pytest.mark.parametrize("name", OTHERS)
def test_equals_seldom_seem_better_and_one_model_never(name):
    kind, names, rows, qualities = OTHERS[name]
    metric, alarms = kind.metrics[name], 0
    for seed in range(100):
        labels, *answers = rows(80, seed, *qualities)
        pair = [metric.statistics(labels, said, names) for said in answers]
        alarms += better_p_value(metric, *pair, 199, seed) <= 0.05
    assert alarms <= stats.binom.ppf(0.999, 100, 0.05)
    assert better_p_value(metric, pair[0], pair[0], 199, 0) == 1


@pytest.mark.parametrize("name", OTHERS)
def test_a_much_better_model_is_better(name):
    kind, names, rows, (quality, _) = OTHERS[name]
    labels, *answers = rows(300, 0, *((0.95, 0.6) if quality == 0.8 else (0.3, 1.0)))
    metric = kind.metrics[name]
    pair = [metric.statistics(labels, said, names) for said in answers]
    wrong = metric.statistics(labels, kind.wrong(labels, names), names)
    assert better_p_value(metric, *pair, 999, 0) == 0.001
    assert not_worse_p_value(metric, *pair, wrong, 0.01) < 0.001
    assert not_worse_p_value(metric, *pair[::-1], wrong, 0.01) > 0.99


def test_a_correlation_that_is_worse_by_the_margin_seldom_passes():
    # labels + noise of deviation s correlate by 1 / (1 + s^2)^0.5: 0.85, and 0.83.
    kind, metric, passed = KINDS["regression"], KINDS["regression"].metrics["pearson"], 0
    noises = [(1 / correlation**2 - 1) ** 0.5 for correlation in (0.83, 0.85)]
    for seed in range(200):
        labels, *answers = scattered(400, seed, *noises)
        triple = [metric.statistics(labels, said, []) for said in (*answers, kind.wrong(labels, []))]
        passed += not_worse_p_value(metric, *triple, 0.02) <= 0.05
    assert 2 <= passed <= stats.binom.ppf(0.999, 200, 0.05)


def test_holm_by_hand():
    # 0.01 <= 0.05 / 4, 0.016 <= 0.05 / 3, 0.03 > 0.05 / 2, and there it ends.
    assert holm([0.03, 0.01, 0.04, 0.016], 0.05) == [False, True, False, True]
    assert holm([], 0.05) == []


def test_no_rows_are_refused():
    none = np.empty((0, 2))
    with pytest.raises(DataError, match="no rows to resample"):
        interval(ACCURACY, none, 0.95, 100, 0)
    with pytest.raises(DataError, match="no rows to resample"):
        better_p_value(ACCURACY, none, none, 100, 0)
