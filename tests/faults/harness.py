"""Plays scenarios on one real stack, and says of each whether the run came to what an undisturbed one comes to."""

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Self

from tests.faults.catalogue import Scenario
from tests.faults.checks import LEASE, look_through, slots_on_lease, slots_taken
from tests.faults.scene import Outcome, Scene, may_mount
from tests.faults.stack import FaultStack


class Harness:
    """A stack, up inside the block, and the undisturbed runs that others are compared with."""

    def __init__(self, say: Callable[[str], None] = lambda line: None) -> None:
        self._say = say
        self._directory = tempfile.TemporaryDirectory()
        base = Path(self._directory.name)
        base.chmod(0o755)  # the database has another user
        self.may_fill_disks = may_mount(base / "mount")
        self.stack = FaultStack(base / "stack")
        self._undisturbed: dict[str, Outcome] = {}
        self.processes_left: int | None = None

    def __enter__(self) -> Self:
        begun = time.monotonic()
        try:
            self.stack.bring_up()
        except BaseException:
            self.take_down()
            raise
        self._say(f"the stack is up after {time.monotonic() - begun:.0f} s; {self.stack.known.database}")
        return self

    def __exit__(self, *_: object) -> None:
        self.take_down()

    def play(self, scenario: Scenario) -> list[Outcome]:
        """What came of each run from nothing; of what could not be done in one, only the last has `missed`."""
        expected = self.undisturbed(scenario.form)
        outcomes: list[Outcome] = []
        plan = scenario.plan
        while plan and len(outcomes) < scenario.passes and (not outcomes or outcomes[-1].done):
            name = scenario.name if not outcomes else f"{scenario.name}-{len(outcomes) + 1}"
            outcome = self._scene(replace(scenario, name=name, plan=plan)).play()
            compare(outcome, expected)
            self._say(f"{name}: {len(outcome.done)} faults, {'; '.join(outcome.problems) or 'survived'}")
            for earlier in outcomes:
                earlier.missed = {}
            outcomes.append(outcome)
            plan = outcome.missed
        return outcomes

    def undisturbed(self, form: dict) -> Outcome:
        """A run with this form that nothing happens to; made once."""
        key = json.dumps(form, sort_keys=True)
        if key not in self._undisturbed:
            name = f"undisturbed-{len(self._undisturbed) + 1}"
            outcome = self._scene(Scenario(name, {}, form)).play()
            assert not outcome.problems, outcome
            assert len(outcome.students) == 1, outcome
            self._say(f"{name}: {outcome.seconds:.0f} s, {len(outcome.kept.made())} artifacts")
            self._undisturbed[key] = outcome
        return self._undisturbed[key]

    def _scene(self, scenario: Scenario) -> Scene:
        return Scene(self.stack, scenario.name, scenario.form, scenario.plan, scenario.small_disk, self._say)

    def slots_held(self, seconds: float = LEASE + 45) -> int:
        """Slots that are taken though nothing runs.

        Args:
            seconds: To wait at most for the leases of killed runs to end; 0: those on a lease do not count.
        """
        deadline = time.monotonic() + seconds
        while taken := slots_taken(self.stack.api):
            if not seconds:
                return max(0, taken - slots_on_lease(self.stack.layout.prefect / "concurrency_leases"))
            if time.monotonic() > deadline:
                return taken
            time.sleep(2)
        return 0

    def lost(self) -> list[str]:
        """Artifacts of the undisturbed runs that did not outlive what was done to the servers since."""
        client, bucket = self.stack.bucket
        missing = list[str]()
        for outcome in self._undisturbed.values():
            kept = look_through(client, bucket, f"faults/{outcome.name}/")
            missing += [*kept.damaged, *(outcome.kept.files.keys() - kept.files.keys())]
        return missing

    def take_down(self) -> int:
        """Stop the stack.

        Returns:
            How many of its processes are left.
        """
        if self.processes_left is None:
            self.processes_left = self.stack.take_down()
            self._directory.cleanup()
        return self.processes_left


def compare(outcome: Outcome, expected: Outcome) -> None:
    """Add to the problems of an outcome whatever it has otherwise than an undisturbed run."""
    if outcome.students != expected.students:
        outcome.problems.append(f"students {sorted(outcome.students)}, undisturbed {sorted(expected.students)}")
    if others := outcome.kept.made() ^ expected.kept.made():
        outcome.problems.append(f"artifacts that only this run or only the undisturbed one has: {sorted(others)}")
