"""What a run without a server does before it begins."""

import sqlite3

import pytest

from tasks import connections, local
from tasks.settings import settings


@pytest.fixture
def tracking(tmp_path, monkeypatch):
    """Gives MLflow's place to this process."""

    def tracking(uri):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        monkeypatch.setenv("TINYBERT_EXPERIMENT", "begun")
        for known in (settings, connections.tracker):
            known.cache_clear()

    yield tracking
    monkeypatch.undo()
    for known in (settings, connections.tracker):
        known.cache_clear()


def test_mlflow_s_database_and_experiment_are_there_before_they_are_asked_for(tracking, tmp_path):
    tracking(f"sqlite:///{tmp_path}/mlflow.db")
    local._open_tracking()
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert ("begun",) in database.execute("SELECT name FROM experiments").fetchall()


@pytest.mark.parametrize("uri", ["sqlite:////no/such/directory/mlflow.db", "http://127.0.0.1:9"])
def test_what_is_wrong_with_mlflow_is_left_to_preflight(tracking, uri):
    tracking(uri)
    local._open_tracking()
