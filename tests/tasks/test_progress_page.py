"""What the Prefect UI shows while a stage works, and that no stage suffers from it."""

import json
import sys
import threading
import time
import warnings
from pathlib import Path

import httpx
import pytest
from prefect import flow, task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.runtime import task_run

from tasks import launch, progress_page
from tasks.launched import Request, perform
from tasks.progress_page import on_page
from tinybert.errors import QualityError
from tinybert.progress import Progress, heard_by
from tinybert.training_config import LaunchConfig

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """A stage is long at once, and each line of progress is said."""
    monkeypatch.setattr(progress_page, "FIRST", 0.01)
    monkeypatch.setattr(progress_page, "EVERY", 0.05)
    monkeypatch.setattr(progress_page, "PAUSE", 0.01)


def artifacts(key: str) -> list:
    with get_client(sync_client=True) as client:
        return client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))


def eventually(find):
    """What a function finds at last; fails after half a minute."""
    deadline = time.monotonic() + 30
    while not (found := find()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def in_a_task(name: str, work) -> str:
    """Run a function as the stage of a task; the id of its task run."""

    @task
    def stage() -> str:
        with on_page(name):
            work()
        return str(task_run.id)

    return flow(lambda: stage(), name="showing")()


def row(key: str) -> dict:
    [artifact] = artifacts(key)
    [found] = json.loads(artifact.data)
    return found


def test_a_long_stage_is_on_the_page_of_its_task_run_while_it_works(prefect_server):
    seen = {}

    def work():
        progress = Progress("shown 1/2", 200, every=0.0)
        progress.update(10, loss=0.7)
        time.sleep(0.02)
        progress.update(50, loss=0.123456)
        bar = eventually(lambda: [a for a in artifacts("progress-shown-on") if float(a.data) == 25])[0]
        table = eventually(lambda: [a for a in artifacts("stage-shown-on") if "0.1235" in a.data])[0]
        seen.update(bar=bar, row=json.loads(table.data)[0])
        progress.update(200, loss=0.1)

    run = in_a_task("shown_on", work)
    assert seen["bar"].description.startswith("shown 1/2: step 50 of 200, loss 0.1235, ETA 0:0")
    found = seen["row"]
    assert (found["stage"], found["state"], found["step"], found["of"]) == ("shown 1/2", "running", 50, 200)
    assert found["loss"] == 0.1235
    assert found["ETA"].startswith("0:0")
    assert found["memory, GB"] > 0.05
    [bar], after = artifacts("progress-shown-on"), row("stage-shown-on")
    assert (str(bar.task_run_id), float(bar.data), bar.description) == (run, 100.0, "done")
    assert (after["state"], after["step"], after["loss"]) == ("done", 200, 0.1)
    assert "ETA" not in after


def test_work_that_tells_no_progress_shows_that_it_goes_on(prefect_server):
    def work():
        assert float(eventually(lambda: artifacts("progress-silent"))[0].data) == 0
        assert eventually(lambda: artifacts("stage-silent"))

    in_a_task("silent", work)
    found = row("stage-silent")
    assert found.keys() == {"stage", "state", "seconds", "memory, GB"}
    assert found["state"] == "done"


def test_a_short_stage_is_not_shown(prefect_server, monkeypatch):
    monkeypatch.setattr(progress_page, "FIRST", 60)
    begun = time.monotonic()
    in_a_task("short", lambda: Progress("short", 1).update(1))
    assert time.monotonic() - begun < 10
    assert artifacts("progress-short") == artifacts("stage-short") == []


def test_a_stage_that_fails_fails_as_it_would_and_is_shown_as_stopped(prefect_server):
    def work():
        Progress("failing", 4, every=0.0).update(1)
        eventually(lambda: artifacts("stage-failing"))
        raise QualityError("loss nan")

    with pytest.raises(QualityError, match=r"^loss nan$"):
        in_a_task("failing", work)
    assert row("stage-failing")["state"] == "stopped"
    assert float(artifacts("progress-failing")[0].data) == 25


class Api:
    """Prefect's API, as the thread that writes the page sees it: it works, is down, or hangs."""

    def __init__(self, monkeypatch) -> None:
        self.down, self.asked, self.hang = False, 0, threading.Event()
        real = SyncPrefectClient.request

        def request(client, *arguments, **named):
            if self.down and threading.current_thread().name == "page":
                self.asked += 1
                self.hang.wait(0 if self.down == "refuses" else 30)
                raise httpx.ConnectError("connection refused")
            return real(client, *arguments, **named)

        monkeypatch.setattr(SyncPrefectClient, "request", request)


def warned(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_an_api_that_fails_in_the_middle_costs_one_warning_and_is_told_the_end(prefect_server, monkeypatch, caplog):
    api = Api(monkeypatch)

    def work():
        progress = Progress("disturbed", 4, every=0.0)
        progress.update(1)
        eventually(lambda: artifacts("stage-disturbed"))
        api.down = "refuses"
        progress.update(2)
        eventually(lambda: api.asked >= 3)
        api.down = False
        progress.update(3)

    in_a_task("disturbed", work)
    assert warned(caplog) == ["Prefect does not show the latest progress, the work goes on: ConnectError"]
    assert (row("stage-disturbed")["state"], row("stage-disturbed")["step"]) == ("done", 3)


def test_an_api_that_was_never_there_does_not_disturb(prefect_server, monkeypatch, caplog):
    api = Api(monkeypatch)
    api.down = "refuses"
    in_a_task("unseen", lambda: eventually(lambda: api.asked >= 3))
    assert len(warned(caplog)) == 1
    assert artifacts("stage-unseen") == []


def test_a_stage_does_not_wait_for_an_api_that_hangs(prefect_server, monkeypatch):
    monkeypatch.setattr(progress_page, "PATIENCE", 0.3)
    api = Api(monkeypatch)
    api.down = "hangs"
    ended = []

    def work():
        eventually(lambda: api.asked)
        ended.append(time.monotonic())

    @task
    def stage() -> float:
        with on_page("hanging"):
            work()
        return time.monotonic() - ended[0]

    waited = flow(lambda: stage(), name="showing")()
    api.hang.set()
    assert 0.2 < waited < 3


def test_what_is_shown_costs_hardly_any_time(prefect_server):
    def work():
        progress, begun = Progress("busy", None, every=5.0), time.thread_time()
        for step in range(2000):
            progress.update(step)
        spent.append(time.thread_time() - begun)

    spent = []
    in_a_task("busy", work)
    assert spent[0] < 0.2, "0.1 ms a step"


def test_outside_of_a_task_run_there_is_no_page(recwarn):
    warnings.simplefilter("always")
    with on_page("nowhere"):
        assert not [thread for thread in threading.enumerate() if thread.name == "page"]
    assert not [found for found in recwarn if "Artifact" in str(found.message)]


WORKING = """
import time
from pathlib import Path

from tinybert.progress import Progress


def run(*, data: Path, out: Path, on_metrics) -> dict[str, float]:
    progress = Progress("working", 3, every=0.0)
    for step in (1, 2, 3):
        progress.update(step, loss=1 / step)
    return {"steps": 3.0}
"""


@pytest.fixture
def working(tmp_path, monkeypatch):
    """A stage that tells its progress, as a module that every process can import."""
    (tmp_path / "working.py").write_text(WORKING)
    (tmp_path / "out").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    yield {"data": tmp_path / "working.py"}, tmp_path / "out"
    sys.modules.pop("working", None)


def told(heard) -> list[tuple]:
    return [(report.done, report.total, round(report.numbers["loss"], 2)) for report in heard]


@pytest.mark.parametrize(("rank", "expected"), [(0, [(1, 3, 1.0), (2, 3, 0.5), (3, 3, 0.33)]), (1, [])])
def test_progress_of_the_first_process_crosses_to_who_launched_it(working, rank, expected):
    inputs, out = working
    request = Request(module="working", key="key", arguments={}, out=out, launch=LaunchConfig(processes=2))
    heard, answers = [], launch._Answers(request, lambda *_: None)
    lines = []
    perform(request, rank, inputs, out, lambda **answer: lines.append(json.dumps(answer)))
    with heard_by(heard.append):
        for line in lines:
            answers._take(**json.loads(line))
    assert told(heard) == expected


@pytest.mark.slow
def test_two_processes_tell_the_progress_of_one(working):
    inputs, out = working
    heard = []
    with heard_by(heard.append):
        how = {**inputs, "launch": LaunchConfig(processes=2)}
        launch.compute("working", "key", how, out, lambda *_: None)
    assert told(heard) == [(1, 3, 1.0), (2, 3, 0.5), (3, 3, 0.33)]
