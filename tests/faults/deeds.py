"""The faults: what can be done to a run, to the servers it needs, to its disk and to what it has stored."""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from tests.faults.checks import processes_of
from tests.faults.proxy import Mode

if TYPE_CHECKING:
    from tests.faults.scene import Scene

LAUNCHED = "tasks.torch_launch"
"""In the command line of a stage's own processes, and of their launcher."""


@dataclass(frozen=True)
class Deed:
    """A fault.

    Attributes:
        name: As the table has it.
        act: Does it; False if it cannot be done now, because what is to be killed is down already.
        ends_runs: The runs' processes are dead afterwards, and what they have asked for is not to be answered.
    """

    name: str
    act: Callable[["Scene"], bool]
    ends_runs: bool = False


def kill(part: str) -> Deed:
    """A part of the stack is killed; the supervisor brings it back."""
    return Deed(f"kill -9 {part}", lambda scene: scene.stack.kill(part))


def _kill_runs(scene: "Scene") -> bool:
    """First whoever could tell Prefect that the process is dead, or start it again; then all the others."""
    processes = [process for process in processes_of(scene.runs) if LAUNCHED not in _command(process)]
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=10)
    return bool(processes)


def _kill_machine(scene: "Scene") -> bool:
    return scene.stack.kill("worker") and _kill_runs(scene)


def _kill_process(scene: "Scene") -> bool:
    """The stage's processes may be about to start: that is waited for, but not by the run."""

    def strike() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for process in processes_of(scene.runs):
                with contextlib.suppress(psutil.Error, OSError):
                    if LAUNCHED in _command(process) and process.environ().get("RANK") == "1":
                        return process.kill()
            time.sleep(0.02)
        scene.problems.append("there was no process of a stage to kill")

    threading.Thread(target=strike, daemon=True).start()
    return True


def _command(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


KILL_RUN = Deed("kill -9 flow run", _kill_runs, ends_runs=True)
KILL_MACHINE = Deed("kill -9 worker and flow run", _kill_machine, ends_runs=True)
KILL_PROCESS = Deed("kill -9 stage process", _kill_process)


def _cancel(scene: "Scene") -> bool:
    for run in scene.runs:
        scene.stack.post(f"/flow_runs/{run}/set_state", state={"type": "CANCELLING"})
        scene.cancelled.add(run)
    return True


CANCEL = Deed("cancelled", _cancel)


def _start_another(scene: "Scene") -> bool:
    scene.start()
    return True


START_ANOTHER = Deed("two runs at once", _start_another)


def _fill_disk(scene: "Scene") -> bool:
    """Needs a work directory that is a file system of its own, else the machine's disk would be filled."""
    filler = scene.work / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(2**16))
    with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
        while True:
            file.write(b"0")
    scene.remedies.append(filler.unlink)
    return True


FILL_DISK = Deed("disk full", _fill_disk)


def damage(name: str, change: Callable[[bytes], bytes]) -> Deed:
    """The largest file of the artifact stored last is changed behind the store's back.

    The remedy is that of docs/operations.md: delete the artifact.
    """

    def act(scene: "Scene") -> bool:
        client, bucket = scene.stack.bucket
        prefix = f"{scene.prefix}{scene.watch.latest}/"
        keys = client.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]
        largest = max(keys, key=lambda item: item["Size"])["Key"]
        body = client.get_object(Bucket=bucket, Key=largest)["Body"].read()
        client.put_object(Bucket=bucket, Key=largest, Body=change(body))

        def delete() -> None:
            for item in keys:
                client.delete_object(Bucket=bucket, Key=item["Key"])

        scene.remedies.append(delete)
        return True

    return Deed(name, act)


TRUNCATE = damage("artifact truncated", lambda body: body[: len(body) // 2])
ALTER = damage("artifact altered", lambda body: body[:-1] + bytes([body[-1] ^ 1]))


def store(mode: Mode, seconds: float) -> Deed:
    """The S3 server is slow, silent, busy or hostile for some seconds, or until the run has ended."""

    def act(scene: "Scene") -> bool:
        scene.proxy.behave(mode, seconds)
        scene.remedies.append(lambda: scene.proxy.behave("pass"))
        return True

    return Deed(f"S3 {mode}", act)
