"""The pictures of a run's page: SVG that stands in the page itself and takes its colours, light or dark, from it."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from tinybert.plot_text import lettering

Curve = Sequence[tuple[int, float]]

INK, MUTED, PAPER = "#10203a", "#5a6779", "#fefefe"
SERIES = ("#2458a8", "#b5541c", "#2e7d5b", "#8a4a9e", "#a8842c", "#4d7f96")
"""Colours while drawing. In the page each becomes a variable of its style sheet."""
_VARIABLES = {INK: "ink", MUTED: "muted", PAPER: "paper"} | {color: f"series-{i}" for i, color in enumerate(SERIES)}
_STYLE: Any = {
    "svg.hashsalt": "page",  # the same numbers give the same bytes
    "svg.fonttype": "none",  # text stays text: it can be searched, and takes the reader's fonts
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "grid.color": MUTED,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}
LOSSES, SCORES = "losses", "scores on validation"
"""Groups of curves that share a picture."""
POINTS = 200
"""Of a curve at most; longer ones become the means of so many stretches, in a band from lowest to highest."""


def scores_picture(scores: Mapping[str, tuple[float, float, float]], title: str) -> Markup:
    """Each model's score (value, low, high) as a dot in its interval."""

    def draw(axes: Axes) -> None:
        for place, (value, low, high) in enumerate(list(scores.values())[::-1]):
            axes.plot([low, high], [place, place], color=SERIES[0], linewidth=5, alpha=0.35, solid_capstyle="butt")
            axes.plot([value], [place], "o", color=SERIES[0], markersize=5)
            axes.annotate(f"{value:.1%}", (high, place), (6, 0), textcoords="offset points", va="center")
        axes.set_yticks(range(len(scores)), list(scores)[::-1])
        axes.set_ylim(-0.6, len(scores) - 0.4)
        axes.margins(x=0.18)
        axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g}%")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="x")

    told = ", ".join(f"{name} {value:.1%} ({low:.1%} to {high:.1%})" for name, (value, low, high) in scores.items())
    return _picture("scores", f"{title}: {told}", draw, height=0.7 + 0.3 * len(scores))


def latency_picture(milliseconds: Mapping[str, tuple[float, float]]) -> Markup:
    """Each model's median and 95th percentile of one prediction, as bars."""

    def draw(axes: Axes) -> None:
        places = np.arange(len(milliseconds))[::-1]
        for shift, column, label in ((0.19, 0, "median (p50)"), (-0.19, 1, "95th percentile (p95)")):
            widths = [pair[column] for pair in milliseconds.values()]
            bars = axes.barh(places + shift, widths, 0.36, color=SERIES[column], label=label)
            axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=8, color=MUTED)
        axes.set_yticks(places, list(milliseconds))
        axes.set_xlabel("milliseconds for one prediction")
        axes.margins(x=0.12)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.figure.legend(loc="outside upper center", ncols=2)

    told = ", ".join(f"{name} {p50:.1f} and {p95:.1f} ms" for name, (p50, p95) in milliseconds.items())
    return _picture("latency", f"Latency, median and 95th percentile: {told}", draw, 1.1 + 0.42 * len(milliseconds))


def reliability_picture(bins: Mapping[str, Sequence[Mapping[str, float]]]) -> Markup:
    """How often each model is right, against how sure it says it is; on the diagonal both agree.

    Args:
        bins: Of each model: confidence, accuracy and rows of each stretch of confidence. Empty ones are left out.
    """

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--")
        for color, (name, stretches) in zip(SERIES, bins.items(), strict=False):
            filled = [stretch for stretch in stretches if stretch["rows"]]
            sizes = np.array([stretch["rows"] for stretch in filled])
            x, y = ([stretch[key] for stretch in filled] for key in ("confidence", "accuracy"))
            axes.plot(x, y, color=color, linewidth=1, alpha=0.7)
            axes.scatter(x, y, s=10 + 110 * sizes / max(1, sizes.sum()), color=color, alpha=0.8, label=name)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1))
        axes.set(xlabel="how sure the model says it is", ylabel="how often it is right", ylim=(0, 1.03))
        axes.grid()
        axes.figure.legend(loc="outside upper center", ncols=3, markerscale=0.8)

    named = ", ".join(bins)
    return _picture("reliability", f"Reliability after calibration of {named}; the table has the numbers", draw, 3.4)


def curve_pictures(stage: str, curves: Mapping[str, Curve]) -> list[Markup]:
    """A stage's curves: its losses in one picture, its scores on validation in another, all else by itself."""
    groups: dict[str, dict[str, Curve]] = {LOSSES: {}, SCORES: {}}
    for name, points in sorted(curves.items()):
        if len(points) > 1:
            groups.setdefault(_group(name), {})[name] = points
    return [_curves(stage, group, members) for group, members in groups.items() if members]


def _group(metric: str) -> str:
    if metric == "loss" or metric.endswith("_loss"):
        return LOSSES
    return SCORES if metric.startswith("validation_") else metric.replace("_", " ")


def _curves(stage: str, group: str, curves: Mapping[str, Curve]) -> Markup:
    def draw(axes: Axes) -> None:
        for number, (name, points) in enumerate(curves.items()):
            color = SERIES[number % len(SERIES)]
            steps, mean, low, high = thinned(points)
            if len(points) > POINTS:
                axes.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
            axes.plot(steps, mean, color=color, linewidth=1.4, label=name.replace("_", " "))
        axes.set(xlabel="step", title=group)
        axes.title.set_fontsize(9)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid()
        if len(curves) > 1:
            axes.legend(fontsize=8)

    ends = (f"{name} {points[0][1]:.3g} to {points[-1][1]:.3g}" for name, points in curves.items())
    told = f"{stage}, {group} by step, first to last: {', '.join(ends)}".replace("_", " ")
    return _picture(f"{stage}-{group}", told, draw, 2.5)


def thinned(points: Curve, most: int = POINTS) -> tuple[list[float], list[float], list[float], list[float]]:
    """A curve's steps, means, lowest and highest values over at most so many stretches of equal numbers of points."""
    steps, values = np.array(points, dtype=float).T
    stretches = [np.array(chunk) for chunk in np.array_split(np.arange(len(points)), min(most, len(points)))]
    columns: list[Callable[[Any], Any]] = [np.mean, np.min, np.max]
    first = [float(steps[chunk].mean()) for chunk in stretches]
    mean, low, high = ([float(of(values[chunk])) for chunk in stretches] for of in columns)
    return first, mean, low, high


def _picture(key: str, description: str, draw: Callable[[Axes], None], height: float) -> Markup:
    """Draw into one pair of axes, and make an SVG element of it that says in words what it shows.

    Args:
        key: Sets the element's ids apart from those of the page's other pictures.
        description: For those who do not see it.
        draw: Does it.
        height: In inches; all are equally wide.
    """
    with matplotlib.rc_context(_STYLE), lettering():
        figure = Figure(figsize=(5.2, height), layout="constrained")
        figure.patch.set_visible(False)
        draw(figure.subplots())
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return Markup(_embedded(drawn.getvalue(), re.sub(r"\W+", "-", key), str(escape(description))))


def _embedded(svg: str, key: str, description: str) -> str:
    """The SVG element alone, with ids of its own and the page's colours and fonts."""
    opening, body = svg[svg.index("<svg") :].split(">", 1)
    size = re.search(r'viewBox="[^"]*"', opening)
    assert size is not None
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.S)
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{key}-", body).replace("xlink:href", "href")
    body = re.sub(r"font-family: [^;\"]*; ", "", re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", body))
    for color, variable in _VARIABLES.items():
        body = body.replace(color, f"var(--{variable})")
    return f'<svg {size[0]} role="img" aria-label="{description}">{body.strip()}'
