"""The table of a suite of runs, shown in both UIs."""

import json
import tempfile
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact
from pydantic import BaseModel

from tasks.progress_page import offer
from tasks.run import Run
from tasks.summary import RunSummary
from tinybert import suite_report
from tinybert.config import DistillConfig
from tinybert.suite_report import TaskLine


class SuiteSummary(BaseModel):
    """What a finished suite has to show."""

    name: str
    lines: list[TaskLine]
    average: dict[str, float]
    """teacher, student, retention."""
    failures: dict[str, str]
    """Why runs failed, by task."""


class Suite:
    """The lines of a suite as its runs end.

    Args:
        name: Of the suite.
        tasks: How many runs there will be.
    """

    def __init__(self, name: str, tasks: int) -> None:
        self._name, self._tasks = name, tasks
        self._lines: list[TaskLine] = []
        self._failures: dict[str, str] = {}

    def finished(self, task: str, config: DistillConfig, summary: RunSummary) -> None:
        """A run came to its end, whatever the gate said."""
        made = (summary.comparison, summary.decision, summary.seconds, summary.model.uri, summary.pages)
        self._lines.append(suite_report.line(task, config.benchmark, *made))

    def failed(self, task: str, error: Any) -> None:
        """A run failed; the others go on."""
        self._lines.append(TaskLine(task=task, verdict="failed"))
        self._failures[task] = str(error).partition("\n")[0] or type(error).__name__

    def show(self, run: Run) -> SuiteSummary:
        """The table so far, in both UIs; the same artifact is written anew as runs end."""
        table = suite_report.markdown(f"{self._name}: {len(self._lines)} of {self._tasks} tasks", self._lines)
        failures = "".join(f"- {task}: {why}\n" for task, why in self._failures.items())
        offer(create_markdown_artifact, f"{table}\n{failures}", key="suite", description=f"Suite {self._name}")
        average = suite_report.average(self._lines)
        summary = SuiteSummary(name=self._name, lines=self._lines, average=average, failures=self._failures)
        run.log({f"average_{name}": value for name, value in average.items()}, {"mlflow.note.content": table})
        with tempfile.TemporaryDirectory() as directory:
            files = [Path(directory, name) for name in ("suite.json", "suite.png")]
            files[0].write_text(json.dumps(summary.model_dump(), indent=1) + "\n")
            suite_report.draw(self._lines, files[1])
            run.attach(files)
        return summary
