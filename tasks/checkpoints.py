"""Keeps a stage's checkpoints in the object store while it trains, so that any machine continues what was killed.

Each checkpoint is an artifact `checkpoints/{digest}`; the pointer `resume/{stage key}` names those to continue from.
"""

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path
from threading import Event, Thread

from tasks.folder import MANIFEST, link, staging
from tasks.store import Store
from tinybert.errors import IntegrityError, StoreError
from tinybert.refs import Ref
from tinybert.resume import last_checkpoint, read_state

log = logging.getLogger("tinybert")

KIND = "checkpoints"
POINTER = "resume"
EVERY = 5.0
PATIENCE = 20.0  # a process that was asked to end is killed after thirty
ROUNDS_AFTER_A_FAILURE = 10  # each attempt reads the whole checkpoint, while the stage wants the processor


@contextmanager
def mirrored(
    store: Store, key: str, directory: Path, every: float = EVERY, patience: float = PATIENCE
) -> Iterator[None]:
    """Mirror a directory of checkpoints in the store while the body trains, and begin with what the store has.

    Stored checkpoints replace the local ones where they are further on. If the body raises, the newest are uploaded
    before this returns; if it does not, none stays in the store.

    Args:
        store: Where the checkpoints go.
        key: Of the stage, the same on every machine.
        directory: Where the stage writes `checkpoint-N`; it need not be there.
        every: Seconds between two looks at the directory.
        patience: Seconds that the last upload may take if the body raises.

    Raises:
        TransientError: The store does not answer at the beginning; later faults are logged.
        StoreError: The store refuses to say what it has.
    """
    mirror = _Mirror(store, key, directory)
    mirror.restore()
    # In this context, for what it logs belongs to the flow run; a daemon, for a hung store must not keep the process.
    thread = Thread(target=copy_context().run, args=(mirror.follow, every), name="checkpoints", daemon=True)
    thread.start()
    try:
        yield
        mirror.succeeded = True
    finally:
        mirror.ended.set()
        thread.join(None if mirror.succeeded else patience)
        if thread.is_alive():
            mirror.abandoned = True
            log.warning("the last checkpoint did not reach the store within %g s", patience)


def restore(store: Store, key: str, directory: Path) -> None:
    """Begin with what the store has, as `mirrored` does, but write nothing there: another process does.

    Raises:
        TransientError: The store does not answer.
        StoreError: The store refuses to say what it has.
    """
    _Mirror(store, key, directory).restore()


class _Mirror:
    """The checkpoints of one stage, here and in the store; after `restore`, only the thread writes to the store."""

    def __init__(self, store: Store, key: str, directory: Path) -> None:
        self._store, self._key, self._directory = store, key, directory
        self._pointed: dict[str, Ref] = {}  # what the pointer names, where it is the same that lies here
        self._stored: set[Ref] = set()  # all of this stage that is in the store
        self._damaged = False
        self.ended, self.succeeded, self.abandoned = Event(), False, False

    def restore(self) -> None:
        """Fetch what the store has, if it is further on than what lies here."""
        pointed = self._store.pointed(POINTER, self._key)
        found = {name: pointed[name] for name in sorted(pointed, key=_step) if _step(name) >= 0}
        self._stored = set(found.values())
        here = last_checkpoint(self._directory)
        if not found or (here and _step(Path(here).name) >= _step([*found][-1])):
            return
        try:
            self._fetch(found)
        except (IntegrityError, StoreError, OSError) as error:
            log.warning("the checkpoints in the store cannot be used, going on without them: %s", error)
            self._damaged = isinstance(error, IntegrityError)
        else:
            self._pointed = found
            log.info("continuing at %s from the store", [*found][-1])

    def _fetch(self, refs: dict[str, Ref]) -> None:
        """Replace the local checkpoints, the newest last: those of two attempts do not mix, whenever a kill comes."""
        with staging(self._directory.parent) as staged:
            for name, ref in refs.items():
                local, plain = self._store.get(ref), shutil.ignore_patterns(MANIFEST)
                shutil.copytree(local, staged / name, ignore=plain, copy_function=shutil.copyfile)
            (staged / "replaced").mkdir()
            self._directory.mkdir(parents=True, exist_ok=True)
            for old in self._directory.glob("checkpoint-*"):
                old.rename(staged / "replaced" / old.name)
            for name in refs:
                os.utime(staged / name)  # the Trainer takes what was modified first for the oldest
                (staged / name).rename(self._directory / name)

    def follow(self, every: float) -> None:
        """Upload what is new every few seconds until the stage has ended; then the rest, or nothing at all."""
        # Else the same content, computed again, would be taken for stored.
        works = self._attempt(self._clear, warn=True) if self._damaged else True
        while not self.ended.wait(every if works else every * ROUNDS_AFTER_A_FAILURE):
            works = self._attempt(self._upload, warn=works)
        self._attempt(self._clear if self.succeeded else self._upload, warn=works)

    def _attempt(self, action: Callable[[], None], warn: bool) -> bool:
        try:
            action()
        except Exception as error:  # whatever it is, it must not end the training
            if warn:
                log.warning("the checkpoints in the store are not up to date, the stage goes on: %s", error)
            return False
        return True

    def _upload(self) -> None:
        """Let the pointer name the newest checkpoint and the best one, then delete what it named before."""
        newest = last_checkpoint(self._directory)
        if newest is not None and Path(newest).name not in self._pointed:
            names = _needed(Path(newest))
            with staging(self._directory.parent) as staged:
                if not self._snapshot(names - self._pointed.keys(), newest, staged):
                    return
                refs = {name: self._pointed.get(name) or self._put(staged / name) for name in sorted(names, key=_step)}
            if self.abandoned:
                return
            self._store.point(POINTER, self._key, refs)
            self._pointed = refs
        for ref in self._stored - set(self._pointed.values()) if self._pointed else ():
            self._delete(ref)

    def _snapshot(self, names: set[str], newest: str, staged: Path) -> bool:
        """Link checkpoints aside, before the Trainer deletes one; False if it may have begun to.

        It deletes when a newer one is whole, and never the best one by the newest's account.
        """
        try:
            for name in names:
                shutil.copytree(self._directory / name, staged / name, copy_function=link)
        except OSError:
            if last_checkpoint(self._directory) == newest:
                raise
        return last_checkpoint(self._directory) == newest

    def _put(self, snapshot: Path) -> Ref:
        ref = self._store.put(KIND, snapshot)
        self._stored.add(ref)
        return ref

    def _delete(self, ref: Ref) -> None:
        self._store.delete(ref)
        self._stored.discard(ref)

    def _clear(self) -> None:
        """Leave nothing in the store; the pointer goes first, so that it never names what is gone."""
        if self._stored:
            self._store.unpoint(POINTER, self._key)
        for ref in [*self._stored]:
            self._delete(ref)


def _step(name: str) -> int:
    """The N of `checkpoint-N`; -1 for any other name."""
    match = re.fullmatch(r"checkpoint-(\d+)", name, re.ASCII)
    return int(match[1]) if match else -1


def _needed(newest: Path) -> set[str]:
    """Names of the checkpoints that continuing at the newest needs: its own, and that of the best one it speaks of."""
    best = (read_state(newest) or {}).get("best_model_checkpoint")
    return {newest.name, Path(best or newest).name}
