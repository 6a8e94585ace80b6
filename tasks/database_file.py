"""A SQLite database that is there whole or not at all, however often those who make it are killed."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from filelock import FileLock


def make_whole(file: Path, make: Callable[[str], object]) -> None:
    """Make a database where there is none: migrations that a kill cut short MLflow never takes up again.

    Args:
        file: Of the database. Of several processes one makes it, the others wait.
        make: Makes one at the URI it is given. What it leaves open does no harm: a copy is taken.
    """
    if file.exists():
        return
    scratch = file.with_name(f".{file.name}.new")
    with FileLock(f"{scratch}.lock"):
        if file.exists():  # somebody was faster
            return
        shutil.rmtree(scratch, ignore_errors=True)  # of one that was killed
        scratch.mkdir()
        make(f"sqlite:///{scratch / 'made'}")
        with closing(sqlite3.connect(scratch / "made")) as made, closing(sqlite3.connect(scratch / "whole")) as whole:
            made.backup(whole)
        (scratch / "whole").replace(file)
        shutil.rmtree(scratch)
