"""What all stage tasks have in common: cache key, retries, results, accelerator slots."""

import ast
import functools
import importlib.util
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import httpx
from prefect import Task, task
from prefect.cache_policies import NO_CACHE, CachePolicy
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.tasks import exponential_backoff
from pydantic import BaseModel

from tasks.masking import mask_logs, masked_error
from tasks.settings import settings
from tinybert.digest import file_digest, json_digest
from tinybert.errors import TransientError
from tinybert.refs import EarlierRef, Ref
from tinybert.training_config import LaunchConfig

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("tinybert")

PACKAGE = "tinybert"
DECLARATIONS = {
    "tinybert",
    "tinybert.config",
    "tinybert.data_config",
    "tinybert.benchmark_table",
    "tinybert.pretrain_config",
    "tinybert.suite_config",
    "tinybert.training_config",
    "tinybert.augment_config",
    "tinybert.release_config",
    "tinybert.score_config",
    "tinybert.form",
    "tinybert.errors",
    "tinybert.refs",
    "tinybert.cli",
}
"""Modules that compute nothing: what they contribute to a stage reaches its key through the inputs."""
RETRIES = 3
SETTLING = 0.2
"""Seconds in which a server notes that a task has begun. SQLite refuses who asks for a slot then, and Prefect's client
would ask again two seconds later (`benchmarks/overhead.py`)."""


def stage_module(stage: str) -> str:
    """Module of a stage."""
    return f"{PACKAGE}.stages.{stage}"


def stage_key(stage: str, inputs: dict[str, Any]) -> str:
    """Digest of everything a stage's output depends on: its inputs and the text of the modules it runs.

    A `Ref` counts by its digest, not its place; the store counts because results point into it. In how many
    processes a stage runs, and what earlier outputs it may use, does not count: it computes the same. None is as good
    as no input.
    """
    counted = {name: value for name, value in inputs.items() if not isinstance(value, LaunchConfig | EarlierRef | None)}
    plain = {name: _plain(value) for name, value in counted.items()}
    return f"{stage}-{json_digest([plain, code_digests(stage_module(stage)), settings().store])}"


def code_digests(module: str) -> dict[str, str]:
    """Digest of the text of a module and of each of ours it imports."""
    return {name: file_digest(path) for name, path in sorted(source_modules(module).items())}


def source_modules(module: str, without: Collection[str] = DECLARATIONS) -> dict[str, Path]:
    """Our own modules that a module imports, directly or through others, with their files; none is imported here.

    Args:
        module: By its full name; it is one of them.
        without: Modules that are left out, and what only these import.
    """
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or name in without:
            continue
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            continue
        found[name] = Path(spec.origin)
        waiting += _imports(found[name].read_text())
    return found


@functools.cache
def _imports(text: str) -> list[str]:
    """Our own modules that a module of this text imports directly."""
    names: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.split(".")[0] == PACKAGE and _is_module(name)]


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # `from module import function`
        return False


def _plain(value: Any) -> Any:
    if isinstance(value, Ref):
        return value.digest
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


@dataclass
class StageCachePolicy(CachePolicy):
    """Prefect's cache key of a stage task."""

    stage: str = ""

    def compute_key(self, task_ctx: Any, inputs: dict[str, Any], flow_parameters: Any, **_: Any) -> str:
        """The stage key; the flow run has no part in it."""
        return stage_key(self.stage, inputs)


def is_transient(_: Any, __: Any, state: Any) -> bool:
    """Retry what is the world's fault, and nothing else: bad input stays bad."""
    return isinstance(state.result(raise_on_failure=False), TransientError)


def cpu_stage(stage: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """A stage task that needs no accelerator slot."""
    return functools.partial(_stage_task, stage=stage)


def gpu_stage(stage: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """A stage task that occupies one accelerator slot while it runs."""
    return lambda function: _stage_task(_in_slot(function), stage=stage)


def quick_task(name: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """A task that is no stage: it takes seconds, and is computed anew in every run."""
    return functools.partial(_retried, name=name, cache_policy=NO_CACHE)


def _in_slot(function: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(function)
    def occupied(*args: P.args, **kwargs: P.kwargs) -> R:
        with slot(settings().slots):
            return function(*args, **kwargs)

    return occupied


@contextmanager
def slot(limit: str, retries: int | None = None) -> Iterator[None]:
    """Occupy one slot of a Prefect concurrency limit; what is computed inside is not lost because the server is away.

    Args:
        limit: By its name; there must be one.
        retries: How often to ask again while all slots are taken; None: until one is free.

    Raises:
        ConcurrencySlotAcquisitionError: There is no such limit, or no slot is free, however often it was asked for.
        TransientError: The server does not answer when the slot is asked for.
    """
    time.sleep(SETTLING)
    waiting = threading.Timer(5, logger.info, ["waiting for a free slot of %r", limit])
    waiting.start()
    held = concurrency(limit, occupy=1, max_retries=retries, strict=True, raise_on_lease_renewal_failure=False)
    try:
        held.__enter__()
    except ConcurrencySlotAcquisitionError as error:
        if _is_away(error.__cause__):
            raise TransientError(f"no slot of {limit!r}: Prefect's server does not answer") from error
        raise
    finally:
        waiting.cancel()
    with ExitStack() as stack:
        stack.push(functools.partial(_give_back, held, limit))
        yield


def _give_back(held: AbstractContextManager[None], limit: str, *raised: Any) -> bool:
    """Leave the slot. Prefect asks once, and raises if nobody answers; the lease on the slot ends all the same."""
    try:
        return bool(held.__exit__(*raised))
    except httpx.HTTPError as error:
        if not _is_away(error):
            raise
        logger.warning("a slot of %r stays taken until its lease ends, within 5 minutes: %s", limit, error)
        return False


def _is_away(error: BaseException | None) -> bool:
    """The server, or the database behind it, does not answer."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.is_server_error
    return isinstance(error, httpx.TransportError)


def _stage_task(function: Callable[P, R], stage: str) -> Task[P, R]:
    cached = {"cache_policy": StageCachePolicy(stage=stage), "persist_result": True, "result_serializer": "json"}
    return _retried(function, name=stage, **cached)


def _masked(function: Callable[P, R]) -> Callable[P, R]:
    """The function; no secret is in its log lines, nor in what it raises, which Prefect keeps as the run's state."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        mask_logs()
        try:
            return function(*args, **kwargs)
        except Exception as error:
            shown = masked_error(error)
            if shown is error:
                raise
            raise shown from None

    return run


def _retried(function: Callable[P, R], **options: Any) -> Task[P, R]:
    decorate: Callable[[Callable[P, R]], Task[P, R]] = task(
        retries=RETRIES,
        retry_delay_seconds=exponential_backoff(backoff_factor=5),
        retry_jitter_factor=0.5,
        retry_condition_fn=is_transient,
        **options,
    )
    return decorate(_masked(function))
