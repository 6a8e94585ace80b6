"""Claim: a run survives the faults that docs/operations.md names here, and comes to an undisturbed run's model.

Brings the real stack up in a temporary directory, kills its parts, the runs and their processes at the start, middle
and end of every stage; at a few moments it fills the disk (of TINYBERT_WORK alone), damages artifacts, makes S3 slow,
silent, busy and hostile, cancels, and starts two runs at once. After each, all artifacts are read and compared with
those of an undisturbed run, and no training stage may have lost a checkpoint, or trained its steps again.

Not tried: to wait for the slot of a killed run, for there are a thousand (else each kill would cost the five minutes
of its lease; at the end all must be free); a full disk of the store, the database or Prefect's results; two faults
at once. docs/operations.md says which rows of its table are tried here, and what tries the others.

    python benchmarks/faults.py [--json FILE] [--all | --only NAME ... [--stages STAGE ...]] [--list]
"""

import argparse
import json
import signal
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.faults.catalogue import QUICK, Scenario, full  # noqa: E402
from tests.faults.harness import Harness  # noqa: E402
from tests.faults.scene import Outcome  # noqa: E402

BEGUN = time.monotonic()


def say(line: str) -> None:
    """A line of progress."""
    print(f"{time.monotonic() - BEGUN:6.0f} s  {line}", file=sys.stderr, flush=True)


def chosen(given: argparse.Namespace, harness: Harness) -> list[Scenario]:
    """The scenarios that were asked for, without those that need rights we do not have."""
    known = {scenario.name: scenario for scenario in [*QUICK, *full(harness.stack.part_names)]}
    names = given.only or [scenario.name for scenario in QUICK]
    if given.all:
        names = list(known)
    if unknown := set(names) - known.keys():
        sys.exit(f"no such scenario: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    wanted = [within(known[name], given.stages) for name in names]
    for scenario in wanted:
        if scenario.small_disk and not harness.may_fill_disks:
            say(f"{scenario.name}: left out, it needs the right to mount a file system")
    return [scenario for scenario in wanted if harness.may_fill_disks or not scenario.small_disk]


def within(scenario: Scenario, stages: list[str]) -> Scenario:
    """A scenario with what it does in these stages alone; of none, everything."""
    return replace(scenario, plan={m: deed for m, deed in scenario.plan.items() if not stages or m.stage in stages})


def counted(outcomes: list[Outcome], slots: int, processes: int, lost: list[str]) -> dict:
    """The figures; a fault is survived if the run in which it happened has no problem at all."""
    return {
        "tried": sum(len(outcome.done) for outcome in outcomes),
        "survived": sum(len(outcome.done) for outcome in outcomes if not outcome.problems),
        "artifacts_lost": len(lost) + sum(len(outcome.lost) for outcome in outcomes),
        "slots_leaked": slots,
        "processes_leaked": processes + sum(outcome.processes_left for outcome in outcomes),
        "continued": sum(len(outcome.continued) for outcome in outcomes),
        "missed": sum(len(outcome.missed) for outcome in outcomes),
        "seconds": round(time.monotonic() - BEGUN),
        "runs": [outcome.as_json for outcome in outcomes],
    }


def table(outcomes: list[Outcome]) -> str:
    """Faults by kind, as Markdown."""
    tried = Counter(name for outcome in outcomes for name, _ in outcome.done)
    survived = Counter(name for outcome in outcomes for name, _ in outcome.done if not outcome.problems)
    lines = ["| fault | tried | survived |", "|---|---:|---:|"]
    lines += [f"| {name} | {tried[name]} | {survived[name]} |" for name in sorted(tried)]
    lines += ["", "| run | faults | starts | seconds | |", "|---|---:|---:|---:|---|"]
    lines += [
        f"| {o.name} | {len(o.done)} | {len(o.states)} | {o.seconds:.0f} | {'; '.join(o.problems) or 'survived'} |"
        for o in outcomes
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--all", action="store_true", help="all that --list names (hours); else a few (minutes)")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these scenarios")
    parser.add_argument("--stages", nargs="+", default=[], metavar="STAGE", help="of these scenarios, what is in these")
    parser.add_argument("--list", action="store_true", help="names of the scenarios, and no more")
    given = parser.parse_args()
    if given.list:
        print("\n".join(scenario.name for scenario in [*QUICK, *full()]))
        print("kill-postgres needs PostgreSQL, disk-full the right to mount", file=sys.stderr)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # the stack must not outlive us
    outcomes: list[Outcome] = []
    with Harness(say) as harness:
        for scenario in chosen(given, harness):
            outcomes += harness.play(scenario)
            write(given.json, counted(outcomes, harness.slots_held(seconds=0), 0, harness.lost()))
        say("waiting for the slots of killed runs")
        slots, lost = harness.slots_held(), harness.lost()
        processes = harness.take_down()
    print(table(outcomes))
    found = counted(outcomes, slots, processes, lost)
    print("\n" + ", ".join(f"{key} {value}" for key, value in found.items() if key != "runs"))
    write(given.json, found)


def write(file: Path | None, found: dict) -> None:
    """The figures so far, for they take hours."""
    if file:
        file.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
