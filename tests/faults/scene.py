"""A run with its own part of the store, and what is done to it: started, struck at its moments, started again."""

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.faults.checks import Kept, left_after, look_through
from tests.faults.deeds import Deed
from tests.faults.moments import Moment, Watch
from tests.faults.proxy import Proxy
from tests.faults.stack import FaultStack
from tinybert.form import merge

PATIENCE = 1200
"""Seconds for a run that takes 40 on an idle machine: ten times as much was seen on a busy one."""
NO_END = "no end"
END = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
CANCELLED = ("COMPLETED", "FAILED", "CANCELLED")
"""The last states of a cancelled run: it says that it crashed, until its worker says that it was cancelled."""
GRACE = 40
"""Seconds that processes have to leave after their run has ended: 25 to write a checkpoint, and more."""
PUT_BACK = 20
"""Seconds within which the stack's automation has put a crashed run back in the queue, if it does."""
SMALL = "96m"
"""Size of the work directory where the disk is to be filled."""
MORE_STARTS = 3
"""Runs in a row that fail though nothing was done to them: then it is given up."""

Plan = dict[Moment, Deed]


@dataclass
class Outcome:
    """How a run fared; it survived if there are no problems."""

    name: str
    done: list[tuple[str, Moment]] = field(default_factory=list)
    missed: Plan = field(default_factory=dict)
    states: list[str] = field(default_factory=list)
    """Final states of the runs, in the order in which they were started."""
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)
    students: set[str] = field(default_factory=set)
    """Digests of the students registered."""
    kept: Kept = field(default_factory=Kept)
    lost: list[str] = field(default_factory=list)
    processes_left: int = 0
    continued: list[str] = field(default_factory=list)
    """Stages that were begun again where they had a checkpoint, and its step."""

    @property
    def as_json(self) -> dict[str, Any]:
        """For the report."""
        return {
            "name": self.name,
            "survived": not self.problems,
            "problems": self.problems,
            "faults": [f"{name} at {moment.when} of {moment.stage}" for name, moment in self.done],
            "missed": [f"{deed.name} at {when} of {stage}" for (stage, when), deed in self.missed.items()],
            "states": self.states,
            "seconds": self.seconds,
            "students": sorted(self.students),
            "artifacts": len(self.kept.files),
            "continued": self.continued,
            "unfinished": self.kept.unfinished,
        }


class Scene:
    """One set of parameters, one prefix of the store, one plan."""

    def __init__(
        self, stack: FaultStack, name: str, form: dict, plan: Plan, small_disk: bool, say: Callable[[str], None]
    ) -> None:
        self.stack, self.name, self.work = stack, name, stack.layout.directory.parent / "work" / name
        self._form, self._plan, self._small_disk, self._say = form, dict(plan), small_disk, say
        self.prefix = f"faults/{name}/"
        self.runs: list[str] = []
        self.cancelled: set[str] = set()
        self.problems: list[str] = []
        self.remedies: list[Callable[[], Any]] = []
        self._outcome = Outcome(name)
        self._stored: set[str] = set()
        self.watch = Watch(self.work, self._on_moment)
        self.proxy = Proxy(stack.known.s3_url, self.watch.before, self.watch.after)

    def start(self) -> None:
        """One more run with these parameters."""
        deployment = self.stack.get("/deployments/name/distill/smoke")
        config = merge(merge(deployment["parameters"]["config"], self._form), {"name": self.name})
        environment = {
            "TINYBERT_STORE": f"s3://{self.stack.known.s3_bucket}/{self.prefix.rstrip('/')}",
            "TINYBERT_WORK": str(self.work),
            "AWS_ENDPOINT_URL_S3": self.proxy.url,
        }
        run = self.stack.post(
            f"/deployments/{deployment['id']}/create_flow_run",
            parameters={"config": config},
            job_variables={"env": environment},
        )
        self.runs.append(run["id"])

    def play(self) -> Outcome:
        """Start the run as often as the faults need it, and look at what it leaves."""
        begun, barren = time.monotonic(), 0
        with self._disk(), self.watch, self.proxy:
            while barren < MORE_STARTS:
                first, faults = len(self.runs), len(self._outcome.done)
                self.start()
                states = self._wait(first)
                self._outcome.states += states
                self._outcome.processes_left += len(left_after(GRACE, self.runs))
                self.stack.settle()
                for remedy in self.remedies:
                    remedy()
                self.remedies.clear()
                self._note_stored()
                if NO_END in states or all(state.startswith("COMPLETED") for state in states):
                    break
                barren = barren + 1 if len(self._outcome.done) == faults else 0
        self._outcome.seconds = round(time.monotonic() - begun, 1)
        return self._looked_at()

    def _on_moment(self, moment: Moment) -> bool:
        deed = self._plan.get(moment)
        if deed is None:
            return False
        try:
            self.watch.steps.struck(moment.stage)
            if not deed.act(self):
                return False
        except Exception as error:  # it is in a thread of the proxy or the watch: nobody would hear of it
            self.problems.append(f"{deed.name} at {moment}: {error!r}")
            return False
        del self._plan[moment]
        self._outcome.done.append((deed.name, moment))
        self._say(f"  {self.name}: {deed.name} at {moment.when} of {moment.stage}")
        return deed.ends_runs

    def _wait(self, first: int) -> list[str]:
        """Final states of the runs from one on; there may come more while we wait."""
        deadline, states = time.monotonic() + PATIENCE, dict[str, str]()
        crashed: dict[str, float] = {}
        while len(states) < len(self.runs) - first:
            if time.monotonic() > deadline:
                self.problems.append(f"no end after {PATIENCE} seconds")
                return [*states.values(), NO_END]
            time.sleep(0.3)
            for run in self.runs[first:]:
                with contextlib.suppress(httpx.HTTPError, KeyError):  # the server may just have been killed
                    state = self.stack.get(f"/flow_runs/{run}")["state"]
                    if state["type"] != "CRASHED":
                        crashed.pop(run, None)
                    elif time.monotonic() < crashed.setdefault(run, time.monotonic()) + PUT_BACK:
                        continue
                    if state["type"] in (CANCELLED if run in self.cancelled else END):
                        states[run] = f"{state['type']} {state['message'] or ''}".strip()
        for state in states.values():
            self._say(f"  {self.name}: {state}")
        return list(states.values())

    def _note_stored(self) -> None:
        client, bucket = self.stack.bucket
        self._stored |= look_through(client, bucket, self.prefix).made()

    def _looked_at(self) -> Outcome:
        client, bucket = self.stack.bucket
        outcome = self._outcome
        outcome.kept = look_through(client, bucket, self.prefix)
        outcome.lost = sorted({*outcome.kept.damaged, *(self._stored - outcome.kept.made())})
        outcome.students = self.stack.students(self.name)
        outcome.missed = self._plan
        self.problems += self.watch.steps.problems
        outcome.problems = self.problems
        outcome.continued = self.watch.steps.continued
        if not (outcome.states and outcome.states[-1].startswith("COMPLETED")):
            outcome.problems.append(f"ended as {outcome.states[-1:]}")
        if outcome.lost:
            outcome.problems.append(f"lost or damaged: {outcome.lost}")
        if outcome.processes_left:
            outcome.problems.append(f"{outcome.processes_left} processes were left")
        return outcome

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        """The work directory; where it is to be filled, a file system of its own, in memory."""
        self.work.mkdir(parents=True)
        if not self._small_disk:
            yield
            return
        mounted = ["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", str(self.work)]
        subprocess.run(mounted, check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", "--lazy", str(self.work)], check=True)


def may_mount(directory: Path) -> bool:
    """Whether this account may mount a file system, which filling a disk needs."""
    directory.mkdir(exist_ok=True)
    mounted = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(directory)]
    if subprocess.run(mounted, capture_output=True, check=False).returncode:
        return False
    subprocess.run(["umount", str(directory)], check=True)
    return True
