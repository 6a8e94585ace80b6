"""The supervisor (supervisord): its configuration, and what we ask of it over its Unix socket."""

import contextlib
import http.client
import os
import shlex
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterable
from typing import Any

from supervisor.xmlrpc import SupervisorTransport

from infra.stack.layout import PART_VARIABLE, ROOT, STACK_VARIABLE, Layout
from infra.stack.parts import Part
from tinybert.errors import InputError

NAME = "supervisor"
State = dict[str, Any]
"""What the supervisor says about a part: `statename`, `pid`, `start`, `exitstatus` and more."""

UNREACHABLE = (OSError, http.client.HTTPException, xmlrpc.client.ProtocolError)

CONFIGURATION = """\
[supervisord]
nodaemon=true
silent=true
umask=077
{user}directory={root}
logfile={logs}/supervisor.log
logfile_maxbytes=5MB
logfile_backups=1
pidfile={pid}
childlogdir={logs}

[unix_http_server]
file={socket}
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""

PROGRAM = """
[program:{name}]
command={python} -m infra.stack.run {name}
directory={root}
priority={priority}
autostart=false
autorestart={restart}
startsecs={seconds}
startretries=100
stopsignal={signal}
stopwaitsecs={grace}
stopasgroup=false
killasgroup=true
redirect_stderr=true
stdout_logfile={log}
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=3
"""


def configuration(layout: Layout, parts: Iterable[Part]) -> str:
    """The supervisor's configuration. It stops the parts in the reverse of their order, each when the last is gone."""
    text = CONFIGURATION.format(
        user="user=root\n" if os.geteuid() == 0 else "",
        root=ROOT,
        logs=layout.logs,
        pid=layout.pid,
        socket=layout.socket,
    )
    for priority, part in enumerate(parts):
        text += PROGRAM.format(
            name=part.name,
            python=shlex.quote(sys.executable),
            root=ROOT,
            priority=priority,
            restart="false" if part.once else "true",
            seconds=0 if part.once else 5,
            signal=part.stop_signal,
            grace=part.grace,
            log=layout.log(part.name),
        )
    return text


def start(layout: Layout, parts: Iterable[Part]) -> None:
    """Start a supervisor that outlives us, and wait until it answers.

    Raises:
        InputError: It does not.
    """
    layout.configuration.write_text(configuration(layout, parts))
    layout.pid.unlink(missing_ok=True)
    inherited = {name: value for name, value in os.environ.items() if name != PART_VARIABLE}
    environment = inherited | {STACK_VARIABLE: str(layout.directory), PART_VARIABLE: NAME}
    command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(layout.configuration)]
    with layout.log("supervisor-start").open("w") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    deadline = time.monotonic() + 30
    while not answers(layout):
        if process.poll() is not None or time.monotonic() > deadline:
            raise InputError(f"the supervisor does not start: {layout.tail('supervisor-start', 3)}")
        time.sleep(0.1)


def client(layout: Layout) -> Any:
    """The supervisor's remote procedures."""
    transport = SupervisorTransport(None, None, serverurl=f"unix://{layout.socket}")
    return xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport).supervisor


def answers(layout: Layout) -> bool:
    """Whether there is a supervisor, be it one that is shutting down."""
    try:
        client(layout).getState()
    except xmlrpc.client.Fault:
        return True
    except UNREACHABLE:
        return False
    return True


def processes(layout: Layout) -> dict[str, State] | None:
    """The state of each part.

    Returns:
        None if there is no supervisor, or one that is shutting down.
    """
    try:
        return {process["name"]: process for process in client(layout).getAllProcessInfo()}
    except (xmlrpc.client.Fault, *UNREACHABLE):
        return None


def start_part(layout: Layout, name: str) -> None:
    """Start a part that is not running."""
    with contextlib.suppress(xmlrpc.client.Fault, *UNREACHABLE):  # what came of it, its state will say
        client(layout).startProcess(name, False)


def stop_part(layout: Layout, name: str) -> None:
    """Ask a part to end, without waiting for it."""
    with contextlib.suppress(xmlrpc.client.Fault, *UNREACHABLE):  # it is not running
        client(layout).stopProcess(name, False)


def shut_down(layout: Layout) -> None:
    """Ask the supervisor to stop all parts in order, and then itself; without waiting for it."""
    with contextlib.suppress(xmlrpc.client.Fault, *UNREACHABLE):  # it is about to already
        client(layout).shutdown()
