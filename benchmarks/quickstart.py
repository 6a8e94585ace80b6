"""Claim: `make quickstart` gives a student that beats its baseline and keeps 90% of its teacher, in about ten minutes.

Runs the preset from nothing in a temporary installation, and then once more from its cache.

    python benchmarks/quickstart.py [--json FILE] [--set FIELD=VALUE ...]
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run(directory: Path, name: str, assignments: list[str], preset: str = "quickstart") -> tuple[dict, float]:
    """One run of a preset in an installation below a directory: its table, and the seconds of the whole command."""
    environment = os.environ | {
        "TINYBERT_STORE": f"file:{directory}/store",
        "TINYBERT_WORK": f"{directory}/work",
        "MLFLOW_TRACKING_URI": f"sqlite:///{directory}/mlflow.db",
        "PYTHONPATH": str(ROOT),
    }
    table = directory / f"{name}.json"
    command = [sys.executable, "-m", "flows.distill", "--preset", preset, "--json", str(table)]
    begun = time.monotonic()
    changes = [part for assignment in assignments for part in ("--set", assignment)]
    subprocess.run([*command, *changes], cwd=directory, env=environment, check=True)
    return json.loads(table.read_text()), time.monotonic() - begun


def cpu() -> str:
    """The processor's name and the number of cores this process may use."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {len(os.sched_getaffinity(0))} cores"


def report(first: dict, seconds: float, again: dict, seconds_again: float) -> str:
    """What was measured, as Markdown."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    lines = [
        f"{cpu()}; commit {commit.stdout.strip() or 'unknown'}; `{' '.join(['python', *sys.argv])}`",
        "",
        (Path(first["report_directory"]) / "comparison.md").read_text(),
        first["decision"]["summary"],
    ]
    every = "every" if all(stage["cached"] for stage in again["stages"]) else "NOT every"
    lines += [
        "",
        f"{seconds:.0f} s from nothing, {seconds_again:.0f} s the second time ({every} stage cached)",
        "",
        "| stage | seconds |",
        "|---|---:|",
        *(f"| {stage['name']} | {stage['seconds']:.0f} |" for stage in first["stages"]),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="as of flows.distill")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        first, seconds = run(Path(directory), "first", given.set)
        again, seconds_again = run(Path(directory), "again", given.set)
        print(report(first, seconds, again, seconds_again))
    if given.json:
        given.json.write_text(json.dumps({**first, "wall_seconds": seconds, "again_seconds": seconds_again}, indent=1))


if __name__ == "__main__":
    main()
