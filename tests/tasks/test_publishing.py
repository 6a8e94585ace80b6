"""What becomes of aliases when students are published, at once, in turn, and when somebody pulls the plug."""

import contextlib
import functools
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError

from tasks import publishing
from tasks.connections import registry, store
from tasks.publishing import Champion, find_champion, publish_model, restore_champion
from tinybert.errors import SourceError, TransientError
from tinybert.refs import DatasetRef, ModelRef, ReportRef

pytestmark = pytest.mark.usefixtures("shared_home")

WRITES = [
    "create_registered_model",
    "create_model_version",
    "set_model_version_tag",
    "delete_model_version_tag",
    "set_registered_model_alias",
    "delete_registered_model_alias",
]
DECISION = {
    "verdict": "promote",
    "forced": False,
    "force": None,
    "served": "int8",
    "summary": "The student keeps 98% of the teacher's accuracy at a tenth of its latency.",
    "retention": 0.98,
    "speedup": 10.5,
    "megabytes": 14.8,
    "latency_ms": 1.9,
    "difference": None,
    "p_value": None,
}
COMPARISON = {
    **{"kind": "classification", "metric": "accuracy", "metrics": ["accuracy", "f1_macro"]},
    **{"teacher": {"accuracy": 0.9}, "student": {"accuracy": 0.88}},
    "int8": {"accuracy": 0.875, "accuracy_low": 0.86, "f1_macro": 0.8, "ece_calibrated": 0.02},
}


class Killed(BaseException):
    """As SIGKILL: nobody catches it."""


@pytest.fixture
def name(request):
    """A model of its own for each test."""
    return request.function.__name__


def stored(tmp_path, kind, ref, **files):
    """A directory of JSON files in the store."""
    directory = tmp_path / str(time.monotonic_ns())
    directory.mkdir()
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    found = store().put(kind, directory)
    return ref(uri=found.uri, digest=found.digest)


def publish_as(tmp_path, name, student, package=None, against="now", made_from=None, **decision):
    """Publish a student, judged against the champion there is now, or against another."""
    exported = stored(tmp_path, "model", ModelRef, student=student)
    found = find_champion.fn(name, exported) if against == "now" else against
    return publish_model.fn(
        name,
        stored(tmp_path, "model", ModelRef, package=package or student),
        exported,
        stored(tmp_path, "dataset", DatasetRef, rows=student),
        found,
        stored(tmp_path, "report", ReportRef, decision=DECISION | decision),
        stored(tmp_path, "report", ReportRef, comparison=COMPARISON),
        made_from,
    )


@pytest.fixture
def publish(tmp_path, name):
    """Publish as a version of the test's own model."""
    return functools.partial(publish_as, tmp_path, name)


def aliases(name):
    return registry().model(name).aliases


def outcomes(*published):
    return [(result.version, result.outcome) for result in published]


def test_the_first_student_becomes_champion_and_tells_its_story(publish, name, tmp_path):
    result = publish("a")
    assert (result.version, result.outcome, aliases(name)) == ("1", "promoted", {"champion": "1"})
    assert result.metrics == {
        "retention": 0.98,
        "speedup": 10.5,
        "megabytes": 14.8,
        "latency_ms": 1.9,
        "accuracy": 0.875,
        "f1_macro": 0.8,
        "ece_calibrated": 0.02,
    }
    found = registry().client.get_model_version(name, "1")
    data = stored(tmp_path, "dataset", DatasetRef, rows="a")
    assert found.description == DECISION["summary"]
    assert found.source == found.tags["uri"]
    assert found.tags["student.digest"] == stored(tmp_path, "model", ModelRef, student="a").digest
    assert (found.tags["data.uri"], found.tags["data.digest"]) == (data.uri, data.digest)
    assert {"report.uri", "report.digest", "digest", "git.commit", "promoted.at"} <= found.tags.keys()
    wanted = {"verdict": "promote", "served": "int8", "accuracy": "0.875", "retention": "0.98", "speedup": "10.5"}
    wanted |= {"kind": "classification", "metric": "accuracy"}
    assert wanted.items() <= found.tags.items()
    assert not {"gate.against", "gate.force"} & found.tags.keys()


def test_a_version_tells_what_the_newest_run_made_it_from(publish, name):
    told = [{"made_from.data": digest, "made_from.code": "c"} for digest in "ab"]
    publish("a", made_from=told[0])
    assert told[0].items() <= registry().model(name).get("1").tags.items()
    assert publish("a", made_from=told[1]).outcome == "unchanged"
    assert told[1].items() <= registry().model(name).get("1").tags.items()
    publish("a")
    assert told[1].items() <= registry().model(name).get("1").tags.items()


def test_a_better_student_takes_the_champions_place(publish, name):
    assert outcomes(publish("a"), publish("b")) == [("1", "promoted"), ("2", "promoted")]
    assert aliases(name) == {"champion": "2", "previous": "1"}
    assert registry().model(name).get("2").tags["gate.against"] == "1"


def test_a_rejected_student_challenges(publish, name):
    publish("a")
    assert outcomes(publish("b", verdict="reject")) == [("2", "rejected")]
    assert aliases(name) == {"champion": "1", "challenger": "2"}


def test_without_a_champion_a_rejected_student_does_not_become_one(publish, name):
    assert publish("a", verdict="reject").outcome == "rejected"
    assert aliases(name) == {"challenger": "1"}


def test_a_challenger_that_is_promoted_challenges_no_more(publish, name):
    publish("a")
    assert publish("b", against=None).outcome == "overtaken"
    assert aliases(name) == {"champion": "1", "challenger": "2"}
    assert outcomes(publish("b")) == [("2", "promoted")]
    assert aliases(name) == {"champion": "2", "previous": "1"}
    assert registry().model(name).get("2").tags["gate.against"] == "1"


def test_the_same_student_again_changes_nothing(publish, name):
    publish("a")
    publish("b")
    before = registry().model(name)
    assert outcomes(publish("b"), publish("b")) == [("2", "unchanged")] * 2
    assert registry().model(name) == before


def test_the_champions_own_student_is_compared_with_what_it_replaced(publish, name, tmp_path):
    first, second, third = (stored(tmp_path, "model", ModelRef, student=student) for student in "abc")
    assert find_champion.fn(name, first) is None
    publish("a")
    package = registry().model(name).get("1")
    champion = Champion(
        version="1",
        model=ModelRef(uri=package.uri, digest=package.digest),
        data=stored(tmp_path, "dataset", DatasetRef, rows="a"),
        student_digest=first.digest,
    )
    assert find_champion.fn(name, first) is None
    assert find_champion.fn(name, second) == champion
    publish("b")
    assert find_champion.fn(name, second) == champion
    assert find_champion.fn(name, third).version == "2"


def test_another_package_of_the_champions_student_replaces_it(publish, name):
    publish("a")
    publish("b")
    assert outcomes(publish("b", package="b without int8")) == [("3", "promoted")]
    assert aliases(name) == {"champion": "3", "previous": "2"}
    assert registry().model(name).get("3").tags["gate.against"] == "1"


def test_a_forced_promotion_is_on_record(publish, name):
    publish("a", forced=True, force="the customer wants it today")
    assert registry().model(name).get("1").tags["gate.force"] == "the customer wants it today"


def test_an_overtaken_student_moves_nothing(publish, name, tmp_path):
    publish("a")
    old = find_champion.fn(name, stored(tmp_path, "model", ModelRef, student="c"))
    publish("b")
    assert outcomes(publish("c", against=old)) == [("3", "overtaken")]
    assert aliases(name) == {"champion": "2", "previous": "1", "challenger": "3"}


@pytest.fixture
def slowly(monkeypatch):
    """Widen the moment between reading the champion and moving it."""
    move = registry().client.set_registered_model_alias
    monkeypatch.setattr(
        registry().client, "set_registered_model_alias", lambda *args: (time.sleep(0.3), move(*args))[1]
    )


def test_of_two_publishers_at_once_one_is_overtaken(publish, name, tmp_path, slowly):
    publish("a")
    old = find_champion.fn(name, stored(tmp_path, "model", ModelRef, student="new"))
    ready = threading.Barrier(2)

    def race(student):
        ready.wait()
        return publish(student, against=old)

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(race, ["b", "c"]))
    assert sorted(result.outcome for result in results) == ["overtaken", "promoted"]
    winner, loser = sorted(results, key=lambda result: result.outcome == "overtaken")
    assert aliases(name) == {"champion": winner.version, "previous": "1", "challenger": loser.version}


def test_nothing_is_promoted_where_there_is_no_limit(publish, monkeypatch):
    monkeypatch.setattr(publishing, "settings", lambda: SimpleNamespace(promotions="nobody made it"))
    with pytest.raises(ConcurrencySlotAcquisitionError, match="nobody made it"):
        publish("a")


def kill_at(monkeypatch, write):
    """Let the process die before this write of the registry, the first being 0."""
    done = []

    def dying(method):
        def call(*args, **options):
            if len(done) == write:
                raise Killed
            done.append(method)
            return method(*args, **options)

        return call

    for method in WRITES:
        monkeypatch.setattr(registry().client, method, dying(getattr(registry().client, method)))


def killed_everywhere(monkeypatch, act, prepare):
    """Do something until it is done, killed before its first write, then its second ...; the numbers of the kills."""
    monkeypatch.setattr(publishing, "slot", lambda *_, **__: contextlib.nullcontext())  # it is not about that
    for write in range(20):
        prepare(write)
        with monkeypatch.context() as patch:
            kill_at(patch, write)
            try:
                act(write)
            except Killed:
                continue
        return range(write)
    raise AssertionError("more writes than expected")


def test_a_kill_between_any_two_writes_moves_no_alias_half_way(tmp_path, name, monkeypatch):
    def act(write):
        return publish_as(tmp_path, f"{name} {write}", "b")

    def prepare(write):
        publish_as(tmp_path, f"{name} {write}", "a")
        publish_as(tmp_path, f"{name} {write}", "b", verdict="reject", against=None)

    kills = killed_everywhere(monkeypatch, act, prepare)
    left = [aliases(f"{name} {write}") for write in kills]
    states = [(found["champion"], found.get("previous")) for found in left]
    assert states[0] == ("1", None)
    assert states[-1] == ("2", "1")
    assert set(states) == {("1", None), ("1", "1"), ("2", "1")}
    for write in kills:
        assert act(write).outcome == ("promoted" if states[write][0] == "1" else "unchanged")
        assert aliases(f"{name} {write}") == {"champion": "2", "previous": "1"}


def test_a_kill_at_the_first_publication_is_mended_by_the_next(tmp_path, name, monkeypatch):
    def act(write):
        return publish_as(tmp_path, f"{name} {write}", "a")

    kills = killed_everywhere(monkeypatch, act, lambda write: None)
    assert len(kills) > 2
    for write in kills:
        assert aliases(f"{name} {write}") == {}
        assert outcomes(act(write)) == [("1", "promoted")]
        assert aliases(f"{name} {write}") == {"champion": "1"}


def test_a_retry_of_the_run_that_promoted_says_so(publish, name, monkeypatch):
    publish("a")

    def no_answer(*_):
        raise ConnectionError

    @flow
    def twice():
        publish("b", verdict="reject")
        with monkeypatch.context() as patch:
            patch.setattr(registry().client, "delete_registered_model_alias", no_answer)
            with pytest.raises(TransientError):
                publish("b")
        return publish("b")

    assert outcomes(twice()) == [("2", "promoted")]
    assert aliases(name) == {"champion": "2", "previous": "1"}
    assert publish("b").outcome == "unchanged"


def test_a_foreign_champion_is_named(publish, name):
    client = registry().client
    client.create_registered_model(name)
    client.create_model_version(name, "s3://elsewhere")
    client.set_registered_model_alias(name, "champion", "1")
    with pytest.raises(SourceError, match="'champion' has no tags uri and digest"):
        publish("a")


def slots():
    with get_client(sync_client=True) as client:
        return client.read_global_concurrency_limit_by_name("promotions").active_slots


def test_a_withdrawn_student_is_promoted_by_force_alone(publish, name):
    publish("a")
    publish("b")
    restore_champion.fn(name, None, "it calls every complaint a compliment")
    assert outcomes(publish("b"), publish("b", package="b again")) == [("2", "rejected"), ("3", "rejected")]
    assert aliases(name) == {"champion": "1", "previous": "2", "challenger": "3"}
    assert publish("b", forced=True, force="the complaint was mistaken").outcome == "promoted"
    assert aliases(name) == {"champion": "2", "previous": "1", "challenger": "3"}
    assert "rollback.to" not in registry().model(name).get("2").tags


def test_a_withdrawn_student_that_was_restored_is_champion_again(publish, name):
    publish("a")
    publish("b")
    restore_champion.fn(name, None, "it calls every complaint a compliment")
    restore_champion.fn(name, "2", "the complaint was mistaken")
    assert outcomes(publish("b"), publish("c")) == [("2", "unchanged"), ("3", "promoted")]
    assert aliases(name) == {"champion": "3", "previous": "2"}


def test_the_limit_is_free_afterwards(publish):
    publish("a")
    assert slots() == 0
