"""Claim: orchestration takes less than 2% of the quickstart's time, and less than 5 seconds a stage.

Runs a preset from nothing and subtracts from its time what the stages' own functions took, as MLflow has it, and what
loading torch and the other libraries takes before the first of them and for the report, by a process that does nothing
else. What is left is everything around them: Prefect, MLflow, preflight, sources, slots, the report's page, and what
goes into the store and out of it.
Without PREFECT_API_URL the run needs no server, else it is that server's.

    python benchmarks/overhead.py [--preset NAME] [--set FIELD=VALUE ...] [--json FILE]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from distill_step import commit, processor
from mlflow import MlflowClient
from quickstart import run

ROOT = Path(__file__).resolve().parent.parent
LOADED = ["tinybert.libraries", "tinybert.preflight", "tinybert.warm_up", "tinybert.page"]
"""What is loaded outside of stages; torch, transformers, datasets, scikit-learn and matplotlib come with it."""


def computed(tracking: str) -> dict[str, float]:
    """Seconds that the function of each stage took, by the stage's name; those of shards are added up."""
    client = MlflowClient(tracking)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    seconds: dict[str, float] = {}
    for stage in client.search_runs(experiments, max_results=1000):
        if "final_seconds" in stage.data.metrics:
            name = stage.info.run_name
            seconds[name] = seconds.get(name, 0.0) + stage.data.metrics["final_seconds"]
    return seconds


def loading() -> float:
    """Seconds in which a process that has the flow loads what preflight and the report load."""

    def seconds(modules: list[str]) -> float:
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {', '.join(modules)}"], check=True, cwd=ROOT)
        return time.perf_counter() - begun

    return seconds(["flows.distill", *LOADED]) - seconds(["flows.distill"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="quickstart", metavar="NAME")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="as of flows.distill")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        summary, wall = run(Path(directory), "run", given.set, given.preset)
        own = computed(f"sqlite:///{directory}/mlflow.db")
    names = [stage["name"] for stage in summary["stages"]]
    libraries = loading()
    outside = summary["seconds"] - sum(own.values())
    around = outside - libraries
    figures = {
        "share": around / summary["seconds"],
        "seconds_per_stage": around / len(names),
        "share_with_libraries": outside / summary["seconds"],
        "libraries": libraries,
        "seconds": summary["seconds"],
    }
    if given.json:
        given.json.write_text(json.dumps({**figures, "command_seconds": wall, "stages": own}, indent=1) + "\n")
    print(f"{processor()}; commit {commit()}; `python {' '.join(sys.argv)}`\n")
    print("| stage | seconds | of these its own |\n|---|---:|---:|")
    for stage in summary["stages"]:
        print(f"| {stage['name']} | {stage['seconds']:.1f} | {own.get(stage['name'], 0.0):.1f} |")
    print(
        f"\n{around:.1f} of {summary['seconds']:.0f} s are orchestration: {figures['share']:.1%} of the run, "
        f"{figures['seconds_per_stage']:.2f} s a stage. Loading libraries takes {libraries:.1f} s more, "
        f"{figures['share_with_libraries']:.1%} in all; the command took {wall:.0f} s"
    )


if __name__ == "__main__":
    main()
