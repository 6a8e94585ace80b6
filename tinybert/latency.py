"""How long one prediction takes, of several models side by side."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

WARM_UP = 5
"""Untimed calls of each model first."""


def interleaved_medians(calls: Mapping[str, Callable[[int], object]], runs: int) -> dict[str, float]:
    """Median milliseconds of each call; the models take turns, so that what else the machine does hits all alike.

    Args:
        calls: One prediction each, given the number of the run.
        runs: Timed calls of each.
    """
    for call in calls.values():
        for run in range(WARM_UP):
            call(run)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for run in range(runs):
        for name, call in calls.items():
            begun = time.perf_counter()
            call(run)
            times[name].append(1000 * (time.perf_counter() - begun))
    return {name: statistics.median(values) for name, values in times.items()}


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Inside, torch computes on this many CPU threads; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
