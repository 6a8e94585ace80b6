"""A database that is being made is killed, raced for, or cannot be made: what is at its place is whole, or nothing."""

import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from tasks.database_file import make_whole
from tasks.tracking import Tracker


def make(uri):
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database:
        database.execute("create table numbers (number integer)")
        database.execute("insert into numbers values (7)")
        database.commit()


def numbers(file):
    with closing(sqlite3.connect(file)) as database:
        return database.execute("select number from numbers").fetchall()


def test_what_is_there_stays(tmp_path):
    file = tmp_path / "it.db"
    make(f"sqlite:///{file}")
    make_whole(file, lambda uri: pytest.fail("it is there"))
    assert numbers(file) == [(7,)]


def test_a_failure_leaves_nothing_at_its_place(tmp_path):
    def fail(uri):
        make(uri)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        make_whole(tmp_path / "it.db", fail)
    assert not (tmp_path / "it.db").exists()
    make_whole(tmp_path / "it.db", make)
    assert numbers(tmp_path / "it.db") == [(7,)]


def test_of_two_one_makes_it(tmp_path):
    made, both = [], threading.Barrier(2)

    def slowly(uri):
        made.append(uri)
        time.sleep(0.3)
        make(uri)

    def work(_):
        both.wait()
        make_whole(tmp_path / "it.db", slowly)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))
    assert len(made) == 1
    assert numbers(tmp_path / "it.db") == [(7,)]


def test_mlflow_begins_anew_where_its_first_migrations_were_killed(tmp_path):
    file, scratch = tmp_path / "mlflow.db", tmp_path / ".mlflow.db.new" / "made"
    code = f"from tasks.tracking import Tracker; Tracker('sqlite:///{file}', 'x', None).client"
    process = subprocess.Popen([sys.executable, "-c", code])
    while not (scratch.exists() and scratch.stat().st_size):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not file.exists()
    assert Tracker(f"sqlite:///{file}", "reviews", tmp_path / "spool").experiment_id("reviews")
    assert file.exists()
    assert not scratch.parent.exists()
