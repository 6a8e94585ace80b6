"""What surrounds a stage: what a failure leaves, what a success leaves, and what MLflow says of both."""

import errno

import pytest
from mlflow import MlflowClient

from tasks import settings
from tasks import stage as stages
from tasks.connections import store
from tasks.stage import open_stage, run_stage
from tasks.store import Store
from tasks.tracked_run import TrackedRun
from tinybert.config import DataConfig
from tinybert.errors import DataError, QualityError, StoreError, TransientError
from tinybert.refs import DatasetResult, SourceRef
from tinybert.resume import resume_beside
from tinybert.sources import parse
from tinybert.stages import prepare


@pytest.fixture
def inputs(tmp_path):
    from tasks import sources

    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "".join(f"row {i},{'ab'[i % 2]}\n" for i in range(10)))
    return {"source": sources.pin(f"file:{path}", SourceRef), "validation": None, "config": DataConfig(source="file:x")}


def statuses(home):
    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("tinybert").experiment_id])
    return {run.info.run_name: run.info.status for run in runs}


def work(home):
    return sorted(path.name for path in (home / "work").iterdir() if path.is_dir() and path.name != "spool")


def save_checkpoint(stage, step):
    directory = resume_beside(stage.out) / f"checkpoint-{step}"
    directory.mkdir(parents=True)
    (directory / "trainer_state.json").write_text(f'{{"global_step": {step}}}')


def test_success_stores_the_output_and_clears_the_work(home, inputs):
    result = run_stage("prepare", DatasetResult, **inputs)
    assert result.metrics["train_rows"] == 6
    assert result.metrics["seconds"] > 0
    assert sorted(path.name for path in store().get(result.dataset).iterdir() if path.name[0] != ".") == [
        "data.md",
        "manifest.json",
        "test.arrow",
        "train.arrow",
        "validation.arrow",
    ]
    assert work(home) == []
    assert statuses(home)["prepare"] == "FINISHED"


@pytest.mark.parametrize(
    ("error", "raised", "message", "status"),
    [
        (DataError("bad rows"), DataError, "bad rows", "FAILED"),
        (KeyboardInterrupt(), KeyboardInterrupt, "", "KILLED"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            StoreError,
            "prepare: the disk is full; free space in",
            "FAILED",
        ),
        (RuntimeError("write: No space left on device"), StoreError, "the disk is full; free space in", "FAILED"),
        (OSError(errno.ENOENT, "No such file"), OSError, "No such file", "FAILED"),
    ],
)
def test_failure_stores_nothing_and_keeps_the_checkpoints(home, inputs, monkeypatch, error, raised, message, status):
    def half_done(*, out, **_):
        (out / "train.arrow").write_text("half")
        resume_beside(out).mkdir()
        (resume_beside(out) / "checkpoint-5").write_text("5")
        raise error

    monkeypatch.setattr(prepare, "run", half_done)
    with pytest.raises(raised, match=message):
        run_stage("prepare", DatasetResult, **inputs)
    assert not (home / "store").exists()
    (directory,) = work(home)
    assert [path.name for path in (home / "work" / directory).iterdir()] == ["out-resume"]
    assert statuses(home)["prepare"] == status


def test_the_next_attempt_finds_the_checkpoints_of_the_same_inputs_alone(home, inputs):
    def fail_at_a_checkpoint():
        with open_stage("prepare", **inputs) as stage:
            save_checkpoint(stage, 5)
            raise DataError("later")

    with pytest.raises(DataError):
        fail_at_a_checkpoint()
    other = {**inputs, "config": DataConfig(source="file:x", seed=7)}
    with open_stage("prepare", **other) as stage:
        assert not resume_beside(stage.out).exists()
    with open_stage("prepare", **inputs) as stage:
        assert (resume_beside(stage.out) / "checkpoint-5" / "trainer_state.json").is_file()
        assert list(stage.out.iterdir()) == []


def fail_after_a_checkpoint(inputs, error):
    with open_stage("prepare", **inputs) as stage:
        save_checkpoint(stage, 5)
        (stage.out / "train.arrow").write_text("trained")
        raise error


def in_store(home):
    """Kinds of artifacts and pointers."""
    found = {path.relative_to(home / "store").parts[0] for path in (home / "store").rglob("*") if path.is_file()}
    return found - {"results"}


def test_another_machine_continues_and_its_success_clears_the_store(home, inputs, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        fail_after_a_checkpoint(inputs, KeyboardInterrupt())
    assert in_store(home) == {"checkpoints", "pointers"}
    monkeypatch.setenv("TINYBERT_WORK", str(home / "elsewhere"))
    settings.settings.cache_clear()
    with open_stage("prepare", **inputs) as stage:
        assert stage.out.is_relative_to(home / "elsewhere")
        found = resume_beside(stage.out) / "checkpoint-5" / "trainer_state.json"
        assert found.read_text() == '{"global_step": 5}'
        save_checkpoint(stage, 10)
        (stage.out / "train.arrow").write_text("trained")
        result = stage.finish(DatasetResult, {})
        assert in_store(home) >= {"checkpoints", "pointers", "dataset"}
    assert in_store(home) == {"dataset"}
    assert (store().get(result.dataset) / "train.arrow").read_text() == "trained"


def test_an_output_that_cannot_be_stored_keeps_the_checkpoints(home, inputs, monkeypatch):
    put = Store.put

    def no_answer(self, kind, directory, **how):
        if kind == "dataset":
            raise TransientError("no answer")
        return put(self, kind, directory, **how)

    def finish():
        with open_stage("prepare", **inputs) as stage:
            save_checkpoint(stage, 5)
            (stage.out / "train.arrow").write_text("trained")
            stage.finish(DatasetResult, {})

    monkeypatch.setattr(Store, "put", no_answer)
    with pytest.raises(TransientError):
        finish()
    assert in_store(home) == {"checkpoints", "pointers"}


def artifacts(home):
    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("tinybert").experiment_id])
    run = next(run for run in runs if run.info.run_name == "prepare")
    return {artifact.path for artifact in client.list_artifacts(run.info.run_id)}


def fail_with_evidence(inputs):
    with open_stage("prepare", **inputs) as stage:
        resume_beside(stage.out).mkdir()
        (resume_beside(stage.out) / "batch-17.safetensors").write_bytes(b"batch")
        (resume_beside(stage.out) / "vectors").write_bytes(b"other")
        raise QualityError("loss nan at step 17")


def test_the_batch_that_made_a_loss_non_finite_reaches_mlflow(home, inputs):
    with pytest.raises(QualityError, match="loss nan at step 17"):
        fail_with_evidence(inputs)
    assert artifacts(home) == {"config.json", "batch-17.safetensors"}
    assert statuses(home)["prepare"] == "FAILED"


def test_evidence_that_cannot_be_logged_does_not_hide_the_fault(home, inputs, monkeypatch, caplog):
    def refuse(self, file):
        raise OSError("gone")

    monkeypatch.setattr(TrackedRun, "log_file", refuse)
    with pytest.raises(QualityError, match="loss nan at step 17"):
        fail_with_evidence(inputs)
    assert artifacts(home) == {"config.json"}
    assert statuses(home)["prepare"] == "FAILED"
    assert "batch-17.safetensors cannot be logged: gone" in caplog.text


def test_a_source_that_changed_before_the_stage_ran_stops_it(home, inputs):
    from pathlib import Path

    from tinybert.errors import SourceError

    path = Path(parse(inputs["source"].uri).location)
    path.write_text(path.read_text() + "one more,a\n")
    with pytest.raises(SourceError, match="moved"):
        run_stage("prepare", DatasetResult, **inputs)


def test_stage_inputs_reach_mlflow(home, inputs):
    run_stage("prepare", DatasetResult, **inputs)
    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("tinybert").experiment_id])
    run = next(run for run in runs if run.info.run_name == "prepare")
    assert run.data.params["config.validation_share"] == "0.1"
    assert [entry.dataset.name for entry in run.inputs.dataset_inputs] == ["source"]
    assert run.data.metrics["final_train_rows"] == 6
    assert "manifest.json" in {artifact.path for artifact in client.list_artifacts(run.info.run_id)}


def test_the_stage_modules_are_the_ones_the_tasks_name():
    assert stages.stage_module("prepare") == prepare.__name__
