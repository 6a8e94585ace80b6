"""The comparison as a table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MODELS = ("teacher", "student", "onnx", "int8", "baseline", "champion")
"""Those that can stand in a comparison, in the table's order."""
HEADINGS = ("", "accuracy", "macro F1", "parameters", "MB", "p50 ms", "retention", "speed-up", "agreement")


def table_rows(comparison: Mapping[str, Any]) -> list[list[str]]:
    """The comparison as rows of text, the heading first: a model a row, those that are present.

    Retention is the share of the teacher's accuracy, speed-up the teacher's median latency over the model's, agreement
    the share of rows where it says what the teacher says.
    """
    teacher = comparison["teacher"]
    return [list(HEADINGS), *(_row(name, comparison[name], teacher) for name in MODELS if name in comparison)]


def _row(name: str, numbers: Mapping[str, float], teacher: Mapping[str, float]) -> list[str]:
    low, high = 100 * numbers["accuracy_low"], 100 * numbers["accuracy_high"]
    return [
        name,
        f"{numbers['accuracy']:.1%} ({low:.1f}-{high:.1f})",
        f"{numbers['f1_macro']:.3f}",
        f"{numbers['parameters']:,.0f}",
        f"{numbers['megabytes']:.1f}",
        f"{numbers['latency_ms']:.1f}",
        f"{ratio(numbers['accuracy'], teacher['accuracy']):.1%}",
        f"{ratio(teacher['latency_ms'], numbers['latency_ms']):.1f}x",
        f"{numbers['agreement']:.1%}",
    ]


def ratio(one: float, other: float) -> float:
    """One over the other; 0 where the other is 0, as a teacher's accuracy can be."""
    return one / other if other else 0.0


def notes(comparison: Mapping[str, Any]) -> list[str]:
    """Sentences on what the table's numbers were measured on."""
    rows = f"{comparison['rows']:,} {'validation' if comparison['test_is_validation'] else 'test'} rows"
    found = [f"{rows}, the same for all models; in brackets the accuracy's {comparison['confidence']:.0%} interval."]
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


def write_table(comparison: Mapping[str, Any], path: Path) -> None:
    """The comparison as a Markdown table, and below it what it was measured on."""
    header, *rows = table_rows(comparison)
    lines: Sequence[Sequence[str]] = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    path.write_text(f"{table}\n{' '.join(notes(comparison))}\n")
