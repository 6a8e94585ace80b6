"""What is kept and why, what is deleted, and what is refused; on a folder, a real MLflow, and a real S3 server.

Nothing here is made older: the collection's clock is set forty days on instead, so all that was just made is old.
"""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import get_args

import pytest
from filelock import FileLock
from prefect.concurrency.sync import concurrency
from pydantic import ValidationError

from tasks import checkpoints, collection, connections, settings
from tasks.collection import DAY, Collection, collect_unused
from tasks.connections import registry, store, tracker
from tasks.earlier import recall, remember
from tasks.references import _all
from tasks.spool import Input
from tasks.store import Store
from tinybert import refs
from tinybert.collect_config import CollectConfig, Kind
from tinybert.errors import InputError, TransientError
from tinybert.refs import Ref, StageResult

LATER = 40 * DAY


@pytest.fixture
def home(shared_home, tmp_path, monkeypatch):
    """A store and a work directory of the test's own, with the MLflow of all tests, which knows an artifact of it."""
    monkeypatch.setenv("TINYBERT_WORK", str(tmp_path / "work"))
    yield use(f"file:{tmp_path}/store", monkeypatch)
    forget()


def use(root: str, monkeypatch) -> Store:
    monkeypatch.setenv("TINYBERT_STORE", root)
    monkeypatch.setattr(collection, "create_markdown_artifact", lambda *_, **__: None)
    monkeypatch.setattr(collection, "now", lambda: time.time() + LATER)
    forget()
    made("report", "so that MLflow is known to be this store's own")
    return store()


def forget() -> None:
    settings.settings.cache_clear()
    connections.store.cache_clear()


def put(kind: str, text: str) -> Ref:
    directory = settings.settings().work / "made" / text
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "file").write_text(f"{text} of {store().root}")
    return store().put(kind, directory)


def made(kind: str, text: str, inputs: tuple[Ref, ...] = (), ended: float | None = 0) -> Ref:
    """An artifact, and the run that made it, which ended so many seconds from now; None: it is in progress."""
    ref, client = put(kind, text), tracker().client
    tags = {"output.uri": ref.uri, "output.digest": ref.digest}
    run = client.create_run(tracker().experiment_id(tracker().experiment), tags=tags).info.run_id
    for number, read in enumerate(inputs):
        tracker().tell(run, [Input(role=f"input-{number}", uri=read.uri, digest=read.digest)])
    if ended is not None:
        client.set_terminated(run, "FINISHED", int((time.time() + ended) * 1000))
    return ref


def version(name: str, package: Ref, **named: Ref) -> str:
    tags = {f"{role}.{field}": getattr(ref, field) for role, ref in named.items() for field in ("uri", "digest")}
    return registry().register(name, package.uri, package.digest, tags).number


def held() -> set[str]:
    return {artifact.ref.digest for artifact in store().artifacts()}


def collect(**fields) -> Collection:
    return collect_unused.fn(CollectConfig(**fields))


def kept_as(done: Collection, kind: str) -> dict[str, int]:
    [line] = [line for line in done.lines if line.kind == kind]
    return {name: n for name in ("registered", "run", "recent", "pointer", "unused") if (n := getattr(line, name))}


def test_a_dry_run_deletes_nothing_and_says_how_many_bytes_would_go(home, tmp_path):
    kept = made("model", "kept", ended=35 * DAY)
    for text in ("one", "two"):
        made("model", text)
    files = {path: path.stat().st_size for path in (tmp_path / "store" / "model").rglob("*") if path.is_file()}
    done = collect()
    assert {path: path.stat().st_size for path in (tmp_path / "store" / "model").rglob("*") if path.is_file()} == files
    [line] = [line for line in done.lines if line.kind == "model"]
    assert kept_as(done, "model") == {"run": 1, "unused": 2}
    assert (line.number, line.bytes) == (3, sum(files.values()))
    assert line.freed == sum(size for path, size in files.items() if kept.digest not in path.parts)
    assert done.dry_run
    assert "3 of 4 would be deleted" in done.summary
    assert done.metrics["model_freed"] == line.freed
    assert done.total.unused == 3


def test_what_nobody_refers_to_is_deleted_when_it_is_old(home):
    old = made("model", "old")
    done = collect(dry_run=False)
    assert not home.holds(old)
    assert kept_as(done, "model") == {"unused": 1}
    assert collect(dry_run=False).lines == []


def test_what_is_young_is_kept(home):
    ref = put("rows", "young")
    done = collect(dry_run=False, keep_days=41, checkpoints_days=41)
    assert kept_as(done, "rows") == {"recent": 1}
    assert home.holds(ref)


def test_a_champions_lineage_is_kept(home, request):
    """Package and what its tags name, and what those were made from: so the fine-tuned teacher, but not the corpus."""
    corpus = made("corpus", "corpus")
    teacher = made("model", "fine-tuned", inputs=(corpus,))
    data, student = made("dataset", "data"), made("model", "student")
    report = made("report", "report", inputs=(data, teacher, student))
    package = made("model", "package", inputs=(student, report))
    name = request.function.__name__
    registry().crown(name, version(name, package, data=data, student=student, report=report))
    done = collect(dry_run=False)
    assert held() == {ref.digest for ref in (teacher, data, student, report, package)}
    assert kept_as(done, "model") == {"registered": 3}
    assert kept_as(done, "corpus") == {"unused": 1}


@pytest.mark.parametrize("alias", ["champion", "challenger", "previous", "nightly"])
def test_any_alias_keeps_its_version_and_no_alias_does_not(home, request, alias):
    name = f"{request.function.__name__}-{alias}"
    named, other = made("model", "named"), made("model", "other")
    numbers = [version(name, ref) for ref in (named, other)]
    registry().client.set_registered_model_alias(name, alias, numbers[0])
    collect(dry_run=False)
    assert held() == {named.digest}


def test_a_young_version_keeps_what_it_names(home, request, monkeypatch):
    ref, student = made("model", "package"), made("model", "student")
    version(request.function.__name__, ref, student=student)
    monkeypatch.setattr(collection, "now", lambda: time.time() + 20 * DAY)
    for old in home.artifacts():
        os.utime(f"{old.ref.uri.removeprefix('file:')}/.manifest.json", (0, 0))
    assert kept_as(collect(dry_run=False), "model") == {"registered": 2}


def test_a_version_that_loses_its_alias_is_kept_for_a_while(home, request):
    name, ref = request.function.__name__, made("model", "package")
    registry().crown(name, version(name, ref))
    os.utime(f"{ref.uri.removeprefix('file:')}/.manifest.json", (0, 0))
    collect(dry_run=False)
    [artifact] = home.artifacts()
    assert time.time() - artifact.modified < 60


def test_runs_keep_what_they_write_and_read_while_they_are_young_or_in_progress(home):
    read, idle = [made("dataset", text) for text in ("read", "idle")]
    late = made("model", "late", inputs=(read,), ended=11 * DAY)
    early = made("model", "early", ended=9 * DAY)
    working = made("model", "in progress", ended=None)
    done = collect(dry_run=False)
    assert held() == {read.digest, late.digest, working.digest}
    assert kept_as(done, "model") == {"run": 2, "unused": 1}
    assert kept_as(done, "dataset") == {"run": 1, "unused": 1}
    assert {early.digest, idle.digest}.isdisjoint(held())


def test_what_a_run_names_in_its_form_is_kept(home):
    ref = made("dataset", "named")
    run = tracker().start_stage("flow", "scores", {})
    run.log_config(CollectConfigWithSource(source=f"{ref.uri}/"))
    collect(dry_run=False)
    assert home.holds(ref)


class CollectConfigWithSource(CollectConfig):
    source: str


def test_a_pointer_in_use_keeps_what_it_names(home, monkeypatch):
    unused, forgotten = made("copies", "used"), made("copies", "forgotten")
    for key, ref in (("used", unused), ("forgotten", forgotten)):
        remember("copies", key, ref)
    age = {"used": 5, "forgotten": 31}
    for key, days in age.items():
        path = Path(f"{home.root.removeprefix('file:')}/pointers/copies/{key}.json")
        os.utime(path, (time.time() + LATER - days * DAY,) * 2)
    done = collect(dry_run=False)
    assert kept_as(done, "copies") == {"pointer": 1, "unused": 1}
    assert done.pointers == 1
    assert recall("copies", "used").digest == unused.digest
    assert [pointer.key for pointer in home.pointers()] == ["used"]


def test_a_cache_that_is_recalled_stays(home, monkeypatch):
    monkeypatch.setattr(collection, "now", time.time)
    ref = made("copies", "cache", ended=-40 * DAY)
    remember("copies", "key", ref)
    for path in Path(home.root.removeprefix("file:")).rglob("*"):
        os.utime(path, (time.time() - 40 * DAY,) * 2)
    assert collect().pointers == 1
    assert recall("copies", "key") is not None
    done = collect(dry_run=False)
    assert (done.pointers, kept_as(done, "copies")) == (0, {"recent": 1})


def test_a_teachers_answers_stay_as_long_as_the_teacher(home):
    teachers = [made("model", "kept", ended=35 * DAY), made("model", "gone")]
    for teacher in teachers:
        remember("targets", f"{teacher.digest}-fp32", made("targets", f"of {teacher.digest}"))
    done = collect(dry_run=False)
    assert kept_as(done, "targets") == {"pointer": 1, "unused": 1}
    assert [pointer.key for pointer in home.pointers()] == [f"{teachers[0].digest}-fp32"]


def test_old_checkpoints_go_with_their_pointer(home, monkeypatch):
    monkeypatch.setattr(collection, "now", lambda: time.time() + 8 * DAY)
    model = put("model", "as old")
    refs = {f"checkpoint-{step}": put(checkpoints.KIND, str(step)) for step in (10, 20)}
    home.point(checkpoints.POINTER, "layers-1", refs)
    assert kept_as(collect(checkpoints_days=9), "checkpoints") == {"recent": 2}
    done = collect(dry_run=False)
    assert kept_as(done, "checkpoints") == {"unused": 2}
    assert done.pointers == 1
    assert home.pointed(checkpoints.POINTER, "layers-1") == {}
    assert home.holds(model)


def test_checkpoints_of_a_stage_that_goes_on_stay(home, monkeypatch):
    """The best one may be old, and is in the pointer that names the newest."""
    monkeypatch.setattr(collection, "now", lambda: time.time() + 8 * DAY)
    best, newest = (put(checkpoints.KIND, text) for text in ("best", "newest"))
    home.point(checkpoints.POINTER, "layers-1", {"checkpoint-1": best, "checkpoint-9": newest})
    os.utime(f"{newest.uri.removeprefix('file:')}/.manifest.json", (time.time() + 7 * DAY,) * 2)
    done = collect(dry_run=False)
    assert kept_as(done, "checkpoints") == {"recent": 1, "pointer": 1}
    assert home.pointed(checkpoints.POINTER, "layers-1").keys() == {"checkpoint-1", "checkpoint-9"}


def test_only_the_kinds_asked_for_are_looked_at(home, tmp_path):
    model, copies = made("model", "model"), made("copies", "copies")
    remember("copies", "key", copies)
    home.point(checkpoints.POINTER, "layers-1", {"checkpoint-1": put(checkpoints.KIND, "1")})
    stage = tmp_path / "work" / f"layers-{'a' * 64}"
    stage.mkdir()
    done = collect(dry_run=False, kinds=["copies"])
    assert [line.kind for line in done.lines] == ["copies"]
    assert (home.holds(copies), home.holds(model), stage.exists()) == (False, True, True)
    assert [pointer.kind for pointer in home.pointers()] == [checkpoints.POINTER]


def test_what_is_used_between_listing_and_deletion_stays(home, monkeypatch):
    monkeypatch.setattr(collection, "now", time.time)
    ref = made("model", "just in time", ended=-40 * DAY)
    os.utime(f"{ref.uri.removeprefix('file:')}/.manifest.json", (0, 0))
    listed = Store.pointers

    def used_meanwhile(self):
        assert self.holds(ref)
        return listed(self)

    monkeypatch.setattr(Store, "pointers", used_meanwhile)
    assert kept_as(collect(dry_run=False), "model") == {"recent": 1}
    assert home.holds(ref)


def test_without_mlflow_nothing_is_deleted(home, monkeypatch):
    before = held()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:hunter2@127.0.0.1:9")
    forget()
    connections.tracker.cache_clear()
    try:
        for dry_run in (True, False):
            with pytest.raises(TransientError, match="does not answer, so nobody knows what is referred to") as caught:
                collect(dry_run=dry_run)
            assert "\n" not in str(caught.value)
            assert "hunter2" not in str(caught.value)
    finally:
        connections.tracker.cache_clear()
    assert held() == before


def test_an_mlflow_that_knows_nothing_of_the_store_is_refused(home, monkeypatch, tmp_path):
    root = f"file:{tmp_path}/other"
    monkeypatch.setenv("TINYBERT_STORE", root)
    forget()
    put(checkpoints.KIND, "no run tells of these")
    collect(dry_run=False)
    ref = put("model", "nobody told MLflow")
    with pytest.raises(InputError, match=r"names nothing of what is in .*/other, .* set MLFLOW_TRACKING_URI"):
        collect(dry_run=False)
    assert store().holds(ref)


def test_promotions_wait_for_a_collection_and_the_other_way_round(home):
    order, began, looked = [], threading.Event(), threading.Event()

    def promote():
        with concurrency("promotions", occupy=1, strict=True):
            began.set()
            looked.wait(30)
            time.sleep(1)
            order.append("promoted")

    with ThreadPoolExecutor(1) as pool:
        promotion = pool.submit(promote)
        began.wait()
        collect()  # a dry run does not wait
        order.append("looked")
        looked.set()
        collect(dry_run=False)
        order.append("collected")
        promotion.result()
    assert order == ["looked", "promoted", "collected"]


def test_what_lies_in_the_work_directory(home, tmp_path):
    """Copies and stages go; the spool, a stage in progress, and a copy that a run in progress reads do not."""
    work, digest = tmp_path / "work", "ab" * 32
    read = made("dataset", "read by a run in progress")
    made("model", "in progress", inputs=(read,), ended=None)
    files = {
        f"fetched/model/{digest}/model.bin": 100,
        f"fetched/model/{digest}/.manifest.json": 10,
        f"fetched/dataset/{read.digest}/rows": 1,
        f"fetched/objects/{digest}": 20,
        f"layers-{digest}/out-resume/checkpoint-1/model.bin": 50,
        f"layers-{digest}.lock": 0,
        f"logits-{digest}/out/file": 2,
        "spool/1.jsonl": 7,
        "scoring/.staging-1/content/rows": 5,
        "other/file": 3,
    }
    for name, size in files.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_bytes(b"x" * size)
    linked = work / "fetched" / "sources" / digest / "rows.csv"
    linked.parent.mkdir(parents=True)
    os.link(work / f"fetched/objects/{digest}", linked)
    with FileLock(work / f"logits-{digest}.lock"):
        for dry_run in (True, False):
            before = {path for path in work.rglob("*") if path.is_file()}
            done = collect(dry_run=dry_run)
            lines = {line.kind: line for line in done.lines}
            copies, stages = lines["local copies"], lines["unfinished stages"]
            assert (copies.unused, copies.freed, copies.run) == (3, 130, 1)
            assert (lines["unfinished uploads"].unused, lines["unfinished uploads"].freed) == (1, 5)
            left = {path for path in work.rglob("*") if path.is_file()}
            assert (stages.unused, stages.freed) == ((2, 52) if dry_run else (1, 50))
            assert left == before if dry_run else left < before
    gone = {path.relative_to(work).as_posix() for path in before - left}
    assert gone - {f"fetched/sources/{digest}/rows.csv"} == {
        name for name in files if f"{digest}/" in name + "/" and "logits" not in name
    } | {"scoring/.staging-1/content/rows"}


def test_a_stage_with_a_young_file_is_young(home, tmp_path):
    directory = tmp_path / "work" / f"layers-{'ab' * 32}"
    (directory / "out-resume").mkdir(parents=True)
    (directory / "out-resume" / "file").write_text("x")
    os.utime(directory / "out-resume" / "file", (time.time() + 39 * DAY,) * 2)
    assert kept_as(collect(dry_run=False), "unfinished stages") == {"recent": 1}


def test_killed_uploads_go_after_a_day(home, monkeypatch, tmp_path):
    left = tmp_path / "store" / "model" / ("9" * 64) / "file"
    left.parent.mkdir(parents=True)
    left.write_text("half")
    monkeypatch.setattr(collection, "now", lambda: time.time() + 0.9 * DAY)
    assert kept_as(collect(dry_run=False), "unfinished uploads") == {"recent": 1}
    monkeypatch.setattr(collection, "now", lambda: time.time() + 1.1 * DAY)
    assert kept_as(collect(dry_run=False), "unfinished uploads") == {"unused": 1}
    assert not left.exists()


def test_a_collection_in_s3(home, s3, monkeypatch, request):
    name = request.function.__name__
    use(f"s3://{s3.bucket}/{name}-{time.time_ns()}", monkeypatch)
    package, student, old = (made("model", text) for text in ("package", "student", "old"))
    registry().crown(name, version(name, package, student=student))
    store().point(checkpoints.POINTER, "layers-1", {"checkpoint-1": put(checkpoints.KIND, "1")})
    dry = collect()
    assert kept_as(dry, "model") == {"registered": 2, "unused": 1}
    assert len(held()) == 5
    done = collect(dry_run=False)
    assert (dry.lines, dry.pointers) == (done.lines, done.pointers)
    assert held() == {package.digest, student.digest}
    assert store().get(package).is_dir()
    assert list(store().pointers()) == []
    assert not store().holds(old)


def test_the_form_names_every_kind_that_is_stored():
    results = [found for found in vars(refs).values() if isinstance(found, type) and issubclass(found, StageResult)]
    fields = {
        name
        for result in results
        for name, field in result.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Ref)
    }
    assert {"dataset", "model"} < fields
    assert set(get_args(Kind)) == fields | {"rows", checkpoints.KIND}


@pytest.mark.parametrize("field", ["keep_days", "checkpoints_days"])
def test_a_deletion_keeps_a_day_at_least(field):
    assert CollectConfig(**{field: 0}).dry_run
    with pytest.raises(ValidationError, match=f"{field} is 0, which a run in progress would not survive"):
        CollectConfig(**{field: 0}, dry_run=False)


def test_mlflow_is_read_page_by_page(home):
    client, [experiment] = tracker().client, [tracker().experiment_id(tracker().experiment)]
    known = {client.create_run(experiment, run_name="paged").info.run_id for _ in range(5)}
    search = partial(client.search_runs, [experiment], "attributes.run_name = 'paged'", max_results=2)
    assert len(search()) == 2
    assert {run.info.run_id for run in _all(search)} == known
