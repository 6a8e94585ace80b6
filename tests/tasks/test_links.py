"""A run against servers ends with links that a browser can open: its MLflow run, its report, its model."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from flows.command import preset
from flows.distill import distill
from tasks import connections, settings
from tinybert.cli import validated
from tinybert.config import DistillConfig
from tinybert.form import merge


@pytest.fixture
def mlflow(tmp_path):
    """The address of an MLflow server that keeps artifacts for its clients."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts")]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **quiet}, stdout=log, stderr=log, start_new_session=True, cwd=tmp_path
        )
    try:
        _wait_until_ready(f"http://127.0.0.1:{port}", process, tmp_path / "server.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def _wait_until_ready(address: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{address}/health", timeout=2, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


def link(key: str) -> str:
    """The address in the newest artifact of a key."""
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
    newest = max(found, key=lambda artifact: artifact.created)
    return re.fullmatch(r"\[[^]]+\]\((.+)\)", newest.data)[1]


@pytest.mark.slow
def test_a_run_ends_with_links_to_mlflow_the_report_and_the_model(home, smoke_material, mlflow, s3, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow)
    monkeypatch.setenv("TINYBERT_STORE", f"s3://{s3.bucket}/links")
    for known in (settings.settings, connections.store, connections.tracker, connections.registry):
        known.cache_clear()
    sources = {
        "data": {"source": f"file:{smoke_material}/rows.csv"},
        "teacher": {"source": f"file:{smoke_material}/teacher"},
        **{"general": {"enabled": False}, "mlm": {"enabled": False}, "augment": {"enabled": False}},
        **{"layers": {"enabled": False}, "baseline": {"enabled": False}, "corpus": {"source": None}},
    }
    summary = distill(validated(DistillConfig, merge(preset("smoke"), sources)))
    ask = httpx.Client(base_url=mlflow, timeout=30, trust_env=False)

    page = link("mlflow-run")
    assert page == summary.tracking_page
    experiment, run = re.fullmatch(rf"{mlflow}/#/experiments/(\d+)/runs/(\w+)", page).groups()
    found = ask.get("/api/2.0/mlflow/runs/get", params={"run_id": run}).json()["run"]
    assert found["info"]["experiment_id"] == experiment
    assert found["info"]["status"] == "FINISHED"

    # The tab that MLflow's page opens at this address shows what its server gives for the path behind `artifacts/`.
    assert link("report") == summary.report_page == f"{page}/artifacts/report.html"
    report = ask.get("/get-artifact", params={"run_uuid": run, "path": "report.html"})
    assert report.status_code == 200
    assert report.text == Path(summary.page).read_text(encoding="utf-8")

    assert link("model") == summary.model_page == f"{mlflow}/#/models/smoke/versions/1"
    version = ask.get("/api/2.0/mlflow/model-versions/get", params={"name": "smoke", "version": "1"}).json()
    assert version["model_version"]["source"] == summary.model.uri

    shown = next(tag["value"] for tag in found["data"]["tags"] if tag["key"] == "mlflow.note.content")
    assert all(f"]({address})" in shown for address in (page, summary.report_page, summary.model_page))
