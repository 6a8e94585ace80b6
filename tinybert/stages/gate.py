"""The decision about a student, out of the report of its evaluation."""

import json
from pathlib import Path

import pyarrow.parquet as pq

from tinybert.cli import main
from tinybert.errors import DataError
from tinybert.gate import Answered, Decision, judge
from tinybert.kinds import kind_of
from tinybert.kinds.task_kind import TaskKind
from tinybert.progress import OnMetrics, logger
from tinybert.release_config import GateConfig

PREFIX = "answer_"


def run(*, report: Path, config: GateConfig, out: Path, on_metrics: OnMetrics) -> dict[str, float]:
    """Judge the student.

    Args:
        report: What the stage `evaluate` wrote: `predictions.parquet` and `comparison.json` are read.
        config: The rules.
        out: Directory to write: `decision.json` (`tinybert.gate.Decision`) and `decision.md`.
        on_metrics: Told the numbers.

    Returns:
        promote (1 or 0), forced, rules_failed, retention, speedup, megabytes, latency_ms, and with a champion
        difference, difference_low, difference_high, p_value.

    Raises:
        DataError: The report lacks a file, or something in it, e.g. the student's answers.
    """
    for name in ("comparison.json", "predictions.parquet"):
        if not (report / name).exists():
            raise DataError(f"{report}: no {name}; name the directory that the stage evaluate wrote")
    comparison = json.loads((report / "comparison.json").read_text(encoding="utf-8"))
    if not {"kind", "metric"} <= comparison.keys():
        raise DataError(f"{report}: its comparison names no kind and no metric; evaluate the student again")
    rows = read_answers(report / "predictions.parquet", kind_of(comparison["kind"]), comparison["labels"])
    decision = judge(rows, comparison, config)
    (out / "decision.json").write_text(decision.model_dump_json(indent=1) + "\n", encoding="utf-8")
    (out / "decision.md").write_text(as_markdown(decision), encoding="utf-8")
    logger.info("gate  %s", decision.summary)
    metrics = _metrics(decision)
    on_metrics(metrics, 0)
    return metrics


def read_answers(path: Path, kind: TaskKind, names: list[str]) -> Answered:
    """The rows of `predictions.parquet`, of a task of this kind whose outputs have these names."""
    table = pq.read_table(path)
    columns = [column for column in table.column_names if column.startswith(PREFIX)]
    answers = {column.removeprefix(PREFIX): table[column].to_pylist() for column in columns}
    if missing := {"teacher", "student"} - answers.keys():
        raise DataError(f"{path}: no answers of {' and '.join(sorted(missing))}; evaluate the student again")
    return Answered(kind, table["label"].to_pylist(), table["seen_by_champion"].to_numpy(), answers, names)


def as_markdown(decision: Decision) -> str:
    """The decision for people."""
    results = {True: "pass", False: "FAIL", None: "-"}
    lines = ["# Promoted" if decision.verdict == "promote" else "# Rejected", "", decision.summary, ""]
    lines += ["| rule | result | found | wanted |", "|---|---|---|---|"]
    lines += [_row(rule.name, results[rule.passed], rule.found, rule.wanted) for rule in decision.rules]
    lines += ["", "| variant | published | why |", "|---|---|---|"]
    for name, fate in decision.variants.items():
        published = "no" if not fate.kept else "yes, answers" if name == decision.served else "yes"
        lines.append(_row(name, published, fate.reason))
    lines += ["", *(f"- {note}" for note in decision.notes)] if decision.notes else []
    return "\n".join(lines) + "\n"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _metrics(decision: Decision) -> dict[str, float]:
    named = ("retention", "speedup", "megabytes", "latency_ms")
    contested = ("difference", "difference_low", "difference_high", "p_value")
    numbers = {name: getattr(decision, name) for name in (*named, *contested)}
    return {
        "promote": float(decision.verdict == "promote"),
        "forced": float(decision.forced),
        "rules_failed": float(len(decision.failed())),
        **{name: value for name, value in numbers.items() if value is not None},
    }


if __name__ == "__main__":
    main(run)
