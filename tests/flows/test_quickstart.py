"""The two promises of the quickstart, on its real material: the figures it must reach, and that it is cached."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def quickstart(directory: Path) -> dict:
    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "PREFECT_API_URL")}
    environment |= {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "flows.distill", "--preset", "quickstart", "--json", "table.json"]
    subprocess.run(command, cwd=directory, env=environment, check=True)
    return json.loads((directory / "table.json").read_text())


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_quickstart_reaches_its_figures_and_is_cached(tmp_path):
    table = quickstart(tmp_path)
    found, decision = table["comparison"], table["decision"]
    assert found["student"]["accuracy"] > found["baseline"]["accuracy"]
    assert found["student"]["parameters"] < found["teacher"]["parameters"]
    assert (decision["verdict"], decision["served"], table["outcome"]) == ("promote", "int8", "promoted")
    assert decision["retention"] >= 0.9
    assert decision["megabytes"] < found["teacher"]["megabytes"] / 4
    layers = json.loads((Path(table["model_directory"]) / "config.json").read_text())["num_hidden_layers"]
    assert layers <= 6 // 2
    again = quickstart(tmp_path)
    assert all(stage["cached"] for stage in again["stages"])
    assert again["comparison"] == found
    assert again["outcome"] == "unchanged"
