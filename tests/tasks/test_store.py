"""The object store, on the file system and on a real S3 server."""

import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError

from tasks import store as store_module
from tasks.bucket import Bucket
from tasks.folder import MANIFEST, STAGING
from tasks.store import Artifact, Pointer, Store, copy_to, fetch_source, is_stored, names_at
from tinybert.digest import content_digest
from tinybert.errors import IntegrityError, StoreError, TransientError
from tinybert.refs import Ref

FILES = {"model.bin": b"\x00\x01\x02" * 1000, "config.json": b"{}", "a/b/vocab.txt": b"[PAD]\n", "empty": b""}


class FolderFiles:
    """The stored files, reached past the store."""

    def __init__(self, root: Path):
        self.root = root

    def names(self) -> set[str]:
        return {path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file()}

    def write(self, name: str, body: bytes) -> None:
        (self.root / name).unlink(missing_ok=True)
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_bytes(body)

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def delete(self, name: str) -> None:
        (self.root / name).unlink()


class BucketFiles:
    """The stored objects, reached past the store."""

    def __init__(self, server, prefix: str):
        self.client, self.bucket, self.prefix = server.client(), server.bucket, prefix

    def names(self) -> set[str]:
        listed = self.client.list_objects_v2(Bucket=self.bucket, Prefix=f"{self.prefix}/").get("Contents", [])
        return {item["Key"].removeprefix(f"{self.prefix}/") for item in listed}

    def write(self, name: str, body: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}", Body=body)

    def read(self, name: str) -> bytes:
        return self.client.get_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}")["Body"].read()

    def delete(self, name: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}")


@dataclass
class Place:
    store: Store
    files: FolderFiles | BucketFiles

    def inside(self, ref: Ref) -> str:
        return ref.uri.removeprefix(f"{self.store.root}/")


@pytest.fixture
def folder(tmp_path: Path) -> Place:
    return Place(Store(f"file:{tmp_path / 'store'}", tmp_path / "cache"), FolderFiles(tmp_path / "store"))


@pytest.fixture
def bucket(tmp_path: Path, s3) -> Place:
    prefix = uuid.uuid4().hex
    return Place(Store(f"s3://{s3.bucket}/{prefix}", tmp_path / "cache"), BucketFiles(s3, prefix))


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest) -> Place:
    return request.getfixturevalue(request.param)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_files(tmp_path / "model", FILES)


def write_files(directory: Path, files: dict[str, bytes]) -> Path:
    for name, body in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(body)
    return directory


def read_files(directory: Path) -> dict[str, bytes]:
    paths = [path for path in directory.rglob("*") if path.is_file() and path.name != MANIFEST]
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in paths}


def absent_ref(root: str) -> Ref:
    return Ref(uri=f"{root}/model/{'0' * 64}", digest="0" * 64)


def test_round_trip(place: Place, model: Path):
    ref = place.store.put("model", model)
    assert ref == Ref(uri=f"{place.store.root}/model/{content_digest(model)}", digest=content_digest(model))
    assert place.store.holds(ref)
    assert is_stored(ref.uri)
    assert read_files(place.store.get(ref)) == FILES


def test_a_manifest_of_its_own_does_not_clash(place: Place, model: Path):
    (model / "manifest.json").write_text("mine")
    ref = place.store.put("model", model)
    assert (place.store.get(ref) / "manifest.json").read_text() == "mine"
    manifest = json.loads(place.files.read(f"{place.inside(ref)}/{MANIFEST}"))
    assert (manifest["version"], manifest["kind"], manifest["digest"]) == (1, "model", ref.digest)
    assert manifest["files"].keys() == {*FILES, "manifest.json"}


def test_the_same_content_is_one_artifact(place: Place, model: Path, tmp_path: Path):
    ref = place.store.put("model", model)
    names = place.files.names()
    assert place.store.put("model", write_files(tmp_path / "copy", FILES)) == ref
    assert place.files.names() == names
    assert len(names) == len(FILES) + 1


def test_stored_and_cached_files_are_read_only(place: Place, model: Path):
    local = place.store.get(place.store.put("model", model))
    assert {stat.S_IMODE(path.stat().st_mode) for path in local.rglob("*") if path.is_file()} == {0o444}


def test_given_files_are_kept_without_a_copy(folder: Place, model: Path):
    written = {name: (model / name).stat().st_ino for name in FILES}
    local = folder.store.get(folder.store.put("model", model, given=True))
    assert {name: (local / name).stat().st_ino for name in FILES} == written
    shutil.rmtree(model)
    assert read_files(local) == FILES


@pytest.mark.parametrize("given", [False, True])
def test_files_that_are_not_given_or_cannot_have_two_names_are_copied(folder: Place, model: Path, given, monkeypatch):
    def refuse(*args: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refuse)
    local = folder.store.get(folder.store.put("model", model, given))
    (model / "config.json").write_text("[1]")
    assert read_files(local) == FILES


def test_a_file_of_many_parts(bucket: Place, tmp_path: Path):
    body = os.urandom(20_000_000)
    ref = bucket.store.put("model", write_files(tmp_path / "big", {"model.bin": body}))
    assert (bucket.store.get(ref) / "model.bin").read_bytes() == body


def test_a_relative_root_survives_a_change_of_directory(tmp_path: Path, model: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store("file:relative", tmp_path / "cache")
    ref = store.put("model", model)
    monkeypatch.chdir("/")
    assert ref.uri.startswith(f"file:{tmp_path}/relative/model/")
    assert read_files(store.get(ref)) == FILES


def test_an_empty_directory_is_refused(place: Place, tmp_path: Path):
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / ".hidden").write_text("no content")
    with pytest.raises(StoreError, match="no files in"):
        place.store.put("model", tmp_path / "nothing")


@pytest.mark.parametrize("root", ["", "/tmp/x", "file:", "file://host/x", "s3://", "s3:/b/x", "gs://b/x"])
def test_other_roots_are_refused(root: str, tmp_path: Path):
    with pytest.raises(StoreError, match=r"file:/path, file:rel or s3://bucket/prefix"):
        Store(root, tmp_path)


@pytest.mark.parametrize("kind", ["", "Model", "../model", "a b"])
def test_other_kinds_are_refused(kind: str, folder: Place, model: Path):
    with pytest.raises(StoreError, match="kind"):
        folder.store.put(kind, model)


def test_a_ref_that_is_absent_or_no_artifact(place: Place):
    with pytest.raises(StoreError, match=r"/model/0{64}: no such artifact"):
        place.store.get(absent_ref(place.store.root))
    assert not place.store.holds(absent_ref(place.store.root))
    assert not is_stored("hub:bert-base-uncased")
    with pytest.raises(StoreError, match="hub:bert"):
        place.store.get(Ref(uri="hub:bert", digest="0" * 64))
    with pytest.raises(StoreError, match="expected"):
        place.store.get(Ref(uri=absent_ref(place.store.root).uri, digest="1" * 64))


def test_a_crash_before_the_manifest_leaves_no_artifact(place: Place, model: Path, monkeypatch):
    def crash(*args: object) -> None:
        raise RuntimeError("crash")

    def crash_at_manifest(self, operation: str, arguments: dict):
        if operation == "PutObject" and arguments["Key"].endswith(MANIFEST):
            uploaded.append(sorted(place.files.names()))
            crash()
        return call(self, operation, arguments)

    uploaded: list[list[str]] = []
    call = BaseClient._make_api_call
    ref = Ref(uri=f"{place.store.root}/model/{content_digest(model)}", digest=content_digest(model))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", crash)
        patch.setattr("botocore.client.BaseClient._make_api_call", crash_at_manifest)
        with pytest.raises(RuntimeError, match="crash"):
            place.store.put("model", model)
    assert [len(names) for names in uploaded] == [len(FILES)] * isinstance(place.files, BucketFiles)
    assert not place.store.holds(ref)
    with pytest.raises(StoreError, match="no such artifact"):
        place.store.get(ref)
    assert place.store.put("model", model) == ref
    assert read_files(place.store.get(ref)) == FILES


def test_a_folder_without_its_manifest_is_replaced(folder: Place, model: Path):
    ref = folder.store.put("model", model)
    folder.files.delete(f"{folder.inside(ref)}/{MANIFEST}")
    folder.files.write(f"{folder.inside(ref)}/stray", b"")
    assert not folder.store.holds(ref)
    folder.store.put("model", model)
    assert read_files(folder.store.get(ref)) == FILES


@pytest.mark.parametrize("body", [b"\x00\x01\x03" * 1000, b"\x00\x01\x02" * 999], ids=["altered", "truncated"])
def test_an_altered_or_truncated_file_is_detected(place: Place, model: Path, body: bytes):
    ref = place.store.put("model", model)
    place.files.write(f"{place.inside(ref)}/model.bin", body)
    found, expected = content_digest(write_files(model, {"other": body}) / "other"), content_digest(model / "model.bin")
    with pytest.raises(IntegrityError, match=rf"{ref.uri}: model\.bin: .*{found}.*expected.*{expected}"):
        place.store.get(ref)


def test_a_missing_file_is_detected(place: Place, model: Path):
    ref = place.store.put("model", model)
    place.files.delete(f"{place.inside(ref)}/a/b/vocab.txt")
    with pytest.raises(IntegrityError, match=r"a/b/vocab\.txt: found no file"):
        place.store.get(ref)


def test_an_added_file_is_detected(folder: Place, model: Path):
    ref = folder.store.put("model", model)
    folder.files.write(f"{folder.inside(ref)}/added", b"")
    with pytest.raises(IntegrityError, match=r"added: .* expected no file"):
        folder.store.get(ref)


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside", "a//b", ".hidden", "a/.."])
def test_a_manifest_cannot_name_files_outside(place: Place, model: Path, name: str, tmp_path: Path):
    ref = place.store.put("model", model)
    key = f"{place.inside(ref)}/{MANIFEST}"
    manifest = json.loads(place.files.read(key))
    manifest["files"][name] = manifest["files"]["config.json"]
    place.files.write(key, json.dumps(manifest).encode())
    with pytest.raises(IntegrityError, match="is damaged"):
        place.store.get(ref)
    assert not list(tmp_path.rglob("outside"))


@pytest.mark.parametrize("text", [b"", b"{", b'{"version": 2, "kind": "model", "digest": "", "files": {}}'])
def test_an_unreadable_manifest_is_refused(place: Place, model: Path, text: bytes):
    ref = place.store.put("model", model)
    place.files.write(f"{place.inside(ref)}/{MANIFEST}", text)
    with pytest.raises(IntegrityError, match=ref.uri):
        place.store.get(ref)


def test_a_manifest_of_other_content_is_refused(place: Place, model: Path, tmp_path: Path):
    ref = place.store.put("model", model)
    other = place.store.put("model", write_files(tmp_path / "other", {"x": b"1"}))
    manifest = place.files.read(f"{place.inside(other)}/{MANIFEST}")
    place.files.write(f"{place.inside(ref)}/{MANIFEST}", manifest)
    with pytest.raises(IntegrityError, match=f"has digest {other.digest}, expected {ref.digest}"):
        place.store.get(ref)


def test_the_cache_is_used_while_intact_and_mended_when_altered(bucket: Place, model: Path, monkeypatch):
    ref = bucket.store.put("model", model)
    local = bucket.store.get(ref)
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
        assert bucket.store.get(ref) == local
    (local / "config.json").chmod(0o644)
    (local / "config.json").write_text("[]")
    assert read_files(bucket.store.get(ref)) == FILES
    assert not list(local.parent.glob(f"{STAGING}*"))


def test_a_file_that_changes_meanwhile_is_not_stored(place: Place, model: Path, monkeypatch):
    listed = store_module.list_files

    def list_then_change(directory: Path):
        entries = listed(directory)
        (model / "config.json").write_text("[1]")
        return entries

    monkeypatch.setattr(store_module, "list_files", list_then_change)
    with pytest.raises(IntegrityError, match=r"while it was stored: config\.json"):
        place.store.put("model", model)
    assert not any(name.endswith(MANIFEST) for name in place.files.names())


def test_concurrent_writers_make_one_artifact(place: Place, model: Path):
    with ThreadPoolExecutor(8) as pool:
        refs = set(pool.map(lambda _: place.store.put("model", model), range(8)))
    assert len(refs) == 1
    assert len(place.files.names()) == len(FILES) + 1
    assert read_files(place.store.get(refs.pop())) == FILES


def test_concurrent_readers_share_the_cache(bucket: Place, model: Path):
    ref = bucket.store.put("model", model)
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: bucket.store.get(ref), range(4)))
    assert len(found) == 1
    assert read_files(found.pop()) == FILES


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_while_putting_leaves_nothing(folder: Place, model: Path, monkeypatch, code: int):
    copied = []

    def copy_until_full(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:2])
        copied.append(target)
        if len(copied) == 3:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr("shutil.copyfile", copy_until_full)
    with pytest.raises(StoreError, match=r"disk full while writing .*free space or change the root") as caught:
        folder.store.put("model", model)
    assert folder.store.root in str(caught.value)
    assert len(copied) == 3
    assert list((folder.files.root / "model").iterdir()) == []


def test_a_full_disk_while_getting_leaves_nothing(bucket: Place, model: Path, monkeypatch):
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    ref = bucket.store.put("model", model)
    monkeypatch.setattr("s3transfer.utils.OSUtils.rename_file", full)
    with pytest.raises(StoreError, match=f"disk full while writing {bucket.store.cache}"):
        bucket.store.get(ref)
    assert list((bucket.store.cache / "model").iterdir()) == []


def put_and_kill(place: Place, model: Path) -> None:
    """Puts in another process and kills that one when the files, but not the manifest, are written."""
    script = """
import sys, time
from pathlib import Path
from tasks import bucket, folder, store

def halfway(*args):
    verify(*args)
    print("halfway", flush=True)
    time.sleep(60)

verify = folder.verify
folder.verify = bucket.verify = halfway
store.Store(sys.argv[1], Path(sys.argv[2])).put("model", Path(sys.argv[3]))
"""
    command = [sys.executable, "-c", script, place.store.root, str(place.store.cache), str(model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"halfway\n"
        process.send_signal(signal.SIGKILL)


def test_a_killed_writer_leaves_nothing_visible(place: Place, model: Path):
    put_and_kill(place, model)
    ref = Ref(uri=f"{place.store.root}/model/{content_digest(model)}", digest=content_digest(model))
    assert not place.store.holds(ref)
    assert place.store.put("model", model) == ref
    assert read_files(place.store.get(ref)) == FILES


def test_what_a_killed_writer_left_is_swept_after_a_day(folder: Place, model: Path, tmp_path: Path):
    put_and_kill(folder, model)
    [left] = (folder.files.root / "model").iterdir()
    assert left.name.startswith(STAGING)
    folder.store.put("model", write_files(tmp_path / "other", {"x": b"1"}))
    assert left.exists()
    os.utime(left, (time.time() - 25 * 3600,) * 2)
    folder.store.put("model", model)
    assert not left.exists()


def some_ref(place: Place, digit: str) -> Ref:
    return Ref(uri=f"{place.store.root}/model/{digit * 64}", digest=digit * 64)


def test_a_pointer_names_what_it_was_given_last(place: Place):
    assert place.store.pointed("resume", "layers-1") == {}
    first, second = {"a": some_ref(place, "1")}, {"a": some_ref(place, "2"), "b": some_ref(place, "3")}
    place.store.point("resume", "layers-1", first)
    assert place.store.pointed("resume", "layers-1") == first
    place.store.point("resume", "layers-1", second)
    assert place.store.pointed("resume", "layers-1") == second
    assert place.store.pointed("resume", "layers-2") == place.store.pointed("other", "layers-1") == {}
    assert place.files.names() == {"pointers/resume/layers-1.json"}


def test_a_pointer_can_be_removed_more_than_once(place: Place):
    place.store.point("resume", "key", {"a": some_ref(place, "1")})
    place.store.point("resume", "kept", {"a": some_ref(place, "1")})
    for _ in range(2):
        place.store.unpoint("resume", "key")
        assert place.store.pointed("resume", "key") == {}
    assert place.files.names() == {"pointers/resume/kept.json"}


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"a": 1}', b'{"a": {"uri": "x", "digest": "short"}}'])
def test_an_unreadable_pointer_is_none(place: Place, text: bytes):
    place.files.write("pointers/resume/key.json", text)
    assert place.store.pointed("resume", "key") == {}
    place.store.point("resume", "key", {"a": some_ref(place, "1")})
    assert place.store.pointed("resume", "key") == {"a": some_ref(place, "1")}


@pytest.mark.parametrize(
    ("kind", "key"), [("resume", ""), ("resume", "../x"), ("resume", ".x"), ("..", "x"), ("Re", "x"), ("resume", "a/b")]
)
def test_other_names_of_pointers_are_refused(folder: Place, kind: str, key: str):
    for call in (lambda: folder.store.point(kind, key, {}), lambda: folder.store.pointed(kind, key)):
        with pytest.raises(StoreError, match="no name for a pointer; expected the kind in lower case"):
            call()
    with pytest.raises(StoreError, match="no name for a pointer"):
        folder.store.unpoint(kind, key)
    assert not folder.files.root.exists()


def test_concurrent_readers_of_a_pointer_see_the_old_or_the_new(place: Place):
    versions = [{f"checkpoint-{i}": some_ref(place, digit) for i in range(20)} for digit in "12"]
    place.store.point("resume", "key", versions[0])

    def write() -> list:
        return [place.store.point("resume", "key", versions[i % 2]) for i in range(1, 40)]

    def read() -> list:
        return [place.store.pointed("resume", "key") for _ in range(40)]

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        pool.submit(write).result()
    found = [pointed for reader in readers for pointed in reader.result()]
    assert len(found) == 120
    assert all(pointed in versions for pointed in found)
    assert place.store.pointed("resume", "key") == versions[1]
    assert place.files.names() == {"pointers/resume/key.json"}


def test_a_crash_before_the_rename_leaves_the_old_pointer(folder: Place, monkeypatch):
    def crash(*args: object) -> None:
        raise RuntimeError("crash")

    folder.store.point("resume", "key", {"a": some_ref(folder, "1")})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", crash)
        with pytest.raises(RuntimeError, match="crash"):
            folder.store.point("resume", "key", {"a": some_ref(folder, "2")})
    assert folder.store.pointed("resume", "key") == {"a": some_ref(folder, "1")}
    assert folder.files.names() == {"pointers/resume/key.json"}


def test_a_deleted_artifact_is_gone_and_can_be_stored_again(place: Place, model: Path, tmp_path: Path):
    other = place.store.put("model", write_files(tmp_path / "other", {"x": b"1"}))
    kept = place.files.names()
    ref = place.store.put("model", model)
    place.store.get(ref)
    for _ in range(2):
        place.store.delete(ref)
        assert place.files.names() == kept
        assert not place.store.holds(ref)
        assert not list(tmp_path.rglob(f"*{ref.digest}*"))
    assert read_files(place.store.get(other)) == {"x": b"1"}
    assert place.store.put("model", model) == ref
    assert read_files(place.store.get(ref)) == FILES


def test_what_is_no_artifact_is_not_deleted(folder: Place):
    folder.files.write("precious/file", b"1")
    with pytest.raises(StoreError, match="expected"):
        folder.store.delete(Ref(uri=f"{folder.store.root}/precious", digest="0" * 64))
    assert folder.files.names() == {"precious/file"}


def test_a_half_deleted_artifact_is_none(place: Place, model: Path, monkeypatch):
    """Deletion is cut off after each number of its steps; the manifest must have gone in the first."""
    call, unlink, steps = BaseClient._make_api_call, os.unlink, []

    def counted(action):
        if len(steps) == limit:
            raise RuntimeError("killed")
        steps.append(action)

    def delete_object(self, operation: str, arguments: dict):
        if operation == "DeleteObject":
            counted(arguments["Key"])
        return call(self, operation, arguments)

    def delete_file(path, **options):
        counted(str(path))
        unlink(path, **options)

    files = {"-listed before the manifest": b"", **FILES}
    write_files(model, files)
    for limit in range(1, len(files) + 1):
        ref = place.store.put("model", model)
        steps.clear()
        with monkeypatch.context() as patch:
            patch.setattr("botocore.client.BaseClient._make_api_call", delete_object)
            patch.setattr(os, "unlink", delete_file)
            with pytest.raises(RuntimeError, match="killed"):
                place.store.delete(ref)
        assert steps[0].endswith(MANIFEST)
        assert len(place.files.names()) == len(files) + 1 - limit
        assert not place.store.holds(ref)
        with pytest.raises(StoreError, match="no such artifact"):
            Store(place.store.root, Path(place.store.cache.parent / "elsewhere")).get(ref)
    assert read_files(place.store.get(place.store.put("model", model))) == files


HOUR, DAY = 3600.0, 24 * 3600.0


def make_older(place: Place, name: str, seconds: float, monkeypatch) -> None:
    """Sets back the time of a file; on S3, where nobody can, this machine's clock goes on instead."""
    if isinstance(place.files, FolderFiles):
        os.utime(place.files.root / name, (time.time() - seconds,) * 2)
    else:
        later = time.time() + seconds
        monkeypatch.setattr("tasks.bucket.time.time", lambda: later)


def listed(place: Place) -> dict[str, Artifact]:
    return {artifact.ref.digest: artifact for artifact in place.store.artifacts()}


def test_artifacts_and_pointers_are_listed(place: Place, model: Path, tmp_path: Path):
    assert list(place.store.artifacts()) == list(place.store.pointers()) == []
    began = time.time()
    one = place.store.put("model", model)
    two = place.store.put("a-dataset", write_files(tmp_path / "rows", {"rows": b"12345", "more/rows": b"678"}))
    place.store.point("resume", "layers-1.x", {"a": one})
    place.files.write("results/prepare-1", b"Prefect's")
    place.files.write(f"model/{STAGING}x/content/file", b"half")
    place.files.write(f"model/{'9' * 64}/deep/file", b"without a manifest")
    found = listed(place)
    assert found.keys() == {one.digest, two.digest, "9" * 64}
    assert (found[one.digest].ref, found[two.digest].ref) == (one, two)
    assert {digest: artifact.kind for digest, artifact in found.items()} == {
        one.digest: "model",
        two.digest: "a-dataset",
        "9" * 64: "model",
    }
    manifest = len(place.files.read(f"{place.inside(two)}/{MANIFEST}"))
    assert (found[two.digest].size, found[two.digest].whole) == (5 + 3 + manifest, True)
    assert (found["9" * 64].size, found["9" * 64].whole) == (len("without a manifest"), False)
    [pointer] = place.store.pointers()
    assert (pointer.kind, pointer.key) == ("resume", "layers-1.x")
    for item in (*found.values(), pointer):
        assert began - 2 <= item.modified <= time.time() + 2


def test_a_listing_of_more_than_one_page(bucket: Place, monkeypatch):
    for number in range(8):
        bucket.files.write(f"model/{'9' * 64}/part-{number}", b"x")
    pages, call = [], BaseClient._make_api_call

    def three_a_page(self, operation: str, arguments: dict):
        pages.append(operation)
        return call(self, operation, {**arguments, "MaxKeys": 3})

    monkeypatch.setattr("botocore.client.BaseClient._make_api_call", three_a_page)
    assert listed(bucket)["9" * 64].size == 8
    assert pages == ["ListObjectsV2"] * 3


def test_sizes(place: Place, model: Path, tmp_path: Path):
    ref = place.store.put("model", model)
    assert place.store.size(ref) == sum(map(len, FILES.values()))
    other = place.store.put("model", write_files(tmp_path / "other", {"x": b"123"}))
    place.store.put("report", write_files(tmp_path / "report", {"x": b"123"}))
    manifests = {r: len(place.files.read(f"{place.inside(r)}/{MANIFEST}")) for r in (ref, other)}
    sizes = place.store.sizes()
    assert sizes.keys() == {"model", "report"}
    assert sizes["model"] == place.store.size(ref) + 3 + sum(manifests.values())
    with pytest.raises(StoreError, match="no such artifact"):
        place.store.size(absent_ref(place.store.root))


@pytest.mark.parametrize("use", ["holds", "put"])
def test_what_is_used_becomes_young(place: Place, model: Path, monkeypatch, use: str):
    ref = place.store.put("model", model)
    body = place.files.read(f"{place.inside(ref)}/{MANIFEST}")
    make_older(place, f"{place.inside(ref)}/{MANIFEST}", 40 * DAY, monkeypatch)
    before = listed(place)[ref.digest].modified
    if isinstance(place.files, BucketFiles):
        time.sleep(1.1)  # S3 counts seconds
    assert place.store.holds(ref) if use == "holds" else place.store.put("model", model) == ref
    assert listed(place)[ref.digest].modified > before
    assert place.files.read(f"{place.inside(ref)}/{MANIFEST}") == body


def test_what_is_young_is_not_written_again(bucket: Place, model: Path, monkeypatch):
    ref = bucket.store.put("model", model)
    called, call = [], BaseClient._make_api_call

    def counted(self, operation: str, arguments: dict):
        called.append(operation)
        return call(self, operation, arguments)

    monkeypatch.setattr("botocore.client.BaseClient._make_api_call", counted)
    assert bucket.store.holds(ref)
    assert called == ["GetObject"]


def test_an_artifact_deleted_while_it_becomes_young_stays_deleted(bucket: Place, model: Path, monkeypatch):
    ref = bucket.store.put("model", model)
    key, call = f"{bucket.inside(ref)}/{MANIFEST}", BaseClient._make_api_call
    make_older(bucket, key, 40 * DAY, monkeypatch)

    def deleted_meanwhile(self, operation: str, arguments: dict):
        if operation == "PutObject":
            call(self, "DeleteObject", {"Bucket": arguments["Bucket"], "Key": arguments["Key"]})
        return call(self, operation, arguments)

    with monkeypatch.context() as patch:
        patch.setattr("botocore.client.BaseClient._make_api_call", deleted_meanwhile)
        assert not bucket.store.holds(ref)
    assert key not in bucket.files.names()


def test_who_may_not_write_finds_artifacts_all_the_same(bucket: Place, model: Path, monkeypatch):
    ref = bucket.store.put("model", model)
    make_older(bucket, f"{bucket.inside(ref)}/{MANIFEST}", 40 * DAY, monkeypatch)
    call = BaseClient._make_api_call

    def denied(self, operation: str, arguments: dict):
        if operation == "PutObject":
            answer = {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
            raise ClientError(answer, operation)
        return call(self, operation, arguments)

    monkeypatch.setattr("botocore.client.BaseClient._make_api_call", denied)
    assert bucket.store.holds(ref)


def test_a_local_copy_that_is_read_becomes_young(bucket: Place, model: Path):
    local = bucket.store.get(bucket.store.put("model", model))
    os.utime(local / MANIFEST, (0, 0))
    bucket.store.get(bucket.store.put("model", model))
    assert (local / MANIFEST).stat().st_mtime > time.time() - HOUR


def test_only_what_nobody_used_since_expires(place: Place, model: Path, tmp_path: Path):
    refs = [place.store.put("model", path) for path in (model, write_files(tmp_path / "other", {"x": b"1"}))]
    old, kept = (listed(place)[ref.digest] for ref in refs)
    local = place.store.get(refs[0])
    assert not place.store.expire(old, old.modified)
    assert place.store.holds(refs[0])
    assert place.store.expire(old, time.time() + HOUR)
    assert listed(place) == {kept.ref.digest: kept}
    assert not local.exists()
    assert not place.store.expire(old, time.time() + HOUR)


def test_an_artifact_used_after_it_was_listed_does_not_expire(folder: Place, model: Path):
    ref = folder.store.put("model", model)
    os.utime(folder.files.root / folder.inside(ref) / MANIFEST, (0, 0))
    [old] = folder.store.artifacts()
    assert old.modified == 0
    assert folder.store.holds(ref)
    assert not folder.store.expire(old, time.time() - DAY)
    assert read_files(folder.store.get(ref)) == FILES


def test_what_a_killed_writer_left_expires(place: Place, model: Path):
    place.files.write(f"model/{'9' * 64}/file", b"half")
    [left] = place.store.artifacts()
    assert not place.store.expire(left, left.modified)
    assert place.store.expire(left, time.time() + HOUR)
    assert place.files.names() == set()


def test_only_a_pointer_that_nobody_set_since_expires(place: Place):
    for key in ("one", "two"):
        place.store.point("resume", key, {"a": some_ref(place, "1")})
    one, two = sorted(place.store.pointers(), key=lambda pointer: pointer.key)
    assert not place.store.expire_pointer(one, one.modified)
    assert place.store.expire_pointer(one, time.time() + HOUR)
    assert [pointer.key for pointer in place.store.pointers()] == ["two"] == [two.key]
    assert not place.store.expire_pointer(one, time.time() + HOUR)


def test_staging_directories_are_swept(folder: Place, model: Path):
    folder.store.put("model", model)
    kept = folder.files.names()
    for name, seconds in {"model/.staging-old": 2 * DAY, "pointers/resume/.staging-new": 0}.items():
        folder.files.write(f"{name}/content/file", b"1234")
        os.utime(folder.files.root / name, (time.time() - seconds,) * 2)
    assert folder.store.sweep(time.time() - DAY, dry_run=True) == (1, 4)
    assert len(folder.files.names()) == len(kept) + 2
    assert folder.store.sweep(time.time() - DAY, dry_run=False) == (1, 4)
    assert folder.files.names() == kept | {"pointers/resume/.staging-new/content/file"}


def test_uploads_in_parts_that_never_ended_are_aborted(bucket: Place, s3):
    client, places = s3.client(), {}
    for name in (f"model/{'9' * 64}/model.bin", "mlflow/1/model.bin"):
        key = f"{bucket.files.prefix}/{name}"
        upload = client.create_multipart_upload(Bucket=s3.bucket, Key=key)["UploadId"]
        client.upload_part(Bucket=s3.bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"x" * 1000)
        places[key] = upload

    def uploads() -> set[str]:
        found = client.list_multipart_uploads(Bucket=s3.bucket, Prefix=bucket.files.prefix).get("Uploads", [])
        return {upload["Key"] for upload in found}

    assert bucket.store.sweep(time.time() - HOUR, dry_run=False) == (0, 0)
    assert bucket.store.sweep(time.time() + HOUR, dry_run=True) == (1, 1000)
    assert uploads() == places.keys()
    assert bucket.store.sweep(time.time() + HOUR, dry_run=False) == (1, 1000)
    assert uploads() == {f"{bucket.files.prefix}/mlflow/1/model.bin"}


def every_call(root: str, model: Path, tmp_path: Path) -> list:
    store = Store(root, tmp_path / "cache")
    return [
        lambda: store.put("model", model),
        lambda: store.get(absent_ref(root)),
        lambda: store.holds(absent_ref(root)),
        lambda: fetch_source(f"{root}/source.txt", tmp_path / "cache"),
        lambda: fetch_source(f"{root}/sources/", tmp_path / "cache"),
        lambda: store.delete(absent_ref(root)),
        lambda: store.point("resume", "key", {"a": absent_ref(root)}),
        lambda: store.pointed("resume", "key"),
        lambda: store.unpoint("resume", "key"),
        lambda: store.size(absent_ref(root)),
        lambda: list(store.artifacts()),
        lambda: list(store.pointers()),
        lambda: store.expire(Artifact("model", absent_ref(root), 1, 0.0, True), 1.0),
        lambda: store.expire_pointer(Pointer("resume", "key", 0.0), 1.0),
        lambda: store.sweep(0.0, True),
    ]


def chain(error: BaseException | None) -> str:
    """Every message a traceback would show."""
    return "" if error is None else f"{error!r} {error} {chain(error.__cause__ or error.__context__)}"


@pytest.mark.parametrize("call", range(15))
@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, StoreError, "set AWS_ACCESS_KEY_ID and AWS_S"),
        ({"AWS_SECRET_ACCESS_KEY": None}, StoreError, "S3 credentials missing"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong-secret"}, StoreError, "access refused"),
        ({"AWS_ACCESS_KEY_ID": "wrong-key"}, StoreError, "access refused"),
        ({"AWS_PROFILE": "no-such-profile"}, StoreError, "wrong AWS settings"),
        ({"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}, TransientError, "no answer"),
    ],
    ids=["no credentials", "half of them", "wrong secret", "wrong key", "no profile", "server down"],
)
def test_failures_are_sorted(settings, error, message, call, s3, model, tmp_path, monkeypatch):
    for name, value in settings.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    root = f"s3://{s3.bucket}/failures"
    with pytest.raises(error, match=message) as caught:
        every_call(root, model, tmp_path)[call]()
    assert root in str(caught.value)
    for secret in (s3.secret_key, "wrong-secret", s3.access_key, "wrong-key"):
        assert secret not in chain(caught.value)


@pytest.mark.parametrize("call", [0, 1, 2, 4, 5, 6, 7])
def test_no_such_bucket(call: int, s3, model: Path, tmp_path: Path):
    with pytest.raises(StoreError, match=r"s3://nobucket/x/.*: no such bucket; create it or change the root|x/model"):
        every_call("s3://nobucket/x", model, tmp_path)[call]()


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (500, "InternalError"), (400, "RequestTimeout")])
def test_a_busy_server_is_worth_a_retry(status: int, code: str, bucket: Place, model: Path, monkeypatch):
    def busy(self, operation: str, arguments: dict):
        answer = {"Error": {"Code": code, "Message": ""}, "ResponseMetadata": {"HTTPStatusCode": status}}
        raise ClientError(answer, operation)

    monkeypatch.setattr("botocore.client.BaseClient._make_api_call", busy)
    with pytest.raises(TransientError, match=f"S3 is busy .{status} {code}"):
        bucket.store.put("model", model)


def test_an_upload_that_is_refused_halfway(bucket: Place, model: Path, monkeypatch):
    monkeypatch.setattr(Bucket, "touch", lambda self: False)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    with pytest.raises(StoreError, match=r"access refused.*403 SignatureDoesNotMatch"):
        bucket.store.put("model", model)


def test_a_secret_in_a_root_is_not_shown(tmp_path: Path):
    with pytest.raises(StoreError) as caught:
        Store("s3://key:hunter2/x@bucket/prefix", tmp_path)
    assert "hunter2" not in str(caught.value)


@pytest.fixture
def downloads(monkeypatch) -> list[str]:
    """The keys that were really downloaded."""
    keys: list[str] = []
    fetch = Bucket.fetch_version

    def counted(self, cache: Path, key: str, tag: str, size: int) -> Path:
        known = len(list(cache.glob("*"))) if cache.is_dir() else 0
        path = fetch(self, cache, key, tag, size)
        if len(list(cache.glob("*"))) > known:
            keys.append(key.rpartition("/")[2])
        return path

    monkeypatch.setattr(Bucket, "fetch_version", counted)
    return keys


def test_fetch_an_object(bucket: Place, tmp_path: Path, downloads: list[str]):
    uri, cache = f"{bucket.store.root}/rows.csv", tmp_path / "cache"
    for body, expected in [(b"a,b", 1), (b"a,b", 1), (b"a,c", 2)]:
        bucket.files.write("rows.csv", body)
        path = fetch_source(uri, cache)
        assert (path.name, path.read_bytes()) == ("rows.csv", body)
        assert len(downloads) == expected


def test_fetch_a_prefix(bucket: Place, tmp_path: Path, downloads: list[str]):
    uri, cache = f"{bucket.store.root}/corpus/", tmp_path / "cache"
    for name in ("one.txt", "two.txt", "deep/three.txt", ".hidden"):
        bucket.files.write(f"corpus/{name}", name.encode())
    bucket.files.write("corpus-of-others/x", b"")
    first = fetch_source(uri, cache)
    assert first.name == "corpus"
    assert read_files(first) == {name: name.encode() for name in ("one.txt", "two.txt", "deep/three.txt")}
    assert fetch_source(uri, cache) == first
    assert sorted(downloads) == ["one.txt", "three.txt", "two.txt"]
    bucket.files.write("corpus/two.txt", b"TWO.txt")
    bucket.files.delete("corpus/one.txt")
    second = fetch_source(uri, cache)
    assert read_files(second) == {"two.txt": b"TWO.txt", "deep/three.txt": b"deep/three.txt"}
    assert downloads[3:] == ["two.txt"]


@pytest.mark.parametrize("name", ["absent", "absent/", "..", "a/../"])
def test_fetch_what_is_not_there(name: str, bucket: Place, tmp_path: Path):
    with pytest.raises(StoreError, match="no such object"):
        fetch_source(f"{bucket.store.root}/{name}", tmp_path / "cache")


def test_fetch_from_elsewhere(tmp_path: Path):
    with pytest.raises(StoreError, match=r"use s3://bucket/key or s3://bucket/prefix/"):
        fetch_source("file:/etc/hosts", tmp_path)


def test_a_copy_for_others_is_listed_and_can_be_written_again(place: Place, model: Path):
    uri = f"{place.store.root}/outside"
    assert names_at(uri) == set()
    for _ in range(2):
        copy_to(f"{uri}/", model, last="config.json")
        assert names_at(uri) == names_at(f"{uri}/") == set(FILES)
    for name, body in FILES.items():
        assert place.files.read(f"outside/{name}") == body
    assert place.files.names() == {f"outside/{name}" for name in FILES}


def test_a_copy_for_others_can_be_changed_by_them(folder: Place, model: Path):
    copy_to(f"{folder.store.root}/outside", folder.store.get(folder.store.put("model", model)), last="config.json")
    (folder.files.root / "outside/config.json").write_text("{1}")


def test_hidden_files_and_neighbours_are_not_listed(place: Place):
    for name in ("outside/.DS_Store", "outside/.git/x", "outsider/x", "outside/x"):
        place.files.write(name, b"1")
    assert names_at(f"{place.store.root}/outside") == {"x"}


def test_the_last_file_is_not_there_before_the_others(folder: Place, model: Path):
    (folder.files.root / "outside/empty").mkdir(parents=True)  # in the way of a file of that name
    with pytest.raises(StoreError, match=f"{folder.store.root}/outside: "):
        copy_to(f"{folder.store.root}/outside", model, last="config.json")
    assert "config.json" not in names_at(f"{folder.store.root}/outside")
    (folder.files.root / "outside/empty").rmdir()
    copy_to(f"{folder.store.root}/outside", model, last="config.json")
    assert names_at(f"{folder.store.root}/outside") == set(FILES)


def test_a_place_that_cannot_take_a_copy_is_refused(folder: Place, model: Path, s3):
    folder.files.write("file", b"1")
    with pytest.raises(StoreError, match="found a file; name a directory"):
        names_at(f"{folder.store.root}/file")
    with pytest.raises(StoreError, match="no such bucket"):
        names_at("s3://no-such-bucket-here/scored")
    with pytest.raises(StoreError, match="no such bucket"):
        copy_to("s3://no-such-bucket-here/scored", model, last="config.json")
