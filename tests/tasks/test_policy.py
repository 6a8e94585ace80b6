"""What a stage's cache key depends on, and what is retried."""

import pytest
from prefect import flow

from tasks import policy
from tasks.policy import source_modules, stage_key
from tinybert.config import LogitsConfig
from tinybert.errors import DataError, TransientError
from tinybert.refs import ModelRef

A, B = "a" * 64, "b" * 64


def key(uri="file:/x", digest=A, stage="logits", **fields):
    return stage_key(stage, {"teacher": ModelRef(uri=uri, digest=digest), "config": LogitsConfig(**fields)})


def test_content_counts_and_its_place_does_not():
    assert key() == key(uri="s3://elsewhere/model")
    assert key() != key(digest=B)
    assert key() != key(temperature=2.0)
    assert key() != key(stage="layers")
    assert key().startswith("logits-")


def test_source_modules_are_found_through_imports_without_running_them():
    names = set(source_modules("tinybert.stages.logits"))
    assert {"tinybert.stages.logits", "tinybert.losses", "tinybert.training", "tinybert.scoring"} <= names
    assert not {"tinybert.stages.augment", "tinybert.augmentation.copies", "tinybert.config", "torch"} & names
    assert "tinybert.augmentation.copies" in source_modules("tinybert.stages.augment")


def test_an_edit_of_an_imported_module_changes_the_key(tmp_path, monkeypatch):
    before, real = key(), source_modules
    edited = tmp_path / "losses.py"
    edited.write_text(real("tinybert.losses")["tinybert.losses"].read_text() + "# edited\n")
    monkeypatch.setattr(policy, "source_modules", lambda module: real(module) | {"tinybert.losses": edited})
    assert key() != before


@pytest.mark.parametrize(("error", "attempts"), [(TransientError("server down"), 3), (DataError("bad row"), 1)])
def test_only_the_worlds_faults_are_retried(home, error, attempts):
    calls = []

    def failing() -> int:
        calls.append(1)
        if len(calls) < 3:
            raise error
        return 7

    task = policy.gpu_stage("logits")(failing).with_options(retry_delay_seconds=0)

    @flow
    def run():
        return task()

    if attempts == 1:
        with pytest.raises(DataError, match="bad row"):
            run()
    else:
        assert run() == 7
    assert len(calls) == attempts
