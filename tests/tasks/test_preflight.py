"""The first task of a run: what it finds wrong, one thing at a time, and all at once."""

import json
import logging
import os
import shutil
from collections import namedtuple

import pytest
import torch
from huggingface_hub.constants import HF_HUB_DOWNLOAD_TIMEOUT
from prefect import flow
from prefect.artifacts import Artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate

from flows.command import preset, presets
from tasks import sources
from tasks.bucket import IMPATIENCE
from tasks.connections import registry, store, tracker
from tasks.preflight import check_sources, examine, preflight, preflight_services, preflight_suite
from tasks.preflight_costs import check_disk, check_memory
from tasks.preflight_services import check_limits, check_store, check_tracking
from tasks.settings import settings
from tests.faults.proxy import Proxy
from tinybert import precision, warm_up
from tinybert.cli import validated
from tinybert.config import DistillConfig
from tinybert.errors import InputError, TransientError
from tinybert.estimate import StageCost
from tinybert.form import merge
from tinybert.preflight_report import Finding
from tinybert.sources import resolve
from tinybert.suite_config import SuiteConfig

Usage = namedtuple("Usage", "total used free")
CACHES = (settings, store, tracker, registry)


@pytest.fixture
def form(smoke_material):
    sources = {
        "data": {"source": f"file:{smoke_material}/rows.csv"},
        "teacher": {"source": f"file:{smoke_material}/teacher"},
        "corpus": {"source": f"file:{smoke_material}/corpus.txt"},
        "augment": {"vectors": f"file:{smoke_material}/vectors.txt"},
    }
    return lambda **change: validated(DistillConfig, merge(merge(preset("smoke"), sources), change))


@pytest.fixture
def installed(shared_home, monkeypatch):
    """Sets environment variables of the installation."""

    def installed(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        for cache in CACHES:
            cache.cache_clear()

    yield installed
    monkeypatch.undo()
    for cache in CACHES:
        cache.cache_clear()


@pytest.fixture
def limits():
    """Sets the slots of a limit, None: without the limit; as they were, afterwards."""

    def put(name, slots):
        with get_client(sync_client=True) as client:
            if slots is None:
                client.delete_global_concurrency_limit_by_name(name)
                return
            client.upsert_global_concurrency_limit_by_name(name, limit=slots)
            client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(active=True))

    yield put
    for name in ("accelerator", "promotions"):
        put(name, 1)


def by_name(findings) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings}


# Store ----------------------------------------------------------------------------------------------------------------


def test_a_local_store_is_written_read_and_cleared(home):
    found = check_store()
    assert (found.status, found.found.startswith(f"file:{home}/store: written, read back and")) == ("ok", True)
    assert not [path for path in (home / "store").rglob("*") if path.is_file()]


def test_a_store_on_s3_is_written_read_and_cleared(installed, s3):
    installed(TINYBERT_STORE=f"s3://{s3.bucket}/looked-at")
    assert check_store().status == "ok"
    assert s3.client().list_objects_v2(Bucket=s3.bucket, Prefix="looked-at/").get("KeyCount", 0) == 0


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"TINYBERT_STORE": "s3://nobucket/x"}, "no such bucket; create it"),
        ({"AWS_SECRET_ACCESS_KEY": "not-the-secret"}, "access refused"),
        ({"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}, "no answer from S3"),
        ({"TINYBERT_STORE": "s3//x"}, "use file:/path"),
    ],
)
def test_a_store_that_refuses_is_wrong_at_once(installed, s3, variables, told):
    installed(**{"TINYBERT_STORE": f"s3://{s3.bucket}/x", **variables})
    found = check_store()
    assert (found.status, found.passing) == ("wrong", False)
    assert told in found.found
    assert "TINYBERT_STORE" in found.mend
    assert "not-the-secret" not in found.model_dump_json()


def test_an_s3_that_hangs_is_waited_for_once_by_all_checks_together(installed, s3, form, monkeypatch):
    assert IMPATIENCE["read_timeout"] * IMPATIENCE["retries"]["total_max_attempts"] <= 20
    monkeypatch.setitem(IMPATIENCE, "read_timeout", 0.5)
    asked = []
    with Proxy(s3.endpoint, lambda *request: asked.append(request), lambda *_: False) as proxy:
        installed(TINYBERT_STORE=f"s3://{s3.bucket}/x", AWS_ENDPOINT_URL_S3=proxy.url)
        monkeypatch.delenv("AWS_MAX_ATTEMPTS")
        proxy.behave("hung", seconds=120)
        there = {"data": {"source": f"s3://{s3.bucket}/rows.csv"}, "teacher": {"source": f"s3://{s3.bucket}/teacher/"}}
        report, found = examine(form(**there), thorough=False)
    assert len(asked) == 2
    rows = by_name(report.findings)
    assert rows["store"].found.endswith("no answer from S3 (ReadTimeoutError); check its URL")
    assert rows["data.source"].found.startswith(f"s3://{s3.bucket}/rows.csv: not asked, as S3 gave no answer for")
    assert (found, rows["teacher.source"].status, rows["corpus.source"].status) == (None, "wrong", "ok")


def test_a_store_that_cannot_be_written_is_wrong(installed, tmp_path):
    (tmp_path / "file").write_text("in the way")
    installed(TINYBERT_STORE=f"file:{tmp_path}/file")
    assert check_store().status == "wrong"


# MLflow ---------------------------------------------------------------------------------------------------------------


def test_an_mlflow_that_answers(shared_home):
    found = by_name(check_tracking(["smoke"]))
    assert (found["MLflow"].status, found["registry"].found) == ("ok", "'smoke' has 0 versions")
    assert list(by_name(check_tracking([]))) == ["MLflow"]


def test_an_mlflow_that_is_down_only_warns(installed):
    installed(MLFLOW_TRACKING_URI="http://user:hush@127.0.0.1:9")
    [found] = check_tracking(["smoke"])
    assert found.status == "warning"
    assert "logging will be delayed, and publishing at the end needs it" in found.found
    assert "hush" not in found.model_dump_json()
    [found] = check_tracking([])
    assert found.found.endswith("logging will be delayed")
    [found] = check_tracking([], asks=True)
    assert (found.status, found.passing) == ("wrong", True)
    assert found.found.endswith("what it knows decides what is done")


# Limits ---------------------------------------------------------------------------------------------------------------


def test_limits_with_slots_are_fine(shared_home):
    assert [(f.what, f.status) for f in check_limits(trains=True, publishes=True)] == [
        ("limit accelerator", "ok"),
        ("limit promotions", "ok"),
    ]
    assert [f.what for f in check_limits(trains=True, publishes=False)] == ["limit accelerator"]
    assert [*check_limits(trains=False, publishes=False)] == []


def test_an_absent_limit_is_wrong(shared_home, limits):
    limits("promotions", None)
    found = by_name(check_limits(trains=True, publishes=True))["limit promotions"]
    assert (found.status, found.found) == ("wrong", "Prefect has no such limit")
    assert "prefect gcl create promotions --limit 1" in found.mend


def test_a_limit_without_slots_is_wrong(shared_home, limits):
    with get_client(sync_client=True) as client:
        client.update_global_concurrency_limit("accelerator", GlobalConcurrencyLimitUpdate(limit=0))
    found = by_name(check_limits(trains=True, publishes=True))["limit accelerator"]
    limits("accelerator", None)
    assert (found.status, found.found) == ("wrong", "it has no slots")


def test_a_limit_that_is_switched_off_is_warned_of(shared_home, form, limits):
    with get_client(sync_client=True) as client:
        client.update_global_concurrency_limit("accelerator", GlobalConcurrencyLimitUpdate(active=False))
    assert by_name(check_limits(trains=True, publishes=True))["limit accelerator"].status == "warning"


# Sources --------------------------------------------------------------------------------------------------------------


def test_sources_that_fit_are_pinned(shared_home, form):
    [row], found = check_sources(form())
    assert (row.status, row.found) == ("ok", "found and pinned: data, teacher, corpus, vectors")
    assert len(found.data.digest) == 64


def test_every_source_and_every_misfit_is_told(shared_home, form):
    rows, found = check_sources(
        form(
            data={"source": "file:/nowhere/rows.csv", "max_length": 65},
            augment={"vectors": "file:/nowhere/vectors.txt"},
            student={"layers": 5, "heads": 2, "hidden": 16},
            layer_map={"attention": "scores"},
        )
    )
    told = {row.what: row.status for row in rows}
    assert found is None
    assert told == {
        **{"data.source": "wrong", "augment.vectors": "wrong", "layers": "wrong", "heads": "wrong", "length": "wrong"},
        **{"teacher.source": "ok", "corpus.source": "ok"},
    }


def test_a_teacher_without_a_head_or_of_another_kind_is_told(shared_home, form, smoke_material, tmp_path):
    rows, _ = check_sources(form(teacher={"fine_tuned": True}, mlm={"adapt_teacher": False}))
    assert "has no head for a task" in by_name(rows)["labels"].found
    shutil.copytree(smoke_material / "teacher", tmp_path / "teacher")
    (tmp_path / "teacher" / "config.json").write_text('{"model_type": "t5"}')
    rows, _ = check_sources(form(teacher={"source": f"file:{tmp_path}/teacher"}))
    assert "config.json of a t5 has no 'num_hidden_layers'" in by_name(rows)["models"].found


def test_what_only_the_whole_form_shows_is_told_too(installed, form):
    installed(MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    rows, _ = check_sources(form(data={"source": "file:/nowhere/rows.csv"}))
    found = by_name(rows)
    assert "the MLflow server cannot read the local store" in found["form"].found
    assert found["data.source"].status == "wrong"


# The whole ------------------------------------------------------------------------------------------------------------


def test_a_run_that_can_begin_is_estimated(shared_home, form):
    report, found = examine(form(), thorough=False)
    assert found is not None
    rows = by_name(report.findings)
    services = ["store", "MLflow", "registry", "limit accelerator", "limit promotions"]
    assert list(rows) == [*services, "sources", "rows", "disk", "memory", "speed"]
    assert {row.status for row in rows.values()} == {"ok"}
    assert rows["rows"].found.startswith("about 288 training, 48 validation and 48 test rows")
    assert report.hours > 0
    assert report.totals.keys() == {"estimated_hours", "estimated_gigabytes"}


COSTS = [
    StageCost(name="fine_tune", gigabytes=1.0, scratch_gigabytes=2.0, memory_gigabytes=8.0, least_gigabytes=3.0),
    StageCost(name="layers", gigabytes=0.5, scratch_gigabytes=1.0, memory_gigabytes=6.0, least_gigabytes=4.0),
]
"""Three gigabytes of one stage, three and a half of all."""


@pytest.mark.parametrize(("free", "status"), [(2.9, "wrong"), (3.2, "warning"), (3.6, "ok")])
def test_a_disk_has_to_hold_what_is_written(shared_home, monkeypatch, free, status):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1e12, 0, free * 1e9))
    [found] = check_disk(COSTS)
    assert (found.what, found.status) == ("disk", status)
    assert "about 3.5 GB will be written, at most 3 by one stage" in found.found
    assert ("set TINYBERT_WORK to a larger disk" in found.mend) == (status != "ok")


@pytest.mark.parametrize(("free", "status"), [(3.9, "wrong"), (4.1, "warning"), (8.1, "ok")])
def test_memory_has_to_hold_a_row_and_should_hold_a_batch(form, monkeypatch, free, status):
    monkeypatch.setattr(warm_up, "free_memory", lambda: free * 1e9)
    found = check_memory(form(), COSTS)
    assert (found.what, found.status) == ("memory", status)
    assert "fine_tune takes about 8 GB, 4 with its batch in slices" in found.found
    assert ("fine_tune.optim.accumulation" in found.mend) == (status == "warning")


def test_processes_share_a_machines_memory(form, monkeypatch):
    monkeypatch.setattr(warm_up, "free_memory", lambda: 8.1e9)
    monkeypatch.setattr(precision, "device", lambda: torch.device("cpu"))
    assert check_memory(form(launch={"processes": 2}), COSTS).status == "warning"


def test_a_speed_that_cannot_be_measured_only_warns(shared_home, form, monkeypatch):
    def broken(*_):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(warm_up, "measure", broken)
    report, _ = examine(form(), thorough=False)
    assert by_name(report.findings)["speed"].found == "cannot be measured: CUDA out of memory"
    assert (report.hours, report.wrong) == (None, [])
    assert report.gigabytes > 0


def test_no_speed_is_measured_while_another_run_has_the_slot(shared_home, form):
    with get_client(sync_client=True) as client:
        client.update_global_concurrency_limit("accelerator", GlobalConcurrencyLimitUpdate(active_slots=1))
        try:
            report, _ = examine(form(), thorough=False)
        finally:
            client.update_global_concurrency_limit("accelerator", GlobalConcurrencyLimitUpdate(active_slots=0))
    rows = by_name(report.findings)
    assert rows["limit accelerator"].found == "1 of 1 slots are taken"
    assert rows["speed"].found == "not measured, as another run is training"
    assert (report.hours, report.wrong) == (None, [])


def test_rows_that_prepare_will_refuse_are_warned_of(shared_home, form):
    report, found = examine(form(data={"label": "mood"}), thorough=False)
    row = by_name(report.findings)["rows"]
    assert (row.status, row.found) == ("warning", "rows.csv: no column 'mood'; it has label, text")
    assert (found is not None, report.stages, report.wrong) == (True, [], [])


def test_everything_wrong_at_once_is_in_one_table_and_one_error(installed, form, limits, s3, caplog):
    installed(TINYBERT_STORE="s3://nobucket/x", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    limits("accelerator", None)
    config = form(data={"source": "file:/nowhere/rows.csv"}, student={"layers": 5})

    @flow
    def run():
        return preflight(config)

    with caplog.at_level(logging.INFO, logger="tinybert"), pytest.raises(InputError) as error:
        run()
    lines = str(error.value).splitlines()
    assert lines[0].startswith("4 things are wrong, first: store: s3://nobucket/x/")
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["store", "limit accelerator", "data.source", "layers"]
    shown = Artifact.get("preflight").data
    assert all(f"| {what} | **wrong** |" in shown for what in ("store", "limit accelerator", "data.source", "layers"))
    assert "| MLflow | **warning** |" in shown
    told = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("preflight  wrong    limit accelerator: Prefect has no such limit ->") for line in told)


def test_a_hub_that_does_not_answer_is_asked_again(shared_home, form, monkeypatch):
    def busy(uri, kind):
        raise TransientError(f"{uri}: the hub does not answer")

    monkeypatch.setattr("tasks.sources.pin", busy)
    monkeypatch.setattr("tasks.preflight.create_markdown_artifact", lambda *_, **__: None)
    with pytest.raises(TransientError, match=r"4 things are wrong, first: data.source: .* the hub does not answer"):
        preflight.fn(form())


def test_a_hub_that_does_not_answer_is_asked_once_by_all_checks_together(shared_home, form, monkeypatch):
    asked = []

    def silent(uri, kind):
        if uri.startswith("hub:"):
            asked.append(uri)
            raise TransientError(f"{uri}: the hub cannot be reached")
        return resolve(uri, kind)

    monkeypatch.setattr(sources, "resolve", silent)
    report, found = examine(
        form(teacher={"source": "hub:o/teacher"}, corpus={"source": "hub:o/corpus"}), thorough=False
    )
    rows = by_name(report.findings)
    assert (asked, found) == (["hub:o/teacher"], None)
    assert rows["teacher.source"].found == "hub:o/teacher: the hub cannot be reached"
    assert rows["corpus.source"].found == "hub:o/corpus: not asked, as the hub gave no answer for hub:o/teacher"
    assert (rows["data.source"].status, "form" in rows) == ("ok", False)


def test_whatever_does_not_answer_is_told_of_within_a_minute(shared_home):
    # Time limits as they are set, and how often each is waited for: that of S3 twice, the others' once.
    assert tracker().client is not None
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
    s3 = max(IMPATIENCE["connect_timeout"], IMPATIENCE["read_timeout"]) * IMPATIENCE["retries"]["total_max_attempts"]
    waits = [s3, HF_HUB_DOWNLOAD_TIMEOUT, int(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"])]
    assert waits == [20, 10, 10]
    for task in (preflight, preflight_services, preflight_suite):
        pause = task.retry_delay_seconds[0] * (1 + task.retry_jitter_factor)
        assert (task.retries, pause) == (1, 7.5)
        assert max(waits) * (1 + task.retries) + pause < 60
        assert sum(waits) < 60  # where the store is silent, too, nothing is asked again


# Other flows ----------------------------------------------------------------------------------------------------------


def test_services_alone_are_looked_at_for_what_a_flow_does(installed, limits, monkeypatch):
    installed(TINYBERT_STORE="s3//x")
    monkeypatch.setattr("tasks.preflight.create_markdown_artifact", lambda *_, **__: None)
    limits("accelerator", None)
    with pytest.raises(InputError, match=r"^2 things are wrong, first: store: .*use file:/path"):
        preflight_services.fn("teacher", trains=True)
    with pytest.raises(InputError, match=r"^1 thing is wrong: store: .*use file:/path"):
        preflight_services.fn("answers", trains=False)
    preflight_services.fn("reviews", models=["reviews"], stores=False)


def test_a_flow_that_asks_mlflow_what_to_do_needs_an_answer(installed, monkeypatch):
    installed(MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    monkeypatch.setattr("tasks.preflight.create_markdown_artifact", lambda *_, **__: None)
    with pytest.raises(TransientError, match=r"^1 thing is wrong: MLflow: .*what it knows decides what is done"):
        preflight_services.fn("reviews", models=[], stores=False)
    preflight_services.fn("answers", stores=False)


@pytest.fixture
def kinds(smoke_material):
    """Forms of a suite of three tasks of one teacher; fields of single ones are changed."""
    preset = json.loads(
        json.dumps(presets("suite")["kinds-smoke"]).replace("file:build/smoke", f"file:{smoke_material}")
    )
    chosen = {task: preset["tasks"][task] for task in ("stars", "conll", "tickets")}

    def kinds(**changes) -> SuiteConfig:
        return validated(SuiteConfig, {"name": "few", "settings": preset["settings"], "tasks": merge(chosen, changes)})

    return kinds


def test_a_suite_without_faults_is_looked_at_once(shared_home, kinds, monkeypatch, caplog):
    digested = []
    digest = sources._digest
    monkeypatch.setattr(sources, "_digest", lambda path, *more: digested.append(path) or digest(path, *more))
    monkeypatch.setattr("tasks.preflight.create_markdown_artifact", lambda *_, **__: None)
    with caplog.at_level(logging.INFO, logger="tinybert"):
        preflight_suite.fn(kinds())
    assert len([path for path in digested if path.name == "teacher"]) == 2, "pinned once, fetched once"
    told = [record.getMessage() for record in caplog.records]
    assert sum("store: " in line for line in told) == 1
    assert not any("wrong" in line for line in told)


def test_the_faults_of_all_runs_of_a_suite_are_told_together(shared_home, kinds, monkeypatch):
    monkeypatch.setattr("tasks.preflight.create_markdown_artifact", lambda *_, **__: None)
    heads = {"student": {"heads": 5, "hidden": 20}, "layer_map": {"attention": "scores"}}
    config = kinds(
        stars={"data": {"label": "moons"}},
        conll={"data": {"source": "file:/nowhere/train.conll"}, **heads},
        tickets=heads,
    )
    with pytest.raises(InputError) as error:
        preflight_suite.fn(config)
    lines = str(error.value).splitlines()
    assert lines[0].startswith("3 things are wrong, first: rows (stars): ")
    assert [line.split(":")[0].strip() for line in lines[1:]] == [
        "rows (stars)",
        "data.source (conll)",
        "heads (conll, tickets)",
    ]
    assert "no column 'moons'" in lines[1]
