"""One flow run as people see it: stage n of m, the MLflow parent run, the closing summary with its links."""

import json
import logging
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from prefect import Task
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run
from pydantic import BaseModel

from tasks import sources
from tasks.connections import store, tracker
from tasks.runners import states_of
from tasks.settings import settings
from tasks.stage import status_after
from tasks.tracked_run import TrackedRun
from tinybert.progress import clock
from tinybert.refs import ModelRef, Ref, ReportRef
from tinybert.training_config import LaunchConfig

logger = logging.getLogger("tinybert")
R = TypeVar("R")


class StageTime(BaseModel):
    """How one stage of a run went."""

    name: str
    seconds: float
    cached: bool


class RunSummary(BaseModel):
    """What a finished run has to show."""

    name: str
    comparison: dict[str, Any]
    stages: list[StageTime]
    seconds: float
    model: ModelRef
    model_directory: str
    report_directory: str
    registered: str | None = None
    tracking_uri: str
    tracking_page: str | None = None


class Run:
    """A flow run in progress. Calling it with a task runs that task as the next stage."""

    def __init__(self, stages: int, tracked: TrackedRun) -> None:
        self._planned, self._tracked = stages, tracked
        self._begun = time.monotonic()
        self.stages: list[StageTime] = []

    def __call__(self, task: Task[..., R], *arguments: Any) -> R:
        """Run a task as a stage, tell how far the run is, and give back the task's result.

        Raises:
            Exception: Whatever the stage raised, after its retries.
        """
        return self.map(task, [arguments], LaunchConfig())[0]

    def map(self, task: Task[..., R], calls: Sequence[tuple[Any, ...]], launch: LaunchConfig) -> list[R]:
        """Run a task once for each call, as one stage: here in turn, or on the Ray cluster of `launch`.

        Raises:
            Exception: Whatever the first of them to fail raised, after its retries.
        """
        place = f"[{len(self.stages) + 1}/{self._planned}] {task.name}"
        logger.info("%s", place)
        begun, cached, results = time.monotonic(), True, list[R]()
        for number, state in enumerate(states_of(task, calls, launch), start=1):
            results.append(state.result())
            cached &= state.name == "Cached"
            if len(calls) > 1:
                logger.info("%s  shard %d of %d: %s", place, number, len(calls), state.name)
        lost = [number for number, result in enumerate(results) if not _is_stored(result)]
        if lost:
            logger.info("%s  cached output is gone from the store; computing it again", place)
            fresh = task.with_options(refresh_cache=True)
            for number, state in zip(lost, states_of(fresh, [calls[n] for n in lost], launch), strict=True):
                results[number] = state.result()
        seconds, cached = time.monotonic() - begun, cached and not lost
        self.stages.append(StageTime(name=task.name, seconds=round(seconds, 2), cached=cached))
        logger.info("%s  %s", place, "cached" if cached else f"done in {clock(seconds)}")
        return results

    def always(self, task: Task[..., R], *arguments: Any) -> R:
        """Run a task that is no stage: it is quick, is never cached, and is not counted."""
        return task(*arguments)

    def summarise(self, name: str, model: ModelRef, report: ReportRef, registered: str | None) -> RunSummary:
        """Collect what the run made, and show it in both UIs."""
        report_directory = sources.local(report)
        summary = RunSummary(
            name=name,
            comparison=json.loads((report_directory / "comparison.json").read_text()),
            stages=self.stages,
            seconds=round(time.monotonic() - self._begun, 1),
            model=model,
            model_directory=str(sources.local(model)),
            report_directory=str(report_directory),
            registered=registered,
            tracking_uri=settings().tracking_uri.partition("://")[0] + "://" + _address(settings().tracking_uri),
            tracking_page=self._tracked.url,
        )
        self._show(summary, report_directory)
        return summary

    def _show(self, summary: RunSummary, report: Path) -> None:
        markdown = _markdown(summary, (report / "comparison.md").read_text())
        create_markdown_artifact(markdown, key="summary", description=f"Distillation of {summary.name}")
        self._tracked.log_text(markdown, "summary.md")
        for picture in sorted(report.glob("*.png")):
            self._tracked.log_file(picture)
        numbers = {key: summary.comparison[key] for key in ("retention", "speedup")}
        for name in ("teacher", "student", "baseline"):
            numbers |= {f"{name}_{key}": value for key, value in summary.comparison.get(name, {}).items()}
        self._tracked.log_metrics({**numbers, "run_seconds": summary.seconds}, 0)
        self._tracked.set_tags({"model.uri": summary.model.uri, "model.registered": summary.registered or ""})


def _is_stored(result: Any) -> bool:
    """The artifact a stage's result points to is there."""
    refs = [value for _, value in result if isinstance(value, Ref)]
    return all(store().holds(Ref(uri=ref.uri, digest=ref.digest)) for ref in refs)


def _address(uri: str) -> str:
    """A tracking URI's part after the scheme, without user and password."""
    authority, slash, path = uri.partition("://")[2].partition("/")
    return authority.rpartition("@")[2] + slash + path


def _markdown(summary: RunSummary, table: str) -> str:
    stages = "".join(
        f"| {stage.name} | {stage.seconds:.1f} | {'cached' if stage.cached else ''} |\n" for stage in summary.stages
    )
    page = f"[MLflow run]({summary.tracking_page})" if summary.tracking_page else f"MLflow: `{summary.tracking_uri}`"
    registered = f", registered as `{summary.registered}`" if summary.registered else ""
    return (
        f"## {summary.name}\n\n{table}\n{page}, model `{summary.model.uri}`{registered}\n\n"
        f"| stage | seconds | |\n|---|---:|---|\n{stages}"
    )


@contextmanager
def open_run(config: BaseModel, name: str, stages: int) -> Iterator[Run]:
    """Open the MLflow parent run of this flow run; close it as the flow ends.

    Args:
        config: Logged as parameters.
        name: Of the run.
        stages: How many there will be.
    """
    logger.setLevel(logging.INFO)  # also where a worker, not our command line, set up the logging
    tracker().replay()
    tags = {
        "prefect.flow_run_id": str(flow_run.id or ""),
        "prefect.flow_run_name": str(flow_run.name or ""),
        "prefect.flow_run_url": str(flow_run.ui_url or ""),
        "git.commit": _commit(),
    }
    tracked = tracker().start_flow(str(flow_run.id), name, {k: v for k, v in tags.items() if v})
    try:
        tracked.log_config(config)
        yield Run(stages, tracked)
    except BaseException as error:
        tracked.close(status_after(error))
        raise
    tracked.close("FINISHED")


def _commit() -> str:
    """The commit this code stands at; empty outside a git checkout."""
    here = Path(__file__).parent
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
