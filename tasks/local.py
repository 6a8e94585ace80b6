"""Running from the command line, without any server: Prefect's own temporary one, quiet, and gone when asked to."""

import contextlib
import functools
import importlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn
from unittest import mock

import psutil
from filelock import FileLock, Timeout
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import PrefectHTTPStatusError
from prefect.logging.handlers import APILogHandler, PrefectConsoleHandler
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_HOME,
    PREFECT_LOCAL_STORAGE_PATH,
    PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW,
    PREFECT_SERVER_ANALYTICS_ENABLED,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)

from tasks.connections import store, tracker
from tasks.policy import code_digests
from tasks.settings import settings
from tinybert.errors import InputError, TransientError

logger = logging.getLogger("tinybert")

HOME = Path("build/prefect")
"""Prefect's database of runs made without a server."""
GRACE = 27.0
"""Seconds from SIGTERM to the end: who asked kills after thirty."""
TERMINATED = 128 + signal.SIGTERM
"""Status by which a shell knows a program that SIGTERM has ended."""


@contextmanager
def local_settings(loads: Sequence[str] = ()) -> Iterator[None]:
    """Inside, Prefect works without a server unless one is configured (PREFECT_API_URL, or a profile).

    Starting its temporary server takes seconds, in which what will be needed soon is loaded: MLflow, and the modules
    of `loads`.

    Cached results lie in the store they point into: who deletes the store deletes them with it. Local runs of one
    directory take turns, by a lock that ends with its process. SIGTERM ends it in time, whatever the server does.

    Raises:
        TransientError: A server is configured and does not answer.
        SystemExit: Somebody sent SIGTERM.
    """
    with _ended_by_sigterm():
        if PREFECT_API_URL.value():
            _check_server()
            yield
        else:
            with _temporary_server(loads):
                yield


@contextmanager
def _temporary_server(loads: Sequence[str]) -> Iterator[None]:
    root = store().root
    results = Path(root.removeprefix("file:")) / "results" if root.startswith("file:") else HOME.resolve() / "results"
    changes = {
        PREFECT_HOME: HOME.resolve(),
        PREFECT_LOCAL_STORAGE_PATH: results,
        PREFECT_SERVER_ANALYTICS_ENABLED: False,
        PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: 120,
        PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW: "ignore",
    }
    if not HOME.exists():
        logger.info("starting Prefect without a server; the first time takes about half a minute")
    HOME.mkdir(parents=True, exist_ok=True)
    with _alone(), temporary_settings(changes):
        _end_orphans()
        _start_server(loads)
        _free_slots()
        yield


def _start_server(loads: Sequence[str]) -> None:
    """Start Prefect's temporary server, which its client then finds, in a session of its own.

    In ours, Ctrl-C and a SIGTERM to the whole group would end it before the run has told it how it ended, and Prefect's
    client would go on asking for minutes.
    """
    server = importlib.import_module("prefect.server.api.server").SubprocessASGIServer()  # takes a second to import
    apart = functools.partial(subprocess.Popen, start_new_session=True)
    with ThreadPoolExecutor(1) as meanwhile, mock.patch.object(subprocess, "Popen", apart):
        meanwhile.submit(_open_tracking)
        meanwhile.submit(_load, loads)
        server.start()


def _load(modules: Sequence[str]) -> None:
    """Load modules, and read what keys of stages count of them. What is wrong is told where they are used."""
    for module in modules:
        with contextlib.suppress(Exception):
            importlib.import_module(module)
            code_digests(module)


def _open_tracking() -> None:
    """Load MLflow and make its database, which takes seconds too. What is wrong with it, preflight tells."""
    if settings().tracking_uri.startswith("sqlite:"):
        with contextlib.suppress(Exception):
            tracker().experiment_id(settings().experiment)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Inside, SIGTERM ends this process with one line: at best when the flow run has ended, at the latest in time.

    A stage that trains writes a checkpoint first, and Prefect notes the crash; then each calls the handler before its
    own, and at last ours. That they come to it is seen to by a thread, which hears of the signal at once. A terminal
    that is closed counts as SIGTERM: the temporary server would not hear of it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ears, mouth = os.pipe()
    os.set_blocking(mouth, False)
    threading.Thread(target=_leave_in_time, args=(ears,), name="leave in time", daemon=True).start()
    hearing = signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
    before: dict[int, Any] = {signal.SIGTERM: signal.signal(signal.SIGTERM, _leave)}
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # not so under nohup
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    try:
        yield
    except SystemExit:
        before = dict.fromkeys(before, signal.SIG_IGN)  # who is leaving already need not be asked again
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(hearing)
        os.close(mouth)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """Handle SIGTERM: end as any program does, the temporary server with it."""
    _say_goodbye()
    raise SystemExit(TERMINATED)


@functools.cache
def _say_goodbye() -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone
        print("terminated; the same command continues where this run stopped", file=sys.stderr, flush=True)


def _leave_in_time(ears: int) -> None:
    """Wait for SIGTERM, give the process some seconds, and end it with its children, whatever it is waiting for."""
    with open(ears, "rb", buffering=0) as heard:
        while signals := heard.read(100):
            if signal.SIGTERM in signals:
                time.sleep(GRACE)
                _say_goodbye()
                for child in psutil.Process().children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        child.kill()
                os._exit(TERMINATED)


def _check_server() -> None:
    server = f"the Prefect server at {PREFECT_API_URL.value()}"
    with get_client(sync_client=True) as client:
        problem = client.api_healthcheck()
        if problem:
            raise TransientError(
                f"{server} does not answer ({type(problem).__name__}); "
                "start it, or unset PREFECT_API_URL to run without one"
            )
        try:
            client.hello()  # health is told without a password
        except PrefectHTTPStatusError as error:
            if error.response.status_code != 401:
                raise
            raise InputError(f"{server} asks for a password (401); set PREFECT_API_AUTH_STRING") from None


@contextmanager
def _alone() -> Iterator[None]:
    lock = FileLock(HOME / "run.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        logger.info("another run is in progress in this directory; waiting for it to end")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _end_orphans() -> None:
    """End the temporary servers of runs that were killed here: nobody else will."""
    for process in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(psutil.Error):
            is_server = any("prefect.server.api.server" in part for part in process.info["cmdline"] or [])
            if is_server and process.environ().get("PREFECT_HOME") == str(HOME.resolve()):
                process.terminate()


def _free_slots() -> None:
    """All limits free, ours among them: a temporary server has no service that frees the slot of a killed run."""
    with get_client(sync_client=True) as client:
        for limit in (settings().slots, settings().promotions):
            client.upsert_global_concurrency_limit_by_name(limit, limit=1)
        for found in client.read_global_concurrency_limits(limit=200):
            client.update_global_concurrency_limit(found.name, GlobalConcurrencyLimitUpdate(active_slots=0))


SAID_AT_THE_END = ("Finished in state", "Crash detected! Execution was aborted by")


def speak() -> None:
    """Our progress lines to the terminal, and to the Prefect UI; of Prefect's own lines only warnings."""
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if not logger.handlers:
        terminal = logging.StreamHandler(sys.stderr)
        terminal.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
        prefect = APILogHandler()
        prefect.addFilter(_is_of_a_run)
        logger.handlers = [terminal, prefect]
    for name in ("", "prefect", "prefect.flow_runs", "prefect.task_runs"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, PrefectConsoleHandler):
                handler.setLevel(logging.WARNING)
                handler.addFilter(_is_news)
                handler.setFormatter(_Terse())


def _is_of_a_run(record: logging.LogRecord) -> bool:
    """Prefect's server keeps lines of runs alone, and warns of others."""
    return FlowRunContext.get() is not None or TaskRunContext.get() is not None


def _is_news(record: logging.LogRecord) -> bool:
    """Not what the command line itself says at its end: why the run failed or was aborted, and that it did."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, InputError) and not record.getMessage().startswith(SAID_AT_THE_END)


class _Terse(logging.Formatter):
    """One line a record: the traceback of what nobody expected comes at the end, from Python, once."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{time.strftime('%H:%M:%S')}  {record.getMessage()}"
