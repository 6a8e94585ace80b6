"""Progress of long work, as lines and as numbers: how far, how it goes, how long still."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import psutil

logger = logging.getLogger("tinybert")

OnMetrics = Callable[[dict[str, float], int], None]
"""Called with points of a stage's curves, and the step they belong to."""


@dataclass(frozen=True)
class Report:
    """What a progress line says, for whoever shows it elsewhere."""

    what: str
    """The work's name."""
    unit: str
    """What is counted."""
    done: int
    total: int | None
    """None where nobody knows."""
    left: float | None
    """Seconds still to go; None where nobody knows."""
    numbers: dict[str, float]
    """Such as the loss."""
    memory: dict[str, float]
    """Of the process that works, as `memory` has it."""


Listener = Callable[[Report], None]
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Inside, a listener is given every progress line of this thread as a report. It must not take long."""
    before = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(before)


def pass_on(report: Report) -> None:
    """Give a report to who listens in this thread, if anybody does."""
    listener = _listener.get()
    if listener is not None:
        listener(report)


def memory() -> dict[str, float]:
    """Gigabytes of this process: the most that was taken on its GPU, where it has used one, else what it has now."""
    if cuda := _used_gpu():
        return {"GPU memory, GB": round(cuda.max_memory_allocated() / 1e9, 2)}
    return {"memory, GB": round(psutil.Process().memory_info().rss / 1e9, 2)}


def measure_memory_anew() -> None:
    """Let the most that was taken on the GPU begin with what is taken now."""
    if cuda := _used_gpu():
        cuda.reset_peak_memory_stats()


def _used_gpu() -> Any:
    """torch.cuda where this process computes on a GPU; asking neither imports torch nor wakes the driver."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return cuda if cuda is not None and cuda.is_initialized() else None


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Progress:
    """Logs a line at most every few seconds, and one at the end; who listens is told the same in numbers.

    Args:
        what: The work's name, at the beginning of each line.
        total: Units of work in all; None where nobody knows.
        unit: What is counted.
        every: Seconds between lines.
    """

    def __init__(self, what: str, total: int | None, unit: str = "step", every: float = 5.0) -> None:
        self._what, self._total, self._unit, self._every = what, total, unit, every
        self._begun = self._said = time.monotonic()
        self._first: int | None = None

    def update(self, done: int, **numbers: float) -> None:
        """Tell that `done` units are finished; numbers, such as the loss, are shown beside."""
        now = time.monotonic()
        if self._first is None:
            self._first, self._begun = done, now
        if done != self._total and now - self._said < self._every:
            return
        self._said = now
        left = self._left(done, now)
        shown = "".join(f"  {name} {value:.4g}" for name, value in numbers.items())
        place = f"{done}/{self._total}" if self._total else f"{done}"
        logger.info("%s  %s %s%s  %s", self._what, self._unit, place, shown, self._eta(done, now, left))
        if _listener.get() is not None:
            plain = {name: float(value) for name, value in numbers.items()}
            pass_on(Report(self._what, self._unit, done, self._total, left, plain, memory()))

    def _left(self, done: int, now: float) -> float | None:
        if self._total is None:
            return None
        since_first = done - (self._first or 0)
        if done >= self._total:
            return 0.0
        return (now - self._begun) * (self._total - done) / since_first if since_first else None

    def _eta(self, done: int, now: float, left: float | None) -> str:
        if self._total is None or done >= self._total:
            return f"took {clock(now - self._begun)}"
        return "ETA unknown" if left is None else f"ETA {clock(left)}"
