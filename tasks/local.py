"""Running without any server: Prefect's own temporary one, its state beside the store, quiet and readable."""

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from filelock import FileLock, Timeout
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
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

from tasks.connections import store
from tasks.settings import settings
from tinybert.errors import InputError, TransientError

logger = logging.getLogger("tinybert")

HOME = Path("build/prefect")
"""Prefect's database of runs made without a server."""


@contextmanager
def local_settings() -> Iterator[None]:
    """Inside, Prefect works without a server unless one is configured (PREFECT_API_URL, or a profile).

    Cached results lie in the store they point into: who deletes the store deletes them with it. Local runs of one
    directory take turns, by a lock that ends with its process.

    Raises:
        TransientError: A server is configured and does not answer.
    """
    if PREFECT_API_URL.value():
        _check_server()
        yield
        return
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
        _free_slots()
        yield


def _check_server() -> None:
    with get_client(sync_client=True) as client:
        problem = client.api_healthcheck()
    if problem:
        raise TransientError(
            f"the Prefect server at {PREFECT_API_URL.value()} does not answer ({type(problem).__name__}); "
            "start it, or unset PREFECT_API_URL to run without one"
        )


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
    """One slot of each limit, free: a temporary server has no service that frees the slot of a killed run."""
    with get_client(sync_client=True) as client:
        for limit in (settings().slots, settings().promotions):
            client.upsert_global_concurrency_limit_by_name(limit, limit=1)
            client.update_global_concurrency_limit(limit, GlobalConcurrencyLimitUpdate(active_slots=0))


def speak() -> None:
    """Our progress lines to the terminal, and to the Prefect UI; of Prefect's own lines only warnings."""
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if not logger.handlers:
        terminal = logging.StreamHandler(sys.stderr)
        terminal.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
        logger.handlers = [terminal, APILogHandler()]
    for name in ("", "prefect", "prefect.flow_runs", "prefect.task_runs"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, PrefectConsoleHandler):
                handler.setLevel(logging.WARNING)
                handler.addFilter(_is_news)
                handler.setFormatter(_Terse())


def _is_news(record: logging.LogRecord) -> bool:
    """Not what the command line itself says at its end: why the run failed, and that it did."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, InputError) and not record.getMessage().startswith("Finished in state")


class _Terse(logging.Formatter):
    """One line a record: the traceback of what nobody expected comes at the end, from Python, once."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{time.strftime('%H:%M:%S')}  {record.getMessage()}"
