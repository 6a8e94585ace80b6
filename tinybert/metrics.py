"""Scores of predictions against labels, by scikit-learn."""

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor


def classification_scores(logits_NC: Tensor, labels: NDArray[np.int64]) -> dict[str, float]:
    """Accuracy and macro F1 of the highest logit."""
    predicted = logits_NC.argmax(dim=1).numpy()
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "f1_macro": float(f1_score(labels, predicted, average="macro")),
    }


def majority_share(labels: NDArray[np.int64]) -> float:
    """Accuracy of always naming the most frequent label."""
    return float(np.bincount(labels).max() / len(labels))
