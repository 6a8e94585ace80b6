"""Two nodes of a Ray cluster on this machine: shards of a run, scored or augmented, and a suite's runs, over both."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from prefect.settings import PREFECT_API_URL

from flows.command import presets
from tests.unit.test_score import write_model
from tinybert.digest import content_digest
from tinybert.form import merge
from tinybert.samples import sentences
from tinybert.suite_config import SuiteConfig

ROOT = Path(__file__).parents[2]
QUICK = {"optim": {"steps": 6, "epochs": 1, "batch_size": 16, "learning_rate": 3e-3}}
SETTINGS = {
    "student": {"layers": 1, "hidden": 24, "ffn": 48, "heads": 4},
    "corpus": {"length": 16, "sequences": 64},
    "general": {"enabled": True, **QUICK},
    "augment": {"copies": 1, "candidates": 2},
    "layers": QUICK,
    "logits": QUICK,
    "export": {"onnx": False, "int8": False},
    "publish": {"enabled": False},
    "gate": {"retention": 0.0},
}


def ended(home, *command):
    """What a command told, which must end well."""
    environment = {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value(), "PYTHONPATH": str(ROOT)}
    environment |= {"PREFECT_LOGGING_EXTRA_LOGGERS": "tinybert", "PREFECT_LOCAL_STORAGE_PATH": f"{home}/results"}
    told = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, cwd=ROOT)
    assert told.returncode == 0, told.stdout[-3000:] + told.stderr[-3000:]
    return told.stdout + told.stderr


def suite_of_kinds(material, **fields):
    """Three tiny tasks of the preset kinds-smoke."""
    preset = json.loads(json.dumps(presets("suite")["kinds-smoke"]).replace("file:build/smoke", f"file:{material}"))
    settings = merge(merge(preset["settings"], SETTINGS), {"corpus": {"source": f"file:{material}/corpus.txt"}})
    tasks = {task: preset["tasks"][task] for task in ("stars", "conll", "tickets")}
    return {"name": "few", "settings": settings, "tasks": tasks, **fields}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_tasks_of_a_suite_run_side_by_side_once_the_first_has_made_what_they_share(home, smoke_material, ray_nodes):
    fields = suite_of_kinds(smoke_material, launch={"engine": "ray", "address": ray_nodes.address})
    given = [part for name, value in fields.items() for part in ("--set", f"{name}={yaml.safe_dump(value)}")]
    told = ended(home, "-m", "flows.suite", *given, "--json", f"{home}/suite.json")
    summary = json.loads((home / "suite.json").read_text())
    lines = {line["task"]: line for line in summary["lines"]}
    assert lines.keys() == {"stars", "conll", "tickets"}
    assert not summary["failures"], told[-3000:]
    assert all(line["teacher"] > 0.2 for line in lines.values())
    general = list((home / "store" / "model").glob("*/.manifest.json"))
    assert general  # written by nodes into the store that all of them see
    assert summary["average"]["teacher"] == pytest.approx(sum(line["teacher"] for line in lines.values()) / 3)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_shards_on_two_nodes_give_what_one_process_gives(home, smoke_material, ray_nodes, monkeypatch):
    form = {
        "name": "copies",
        "data": {"source": f"file:{smoke_material}/rows.csv", "max_length": 16},
        "teacher": {"source": f"file:{smoke_material}/teacher"},
        "augment": {"vectors": f"file:{smoke_material}/vectors.txt", "copies": 3, "candidates": 4, "shard_rows": 120},
        "general": {"enabled": False},
        "publish": {"enabled": False},
    }
    program = str(ROOT / "tests/flows/augmenting.py")
    there = ended(home, program, json.dumps({**form, "launch": {"engine": "ray", "address": ray_nodes.address}}))
    monkeypatch.setenv("TINYBERT_STORE", f"file:{home}/other")
    here = ended(home, program, json.dumps(form))
    assert there.count("Completed") >= 4
    assert there.rsplit("digest ", 1)[1].split()[0] == here.rsplit("digest ", 1)[1].split()[0]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_shards_scored_on_two_nodes_have_the_answers_of_one_process(home, smoke_material, ray_nodes, monkeypatch):
    rows = home / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text, _ in sentences()[::10]))
    form = {
        "model": f"file:{write_model(home / 'model', smoke_material)}",
        "source": f"file:{rows}",
        "shard_rows": len(rows.read_text().splitlines()) // 4 + 1,
        "batch_size": 8,
    }
    over_both = {"launch": {"engine": "ray", "address": ray_nodes.address}, "output": f"file:{home}/there"}
    told = ended(home, str(ROOT / "tests/flows/scoring.py"), json.dumps(form | over_both), f"{home}/met")
    assert told.rsplit("shards ", 1)[1].split()[0] == "4"
    assert len([*(home / "met").iterdir()]) == 2  # node ids: each of the two has had a shard
    monkeypatch.setenv("TINYBERT_STORE", f"file:{home}/other")
    here = form | {"output": f"file:{home}/here"}
    ended(home, "-m", "flows.score", *(part for item in here.items() for part in ("--set", "{}={}".format(*item))))
    assert content_digest(home / "there/rows") == content_digest(home / "here/rows")


def test_a_suite_on_a_cluster_leaves_its_runs_to_one_machine_each(smoke_material):
    both = {"engine": "ray", "address": "auto"}
    fields = suite_of_kinds(smoke_material, launch=both)
    assert SuiteConfig.model_validate(fields).launch.engine == "ray"
    fields["settings"]["launch"] = both
    with pytest.raises(ValueError, match=r"launch.engine and that of tasks.stars are both ray; leave one at torchrun"):
        SuiteConfig.model_validate(fields)
    with pytest.raises(ValueError, match=r"launch.processes 2: set it in settings.launch, for each run's own"):
        SuiteConfig.model_validate(suite_of_kinds(smoke_material, launch={"processes": 2}))
