"""One task many times: one after the other in this process, or spread over a Ray cluster by Prefect's task runner."""

import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from prefect import Task
from prefect.utilities.callables import get_call_parameters

from tinybert.errors import ConfigError
from tinybert.training_config import LaunchConfig

R = TypeVar("R")


def states_of(task: Task[..., R], calls: Sequence[tuple[Any, ...]], launch: LaunchConfig) -> Iterator[Any]:
    """The final state of a task run for each call, in order.

    Args:
        task: To be run.
        calls: Its arguments, all of them.
        launch: With engine ray its cluster takes all of them at once; its nodes need this project, its settings in
            their environment, and Prefect's API within reach. Otherwise they run here, in turn.

    Raises:
        ConfigError: The Ray task runner is not installed.
    """
    if launch.engine != "ray":
        for call in calls:
            yield task(*call, return_state=True)
        return
    if importlib.util.find_spec("prefect_ray") is None:
        raise ConfigError("launch.engine is 'ray', which is not installed; pip install 'tinybert-pipeline[ray]'")
    runner = importlib.import_module("prefect_ray").RayTaskRunner
    # The runner itself takes "auto" for a cluster of its own; Ray takes it for the one this machine is part of.
    with runner(init_kwargs={"address": launch.address, "include_dashboard": False}) as cluster:
        futures = [cluster.submit(task, get_call_parameters(task.fn, call, {})) for call in calls]
        for future in futures:
            future.wait()
            yield future.state
