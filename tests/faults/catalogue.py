"""Which faults are tried: a few that share their runs, for every day; kills at each moment of each stage; others."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.faults import deeds
from tests.faults.deeds import Deed, kill, store
from tests.faults.moments import STAGES, TRAINING, Moment
from tests.faults.scene import Plan

OFTEN = {"optim": {"checkpoint_every": 2}}
"""The stages of the preset are so short that they would write no checkpoint before the last."""
WHOLE = {"mlm": OFTEN, "general": OFTEN, "layers": OFTEN}
"""Every stage there is."""
SHORT = {
    "mlm": {"enabled": False},
    "general": {"enabled": False},
    "baseline": {"enabled": False},
    "layers": OFTEN,
    "export": {"onnx": False, "int8": False},
}
"""Fewer stages, in half the time."""


PARTS = ("postgres", "s3", "prefect", "mlflow", "worker")
"""Of the stack, those that run all the time; the first only where PostgreSQL is installed."""


@dataclass(frozen=True)
class Scenario:
    """A run and what is done to it.

    Attributes:
        name: Of the run, its model and its part of the store.
        plan: What happens when.
        form: What is different from the preset `smoke`.
        small_disk: The work directory is a file system of its own.
        passes: Runs from nothing at most, until everything planned has been done: what is down cannot be killed.
    """

    name: str
    plan: Plan
    form: dict = field(default_factory=lambda: WHOLE)
    small_disk: bool = False
    passes: int = 1


QUICK = [
    Scenario(
        "killed",
        {
            Moment("prepare", "end"): kill("s3"),
            Moment("fine_tune", "middle"): kill("mlflow"),
            Moment("targets", "start"): store("busy", 5),
            Moment("layers", "start"): kill("worker"),
            Moment("layers", "middle"): kill("prefect"),
            Moment("logits", "middle"): deeds.KILL_RUN,
        },
        SHORT,
    ),
    Scenario(
        "stopped",
        {
            Moment("fine_tune", "middle"): deeds.CANCEL,
            Moment("fine_tune", "stored"): deeds.ALTER,
        },
        SHORT,
    ),
]
"""Eight faults in two runs."""


def everywhere(deed: Deed, *moments: str, stages: tuple[str, ...] = STAGES) -> Plan:
    """A fault at these moments of every stage."""
    return {Moment(stage, moment): deed for stage in stages for moment in moments}  # type: ignore[arg-type]


def full(parts: Iterable[str] = PARTS) -> list[Scenario]:
    """Everything: kills at the start, middle and end of every stage, other faults at the moments named here.

    Args:
        parts: Of the stack, those that run all the time.
    """
    servers = [Scenario(f"kill-{part}", everywhere(kill(part), "start", "middle", "end"), passes=9) for part in parts]
    moments = ("start", "middle", "end", "stored")
    return [
        *(Scenario(f"kill-flow-run-{moment}", everywhere(deeds.KILL_RUN, moment)) for moment in moments),
        *servers,
        Scenario(
            "kill-process",
            everywhere(deeds.KILL_PROCESS, "start", "middle", "written", stages=TRAINING),
            WHOLE | {"launch": {"processes": 2}},
        ),
        Scenario("kill-machine", {Moment("layers", "middle"): deeds.KILL_MACHINE}),
        Scenario("cancel", everywhere(deeds.CANCEL, "middle", stages=("fine_tune", "augment", "layers", "evaluate"))),
        Scenario("two-at-once", {Moment("prepare", "start"): deeds.START_ANOTHER}),
        Scenario("altered", {Moment(stage, "stored"): deeds.ALTER for stage in ("prepare", "fine_tune", "layers")}),
        Scenario("truncated", {Moment(stage, "stored"): deeds.TRUNCATE for stage in ("corpus", "gather", "logits")}),
        Scenario(
            "disk-full",
            everywhere(deeds.FILL_DISK, "middle", stages=("mlm", "fine_tune", "layers", "gather", "export")),
            small_disk=True,
        ),
        Scenario("s3-busy", everywhere(store("busy", 25), "start", "end", stages=("mlm", "fine_tune", "augment"))),
        Scenario("s3-denied", everywhere(store("denied", 3600), "start", "end", stages=("fine_tune", "layers"))),
        Scenario("s3-slow", {Moment("prepare", "start"): store("slow", 3600)}),
        Scenario("s3-hung", everywhere(store("hung", 75), "start", "end", stages=("fine_tune", "gather"))),
    ]
