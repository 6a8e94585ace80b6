"""What a flow run's own page shows: its stages as they end, why there is a run, and where its results are."""

import json
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.runtime import flow_run

from tasks import progress_page, retraining, sources, suite
from tasks.connections import store
from tasks.data import prepare_data
from tasks.policy import cpu_stage, quick_task
from tasks.retraining import Plan, conclude
from tasks.run import open_run
from tasks.scoring import RowsResult
from tasks.settings import settings
from tasks.store import Store
from tasks.summary import RunSummary, StageTime, markdown, model_page
from tinybert.config import DistillConfig
from tinybert.data_config import DataConfig
from tinybert.errors import DataError, StoreError
from tinybert.refs import ModelRef, PublishResult, SourceRef

BOXES = {"general": {"enabled": False}, "augment": {"enabled": False}}


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(progress_page, "PAUSE", 0.01)


@quick_task("look")
def look() -> None:
    """Takes a moment."""
    time.sleep(0.2)


@quick_task("shards")
def shards(source: SourceRef) -> RowsResult:
    """Two shards in the store, of 100 kB and of 50."""
    made = []
    for number, size in enumerate([100_000, 50_000]):
        (directory := settings().work / f"shard-{number}").mkdir(parents=True)
        (directory / "rows.bin").write_bytes(bytes([number]) * size)
        made.append(SourceRef(**store().put("rows", directory).model_dump()))
    return RowsResult(shards=made)


@cpu_stage("prepare")
def spoil(source: SourceRef) -> None:
    """A stage that looks at the table meanwhile, and fails."""
    deadline = time.monotonic() + 30
    while "running" not in shown("stages").data:
        assert time.monotonic() < deadline
    raise DataError("no rows")


def shown(key: str):
    """The newest artifact of a key."""
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
    return max(found, key=lambda artifact: artifact.created)


def table() -> list[tuple]:
    return [(row["stage"], row["state"], row["output"], row["MB"]) for row in json.loads(shown("stages").data)]


@pytest.fixture
def prepare(tmp_path):
    """Runs one stage, in a flow; gives the directory of its output and the flow run's id."""
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"row {i},{'ab'[i % 2]}\n" for i in range(2000)))
    rows = {"source": f"file:{tmp_path}/rows.csv"}

    def prepare(then=None, reason="") -> tuple[Path, str]:
        config = DistillConfig(name="it", data=rows, teacher={"source": "file:/teacher"}, reason=reason, **BOXES)

        @flow(name="preparing")
        def preparing() -> tuple[Path, str]:
            with open_run(config, "it", stages=2) as run:
                source = sources.pin(rows["source"], SourceRef)
                made = run(prepare_data, source, None, None, DataConfig(**rows))
                if then is not None:
                    run(then, source)
                return sources.local(made.dataset), str(flow_run.id)

        return preparing()

    return prepare


def test_stages_stand_in_a_table_as_they_end_with_the_sizes_of_their_outputs(home, prepare):
    directory, run = prepare()
    # What the manifest says, and the file system says it too.
    megabytes = round(sum(path.stat().st_size for path in directory.iterdir() if path.name[0] != ".") / 1e6, 2)
    assert megabytes > 0.02
    assert table() == [("prepare", "done", "dataset", megabytes)]
    assert shown("stages").description == "1 of 2 stages done"
    assert str(shown("stages").flow_run_id) == run
    seconds = json.loads(shown("stages").data)[0]["seconds"]
    assert 0 < seconds < 60
    prepare()
    assert table() == [("prepare", "cached", "dataset", megabytes)]


def test_the_stage_that_runs_and_the_one_that_failed_stand_there_too(home, prepare):
    with pytest.raises(DataError, match="no rows"):
        prepare(then=spoil)
    assert [entry[:3] for entry in table()] == [("prepare", "done", "dataset"), ("prepare", "failed", "")]


def test_shards_count_together(home, prepare):
    prepare(then=shards)
    assert table()[1] == ("shards", "done", "rows", 0.15)


def test_a_store_that_does_not_say_sizes_leaves_them_out(home, prepare, monkeypatch):
    def refuse(self, ref):
        raise StoreError("access refused")

    monkeypatch.setattr(Store, "size", refuse)
    prepare()
    assert table() == [("prepare", "done", "dataset", None)]


def test_why_there_is_a_run_stands_in_both_uis(home, prepare):
    _, run = prepare(reason="new data since version 3")
    assert shown("reason").data == "new data since version 3\n"
    assert str(shown("reason").flow_run_id) == run
    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("tinybert").experiment_id])
    [parent] = [found for found in runs if "mlflow.parentRunId" not in found.data.tags]
    assert parent.data.tags["reason"] == "new data since version 3"


def test_mlflow_has_the_seconds_of_a_task_that_is_no_stage(home):
    config = DistillConfig(name="it", data={"source": "file:/rows.csv"}, teacher={"source": "file:/teacher"}, **BOXES)

    @flow(name="looking")
    def looking() -> str:
        with open_run(config, "it", stages=0) as run:
            run.always(look)
            return str(flow_run.id)

    tag = f"tags.`tinybert.flow_run` = '{looking()}'"
    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    [found] = client.search_runs([client.get_experiment_by_name("tinybert").experiment_id], filter_string=tag)
    assert 0.2 < found.data.metrics["look_seconds"] < 60


def test_a_server_that_takes_no_artifacts_does_not_end_a_run(home, prepare, monkeypatch, caplog):
    def refuse(self, artifact):
        raise RuntimeError("no room")

    monkeypatch.setattr(SyncPrefectClient, "create_artifact", refuse)
    directory, _ = prepare(reason="a test")
    assert directory.is_dir()
    assert "Prefect does not show the artifact reason: RuntimeError" in caplog.text


def summary(**more) -> RunSummary:
    return RunSummary(
        name="it",
        comparison={},
        decision={"summary": "Promote it."},
        stages=[
            StageTime(name="prepare", seconds=0.5, cached=True, output="dataset", megabytes=1.25),
            StageTime(name="gate", seconds=61.24, cached=False, output="report"),
        ],
        seconds=62,
        model=ModelRef(uri="s3://bucket/model/ab", digest="ab" * 32),
        model_directory="/w/model",
        report_directory="/w/report",
        page="/w/page/report.html",
        tracking_uri="sqlite:///mlflow.db",
        **more,
    )


def test_the_summary_has_the_stages_and_without_servers_the_places_of_files():
    text = markdown(summary(registered="it version 3", outcome="promoted"), "TABLE", "RULES")
    assert "| prepare | cached | 0.5 | dataset | 1.25 |\n| gate | done | 61.2 | report |  |\n" in text
    assert "MLflow: `sqlite:///mlflow.db`, report `/w/page/report.html`, model `s3://bucket/model/ab`" in text
    assert "registered as `it version 3` (promoted)" in text
    assert "](" not in text
    assert "Reason" not in text


PAGES = {
    "tracking_page": "http://host:5000/#/experiments/1/runs/ab",
    "report_page": "http://host:5000/#/experiments/1/runs/ab/artifacts/report.html",
    "model_page": "http://host:5000/#/models/it/versions/3",
}


def test_the_summary_links_to_the_pages_that_servers_have():
    told = {"registered": "it version 3", "outcome": "promoted", "reason": "new labels"}
    text = markdown(summary(**PAGES, **told), "TABLE", "RULES")
    assert f"[MLflow run]({PAGES['tracking_page']}), [report]({PAGES['report_page']})" in text
    assert f"registered as [it version 3]({PAGES['model_page']}) (promoted)" in text
    assert text.startswith("## it\n\nReason for this run: new labels\n\nPromote it.")


class Told:
    """A run that keeps what both UIs are told of it."""

    def show(self, text, key, description):
        self.shown = {key: text}

    def log(self, metrics, tags):
        self.note = tags["mlflow.note.content"]

    def attach(self, files):
        self.files = {file.name: file.read_bytes() for file in files}


@pytest.fixture
def told(monkeypatch):
    """What both UIs are told."""
    run = Told()
    for module in (retraining, suite):
        monkeypatch.setattr(module, "create_markdown_artifact", run.show)
    return run


LINKS = f"[MLflow run]({PAGES['tracking_page']}), [report]({PAGES['report_page']}), [model]({PAGES['model_page']})"


def test_a_retraining_leads_to_the_run_that_it_made(told):
    plan = Plan(decision="retrained", said="data changed")
    conclude(told, "it", plan, summary(registered="it version 3", outcome="promoted", **PAGES))
    assert told.shown["retrain"] == told.note
    assert told.note == f"## it: retrained\n\ndata changed: it version 3, promoted\n\n{LINKS}\n"
    conclude(told, "it", plan, summary(registered="it version 3", outcome="promoted"))
    assert told.note == "## it: retrained\n\ndata changed: it version 3, promoted\n"


def test_a_suite_leads_to_the_runs_of_its_tasks(told):
    scores = {"metric": "f1", "metrics": ["f1"], "rows": 9, "teacher": {"f1": 0.8}, "student": {"f1": 0.6}}
    judged = {"served": "torch", "speedup": 2.0, "megabytes": 9.0, "verdict": "promote", "summary": "Promote it."}
    table = suite.Suite("few", 2)
    form = {"name": "few-tickets", "data": {"source": "file:/rows"}, "teacher": {"source": "file:/teacher"}, **BOXES}
    made = summary(**PAGES).model_copy(update={"comparison": scores, "decision": judged})
    table.finished("tickets", DistillConfig.model_validate(form), made)
    table.failed("stars", ValueError("no rows"))
    table.show(told)
    [tickets] = [line for line in told.note.splitlines() if line.startswith("| tickets |")]
    [stars] = [line for line in told.note.splitlines() if line.startswith("| stars |")]
    assert tickets.endswith(f"| promote | 1.0 | {LINKS} |")
    assert stars.endswith("| failed |  |  |")
    assert told.note in told.shown["suite"]


def test_a_models_page_is_on_the_server_of_the_run():
    model = PublishResult(metrics={}, name="its/own name", version="12", outcome="promoted")
    page = model_page("https://host/mlflow/#/experiments/1/runs/ab", model)
    assert page == "https://host/mlflow/#/models/its%2Fown%20name/versions/12"
