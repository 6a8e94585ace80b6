"""The comparison as pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

from tinybert.metrics import TITLES
from tinybert.plot_text import legible, lettering

_READABLE = 20
"""Labels up to which each cell of a confusion matrix has its numbers."""
_TICKS = 50
"""Labels named at each side at most."""


def draw_confusion(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], names: Sequence[str], title: str, path: Path
) -> None:
    """Confusion matrix, each row a true label, as shares of that label."""
    counts = confusion_matrix(labels, predicted, labels=range(len(names)))
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    readable = len(names) <= _READABLE
    side = 0.9 * len(names) if readable else 12
    places = range(0, len(names), -(-len(names) // _TICKS))
    drawn = legible(names)
    shown = [drawn[place] for place in places]
    with lettering():
        figure = Figure(figsize=(1.6 + side, 1.2 + side), layout="constrained")
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set(title=title, xlabel="predicted", ylabel="true")
        axes.set_xticks(places, shown, rotation=45, ha="right")
        axes.set_yticks(places, shown)
        for (row, column), share in np.ndenumerate(shares) if readable else ():
            text = f"{share:.0%}\n{counts[row, column]}"
            axes.text(column, row, text, ha="center", va="center", color="white" if share > 0.5 else "black")
        figure.savefig(path, dpi=120)


def draw_scatter(labels: Sequence[float], answers: Sequence[float], title: str, path: Path) -> None:
    """A dot a row: the number a model gives against the right one; on the diagonal both agree."""
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.axline((labels[0], labels[0]), slope=1, color="grey", linestyle="--", linewidth=1)
    axes.scatter(labels, answers, s=9, alpha=0.4, linewidths=0)
    axes.set(title=title, xlabel="right", ylabel="given")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def draw_comparison(table: Mapping[str, Mapping[str, float]], metric: str, path: Path) -> None:
    """A score, with its interval, against latency: up and to the left is better; the area of a dot is the size."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    largest = max(numbers["megabytes"] for numbers in table.values())
    for name, numbers in table.items():
        x, y = numbers["latency_ms"], 100 * numbers[metric]
        ends = [max(y - 100 * numbers[f"{metric}_low"], 0), max(100 * numbers[f"{metric}_high"] - y, 0)]
        axes.errorbar(x, y, [[ends[0]], [ends[1]]], color="grey", linewidth=1, zorder=0)
        axes.scatter(x, y, s=900 * numbers["megabytes"] / largest, alpha=0.6)
        axes.annotate(f"{name}\n{y:.1f}%, {x:.1f} ms", (x, y), xytext=(14, 0), textcoords="offset points", va="center")
    axes.set(xlabel="median latency at batch 1, ms", ylabel=f"{TITLES[metric]} on the test rows, %")
    axes.margins(y=0.3)
    axes.set_xlim(0, 1.4 * max(numbers["latency_ms"] for numbers in table.values()))
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def draw_reliability(calibration: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Share of right ones among the answers in each bin of calibrated confidence; on the diagonal both agree."""
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1)
    for name, measured in calibration.items():
        points = [(entry["confidence"], entry["accuracy"]) for entry in measured["bins"]]
        label = f"{name}: error {measured['ece_calibrated']:.1%}, uncalibrated {measured['ece']:.1%}"
        axes.plot(*zip(*points, strict=True), marker="o", markersize=4, linewidth=1, label=label)
    axes.set(xlabel="probability of the answer, calibrated", ylabel="share of right answers", xlim=(0, 1), ylim=(0, 1))
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
