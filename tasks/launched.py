"""A stage in several processes, seen from inside: what each is asked, what it answers, when it ends.

Whoever launches leaves a `Request` in a directory and reads the answers there as they come, one JSON object a line.
The processes import neither Prefect nor MLflow: they start in seconds, and know no server.
"""

import importlib
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import psutil
from pydantic import BaseModel, validate_call

from tinybert.progress import Report, heard_by
from tinybert.refs import Ref
from tinybert.resume import resume_beside
from tinybert.training_config import LaunchConfig

REQUEST, ANSWERS = "request.json", "answers.jsonl"
GRACE = 25.0
"""Seconds that a process has to write a checkpoint and leave; an orchestrator kills after thirty."""
TAIL = 4000
"""Characters of a traceback, or of what a dead process wrote, that reach the error message."""

Send = Callable[..., None]
"""Called with one answer by name: metrics, progress, log, evidence, error, lost, crashed, output or result."""

logger = logging.getLogger("tinybert")


class NamedRef(BaseModel):
    """A ref with the name of its class, which says what is behind it."""

    kind: str
    ref: Ref


class Request(BaseModel):
    """What is to be computed, and how."""

    module: str
    """Of the stage; its `run` is called in every process."""
    key: str
    """Of the stage and its inputs: where its checkpoints are in the store."""
    arguments: dict[str, Any]
    """For `run`, as JSON; its own annotations make forms and paths of them again."""
    refs: dict[str, NamedRef] = {}
    """Arguments that each process finds for itself, because it may be on another machine."""
    out: Path
    """Output directory of the process that counts, rank 0."""
    launch: LaunchConfig


def read_request(directory: Path) -> Request:
    """The request that lies in a directory."""
    return Request.model_validate_json((directory / REQUEST).read_text())


def send_to(directory: Path) -> Send:
    """Answers go to the end of a file there. Each is one write: those of several processes do not mix."""

    def send(**answer: Any) -> None:
        file = os.open(directory / ANSWERS, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            os.write(file, json.dumps(answer).encode() + b"\n")
        finally:
            os.close(file)

    return send


def own_out(directory: Path, out: Path, rank: int) -> Path:
    """Where a process of this machine writes: rank 0's output counts, the others' goes with the directory.

    They read the same checkpoints: beside each output directory is the way to those of rank 0.
    """
    if rank == 0:
        return out
    own = directory / f"rank-{rank}" / out.name
    own.mkdir(parents=True)
    resume_beside(own).symlink_to(resume_beside(out), target_is_directory=True)
    return own


def perform(request: Request, rank: int, inputs: dict[str, Path], out: Path, send: Send) -> dict[str, float]:
    """Run the stage as one of several processes.

    Args:
        request: What to run.
        rank: Of this process; 0 tells the metrics and the progress.
        inputs: The request's refs, as local paths.
        out: Directory for the output.
        send: Takes the answers.

    Returns:
        The stage's final metrics.

    Raises:
        Exception: What the stage raises.
    """

    def on_metrics(metrics: dict[str, float], step: int) -> None:
        if rank == 0:
            send(metrics=[{name: float(value) for name, value in metrics.items()}, step])

    def on_progress(report: Report) -> None:
        if rank == 0:
            send(progress=asdict(report))

    importlib.import_module("tinybert.libraries").quiet()
    run = validate_call(importlib.import_module(request.module).run)
    with heard_by(on_progress):
        metrics: dict[str, float] = run(**request.arguments, **inputs, out=out, on_metrics=on_metrics)
    return {name: float(value) for name, value in metrics.items()}


@contextmanager
def told(send: Send, who: str, level: int = logging.INFO) -> Iterator[None]:
    """Inside, our log lines from a level on are answers and appear nowhere else; what is raised is one, too."""
    handler = logging.Handler(level)
    handler.emit = lambda record: send(log=[record.levelno, record.getMessage()])  # type: ignore[method-assign]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    except (Exception, SystemExit) as error:
        trace = "".join(traceback.format_exception(error))[-TAIL:]
        send(error={"who": who, "type": type(error).__name__, "message": str(error), "trace": trace})
        raise
    finally:
        logger.removeHandler(handler)


def told_by(send: Send, rank: int) -> AbstractContextManager[None]:
    """What a process tells: rank 0 everything, the others what is an error."""
    return told(send, f"process {rank}", logging.INFO if rank == 0 else logging.ERROR)


def end_with_parent(parent: int) -> None:
    """From now on this process does not outlive its parent: it is asked to leave, and after the grace made to."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os._exit(1)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()


def end_on_request() -> None:
    """From now on SIGTERM, and the end of standard input, end this process with all its children.

    Whoever launched holds the other end: closing it is the request, and it closes by itself with its process, even
    at a SIGKILL. The children get SIGTERM and time to write a checkpoint. This happens in the signal's handler, so
    that the launcher that runs in the main thread does not meddle.
    """
    signal.signal(signal.SIGTERM, end)

    def watch() -> None:
        os.read(sys.stdin.fileno(), 1)  # not through sys.stdin, whose lock would be missed at the end
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE + 1)
        _leave()  # the main thread does not come to it

    threading.Thread(target=watch, name="end on request", daemon=True).start()


def end(*_: Any) -> NoReturn:
    """Handle SIGTERM: hand it on to the children, wait for them, and leave none behind."""
    children = psutil.Process().children()
    for child in children:
        child.terminate()
    psutil.wait_procs(children, timeout=GRACE)
    _leave()


def _leave() -> NoReturn:
    for process in psutil.Process().children(recursive=True):
        process.kill()
    os._exit(1)
