"""Whether a model's probabilities mean what they say, and the temperature that mends them.

Guo et al., On Calibration of Modern Neural Networks (arXiv:1706.04599).

What is calibrated are the choices that a model makes: one a row, or one for each word or class of a row.

Shapes: M choices, C classes.
"""

import math
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

Logits = NDArray[np.floating[Any]]

BINS = 15
"""Of equal width, as in the paper's tables."""
TEMPERATURES = (0.05, 20.0)
"""Bounds of a fitted temperature."""
_HALVINGS = 30


class Bin(TypedDict):
    """The choices whose confidence lies in (low, high]."""

    low: float
    high: float
    confidence: float
    """Mean probability of what was chosen."""
    accuracy: float
    rows: int
    """How many choices."""


def probabilities(logits_MC: Logits, temperature: float = 1.0) -> NDArray[np.float64]:
    """Softmax of the logits divided by the temperature (M, C)."""
    shares: NDArray[np.float64] = (_doubles(logits_MC) / temperature).softmax(dim=1).numpy()
    return shares


def fit_temperature(logits_MC: Logits, labels: NDArray[np.int64]) -> float:
    """The temperature at which the labels are likeliest.

    The negative log-likelihood is convex in b = 1/T, and its slope is the mean over choices of E_p[z] - z_label with
    p = softmax(b z), so the best b is where the slope changes sign; halving finds it.

    Args:
        logits_MC: Of rows that the model was not trained on.
        labels: The right classes (M).

    Returns:
        A number within `TEMPERATURES`. 1 where no temperature is best because every choice is right (any sharpening is
        then likelier still), or there is none.
    """
    found_MC = _doubles(logits_MC)
    true_M = found_MC[torch.arange(len(labels)), torch.from_numpy(labels)]
    if bool((true_M >= found_MC.amax(dim=1)).all()):
        return 1.0
    low, high = (math.log(bound) for bound in TEMPERATURES)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        shares_MC = (found_MC * math.exp(-middle)).softmax(dim=1)
        slope = ((shares_MC * found_MC).sum(dim=1) - true_M).mean().item()
        low, high = (low, middle) if slope < 0 else (middle, high)
    return math.exp((low + high) / 2)


def _doubles(logits_MC: Logits) -> torch.Tensor:
    return torch.from_numpy(np.asarray(logits_MC, np.float64))


def reliability(shares_MC: NDArray[np.float64], labels: NDArray[np.int64], bins: int = BINS) -> list[Bin]:
    """Confidence and accuracy of the choices in each bin of confidence; bins without any are left out.

    Args:
        shares_MC: Probabilities.
        labels: The right classes (M).
        bins: How many, of equal width between 0 and 1.
    """
    confidence = shares_MC.max(axis=1)
    right = shares_MC.argmax(axis=1) == labels
    places = np.searchsorted(np.arange(1, bins) / bins, confidence)
    rows, sums, hits = (np.bincount(places, weights, bins) for weights in (None, confidence, right))
    return [
        Bin(
            low=place / bins,
            high=(place + 1) / bins,
            confidence=float(sums[place] / rows[place]),
            accuracy=float(hits[place] / rows[place]),
            rows=int(rows[place]),
        )
        for place in np.flatnonzero(rows).tolist()
    ]


def calibration_error(bins: list[Bin]) -> float:
    """Expected calibration error (eq. 3 of the paper): mean distance of accuracy and confidence of all choices."""
    total = sum(entry["rows"] for entry in bins)
    return sum(entry["rows"] / total * abs(entry["accuracy"] - entry["confidence"]) for entry in bins)


def calibrated(logits_MC: Logits, labels: NDArray[np.int64], temperature: float) -> dict[str, Any]:
    """The errors at temperature 1 (`ece`) and at this one (`ece_calibrated`), and `bins` of the latter."""
    plain, bins = (reliability(probabilities(logits_MC, at), labels) for at in (1.0, temperature))
    errors = {"ece": calibration_error(plain), "ece_calibrated": calibration_error(bins)}
    return {"temperature": temperature, **errors, "bins": bins}
