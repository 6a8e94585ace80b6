"""A PostgreSQL cluster of our own, where the machine has PostgreSQL; somebody's running one is never touched."""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import IO

import psutil

from infra.stack.layout import HOST, Layout
from infra.stack.settings import Settings
from tinybert.errors import InputError

ROLE = "tinybert"
DATABASES = ("prefect", "mlflow")
PLACES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin")
"""Where distributions keep the server's programs, which they do not put on the PATH."""


def programs() -> Path | None:
    """Directory of initdb and postgres, the newest if there are several, or None."""
    found = shutil.which("initdb")
    directories = [Path(found).resolve().parent] if found else []
    for place in PLACES:
        directories += sorted(Path("/").glob(place.lstrip("/")), reverse=True)
    return next((path for path in directories if (path / "postgres").exists() and (path / "initdb").exists()), None)


def user() -> str | None:
    """The account the database runs under if we are root, which PostgreSQL refuses to be; else None (our own)."""
    if os.geteuid() != 0:
        return None
    return next(name for name in ("postgres", "nobody") if _exists(name))


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def why_not(layout: Layout) -> str | None:
    """What keeps PostgreSQL from being used here, or None."""
    if programs() is None:
        return "no PostgreSQL on this machine (initdb is not found)"
    account = user()
    if account is None:
        return None
    try:
        subprocess.run(["true"], cwd=layout.directory, user=account, check=True)
    except (OSError, subprocess.SubprocessError):
        return f"PostgreSQL does not run as root, and the account {account} may not enter {layout.directory}"
    return None


def initialise(layout: Layout, settings: Settings) -> None:
    """Make the cluster with its role and databases, unless it is there. It appears whole or not at all.

    Raises:
        InputError: initdb fails.
    """
    if layout.postgres.exists():
        return
    unfinished = layout.directory / "postgres.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    account = user()
    with tempfile.NamedTemporaryFile("w", dir=layout.directory) as password, layout.log("postgres").open("a") as log:
        password.write(settings.postgres_password.get_secret_value())
        password.flush()
        if account is not None:
            shutil.chown(unfinished, account)
            shutil.chown(password.name, account)
        options = [f"--username={ROLE}", "--auth=scram-sha-256", f"--pwfile={password.name}", "--encoding=UTF8"]
        _run("initdb", [f"--pgdata={unfinished}", "--locale=C", "--data-checksums", *options], log)
        # Single-user mode asks for no port, socket or password. It takes one statement a line.
        statements = "".join(f"CREATE DATABASE {name};\n" for name in DATABASES)
        _run("postgres", ["--single", "-D", str(unfinished), "postgres"], log, statements)
    unfinished.rename(layout.postgres)


def _run(program: str, arguments: list[str], log: IO[str], given: str = "") -> None:
    account, directory = user(), programs()
    if directory is None:
        raise InputError("this stack's data are in PostgreSQL, which is no longer found on this machine; install it")
    command = [str(directory / program), *arguments]
    done = subprocess.run(command, input=given, text=True, stdout=log, stderr=log, cwd="/", user=account, check=False)
    if done.returncode:
        raise InputError(f"{program} failed with status {done.returncode}; see {log.name}")


def command(layout: Layout, settings: Settings) -> list[str]:
    """The server in the foreground, on loopback, without a Unix socket, whose path might be too long."""
    program = (programs() or Path("/usr/bin")) / "postgres"
    options = [f"-clisten_addresses={HOST}", f"-cport={settings.postgres_port}", "-cunix_socket_directories="]
    return [str(program), "-D", str(layout.postgres), *options]


def remove_stale_lock(layout: Layout) -> None:
    """Take away the lock file of a server that was killed, if its process number now belongs to somebody else.

    PostgreSQL does so itself, except where that somebody runs under the same account.
    """
    lock = layout.postgres / "postmaster.pid"
    try:
        process = psutil.Process(int(lock.read_text().split("\n", 1)[0]))
        if process.name().startswith("postgres") and Path(process.cwd()) == layout.postgres:
            return
    except (FileNotFoundError, PermissionError, psutil.AccessDenied):
        return
    except (psutil.NoSuchProcess, ValueError):
        pass
    with contextlib.suppress(FileNotFoundError):
        lock.unlink()
