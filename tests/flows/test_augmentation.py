"""Augmentation in shards through real task runs: killed in the middle, on a Ray cluster, and reported."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from prefect import flow
from prefect.artifacts import Artifact
from prefect.settings import PREFECT_API_URL

from flows.command import presets
from flows.distill import augmented
from tasks.augmentation import screen_copies
from tasks.data import prepare_data, resolve_sources
from tasks.run import open_run
from tinybert.cli import validated
from tinybert.config import DistillConfig
from tinybert.form import merge
from tinybert.refs import DatasetResult

ROOT = Path(__file__).parents[2]


@pytest.fixture
def form(smoke_material):
    """A form as plain values: four shards."""
    return {
        "name": "copies",
        "data": {"source": f"file:{smoke_material}/rows.csv", "max_length": 16},
        "teacher": {"source": f"file:{smoke_material}/teacher"},
        "augment": {"vectors": f"file:{smoke_material}/vectors.txt", "copies": 3, "candidates": 4, "shard_rows": 120},
        "general": {"enabled": False},
        "publish": {"enabled": False},
    }


def begun(form, store):
    environment = {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value(), "PYTHONPATH": str(ROOT)}
    environment |= {
        "PREFECT_LOGGING_EXTRA_LOGGERS": "tinybert",
        "TINYBERT_STORE": f"file:{store}",
        "PREFECT_LOCAL_STORAGE_PATH": f"{store}/results",
    }
    command = [sys.executable, str(ROOT / "tests/flows/augmenting.py"), json.dumps(form)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    )


def finished(form, store):
    """How each shard ended, and the digest of the rows with their copies."""
    with begun(form, store) as process:
        told = process.stdout.read()
    assert process.returncode == 0
    shards = [line.rsplit(" ", 1)[1] for line in told.splitlines() if "  shard " in line]
    return shards, told.rsplit("digest ", 1)[1].split()[0]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_run_goes_on_at_the_next_shard_and_gives_the_same_files(home, form):
    with begun(form, home / "store") as process:
        for line in process.stdout:
            if "shard 2 of 4" in line:
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    shards, resumed = finished(form, home / "store")
    assert shards == ["Cached", "Cached", "Completed", "Completed"]
    shards, unbroken = finished(form, home / "other")
    assert shards == ["Completed"] * 4
    assert resumed == unbroken


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_shards_on_a_ray_cluster_give_the_same_files(home, form):
    pytest.importorskip("prefect_ray")
    _, here = finished(form, home / "store")
    shards, there = finished(form | {"launch": {"engine": "ray", "address": "local"}}, home / "other")
    assert shards == ["Completed"] * 4
    assert there == here


@flow(name="screening")
def screening(config: DistillConfig) -> DatasetResult:
    """What `distill` does with copies that no teacher judges."""
    with open_run(config, config.name, 4) as run:
        found = run.always(resolve_sources, config)
        prepared = run(prepare_data, found.data, found.validation, found.test, config.data)
        return run(screen_copies, augmented(run, config, found, prepared, found.teacher), None, config.quality)


@pytest.mark.parametrize("task", ["stars", pytest.param("squad", marks=pytest.mark.slow)])
def test_copies_of_numbers_and_answers_are_reported_in_both_uis(home, smoke_material, task):
    preset = json.loads(
        json.dumps(presets("suite")["kinds-smoke"]).replace("file:build/smoke", f"file:{smoke_material}")
    )
    config = validated(DistillConfig, merge(merge(preset["settings"], preset["tasks"][task]), {"name": task}))
    assert not config.copies_are_judged
    result = screening(config)
    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    experiment = client.get_experiment_by_name("tinybert").experiment_id
    [screen] = [run for run in client.search_runs([experiment]) if run.info.run_name == "screen"]
    names = {artifact.path for artifact in client.list_artifacts(screen.info.run_id)}
    assert {"augmentation.md", "augmentation.png", "examples.json"} <= names
    examples = client.load_table(experiment, "examples.json", run_ids=[screen.info.run_id])
    assert {"original", "copy", "label"} <= set(examples.columns)
    assert not {"teacher", "confidence"} & set(examples.columns)
    told = result.metrics
    dropped = sum(value for name, value in told.items() if name.startswith("dropped_"))
    assert told["asked"] >= told["made"] == told["kept"] + dropped > 0
    assert len(examples) == min(20, told["kept"])
    assert told["words_replaced"] > 0
    assert "flip_rate" not in told
    report = Artifact.get("augmentation").data
    assert f"{told['made']:,.0f} were made and {told['kept']:,.0f} kept" in report
    assert "no teacher judges them" in report
