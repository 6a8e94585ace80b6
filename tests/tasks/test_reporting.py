"""The task that writes a run's page: into the store, with the curves that MLflow has, and without them."""

import json

import pytest

from tasks.connections import store, tracker
from tasks.reporting import write_report
from tasks.summary import StageTime
from tests.conftest import installation
from tinybert.errors import DataError
from tinybert.refs import ModelRef, ReportRef
from tinybert.released import Released, Variant

pytestmark = pytest.mark.usefixtures("home")

DIGEST = "ab" * 32
LOGITS = ModelRef(uri="s3://bucket/model", digest=DIGEST)
NUMBERS = {"accuracy": 0.9, "accuracy_low": 0.88, "accuracy_high": 0.92, "latency_ms": 4.0, "latency_p95_ms": 5.0}
COMPARISON = {
    "teacher": NUMBERS,
    "student": NUMBERS,
    **{"rows": 500, "test_is_validation": False, "labels": ["no", "yes"], "threads": 1, "device": "cpu"},
    **{"throughput_batch": 32, "confidence": 0.95, "kind": "classification", "metric": "accuracy"},
    "metrics": ["accuracy"],
}
DECISION = {
    **{"verdict": "promote", "forced": False, "metric": "accuracy", "served": "torch", "variants": {}, "rules": []},
    **{"summary": "Promote torch: it was compared with no champion.", "notes": [], "against_champion": False},
    **dict.fromkeys(("difference", "difference_low", "difference_high", "p_value")),
    **{"retention": 1.0, "speedup": 1.0, "megabytes": 10.0, "latency_ms": 4.0},
}


def stored(tmp_path, name: str, content: dict) -> ReportRef:
    directory = tmp_path / name
    directory.mkdir()
    (directory / f"{name}.json").write_text(json.dumps(content))
    found = store().put("report", directory)
    return ReportRef(uri=found.uri, digest=found.digest)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Store and tracker; the task needs no Prefect server."""
    with installation(tmp_path_factory.mktemp("installation")) as directory:
        yield directory


@pytest.fixture
def package(tmp_path) -> ModelRef:
    """A packaged model that reads pairs."""
    variants = {"torch": Variant(file="model.safetensors")}
    directory = tmp_path / "package"
    directory.mkdir()
    Released(labels=["no", "yes"], max_length=64, pair=True, default="torch", variants=variants).write(directory)
    found = store().put("model", directory)
    return ModelRef(uri=found.uri, digest=found.digest)


@pytest.fixture
def write(tmp_path):
    """Write the page of a run; gives back its text."""
    report, decision = stored(tmp_path, "comparison", COMPARISON), stored(tmp_path, "decision", DECISION)

    def write(stages=None, lineage=(), links=None, report=report) -> str:
        timing = [StageTime(name="logits", seconds=61.2, cached=True)]
        made = write_report.fn(
            "reviews",
            report,
            decision,
            stages or {},
            list(lineage),
            timing,
            "promoted",
            "reviews version 7",
            links or {},
        )
        assert made.report.uri.endswith(f"/report/{made.report.digest}")
        return (store().get(made.report) / "report.html").read_text(encoding="utf-8")

    return write


def test_the_page_tells_of_the_run(write, package):
    page = write({"package": package}, [("teacher", "hub:google/bert@main", DIGEST)], {"MLflow": "http://host/1"})
    assert "Promoted as the first model" in page
    assert "Registered as <bdi>reviews version 7</bdi>" in page
    assert "models:/reviews/7" in page
    assert package.uri in page
    assert "pairs=[" in page
    assert "hub:google/bert@main" in page
    assert DIGEST in page
    assert '<a href="http://host/1"' in page
    assert "1:01" in page


def test_curves_are_those_of_the_run_that_made_the_output(write, package):
    run = tracker().start_stage("another flow", "logits", {})
    for step in range(5):
        run.log_metrics({"loss": 1.5 - step / 4, "validation_accuracy": step / 8}, step)
    run.set_tags({"output.digest": DIGEST})
    run.close("FINISHED")
    page = write({"logits": LOGITS, "package": package})
    assert 'aria-label="logits, losses by step, first to last: loss 1.5 to 0.5"' in page
    assert "validation accuracy 0 to 0.5" in page
    assert "<summary>package</summary>" not in page


def test_without_mlflow_the_page_is_written_all_the_same(write, monkeypatch):
    def refuse(*_, **__):
        raise ConnectionError("no answer")

    monkeypatch.setattr(tracker().client, "search_runs", refuse)
    assert "MLflow did not answer" in write({"logits": LOGITS})


def test_no_password_reaches_the_page(write):
    page = write(
        lineage=[("data", "s3://me:secret-word@bucket/rows", DIGEST)], links={"MLflow": "http://me:secret-word@host/1"}
    )
    assert "secret-word" not in page
    assert "s3://bucket/rows" in page


def test_what_is_no_report_is_refused(write, tmp_path):
    with pytest.raises(DataError, match=r"comparison\.json: no .*outputs of the stages evaluate and gate"):
        write(report=stored(tmp_path, "something", {}))
