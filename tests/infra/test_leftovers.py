"""What a killed stack leaves is found and ended; what is not its own is left alone."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra.stack import leftovers, postgres
from infra.stack.layout import PART_VARIABLE, STACK_VARIABLE, Layout

SLEEP = "import time; time.sleep(60)"
PARENT = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', '{SLEEP}']); {SLEEP}"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


@pytest.fixture
def start():
    started = []

    def start(code: str, **marks: str) -> subprocess.Popen:
        process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, **marks})
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def marks(layout: Layout, part: str) -> dict[str, str]:
    return {STACK_VARIABLE: str(layout.directory), PART_VARIABLE: part}


def wait_for(count: int, layout: Layout, part: str) -> list:
    deadline = time.monotonic() + 10
    while len(found := leftovers.belonging_to(layout, part)) != count and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def test_a_part_is_ended_with_what_it_started(layout, start):
    parent = start(PARENT, **marks(layout, "mlflow"))
    found = wait_for(2, layout, "mlflow")
    assert [process.pid for process in leftovers.topmost(found)] == [parent.pid]
    assert leftovers.end(found, grace=0.5) == 2
    assert wait_for(0, layout, "mlflow") == []


def test_other_stacks_and_other_parts_and_shells_are_left_alone(layout, start, tmp_path):
    elsewhere = Layout(tmp_path / "elsewhere")
    others = [
        start(SLEEP, **marks(elsewhere, "mlflow")),
        start(SLEEP, **marks(layout, "prefect")),
        start(SLEEP, **{STACK_VARIABLE: str(layout.directory)}),  # a shell in which the variable is set
    ]
    wait_for(1, layout, "prefect")
    assert leftovers.belonging_to(layout, "mlflow") == []
    assert [process.poll() for process in others] == [None, None, None]


def test_one_that_ignores_the_request_is_killed(layout, start):
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, **marks(layout, "s3")}, stdout=subprocess.PIPE
    )
    process.stdout.readline()
    assert leftovers.end(leftovers.belonging_to(layout, "s3"), grace=0.3) == 1
    assert leftovers.belonging_to(layout, "s3") == []


def lock_of(layout: Layout, number: int) -> Path:
    layout.postgres.mkdir()
    lock = layout.postgres / "postmaster.pid"
    lock.write_text(f"{number}\n{layout.postgres}\n")
    return lock


def test_the_databases_lock_goes_when_its_number_is_somebody_elses(layout):
    lock = lock_of(layout, os.getpid())  # alive, and no PostgreSQL
    postgres.remove_stale_lock(layout)
    assert not lock.exists()


def test_the_databases_lock_goes_when_nobody_has_its_number(layout):
    lock = lock_of(layout, 2**22 + 1)  # beyond what Linux gives out
    postgres.remove_stale_lock(layout)
    assert not lock.exists()


def test_without_a_lock_nothing_happens(layout):
    postgres.remove_stale_lock(layout)
    assert not layout.postgres.exists()
