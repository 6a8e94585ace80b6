"""Against a real MLflow: a SQLite file for most, a server that is killed and restarted for the outages."""

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import BaseModel

from tasks import spool
from tasks.registry import Registry
from tasks.tracking import FLOW_TAG, PARENT_TAG, Tracker
from tinybert.config import DataConfig, DistillConfig, GeneralConfig, TeacherConfig
from tinybert.errors import InputError, TransientError
from tinybert.refs import DatasetRef

OFF = GeneralConfig(enabled=False)
DATA = DatasetRef(uri="s3://bucket/dataset/1", digest="ab" * 32)
DIGEST = "cd" * 32


@pytest.fixture(scope="session")
def first_use(tmp_path_factory):
    """What a process prints that meets an empty database. The migrations take seconds, so they run once."""
    place = tmp_path_factory.mktemp("mlflow") / "made"
    code = f"from tasks.tracking import Tracker; Tracker('sqlite:///{place}/empty.db', 'x', None).client"
    return place, subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.fixture(scope="session")
def migrated(first_use):
    """An empty MLflow database."""
    return first_use[0] / "empty.db"


@pytest.fixture
def tracker(migrated, tmp_path):
    (tmp_path / "db").mkdir()
    shutil.copy(migrated, tmp_path / "db" / "mlflow.db")
    return Tracker(f"sqlite:///{tmp_path}/db/mlflow.db", "reviews", tmp_path / "spool")


@pytest.fixture
def outage(monkeypatch):
    """Called with a tracker, its client fails until the returned function is called."""

    def begin(tracker, *methods):
        def fail(*_, **__):
            raise ConnectionError("http://me:secret-word@host/api refused")

        names = methods or ("get_experiment_by_name", "search_runs", "create_run", "log_batch", "get_run")
        kept = {name: getattr(tracker.client, name) for name in (*names, "log_artifact")}
        for name in kept:
            monkeypatch.setattr(tracker.client, name, fail)

        def end():
            for name, method in kept.items():
                monkeypatch.setattr(tracker.client, name, method)
            tracker.outage.ended()

        return end

    return begin


def history(tracker, run_id, name):
    return [(m.step, m.value) for m in tracker.client.get_metric_history(run_id, name)]


def text(tracker, run_id, path, tmp_path):
    return Path(tracker.client.download_artifacts(run_id, path, str(tmp_path))).read_text()


def test_stages_nest_under_their_flow(tracker):
    flow = tracker.start_flow("flow-1", "reviews", {"team": "nlp"})
    stage = tracker.start_stage("flow-1", "layers", {"stage": "layers"})
    stage.close("FAILED")
    flow.close("FINISHED")
    parent, child = tracker.client.get_run(flow.run_id), tracker.client.get_run(stage.run_id)
    assert child.data.tags[PARENT_TAG] == flow.run_id
    assert (parent.info.run_name, child.info.run_name) == ("reviews", "layers")
    assert (parent.info.status, child.info.status) == ("FINISHED", "FAILED")
    assert (parent.data.tags["team"], child.data.tags["stage"]) == ("nlp", "layers")
    assert flow.url is None


def test_a_retried_flow_reopens_its_run(tracker):
    first = tracker.start_flow("flow-1", "reviews", {})
    first.close("FAILED")
    second = tracker.start_flow("flow-1", "reviews", {"attempt": "2"})
    assert second.run_id == first.run_id
    assert tracker.client.get_run(second.run_id).info.status == "RUNNING"
    second.close("FINISHED")
    run = tracker.client.get_run(second.run_id)
    assert (run.info.status, run.data.tags["attempt"]) == ("FINISHED", "2")


def test_a_stage_without_a_flow_run_creates_it(tracker):
    stages = [tracker.start_stage("flow-1", "layers", {}) for _ in range(2)]
    flow = tracker.start_flow("flow-1", "reviews", {"team": "nlp"})
    parents = {tracker.client.get_run(stage.run_id).data.tags[PARENT_TAG] for stage in stages}
    run = tracker.client.get_run(flow.run_id)
    assert parents == {flow.run_id}
    assert (run.info.run_name, run.data.tags["team"], run.data.tags[FLOW_TAG]) == ("reviews", "nlp", "flow-1")


def test_the_stages_of_a_flow_look_for_its_run_once(tracker, monkeypatch):
    searches, search = [], tracker.client.search_runs
    monkeypatch.setattr(tracker.client, "search_runs", lambda *a, **k: (searches.append(k), search(*a, **k))[1])
    stages = [tracker.start_stage("flow-1", name, {}) for name in ("layers", "logits", "layers")]
    assert len({stage.run_id for stage in stages}) == 3
    assert len(searches) == 1


def test_a_stage_is_never_taken_for_its_flow(tracker):
    flow = tracker.start_flow("flow-1", "reviews", {})
    stage = tracker.start_stage("flow-1", "layers", {FLOW_TAG: "flow-1"})
    tracker.client.delete_run(flow.run_id)
    assert tracker.start_flow("flow-1", "reviews", {}).run_id not in (flow.run_id, stage.run_id)


def test_900_steps_take_few_calls(tracker, monkeypatch):
    run = tracker.start_stage("flow-1", "layers", {})
    calls, log_batch = [], tracker.client.log_batch
    monkeypatch.setattr(tracker.client, "log_batch", lambda *a, **k: (calls.append(1), log_batch(*a, **k)))
    for step in range(900):
        run.log_metrics({"loss": step / 7, "learning rate": 1e-5}, step)
    run.close("FINISHED")
    assert len(calls) < 10
    assert history(tracker, run.run_id, "loss") == [(step, step / 7) for step in range(900)]
    assert len(history(tracker, run.run_id, "learning rate")) == 900


def test_metrics_are_flushed_by_time(tracker):
    tracker.flush_seconds = 0.0
    run = tracker.start_stage("flow-1", "layers", {})
    run.log_metrics({"loss": 0.5}, 3)
    assert history(tracker, run.run_id, "loss") == [(3, 0.5)]


def test_odd_metrics(tracker, caplog):
    run = tracker.start_stage("flow-1", "evaluate", {})
    for step in range(3):
        run.log_metrics({"loss": float("nan"), "f1/C++ (new)": 0.25, "../up": 1.0}, step)
    run.close("FINISHED")
    assert tracker.client.get_run(run.run_id).data.metrics == {"f1/C__ _new_": 0.25, "up": 1.0}
    assert [r.message for r in caplog.records] == ["evaluate, step 0: not finite, not logged: loss"]


def test_config_becomes_parameters_and_a_file(tracker, tmp_path):
    data = DataConfig(source="file:/rows.csv", text="text", label="label", labels=["no", "yes"])
    config = DistillConfig(name="reviews", data=data, teacher=TeacherConfig(source="hub:a/b@c"), general=OFF)
    run = tracker.start_stage("flow-1", "layers", {})
    run.log_config(config)
    run.close("FINISHED")
    params = tracker.client.get_run(run.run_id).data.params
    assert len(params) > 100
    assert params["teacher.source"] == "hub:a/b@c"
    assert params["data.labels"] == '["no", "yes"]'
    assert (params["general.enabled"], params["logits.optim.steps"]) == ("false", "null")
    assert DistillConfig.model_validate_json(text(tracker, run.run_id, "config.json", tmp_path)) == config


def test_long_values_are_cut(tracker):
    class Long(BaseModel):
        words: str = "w" * 9000

    run = tracker.start_flow("flow-1", "reviews", {"long": "t" * 9000})
    run.log_config(Long())
    data = tracker.client.get_run(run.run_id).data
    assert (len(data.params["words"]), len(data.tags["long"])) == (6000, 8000)


def test_what_mlflow_refuses_is_dropped_alone(tracker, caplog):
    class Shape(BaseModel):
        layers: int

    run = tracker.start_flow("flow-1", "reviews", {})
    run.log_config(Shape(layers=4))
    run.log_config(Shape(layers=6))
    run.log_metrics({"loss": 1.0}, 1)
    run.close("FINISHED")
    found = tracker.client.get_run(run.run_id)
    assert (found.data.params, found.data.metrics) == ({"layers": "4"}, {"loss": 1.0})
    assert found.info.status == "FINISHED"
    assert "MLflow refuses params" in caplog.text


def test_inputs_tags_and_artifacts_read_back(tracker, tmp_path):
    run = tracker.start_stage("flow-1", "layers", {})
    run.log_input(DATA, "train")
    run.log_text("# Table", "report/table.md")
    (tmp_path / "curve.png").write_bytes(b"\x89PNG\xff")
    run.log_file(tmp_path / "curve.png")
    run.set_tags({"gate": "passed"})
    run.close("FINISHED")
    found = tracker.client.get_run(run.run_id)
    (read,) = found.inputs.dataset_inputs
    assert (read.dataset.name, read.dataset.source) == ("train", DATA.uri)
    assert DATA.digest.startswith(read.dataset.digest)
    assert DATA.digest in read.dataset.profile
    assert [(t.key, t.value) for t in read.tags] == [("mlflow.data.context", "train")]
    assert found.data.tags["gate"] == "passed"
    assert text(tracker, run.run_id, "report/table.md", tmp_path) == "# Table"
    path = tracker.client.download_artifacts(run.run_id, "curve.png", str(tmp_path))
    assert Path(path).read_bytes() == b"\x89PNG\xff"
    assert (tmp_path / "db" / "mlartifacts" / run.run_id).is_dir()


def test_large_artifacts_are_left_out(tracker, tmp_path, caplog):
    (tmp_path / "model.bin").write_bytes(bytes(17 * 2**20))
    tracker.start_flow("flow-1", "reviews", {}).log_file(tmp_path / "model.bin")
    assert "model.bin has 17 MB" in caplog.text


def test_a_closed_run_takes_nothing_more(tracker, caplog):
    run = tracker.start_flow("flow-1", "reviews", {})
    run.close("FINISHED")
    run.close("FAILED")
    run.set_tags({"late": "1"})
    found = tracker.client.get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert "late" not in found.data.tags
    assert "closed" in caplog.text


def test_artifacts_out_alone_do_not_hold_up_the_rest(tracker, outage, tmp_path):
    end = outage(tracker, "log_artifact")
    run = tracker.start_stage("flow-1", "layers", {})
    run.log_text("# Table", "table.md")
    run.log_metrics({"loss": 1.0}, 1)
    run.close("FINISHED")
    before = tracker.client.get_run(run.run_id)
    assert (before.info.status, before.data.metrics) == ("FINISHED", {"loss": 1.0})
    end()
    assert tracker.replay() == 1
    after = tracker.client.get_run(run.run_id)
    assert (after.info.status, after.info.end_time) == ("FINISHED", before.info.end_time)
    assert text(tracker, run.run_id, "table.md", tmp_path) == "# Table"


def test_an_outage_at_the_start_alone_needs_no_replay(tracker, outage, caplog):
    end = outage(tracker)
    run = tracker.start_stage("flow-1", "layers", {})
    run.log_metrics({"loss": 1.0}, 1)
    run.log_input(DATA, "train")
    assert run.run_id is None
    end()
    run.close("FINISHED")
    assert history(tracker, run.run_id, "loss") == [(1, 1.0)]
    assert not list(tracker.spool.glob("*"))
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 1


def test_a_long_outage_asks_seldom(tracker, monkeypatch):
    asked = []
    run = tracker.start_stage("flow-1", "layers", {})

    def fail(*_, **__):
        asked.append(1)
        raise ConnectionError

    monkeypatch.setattr(tracker.client, "log_batch", fail)
    tracker.flush_seconds = 0.0
    for step in range(2000):
        run.log_metrics({"loss": 1.0}, step)
    assert len(asked) <= 2


def spooled(tracker, outage):
    """The file of a run that saw no MLflow at all."""
    end = outage(tracker)
    run = tracker.start_stage("flow-1", "layers", {})
    for step in range(3):
        run.log_metrics({"loss": float(step)}, step)
        run.set_tags({"step": str(step)})
    run.close("FINISHED")
    end()
    (file,) = tracker.spool.iterdir()
    return file


def test_an_experiment_is_one_that_trains_models(tracker):
    tags = tracker.client.get_experiment(tracker.experiment_id("new")).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"


def test_a_damaged_last_line_costs_that_line_alone(tracker, outage):
    file = spooled(tracker, outage)
    whole = file.read_bytes().rstrip().split(b"\n")
    assert len(whole) == 8
    file.write_bytes(b"\n".join(whole[:5]) + b"\n" + whole[5][:20])
    assert tracker.replay() == 1
    stages = tracker.client.search_runs([tracker.experiment_id("reviews")], "attributes.run_name = 'layers'")
    assert [(r.info.status, r.data.tags["step"], r.data.metrics["loss"]) for r in stages] == [("KILLED", "1", 1.0)]
    assert not list(tracker.spool.iterdir())


def test_a_file_damaged_from_the_start_is_put_aside(tracker, caplog):
    tracker.spool.mkdir()
    (tracker.spool / "1.jsonl").write_text('{"kind": "sta')
    assert tracker.replay() == 0
    assert [file.name for file in tracker.spool.iterdir()] == ["1.damaged"]
    assert "damaged" in caplog.text


def test_a_file_that_another_process_replays_is_left_alone(tracker, outage):
    file = spooled(tracker, outage)
    with spool.claimed(file) as mine:
        assert mine
        assert tracker.replay() == 0
    assert tracker.replay() == 1
    assert tracker.replay() == 0


def test_a_replay_that_is_interrupted_is_completed_once(tracker, outage, monkeypatch):
    file = spooled(tracker, outage)
    monkeypatch.setattr(Path, "unlink", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        tracker.replay()
    monkeypatch.undo()
    assert file.exists()
    assert tracker.replay() == 1
    (run,) = tracker.client.search_runs([tracker.experiment_id("reviews")], "attributes.run_name = 'layers'")
    assert history(tracker, run.info.run_id, "loss") == [(0, 0.0), (1, 1.0), (2, 2.0)]


def test_a_replayed_first_attempt_does_not_undo_the_second(tracker, outage):
    end = outage(tracker)
    first = tracker.start_flow("flow-1", "reviews", {})
    first.close("FAILED")
    end()
    time.sleep(0.01)
    second = tracker.start_flow("flow-1", "reviews", {})
    second.close("FINISHED")
    assert tracker.replay() == 1
    assert tracker.client.get_run(second.run_id).info.status == "FINISHED"


def test_curves_of_the_stage_that_made_an_output(tracker):
    old, new, other = (tracker.start_stage("flow-1", name, {}) for name in ("layers", "layers", "logits"))
    for number, run in enumerate((old, new, other)):
        for step in range(0, 30, 10):
            run.log_metrics({"loss": number + step / 10, "rate": 0.5}, step)
        run.log_metrics({"final_loss": 0.25}, 0)
        run.set_tags({"output.digest": DIGEST if run is not other else "ef" * 32})
        run.close("FINISHED")
        time.sleep(0.01)
    assert tracker.curves(DIGEST) == {
        "loss": [(0, 1.0), (10, 2.0), (20, 3.0)],
        "rate": [(0, 0.5), (10, 0.5), (20, 0.5)],
    }


def test_curves_of_what_nobody_made_or_nobody_tells(tracker, outage, caplog):
    assert tracker.curves(DIGEST) == {}
    assert not caplog.records
    outage(tracker)
    assert tracker.curves(DIGEST) == {}
    assert "curves are left out: http://host/api refused" in caplog.text
    assert "secret-word" not in caplog.text


@pytest.mark.parametrize(
    "uri",
    ["", "mlruns", "file:///mlruns", "ftp://me:secret-word@host", "sqlite://", "sqlite:///", "sqlite:///:memory:"],
)
def test_uris_that_cannot_work_are_refused_at_once(uri, tmp_path):
    with pytest.raises(InputError, match="tracking URI") as caught:
        Tracker(uri, "reviews", tmp_path)
    assert "secret-word" not in str(caught.value)


def test_odd_experiments_are_refused_at_once(tmp_path):
    for name in ("", " ", "x" * 501):
        with pytest.raises(InputError, match="experiment"):
            Tracker("http://host", name, tmp_path)


def test_a_relative_database_gets_its_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tracker = Tracker("sqlite:///state/mlflow.db", "reviews", tmp_path)
    assert tracker.uri == f"sqlite:///{tmp_path}/state/mlflow.db"
    assert (tmp_path / "state").is_dir()


def test_importing_does_not_import_mlflow():
    code = "import sys, tasks.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


class Server:
    """An `mlflow server` on loopback that can be killed and come back on the same port and database."""

    def __init__(self, database: Path):
        self.database = database
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://me:secret-word@127.0.0.1:{self.port}"

    def launch(self):
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.database}"]
        command += ["--artifacts-destination", str(self.database.parent / "artifacts")]
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.database.parent / "server.log").open("ab") as output:
            self.process = subprocess.Popen(
                command, env={**os.environ, **quiet}, stdout=output, stderr=output, start_new_session=True
            )

    def wait(self):
        for _ in range(600):
            try:
                return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=1)
            except OSError:
                assert self.process.poll() is None, (self.database.parent / "server.log").read_text()
                time.sleep(0.1)
        raise AssertionError("the server did not start")

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Heard(logging.Handler):
    """Every message that any logger lets out."""

    def __init__(self):
        super().__init__()
        self.messages = []

    def emit(self, record):
        self.messages.append(self.format(record))


@pytest.fixture(scope="module", autouse=True)
def server(migrated, tmp_path_factory):
    """Launched before the first test, so that it is up when the last ones need it."""
    place = tmp_path_factory.mktemp("server")
    server = Server(Path(shutil.copy(migrated, place / "mlflow.db")))
    server.launch()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def story(server):
    """Runs that meet an outage at the start, in the middle and at the end; told once, looked at by many tests."""
    heard = Heard()
    logging.getLogger().addHandler(heard)
    server.wait()
    yield tell_story(server, server.database.parent, heard)
    logging.getLogger().removeHandler(heard)


def tell_story(server, place, heard):
    began = spool.now()
    tracker = Tracker(server.uri, "reviews", place / "spool")
    flow = tracker.start_flow("flow-1", "reviews", {})
    middle = tracker.start_stage("flow-1", "middle", {})
    recovering = tracker.start_stage("flow-1", "recovering", {})
    for step in range(600):
        middle.log_metrics({"loss": step / 3}, step)
    recovering.log_metrics({"loss": 1.0}, 1)
    with pytest.raises(InputError) as refusal:
        Registry(tracker).register("reviews", "/local/model", DIGEST, {})
    url = middle.url

    server.kill()
    for step in range(600, 900):
        middle.log_metrics({"loss": step / 3}, step)
    middle.log_text("# Table", "report/table.md")
    recovering.log_metrics({"loss": 2.0}, 2)
    other = Tracker(server.uri, "reviews", place / "spool")
    late_flow = other.start_flow("flow-2", "late", {"team": "nlp"})
    start = other.start_stage("flow-2", "start", {})
    start.log_config(TeacherConfig(source="hub:a/b@c"))
    start.log_input(DATA, "train")
    start.log_metrics({"loss": 3.0}, 7)
    start.close("FAILED")
    late_flow.close("FAILED")
    middle.close("FINISHED")
    with pytest.raises(TransientError) as failure:
        Registry(tracker).model("reviews")
    ended = spool.now()
    files = [file.read_text() for file in spool.waiting(place / "spool")]

    server.launch()
    server.wait()
    recovering.close("FINISHED")
    flow.close("FINISHED")
    completed = Tracker(server.uri, "reviews", place / "spool").replay()
    found = tracker.client.search_runs([tracker.experiment_id("reviews")])
    runs = {run.info.run_name: run for run in found}
    return SimpleNamespace(**locals())


def test_replay_completes_every_run(story):
    assert story.completed == 3
    assert not spool.waiting(story.tracker.spool)
    assert {name: run.info.status for name, run in story.runs.items()} == {
        "reviews": "FINISHED",
        "middle": "FINISHED",
        "recovering": "FINISHED",
        "late": "FAILED",
        "start": "FAILED",
    }


def test_an_outage_in_the_middle_loses_nothing(story):
    run = story.middle.run_id
    assert history(story.tracker, run, "loss") == [(step, step / 3) for step in range(900)]
    assert history(story.tracker, story.recovering.run_id, "loss") == [(1, 1.0), (2, 2.0)]
    assert text(story.tracker, run, "report/table.md", story.place) == "# Table"


def test_a_run_that_never_saw_mlflow_is_whole(story):
    run = story.runs["start"]
    assert run.data.params["source"] == "hub:a/b@c"
    assert [read.dataset.name for read in run.inputs.dataset_inputs] == ["train"]
    assert history(story.tracker, run.info.run_id, "loss") == [(7, 3.0)]
    assert run.data.tags[PARENT_TAG] == story.runs["late"].info.run_id
    assert story.runs["late"].data.tags["team"] == "nlp"


def test_replay_keeps_the_original_times(story):
    run = story.runs["start"]
    (metric,) = story.tracker.client.get_metric_history(run.info.run_id, "loss")
    times = [story.began, run.info.start_time, metric.timestamp, run.info.end_time, story.ended]
    assert times == sorted(times)
    assert story.runs["late"].info.end_time <= story.ended


def test_links_lead_to_the_page_and_calls_do_not(tracker, tmp_path):
    seen = Tracker(tracker.uri, "reviews", tmp_path / "spool", address="https://somebody:secret-word@mlflow.example/")
    run = seen.start_flow("flow-1", "quiet", {})
    experiment, url = seen.experiment_id("reviews"), run.url
    run.close("FINISHED")
    [found] = tracker.client.search_runs([experiment], f"tags.`{FLOW_TAG}` = 'flow-1'")
    assert found.info.status == "FINISHED"
    assert url == f"https://mlflow.example/#/experiments/{experiment}/runs/{found.info.run_id}"


def test_the_url_is_the_page(story):
    run = story.runs["middle"].info
    page = f"http://127.0.0.1:{story.server.port}/#/experiments/{run.experiment_id}/runs/{run.run_id}"
    assert story.url == page


def test_credentials_stay_out_of_everything(story, capfd):
    story.tracker.start_flow("flow-3", "quiet", {}).close("FINISHED")
    told = [*story.heard.messages, *story.files, *capfd.readouterr()]
    told += [str(story.failure), str(story.failure.value), str(story.refusal.value)]
    told += [str(run.to_dictionary()) for run in story.runs.values()]
    assert any("does not answer" in message for message in told)
    assert not [message for message in told if "secret-word" in message]


def test_a_server_refuses_local_models_in_plain_words(story):
    assert "local path" in str(story.refusal.value)


def test_outage_of_the_registry_is_transient(story):
    assert story.failure.value.__cause__ is None  # it would print the password
    assert story.failure.value.__suppress_context__


def test_the_first_use_of_a_database_is_quiet(first_use):
    done = first_use[1]
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
