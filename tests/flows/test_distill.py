"""The main job end to end on a tiny real BERT: what it leaves behind, what it re-runs, how it fails."""

import html
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from prefect.artifacts import Artifact
from transformers import pipeline

from flows import release
from flows.command import preset, show, where
from flows.distill import distill, planned
from flows.score import score
from tasks import policy
from tasks.summary import RunSummary
from tinybert.cli import validated
from tinybert.config import DistillConfig
from tinybert.digest import content_digest
from tinybert.errors import ConfigError, DataError, InputError
from tinybert.form import merge
from tinybert.score_config import ScoreConfig

STAGES = [
    "prepare",
    "corpus",
    "mlm",
    "fine_tune",
    "general",
    "augment",
    "gather",
    "targets",
    "screen",
    "layers",
    "logits",
    "export",
    "baseline",
    "evaluate",
    "gate",
    "package",
]


def smoke(material: Path, **changes) -> DistillConfig:
    sources = {
        "data": {"source": f"file:{material}/rows.csv"},
        "teacher": {"source": f"file:{material}/teacher"},
        "corpus": {"source": f"file:{material}/corpus.txt"},
        "augment": {"vectors": f"file:{material}/vectors.txt"},
    }
    return validated(DistillConfig, merge(merge(preset("smoke"), sources), changes))


def cached(summary: RunSummary) -> list[str]:
    return [stage.name for stage in summary.stages if stage.cached]


@pytest.fixture(scope="module")
def first(shared_home, smoke_material) -> RunSummary:
    return distill(smoke(smoke_material))


def test_every_stage_runs_once_and_in_order(first, smoke_material):
    assert [stage.name for stage in first.stages] == STAGES
    assert planned(smoke(smoke_material)) == len(STAGES)
    assert cached(first) == []


def test_the_student_is_there_and_predicts(first):
    assert content_digest(Path(first.model_directory)) == first.model.digest
    classify = pipeline("text-classification", model=first.model_directory)
    answers = classify(["a truly wonderful film", "the script is dreadful"])
    assert [answer["label"] for answer in answers] == ["good", "bad"]
    assert first.comparison["student"]["accuracy"] > 0.8
    assert first.comparison["student"]["parameters"] < first.comparison["teacher"]["parameters"]


def test_mlflow_has_the_parent_and_a_child_per_stage(first, shared_home):
    client = MlflowClient(f"sqlite:///{shared_home}/mlflow.db")
    experiment = client.get_experiment_by_name("tinybert")
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])
    parent = next(run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(run.info.run_name for run in children) == sorted([*STAGES, "augment"])  # two shards
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert parent.data.params["student.layers"] == "2"
    assert parent.data.metrics["retention"] == pytest.approx(first.comparison["retention"])
    assert parent.data.tags["prefect.flow_run_name"] == "smoke"
    assert parent.data.tags["preflight"] == "10 ok"
    assert parent.data.metrics["estimated_hours"] > 0
    assert parent.data.metrics["estimated_gigabytes"] > 0
    names = {artifact.path for artifact in client.list_artifacts(parent.info.run_id)}
    assert {"summary.md", "comparison.png", "config.json", "report.html"} <= names
    served = first.comparison["student"]  # too few rows to show that int8 loses nothing
    assert parent.data.metrics["latency_ms"] == pytest.approx(served["latency_ms"])
    assert (parent.data.tags["verdict"], parent.data.tags["served"]) == ("promoted", "torch")
    assert first.decision["summary"] in parent.data.tags["mlflow.note.content"]
    layers = next(run for run in children if run.info.run_name == "layers")
    curve = client.get_metric_history(layers.info.run_id, "hidden_loss")
    assert len(curve) > 3
    assert curve[-1].value < curve[0].value
    assert {dataset.dataset.name for dataset in layers.inputs.dataset_inputs} == {
        "data",
        "teacher",
        "student",
        "targets",
    }


def test_the_report_of_augmentation_is_in_both_uis(first, shared_home):
    client = MlflowClient(f"sqlite:///{shared_home}/mlflow.db")
    experiment = client.get_experiment_by_name("tinybert").experiment_id
    [screen] = [run for run in client.search_runs([experiment]) if run.info.run_name == "screen"]
    names = {artifact.path for artifact in client.list_artifacts(screen.info.run_id)}
    assert {"augmentation.md", "augmentation.png", "examples.json"} <= names
    examples = client.load_table(experiment, "examples.json", run_ids=[screen.info.run_id])
    assert len(examples) == 20
    assert {"original", "copy", "teacher", "became"} <= set(examples.columns)
    made = screen.data.metrics["final_made"]
    dropped = sum(value for name, value in screen.data.metrics.items() if name.startswith("final_dropped_"))
    assert made == screen.data.metrics["final_kept"] + dropped > 0
    report = Artifact.get("augmentation").data
    assert report.startswith("#")
    assert "recipe" in report


def test_the_model_is_registered(first, shared_home):
    version = MlflowClient(f"sqlite:///{shared_home}/mlflow.db").get_model_version_by_alias("smoke", "champion")
    assert version.tags["digest"] == first.model.digest
    assert (first.registered, first.outcome) == (f"smoke version {version.version}", "promoted")
    assert version.description == first.decision["summary"]


def test_the_page_shows_the_run(first):
    page = Path(first.page).read_text()
    assert first.decision["summary"] in html.unescape(page)
    assert "hidden_loss" in page or "hidden loss" in page  # curves of the stage layers, out of MLflow
    assert first.model.digest in page


def test_a_page_of_answers_comes_from_the_published_model(first, shared_home, tmp_path):
    (tmp_path / "rows.csv").write_text("text\na truly wonderful film\nthe script is dreadful\n")
    found = score(ScoreConfig(model="models:/smoke@champion", source=f"file:{tmp_path}/rows.csv"))
    assert (found.labels, found.errors) == ({"bad": 1, "good": 1}, 0)
    assert found.model == "models:/smoke/1"


def test_the_closing_table(first, capsys):
    show(first)
    printed = capsys.readouterr().out
    words = ("teacher", "student", "int8", "baseline", "retention", "speed-up", "mlflow ui --backend-store-uri")
    assert all(word in printed for word in words)
    assert "pass  rows: 48 rows" in printed
    assert any(first.model_directory in line for line in where(first))


def test_the_same_run_again_computes_nothing(first, shared_home, smoke_material):
    before = runs_in(shared_home)
    again = distill(smoke(smoke_material))
    assert cached(again) == STAGES
    assert again.comparison == first.comparison
    assert again.model == first.model
    assert (again.registered, again.outcome) == (first.registered, "unchanged")
    assert runs_in(shared_home) == before + 1  # the parent alone


def test_a_change_of_logits_re_runs_logits_and_what_follows(first, smoke_material):
    changed = distill(smoke(smoke_material, logits={"temperature": 2.0}))
    following = ("logits", "export", "evaluate", "gate", "package")
    assert cached(changed) == [name for name in STAGES if name not in following]
    assert changed.comparison["champion"]["accuracy"] == first.comparison["student"]["accuracy"]
    assert (changed.decision["against_champion"], changed.outcome) == (True, "rejected")  # no better


def test_a_run_that_was_overtaken_compares_with_the_new_champion(first, smoke_material, monkeypatch):
    real, asked = release.find_champion.fn, []

    @policy.quick_task("champion")
    def find_champion(name, student):
        asked.append(name)
        return None if len(asked) == 1 else real(name, student)  # another run promoted its student in between

    monkeypatch.setattr(release, "find_champion", find_champion)
    changed = distill(smoke(smoke_material, logits={"temperature": 2.0}))
    assert [stage.name for stage in changed.stages][len(STAGES) :] == ["evaluate", "gate", "package"]
    assert changed.decision["against_champion"]
    assert changed.outcome == "rejected"
    assert asked == ["smoke", "smoke"]


def test_an_edited_source_module_re_runs_its_stage(first, smoke_material, tmp_path, monkeypatch):
    edited = tmp_path / "logits.py"
    shutil.copyfile(policy.source_modules("tinybert.stages.logits")["tinybert.stages.logits"], edited)
    with edited.open("a") as file:
        file.write("\n# an edit\n")
    real = policy.source_modules

    def with_edit(module):
        found = real(module)
        return {name: edited if name == "tinybert.stages.logits" else path for name, path in found.items()}

    monkeypatch.setattr(policy, "source_modules", with_edit)
    changed = distill(smoke(smoke_material))
    # The edit changed nothing of the output, so what follows finds the same student and is cached again.
    assert cached(changed) == [name for name in STAGES if name != "logits"]
    assert changed.model == first.model


def test_a_fine_tuned_teacher_a_general_student_and_no_extras(first, shared_home, smoke_material):
    store = shared_home / "store" / "model"
    teachers = [path for path in store.iterdir() if json.loads((path / "config.json").read_text())["hidden_size"] == 32]
    classifier = next(
        path
        for path in teachers
        if json.loads((path / "config.json").read_text())["architectures"] == ["BertForSequenceClassification"]
    )
    config = smoke(
        smoke_material,
        teacher={"source": f"file:{classifier}", "fine_tuned": True},
        student={"source": f"file:{first.model_directory}"},
        mlm={"enabled": False},
        augment={"enabled": False},
        layers={"enabled": False},
        baseline={"enabled": False},
        export={"onnx": False, "int8": False},
        publish={"enabled": False},
    )
    summary = distill(config)
    always = ["prepare", "targets", "logits", "export", "evaluate", "gate", "package"]
    assert [stage.name for stage in summary.stages] == always
    assert planned(config) == len(always)
    assert (summary.registered, summary.outcome) == (None, None)
    assert "baseline" not in summary.comparison


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"data": {"source": "file:/nowhere/rows.csv"}},
            InputError,
            "1 thing is wrong: data.source: file:/nowhere/rows.csv: found nothing at",
        ),
        (
            {"student": {"heads": 2}, "layer_map": {"attention": "scores"}},
            InputError,
            "1 thing is wrong: heads: student.heads: found 2; the attention loss needs as many",
        ),
        ({"data": {"label": "mood"}}, DataError, "rows.csv: no column 'mood'; it has label, text"),
    ],
)
def test_bad_input_fails_before_anything_is_trained(home, smoke_material, changes, error, message):
    with pytest.raises(error, match=message):
        distill(smoke(smoke_material, **changes))
    assert not (home / "store" / "model").exists()
    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("tinybert").experiment_id])
    assert {run.info.status for run in runs} == {"FAILED"}


def test_the_command_line_says_what_is_wrong_in_one_line():
    for arguments, message in (
        (["--preset", "nope"], "error: --preset nope: unknown; prefect.yaml has ner, quickstart, smoke, squad, sst2-"),
        (
            ["--preset", "smoke", "--set", "student.layerz=3"],
            "error: student.layerz: unknown field; did you mean 'lay",
        ),
    ):
        done = subprocess.run([sys.executable, "-m", "flows.distill", *arguments], capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.startswith(message)
        assert done.stderr.count("\n") == 1


def test_a_prefect_server_that_is_down_is_named(tmp_path):
    environment = {
        **os.environ,
        "PREFECT_API_URL": "http://127.0.0.1:9/api",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    command = [sys.executable, "-m", "flows.distill", "--preset", "smoke"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "error: the Prefect server at http://127.0.0.1:9/api does not answer (ConnectError); start it" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_run_without_a_server_says_what_is_wrong_without_a_traceback(tmp_path, smoke_material):
    for name in ("rows.csv", "corpus.txt", "vectors.txt"):
        (tmp_path / "build" / "smoke").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(smoke_material / name, tmp_path / "build" / "smoke" / name)
    shutil.copytree(smoke_material / "teacher", tmp_path / "build" / "smoke" / "teacher")
    unset = ("PREFECT_API_URL", "PREFECT_HOME", "PREFECT_LOCAL_STORAGE_PATH")
    environment = {k: v for k, v in os.environ.items() if k not in unset}
    command = [sys.executable, "-m", "flows.distill", "--preset", "smoke", "--set", "data.label=mood"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: rows.csv: no column 'mood'; it has label, text"
    assert "Traceback" not in done.stderr
    assert (tmp_path / "build" / "prefect" / "prefect.db").exists()


def test_the_form_builds_without_torch():
    code = """
import sys
for name in ("torch", "transformers", "datasets", "mlflow"):
    sys.modules[name] = None
from flows.distill import distill
schema = distill.parameters.model_dump()
assert schema["required"] == ["config"]
assert schema["properties"]["config"]
assert "What to distil" in str(schema["properties"])
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def runs_in(home: Path) -> int:
    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    return len(client.search_runs([client.get_experiment_by_name("tinybert").experiment_id]))


def test_an_artifact_that_is_gone_is_computed_again(first, smoke_material):
    report = Path(first.report_directory)
    shutil.rmtree(report)
    again = distill(smoke(smoke_material))
    assert cached(again) == [name for name in STAGES if name not in ("evaluate", "gate", "package")]
    assert (Path(again.report_directory) / "comparison.json").exists()


def test_a_local_store_is_refused_where_mlflow_is_a_server(home, smoke_material, monkeypatch):
    from tasks.data import resolve_sources
    from tasks.settings import settings

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    settings.cache_clear()
    with pytest.raises(ConfigError, match="the MLflow server cannot read the local store file:"):
        resolve_sources.fn(smoke(smoke_material))
