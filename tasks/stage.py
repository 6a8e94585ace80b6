"""What surrounds every stage, once: fetch and verify, track, show, keep checkpoints, upload, close truthfully."""

import errno
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, TypeVar

from filelock import FileLock
from prefect.exceptions import TerminationSignal
from prefect.runtime import flow_run, task_run
from pydantic import BaseModel

from tasks import launch
from tasks.checkpoints import mirrored
from tasks.connections import store, tracker
from tasks.policy import stage_key, stage_module
from tasks.progress_page import on_page
from tasks.settings import settings
from tasks.tracked_run import TrackedRun
from tinybert.errors import StoreError
from tinybert.refs import StageResult, refs_in
from tinybert.resume import resume_beside
from tinybert.training_config import LaunchConfig

logger = logging.getLogger("tinybert")

T = TypeVar("T", bound=StageResult)


class OpenStage:
    """A stage in progress: its inputs as local paths, its output directory, its MLflow run."""

    def __init__(self, name: str, inputs: dict[str, Any], directory: Path, run: TrackedRun) -> None:
        self.name, self.inputs, self.out, self.run = name, inputs, directory / "out", run
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir(parents=True)

    def compute(self) -> dict[str, float]:
        """Run the stage's function on the inputs, in as many processes as they say, and show how far it is.

        Raises:
            StoreError: The disk is full.
        """
        key = self.out.parent.name
        try:
            with on_page(self.name):
                return launch.compute(stage_module(self.name), key, self.inputs, self.out, self.run.log_metrics)
        except Exception as error:
            if _disk_is_full(error):
                message = f"{self.name}: the disk is full; free space in {settings().work}, or set TINYBERT_WORK"
                raise StoreError(message) from error
            raise

    def finish(self, result: type[T], metrics: dict[str, float]) -> T:
        """Upload the output and wrap its ref as the stage's result."""
        field, ref = next((n, f.annotation) for n, f in result.model_fields.items() if n != "metrics")
        assert ref is not None
        stored = store().put(field, self.out, given=True)
        self.run.set_tags({"output.uri": stored.uri, "output.digest": stored.digest})
        for picture in [*self.out.glob("*.png"), *self.out.glob("*.md"), *self.out.glob("manifest.json")]:
            self.run.log_file(picture)
        for table in self.out.glob("examples.json"):
            self.run.log_table(table)
        return result(metrics=metrics, **{field: ref(uri=stored.uri, digest=stored.digest)})


@contextmanager
def open_stage(name: str, **inputs: Any) -> Iterator[OpenStage]:
    """Open a stage. Its directory, and its checkpoints in the store, are named after its inputs and its code.

    So a retry, or a new run after a kill, continues at the last checkpoint, on whatever machine; success removes both,
    and two runs on one machine that want the same stage at once take turns.
    """
    key = stage_key(name, inputs)
    directory = settings().work / key
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{directory}.lock"):
        run = tracker().start_stage(flow_run.id or "no flow", name, _tags())
        try:
            refs = {role: found for role, value in inputs.items() if (found := refs_in(value))}
            run.log_config(_Inputs(**{k: v for k, v in inputs.items() if k not in refs}))
            for role, found in refs.items():
                for ref in found:
                    run.log_input(ref, role)
            stage = OpenStage(name, inputs, directory, run)
            with nullcontext() if _is_elsewhere(inputs) else mirrored(store(), key, resume_beside(stage.out)):
                yield stage
        except BaseException as error:
            _keep_evidence(run, resume_beside(directory / "out"))
            run.close(status_after(error))
            shutil.rmtree(directory / "out", ignore_errors=True)
            raise
        run.close("FINISHED")
        shutil.rmtree(directory, ignore_errors=True)


def run_stage(name: str, result: type[T], **inputs: Any) -> T:
    """Open a stage, compute, upload.

    Args:
        name: Of the stage; its module is `tinybert.stages.<name>`.
        result: Class of the result; its one ref field names the kind of artifact.
        **inputs: The arguments of the stage's function: refs, forms, plain values.
    """
    with open_stage(name, **inputs) as stage:
        begun = time.monotonic()
        metrics = stage.compute()
        metrics["seconds"] = time.monotonic() - begun
        stage.run.log_metrics({f"final_{key}": value for key, value in metrics.items()}, 0)
        return stage.finish(result, metrics)


def status_after(error: BaseException) -> Literal["KILLED", "FAILED"]:
    """What an MLflow run has become by this exception."""
    return "KILLED" if isinstance(error, KeyboardInterrupt | SystemExit | TerminationSignal) else "FAILED"


def _keep_evidence(run: TrackedRun, directory: Path) -> None:
    """Log the batch that made a loss non-finite, where a failed stage has left one."""
    for batch in directory.glob("*.safetensors"):
        try:
            run.log_file(batch)
        except Exception as error:  # it must not take the place of what made the stage fail
            logger.warning("%s cannot be logged: %s", batch, error)


def _is_elsewhere(inputs: dict[str, Any]) -> bool:
    """The stage runs on a cluster, where its first process mirrors the checkpoints."""
    return any(isinstance(value, LaunchConfig) and value.engine == "ray" for value in inputs.values())


def _disk_is_full(error: Exception) -> bool:
    """Also where a library wrapped the system's error into one of its own, as torch and safetensors do."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or "No space left on device" in str(error)


class _Inputs(BaseModel, extra="allow"):
    """A stage's plain inputs, for MLflow's parameters."""


def _tags() -> dict[str, str]:
    return {"prefect.task_run_id": str(task_run.id or ""), "prefect.task_run_name": str(task_run.name or "")}
