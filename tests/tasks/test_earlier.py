"""Earlier outputs are found by name while they are there."""

import shutil

from tasks.connections import store
from tasks.earlier import recall, remember
from tasks.store import Store
from tinybert.errors import StoreError


def put(directory, text):
    (directory / text).mkdir()
    (directory / text / "file").write_text(text)
    return store().put("copies", directory / text)


def test_the_last_output_is_recalled_by_its_name(home, tmp_path):
    assert recall("copies", "name") is None
    for text in ("one", "two"):
        ref = put(tmp_path, text)
        remember("copies", "name", ref)
    assert recall("copies", "name").digest == ref.digest
    assert recall("copies", "other") is None
    assert recall("copies", "other", "name").digest == ref.digest


def test_an_output_that_is_gone_is_not_recalled(home, tmp_path):
    ref = put(tmp_path, "one")
    remember("copies", "name", ref)
    shutil.rmtree(home / "store" / "copies")
    assert recall("copies", "name") is None


def test_a_name_that_cannot_be_written_is_a_warning(home, tmp_path, monkeypatch, caplog):
    def full(*_):
        raise StoreError("the disk is full")

    monkeypatch.setattr(Store, "point", full)
    remember("copies", "name", put(tmp_path, "one"))
    assert "copies  the next run will not find this output: the disk is full" in caplog.text
