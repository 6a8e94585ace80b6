"""Runs a stage in several processes of this machine, under torchrun's elastic launcher.

`python -m tasks.torch_launch DIRECTORY` launches what is asked there; it starts each process as
`python -m tasks.torch_launch DIRECTORY PARENT`. A program of its own, because the launcher takes over the signals of
the process it works in, which in a Prefect task are Prefect's.
"""

import os
import signal
import sys
import uuid
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tasks.launched import TAIL, end_on_request, end_with_parent, own_out, perform, read_request, send_to, told_by
from tinybert.processes import leave

LOOPBACK = "127.0.0.1"


def launch(directory: Path) -> None:
    """Start the processes, and tell which died of what: retries are not made here, but by Prefect."""
    end_on_request()
    processes = read_request(directory).launch.processes
    # A process computes with as many threads as there are cores, unless told otherwise.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // processes)))
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # gloo would look up this machine's name
    os.environ.setdefault("PYTHONFAULTHANDLER", "1")  # a crash says where
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint=f"{LOOPBACK}:0",
        local_addr=LOOPBACK,
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=str(directory / "logs"), redirects=Std.ALL),
        signals_to_handle="SIGINT",  # SIGTERM is ours
    )
    try:
        elastic_launch(config, sys.executable)("-m", "tasks.torch_launch", str(directory), str(os.getpid()))
    except ChildFailedError as error:
        _tell_deaths(directory, error.failures)
        sys.exit(1)


def _tell_deaths(directory: Path, failures: dict[int, ProcessFailure]) -> None:
    """Say what killed processes died of. Those the launcher itself ended, because another had failed, do not count.

    SIGKILL comes from the kernel when memory runs out, or from an operator, as SIGTERM does if nothing failed before;
    any other signal is a crash of the program.
    """
    processes, send = read_request(directory).launch.processes, send_to(directory)
    first = min(failure.timestamp for failure in failures.values())
    codes = {rank: failure.exitcode for rank, failure in failures.items() if failure.timestamp <= first + 1}
    for rank, code in codes.items():
        what = f"process {rank} of {processes} was ended by {signal.Signals(-code).name if code < 0 else ''}"
        if code == -signal.SIGKILL:
            send(lost=f"{what}; if memory ran out, use fewer launch.processes or more accumulation")
        elif code < 0 and code != -signal.SIGTERM:
            send(crashed=f"{what}\n{_stderr(directory, rank)}")
        elif set(codes.values()) == {-signal.SIGTERM}:
            send(lost=what)
    print(_stderr(directory, min(failures, key=lambda rank: failures[rank].timestamp)), file=sys.stderr)


def _stderr(directory: Path, rank: int) -> str:
    """The end of what a process wrote."""
    return "".join(path.read_text()[-TAIL:] for path in directory.glob(f"logs/*/attempt_0/{rank}/stderr.log"))


def work(directory: Path, parent: int) -> None:
    """Be one of the processes."""
    end_with_parent(parent)
    request, send, rank = read_request(directory), send_to(directory), int(os.environ["RANK"])
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # before the stage loads a model
    with told_by(send, rank):
        metrics = perform(request, rank, {}, own_out(directory, request.out, rank), send)
    if rank == 0:
        send(result=metrics)
    leave()


if __name__ == "__main__":
    if len(sys.argv) == 2:
        launch(Path(sys.argv[1]))
    else:
        work(Path(sys.argv[1]), int(sys.argv[2]))
