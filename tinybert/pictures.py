"""The comparison as pictures."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix


def draw_confusion(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], names: list[str], title: str, path: Path
) -> None:
    """Confusion matrix, each row a true label, as shares of that label."""
    counts = confusion_matrix(labels, predicted, labels=range(len(names)))
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    figure = Figure(figsize=(1.6 + 0.9 * len(names), 1.2 + 0.9 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(title=title, xlabel="predicted", ylabel="true")
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    if len(names) <= 20:
        for (row, column), share in np.ndenumerate(shares):
            text = f"{share:.0%}\n{counts[row, column]}"
            axes.text(column, row, text, ha="center", va="center", color="white" if share > 0.5 else "black")
    figure.savefig(path, dpi=120)


def draw_comparison(table: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Accuracy against latency: up and to the left is better; the area of a dot is the model's size."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    largest = max(numbers["parameters"] for numbers in table.values())
    for name, numbers in table.items():
        x, y = numbers["latency_ms"], 100 * numbers["accuracy"]
        axes.scatter(x, y, s=900 * numbers["parameters"] / largest, alpha=0.6)
        axes.annotate(f"{name}\n{y:.1f}%, {x:.1f} ms", (x, y), xytext=(14, 0), textcoords="offset points", va="center")
    axes.set(xlabel="median latency at batch 1, ms", ylabel="validation accuracy, %")
    axes.margins(y=0.3)
    axes.set_xlim(0, 1.4 * max(numbers["latency_ms"] for numbers in table.values()))
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
