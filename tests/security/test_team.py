"""Prefect and MLflow behind passwords, S3 behind keys: who has them gets in, and no run leaves them lying about."""

import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import boto3.session
import httpx
import psutil
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from pydantic import SecretStr
from werkzeug.security import generate_password_hash

from infra.stack import settings
from infra.stack.layout import Layout
from infra.stack.parts import parts, run_environment
from infra.stack.provision import LIMITS, make_limit
from tests.security.canaries import files, leaks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

SECRETS = {
    "S3 key": "CANARYAKIA7Q2WZX4",
    "S3 secret": "canary/s3+xY7kQ2vL9mT4/p",
    "hub token": "hf_canaryTq8Zk2Vb7Ny4Rw9",
    "MLflow password": "canary mlflow/k3+Xw8",
    "MLflow administrator": "canary-admin-Pz6tQ9",
    "Prefect password": "canary-prefect-9sVx4",
    "proxy password": "canary-proxy-4hLw7",
    "wrong password": "canary-wrong-2dRf8",
    "endpoint password": "canary-endpoint-6jBn3",
}
USER = "pipeline"
WITHOUT = ("mlm", "general", "augment", "layers", "baseline")
"""Stages that would add nothing."""
AUTHENTICATION = Path(__file__).parents[2] / "infra" / "authentication"


class Team:
    """S3, Prefect and MLflow as `make up` starts them, the last two with the passwords that a team's need."""

    def __init__(self, place: Path) -> None:
        self.place, self.layout = place, Layout(place / "stack")
        self.layout.make()
        made = settings.create(self.layout.env, "sqlite")
        keys = {
            "aws_access_key_id": SECRETS["S3 key"],
            "aws_secret_access_key": SecretStr(SECRETS["S3 secret"]),
        }
        self.known = made.model_copy(update=keys)
        self.processes: list[subprocess.Popen[bytes]] = []

    @property
    def authority(self) -> str:
        return self.known.mlflow_url.removeprefix("http://")

    def start(self) -> None:
        listed = parts(self.layout, self.known)
        database = f"sqlite:///{self.layout.mlflow}/mlflow.db"
        ini = self.place / "mlflow.ini"
        text = (AUTHENTICATION / "mlflow.ini").read_text()
        ini.write_text(text.replace("postgresql+psycopg2://tinybert@postgres:5432/mlflow", database))
        assert database in ini.read_text()
        more = {
            "s3": ([], {}),
            "prefect": ([], {"PREFECT_SERVER_API_AUTH_STRING": f"team:{SECRETS['Prefect password']}"}),
            "mlflow": (
                ["--app-name", "basic-auth"],
                {
                    "MLFLOW_AUTH_CONFIG_PATH": str(ini),
                    "MLFLOW_AUTH_ADMIN_PASSWORD": SECRETS["MLflow administrator"],
                    "MLFLOW_FLASK_SERVER_SECRET_KEY": SECRETS["MLflow administrator"],
                },
            ),
        }
        for name, (options, environment) in more.items():
            part = listed[name]
            part.prepare()
            with self.layout.log(name).open("wb") as log:
                command = [*part.command, *options]
                self.processes.append(
                    subprocess.Popen(command, env=part.environment | environment, stdout=log, stderr=log)
                )
        for name in more:
            deadline = time.monotonic() + 300
            while not listed[name].healthy(0):
                assert time.monotonic() < deadline, self.layout.tail(name, 50)
                time.sleep(0.5)

    def open_doors(self) -> None:
        """A user for runs, as docs/security.md makes one; and the limits that runs need."""
        made = httpx.post(
            f"{self.known.mlflow_url}/api/2.0/mlflow/users/create",
            json={"username": USER, "password": SECRETS["MLflow password"]},
            auth=("admin", SECRETS["MLflow administrator"]),
            trust_env=False,
        )
        made.raise_for_status()
        # MLflow hashes the password at every request, half a second of a busy processor: here it may be cheap.
        cheap = generate_password_hash(SECRETS["MLflow password"], "pbkdf2:sha256:1")
        with sqlite3.connect(self.layout.mlflow / "mlflow.db") as users:
            changed = users.execute("UPDATE users SET password_hash = ? WHERE username = ?", (cheap, USER))
            assert changed.rowcount == 1
        address = {
            PREFECT_API_URL: f"{self.known.prefect_url}/api",
            PREFECT_API_AUTH_STRING: f"team:{SECRETS['Prefect password']}",
        }
        with temporary_settings(address), get_client(sync_client=True) as client:
            for limit in LIMITS:
                make_limit(client, limit)

    def run(self, name: str, *, embedded: bool = False, **environment: str) -> subprocess.CompletedProcess[str]:
        """A smoke run from the command line; what it said is kept with all the rest that it leaves."""
        password = SECRETS["MLflow password"]
        given = {
            "PREFECT_API_AUTH_STRING": f"team:{SECRETS['Prefect password']}",
            "HF_TOKEN": SECRETS["hub token"],
            "HTTPS_PROXY": f"http://somebody:{SECRETS['proxy password']}@127.0.0.1:9",
            "TINYBERT_WORK": str(self.place / "work"),
            "HF_HUB_OFFLINE": "1",
        }
        if embedded:
            given["MLFLOW_TRACKING_URI"] = f"http://{USER}:{quote(password, safe='')}@{self.authority}"
        else:
            given |= {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": password}
        command = [sys.executable, "-m", "flows.distill", "--preset", "smoke", "--json", "summary.json"]
        command += [part for stage in WITHOUT for part in ("--set", f"{stage}.enabled=false")]
        everything = run_environment(self.layout, self.known) | given | environment
        done = subprocess.run(command, env=everything, cwd=self.place, capture_output=True, text=True, check=False)
        (self.place / f"{name}.txt").write_text(done.stdout + done.stderr)
        return done

    def bucket(self, **options):
        config = Config(proxies={}, retries={"total_max_attempts": 1}, **options)
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.known.s3_url,
            aws_access_key_id=self.known.aws_access_key_id,
            aws_secret_access_key=self.known.aws_secret_access_key.get_secret_value(),
            region_name="us-east-1",
            config=config,
        )

    def left_behind(self) -> Iterator[tuple[str, bytes]]:
        """All that there is: files, databases, logs, and the objects, which the S3 server's own files may compress."""
        yield from files(self.place, self.layout.identities)
        bucket = self.bucket()
        for page in bucket.get_paginator("list_objects_v2").paginate(Bucket=self.known.s3_bucket):
            for item in page.get("Contents", []):
                body = bucket.get_object(Bucket=self.known.s3_bucket, Key=item["Key"])["Body"].read()
                yield f"s3: {item['Key']}", item["Key"].encode() + b"\n" + body

    def stop(self) -> None:
        for process in self.processes:
            found = [process, *psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []
            for each in found:
                each.kill()
            process.wait()


@pytest.fixture(scope="module")
def team(tmp_path_factory, smoke_material):
    place = tmp_path_factory.mktemp("team")
    (place / "build").mkdir()
    (place / "build" / "smoke").symlink_to(smoke_material)
    team = Team(place)
    try:
        team.start()
        team.open_doors()
        yield team
    finally:
        team.stop()


@pytest.fixture(scope="module")
def runs(team):
    """A run with every password right, the same again with MLflow's in the environment, and four that fail."""
    wrong = SECRETS["wrong password"]
    return {
        "first": team.run("first", embedded=True),
        "again": team.run("again"),
        "locked out by MLflow": team.run("mlflow", MLFLOW_TRACKING_PASSWORD=wrong),
        "locked out by Prefect": team.run("prefect", PREFECT_API_AUTH_STRING=f"team:{wrong}"),
        "locked out by S3": team.run("s3", AWS_SECRET_ACCESS_KEY=wrong),
        "no S3": team.run(
            "endpoint",
            AWS_ENDPOINT_URL_S3=f"http://key:{SECRETS['endpoint password']}@127.0.0.1:9",
            AWS_MAX_ATTEMPTS="1",
        ),
    }


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", ["first", "again"])
def test_a_run_with_the_right_passwords_ends_well(runs, name):
    assert runs[name].returncode == 0, runs[name].stderr
    assert "registry: smoke version 1" in runs[name].stdout
    assert "does not answer" not in runs[name].stderr


def test_nobody_gets_in_without_a_password(team, runs):
    api, tracking = f"{team.known.prefect_url}/api", f"{team.known.mlflow_url}/api/2.0/mlflow"
    for options in ({}, {"auth": ("team", "wrong")}):
        assert httpx.post(f"{api}/flow_runs/filter", json={}, trust_env=False, **options).status_code == 401
        found = httpx.get(f"{tracking}/experiments/get-by-name?experiment_name=tinybert", trust_env=False, **options)
        assert found.status_code == 401
    with pytest.raises(ClientError, match="AccessDenied"):
        team.bucket(signature_version=UNSIGNED).list_objects_v2(Bucket=team.known.s3_bucket)


def test_a_run_that_mlflow_locks_out_says_what_to_set(team, runs):
    assert runs["locked out by MLflow"].returncode == 2
    problem = f"error: MLflow at {team.known.mlflow_url}: it asks for a password (401); set MLFLOW_TRACKING_USERNAME"
    assert last_line(runs["locked out by MLflow"]).startswith(problem)


def test_a_run_that_prefect_locks_out_says_what_to_set(runs):
    assert runs["locked out by Prefect"].returncode == 2
    assert "set PREFECT_API_AUTH_STRING" in last_line(runs["locked out by Prefect"])


def test_a_run_that_s3_locks_out_says_what_to_check(runs):
    assert runs["locked out by S3"].returncode == 2
    assert "access refused; check the credentials and their rights" in last_line(runs["locked out by S3"])


def test_a_run_without_s3_says_so(runs):
    assert runs["no S3"].returncode != 0
    assert "S3" in runs["no S3"].stderr


@pytest.mark.parametrize("name", ["locked out by MLflow", "locked out by Prefect", "locked out by S3", "no S3"])
def test_a_run_that_fails_says_so_without_a_traceback(runs, name):
    assert "Traceback" not in runs[name].stderr


def test_no_secret_is_left_behind(team, runs):
    kept = list(team.left_behind())
    places = {place for place, _ in kept}
    assert {"first.txt", "summary.json", "stack/logs/mlflow.log", "stack/logs/prefect.log"} <= places
    assert any(place.endswith("prefect.db, dumped") for place in places)
    assert any(place.endswith("mlflow.db, dumped") for place in places)
    for kind in ("model", "report", "checkpoints", "dataset"):
        assert kind == "checkpoints" or any(place.startswith(f"s3: tinybert/{kind}/") for place in places)
    assert any(place.startswith("s3: mlflow/") for place in places)
    assert leaks(iter(kept), SECRETS) == set()


def test_all_servers_listen_on_loopback_alone(team):
    for process in team.processes:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        open_ports = [
            connection.laddr
            for member in family
            for connection in member.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert open_ports
        assert {address.ip for address in open_ports} <= {"127.0.0.1", "::1"}


def test_the_keys_of_s3_open_one_bucket(team):
    bucket, body = team.bucket(), b"of somebody else"
    filer = f"http://127.0.0.1:{team.known.s3_filer_port}/buckets/another/theirs.txt"
    httpx.post(filer, files={"file": ("theirs.txt", body)}, trust_env=False).raise_for_status()
    assert httpx.get(filer, trust_env=False).content == body
    for call in (
        lambda: bucket.get_object(Bucket="another", Key="theirs.txt"),
        lambda: bucket.put_object(Bucket="another", Key="ours.txt", Body=b""),
        lambda: bucket.delete_object(Bucket="another", Key="theirs.txt"),
        lambda: bucket.list_objects_v2(Bucket="another"),
        lambda: bucket.copy_object(Bucket="artifacts", Key="stolen.txt", CopySource="another/theirs.txt"),
        lambda: bucket.delete_bucket(Bucket="another"),
        lambda: bucket.create_bucket(Bucket="third"),
    ):
        with pytest.raises(ClientError, match="AccessDenied"):
            call()
    assert httpx.get(filer, trust_env=False).content == body
