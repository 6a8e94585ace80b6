"""One flow run as people see it: stage n of m, the MLflow parent run, the closing summary with its links."""

import json
import logging
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
from tasks.lineage import commit
from tasks.runners import states_of
from tasks.settings import settings
from tasks.stage import status_after
from tasks.tracked_run import TrackedRun
from tinybert.progress import clock
from tinybert.refs import ModelRef, PublishResult, Ref, ReportRef
from tinybert.released import COMPARED_AS
from tinybert.report import MODELS, SCORES
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
    decision: dict[str, Any]
    stages: list[StageTime]
    seconds: float
    model: ModelRef
    model_directory: str
    report_directory: str
    page: str
    registered: str | None = None
    outcome: str | None = None
    tracking_uri: str
    tracking_page: str | None = None


class Made(BaseModel):
    """What the last stages of a run left to show."""

    model: ModelRef
    report: ReportRef
    decision: ReportRef
    published: PublishResult | None = None

    @property
    def outcome(self) -> str | None:
        """What became of it in the registry; None where it was not published."""
        return self.published.outcome if self.published else None

    @property
    def registered(self) -> str | None:
        """The registered model and version; None where it was not published."""
        return f"{self.published.name} version {self.published.version}" if self.published else None


class Run:
    """A flow run in progress. Calling it with a task runs that task as the next stage."""

    def __init__(self, stages: int, tracked: TrackedRun) -> None:
        self._planned, self._tracked = stages, tracked
        self._begun = time.monotonic()
        self.stages: list[StageTime] = []
        self.outputs: dict[str, Ref] = {}

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
        self.outputs.update((task.name, ref) for result in results for ref in _refs(result))
        logger.info("%s  %s", place, "cached" if cached else f"done in {clock(seconds)}")
        return results

    def expect(self, stages: int) -> None:
        """There will be so many stages more than was thought."""
        self._planned += stages

    def always(self, task: Task[..., R], *arguments: Any) -> R:
        """Run a task that is no stage: it is quick, is never cached, and is not counted."""
        return task(*arguments)

    def log(self, metrics: dict[str, float], tags: dict[str, str]) -> None:
        """Tell MLflow's parent run numbers and facts about the run as a whole."""
        self._tracked.log_metrics(metrics, 0)
        self._tracked.set_tags(tags)

    def attach(self, files: Sequence[Path]) -> None:
        """Show small files on MLflow's parent run; they may go away afterwards."""
        for file in files:
            self._tracked.log_file(file)

    @property
    def links(self) -> dict[str, str]:
        """Pages about this run, where servers have any."""
        pages = {"MLflow": self._tracked.url, "Prefect": _prefect_page()}
        return {server: page for server, page in pages.items() if page}

    def summarise(self, name: str, made: Made, page: ReportRef) -> RunSummary:
        """Collect what the run made, and show it in both UIs."""
        report = sources.local(made.report)
        summary = RunSummary(
            name=name,
            comparison=json.loads((report / "comparison.json").read_text()),
            decision=json.loads((sources.local(made.decision) / "decision.json").read_text()),
            stages=self.stages,
            seconds=round(time.monotonic() - self._begun, 1),
            model=made.model,
            model_directory=str(sources.local(made.model)),
            report_directory=str(report),
            page=str(sources.local(page) / "report.html"),
            registered=made.registered,
            outcome=made.outcome,
            tracking_uri=settings().tracking_uri.partition("://")[0] + "://" + _address(settings().tracking_uri),
            tracking_page=self._tracked.url,
        )
        self._show(summary, made, page)
        return summary

    def _show(self, summary: RunSummary, made: Made, page: ReportRef) -> None:
        report, decision = Path(summary.report_directory), sources.local(made.decision)
        markdown = _markdown(summary, (report / "comparison.md").read_text(), (decision / "decision.md").read_text())
        create_markdown_artifact(markdown, key="summary", description=f"Distillation of {summary.name}")
        self._tracked.log_text(markdown, "summary.md")
        self.attach([*sorted(report.glob("*.png")), Path(summary.page)])
        facts = {
            "model.uri": summary.model.uri,
            "model.registered": summary.registered or "",
            "report.uri": page.uri,
            "verdict": summary.outcome or summary.decision["verdict"],
            "served": summary.decision["served"],
            "mlflow.note.content": markdown,  # the run's description on its page
        }
        self.log({**_columns(summary), "run_seconds": summary.seconds}, facts)


def _columns(summary: RunSummary) -> dict[str, float]:
    """Few numbers, by which runs are compared in MLflow; what was measured of each model, the stage evaluate has."""
    decision, comparison = summary.decision, summary.comparison
    judged = ("retention", "speedup", "megabytes", "latency_ms", "difference", "p_value")
    served, metric = comparison[COMPARED_AS[decision["served"]]], comparison["metric"]
    columns = {key: decision[key] for key in judged} | {key: served[key] for key in comparison["metrics"][:SCORES]}
    columns |= {f"{name}_{metric}": comparison[name][metric] for name in MODELS if name in comparison}
    return {key: value for key, value in columns.items() if value is not None}


def _prefect_page() -> str | None:
    """Where a server shows this flow run; without one, Prefect makes an address that begins with None."""
    page = flow_run.ui_url
    return str(page) if page and page.startswith("http") else None


def _is_stored(result: Any) -> bool:
    """The artifact a stage's result points to is there."""
    return all(store().holds(Ref(uri=ref.uri, digest=ref.digest)) for ref in _refs(result))


def _address(uri: str) -> str:
    """A tracking URI's part after the scheme, without user and password."""
    authority, slash, path = uri.partition("://")[2].partition("/")
    return authority.rpartition("@")[2] + slash + path


def _refs(result: Any) -> list[Ref]:
    """What a stage's result points to."""
    return [value for _, value in result if isinstance(value, Ref)]


def _markdown(summary: RunSummary, table: str, rules: str) -> str:
    stages = "".join(
        f"| {stage.name} | {stage.seconds:.1f} | {'cached' if stage.cached else ''} |\n" for stage in summary.stages
    )
    page = f"[MLflow run]({summary.tracking_page})" if summary.tracking_page else f"MLflow: `{summary.tracking_uri}`"
    registered = f", registered as `{summary.registered}` ({summary.outcome})" if summary.registered else ""
    return (
        f"## {summary.name}\n\n{summary.decision['summary']}\n\n{table}\n{rules}\n"
        f"{page}, report `{summary.page}`, model `{summary.model.uri}`{registered}\n\n"
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
        "prefect.flow_run_url": _prefect_page() or "",
        "git.commit": commit(),
    }
    tracked = tracker().start_flow(str(flow_run.id), name, {k: v for k, v in tags.items() if v})
    try:
        tracked.log_config(config)
        yield Run(stages, tracked)
    except BaseException as error:
        tracked.close(status_after(error))
        raise
    tracked.close("FINISHED")
