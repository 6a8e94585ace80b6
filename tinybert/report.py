"""The comparison as a table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

COLUMNS = {
    "accuracy": ("accuracy", "{:.1%}"),
    "f1_macro": ("macro F1", "{:.3f}"),
    "parameters": ("parameters", "{:,.0f}"),
    "megabytes": ("MB", "{:.1f}"),
    "latency_ms": ("ms, batch 1", "{:.1f}"),
}
"""Key of a model's number: its heading, and how it is written."""
MODELS = ("teacher", "student", "baseline")


def table_rows(comparison: Mapping[str, Any]) -> list[list[str]]:
    """The comparison as rows of text, the heading first: a model a row."""
    header = ["", *(heading for heading, _ in COLUMNS.values()), "retention", "speed-up"]
    rows = [header]
    for name in MODELS:
        if name not in comparison:
            continue
        numbers = comparison[name]
        cells = [form.format(numbers[key]) for key, (_, form) in COLUMNS.items()]
        retention = numbers["accuracy"] / comparison["teacher"]["accuracy"]
        speedup = comparison["teacher"]["latency_ms"] / numbers["latency_ms"]
        rows.append([name, *cells, f"{retention:.1%}", f"{speedup:.1f}x"])
    return rows


def write_table(comparison: Mapping[str, Any], path: Path) -> None:
    """The comparison as a Markdown table."""
    header, *rows = table_rows(comparison)
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    path.write_text("".join(f"| {' | '.join(line)} |\n" for line in lines))
