"""The command line: `python -m infra.stack up`, `down` and `status`; see docs/stack.md."""

import argparse
import signal
import sys
import time
from types import FrameType

from filelock import Timeout

from infra.stack import checks, control, settings, supervisor
from infra.stack.layout import ROOT, Layout
from infra.stack.parts import parts
from tinybert.errors import InputError

UP = """\

Prefect   {known.prefect_url}    runs, deployments, schedules
MLflow    {known.mlflow_url}    experiments, registered models
S3        {known.s3_url}    bucket {known.s3_bucket}; its keys are in {layout.env}
database  {database}

start a run   {known.prefect_url}/deployments > smoke > Run, or
              PREFECT_API_URL={known.prefect_url}/api {python} -m prefect deployment run distill/smoke
data          {layout.directory}
logs          {layout.logs}
stop          {stop}
"""
DATABASES = {"postgresql": "PostgreSQL", "sqlite": "SQLite: enough for one person, slow for several"}


def say(line: str) -> None:
    """A line for whoever waits at the terminal, at once."""
    print(line, flush=True)


def up(layout: Layout) -> int:
    """Bring the stack up, show what dies and comes back, and take it down when asked to."""
    layout.directory.mkdir(parents=True, exist_ok=True)
    lock = control.lock(layout)
    try:
        lock.acquire()
    except Timeout:
        return _already(layout)
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), _interrupt)
    try:
        known = control.prepare(layout, say)
        say(f"starting the stack in {layout.directory}")
        if control.bring_up(layout, known, say):
            say(_overview(layout, known, "Ctrl-C here, or `make down` anywhere"))
            if layout.tail("setup", lines=1) == checks.UNTOLD:
                say(checks.UNTOLD)
        for news in control.watch(layout):
            say(news)
        return _gone(layout)
    except KeyboardInterrupt:
        return down(layout)
    except InputError:
        if layout.env.exists():
            control.take_down(layout, say)
        raise
    finally:
        lock.release()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _already(layout: Layout) -> int:
    say(f"the stack in {layout.directory} is already running, or about to")
    if layout.env.exists():
        say(_overview(layout, settings.load(layout.env), "`make down`, or Ctrl-C where it was started"))
    return 0


def _overview(layout: Layout, known: settings.Settings, stop: str) -> str:
    """Where everything is, on which database, and what one does next."""
    return UP.format(known=known, layout=layout, database=DATABASES[known.database], python=_python(), stop=stop)


def _gone(layout: Layout) -> int:
    """The supervisor is gone: asked to by `down`, which clears up itself, or killed."""
    if not layout.pid.exists():
        say("stopped")
        return 0
    say("the supervisor was killed: ending what it has left")
    control.take_down(layout, say)
    say("run `make up` again; nothing that was stored is lost")
    return 1


def down(layout: Layout) -> int:
    """Take the stack down, wherever it was started."""
    if not layout.env.exists():
        say(f"there is no stack in {layout.directory}")
        return 0
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    say("stopping worker, servers, S3 and database ...")
    control.take_down(layout, say)
    say("stopped; the data stay")
    return 0


def status(layout: Layout) -> int:
    """Say how each part is; 0 if all are healthy."""
    if not layout.env.exists() or not supervisor.answers(layout):
        say(f"the stack in {layout.directory} is not running")
        return 1
    known = settings.load(layout.env)
    states = supervisor.processes(layout)
    if states is None:
        say("it is being stopped")
        return 1
    healthy = {part.name: control.is_healthy(part, states[part.name]) for part in parts(layout, known).values()}
    for name, fine in healthy.items():
        say(f"{name:<10} {'healthy' if fine else 'NOT HEALTHY':<12} {_describe(states[name])}")
    return 0 if all(healthy.values()) else 1


def _describe(state: supervisor.State) -> str:
    if state["statename"] != "RUNNING":
        return str(state["statename"]).lower()
    return f"process {state['pid']}, up {time.strftime('%H:%M:%S', time.gmtime(state['now'] - state['start']))}"


def _python() -> str:
    path = ROOT / ".venv" / "bin" / "python"
    return ".venv/bin/python" if path.exists() else sys.executable


def main() -> int:
    """Run the command that was asked for."""
    parser = argparse.ArgumentParser(prog="python -m infra.stack", description=__doc__)
    parser.add_argument("command", choices=["up", "down", "status"])
    command = {"up": up, "down": down, "status": status}[parser.parse_args().command]
    try:
        return command(Layout.here())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
