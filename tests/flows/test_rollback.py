"""The way back: which version becomes champion, what is recorded, and what is refused."""

import contextlib
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from prefect.concurrency.sync import concurrency

from flows.command import main
from flows.rollback import RollbackConfig, rollback, show
from tasks import publishing
from tasks.connections import registry
from tasks.publishing import find_champion, restore_champion
from tasks.store import Store
from tinybert.cli import validated
from tinybert.errors import ConfigError, SourceError, StoreError
from tinybert.refs import ModelRef

pytestmark = pytest.mark.usefixtures("shared_home")

REASON = "it calls every complaint a compliment"


class Killed(BaseException):
    """As SIGKILL: nobody catches it."""


@pytest.fixture
def model(request):
    """A model with three versions, each of which was champion in turn."""
    return made(request.function.__name__)


def made(name):
    for digest in ("a" * 64, "b" * 64, "c" * 64):
        tags = {"student.digest": digest, "verdict": "promote"}
        registry().crown(name, registry().register(name, f"s3://bucket/model/{digest}", digest, tags).number)
    return name


def aliases(name):
    return registry().model(name).aliases


def test_the_previous_champion_comes_back(model):
    done = rollback(RollbackConfig(name=model, reason=REASON))
    assert (done.withdrawn, done.restored) == ("3", "2")
    assert aliases(model) == {"champion": "2", "previous": "3"}
    withdrawn, restored = (registry().model(model).get(version).tags for version in "32")
    for tags in (withdrawn, restored):
        assert tags["rollback.reason"] == REASON
        assert tags["rollback.at"] == done.at
        assert tags["rollback.flow_run_id"] == done.flow_run_id != ""
    assert (withdrawn["rollback.to"], restored["rollback.from"]) == ("2", "3")
    assert "rollback.from" not in withdrawn
    assert "rollback.to" not in restored


def test_a_rollback_can_be_taken_back(model):
    rollback(RollbackConfig(name=model, reason=REASON))
    rollback(RollbackConfig(name=model, reason=REASON))
    assert aliases(model) == {"champion": "3", "previous": "2"}
    assert "rollback.to" not in registry().model(model).get("3").tags


def test_back_to_a_version_by_its_number(model):
    registry().challenge(model, "1")
    rollback(RollbackConfig(name=model, reason=REASON, version=1))
    assert aliases(model) == {"champion": "1", "previous": "3"}


@pytest.mark.parametrize("kept", [True, False])
def test_back_to_a_version_without_an_alias_only_if_its_files_are_there(request, tmp_path, kept):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "config.json").write_text("{}")
    store = Store(f"file:{tmp_path}/store", tmp_path / "cache")
    package = store.put("model", tmp_path / "package")
    name = made(request.node.name.replace("[", " ").rstrip("]"))
    tags = {"student.digest": "e" * 64, "verdict": "promote"}
    number = int(registry().register(name, package.uri, package.digest, tags).number)
    if kept:
        rollback(RollbackConfig(name=name, reason=REASON, version=number))
        assert aliases(name) == {"champion": "4", "previous": "3"}
        return
    store.delete(package)
    before = registry().model(name)
    with pytest.raises(SourceError, match=r"the files of version 4, file:.* are gone, collected perhaps; name another"):
        rollback(RollbackConfig(name=name, reason=REASON, version=number))
    assert registry().model(name) == before


def test_a_store_that_is_not_to_be_asked_bars_no_way_back(model, monkeypatch, caplog):
    def refuse(*_):
        raise StoreError("s3://bucket: access denied")

    monkeypatch.setattr(Store, "holds", refuse)
    rollback(RollbackConfig(name=model, reason=REASON, version=1))
    assert aliases(model) == {"champion": "1", "previous": "3"}
    assert "version 1: not known whether its files are still there: s3://bucket: access denied" in caplog.text


def test_the_next_student_is_compared_with_the_restored_champion(model):
    student = ModelRef(uri="s3://bucket/model/new", digest="d" * 64)
    assert find_champion.fn(model, student).version == "3"
    rollback(RollbackConfig(name=model, reason=REASON))
    assert find_champion.fn(model, student).version == "2"


@pytest.mark.parametrize(
    ("version", "message"),
    [(9, "found no version or alias '9'; known versions: 1, 2, 3"), (3, "version 3 is the champion already")],
)
def test_versions_that_cannot_be_restored(model, version, message):
    before = registry().model(model)
    with pytest.raises(SourceError, match=message):
        rollback(RollbackConfig(name=model, reason=REASON, version=version))
    assert registry().model(model) == before


def test_models_without_a_way_back(model):
    with pytest.raises(SourceError, match="no version or alias 'champion'; known versions: none"):
        rollback(RollbackConfig(name="nobody", reason=REASON))
    registry().client.delete_registered_model_alias(model, "previous")
    with pytest.raises(SourceError, match="no previous champion to go back to; name one of the versions 1, 2"):
        rollback(RollbackConfig(name=model, reason=REASON))


def test_a_promotion_killed_half_way_is_no_way_back(model):
    registry().client.set_registered_model_alias(model, "previous", "3")
    with pytest.raises(SourceError, match="no previous champion to go back to"):
        rollback(RollbackConfig(name=model, reason=REASON))


@pytest.mark.parametrize("reason", [{}, {"reason": ""}, {"reason": "because"}])
def test_a_reason_is_asked_for(reason):
    with pytest.raises(ConfigError, match="reason"):
        validated(RollbackConfig, {"name": "reviews", **reason})


WRITES = [
    "set_model_version_tag",
    "delete_model_version_tag",
    "set_registered_model_alias",
    "delete_registered_model_alias",
]


def test_a_kill_between_any_two_writes_moves_no_alias_half_way(request, monkeypatch):
    monkeypatch.setattr(publishing, "slot", lambda *_, **__: contextlib.nullcontext())  # it is not about that
    monkeypatch.setattr(publishing, "create_markdown_artifact", lambda *_, **__: None)
    states = []
    for write in range(30):
        name = made(f"{request.node.name} {write}")
        done = []
        with monkeypatch.context() as patch:
            for method in WRITES:
                patch.setattr(registry().client, method, dying(getattr(registry().client, method), done, write))
            try:
                restore_champion.fn(name, None, REASON)
                break
            except Killed:
                pass
        states.append((aliases(name)["champion"], aliases(name)["previous"]))
        if states[-1] != ("2", "3"):
            restore_champion.fn(name, None, REASON)
        assert aliases(name) == {"champion": "2", "previous": "3"}
    assert states[0] == ("3", "2")
    assert set(states) == {("3", "2"), ("3", "3")}


def dying(method, done, write):
    def call(*args):
        if len(done) == write:
            raise Killed
        done.append(method)
        return method(*args)

    return call


def test_a_retry_after_a_lost_answer_does_not_go_back_again(model, monkeypatch):
    moved, move = [], registry().client.set_registered_model_alias

    def deaf(name, alias, version):
        move(name, alias, version)
        moved.append(alias)
        if moved == ["previous", "champion"]:
            raise ConnectionError("the answer was lost")

    monkeypatch.setattr(registry().client, "set_registered_model_alias", deaf)
    monkeypatch.setattr(restore_champion, "retry_delay_seconds", 0)
    done = rollback(RollbackConfig(name=model, reason=REASON))
    assert (done.withdrawn, done.restored) == ("3", "2")
    assert aliases(model) == {"champion": "2", "previous": "3"}


def test_a_rollback_waits_for_a_promotion(model):
    began = threading.Event()

    def promote():
        with concurrency("promotions", occupy=1, strict=True):
            began.set()
            time.sleep(1)
            return aliases(model)

    with ThreadPoolExecutor(1) as pool:
        promotion = pool.submit(promote)
        began.wait()
        rollback(RollbackConfig(name=model, reason=REASON))
        assert promotion.result()["champion"] == "3"
    assert aliases(model)["champion"] == "2"


def test_the_command_line_shows_what_it_did(model, capsys):
    main(rollback, RollbackConfig, show, ["--set", f"name={model}", "--set", f"reason={REASON}"])
    shown = capsys.readouterr().out
    assert f"{model}: rolled back at 20" in shown
    assert [re.findall(r"\w+", line) for line in shown.splitlines() if "\u2502" in line] == [
        ["2", "champion"],
        ["3", "champion", "previous"],
    ]
    assert f"reason: {REASON}" in shown
    assert aliases(model) == {"champion": "2", "previous": "3"}


def test_the_command_line_refuses_in_one_line(model, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(rollback, RollbackConfig, show, ["--set", f"name={model}"])
    assert capsys.readouterr().err == "error: reason: nothing given; this field is required\n"
