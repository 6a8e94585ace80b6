"""Claim: the gate promotes a student that is no better seldom, and one that is 2 points better mostly.

Simulates test rows, a teacher, a champion, a student and its variants, and runs the gate on them with the form's
defaults, class rule, retention and variants included. Both distilled models are right on 90% of the rows, and on 10%
one is right and the other wrong: the discordance. It is an assumption, and decides the power, so a table has others.
int8 answers 1% of the rows otherwise than the student in torch, and is as good.

`false_promotion_rate`: champion and student are equally good; `power`: the student is 2 points better. A second table
has the rule about single classes alone, by the rows of a class: how often it lets pass a student whose recall is the
champion's, and one whose recall is lower by the margin.

    python benchmarks/gate.py [--json FILE] [--pairs N] [--rows N] [--classes N] [--discordance SHARE]
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from distill_step import commit, processor

from tinybert.gate import RECALL, Answered, judge
from tinybert.kinds import kind_of
from tinybert.release_config import GateConfig
from tinybert.resampling import not_worse_p_value

ACCURACY = 0.9
TEACHER = 0.93
VARIANT_DISCORDANCE = 0.01
GAIN = 0.02
DISCORDANCES = (0.04, 0.06, 0.08, 0.1, 0.12, 0.15)
CLASS_ROWS = (100, 200, 300, 400, 500, 1000)
MEASURED = {"metric": "accuracy"} | {
    name: {"latency_ms": latency, "megabytes": size}
    for name, latency, size in (
        ("teacher", 20, 400),
        ("student", 4, 58),
        ("onnx", 3, 57),
        ("int8", 2, 15),
        ("champion", 2, 15),
    )
}


def otherwise(
    generator: np.random.Generator, right_N: np.ndarray, accuracy: float, discordance: float, gain: float
) -> np.ndarray:
    """Which rows a model gets right that gains on one of this accuracy, and differs from it, by these shares."""
    won, lost = (discordance + gain) / 2 / (1 - accuracy), (discordance - gain) / 2 / accuracy
    return right_N ^ (generator.random(len(right_N)) < np.where(right_N, lost, won))


def answers(generator: np.random.Generator, labels_N: np.ndarray, right_N: np.ndarray, classes: int) -> np.ndarray:
    """Of a model that is right on these rows, and names any other class on the rest."""
    others_N = (labels_N + generator.integers(1, classes, len(labels_N))) % classes
    return np.where(right_N, labels_N, others_N)


def pair(generator: np.random.Generator, rows: int, classes: int, discordance: float, gain: float) -> Answered:
    """A student and a champion on fresh test rows."""
    labels_N = generator.integers(0, classes, rows)
    right = {"teacher": generator.random(rows) < TEACHER, "champion": generator.random(rows) < ACCURACY}
    right["student"] = otherwise(generator, right["champion"], ACCURACY, discordance, gain)
    right["int8"] = otherwise(generator, right["student"], ACCURACY + gain, VARIANT_DISCORDANCE, 0)
    said = {name: answers(generator, labels_N, right_N, classes) for name, right_N in right.items()}
    said["onnx"] = said["student"]
    names = [str(number) for number in range(classes)]
    return Answered(kind_of("classification"), labels_N, np.zeros(rows, bool), said, names)


def promoted(given: argparse.Namespace, discordance: float, gain: float, config: GateConfig, pairs: int) -> float:
    """Share of simulated students that the gate promotes."""
    generator = np.random.default_rng(given.seed)
    simulated = (pair(generator, given.rows, given.classes, discordance, gain) for _ in range(pairs))
    verdicts = [judge(rows, MEASURED, config).verdict == "promote" for rows in simulated]
    found = float(np.mean(verdicts))
    print(
        f"{config.require}, discordance {discordance:.2f}, gain {gain:+.3f}: {found:.4f}", file=sys.stderr, flush=True
    )
    return found


def passing(rows: int, discordance: float, gain: float, config: GateConfig, seed: int, pairs: int) -> float:
    """Share of classes with as many rows that show to keep class_margin."""
    generator, labels_N = np.random.default_rng(seed), np.zeros(rows, np.int64)
    found = 0
    for _ in range(pairs):
        champion_N = generator.random(rows) < ACCURACY
        student_N = otherwise(generator, champion_N, ACCURACY, discordance, gain)
        triple = (RECALL.statistics(labels_N, right_N - 1, ["0"]) for right_N in (student_N, champion_N, labels_N))
        found += not_worse_p_value(RECALL, *triple, config.class_margin) <= config.alpha
    return found / pairs


def measure(given: argparse.Namespace) -> dict[str, float]:
    """The two rates that are claimed, and those of `not_worse` at its boundary and for equals."""
    better, not_worse = GateConfig(), GateConfig(require="not_worse")
    run = {
        "false_promotion_rate": (0.0, better),
        "power": (GAIN, better),
        "not_worse_false_promotion_rate": (-not_worse.margin, not_worse),
        "not_worse_power": (0.0, not_worse),
    }
    return {name: promoted(given, given.discordance, gain, config, given.pairs) for name, (gain, config) in run.items()}


def tables(given: argparse.Namespace) -> list[str]:
    """Over other discordances, and over the rows of a class, from a tenth of the pairs."""
    config, few = GateConfig(), max(1, given.pairs // 10)
    lines = ["", "| discordance | equal, promoted | 2 points better, promoted |", "|---:|---:|---:|"]
    for discordance in DISCORDANCES:
        shares = [promoted(given, discordance, gain, config, few) for gain in (0.0, GAIN)]
        lines.append(f"| {discordance:.0%} | {shares[0]:.1%} | {shares[1]:.0%} |")
    lines += [
        "",
        "| rows of the class | equal recall passes | 2 points better | 5 points worse |",
        "|---:|---:|---:|---:|",
    ]
    for rows in CLASS_ROWS:
        shares = [
            passing(rows, given.discordance, gain, config, given.seed, few)
            for gain in (0.0, GAIN, -config.class_margin)
        ]
        lines.append(f"| {rows} | {shares[0]:.0%} | {shares[1]:.0%} | {shares[2]:.1%} |")
    return lines


def report(given: argparse.Namespace, found: dict[str, float]) -> str:
    """What was measured, as Markdown."""
    lines = [
        f"{processor()}; commit {commit()}; `{' '.join(['python', *sys.argv])}`",
        "",
        f"{given.pairs:,} simulated pairs of models a line, {given.rows:,} test rows, {given.classes} classes, "
        f"discordance {given.discordance:.0%}; alpha {GateConfig().alpha:g}.",
        "",
        "| require | student | promoted | standard error |",
        "|---|---|---:|---:|",
    ]
    margin = GateConfig().margin
    students = ("better | equal", f"better | {GAIN:.0%} better", f"not_worse | {margin:.0%} worse", "not_worse | equal")
    for student, share in zip(students, found.values(), strict=True):
        lines.append(f"| {student} | {share:.1%} | {(share * (1 - share) / given.pairs) ** 0.5:.1%} |")
    return "\n".join(lines + tables(given))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rates there")
    parser.add_argument("--pairs", type=int, default=2000, metavar="N", help="simulated pairs per rate")
    parser.add_argument("--rows", type=int, default=2000, metavar="N", help="test rows")
    parser.add_argument("--classes", type=int, default=2, metavar="N")
    parser.add_argument("--discordance", type=float, default=0.1, metavar="SHARE")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    given = parser.parse_args()
    found = measure(given)
    print(report(given, found))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
