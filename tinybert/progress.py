"""Progress lines for long work: how far, how it goes, how long still."""

import logging
import time
from collections.abc import Callable

logger = logging.getLogger("tinybert")

OnMetrics = Callable[[dict[str, float], int], None]
"""Called with points of a stage's curves, and the step they belong to."""


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Progress:
    """Logs a line at most every few seconds, and one at the end.

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
        shown = "".join(f"  {name} {value:.4g}" for name, value in numbers.items())
        place = f"{done}/{self._total}" if self._total else f"{done}"
        logger.info("%s  %s %s%s  %s", self._what, self._unit, place, shown, self._eta(done, now))

    def _eta(self, done: int, now: float) -> str:
        since_first = done - (self._first or 0)
        if self._total is None or done >= self._total:
            return f"took {clock(now - self._begun)}"
        if not since_first:
            return "ETA unknown"
        return f"ETA {clock((now - self._begun) * (self._total - done) / since_first)}"
