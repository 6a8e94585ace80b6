"""What a task knows of the installation on a node of a Ray cluster."""

import os

import pytest

from tasks import runners
from tasks.connections import registry, store, tracker
from tasks.settings import Settings, settings

CACHES = (settings, store, tracker, registry)
GIVEN = {
    "TINYBERT_STORE": "s3://artifacts/here",
    "TINYBERT_EXPERIMENT": "theirs",
    "TINYBERT_SLOTS": "gpus",
    "TINYBERT_PROMOTIONS": "publishers",
    "TINYBERT_TRACKING_PAGE": "https://mlflow.example",
    "MLFLOW_TRACKING_URI": "http://mlflow:5000",
    "MLFLOW_TRACKING_USERNAME": "pipeline",
    "MLFLOW_TRACKING_PASSWORD": "canary-mlflow",
    "AWS_SECRET_ACCESS_KEY": "canary-s3",
    "AWS_ENDPOINT_URL_S3": "http://s3:8333",
    "HF_TOKEN": "canary-hub",
}


@pytest.fixture
def installed(monkeypatch):
    """An installation of these variables and no others of ours."""
    pytest.importorskip("ray")
    for name in os.environ:
        if name.startswith(("TINYBERT_", "MLFLOW_", "AWS_", "HF_")):
            monkeypatch.delenv(name)
    for name, value in GIVEN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TINYBERT_WORK", "/disk/of/this/machine")
    for cache in CACHES:
        cache.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    for cache in CACHES:
        cache.cache_clear()


def test_tasks_on_nodes_get_what_the_installation_has_but_its_disk(installed):
    assert runners.environment() == GIVEN


def test_a_database_that_is_a_file_of_this_machine_stays_here(installed):
    installed.setenv("MLFLOW_TRACKING_URI", "sqlite:///build/mlflow.db")
    settings.cache_clear()
    assert runners.environment() == {name: value for name, value in GIVEN.items() if name != "MLFLOW_TRACKING_URI"}


def test_processes_that_train_get_the_store_and_the_hub_alone(installed):
    from tasks import ray_launch

    wanted = ("TINYBERT_STORE", "AWS_", "HF_")
    assert ray_launch.environment() == {name: value for name, value in GIVEN.items() if name.startswith(wanted)}


def test_a_task_finds_them_and_its_own_work_directory(installed):
    there = {}
    run = runners._in_environment(runners.environment(), lambda number: there.update(os.environ) or number)
    for name in [*GIVEN, "TINYBERT_WORK"]:
        installed.delenv(name)
    assert run(7) == 7
    assert GIVEN.items() <= there.items()
    assert there["TINYBERT_WORK"].endswith("/tinybert")
    known = Settings()
    assert (known.promotions, known.tracking_page) == ("publishers", "https://mlflow.example")
