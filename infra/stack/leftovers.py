"""Processes that a killed part, worker or supervisor left behind: found by the marks in their environment."""

import contextlib
import signal
from collections.abc import Iterable

import psutil

from infra.stack.layout import PART_VARIABLE, STACK_VARIABLE, Layout


def belonging_to(layout: Layout, part: str) -> list[psutil.Process]:
    """The processes of one part, those it has started included."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            environment = process.environ()
            marks = environment.get(STACK_VARIABLE), environment.get(PART_VARIABLE)
            if marks == (str(layout.directory), part):
                found.append(process)
    return found


def topmost(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that were not started by one of the others."""
    processes = list(processes)
    numbers = {process.pid for process in processes}
    found = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if process.ppid() not in numbers:
                found.append(process)
    return found


def end(processes: list[psutil.Process], grace: float, stop_signal: str = "TERM") -> int:
    """Ask the topmost to end, and end them all when the seconds are over.

    Returns:
        How many there were.
    """
    for process in topmost(processes):
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.Signals[f"SIG{stop_signal}"])
    _, alive = psutil.wait_procs(processes, timeout=grace)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=5)
    return len(processes)
