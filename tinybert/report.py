"""The comparison as a table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinybert.metrics import TITLES

MODELS = ("teacher", "student", "onnx", "int8", "baseline", "champion")
"""Those that can stand in a comparison, in the table's order."""
HEADINGS = ("parameters", "MB", "p50 ms", "retention", "speed-up", "agreement")
"""Behind the model and its scores."""
SCORES = 2
"""Scores that have a column, the one that decides and the next."""


def table_rows(comparison: Mapping[str, Any]) -> list[list[str]]:
    """The comparison as rows of text, the heading first: a model a row, those that are present.

    Retention is the share of the teacher's score, speed-up the teacher's median latency over the model's, agreement
    the score that it has where the teacher's answers are taken for the right ones.
    """
    titles = [TITLES[name] for name in comparison["metrics"][:SCORES]]
    names = [name for name in MODELS if name in comparison]
    return [["", *titles, *HEADINGS], *([name, *_numbers(comparison[name], comparison)] for name in names)]


def _numbers(numbers: Mapping[str, float], comparison: Mapping[str, Any]) -> list[str]:
    metric, teacher = comparison["metric"], comparison["teacher"]
    low, high = 100 * numbers[f"{metric}_low"], 100 * numbers[f"{metric}_high"]
    return [
        f"{numbers[metric]:.1%} ({low:.1f}{'-' if low >= 0 else ' to '}{high:.1f})",
        *(f"{numbers[name]:.1%}" for name in comparison["metrics"][1:SCORES]),
        f"{numbers['parameters']:,.0f}",
        f"{numbers['megabytes']:.1f}",
        f"{numbers['latency_ms']:.1f}",
        f"{ratio(numbers[metric], teacher[metric]):.1%}",
        f"{ratio(teacher['latency_ms'], numbers['latency_ms']):.1f}x",
        f"{numbers['agreement']:.1%}",
    ]


def ratio(one: float, other: float) -> float:
    """One over the other; 0 where the other is 0, as a teacher's score can be."""
    return one / other if other else 0.0


def notes(comparison: Mapping[str, Any]) -> list[str]:
    """Sentences on what the table's numbers were measured on."""
    rows = f"{comparison['rows']:,} {'validation' if comparison['test_is_validation'] else 'test'} rows"
    title, confidence = TITLES[comparison["metric"]], comparison["confidence"]
    found = [f"{rows}, the same for all models; in brackets the {confidence:.0%} interval of the {title}."]
    if comparison["metric"] != "accuracy":
        found.append(f"Agreement is the {title} where the teacher's answers are taken for the right ones.")
    if comparison["test_is_validation"]:
        found.append("Checkpoints were chosen on the same rows, so the scores are a little too good.")
    threads = f"{comparison['threads']} CPU thread{'s' if comparison['threads'] > 1 else ''}"
    found.append(f"Timed side by side, one row at a time, {threads}; {comparison['device']}.")
    if comparison["seen_by_champion"]:
        seen = f"The champion was trained on {comparison['seen_by_champion']:,} of these rows"
        found.append(f"{seen}; comparisons row by row leave them out, the table does not.")
    if "champion_left_out" in comparison:
        found.append(f"The champion is left out: {comparison['champion_left_out']}")
    return found


def other_tests(comparison: Mapping[str, Any]) -> list[str]:
    """A line for each further test: the score of every model that is in the table."""
    metric, lines = comparison["metric"], []
    for name, test in comparison.get("other_tests", {}).items():
        scores = ", ".join(f"{model} {test[model][metric]:.1%}" for model in MODELS if model in test)
        lines.append(f"{name} ({test['rows']:,} rows), {TITLES[metric]}: {scores}")
    return lines


def write_table(comparison: Mapping[str, Any], path: Path, numbered: str = "") -> None:
    """The comparison as a Markdown table, and below it what it was measured on, further tests, and `numbered`.

    Args:
        comparison: Content of `comparison.json`.
        path: Markdown file to write.
        numbered: What the numbers in pictures stand for, where labels cannot be drawn.
    """
    header, *rows = table_rows(comparison)
    lines: Sequence[Sequence[str]] = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    below = "".join(f"- {line}\n" for line in other_tests(comparison))
    parts = [table, " ".join(notes(comparison)) + "\n", below, f"In the pictures: {numbered}\n" if numbered else ""]
    path.write_text("\n".join(part for part in parts if part), encoding="utf-8")
