"""Ports, bucket and credentials of a stack: chosen once, kept in one file that only its owner reads."""

import os
import secrets
import socket
from pathlib import Path
from typing import Literal

from dotenv import dotenv_values
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from infra.stack.layout import HOST
from tinybert.errors import InputError

GRPC_OFFSET = 10_000
"""The S3 server takes each of its ports a second time, this much higher."""

USUAL_PORTS = {
    "prefect_port": 4200,
    "mlflow_port": 5000,
    "s3_port": 8333,
    "postgres_port": 5433,  # 5432 is left to the machine's own
    "s3_master_port": 9333,
    "s3_volume_port": 9340,
    "s3_filer_port": 8888,
    "s3_admin_port": 9350,
}
"""What each server listens on where that is free."""

HEADER = """\
# Ports, bucket and credentials of the stack in this directory, made by `make up`. Keep it to yourself.
# Lines you add (HF_TOKEN=..., TINYBERT_EXPERIMENT=...) are handed to the worker, and so to every run.
"""


class Settings(BaseModel):
    """The `.env` of a stack; its other lines are `handed_on`."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    database: Literal["postgresql", "sqlite"]
    """Where Prefect and MLflow keep what they know."""
    prefect_port: int
    """Of Prefect's server and UI."""
    mlflow_port: int
    """Of MLflow's server and UI."""
    s3_port: int
    """Of the S3 server, as clients see it."""
    postgres_port: int
    """Of the database."""
    s3_master_port: int
    """The S3 server's own."""
    s3_volume_port: int
    """The S3 server's own."""
    s3_filer_port: int
    """The S3 server's own."""
    s3_admin_port: int
    """The S3 server's own."""
    s3_bucket: str = Field("artifacts", pattern="^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")
    """The only bucket."""
    worker_limit: int = 4
    """Flow runs at once; how many of them compute is up to the limit `accelerator`."""
    aws_access_key_id: str
    """Of the one S3 identity."""
    aws_secret_access_key: SecretStr
    """Of the one S3 identity."""
    postgres_password: SecretStr
    """Of the database's one role."""

    @property
    def handed_on(self) -> dict[str, str]:
        """Variables for the worker that somebody wrote into the file."""
        return {name.upper(): str(value) for name, value in (self.model_extra or {}).items()}

    @property
    def prefect_url(self) -> str:
        """Prefect in the browser."""
        return f"http://{HOST}:{self.prefect_port}"

    @property
    def mlflow_url(self) -> str:
        """MLflow in the browser, and for clients."""
        return f"http://{HOST}:{self.mlflow_port}"

    @property
    def s3_url(self) -> str:
        """The S3 endpoint."""
        return f"http://{HOST}:{self.s3_port}"

    @property
    def ports(self) -> dict[str, list[int]]:
        """Every port that the stack takes, under the name it has in the file."""
        names = [name for name in USUAL_PORTS if name != "postgres_port" or self.database == "postgresql"]
        return {name.upper(): taken_by(name, getattr(self, name)) for name in names}


def taken_by(name: str, port: int) -> list[int]:
    """The ports that a server takes which is given one."""
    return [port, port + GRPC_OFFSET] if name.startswith("s3_") else [port]


def load(path: Path) -> Settings:
    """The settings in a file.

    Raises:
        InputError: A line is missing or wrong.
    """
    values = {name.lower(): value for name, value in dotenv_values(path, interpolate=False).items()}
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        wrong = ", ".join(str(problem["loc"][0]).upper() for problem in error.errors())
        raise InputError(f"{path}: missing or wrong: {wrong}; mend these lines") from None


def create(path: Path, database: Literal["postgresql", "sqlite"]) -> Settings:
    """Free ports and new secrets, written to a file at once and whole, for the owner alone."""
    made: dict[str, object] = {
        "database": database,
        **free_ports(),
        "aws_access_key_id": secrets.token_hex(10).upper(),
        "aws_secret_access_key": secrets.token_urlsafe(32),
        "postgres_password": secrets.token_urlsafe(32),
    }
    settings = Settings.model_validate(made)
    for name in ("s3_bucket", "worker_limit"):
        made[name] = getattr(settings, name)
    unfinished = path.with_suffix(".unfinished")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(HEADER + "".join(f"{name.upper()}={value}\n" for name, value in made.items()))
    unfinished.replace(path)
    return settings


def free_ports() -> dict[str, int]:
    """A free port for each server: the usual one, or the next above it that is free with all that come with it."""
    chosen: dict[str, int] = {}
    taken: set[int] = set()
    for name, usual in USUAL_PORTS.items():
        candidates = (port for port in range(usual, usual + 1000) if not taken & set(taken_by(name, port)))
        chosen[name] = next(port for port in candidates if all(map(is_free, taken_by(name, port))))
        taken.update(taken_by(name, chosen[name]))
    return chosen


def is_free(port: int) -> bool:
    """Whether a server could listen on a port of this machine, as ours do (old connections do not hinder them)."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
