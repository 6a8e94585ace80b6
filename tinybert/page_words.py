"""What a run's page says in words: the verdict, the figures beneath it, the limits of both, how to use the model."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from tinybert.data_config import KindName
from tinybert.metrics import TITLES
from tinybert.page_kinds import ask_directory, ask_registered, ask_transformers, heading
from tinybert.released import COMPARED_AS

MISSING = "\N{EN DASH}"
WIDE = 0.02
"""Half an interval's width from which on the page says that the test rows are few."""


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run beside the files of its reports."""

    name: str
    outcome: str | None = None
    """What became of the version (`tinybert.refs.PublishResult`); None where nothing was published."""
    registered: str | None = None
    """As `name version 3`."""
    model: str | None = None
    """URI of the packaged model."""
    pair: bool = False
    """The model reads pairs of texts."""
    curves: Mapping[str, Mapping[str, list[tuple[int, float]]]] = field(default_factory=dict)
    """Of each stage, each metric's steps and values."""
    lineage: list[tuple[str, str, str]] = field(default_factory=list)
    """Role, URI and digest of what the run read."""
    stages: list[tuple[str, float, bool]] = field(default_factory=list)
    """Name, seconds, and whether its output was there already."""
    links: Mapping[str, str] = field(default_factory=dict)
    """Pages about the run. Only web addresses become links."""
    commit: str = ""
    written: str = ""
    """When, in words."""


class Score(NamedTuple):
    """A score and its interval; what was not measured is None."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Findings:
    """The files of a report of the stage `evaluate` and of the decision about it."""

    comparison: dict[str, Any]
    decision: dict[str, Any]
    classes: dict[str, dict[str, dict[str, float]]]
    calibration: dict[str, dict[str, Any]]
    flips: dict[str, Any] | None
    slices: list[dict[str, Any]]

    @property
    def kind(self) -> KindName:
        """Of the task."""
        name: KindName = self.comparison["kind"]
        return name

    @property
    def served(self) -> str:
        """The model the decision is about, as the comparison calls it."""
        return COMPARED_AS[self.decision["served"]]

    def number(self, model: str, key: str) -> float | None:
        """A number of a model; None where it was not measured."""
        return _known(self.comparison.get(model, {}).get(key))

    def score(self, model: str, metric: str, test: str | None = None) -> "Score":
        """A model's score on the test rows, or on those of a further test."""
        numbers = (self.comparison["other_tests"][test] if test else self.comparison).get(model, {})
        return Score(*(_known(numbers.get(metric + end)) for end in ("", "_low", "_high")))

    @property
    def failed(self) -> list[str]:
        """Names of the rules that did not pass."""
        return [rule["name"] for rule in self.decision["rules"] if rule["passed"] is False]


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def percent(value: float | None, digits: int = 1) -> str:
    """A share as percent."""
    return MISSING if value is None else f"{value:.{digits}%}"


def points(value: float | None) -> str:
    """A difference of shares in percentage points, with its sign."""
    return MISSING if value is None else f"{100 * value:+.1f}".replace("-", "\N{MINUS SIGN}")


def decimal(value: float | None, digits: int = 1) -> str:
    """A number with so many digits after the point, thousands set apart."""
    return MISSING if value is None else f"{value:,.{digits}f}"


def times(value: float | None) -> str:
    """How many times as fast."""
    return MISSING if value is None else f"{value:.1f}\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class Verdict:
    """The page's first sentence."""

    tone: Literal["good", "bad", "warn", "neutral"]
    mark: str
    headline: str
    consequence: str


def verdict(decision: Mapping[str, Any], outcome: str | None) -> Verdict:
    """What was decided about the student, and what followed from it."""
    champion = bool(decision["against_champion"])
    if outcome == "unchanged":
        return Verdict("neutral", "=", "Unchanged", "This student is the champion already; nothing was moved.")
    if outcome == "overtaken":
        return Verdict("warn", "!", "Overtaken", "Another run changed the champion meanwhile; nothing was promoted.")
    if decision["verdict"] != "promote":
        stays = "The champion stays." if champion else "There is still no champion."
        return Verdict("bad", "\N{MULTIPLICATION X}", "Rejected", stays)
    done = "Promoted" if outcome == "promoted" else "Fit for promotion"
    told = "It is the champion now." if outcome == "promoted" else "Publishing is off: no model version was registered."
    if decision["forced"]:
        return Verdict("warn", "!", f"{done} by force", told)
    return Verdict("good", "\N{CHECK MARK}", done if champion else f"{done} as the first model", told)


@dataclass(frozen=True)
class Tile:
    """A big number with what it is and what it is held against."""

    heading: str
    figure: str
    unit: str
    note: str


def tiles(findings: Findings) -> list[Tile]:
    """The numbers a manager asks for, all of the variant that is served."""
    decision, served, number = findings.decision, findings.served, findings.number
    metric = decision["metric"]
    score, low, high = map(percent, findings.score(served, metric))
    teacher = percent(number("teacher", metric))
    latency, slower = decimal(decision["latency_ms"]), decimal(number("teacher", "latency_ms"))
    return [
        Tile(heading(metric), score, "", f"{low} to {high}; teacher {teacher}"),
        _difference(decision),
        Tile("Retention", percent(decision["retention"]), "", "of the teacher's score is kept"),
        Tile("Speed-up", times(decision["speedup"]), "", f"{latency} ms a prediction; teacher {slower} ms"),
        Tile("Size", decimal(decision["megabytes"]), "MB", f"teacher {decimal(number('teacher', 'megabytes'))} MB"),
    ]


def _difference(decision: Mapping[str, Any]) -> Tile:
    if decision["difference"] is None:
        why = "no rows to compare on" if decision["against_champion"] else "there is none to compare with"
        return Tile("Against the champion", MISSING, "", why)
    chance = "" if decision["p_value"] is None else f"; p\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{decision['p_value']:.3g}"
    span = f"{points(decision['difference_low'])} to {points(decision['difference_high'])}"
    return Tile("Against the champion", points(decision["difference"]), "points", span + chance)


def caveats(findings: Findings, run: RunFacts) -> Iterator[str]:
    """What a reader of the figures should know of their limits, a sentence or two each."""
    comparison, decision = findings.comparison, findings.decision
    yield from decision["notes"]
    yield from _rows_caveats(findings)
    if findings.failed and decision["verdict"] == "promote":
        yield f"Promoted although these rules did not pass: {', '.join(findings.failed)}."
    if not decision["against_champion"] and "champion_left_out" not in comparison:
        yield "There was no champion to compare with: only floors and budgets were checked."
    for name, variant in decision["variants"].items():
        if not variant["kept"]:
            yield f"The variant {name} was not kept: {variant['reason']}"
    threads = f"{comparison['threads']} thread{'' if comparison['threads'] == 1 else 's'}"
    yield (
        f"Times were measured with {threads} on {comparison['device']}, the models taking turns. "
        "Other machines give other milliseconds; the ratios carry over better."
    )
    if not run.curves:
        yield "Learning curves are missing: MLflow did not answer, or kept none for these stages."


def _rows_caveats(findings: Findings) -> Iterator[str]:
    comparison = findings.comparison
    rows, metric = comparison["rows"], findings.decision["metric"]
    _, low, high = findings.score(findings.served, metric)
    if low is not None and high is not None and high - low > 2 * WIDE:
        yield (
            f"{rows:,} test rows are few: the student's {TITLES[metric]} is known to about "
            f"\N{PLUS-MINUS SIGN}{50 * (high - low):.1f} points only."
        )
    if comparison.get("seen_by_champion"):
        yield "The champion's own scores in the tables include the rows it was trained on."
    if comparison["test_is_validation"]:
        yield "Set data.test_source or data.test_share to measure on rows that had no part in training."
    yield "The figures hold for texts like the test rows; other sources, times or languages may do worse."


def usage(run: RunFacts, kind: KindName) -> list[tuple[str, str]]:
    """Ways to ask the model, each with its lines of code."""
    ways = []
    name, version, number = (run.registered or "").rpartition(" version ")
    if version:
        ways.append(("From the registry", ask_registered(kind, run.pair, f"models:/{name}/{number}")))
    if run.model:
        scheme, _, path = run.model.partition(":")
        place = path if scheme == "file" else "path/to/the/copy"
        where = "From the store" if scheme == "file" else f"From a copy of {run.model}"
        ways.append((where, ask_directory(kind, run.pair, place)))
        ways.append(("With transformers alone", ask_transformers(kind, run.pair, place)))
    return ways
