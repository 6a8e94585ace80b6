"""Retention end to end: what a collection shows and deletes, and what the next run has to compute again."""

import os
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from prefect import flow
from prefect.artifacts import Artifact

from flows.collect import collect, show
from flows.command import main, presets
from tasks import collection
from tasks.collection import DAY, collect_unused
from tasks.connections import registry, store
from tasks.data import prepare_corpus, prepare_data, resolve_sources
from tasks.run import open_run
from tests.flows.test_distill import smoke
from tinybert.collect_config import CollectConfig
from tinybert.errors import TransientError


@flow(name="beginning")
def beginning(config):
    """The first two stages of a distillation: their outputs, and whether they were cached."""
    with open_run(config, "beginning", stages=2) as run:
        found = run.always(resolve_sources, config)
        data = run(prepare_data, found.data, found.validation, found.test, config.data, found.labels).dataset
        corpus = run(prepare_corpus, found.corpus, found.teacher, config.corpus).corpus
        return data, corpus, {stage.name: stage.cached for stage in run.stages}


@pytest.fixture(scope="module")
def made(shared_home, smoke_material):
    """The outputs of two stages, the first of which a champion was made from."""
    data, corpus, _ = beginning(smoke(smoke_material))
    tags = {"data.uri": data.uri, "data.digest": data.digest}
    version = registry().register("reviews", "s3://elsewhere/model/" + "a" * 64, "a" * 64, tags).number
    registry().crown("reviews", version)
    return data, corpus


@pytest.fixture
def later(made, monkeypatch):
    """Forty days go by."""
    monkeypatch.setattr(collection, "now", lambda: time.time() + 40 * DAY)


def held():
    return {artifact.ref.digest for artifact in store().artifacts()}


def test_the_command_line_shows_what_would_go(later, made, capsys):
    main(collect, CollectConfig, show, [])
    shown = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.split("\u2502")[1:-1]] for line in shown.splitlines() if "\u2502" in line]
    lines = {line[0]: line[1:] for line in cells}
    corpus = Path(made[1].uri.removeprefix("file:"))
    size = sum(path.stat().st_size for path in corpus.rglob("*") if path.is_file())
    assert lines["corpus"] == ["1", f"{size / 1e6:,.1f}", "0", "0", "0", "0", "1", f"{size / 1e6:,.1f}"]
    assert lines["dataset"][2:7] == ["1", "0", "0", "0", "0"]
    assert "1 of 2 would be deleted" in shown
    assert "dry run: nothing was deleted; --set dry_run=false deletes it" in shown
    assert held() == {ref.digest for ref in made}


def test_both_uis_show_it(later, made, shared_home):
    done = collect(CollectConfig())
    assert Artifact.get("collection").data == done.markdown
    assert "| corpus | 1 |" in done.markdown
    client = MlflowClient(f"sqlite:///{shared_home}/mlflow.db")
    experiment = client.get_experiment_by_name("tinybert").experiment_id
    run = client.search_runs([experiment], "attributes.run_name = 'collect'")[0]
    assert run.data.metrics["corpus_freed"] == done.metrics["corpus_freed"] > 0
    assert run.data.params["keep_days"] == "30"
    assert run.data.tags["mlflow.note.content"] == done.markdown


def test_without_mlflow_the_run_fails_in_one_line_and_deletes_nothing(later, made, monkeypatch):
    def down(*_, **__):
        raise ConnectionError("nobody listens")

    monkeypatch.setattr(registry().client, "search_experiments", down)
    monkeypatch.setattr(collect_unused, "retry_delay_seconds", 0)
    with pytest.raises(TransientError, match=r"^MLflow at .* does not answer, .* nothing is deleted.*nobody listens"):
        collect(CollectConfig(dry_run=False))
    assert held() == {ref.digest for ref in made}


def test_the_next_run_computes_again_what_is_gone_and_nothing_else(later, made, smoke_material):
    data, corpus = made
    done = collect(CollectConfig(dry_run=False))
    assert held() == {data.digest}
    assert done.total.unused == 1
    again = beginning(smoke(smoke_material))
    assert again == (data, corpus, {"prepare": True, "corpus": False})
    assert held() == {data.digest, corpus.digest}
    assert beginning(smoke(smoke_material))[2] == {"prepare": True, "corpus": True}


def test_a_cached_stage_makes_its_output_young(made, smoke_material):
    for artifact in store().artifacts():
        os.utime(f"{artifact.ref.uri.removeprefix('file:')}/.manifest.json", (0, 0))
    beginning(smoke(smoke_material))
    assert min(artifact.modified for artifact in store().artifacts()) > time.time() - 60


def test_the_deployment_deletes_nothing_until_told():
    assert CollectConfig.model_validate(presets("collect")["collect"]) == CollectConfig()
