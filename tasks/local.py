"""Running without any server: Prefect's own temporary one, its state beside the store, quiet and readable."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.logging.handlers import APILogHandler
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

HOME = Path("build/prefect")
"""Prefect's database of runs made without a server."""


@contextmanager
def local_settings() -> Iterator[None]:
    """Inside, Prefect works without a server unless one is configured (PREFECT_API_URL, or a profile).

    Cached results lie in the store they point into: who deletes the store deletes them with it.
    """
    if PREFECT_API_URL.value():
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
    HOME.mkdir(parents=True, exist_ok=True)
    with temporary_settings(changes):
        yield


def ensure_slots() -> None:
    """Create the accelerator slots, one, where nobody has defined them yet; an existing limit stays as it is."""
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(settings().slots)
        except ObjectNotFound:
            client.upsert_global_concurrency_limit_by_name(settings().slots, limit=1)


def speak() -> None:
    """Our progress lines to the terminal, and to the Prefect UI; of Prefect's own lines only warnings."""
    logger = logging.getLogger("tinybert")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if not logger.handlers:
        terminal = logging.StreamHandler(sys.stderr)
        terminal.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
        logger.handlers = [terminal, APILogHandler()]
    for name in ("prefect", "prefect.flow_runs", "prefect.task_runs"):
        for handler in logging.getLogger(name).handlers:
            if not isinstance(handler, APILogHandler):
                handler.setLevel(logging.WARNING)
