"""Retraining on tiny real models: what starts a run, what does not, and who is let through at once."""

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from mlflow import MlflowClient
from prefect.artifacts import Artifact
from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency

from flows import release
from flows import retrain as module
from flows.command import preset
from flows.retrain import retrain, show
from tasks import retraining
from tasks.connections import registry
from tinybert.cli import validated
from tinybert.form import merge
from tinybert.retrain_config import RetrainConfig

pytestmark = pytest.mark.slow

QUICK = {"optim": {"epochs": 1, "steps": 8}}
OFF = {"enabled": False}
FEW = {
    **{"mlm": OFF, "general": OFF, "augment": OFF, "baseline": OFF, "layers": QUICK, "logits": QUICK},
    **{"fine_tune": {"optim": {"epochs": 4}}, "evaluate": {"latency_runs": 3, "resamples": 100}},
    **{"export": {"onnx": False, "int8": False}, "gate": {"retention": 0.0}, "publish": {"name": "reviews"}},
}


@pytest.fixture(scope="module")
def material(smoke_material, tmp_path_factory):
    """Rows of our own, which may change."""
    directory = tmp_path_factory.mktemp("material")
    shutil.copyfile(smoke_material / "rows.csv", directory / "rows.csv")
    shutil.copytree(smoke_material / "teacher", directory / "teacher")
    return directory


@pytest.fixture(scope="module")
def config(material):
    """The form, with changes to the run's, and other fields of its own."""

    def config(run=None, **fields) -> RetrainConfig:
        sources = {name: {"source": f"file:{material}/{file}"} for name, file in FILES.items()}
        values = merge(merge(merge(preset("smoke"), sources), FEW), run or {})
        return validated(RetrainConfig, {"distill": values, **fields})

    return config


FILES = {"data": "rows.csv", "teacher": "teacher"}


@pytest.fixture(scope="module")
def first(shared_home, config):
    """The first run of all."""
    return retrain(config())


@pytest.fixture
def asked(monkeypatch, first):
    """The forms of runs that would be made; none is."""
    forms = []
    monkeypatch.setattr(module, "distill", lambda form: (forms.append(form), first.summary)[1])
    return forms


def runs(home):
    """Names of MLflow's runs, and the tags of the newest."""
    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("tinybert").experiment_id])  # the newest first
    return [run.info.run_name for run in found], found[0].data.tags


def test_the_first_run_trains_and_tells_why(first, shared_home):
    assert (first.decision, first.changes) == ("retrained", ["there is no champion yet"])
    assert first.said == "there is no champion yet: reviews version 1, promoted"
    assert first.summary.outcome == "promoted"
    tags = registry().model("reviews").get("champion").tags
    told = {name for name in tags if name.startswith("made_from.")}
    assert told == {f"made_from.{name}" for name in ("data", "labels", "teacher", "corpus", "config", "code")}
    names, _ = runs(shared_home)
    assert {"retrain reviews", "smoke", "logits"} <= set(names)


def test_where_nothing_changed_no_stage_is_run_and_both_uis_say_so(first, shared_home, config, capsys):
    before, _ = runs(shared_home)
    state = retrain(config(), return_state=True)
    said = "nothing changed since version 1 of reviews (champion, 0 days old)"
    assert state.is_completed()
    assert state.message == said
    done = state.result()
    assert (done.decision, done.said, done.summary) == ("unchanged", said, None)
    names, tags = runs(shared_home)
    assert sorted(names) == sorted(["retrain reviews", *before])
    assert tags["decision"] == "unchanged"
    assert said in tags["mlflow.note.content"]
    assert said in Artifact.get("retrain").data
    show(done)
    assert capsys.readouterr().out == f"reviews: {said}\n"


def test_a_changed_field_and_a_forced_run_are_handed_on_with_their_reason(first, config, asked):
    changed = retrain(config({"logits": {"temperature": 2.0}}))
    forced = retrain(config(force="the customer wants it today"))
    assert changed.changes[0].startswith("config changed: ")
    assert [form.reason for form in asked] == [changed.changes[0], "forced: the customer wants it today"]
    assert asked[0].logits.temperature == 2.0
    assert forced.said == "forced: the customer wants it today: reviews version 1, promoted"


def test_a_run_that_makes_the_same_again_is_not_made_every_night(first, config, monkeypatch):
    for place in (retraining, release):
        monkeypatch.setattr(place, "code", lambda: "a comment was added")
    again = retrain(config())
    assert again.changes[0].startswith("code changed: ")
    assert again.summary.outcome == "unchanged"
    assert all(stage.cached for stage in again.summary.stages)  # the reason is in no stage's key
    assert retrain(config()).decision == "unchanged"


@pytest.fixture
def taken(first):
    """Takes the slot of the model for so many seconds, elsewhere."""
    held = threading.Event()

    def hold(seconds):
        with concurrency("model-reviews", occupy=1, strict=True):
            held.set()
            time.sleep(seconds)
            return time.monotonic()

    with ThreadPoolExecutor(1) as pool:
        yield lambda seconds: (pool.submit(hold, seconds), held.wait())[0]


def test_a_run_steps_aside_for_another_or_waits_for_its_end(first, config, asked, taken):
    other = taken(4)
    aside = retrain(config(force="in any case", if_running="step_aside"))
    assert (aside.decision, aside.summary) == ("stepped_aside", None)
    assert aside.said == "another run is at it: it holds the concurrency limit model-reviews"
    assert not other.done()
    assert retrain(config(force="in any case")).decision == "retrained"
    assert time.monotonic() > other.result()
    assert len(asked) == 1
    with get_client(sync_client=True) as client:
        limit = client.read_global_concurrency_limit_by_name("model-reviews")
    assert (limit.limit, limit.active_slots) == (1, 0)


def test_other_rows_are_learnt_once_and_what_was_rejected_is_not_tried_again(first, config, material):
    # Last of all here: it changes the rows. The code's digest is that of the version it is compared with.
    with (material / "rows.csv").open("a") as file:
        file.write("a truly wonderful umbrella,good\n")
    changed = retrain(config())
    assert any(phrase.startswith("data changed: ") for phrase in changed.changes)
    assert changed.summary.registered == "reviews version 2"
    assert changed.summary.outcome == "rejected"  # no better on 48 rows
    again = retrain(config())
    assert (again.decision, again.summary) == ("tried", None)
    assert again.said.endswith("but version 2 of reviews was made from the same, and rejected")
