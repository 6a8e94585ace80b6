"""Several runs side by side: scores of teacher and student task by task, and their average, as a benchmark has it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import BaseModel

from tinybert.benchmark_table import BENCHMARKS, BenchmarkName
from tinybert.metrics import TITLES
from tinybert.released import COMPARED_AS
from tinybert.report import ratio

HEADINGS = ("task", "score", "teacher", "student", "retention", "speed-up", "MB", "test rows", "verdict", "minutes")


class TaskLine(BaseModel):
    """How one run of a suite went; what a run that failed does not have is None."""

    task: str
    scores: str = ""
    """What teacher and student are scored by; of several, the mean."""
    teacher: float | None = None
    student: float | None = None
    """The served variant."""
    retention: float | None = None
    speedup: float | None = None
    megabytes: float | None = None
    rows: int | None = None
    verdict: str
    seconds: float | None = None
    model: str | None = None
    """URI of the package."""
    pages: dict[str, str] = {}
    """What servers show of the run: addresses, by what is there."""


def line(
    task: str,
    benchmark: BenchmarkName | None,
    comparison: Mapping[str, Any],
    decision: Mapping[str, Any],
    seconds: float,
    model: str,
    pages: Mapping[str, str],
) -> TaskLine:
    """A finished run in one line.

    Args:
        task: Its name in the suite.
        benchmark: Whose averaged scores count, where there are several; else the deciding one counts alone.
        comparison: Of its stage evaluate. The scores on further tests, such as MNLI's mismatched rows, count as much
            as those on the test rows.
        decision: Of its stage gate.
        seconds: It took.
        model: URI of its package.
        pages: Addresses of its pages, by what is there.
    """
    averaged = BENCHMARKS[benchmark].averaged if benchmark else ()
    names = [name for name in averaged or (comparison["metric"],) if name in comparison["metrics"]]
    served = COMPARED_AS[decision["served"]]
    tests = [comparison, *comparison.get("other_tests", {}).values()]
    teacher, student = (fmean(test[model][name] for test in tests for name in names) for model in ("teacher", served))
    more = "".join(f", {name}" for name in comparison.get("other_tests", {}))
    return TaskLine(
        task=task,
        scores=" and ".join(TITLES[name] for name in names) + more,
        teacher=teacher,
        student=student,
        retention=ratio(student, teacher),
        speedup=decision["speedup"],
        megabytes=decision["megabytes"],
        rows=comparison["rows"],
        verdict=decision["verdict"],
        seconds=seconds,
        model=model,
        pages=dict(pages),
    )


def average(lines: Sequence[TaskLine]) -> dict[str, float]:
    """Means of the finished runs: teacher, student, and the retention of these two; nothing where none finished."""
    done = [entry for entry in lines if entry.teacher is not None and entry.student is not None]
    if not done:
        return {}
    teacher, student = (fmean(getattr(entry, name) for entry in done) for name in ("teacher", "student"))
    return {"teacher": teacher, "student": student, "retention": ratio(student, teacher)}


def table_rows(lines: Sequence[TaskLine]) -> list[list[str]]:
    """The lines as rows of text, the heading first, the average last."""
    means = average(lines)
    done = sum(entry.teacher is not None for entry in lines)
    named = "average" if done in (0, len(lines)) else f"average of {done} of {len(lines)}"
    last = [named, "", *(_percent(means.get(name)) for name in ("teacher", "student", "retention"))]
    return [list(HEADINGS), *map(_row, lines), [*last, "", "", "", "", _minutes(sum(e.seconds or 0 for e in lines))]]


def _row(entry: TaskLine) -> list[str]:
    return [
        entry.task,
        entry.scores,
        *(_percent(value) for value in (entry.teacher, entry.student, entry.retention)),
        "" if entry.speedup is None else f"{entry.speedup:.1f}x",
        "" if entry.megabytes is None else f"{entry.megabytes:.1f}",
        "" if entry.rows is None else f"{entry.rows:,}",
        entry.verdict,
        _minutes(entry.seconds),
    ]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _minutes(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds / 60:.1f}"


def markdown(name: str, lines: Sequence[TaskLine]) -> str:
    """The table for both UIs, with links where servers have pages of the runs."""
    header, *rows = table_rows(lines)
    rule = ["---", "---", *["---:"] * 6, "---", "---:"]
    if any(entry.pages for entry in lines):
        links = [", ".join(f"[{what}]({page})" for what, page in entry.pages.items()) for entry in lines]
        header, rule = [*header, "pages"], [*rule, "---"]
        rows = [[*row, cell] for row, cell in zip(rows, [*links, ""], strict=True)]
    return f"## {name}\n\n" + "".join(f"| {' | '.join(cells)} |\n" for cells in (header, rule, *rows))


def draw(lines: Sequence[TaskLine], path: Path) -> None:
    """Teacher beside student, a pair of bars a task."""
    from matplotlib.figure import Figure

    done = [entry for entry in lines if entry.teacher is not None]
    figure = Figure(figsize=(2 + 0.9 * max(1, len(done)), 4), layout="constrained")
    axes = figure.subplots()
    for shift, model in ((-0.2, "teacher"), (0.2, "student")):
        heights = [100 * (getattr(entry, model) or 0) for entry in done]
        bars = axes.bar([place + shift for place in range(len(done))], heights, width=0.4, label=model)
        axes.bar_label(bars, fmt="%.1f", fontsize="small")
    axes.set_xticks(range(len(done)), [entry.task for entry in done])
    axes.set_ylabel("score, %")
    axes.margins(y=0.15)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)
