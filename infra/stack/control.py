"""Bringing the stack up, watching it, and taking it down, in the order that its parts need."""

import time
from collections.abc import Callable, Iterator

from filelock import FileLock

from infra.stack import leftovers, postgres, settings, supervisor
from infra.stack.layout import Layout
from infra.stack.parts import Part, parts, write_identities
from infra.stack.settings import Settings
from infra.stack.supervisor import State
from tinybert.errors import InputError

Say = Callable[[str], None]

DYING = 30
"""Seconds for which a part may end and be started again before it counts as one that cannot start."""


def prepare(layout: Layout, say: Say) -> Settings:
    """Everything that must be there before the first process: directories, `.env`, database cluster.

    Raises:
        InputError: What is missing or in the way, and what to do.
    """
    layout.make()
    if layout.env.exists():
        found = settings.load(layout.env)
    else:
        hindrance = postgres.why_not(layout)
        if hindrance:
            say(f"{hindrance}: Prefect and MLflow use SQLite, which is enough for one person and slow for several")
        found = settings.create(layout.env, "sqlite" if hindrance else "postgresql")
    if supervisor.answers(layout):
        return found
    swept = sweep(layout, found)
    if swept:
        say(f"ended {swept} processes that an earlier stack had left")
    check_ports(layout, found)
    if found.database == "postgresql":
        postgres.initialise(layout, found)
    write_identities(layout, found)
    return found


def sweep(layout: Layout, known: Settings) -> int:
    """End what is left of this stack, the supervisor first, which would start it anew, then in the order of stopping.

    Returns:
        How many processes there were.
    """
    count = leftovers.end(leftovers.belonging_to(layout, supervisor.NAME), grace=0)
    for part in reversed(parts(layout, known).values()):
        processes = leftovers.belonging_to(layout, part.name)
        count += leftovers.end(processes, part.grace if part.name == "postgres" else 10, part.stop_signal)
    return count


def check_ports(layout: Layout, known: Settings) -> None:
    """Raise InputError if another program listens where one of the parts is to listen."""
    for name, ports in known.ports.items():
        for port in ports:
            if not settings.is_free(port):
                raise InputError(f"port {port} is taken by another program; end it, or change {name} in {layout.env}")


def bring_up(layout: Layout, known: Settings, say: Say) -> bool:
    """Start each part as soon as those before it are healthy, and wait until all are.

    Returns:
        False if somebody stops the stack meanwhile.

    Raises:
        InputError: One does not become healthy in time, or ends; the message has the end of its log.
    """
    waiting = parts(layout, known)
    if not supervisor.answers(layout):
        supervisor.start(layout, waiting.values())
    asked: dict[str, float] = {}
    while waiting:
        states = supervisor.processes(layout)
        if states is None:
            return False
        for part in list(waiting.values()):
            if any(name in waiting for name in part.after):
                continue
            if part.name not in asked:
                asked[part.name] = time.monotonic()
                supervisor.start_part(layout, part.name)
            elif is_healthy(part, states[part.name]):
                say(f"  {part.name:<10} ready after {time.monotonic() - asked[part.name]:.1f} s")
                del waiting[part.name]
            elif problem := _problem(part, states[part.name], time.monotonic() - asked[part.name]):
                end = f"the end of {layout.log(part.name)}:\n{layout.tail(part.name)}"
                raise InputError(f"{part.name} {problem}; {end}")
        time.sleep(0.2)
    return True


def is_healthy(part: Part, state: State) -> bool:
    """Whether a part does its work, or has done it."""
    if part.once:
        return bool(state["statename"] == "EXITED" and state["exitstatus"] == 0)
    return state["statename"] in ("STARTING", "RUNNING") and part.healthy(state["start"])


def _problem(part: Part, state: State, waited: float) -> str | None:
    if state["statename"] == "FATAL" or (part.once and state["statename"] == "EXITED"):
        return f"ended with status {state['exitstatus']}"
    if state["statename"] == "BACKOFF" and waited > DYING:
        return "dies whenever it is started"
    if waited > part.patience:
        return f"is not ready after {part.patience} seconds"
    return None


def watch(layout: Layout) -> Iterator[str]:
    """Sentences about parts that die, come back or stay away, until the supervisor is gone."""
    before = supervisor.processes(layout) or {}
    while supervisor.answers(layout):
        time.sleep(1)
        for name, state in (supervisor.processes(layout) or {}).items():
            news = news_of(before.get(name, state), state)
            if news:
                yield f"{time.strftime('%H:%M:%S')}  {name} {news}; {layout.log(name)}"
            if news or state["pid"]:  # who is between two lives is remembered as it was
                before[name] = state


def news_of(before: State, now: State) -> str | None:
    """What has happened to a part between two looks at it, if anything worth telling."""
    if now["statename"] == "FATAL" != before["statename"]:
        return "dies whenever it is started, and is left alone now"
    if now["pid"] and now["pid"] != before["pid"]:
        return "died and was started again"
    return None


def take_down(layout: Layout, say: Say) -> None:
    """Stop the worker with its flow runs, then the servers, S3 and the database; nothing of the stack is left."""
    known = settings.load(layout.env)
    listed = parts(layout, known)
    if supervisor.answers(layout):
        _end_runs(layout, listed["worker"], say)
        supervisor.shut_down(layout)
        deadline = time.monotonic() + sum(part.grace for part in listed.values())
        while supervisor.answers(layout) and time.monotonic() < deadline:
            time.sleep(0.2)
    sweep(layout, known)
    layout.pid.unlink(missing_ok=True)


def _end_runs(layout: Layout, worker: Part, say: Say) -> None:
    """A worker that is asked to end waits for its flow runs: ask them, too, so that they write a checkpoint and end."""
    states = supervisor.processes(layout)
    number = states["worker"]["pid"] if states else None
    supervisor.stop_part(layout, "worker")
    runs = [process for process in leftovers.belonging_to(layout, "worker") if process.pid != number]
    if runs:
        say("ending flow runs; they go on at their last checkpoint when they are run again")
        leftovers.end(runs, worker.grace - 5)


def lock(layout: Layout) -> FileLock:
    """Held by the one `make up` that may run; it ends with its process, even a killed one."""
    return FileLock(layout.lock, blocking=False)
