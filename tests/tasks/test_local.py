"""What a run without a server does before it begins."""

import sqlite3
import sys

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


def test_what_cannot_be_loaded_is_left_to_who_needs_it(tmp_path, monkeypatch):
    (tmp_path / "needed_soon.py").touch()
    (tmp_path / "broken.py").write_text("import no_such_module")
    monkeypatch.syspath_prepend(tmp_path)
    local._load(["broken", "needed_soon"])
    assert "needed_soon" in sys.modules
    del sys.modules["needed_soon"]


@pytest.mark.parametrize("uri", ["sqlite:////no/such/directory/mlflow.db", "http://127.0.0.1:9"])
def test_what_is_wrong_with_mlflow_is_left_to_preflight(tracking, uri):
    tracking(uri)
    local._open_tracking()
