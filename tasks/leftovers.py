"""What lies in this machine's TINYBERT_WORK and may go: copies of what the store has, and stages nobody finished."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.bucket import translated
from tasks.folder import MANIFEST, Folder, staging

COPIES, STAGES = "local copies", "unfinished stages"
_STAGE = re.compile(r"[a-z][a-z0-9_]*-[0-9a-f]{64}")


@dataclass(frozen=True)
class Leftover:
    """A directory in TINYBERT_WORK, or a file that was fetched."""

    kind: str
    """`COPIES` or `STAGES`."""
    path: Path
    size: int
    """Bytes that only become free with it, or with one that was listed later."""
    modified: float
    """Seconds since 1970, when it was last used."""

    def expire(self, unused_since: float) -> bool:
        """Deletes it, unless it was used since then or its stage is in progress; a kill leaves no half of it."""
        with translated(f"file:{self.path}", self.path), suppress(FileNotFoundError), _held(self) as mine:
            if not mine or _used(self.kind, self.path) >= unused_since:
                return False
            with staging(self.path.parent) as staged:
                self.path.rename(staged / "deleted")
            return True
        return False


def leftovers(work: Path) -> Iterator[Leftover]:
    """What may go, where it has been unused for long; not the spool, which holds what MLflow has not been told."""
    seen = set[tuple[int, int]]()
    copies = [(COPIES, path) for path in sorted(work.glob("fetched/*/*")) if not path.name.startswith(".")]
    stages = [(STAGES, path) for path in sorted(work.glob("*-*")) if _STAGE.fullmatch(path.name)]
    for kind, path in [*copies, *stages]:
        with suppress(FileNotFoundError):
            yield Leftover(kind, path, _size(path, seen), _used(kind, path))


@contextmanager
def _held(found: Leftover) -> Iterator[bool]:
    """Whether no stage works there; none begins before this is over."""
    if found.kind != STAGES:
        yield True
        return
    lock = FileLock(f"{found.path}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _used(kind: str, path: Path) -> float:
    """When it was used: a copy's own time, or its manifest's, is set at every use; a stage writes files."""
    if kind == COPIES:
        return Folder(path).modified(MANIFEST) or path.stat().st_mtime
    return max([path.stat().st_mtime, *(entry.modified for entry in Folder(path).entries())])


def _size(path: Path, seen: set[tuple[int, int]]) -> int:
    """Bytes of the files that were not seen under another name; fetched sources are links to fetched objects."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    size = 0
    for file in files:
        found = file.stat()
        if (key := (found.st_dev, found.st_ino)) not in seen:
            seen.add(key)
            size += found.st_size
    return size
