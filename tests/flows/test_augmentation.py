"""Augmentation in shards through real task runs: killed in the middle, and on a Ray cluster."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL

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
