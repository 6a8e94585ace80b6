"""Checkpoints in the store: what is there while a stage trains, after a kill, and on the next machine."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import pytest
from transformers.trainer_utils import rotate_checkpoints

from tasks import checkpoints
from tasks import store as store_module
from tasks.checkpoints import mirrored, restore
from tasks.folder import MANIFEST
from tasks.store import Store
from tinybert.errors import DataError, StoreError, TransientError
from tinybert.refs import Ref
from tinybert.resume import last_checkpoint

KEY = "layers-0123"
OFTEN, NEVER = 0.02, 3600


class Killed(BaseException):
    """What ends a stage from outside."""


@pytest.fixture
def folder(tmp_path: Path) -> Store:
    return Store(f"file:{tmp_path / 'store'}", tmp_path / "cache")


@pytest.fixture
def bucket(tmp_path: Path, s3) -> Store:
    return Store(f"s3://{s3.bucket}/{uuid.uuid4().hex}", tmp_path / "cache")


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest) -> Store:
    return request.getfixturevalue(request.param)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work" / "out-resume"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """The same directory on another machine."""
    (tmp_path / "other").mkdir()
    return tmp_path / "other" / "out-resume"


@pytest.fixture
def stored(store: Store, request: pytest.FixtureRequest):
    """The stored files by name, looked up past the store."""

    def names() -> set[str]:
        if store.root.startswith("file:"):
            root = store.root.removeprefix("file:")
            walked = os.walk(root)  # bears that directories go away meanwhile
            return {os.path.relpath(f"{folder}/{name}", root) for folder, _, names in walked for name in names}
        server = request.getfixturevalue("s3")
        prefix = store.root.removeprefix(f"s3://{server.bucket}/")
        listed = server.client().list_objects_v2(Bucket=server.bucket, Prefix=prefix).get("Contents", [])
        return {item["Key"].removeprefix(f"{prefix}/") for item in listed}

    return names


def save(directory: Path, step: int, best: int | None = None, limit: int = 2) -> None:
    """Writes a checkpoint as the Trainer does: the state last, then older ones are deleted."""
    checkpoint = directory / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(f"weights of step {step}".encode())
    (checkpoint / "optimizer.pt").write_bytes(b"moments" * step)
    best_path = best and str(directory / f"checkpoint-{best}")
    (checkpoint / "trainer_state.json").write_text(
        json.dumps({"global_step": step, "best_model_checkpoint": best_path})
    )
    rotate_checkpoints(str(directory), limit, best_path, use_mtime=True)


@contextmanager
def killed(store: Store, directory: Path, every: float = NEVER, patience: float = 20) -> Iterator[None]:
    """A stage that is killed when the body ends."""
    with suppress(Killed), mirrored(store, KEY, directory, every, patience):
        yield
        raise Killed


def interrupted(store: Store, directory: Path, *saves: tuple) -> None:
    """A stage that makes these checkpoints and is then killed."""
    with killed(store, directory):
        for step in saves:
            save(directory, *step)


def alter(store: Store, ref: Ref) -> None:
    """Overwrites the weights of a stored checkpoint."""
    if store.root.startswith("file:"):
        path = Path(ref.uri.removeprefix("file:")) / "model.safetensors"
        path.chmod(0o644)
        path.write_bytes(b"damaged")
    else:
        store_module._artifact(ref).write("model.safetensors", b"damaged")


def pointed(store: Store) -> set[str]:
    return set(store.pointed("resume", KEY))


def files(directory: Path) -> dict[str, bytes]:
    found = [path for path in directory.rglob("*") if path.is_file()]
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in found}


def artifacts(names: set[str]) -> int:
    return len({name.split("/")[1] for name in names if name.startswith("checkpoints/")})


def until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited a minute"
        time.sleep(0.01)


def messages(caplog, level: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == level]


class Recorded(Store):
    """A store that notes what is asked of it."""

    def __init__(self, store: Store):
        super().__init__(store.root, store.cache)
        self.calls: list[str] = []

    def __getattribute__(self, name: str):
        if name in ("put", "get", "holds", "delete", "point", "pointed", "unpoint"):
            self.calls.append(name)
        return super().__getattribute__(name)


def test_the_newest_and_the_best_are_in_the_store_while_the_stage_trains(store, work, stored):
    recorded = Recorded(store)
    with killed(recorded, work, OFTEN):
        save(work, 10, 10)
        until(lambda: pointed(store) == {"checkpoint-10"})
        best = store.pointed("resume", KEY)["checkpoint-10"]
        save(work, 20, 10)
        until(lambda: pointed(store) == {"checkpoint-10", "checkpoint-20"})
        save(work, 30, 10)
        until(lambda: pointed(store) == {"checkpoint-10", "checkpoint-30"})
        assert store.pointed("resume", KEY)["checkpoint-10"] == best
        until(lambda: artifacts(stored()) == 2)
        save(work, 40, 40)
        until(lambda: pointed(store) == {"checkpoint-40"})
        until(lambda: artifacts(stored()) == 1)
    assert recorded.calls.count("put") == 4
    (ref,) = store.pointed("resume", KEY).values()
    content = {f"checkpoints/{ref.digest}/{name}" for name in [*files(work / "checkpoint-40"), MANIFEST]}
    assert stored() == {f"pointers/resume/{KEY}.json", *content}
    assert [path.name for path in work.parent.iterdir()] == [work.name]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, Killed, ValueError])
def test_what_ends_a_stage_does_not_keep_its_last_checkpoint_from_the_store(store, work, error):
    def train() -> None:
        with mirrored(store, KEY, work, NEVER):
            save(work, 10)
            raise error

    with pytest.raises(error):
        train()
    assert pointed(store) == {"checkpoint-10"}


def test_another_machine_continues_with_the_same_files(store, work, elsewhere, caplog):
    caplog.set_level("INFO", "tinybert")
    interrupted(store, work, (10, 10), (20, 10))
    if store.root.startswith("file:"):
        os.utime(store.get(store.pointed("resume", KEY)["checkpoint-20"]), (0, 0))
    with mirrored(Store(store.root, elsewhere.parent / "cache"), KEY, elsewhere, NEVER):
        assert last_checkpoint(elsewhere) == str(elsewhere / "checkpoint-20")
        assert files(elsewhere) == files(work)
        assert len(files(elsewhere)) == 6
        save(elsewhere, 30, 30)  # deletes checkpoint-10, the oldest
        assert sorted(path.name for path in elsewhere.iterdir()) == ["checkpoint-20", "checkpoint-30"]
        assert all(os.access(path, os.W_OK) and path.stat().st_mode & 0o200 for path in elsewhere.rglob("*"))
    assert messages(caplog, "INFO") == ["continuing at checkpoint-20 from the store"]
    assert messages(caplog, "WARNING") == []


def test_a_process_that_only_reads_changes_nothing_in_the_store(store, work, elsewhere, stored):
    interrupted(store, work, (10, 10), (20, 10))
    before = stored()
    restore(store, KEY, elsewhere)
    assert files(elsewhere) == files(work)
    alter(store, store.pointed("resume", KEY)["checkpoint-20"])
    third = elsewhere.with_name("third")
    restore(Store(store.root, third.parent / "cache"), KEY, third)
    restore(store, "layers-4567", third)
    assert not third.exists()
    assert stored() == before


def test_what_another_machine_adds_takes_the_place_of_what_was_there(store, work, elsewhere, stored):
    interrupted(store, work, (10, 10), (20, 20))
    interrupted(store, elsewhere, (30, 20), (40, 40))
    assert pointed(store) == {"checkpoint-40"}
    assert artifacts(stored()) == 1
    interrupted(store, work)
    assert files(work) == {name: body for name, body in files(elsewhere).items() if "checkpoint-40" in name}


def test_local_checkpoints_that_are_further_on_are_kept(store, work, elsewhere, stored):
    interrupted(store, work, (10, 10))
    save(elsewhere, 20, 20)
    before = files(elsewhere)
    with killed(store, elsewhere):
        assert files(elsewhere) == before
    assert pointed(store) == {"checkpoint-20"}
    assert artifacts(stored()) == 1


def test_local_checkpoints_that_fell_behind_give_way_as_a_whole(store, work, elsewhere):
    interrupted(store, work, (10, 10), (30, 10))
    save(elsewhere, 10, 10)
    (elsewhere / "checkpoint-10" / "model.safetensors").write_text("of another attempt")
    save(elsewhere, 20, 10)
    (elsewhere / "checkpoint-25").mkdir()
    interrupted(store, elsewhere)
    assert files(elsewhere) == files(work)
    assert sorted(path.name for path in elsewhere.iterdir()) == ["checkpoint-10", "checkpoint-30"]


def test_the_checkpoints_of_other_stages_are_left_alone(store, work, elsewhere):
    interrupted(store, work, (10,))
    with mirrored(store, "layers-4567", elsewhere, NEVER):
        assert not elsewhere.exists()
        save(elsewhere, 20)
    assert pointed(store) == {"checkpoint-10"}
    assert store.holds(store.pointed("resume", KEY)["checkpoint-10"])


def test_a_damaged_checkpoint_in_the_store_starts_the_stage_anew(store, work, elsewhere, stored, caplog):
    interrupted(store, work, (10, 10), (20, 10))
    before = store.pointed("resume", KEY)
    alter(store, before["checkpoint-20"])
    with killed(store, elsewhere):
        assert not list(elsewhere.parent.rglob("checkpoint-*"))
        (warning,) = messages(caplog, "WARNING")
        assert "going on without them" in warning
        assert "model.safetensors: found" in warning
        # The same content once more: it must not be taken for stored because a damaged artifact has its digest.
        elsewhere.mkdir()
        for checkpoint in work.iterdir():
            checkpoint.rename(elsewhere / checkpoint.name)
    assert store.pointed("resume", KEY) == before
    assert artifacts(stored()) == 2
    assert (store.get(before["checkpoint-20"]) / "model.safetensors").read_text() == "weights of step 20"


def test_a_checkpoint_missing_in_the_store_starts_the_stage_anew(store, work, elsewhere, stored, caplog):
    interrupted(store, work, (10, 10), (20, 10))
    store.delete(store.pointed("resume", KEY)["checkpoint-20"])
    with killed(store, elsewhere):
        assert not list(elsewhere.parent.rglob("checkpoint-*"))
        (warning,) = messages(caplog, "WARNING")
        assert "no such artifact" in warning
        save(elsewhere, 5)
    assert pointed(store) == {"checkpoint-5"}
    assert artifacts(stored()) == 1


def test_odd_names_in_a_pointer_lead_nowhere(store, work):
    interrupted(store, work, (10,))
    (ref,) = store.pointed("resume", KEY).values()
    store.point("resume", KEY, {"../checkpoint-90": ref, "checkpoint-x": ref})
    before = sorted(work.parents[1].rglob("*"))
    with mirrored(store, KEY, work, NEVER):
        assert sorted(work.parents[1].rglob("*")) == before


def test_a_store_that_does_not_answer_at_the_beginning_ends_the_attempt(s3, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(TransientError), mirrored(Store(f"s3://{s3.bucket}/x", tmp_path), KEY, tmp_path / "resume"):
        pytest.fail("the stage has begun")


def test_a_store_that_refuses_at_the_beginning_ends_the_stage(s3, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    refused = pytest.raises(StoreError, match="access refused")
    with refused, mirrored(Store(f"s3://{s3.bucket}/x", tmp_path), KEY, tmp_path / "resume"):
        pytest.fail("the stage has begun")


@pytest.fixture
def outage(store: Store):
    """Two switches: the store fails, the store works again."""
    patch, blocked = pytest.MonkeyPatch(), Path(store.root.removeprefix("file:")) / "checkpoints"

    def begin() -> None:
        if store.root.startswith("file:"):
            blocked.parent.mkdir()
            blocked.write_text("no directory")
        else:
            patch.setenv("AWS_MAX_ATTEMPTS", "1")
            patch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")

    def end() -> None:
        patch.undo()
        blocked.unlink(missing_ok=True)

    yield begin, end
    patch.undo()


def test_a_failing_store_does_not_end_the_training(store, work, outage, stored, caplog, monkeypatch):
    rounds: list[str | None] = []
    monkeypatch.setattr(
        checkpoints, "last_checkpoint", lambda path: rounds.append(found := last_checkpoint(path)) or found
    )
    begin, end = outage
    with killed(store, work, OFTEN):
        begin()
        save(work, 10, 10)
        until(lambda: messages(caplog, "WARNING"))
        save(work, 20, 20)
        rounds.clear()
        until(lambda: len(rounds) > 6)  # it tries again and again, and says nothing more
        end()
        until(lambda: pointed(store) == {"checkpoint-20"})
    (warning,) = messages(caplog, "WARNING")
    assert "the stage goes on" in warning
    until(lambda: artifacts(stored()) == 1)


@pytest.mark.parametrize("error", [None, DataError])
def test_a_store_that_fails_at_the_end_hides_neither_success_nor_failure(bucket, work, monkeypatch, caplog, error):
    def train() -> str:
        with mirrored(bucket, KEY, work, OFTEN):
            save(work, 10)
            until(lambda: pointed(bucket))
            monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
            save(work, 20)
            if error:
                raise error
        return "trained"

    with pytest.raises(error) if error else nullcontext():
        assert train() == "trained"
    (warning,) = messages(caplog, "WARNING")
    assert "no answer from S3" in warning


def test_success_leaves_nothing(store, work, elsewhere, stored):
    interrupted(store, work, (10, 10), (20, 10))
    cache = elsewhere.parent / "cache"
    with mirrored(Store(store.root, cache), KEY, elsewhere, OFTEN):
        save(elsewhere, 30, 10)
        until(lambda: "checkpoint-30" in pointed(store))
        save(elsewhere, 40, 10)
    assert stored() == set()
    assert not [path for path in cache.rglob("*") if path.is_file()]
    assert [path.name for path in elsewhere.parent.iterdir() if path != cache] == [elsewhere.name]


def test_success_with_what_the_first_attempt_stored_leaves_nothing(store, work, stored):
    interrupted(store, work, (10,))
    with mirrored(store, KEY, work, NEVER):
        pass
    assert stored() == set()


def test_a_stage_without_checkpoints_asks_the_store_one_thing(store, work, stored):
    recorded = Recorded(store)
    with mirrored(recorded, KEY, work, OFTEN):
        work.mkdir()
        (work / "vectors").write_text("no checkpoint")
        time.sleep(0.1)
    assert recorded.calls == ["pointed"]
    recorded.calls.clear()
    interrupted(recorded, work)
    assert recorded.calls == ["pointed"]
    assert stored() == set()


@pytest.mark.parametrize("state", [None, "", '{"global_step": 20, "best_'])
def test_a_checkpoint_that_is_still_being_written_stays_out_of_the_store(folder, work, state):
    with killed(folder, work):
        save(work, 10)
        (work / "checkpoint-20").mkdir()
        (work / "checkpoint-20" / "model.safetensors").write_bytes(b"half")
        if state is not None:
            (work / "checkpoint-20" / "trainer_state.json").write_text(state)
    assert pointed(folder) == {"checkpoint-10"}


@pytest.mark.parametrize("files_linked", [1, 3])
def test_a_checkpoint_deleted_while_it_is_looked_at_is_not_stored(folder, work, monkeypatch, caplog, files_linked):
    """The Trainer writes the next checkpoint and deletes this one after that many of its files."""
    link, links, stored = os.link, [], []

    class Watched(Store):
        def put(self, kind: str, directory: Path) -> Ref:
            stored.append(directory.name)
            return super().put(kind, directory)

    def link_and_rotate(source: str, target: str) -> None:
        links.append(source)
        link(source, target)
        if len(links) == files_linked:
            save(work, 20, limit=1)

    monkeypatch.setattr(os, "link", link_and_rotate)
    with killed(Watched(folder.root, folder.cache), work, OFTEN):
        save(work, 10, limit=1)
        until(lambda: pointed(folder))
    assert pointed(folder) == {"checkpoint-20"}
    assert stored == ["checkpoint-20"]
    assert messages(caplog, "WARNING") == []


def test_a_file_system_without_hard_links_will_do(folder, work, elsewhere, monkeypatch):
    def refuse(*args: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    interrupted(folder, work, (10, 10), (20, 10))
    interrupted(folder, elsewhere)
    assert files(elsewhere) == files(work)


def test_an_upload_that_hangs_does_not_keep_an_ended_stage(tmp_path, work, caplog):
    class Hanging(Store):
        uploading, released = threading.Event(), threading.Event()

        def put(self, kind: str, directory: Path) -> Ref:
            self.uploading.set()
            self.released.wait()
            return super().put(kind, directory)

    store = Hanging(f"file:{tmp_path / 'store'}", tmp_path / "cache")
    with killed(store, work, OFTEN, patience=0.1):
        save(work, 10)
        store.uploading.wait()
    assert messages(caplog, "WARNING") == ["the last checkpoint did not reach the store within 0.1 s"]
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "checkpoints"]
    store.released.set()
    thread.join()
    assert pointed(store) == set()  # by now the next attempt may have pointed further


TRAINING = """
import hashlib, json, shutil, sys, time
from pathlib import Path
from tasks.checkpoints import mirrored
from tasks.store import Store
from tinybert.resume import last_checkpoint

root, work, pause = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
resume = work / "out-resume"
with mirrored(Store(root, work / "fetched"), "layers-0123", resume, every=0.02):
    step, value = 0, ""
    if found := last_checkpoint(resume):
        step = json.loads((Path(found) / "trainer_state.json").read_text())["global_step"]
        value = (Path(found) / "weights").read_text()
    print("begin", step, flush=True)
    while step < 40:
        step, value = step + 1, hashlib.sha256(value.encode()).hexdigest()
        time.sleep(pause)
        if step % 5 == 0:
            checkpoint = resume / f"checkpoint-{step}"
            checkpoint.mkdir(parents=True)
            (checkpoint / "weights").write_text(value)
            (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}))
            shutil.rmtree(resume / f"checkpoint-{step - 10}", ignore_errors=True)
    print("end", value, flush=True)
"""


def training(store: Store, work: Path, pause: float) -> subprocess.Popen:
    work.mkdir()
    command = [sys.executable, "-c", TRAINING, store.root, str(work), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def test_a_killed_process_is_continued_on_another_machine(store, tmp_path, stored):
    with training(store, tmp_path / "first", pause=0.2) as process:
        until(lambda: pointed(store))
        process.send_signal(signal.SIGKILL)
    assert process.stdout.closed
    assert process.returncode == -signal.SIGKILL
    (tmp_path / "first").rename(tmp_path / "lost")
    with training(store, tmp_path / "second", pause=0) as process:
        begin, end = process.stdout.read().splitlines()
    expected = ""
    for _ in range(40):
        expected = hashlib.sha256(expected.encode()).hexdigest()
    assert begin.split()[0] == "begin"
    assert int(begin.split()[1]) in range(5, 40, 5)
    assert end == f"end {expected}"
    assert stored() == set()
