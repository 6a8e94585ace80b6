"""SIGTERM while a stage trains: finish what is computed at once, write a checkpoint, leave as the signal demands."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from tinybert.progress import logger

Check = Callable[[], None]
"""Called between two parts of a long computation; raises where it shall not go on."""


class InterruptedStepError(Exception):
    """The step, or its evaluation, is not finished, for somebody wants to stop."""


class Interruption:
    """Inside the block SIGTERM only sets `asked`; behind it the signal does what it would have done.

    Signals can be caught in the main thread alone; elsewhere the block changes nothing.
    """

    def __init__(self) -> None:
        self.asked = False
        self._previous: Any = None

    def check(self) -> None:
        """Raise InterruptedStepError once somebody wants to stop."""
        if self.asked:
            raise InterruptedStepError

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        logger.info("SIGTERM: a checkpoint, then the end")

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._previous is None:
            return
        signal.signal(signal.SIGTERM, self._previous)
        if self.asked and error is None:
            signal.raise_signal(signal.SIGTERM)
            raise SystemExit(128 + signal.SIGTERM)  # the handler before ours let the process live
