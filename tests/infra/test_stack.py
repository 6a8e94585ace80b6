"""The real stack: it comes up, keeps what it is given, brings back what dies, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import boto3
import httpx
import psutil
import pytest
from botocore.exceptions import ClientError

from infra.stack import leftovers, settings, supervisor
from infra.stack.layout import ROOT, Layout
from infra.stack.parts import parts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PATIENCE = 400
"""Seconds for what takes 20 on an idle machine."""


class Stack:
    """A stack of its own directory and ports, driven as a person drives it."""

    def __init__(self, directory: Path) -> None:
        self.layout = Layout(directory)
        self.said = directory.parent / "said"
        self.up: subprocess.Popen | None = None

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(**self._call(command), capture_output=True, text=True, timeout=PATIENCE, check=False)

    def start(self) -> settings.Settings:
        with self.said.open("w") as said:
            self.up = subprocess.Popen(**self._call("up"), stdout=said, stderr=said)
        self.wait_for("start a run")
        return settings.load(self.layout.env)

    def wait_for(self, words: str, seconds: float = PATIENCE) -> None:
        deadline = time.monotonic() + seconds
        while words not in self.said.read_text():
            assert time.monotonic() < deadline, self.said.read_text()
            assert self.up.poll() is None, self.said.read_text()
            time.sleep(0.2)

    def processes(self) -> list[psutil.Process]:
        names = [supervisor.NAME, *parts(self.layout, settings.load(self.layout.env))]
        return [process for name in names for process in leftovers.belonging_to(self.layout, name)]

    def _call(self, command: str) -> dict:
        environment = {**os.environ, "TINYBERT_STACK": str(self.layout.directory)}
        return {"args": [sys.executable, "-m", "infra.stack", command], "env": environment, "cwd": ROOT}


@pytest.fixture
def stack():
    with tempfile.TemporaryDirectory() as base:  # pytest's own are closed to the database, which has another user
        Path(base).chmod(0o755)
        stack = Stack(Path(base) / "it")
        yield stack
        if stack.layout.env.exists():
            stack.run("down")
        if stack.up is not None:
            stack.up.wait(timeout=60)


def bucket_client(known: settings.Settings):
    return boto3.client(
        "s3",
        endpoint_url=known.s3_url,
        aws_access_key_id=known.aws_access_key_id,
        aws_secret_access_key=known.aws_secret_access_key.get_secret_value(),
        region_name="us-east-1",
    )


def asked(url: str, **json) -> list | dict:
    answer = httpx.post(url, json=json, timeout=30, trust_env=False)
    answer.raise_for_status()
    return answer.json()


def names(answer: list) -> set[str]:
    return {found["name"] for found in answer}


def test_what_it_is_given_outlives_stops_and_kills(stack):
    known = stack.start()
    api, tracking = f"{known.prefect_url}/api", f"{known.mlflow_url}/api/2.0/mlflow"

    assert "smoke" in names(asked(f"{api}/deployments/filter"))
    assert names(asked(f"{api}/v2/concurrency_limits/filter")) == {"accelerator", "promotions"}
    assert len(asked(f"{api}/automations/filter")) == 4
    assert httpx.get(f"{tracking}/experiments/search", headers={"Host": "evil.example"}).status_code == 403
    bucket = bucket_client(known)
    with pytest.raises(ClientError, match="AccessDenied"):
        bucket.create_bucket(Bucket="another")
    assert "already running" in stack.run("up").stdout

    bucket.put_object(Bucket=known.s3_bucket, Key="kept", Body=b"this")
    experiment = asked(f"{tracking}/experiments/create", name="kept")["experiment_id"]
    asked(f"{api}/variables/", name="kept", value="that")

    for part in ("s3", "mlflow"):
        psutil.Process(supervisor.processes(stack.layout)[part]["pid"]).kill()
        stack.wait_for(f"{part} died and was started again", 60)
    stack.up.send_signal(signal.SIGINT)
    assert stack.up.wait(timeout=PATIENCE) == 0
    assert stack.processes() == []

    assert stack.start() == known
    assert bucket.get_object(Bucket=known.s3_bucket, Key="kept")["Body"].read() == b"this"
    found = httpx.get(f"{tracking}/experiments/get", params={"experiment_id": experiment}, timeout=30).json()
    assert found["experiment"]["name"] == "kept"
    assert found["experiment"]["artifact_location"].startswith("mlflow-artifacts:")
    assert names(asked(f"{api}/variables/filter")) == {"kept"}
    assert stack.run("status").returncode == 0

    stack.up.kill()
    leftovers.belonging_to(stack.layout, supervisor.NAME)[0].kill()
    assert stack.processes()
    assert stack.run("down").returncode == 0
    assert stack.processes() == []
