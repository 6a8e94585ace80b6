"""Pinning sources, and reading them back only when they are still the same."""

import pytest

from tasks import connections, sources
from tasks.data import prepare_data, resolve_sources
from tinybert.config import AugmentConfig, DataConfig, DistillConfig, GeneralConfig, StudentConfig, TeacherConfig
from tinybert.data import TaskData
from tinybert.digest import content_digest, file_digest
from tinybert.errors import SourceError, StoreError
from tinybert.refs import ModelRef, SourceRef


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,label\nfine,good\n")
    return path


def test_a_file_is_pinned_to_its_content(home, rows, monkeypatch):
    monkeypatch.chdir(rows.parent)
    ref = sources.pin("file:rows.csv", SourceRef)
    assert ref == SourceRef(uri=f"file:{rows}", digest=file_digest(rows))
    assert sources.local(ref) == rows


def test_a_file_that_changed_since_is_refused(home, rows):
    ref = sources.pin(f"file:{rows}", SourceRef)
    rows.write_text("text,label\nfine,bad\n")
    with pytest.raises(SourceError, match=rf"moved: pinned sha256 {ref.digest}, found {file_digest(rows)}"):
        sources.local(ref)


def test_a_pin_in_the_uri_is_held(home, rows):
    assert sources.pin(f"file:{rows}#sha256={file_digest(rows)}", SourceRef).digest == file_digest(rows)
    with pytest.raises(SourceError, match="moved: pinned sha256 " + "0" * 64):
        sources.pin(f"file:{rows}#sha256={'0' * 64}", SourceRef)


def test_a_package_is_a_source(home):
    ref = sources.pin("package:tinybert/stages", SourceRef)
    assert ref.uri == "package:tinybert/stages"
    assert sources.local(ref).name == "stages"


def test_a_registered_model_is_a_source(home, smoke_material):
    stored = connections.store().put("model", smoke_material / "teacher")
    version = connections.registry().register("mood", stored.uri, stored.digest, {}).number
    connections.registry().challenge("mood", version)
    ref = sources.pin("models:/mood@challenger", ModelRef)
    assert ref == ModelRef(uri=stored.uri, digest=stored.digest)
    assert content_digest(sources.local(ref)) == ref.digest
    assert sources.pin("models:/mood/1", ModelRef) == ref
    with pytest.raises(SourceError, match="found no version or alias 'champion'"):
        sources.pin("models:/mood@champion", ModelRef)


def test_s3_credentials_missing(home, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    with pytest.raises(StoreError, match="S3 credentials missing: set AWS_ACCESS_KEY_ID"):
        sources.pin("s3://bucket/rows.csv", SourceRef)


def test_each_split_may_have_a_source_of_its_own(home, smoke_material, tmp_path):
    files = {split: tmp_path / f"{split}.csv" for split in ("source", "validation", "test")}
    for split, path in files.items():
        path.write_text(f"text,label\n{split} one,good\n{split} two,bad\n")
    named = {"source": "source", "validation": "validation_source", "test": "test_source"}
    config = DistillConfig(
        name="mood",
        data=DataConfig(**{named[split]: f"file:{path}" for split, path in files.items()}, max_length=64),
        teacher=TeacherConfig(source=f"file:{smoke_material}/teacher"),
        student=StudentConfig(layers=2, hidden=16, ffn=32, heads=4),
        general=GeneralConfig(enabled=False),
        augment=AugmentConfig(enabled=False),
    )
    found = resolve_sources.fn(config)
    refs = {"source": found.data, "validation": found.validation, "test": found.test}
    assert {split: ref.digest for split, ref in refs.items()} == {
        split: file_digest(path) for split, path in files.items()
    }
    prepared = prepare_data.fn(**refs, config=config.data)
    data = TaskData(sources.local(prepared.dataset))
    assert data.rows("validation")["text"][:] == ["validation one", "validation two"]
    assert data.rows("test")["text"][:] == ["test one", "test two"]
    without = config.model_copy(update={"data": DataConfig(source=config.data.source, max_length=64)})
    assert resolve_sources.fn(without).test is None
