"""A real S3 server (SeaweedFS, from the package registry) on loopback, one for the whole session."""

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import boto3.session
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

WEED = Path(sys.executable).with_name("weed")
GRPC_OFFSET = 10_000


@dataclass(frozen=True)
class S3Server:
    endpoint: str
    access_key: str = "test-access-key"
    secret_key: str = "test-secret-key-0123456789"
    bucket: str = "artifacts"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_MAX_ATTEMPTS": "2",
        }

    def client(self):
        return _client(self)


@cache
def _client(server: S3Server):
    keys = {"aws_access_key_id": server.access_key, "aws_secret_access_key": server.secret_key}
    config = Config(connect_timeout=1, read_timeout=5, retries={"total_max_attempts": 1})
    return boto3.session.Session().client("s3", endpoint_url=server.endpoint, config=config, **keys)


def free_ports(count: int) -> list[int]:
    """Ports below the ephemeral range that are free together with their gRPC twins."""
    found: list[int] = []
    for port in random.sample(range(12_000, 22_000), 500):
        if len(found) < count and all(_is_free(p) for p in (port, port + GRPC_OFFSET)):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _wait_until_ready(server: S3Server, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            server.client().put_object(Bucket=server.bucket, Key="ready", Body=b"")
            return
        except (BotoCoreError, ClientError):
            time.sleep(0.1)
    raise RuntimeError(f"weed did not become ready:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A running server with one bucket; buckets are not created by themselves."""
    data = tmp_path_factory.mktemp("weed")
    names = ("s3", "master", "volume", "filer", "admin")
    ports = free_ports(len(names))
    server = S3Server(f"http://127.0.0.1:{ports[0]}")
    flags = [f"-{name}.port={port}" for name, port in zip(names, ports, strict=True)]
    flags += ["-webdav=false", "-admin.ui=false", "-master.telemetry=false", "-s3.autoCreateBucket=false"]
    flags += ["-s3.port.iceberg=0", "-s3.port.lance=0", f"-bucket={server.bucket}"]
    command = [WEED, "mini", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *flags]
    environment = {**os.environ, **server.environment, "TMPDIR": str(data)}
    log = data / "log"
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, cwd=data)
    try:
        _wait_until_ready(server, process, log)
        yield server
    finally:
        process.kill()
        process.wait()
        for port in ports:  # weed leaves its sockets in /tmp
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink(missing_ok=True)
            for left in Path("/tmp").glob(f"seaweedfs-*-{port + GRPC_OFFSET}.sock"):
                left.unlink(missing_ok=True)


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, with its credentials and address in the environment."""
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server
