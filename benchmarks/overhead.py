"""Claim: orchestration takes less than 2% of the quickstart's time, and less than 5 seconds a stage.

Runs a preset from nothing and subtracts from its time what the stages' own functions took, and the two tasks that
look at rows and models or draw: preflight and report; MLflow has all of these. What is left is everything around them:
Prefect, MLflow, slots, the registry, and what goes into the store and out of it. The share with preflight and report
is told beside. A run is as long as MLflow says, from its first line to its last artifact. Without PREFECT_API_URL
libraries are loaded before that, while a temporary server starts, else preflight loads them.

    python benchmarks/overhead.py [--preset NAME] [--set FIELD=VALUE ...] [--json FILE]
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from distill_step import commit, processor
from mlflow import MlflowClient
from quickstart import run

OTHERS = ["preflight", "report"]
"""Tasks that are no stages, and have work of their own."""


def computed(tracking: str) -> tuple[float, dict[str, float], dict[str, float]]:
    """Seconds of the run, of each stage's function, those of shards added up, and of the tasks that are no stages."""
    client = MlflowClient(tracking)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    stages: dict[str, float] = {}
    others: dict[str, float] = {}
    whole = 0.0
    for found in client.search_runs(experiments, max_results=1000):
        name, metrics = found.info.run_name, found.data.metrics
        if "final_seconds" in metrics:
            stages[name] = stages.get(name, 0.0) + metrics["final_seconds"]
        elif "run_seconds" in metrics:
            others = {name: metrics[f"{name}_seconds"] for name in OTHERS}
            whole = (found.info.end_time - found.info.start_time) / 1000
    return whole, stages, others


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="quickstart", metavar="NAME")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="as of flows.distill")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        summary, wall = run(Path(directory), "run", given.set, given.preset)
        seconds, own, others = computed(f"sqlite:///{directory}/mlflow.db")
    names = [stage["name"] for stage in summary["stages"]]
    with_others = seconds - sum(own.values())
    around = with_others - sum(others.values())
    figures = {
        "share": around / seconds,
        "seconds_per_stage": around / len(names),
        "share_with_preflight_and_report": with_others / seconds,
        "seconds": seconds,
    }
    if given.json:
        given.json.write_text(
            json.dumps({**figures, "command_seconds": wall, "stages": own, **others}, indent=1) + "\n"
        )
    print(f"{processor()}; commit {commit()}; `python {' '.join(sys.argv)}`\n")
    print("| stage | seconds | of these its own |\n|---|---:|---:|")
    for stage in summary["stages"]:
        print(f"| {stage['name']} | {stage['seconds']:.1f} | {own.get(stage['name'], 0.0):.1f} |")
    print(
        f"\n{around:.1f} of {seconds:.0f} s are orchestration: {figures['share']:.1%} of the run, "
        f"{figures['seconds_per_stage']:.2f} s a stage. Preflight took {others['preflight']:.1f} s and the report "
        f"{others['report']:.1f} s more, {with_others / seconds:.1%} in all; the command took {wall:.0f} s"
    )


if __name__ == "__main__":
    main()
