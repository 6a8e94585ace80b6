"""One flow run as people see it: stage n of m, the MLflow parent run, the closing summary with its links."""

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from prefect import Task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.runtime import flow_run
from pydantic import BaseModel

from tasks import sources
from tasks.connections import store, tracker
from tasks.lineage import commit
from tasks.masking import mask_logs, masked_error
from tasks.progress_page import LiveTable, Row, offer
from tasks.runners import states_of
from tasks.settings import settings
from tasks.spool import Status
from tasks.stage import status_after
from tasks.summary import Made, RunSummary, StageTime, markdown, model_page, stage_row
from tasks.tracked_run import TrackedRun
from tinybert.errors import IntegrityError, StoreError, TransientError
from tinybert.progress import clock
from tinybert.refs import Ref, ReportRef, refs_in
from tinybert.released import COMPARED_AS
from tinybert.report import MODELS, SCORES
from tinybert.training_config import LaunchConfig

logger = logging.getLogger("tinybert")
R = TypeVar("R")


class Run:
    """A flow run in progress. Calling it with a task runs that task as the next stage."""

    def __init__(self, stages: int, tracked: TrackedRun, reason: str = "") -> None:
        self._planned, self._tracked, self._reason = stages, tracked, reason
        self._begun = time.monotonic()
        self._table = LiveTable("stages")
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
        self._show_stages(stage_row(task.name, "running"))
        begun = time.monotonic()
        try:
            results, cached = self._results(task, calls, launch, place)
        except BaseException:
            self._show_stages(stage_row(task.name, "failed", round(time.monotonic() - begun, 2)))
            raise
        seconds, refs = time.monotonic() - begun, [ref for result in results for ref in _refs(result)]
        made = {"output": ", ".join(sorted({_kind(ref) for ref in refs})), "megabytes": _megabytes(refs)}
        self.stages.append(StageTime(name=task.name, seconds=round(seconds, 2), cached=cached, **made))
        self.outputs.update((task.name, ref) for ref in refs)
        self._show_stages()
        logger.info("%s  %s", place, "cached" if cached else f"done in {clock(seconds)}")
        return results

    def _results(
        self, task: Task[..., R], calls: Sequence[tuple[Any, ...]], launch: LaunchConfig, place: str
    ) -> tuple[list[R], bool]:
        """What the calls gave back, and whether all of it was there already."""
        cached, results = True, list[R]()
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
        return results, cached and not lost

    def _show_stages(self, *current: Row) -> None:
        """Show the table of stages so far, and what is known of the current one."""
        rows = [stage.row for stage in self.stages]
        self._table.show([*rows, *current], f"{len(rows)} of {self._planned} stages done")

    def close(self) -> None:
        """There will be no more stages."""
        self._table.end()

    def expect(self, stages: int) -> None:
        """There will be so many stages more than was thought."""
        self._planned += stages

    def always(self, task: Task[..., R], *arguments: Any) -> R:
        """Run a task that is no stage: it is quick, and never cached. MLflow has its seconds as `preflight_seconds`."""
        begun = time.monotonic()
        found = task(*arguments)
        self._tracked.log_metrics({f"{task.name}_seconds": time.monotonic() - begun}, 0)
        return found

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
        report, mlflow = sources.local(made.report), self._tracked.url
        summary = RunSummary(
            name=name,
            reason=self._reason,
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
            tracking_page=mlflow,
            report_page=mlflow and f"{mlflow}/artifacts/report.html",
            model_page=mlflow and made.published and model_page(mlflow, made.published),
        )
        self._show(summary, made, page)
        return summary

    def _show(self, summary: RunSummary, made: Made, page: ReportRef) -> None:
        report, decision = Path(summary.report_directory), sources.local(made.decision)
        text = markdown(summary, (report / "comparison.md").read_text(), (decision / "decision.md").read_text())
        offer(create_markdown_artifact, text, key="summary", description=f"Distillation of {summary.name}")
        self._tracked.log_text(text, "summary.md")
        self.attach([*sorted(report.glob("*.png")), Path(summary.page)])
        _link("report", summary.report_page, "Report", f"Report of {summary.name}")
        _link("model", summary.model_page, summary.registered or "", f"Model of {summary.name}")
        facts = {
            "model.uri": summary.model.uri,
            "model.registered": summary.registered or "",
            "report.uri": page.uri,
            "verdict": summary.outcome or summary.decision["verdict"],
            "served": summary.decision["served"],
            "mlflow.note.content": text,  # the run's description on its page
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
    return [ref for _, value in result for ref in refs_in(value)]


def _kind(ref: Ref) -> str:
    """What a ref of the store points to, as the store calls it."""
    return ref.uri.split("/")[-2]


def _megabytes(refs: Sequence[Ref]) -> float | None:
    """How much the store keeps of these; None where it does not say."""
    try:
        return round(sum(store().size(ref) for ref in refs) / 1e6, 2) if refs else None
    except (StoreError, IntegrityError, TransientError):
        return None


def _link(key: str, page: str | None, text: str, description: str) -> None:
    """A page that a server has, as an artifact of the flow run."""
    if page:
        offer(create_link_artifact, page, text, key=key, description=description)


@contextmanager
def open_run(config: BaseModel, name: str, stages: int) -> Iterator[Run]:
    """Open the MLflow parent run of this flow run; close it as the flow ends.

    Args:
        config: Logged as parameters.
        name: Of the run.
        stages: How many there will be.
    """
    logger.setLevel(logging.INFO)  # also where a worker, not our command line, set up the logging
    mask_logs()
    tracker().replay()
    reason = getattr(config, "reason", None) or ""
    tags = {
        "prefect.flow_run_id": str(flow_run.id or ""),
        "prefect.flow_run_name": str(flow_run.name or ""),
        "prefect.flow_run_url": _prefect_page() or "",
        "git.commit": commit(),
        "reason": reason,
    }
    tracked = tracker().start_flow(str(flow_run.id), name, {k: v for k, v in tags.items() if v})
    run = Run(stages, tracked, reason)
    status: Status = "FINISHED"
    try:
        tracked.log_config(config)
        _link("mlflow-run", tracked.url, "MLflow run", f"Curves and numbers of {name}")
        if reason:
            offer(create_markdown_artifact, f"{reason}\n", key="reason", description=f"Why there is a run of {name}")
        yield run
    except BaseException as error:
        status = status_after(error)
        if isinstance(error, Exception) and (shown := masked_error(error)) is not error:
            raise shown from None
        raise
    finally:
        run.close()
        tracked.close(status)
