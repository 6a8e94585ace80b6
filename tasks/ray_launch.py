"""Runs a stage in several processes of a Ray cluster, with Ray Train's TorchTrainer.

`python -m tasks.ray_launch DIRECTORY` launches what is asked there. A worker may be on any machine: it finds the
stage's inputs for itself, rank 0's output and checkpoints travel through the object store, answers through a queue.
"""

import importlib
import os
import re
import signal
import socket
import sys
import tempfile
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.queue import Queue

from tasks import sources
from tasks.checkpoints import mirrored, restore
from tasks.connections import store
from tasks.launched import Request, Send, end, end_on_request, perform, read_request, send_to, told, told_by
from tasks.settings import settings
from tinybert import refs
from tinybert.errors import ConfigError, TransientError
from tinybert.processes import TIMEOUT, agreed
from tinybert.resume import last_checkpoint, resume_beside

PACKAGES = ("tinybert", "tasks", "flows")
HANDED_ON = ("AWS_", "HF_")
"""Beginnings of the environment variables that workers need to find their inputs."""


def launch(directory: Path) -> None:
    """Have the stage run on the cluster, and pass on what its processes say."""
    request, send = read_request(directory), send_to(directory)
    end_on_request()
    with told(send, "the launcher"):
        connect(request.launch.address or "auto", request.launch.processes)
        signal.signal(signal.SIGTERM, end)  # Ray has set its own
        scaling = _scaling(request.launch.processes)
    failures: dict[str, str] = {}
    told_why: set[str] = set()
    try:
        for answer in _train(request, scaling, failures):
            send(**answer)
            told_why |= {answer["error"]["who"]} if "error" in answer else set()
    except (OSError, RayError) as error:
        failures["the cluster"] = str(error)
    for who in failures.keys() - told_why:
        send(lost=f"{who} was lost: {failures[who].strip().splitlines()[-1][:300]}")
    ray.shutdown()
    sys.exit(1 if failures else 0)


def _train(request: Request, scaling: ScalingConfig, failures: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The answers of the processes as they come; in the end `failures` tells who failed, and how."""
    answers = Queue(actor_options={"num_cpus": 0})
    # On the cluster, so that it makes no difference whether this machine is part of it.
    running = ray.remote(num_cpus=0)(_fit).remote(request, scaling, environment(), answers)
    done: list[Any] = []
    while not done:
        done, _ = ray.wait([running], timeout=0.5)
        yield from answers.get_nowait_batch(answers.size())
    failures.update(ray.get(running))


def connect(address: str, processes: int) -> None:
    """Connect this process; raises TransientError where no cluster answers."""
    local = {"include_dashboard": False, "num_cpus": max(processes, os.cpu_count() or 1)}
    code = [str(Path(str(importlib.import_module(name).__file__)).parent) for name in PACKAGES]
    try:
        if host := re.fullmatch(r"(ray://)?(.+):(\d+)", address):
            socket.create_connection((host[2], int(host[3])), timeout=10).close()  # Ray would try for minutes
        options = local if address == "local" else {}
        ray.init(address, runtime_env={"py_modules": code}, log_to_driver=False, **options)
    except (OSError, RayError) as error:
        raise TransientError(f"no Ray cluster answers at launch.address {address}: {error}") from error


def _scaling(processes: int) -> ScalingConfig:
    """A GPU for each process where the cluster has any, else as many cores as each may have on these nodes.

    Raises:
        ConfigError: The nodes that are up cannot hold that many.
    """
    kind = "GPU" if ray.cluster_resources().get("GPU") else "CPU"
    nodes = [int(node["Resources"].get(kind, 0)) for node in ray.nodes() if node["Alive"]]
    if sum(nodes) < processes:
        raise ConfigError(
            f"launch.processes is {processes}, but the Ray cluster has {sum(nodes)} {kind}s; use that many"
        )
    if kind == "GPU":
        return ScalingConfig(num_workers=processes, use_gpu=True)
    cores = max(c for c in range(1, max(nodes) + 1) if sum(node // c for node in nodes) >= processes)
    return ScalingConfig(num_workers=processes, resources_per_worker={"CPU": cores})


def environment() -> dict[str, str]:
    """What a worker must know to find its inputs, secrets included: Ray would log them in a runtime environment."""
    handed = {name: value for name, value in os.environ.items() if name.startswith(HANDED_ON)}
    return {**handed, "TINYBERT_STORE": store().root}


def _fit(request: Request, scaling: ScalingConfig, environment: dict[str, str], answers: Queue) -> dict[str, str]:
    """Train, on some node of the cluster. Gives who failed, and how."""

    def work() -> None:
        _work(request, environment, lambda **answer: answers.put(answer))

    with tempfile.TemporaryDirectory() as unused:  # Ray's own checkpoints, of which there are none
        run = RunConfig(name=request.key, storage_path=unused, failure_config=FailureConfig(max_failures=0))
        try:
            patient = TorchConfig(timeout_s=int(TIMEOUT.total_seconds()))
            TorchTrainer(work, torch_config=patient, scaling_config=scaling, run_config=run).fit()
        except TrainingFailedError as error:
            failures = getattr(error, "worker_failures", None)
            if failures is None:  # not the workers: Ray's controller of them
                raise
            return {f"process {rank}": str(failure) for rank, failure in failures.items()}
    return {}


def _work(request: Request, environment: dict[str, str], send: Send) -> None:
    """Be one of the processes."""
    os.environ.update(environment)
    os.environ.setdefault("TINYBERT_WORK", str(Path(tempfile.gettempdir()) / "tinybert"))
    rank = ray.train.get_context().get_world_rank()
    settings().work.mkdir(parents=True, exist_ok=True)
    with told_by(send, rank), tempfile.TemporaryDirectory(dir=settings().work) as directory:
        out = Path(directory) / "out"
        out.mkdir()
        mirror = mirrored(store(), request.key, resume_beside(out)) if rank == 0 else nullcontext()
        with _evidence_sent(send, resume_beside(out)), mirror:
            if rank > 0:
                restore(store(), request.key, resume_beside(out))
            _check_same(last_checkpoint(resume_beside(out)), rank)
            inputs = {
                name: sources.local(getattr(refs, n.kind)(**n.ref.model_dump())) for name, n in request.refs.items()
            }
            metrics = perform(request, rank, inputs, out, send)
            if rank == 0:
                send(output=store().put("model", out).model_dump())
        if rank == 0:
            send(result=metrics)


@contextmanager
def _evidence_sent(send: Send, directory: Path) -> Iterator[None]:
    """If the body fails, what it left there for a look is an answer, for the directory goes with the process."""
    try:
        yield
    except Exception:
        for file in directory.glob("*.safetensors"):
            send(evidence=[file.name, b64encode(file.read_bytes()).decode()])
        raise


def _check_same(checkpoint: str | None, rank: int) -> None:
    """Raises TransientError where this process found another checkpoint in the store than rank 0."""
    here = Path(checkpoint).name if checkpoint else "none"
    if (there := agreed(here)) != here:
        raise TransientError(f"process {rank} found checkpoint {here}, process 0 {there}; the store was not readable")


if __name__ == "__main__":
    launch(Path(sys.argv[1]))
