"""Computes a stage in this process, in several of this machine, or on a Ray cluster: how does not change what.

Several processes are led by a program of its own (`tasks.torch_launch`, `tasks.ray_launch`). Here its answers are
read, by the thread of the task: metrics and progress lines find their Prefect and MLflow run only there.
"""

import importlib
import importlib.util
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from pydantic_core import to_jsonable_python

from tasks import sources
from tasks.connections import store
from tasks.launched import ANSWERS, GRACE, REQUEST, TAIL, NamedRef, Request
from tinybert import errors
from tinybert.errors import ConfigError, TransientError
from tinybert.progress import Report, pass_on
from tinybert.refs import Ref
from tinybert.resume import resume_beside
from tinybert.training_config import LaunchConfig

OnMetrics = Callable[[dict[str, float], int], None]
OURS = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
"""Errors that mean the same in whichever process they were raised."""
RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TRAIN_V2_ENABLED": "1"}
LOCAL_RAY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Without clusters Ray listens on the loopback address alone."""

logger = logging.getLogger("tinybert")


def compute(module: str, key: str, inputs: dict[str, Any], out: Path, on_metrics: OnMetrics) -> dict[str, float]:
    """Run a stage's function as the `LaunchConfig` among its inputs says, else in this process.

    Args:
        module: Of the stage.
        key: Of the stage and its inputs.
        inputs: Arguments of its function. Refs become local paths, where the function runs; everything else stays.
        out: Directory for the output.
        on_metrics: Called with points of the curves while the stage runs.

    Returns:
        The stage's final metrics.

    Raises:
        InputError: What the stage raised, in whichever process.
        ConfigError: This machine, or the cluster, has fewer devices than processes are asked for; Ray is missing.
        TransientError: A process was killed, or the cluster does not answer.
        RuntimeError: Anything else that a process raised, with its traceback.
    """
    launch = next((value for value in inputs.values() if isinstance(value, LaunchConfig)), LaunchConfig())
    arguments = {name: value for name, value in inputs.items() if not isinstance(value, LaunchConfig)}
    if launch.engine == "ray":
        return _compute_on_ray(module, key, arguments, out, on_metrics, launch)
    arguments = {name: _local(value) for name, value in arguments.items()}
    if launch.processes == 1:
        return _compute_here(module, arguments, out, on_metrics)
    _check_devices(launch.processes)
    request = Request(module=module, key=key, arguments=to_jsonable_python(arguments), out=out.resolve(), launch=launch)
    with _launched("tasks.torch_launch", request) as (process, directory):
        return _Answers(request, on_metrics).follow(process, directory)


def _compute_here(module: str, arguments: dict[str, Any], out: Path, on_metrics: OnMetrics) -> dict[str, float]:
    """In this process, which lives on: what the stage held of the GPU is free for those of later stages."""
    importlib.import_module("tinybert.libraries").quiet()
    try:
        metrics: dict[str, float] = importlib.import_module(module).run(**arguments, out=out, on_metrics=on_metrics)
        return metrics
    finally:
        importlib.import_module("tinybert.allocator").give_back_gpu_memory()


def _local(value: Any) -> Any:
    """A ref, or a list of them, as local paths; anything else as it is."""
    if isinstance(value, list):
        return [_local(item) for item in value]
    return sources.local(value) if isinstance(value, Ref) else value


def _compute_on_ray(
    module: str, key: str, arguments: dict[str, Any], out: Path, on_metrics: OnMetrics, launch: LaunchConfig
) -> dict[str, float]:
    """The output comes through the store: the process that made it may be on any machine."""
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("launch.engine is 'ray', which is not installed; pip install 'tinybert-pipeline[ray]'")
    if launch.address != "local" and store().root.startswith("file:"):
        logger.warning("every node of the Ray cluster must see the store, %s, at the same path", store().root)
    request = Request(
        module=module,
        key=key,
        arguments=to_jsonable_python({k: v for k, v in arguments.items() if not isinstance(v, Ref)}),
        refs={k: NamedRef(kind=type(v).__name__, ref=v) for k, v in arguments.items() if isinstance(v, Ref)},
        out=out.resolve(),
        launch=launch,
    )
    answers = _Answers(request, on_metrics)
    with _launched("tasks.ray_launch", request, **(RAY | LOCAL_RAY if launch.address == "local" else RAY)) as (
        process,
        directory,
    ):
        metrics = answers.follow(process, directory)
    assert answers.output is not None, "rank 0 stores its output before it answers"
    shutil.copytree(
        sources.local(answers.output),
        out,
        dirs_exist_ok=True,
        copy_function=shutil.copyfile,  # what the store keeps is read-only
        ignore=shutil.ignore_patterns(".*"),
    )
    return metrics


def _check_devices(processes: int) -> None:
    gpus = importlib.import_module("torch").cuda.device_count()
    if 0 < gpus < processes:
        raise ConfigError(
            f"launch.processes is {processes}, but this machine shows {gpus} GPU(s); "
            "use that many, or look at CUDA_VISIBLE_DEVICES"
        )


@contextmanager
def _launched(program: str, request: Request, **environment: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A launcher at work on a request, in a directory beside the output; neither is left behind.

    Its standard input is what holds it: the launcher ends with all its processes when that closes.
    """
    directory = request.out.with_name("processes")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    resume_beside(request.out).mkdir(exist_ok=True)
    (directory / REQUEST).write_text(request.model_dump_json())
    (directory / ANSWERS).touch()
    with (directory / "launcher.log").open("wb") as log:
        command = [sys.executable, "-m", program, str(directory)]
        # A session of its own: Ctrl-C is ours to hand on.
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    try:
        yield process, directory
    finally:
        _end(process)
        shutil.rmtree(directory, ignore_errors=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(GRACE + 5)
    except subprocess.TimeoutExpired:
        for left in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                left.kill()
        process.kill()
        process.wait()


class _Answers:
    """What the processes of a stage say."""

    def __init__(self, request: Request, on_metrics: OnMetrics) -> None:
        self._stage, self._on_metrics = request.module.rpartition(".")[2], on_metrics
        self._resume = resume_beside(request.out)
        self._result: dict[str, float] | None = None
        self._errors: list[dict[str, Any]] = []
        self._lost: list[str] = []
        self._crashed: list[str] = []
        self.output: Ref | None = None

    def follow(self, process: subprocess.Popen[bytes], directory: Path) -> dict[str, float]:
        """Take the answers as they come, until the launcher ends."""
        with (directory / ANSWERS).open("rb") as file:
            ended, rest = False, b""
            while not ended:
                ended = process.poll() is not None  # first, so that the last answers are read after it
                *lines, rest = (rest + file.read()).split(b"\n")
                for line in lines:
                    self._take(**json.loads(line))
                time.sleep(0.1)
        if process.returncode or self._result is None:
            raise self._failure(process.returncode, (directory / "launcher.log").read_text(errors="replace")[-TAIL:])
        return self._result

    def _take(self, **answer: Any) -> None:
        match answer:
            case {"metrics": [metrics, step]}:
                self._on_metrics(metrics, step)
            case {"progress": report}:
                pass_on(Report(**report))
            case {"log": [level, text]}:
                logger.log(level, "%s", text)
            case {"result": metrics}:
                self._result = metrics
            case {"output": ref}:
                self.output = Ref(**ref)
            case {"evidence": [name, content]}:
                (self._resume / name).write_bytes(b64decode(content))
            case {"error": error}:
                self._errors.append(error)
            case {"lost": text}:
                self._lost.append(text)
            case {"crashed": text}:
                self._crashed.append(text)

    def _failure(self, status: int, log: str) -> Exception:
        """What to raise. The first error is the cause; where a process was killed, errors of others only follow."""
        for error in self._errors:
            if error["type"] in OURS:
                return OURS[error["type"]](error["message"])
        if status in (-signal.SIGKILL, -signal.SIGTERM):
            self._lost.append(f"the launcher was ended by {signal.Signals(-status).name}")
        if self._lost:
            return TransientError(f"{self._stage}: {'; '.join(self._lost)}")
        traces = [f"{error['who']} failed\n{error['trace']}" for error in self._errors[:1]]
        return RuntimeError(f"{self._stage}: " + "\n".join([*self._crashed, *traces] or [f"status {status}\n{log}"]))
