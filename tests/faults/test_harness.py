"""The harness itself: it sees what a run does to the store, gets in its way as told, and notices what is damaged."""

import http.client
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from infra.stack import settings
from infra.stack.layout import Layout
from infra.stack.parts import parts
from tasks.store import Store
from tests.faults.catalogue import PARTS, full
from tests.faults.checks import Kept, look_through
from tests.faults.moments import Moment, Watch
from tests.faults.proxy import Proxy
from tests.faults.steps import Steps
from tests.tasks.conftest import S3Server, s3, s3_server  # noqa: F401
from tests.unit.line import Line, Points, fit
from tinybert.errors import StoreError, TransientError
from tinybert.refs import Ref

NO_KEY = "0" * 64


@dataclass
class Behind:
    """A store behind the proxy, below a prefix that is one test's own."""

    server: S3Server
    directory: Path
    moments: list[Moment] = field(default_factory=list)
    deadly: Moment | None = None

    def __post_init__(self) -> None:
        self.work = self.directory / "work"
        self.watch = Watch(self.work, self.tell)
        self.proxy = Proxy(self.server.endpoint, self.watch.before, self.watch.after)
        self.store = Store(f"s3://{self.server.bucket}/{self.directory.name}", self.directory / "cache")

    def tell(self, moment: Moment) -> bool:
        self.moments.append(moment)
        return moment == self.deadly

    def put(self, kind: str) -> Ref:
        made = self.directory / "made"
        (made / "deep").mkdir(parents=True, exist_ok=True)
        (made / "weights").write_bytes(b"0123456789")
        (made / "deep" / "file").write_bytes(b"deep")
        return self.store.put(kind, made)

    def kept(self) -> Kept:
        return look_through(self.server.client(), self.server.bucket, f"{self.directory.name}/")

    def wait_for(self, moment: Moment) -> None:
        deadline = time.monotonic() + 10
        while moment not in self.moments:
            assert time.monotonic() < deadline, self.moments
            time.sleep(0.01)


def test_every_part_of_the_stack_that_runs_all_the_time_is_killed(tmp_path):
    layout = Layout(tmp_path)
    layout.make()
    for database, expected in (("postgresql", PARTS), ("sqlite", PARTS[1:])):
        layout.env.unlink(missing_ok=True)
        listed = parts(layout, settings.create(layout.env, database))
        assert tuple(name for name, part in listed.items() if not part.once) == expected
    assert {f"kill-{part}" for part in PARTS} <= {scenario.name for scenario in full()}


@pytest.fixture
def behind(s3, tmp_path, monkeypatch):  # noqa: F811
    behind = Behind(s3, tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", behind.proxy.url)
    with behind.proxy, behind.watch:
        yield behind


def test_the_moments_of_a_stage_are_told_in_order(behind):
    stage = behind.work / f"layers-{NO_KEY}"
    behind.store.pointed("resume", stage.name)
    (stage / "out-resume" / "checkpoint-2").mkdir(parents=True)
    (stage / "out-resume" / "checkpoint-2" / "trainer_state.json").write_text("{}")
    behind.wait_for(Moment("layers", "middle"))
    (stage / "out").mkdir()
    (stage / "out" / "model").write_text("x")
    behind.wait_for(Moment("layers", "written"))
    ref = behind.put("model")
    told = [*dict.fromkeys(behind.moments)]
    assert told == [Moment("layers", when) for when in ("start", "middle", "written", "end", "stored")]
    assert behind.watch.latest == f"model/{ref.digest}"
    assert (behind.store.get(ref) / "deep" / "file").read_bytes() == b"deep"


def test_what_preflight_writes_is_no_moment_of_the_stage_that_was_interrupted(behind):
    behind.store.pointed("resume", f"layers-{NO_KEY}")
    behind.put("preflight")
    assert behind.moments == [Moment("layers", "start")]
    assert behind.watch.latest == ""


def checkpoint(stage: Path, step: int, state: str = "{}") -> Path:
    directory = stage / "out-resume" / f"checkpoint-{step}"
    directory.mkdir(parents=True)
    (directory / "model.safetensors").write_bytes(b"weights")
    (directory / "trainer_state.json").write_text(state)
    return directory


def test_a_stage_that_trains_what_it_had_a_checkpoint_of_is_noticed(behind):
    stage, steps = behind.work / f"layers-{NO_KEY}", behind.watch.steps
    early = checkpoint(stage, 2)
    checkpoint(stage, 4)
    checkpoint(stage, 6, '{"cut off":')
    behind.store.pointed("resume", stage.name)
    assert steps.continued == ["layers at step 4"]
    checkpoint(stage, 8)
    (early / "trainer_state.json").write_text('{"best_model_checkpoint": "elsewhere"}')  # continuing may write that
    steps.look("layers")
    assert steps.problems == []
    shutil.rmtree(early)
    checkpoint(stage, 2)
    behind.put("model")
    assert steps.problems == ["layers trained step 2 again, though it had a checkpoint of 4"]


def test_a_checkpoint_that_is_gone_when_its_stage_is_begun_again_is_noticed(behind):
    stage, steps = behind.work / f"layers-{NO_KEY}", behind.watch.steps
    checkpoint(stage, 4)
    steps.struck("layers")
    shutil.rmtree(stage)
    behind.store.pointed("resume", f"general-{NO_KEY}")
    assert steps.problems == []
    behind.store.pointed("resume", stage.name)
    assert steps.problems == ["layers was at step 4, and was begun again with the checkpoint of 0"]


def test_a_stage_whose_output_is_stored_may_begin_anew(behind):
    stage, steps = behind.work / f"layers-{NO_KEY}", behind.watch.steps
    behind.store.pointed("resume", stage.name)
    checkpoint(stage, 4)
    steps.struck("layers")
    behind.put("model")
    shutil.rmtree(stage)
    behind.store.pointed("resume", stage.name)
    checkpoint(stage, 2)
    steps.look("layers")
    assert (steps.problems, steps.continued) == ([], [])


class Killed(BaseException):
    """What SIGKILL is to training: nothing of it runs afterwards."""


@pytest.mark.parametrize("again", [[], [2, 4, 6]], ids=["goes on", "begins anew"])
def test_training_that_goes_on_is_told_from_training_that_begins_anew(tmp_path, monkeypatch, again):
    stage, steps, killed, continued = tmp_path / f"layers-{NO_KEY}", Steps(tmp_path), Line(), Line()

    def kill(*_):
        if killed.passes == 7:
            raise Killed

    killed.register_forward_pre_hook(kill)
    with pytest.raises(Killed):
        fit(killed, Points(), stage, checkpoint_every=2)
    steps.struck("layers")
    steps.begun("layers")
    if again:
        monkeypatch.setattr("tinybert.trainer.last_checkpoint", lambda directory: None)
    continued.register_forward_pre_hook(lambda *_: steps.look("layers"))
    fit(continued, Points(), stage, checkpoint_every=2)
    assert continued.passes == (15 if again else 9)
    assert steps.continued == ["layers at step 6"]
    assert steps.problems == [f"layers trained step {step} again, though it had a checkpoint of 6" for step in again]


def test_who_is_killed_before_the_manifest_leaves_no_artifact(behind):
    behind.store.pointed("resume", f"gather-{NO_KEY}")
    behind.deadly = Moment("gather", "end")
    with pytest.raises(TransientError, match="no answer from S3"):
        behind.put("dataset")
    kept = behind.kept()
    assert (len(kept.unfinished), kept.files, kept.damaged) == (1, {}, [])


def test_damage_of_every_sort_is_noticed(behind):
    name = f"model/{behind.put('model').digest}"
    assert behind.kept().files == {name: {"weights", "deep/file"}}
    client = behind.server.client()
    place = {"Bucket": behind.server.bucket, "Key": f"{behind.directory.name}/{name}/weights"}
    for body in (b"01234", b"0123456780"):
        client.put_object(Body=body, **place)
        assert behind.kept().damaged == [name]
    client.delete_object(**place)
    assert behind.kept().damaged == [name]
    client.put_object(Body=b"0123456789", **place)
    assert behind.kept().damaged == []


def test_the_store_is_busy_and_denied_as_told(behind):
    behind.proxy.behave("busy", 60)
    with pytest.raises(TransientError, match="S3 is busy"):
        behind.put("model")
    behind.proxy.behave("denied", 60)
    with pytest.raises(StoreError, match="access refused"):
        behind.put("model")
    behind.proxy.behave("pass")
    assert behind.store.holds(behind.put("model"))


def test_a_server_that_is_down_closes_the_connection():
    with Proxy("http://127.0.0.1:9", lambda *_: False, lambda *_: False) as proxy:
        connection = http.client.HTTPConnection("127.0.0.1", proxy.server_port, timeout=10)
        connection.request("GET", "/")
        with pytest.raises(http.client.RemoteDisconnected):
            connection.getresponse()
