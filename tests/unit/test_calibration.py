"""Temperatures and calibration errors, by hand and by scipy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize_scalar
from torch.nn import functional as F

from tinybert.calibration import (
    TEMPERATURES,
    calibrated,
    calibration_error,
    fit_temperature,
    probabilities,
    reliability,
)


def honest(rows, classes, seed=0):
    """Logits, and labels drawn from their own softmax: calibrated as well as a sample can be."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rows, classes, generator=generator)
    labels = logits.softmax(dim=1).multinomial(1, generator=generator).squeeze(1)
    return logits.numpy(), labels.numpy()


def surprise_at(temperature, logits, labels):
    """Negative log-likelihood by torch."""
    return F.cross_entropy(torch.from_numpy(logits / temperature), torch.from_numpy(labels)).item()


def test_probabilities_at_a_temperature():
    shares = probabilities(np.array([[np.log(9.0), 0.0], [0.0, 0.0]]), 2.0)
    np.testing.assert_allclose(shares, [[0.75, 0.25], [0.5, 0.5]])  # 9 ** (1/2) to 1


@pytest.mark.parametrize("factor", [0.25, 1, 3.5])
@pytest.mark.parametrize("classes", [2, 5])
def test_logits_scaled_by_a_factor_are_given_that_temperature(factor, classes):
    logits, labels = honest(20_000, classes)
    assert fit_temperature(factor * logits, labels) == pytest.approx(factor, rel=0.05)


def test_the_temperature_is_the_one_scipy_finds():
    logits, labels = honest(300, 3, seed=1)
    logits = 3 * logits + np.random.default_rng(2).normal(size=(300, 3))

    def surprise(log_temperature):
        return surprise_at(np.exp(log_temperature), logits, labels)

    best = minimize_scalar(surprise, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-10}).x
    assert fit_temperature(logits, labels) == pytest.approx(np.exp(best), rel=1e-5)


def test_rows_that_are_all_right_ask_for_no_temperature():
    logits = np.array([[2.0, 1.0], [0.0, 3.0]])
    assert fit_temperature(logits, np.array([0, 1])) == 1.0
    assert fit_temperature(np.empty((0, 2)), np.empty(0, np.int64)) == 1.0


def test_answers_worse_than_chance_are_made_as_unsure_as_the_bounds_allow():
    logits = np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]])
    assert fit_temperature(logits, np.array([1, 0, 0])) == pytest.approx(TEMPERATURES[1])


@settings(max_examples=30, deadline=None)
@given(arrays(np.float64, (12, 3), elements=st.floats(-30, 30)), arrays(np.int64, 12, elements=st.integers(0, 2)))
def test_the_temperature_keeps_its_bounds_and_never_makes_labels_less_likely(logits, labels):
    temperature = fit_temperature(logits, labels)
    assert TEMPERATURES[0] <= temperature <= TEMPERATURES[1]
    fitted, plain = (surprise_at(at, logits, labels) for at in (temperature, 1.0))
    assert fitted <= plain + 1e-9


SHARES = np.array([[0.95, 0.05], [0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.25, 0.75]])
LABELS = np.array([0, 1, 1, 1, 0])


def test_bins_by_hand():
    # Of five bins, (0.8, 1] holds 0.95 and 0.9, both right; (0.6, 0.8] holds 0.8 wrong, 0.7 right and 0.75 wrong.
    sure, unsure = reliability(SHARES, LABELS, bins=5)[::-1]
    assert sure == {"low": 0.8, "high": 1.0, "confidence": pytest.approx(0.925), "accuracy": 1.0, "rows": 2}
    assert unsure == {
        "low": 0.6,
        "high": 0.8,
        "confidence": pytest.approx(0.75),
        "accuracy": pytest.approx(1 / 3),
        "rows": 3,
    }
    # 2/5 of |1 - 0.925| and 3/5 of |1/3 - 0.75|
    assert calibration_error([unsure, sure]) == pytest.approx(0.03 + 0.25)


def test_certain_answers_have_a_bin():
    (only,) = reliability(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1]))
    assert (only["low"], only["high"], only["rows"]) == (pytest.approx(14 / 15), 1.0, 2)
    assert calibration_error([only]) == 0.5


def test_the_right_temperature_mends_overconfidence():
    logits, labels = honest(20_000, 4, seed=3)
    found = calibrated(4 * logits, labels, 4.0)
    assert found["ece"] > 0.15
    assert found["ece_calibrated"] < 0.02
    assert found["ece_calibrated"] == calibration_error(found["bins"])
    assert sum(entry["rows"] for entry in found["bins"]) == 20_000
