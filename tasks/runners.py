"""One job many times: one after the other in this process, or spread over a Ray cluster by Prefect's task runner."""

import importlib
import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from prefect import Flow, Task
from prefect.cache_policies import NO_CACHE
from prefect.utilities.callables import get_call_parameters

from tasks.settings import settings
from tinybert.errors import ConfigError
from tinybert.training_config import LaunchConfig

R = TypeVar("R")


def states_of(
    job: Task[..., R] | Flow[..., R], calls: Sequence[tuple[Any, ...]], launch: LaunchConfig
) -> Iterator[Any]:
    """The final state of a run for each call, in order.

    Args:
        job: A task, or a flow, to be run.
        calls: Its arguments, all of them.
        launch: With engine ray its cluster takes all of them at once; its nodes need this project, its settings in
            their environment, and Prefect's API within reach. Otherwise they run here, in turn.

    Raises:
        ConfigError: The Ray task runner is not installed.
        TransientError: No cluster answers.
    """
    if launch.engine != "ray":
        for call in calls:
            yield job(*call, return_state=True)
        return
    if importlib.util.find_spec("prefect_ray") is None:
        raise ConfigError("launch.engine is 'ray', which is not installed; pip install 'tinybert-pipeline[ray]'")
    task = job if isinstance(job, Task) else _task_that_runs(job)
    with _cluster(launch) as cluster:
        futures = [cluster.submit(task, get_call_parameters(task.fn, call, {})) for call in calls]
        for future in futures:
            future.wait()
            yield future.state


def _task_that_runs(flow: Flow[..., R]) -> Task[..., R]:
    """Task runners take tasks; a flow called within one becomes its subflow."""

    def run(config: Any) -> Any:
        return flow(config)

    return Task(run, name=flow.name, cache_policy=NO_CACHE)


@contextmanager
def _cluster(launch: LaunchConfig) -> Iterator[Any]:
    """Prefect's Ray task runner, whose tasks find store, MLflow and our code wherever they run."""
    ray_launch = importlib.import_module("tasks.ray_launch")
    ray_launch.connect(launch.address, processes=1)
    try:
        gpus = {"num_gpus": 1} if ray_launch.ray.cluster_resources().get("GPU") else {}  # without, a task sees none
        prefect_ray = importlib.import_module("prefect_ray")
        with prefect_ray.RayTaskRunner() as runner, prefect_ray.context.remote_options(**gpus):
            runner._run_prefect_task = _in_environment(environment(), runner._run_prefect_task)
            yield runner
    finally:
        ray_launch.ray.shutdown()


def environment() -> dict[str, str]:
    """What a task must know on any node: of its inputs, as a stage there, of MLflow and its password, of the limits."""
    known = settings()
    given: dict[str, str] = importlib.import_module("tasks.ray_launch").environment()
    given |= {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_TRACKING_")}
    given.pop("MLFLOW_TRACKING_URI", None)
    if not known.tracking_uri.startswith("sqlite"):  # a file of this machine
        given["MLFLOW_TRACKING_URI"] = known.tracking_uri
    return given | {
        "TINYBERT_EXPERIMENT": known.experiment,
        "TINYBERT_TRACKING_PAGE": known.tracking_page,
        "TINYBERT_SLOTS": known.slots,
        "TINYBERT_PROMOTIONS": known.promotions,
    }


def _in_environment(variables: dict[str, str], run: Callable[..., Any]) -> Callable[..., Any]:
    """A function that runs another with these variables set; with it they travel over Ray's own connection.

    A runtime environment would carry them as well, but Ray writes it into its logs.
    """

    def run_there(*arguments: Any, **named: Any) -> Any:
        os.environ.update(variables)
        os.environ.setdefault("TINYBERT_WORK", str(Path(tempfile.gettempdir()) / "tinybert"))
        return run(*arguments, **named)

    return run_there
