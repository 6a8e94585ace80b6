"""Whether a student takes the champion's place: rules about the same test rows, and a decision that says why.

Shapes: N rows, K statistics of a row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from tinybert.kinds import KINDS
from tinybert.kinds.task_kind import Label, TaskKind
from tinybert.metrics import TITLES, Floats, Metric
from tinybert.release_config import GateConfig
from tinybert.released import COMPARED_AS, TORCH
from tinybert.resampling import better_p_value, difference_interval, holm, not_worse_p_value, worse_p_value

CHAMPION, TEACHER = "champion", "teacher"
PERMUTATIONS = 10_000
RESAMPLES = 2_000
SEED = 42
RECALL = KINDS["classification"].metrics["accuracy"]
"""Of a class: hits over members. Where each row is a member once it is an accuracy."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rule(_Part):
    """One line of the decision."""

    name: str
    passed: bool | None
    """None: it does not apply."""
    found: str
    wanted: str


class Fate(_Part):
    """Whether a variant is published."""

    kept: bool
    reason: str


class Decision(_Part):
    """What is to become of the student, and why; the content of `decision.json`."""

    verdict: Literal["promote", "reject"]
    forced: bool
    force: str | None
    """The reason a person gave."""
    metric: str
    served: str
    """The variant that was judged, and is to answer."""
    variants: dict[str, Fate]
    rules: list[Rule]
    summary: str
    notes: list[str]
    """What a reader should know of the comparison."""
    against_champion: bool
    difference: float | None
    """The served variant's score minus the champion's."""
    difference_low: float | None
    """The interval's ends: of confidence 1 - 2 alpha, so that either is a one-sided bound of confidence 1 - alpha."""
    difference_high: float | None
    p_value: float | None
    """Of the rule about the champion."""
    retention: float
    speedup: float
    megabytes: float
    latency_ms: float

    def failed(self) -> list[Rule]:
        """The rules that speak against promotion."""
        return [rule for rule in self.rules if rule.passed is False]


@dataclass(frozen=True)
class Answered:
    """Test rows and what the models answered to them, all in the same order."""

    kind: TaskKind
    labels: Sequence[Label]
    seen: NDArray[np.bool_]
    """The champion was trained on the row (N)."""
    answers: Mapping[str, Sequence[Any]]
    """By model."""
    names: Sequence[str]
    """Of the outputs."""

    def __len__(self) -> int:
        return len(self.labels)

    def only(self, chosen_N: NDArray[np.bool_]) -> "Answered":
        """Some of the rows."""
        answers = {model: list(compress(said, chosen_N)) for model, said in self.answers.items()}
        return replace(self, labels=list(compress(self.labels, chosen_N)), seen=self.seen[chosen_N], answers=answers)

    def statistics(self, metric: Metric, model: str) -> Floats:
        """Of a model's answers."""
        return metric.statistics(self.labels, self.answers[model], self.names)

    def wrong(self, metric: Metric) -> Floats:
        """Of wrong answers."""
        return metric.statistics(self.labels, self.kind.wrong(self.labels, self.names), self.names)

    def recalls(self, model: str) -> dict[str, Floats]:
        """Of each class that rows have: hits and members of each row."""
        return self.kind.recalls(self.labels, self.answers[model], self.names)

    def score(self, metric: Metric, model: str) -> float:
        """The model's score on all rows."""
        return float(metric.value(self.statistics(metric, model).sum(axis=0)))


class Contest(NamedTuple):
    """The served variant against the champion; fields as in `Decision`."""

    difference: float
    difference_low: float
    difference_high: float
    p_value: float


def judge(rows: Answered, comparison: Mapping[str, Any], config: GateConfig) -> Decision:
    """Hold the student, in the best variant that lost nothing, against the champion, floors and budgets.

    Args:
        rows: The test rows.
        comparison: What the stage `evaluate` measured (`comparison.json`).
        config: The rules.
    """
    metric = rows.kind.metrics[comparison["metric"]]
    variants = {n: _fate(rows, n, metric, config) for n, model in COMPARED_AS.items() if model in rows.answers}
    variants |= {name: Fate(kept=False, reason=why) for name, why in comparison.get("variants_left_out", {}).items()}
    served = next(name for name in COMPARED_AS if name in variants and variants[name].kept)
    model, against = COMPARED_AS[served], CHAMPION in rows.answers
    compared = rows.only(~rows.seen) if against else rows
    contest = _contest(compared, model, metric, config) if against and len(compared) else None
    numbers = comparison[model]
    taught = rows.score(metric, TEACHER)
    retention = rows.score(metric, model) / taught if taught > 0 else 0.0  # a correlation may be below 0
    rules = [
        _evidence(compared, rows, config),
        _champion(contest, against, config),
        _classes(compared, model, config) if contest else _inapplicable("classes", against),
        _floor("retention", retention, "{:.1%}", config.retention),
        _budget("latency", numbers["latency_ms"], "{:.2f} ms", config.max_latency_ms),
        _slowdown(comparison, model, config) if against else _inapplicable("slowdown", against),
        _budget("size", numbers["megabytes"], "{:.1f} MB", config.max_megabytes),
    ]
    promoted = config.force is not None or all(rule.passed is not False for rule in rules)
    decision = Decision(
        verdict="promote" if promoted else "reject",
        forced=config.force is not None,
        force=config.force,
        metric=comparison["metric"],
        served=served,
        variants=variants,
        rules=rules,
        summary="",
        notes=_notes(comparison, len(rows) - len(compared)),
        against_champion=against,
        **(contest._asdict() if contest else dict.fromkeys(Contest._fields)),
        retention=retention,
        speedup=comparison[TEACHER]["latency_ms"] / numbers["latency_ms"],
        megabytes=numbers["megabytes"],
        latency_ms=numbers["latency_ms"],
    )
    return decision.model_copy(update={"summary": _summary(decision, len(compared))})


def _fate(rows: Answered, name: str, metric: Metric, config: GateConfig) -> Fate:
    """Whether a variant is shown to lose less than variant_margin."""
    if name == TORCH:
        return Fate(kept=True, reason="the student as it was distilled")
    student_NK, variant_NK = (rows.statistics(metric, COMPARED_AS[variant]) for variant in (TORCH, name))
    p_value = not_worse_p_value(metric, variant_NK, student_NK, rows.wrong(metric), config.variant_margin)
    difference = rows.score(metric, COMPARED_AS[name]) - rows.score(metric, COMPARED_AS[TORCH])
    kept = p_value <= config.alpha
    shown = f"{'shown' if kept else 'not shown'} to lose less than {_points(config.variant_margin, '')}"
    return Fate(kept=kept, reason=f"{_points(difference)} against torch; {shown} ({_p(p_value)})")


def _contest(rows: Answered, model: str, metric: Metric, config: GateConfig) -> Contest:
    student_NK, champion_NK = rows.statistics(metric, model), rows.statistics(metric, CHAMPION)
    difference = rows.score(metric, model) - rows.score(metric, CHAMPION)
    low, high = difference_interval(metric, student_NK, champion_NK, 1 - 2 * config.alpha, RESAMPLES, SEED)
    if config.require == "better":
        p_value = better_p_value(metric, student_NK, champion_NK, PERMUTATIONS, SEED)
    else:
        p_value = not_worse_p_value(metric, student_NK, champion_NK, rows.wrong(metric), config.margin)
    return Contest(difference, low, high, p_value)


def _evidence(compared: Answered, rows: Answered, config: GateConfig) -> Rule:
    seen = len(rows) - len(compared)
    left_out = f", without {seen:,} that the champion was trained on" if seen else ""
    enough, wanted = len(compared) >= config.min_rows, f"at least {config.min_rows:,} rows"
    return Rule(name="rows", passed=enough, found=f"{len(compared):,} rows{left_out}", wanted=wanted)


def _champion(contest: Contest | None, against: bool, config: GateConfig) -> Rule:
    """Better than the champion, or not worse."""
    if contest is None:
        return _inapplicable(config.require, against)
    low, high = (_points(end) for end in (contest.difference_low, contest.difference_high))
    found = f"{_points(contest.difference)} ({low} to {high}), {_p(contest.p_value)}"
    bound = 0.0 if config.require == "better" else -config.margin
    wanted = f"shown to be above {_points(bound, '')}: p at most {config.alpha:g}"
    return Rule(name=config.require, passed=contest.p_value <= config.alpha, found=found, wanted=wanted)


def _classes(rows: Answered, model: str, config: GateConfig) -> Rule:
    """No class's recall is lower by class_margin.

    Large classes have to show it, each at alpha: all must pass, so there is no chance of one too many. Small ones could
    not, and are asked for no proof; they fail where the opposite is shown, with Holm's correction for their number.
    """
    margin, served, champion = config.class_margin, rows.recalls(model), rows.recalls(CHAMPION)
    differences, failing, small = {}, [], []
    for name, all_N2 in served.items():
        members_N = all_N2[:, 1] > 0
        first_M2, second_M2 = all_N2[members_N], champion[name][members_N]
        trio = first_M2, second_M2, first_M2 * (0, 1)
        differences[name] = float(RECALL.value(first_M2.sum(axis=0)) - RECALL.value(second_M2.sum(axis=0)))
        if len(first_M2) < config.class_rows:
            small.append((name, worse_p_value(RECALL, *trio, margin)))
        elif not_worse_p_value(RECALL, *trio, margin) > config.alpha:
            failing.append(f"{name} {_points(differences[name])}, not shown to lose less")
    for (name, _), significant in zip(small, holm([p for _, p in small], config.alpha), strict=True):
        if significant:
            failing.append(f"{name} {_points(differences[name])}, shown to lose more")
    if not differences:
        return Rule(name="classes", passed=None, found="no classes", wanted="any")
    worst = min(differences, key=differences.__getitem__)
    more = [f"and {len(failing) - 3} more"] if len(failing) > 3 else []
    found = "; ".join(failing[:3] + more) or f"worst: {worst} {_points(differences[worst])}"
    wanted = f"recall down by less than {_points(margin, '')}, shown where a class has {config.class_rows:,} rows"
    return Rule(name="classes", passed=not failing, found=found, wanted=wanted)


def _slowdown(comparison: Mapping[str, Any], model: str, config: GateConfig) -> Rule:
    relative = comparison[model]["latency_ms"] / comparison[CHAMPION]["latency_ms"]
    return _budget("slowdown", relative, "{:.2f} times the champion's latency", config.max_slowdown)


def _floor(name: str, value: float, form: str, least: float) -> Rule:
    return Rule(name=name, passed=value >= least, found=form.format(value), wanted=f"at least {form.format(least)}")


def _budget(name: str, value: float, form: str, most: float | None) -> Rule:
    wanted = "any" if most is None else f"at most {form.format(most)}"
    return Rule(name=name, passed=None if most is None else value <= most, found=form.format(value), wanted=wanted)


def _inapplicable(name: str, against: bool) -> Rule:
    """A rule about the champion where there is none, or, which is a failure, no row to compare with it on."""
    found = "no rows to compare on" if against else "no champion to compare with"
    return Rule(name=name, passed=False if against else None, found=found, wanted="a comparison with the champion")


def _notes(comparison: Mapping[str, Any], seen: int) -> list[str]:
    left_out = comparison.get("champion_left_out")
    notes = [f"Judged as a first model is, by floors and budgets: {left_out}"] if left_out else []
    if seen:
        notes.append(f"{seen:,} test rows that the champion was trained on are left out of the comparison with it.")
    if comparison.get("test_is_validation"):
        notes.append("The test rows are the validation rows, on which checkpoints were chosen: scores are flattered.")
    return notes


def _summary(decision: Decision, rows: int) -> str:
    """The decision in one sentence."""
    scored = "it was compared with no champion"
    if decision.difference is not None:
        scored = f"it scores {_points(decision.difference)} against the champion on {rows:,} test rows"
    score = f"the teacher's {TITLES[decision.metric]}"
    kept = f"keeps {decision.retention:.1%} of {score} and is {decision.speedup:.1f} times as fast"
    failed = "; ".join(f"{rule.name}: {rule.found}" for rule in decision.failed())
    if decision.forced:
        against = f"against these rules: {failed}" if failed else "which no rule speaks against"
        return f"Promote {decision.served} by force ({decision.force}), {against}; {scored}, {kept}."
    verb = f"Reject {decision.served} ({failed})" if failed else f"Promote {decision.served}"
    return f"{verb}: {scored}, {kept}."


def _points(share: float, sign: str = "+") -> str:
    return f"{100 * share:{sign}.1f} points"


def _p(value: float) -> str:
    return "p < 0.0001" if value < 0.0001 else f"p = {value:.4f}"
