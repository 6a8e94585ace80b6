"""Artifacts in a local folder: staged, checked, made read-only, and named at once when they are whole.

An artifact is a directory, complete once its (hidden) manifest is there, written last. The store of a machine without
S3 is made of these, and the local copies of what S3 holds too.
"""

import errno
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, StringConstraints, ValidationError

from tinybert.digest import FileEntry, files_digest, list_files
from tinybert.errors import IntegrityError, StoreError
from tinybert.refs import Ref

MANIFEST = ".manifest.json"
STAGING = ".staging-"
CONTENT = re.compile(r"[^./\x00][^/\x00]*(/[^./\x00][^/\x00]*)*")
"""A relative path, nothing hidden, so no `..` either."""
INSIDE = re.compile(r"(?P<kind>[a-z][a-z0-9_-]*)/(?P<digest>[0-9a-f]{64})/(?P<name>.+)", re.DOTALL)
"""A file of an artifact, by its name below the root of the store."""


class Entry(NamedTuple):
    """A file or object below some place."""

    name: str
    size: int
    modified: float
    """Seconds since 1970."""


class Manifest(BaseModel):
    """What an artifact consists of."""

    version: Literal[1] = 1
    kind: str
    digest: str
    files: dict[Annotated[str, StringConstraints(pattern=f"^{CONTENT.pattern}$")], FileEntry]


@dataclass(frozen=True)
class Folder:
    """A directory of the store: an artifact, the pointers of one kind, or the root of all."""

    path: Path

    def read(self, name: str) -> bytes | None:
        """The content of a file, None without one."""
        with suppress(FileNotFoundError, NotADirectoryError):
            return (self.path / name).read_bytes()
        return None

    def write(self, name: str, body: bytes) -> None:
        """Gives a file this content; whoever reads meanwhile sees the old or the new."""
        with staging(self.path) as staged:
            _write_to_disk(staged / name, body)
            (staged / name).replace(self.path / name)

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        (self.path / name).unlink(missing_ok=True)

    def put(self, directory: Path, manifest: Manifest, given: bool) -> None:
        """Makes the artifact from the files of a directory, out of the files themselves where they are given to it."""
        with staging(self.path.parent) as staged:
            for name in manifest.files:
                (staged / name).parent.mkdir(parents=True, exist_ok=True)
                (link if given else shutil.copyfile)(directory / name, staged / name)
            if not all((staged / name).samefile(directory / name) for name in manifest.files):
                verify(staged, manifest.files, f"{directory} while it was stored")
            self.publish(staged, manifest)

    def publish(self, staged: Path, manifest: Manifest) -> None:
        """Gives staged files, which were checked, their final name, once the manifest is on the disk."""
        _write_to_disk(staged / MANIFEST, manifest.model_dump_json(indent=1).encode())
        move(staged, self.path, intact=lambda: self.is_intact(manifest.digest))

    def is_intact(self, digest: str) -> bool:
        """Whether the artifact is complete and its files have this digest."""
        return self.read(MANIFEST) is not None and files_digest(list_files(self.path)) == digest

    def touch(self) -> bool:
        """Whether there is an artifact; its age counts from now, where we may write."""
        with suppress(OSError):
            os.utime(self.path / MANIFEST)
        return self.read(MANIFEST) is not None

    def open(self, ref: Ref, cache: Path) -> Path:
        """The artifact itself, every file just checked."""
        verify(self.path, checked_manifest(ref, self.read(MANIFEST)).files, ref.uri)
        self.touch()
        return self.path

    def delete(self, ref: Ref, cache: Path) -> None:
        """Deletes the artifact, the manifest first: what is left by a kill is no artifact."""
        self.remove(MANIFEST)
        with suppress(FileNotFoundError):
            shutil.rmtree(self.path)

    def entries(self) -> Iterator[Entry]:
        """Every file below by its name there, hidden ones too, those of one directory one after the other."""
        for directory, _, names in os.walk(self.path, onerror=_raise_unless_gone):
            for name in names:
                path = Path(directory, name)
                with suppress(FileNotFoundError):
                    found = path.lstat()
                    yield Entry(path.relative_to(self.path).as_posix(), found.st_size, found.st_mtime)

    def modified(self, name: str) -> float | None:
        """When a file was written, None without one."""
        with suppress(FileNotFoundError, NotADirectoryError):
            return (self.path / name).stat().st_mtime
        return None

    def sweep(self, before: float, dry_run: bool) -> tuple[int, int]:
        """Number and bytes of the staging directories, at any depth, of processes killed earlier; they are deleted."""
        found = (Path(directory, name) for directory, names, _ in os.walk(self.path) for name in names)
        staged = (path for path in found if path.name.startswith(STAGING))
        old = [left for left in staged if (Folder(left).modified(".") or before) < before]
        size = sum(entry.size for left in old for entry in Folder(left).entries())
        for left in old if not dry_run else ():
            shutil.rmtree(left, ignore_errors=True)
        return len(old), size


def _raise_unless_gone(error: OSError) -> None:
    """What cannot be listed must not be taken for empty."""
    if not isinstance(error, FileNotFoundError):
        raise error


def checked_manifest(ref: Ref, text: bytes | None) -> Manifest:
    """A manifest, checked against the digest the caller expects."""
    if text is None:
        raise StoreError(f"{ref.uri}: no such artifact; check the root, or run the stage that makes it")
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as bad:
        raise IntegrityError(f"{ref.uri}: {MANIFEST} is damaged ({bad.errors()[0]['msg']}); delete it") from bad
    if (found := files_digest(manifest.files)) != ref.digest:
        raise IntegrityError(f"{ref.uri}: {MANIFEST} has digest {found}, expected {ref.digest}; delete it")
    return manifest


def verify(directory: Path, expected: dict[str, FileEntry], label: str) -> None:
    """Raises IntegrityError unless a directory holds these files and no others."""
    found = list_files(directory)
    for name in sorted(expected.keys() | found.keys()):
        if (have := found.get(name, "no file")) != (want := expected.get(name, "no file")):
            raise IntegrityError(f"{label}: {name}: found {have}, expected {want}; delete it, make it again")


@contextmanager
def staging(parent: Path) -> Iterator[Path]:
    """An empty directory hidden beside what is being made; sweeps what processes killed a day ago left."""
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(f"{STAGING}*"):
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > 24 * 3600:
                shutil.rmtree(left, ignore_errors=True)
    with TemporaryDirectory(prefix=STAGING, dir=parent, ignore_cleanup_errors=True) as outer:
        (staged := Path(outer) / "content").mkdir()  # inside, for the permissions of the process, not 0700
        yield staged


def move(staged: Path, final: Path, intact: Callable[[], bool]) -> None:
    """Gives staged files, now read-only, their final name at once, unless a concurrent writer was first."""
    for path in filter(Path.is_file, staged.rglob("*")):
        path.chmod(0o444)
    try:
        staged.rename(final)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        if not intact():  # damaged or incomplete: it gives way
            with suppress(FileNotFoundError):
                final.rename(staged.with_name("replaced"))
            move(staged, final, intact)


def link(source: str | Path, target: str | Path) -> None:
    """A second name for a file, or a copy where the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _write_to_disk(path: Path, body: bytes) -> None:
    """Writes a file that survives a loss of power once it has been renamed."""
    with path.open("wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
