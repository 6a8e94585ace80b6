"""Puts and gets directories by the digest of their content, and pointers to them by name.

An artifact is `{root}/{kind}/{digest}/`, complete once the (hidden) `.manifest.json` is there, written last.
A pointer is `{root}/pointers/{kind}/{key}.json`. Nothing else in the store changes, but for the time of a manifest:
it says when the artifact was last stored or found, so that what nobody has used for long can be told from the rest.
Everything raises StoreError when the store refuses (credentials, bucket, full disk) or holds no such thing,
IntegrityError when a file is not what its digest says, TransientError when the store does not answer.
"""

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tasks.bucket import NO_OBJECT, Bucket, translated
from tasks.folder import CONTENT, INSIDE, MANIFEST, Entry, Folder, Manifest, checked_manifest, move, staging
from tinybert.digest import files_digest, json_digest, list_files
from tinybert.errors import StoreError
from tinybert.refs import Ref

_ROOT = re.compile(r"file:(?P<path>(?!//[^/]).+)|s3://(?P<bucket>[\w.-]{3,255})(/(?P<key>.*))?", re.ASCII)
_ARTIFACT = re.compile(r"(file:|s3://)((?!/\.\./).)+/[a-z][a-z0-9_-]*/[0-9a-f]{64}")
_POINTER = re.compile(r"(?P<kind>[a-z][a-z0-9_-]*)/(?P<key>[A-Za-z0-9][A-Za-z0-9._-]{0,199})")
_POINTED = TypeAdapter(dict[str, Ref])


@dataclass(frozen=True)
class Artifact:
    """An artifact as the store lists it, or what is left of one."""

    kind: str
    ref: Ref
    size: int
    """Bytes of all its files."""
    modified: float
    """Seconds since 1970, when it was last stored or found; of what is left of one, when it was last written to."""
    whole: bool
    """False where it has no manifest: somebody is storing it, or was killed while storing or deleting it."""


@dataclass(frozen=True)
class Pointer:
    """A pointer as the store lists it."""

    kind: str
    key: str
    modified: float
    """Seconds since 1970, when it was last given something to name."""


class Store:
    """Directories by digest below a root, `file:/path` or `s3://bucket/prefix`; S3 needs a local `cache`."""

    def __init__(self, root: str, cache: Path):
        place = _place(root)
        self.root = f"file:{place.path.resolve()}" if isinstance(place, Folder) else root.rstrip("/")
        self.cache = cache

    def put(self, kind: str, directory: Path, given: bool = False) -> Ref:
        """Stores a directory, which must hold a file, unless its content is there already.

        Args:
            kind: Of artifact.
            directory: Its files become the artifact's, by their names in it.
            given: Nobody will write to these files any more: a local store keeps them, read-only, without a copy.
        """
        with translated(f"{self.root}/{kind}", self.root):
            files = list_files(directory)
            if not files:
                raise StoreError(f"{self.root}/{kind}: no files in {directory}; write the output there first")
            digest = files_digest(files)
            ref = Ref(uri=f"{self.root}/{kind}/{digest}", digest=digest)
            place = _artifact(ref)
            if not place.touch():
                place.put(directory, Manifest(kind=kind, digest=digest, files=files), given)
            return ref

    def get(self, ref: Ref) -> Path:
        """A local directory, every file just checked against the digest; treat it as read-only."""
        with translated(ref.uri, self.cache):
            return _artifact(ref).open(ref, self.cache)

    def holds(self, ref: Ref) -> bool:
        """Whether the artifact is there and complete, which makes it as young as a new one; its files are not read."""
        with translated(ref.uri, self.cache):
            return _artifact(ref).touch()

    def size(self, ref: Ref) -> int:
        """Bytes of the artifact's files, by its manifest."""
        with translated(ref.uri, self.cache):
            manifest = checked_manifest(ref, _artifact(ref).read(MANIFEST))
        return sum(entry.size for entry in manifest.files.values())

    def sizes(self) -> dict[str, int]:
        """Bytes of all artifacts by their kind, by a listing of the whole store."""
        total = Counter[str]()
        for artifact in self.artifacts():
            total[artifact.kind] += artifact.size
        return dict(total)

    def artifacts(self) -> Iterator[Artifact]:
        """Every artifact, and what is left of any, by a listing of the whole store; no file is read."""
        with translated(self.root, self.cache):
            files = ((match, entry) for entry in _place(self.root).entries() if (match := INSIDE.fullmatch(entry.name)))
            for (kind, digest), found in groupby(files, key=lambda file: file[0].group("kind", "digest")):
                ref = Ref(uri=f"{self.root}/{kind}/{digest}", digest=digest)
                yield _listed(kind, ref, (entry._replace(name=match["name"]) for match, entry in found))

    def pointers(self) -> Iterator[Pointer]:
        """Every pointer; what it names, `pointed` tells."""
        place = f"{self.root}/pointers"
        with translated(place, self.cache):
            for entry in _place(place).entries():
                if match := _POINTER.fullmatch(entry.name.removesuffix(".json")):
                    yield Pointer(match["kind"], match["key"], entry.modified)

    def delete(self, ref: Ref) -> None:
        """Deletes an artifact and its local copy, if they are there; nobody may be putting the same content."""
        with translated(ref.uri, self.cache):
            _artifact(ref).delete(ref, self.cache)

    def expire(self, artifact: Artifact, unused_since: float) -> bool:
        """Deletes an artifact that was listed, unless a fresh look says that it was stored or found since then."""
        with translated(artifact.ref.uri, self.cache):
            now = [*_artifact(artifact.ref).entries()]
            if not now or _listed(artifact.kind, artifact.ref, now).modified >= unused_since:
                return False
        self.delete(artifact.ref)
        return True

    def sweep(self, before: float, dry_run: bool) -> tuple[int, int]:
        """Number and bytes of what killed processes have left that is no part of an artifact; it is deleted."""
        with translated(self.root, self.cache):
            return _place(self.root).sweep(before, dry_run)

    def point(self, kind: str, key: str, refs: dict[str, Ref]) -> None:
        """Lets a pointer name these artifacts, at once: readers find what it named before, or all of these."""
        with self._pointers(kind, key) as place:
            place.write(f"{key}.json", _POINTED.dump_json(refs, indent=1))

    def pointed(self, kind: str, key: str) -> dict[str, Ref]:
        """What a pointer names; nothing where there is none, or none that can be read."""
        with self._pointers(kind, key) as place, suppress(ValidationError):
            return _POINTED.validate_json(place.read(f"{key}.json") or b"")
        return {}

    def unpoint(self, kind: str, key: str) -> None:
        """Removes a pointer, if it is there, and nothing of what it names."""
        with self._pointers(kind, key) as place:
            place.remove(f"{key}.json")

    def expire_pointer(self, pointer: Pointer, unused_since: float) -> bool:
        """Removes a pointer that was listed, unless it was given something to name since then."""
        with self._pointers(pointer.kind, pointer.key) as place:
            modified = place.modified(f"{pointer.key}.json")
            if modified is None or modified >= unused_since:
                return False
            place.remove(f"{pointer.key}.json")
            return True

    @contextmanager
    def _pointers(self, kind: str, key: str) -> Iterator[Folder | Bucket]:
        """Where the pointers of a kind lie."""
        directory = f"{self.root}/pointers/{kind}"
        if not _POINTER.fullmatch(f"{kind}/{key}"):
            allowed = "the kind in lower case, the key of letters, digits and ._-, 200 at most"
            raise StoreError(f"{directory}/{key}: no name for a pointer; expected {allowed}")
        with translated(f"{directory}/{key}.json", self.root):
            yield _place(directory)


def is_stored(uri: str) -> bool:
    """Whether a URI has the form of an artifact (`.../kind/digest`), not of a source."""
    return _ARTIFACT.fullmatch(uri) is not None


def fetch_source(uri: str, cache: Path) -> Path:
    """A local copy of `s3://bucket/key` (a file), or of all below `s3://bucket/prefix/` but hidden names."""
    with translated(uri, cache):
        place = _place(uri)
        if not isinstance(place, Bucket):
            raise StoreError(f"{uri}: cannot be fetched; use s3://bucket/key or s3://bucket/prefix/")
        name = place.key.rstrip("/").rpartition("/")[2] or place.bucket
        objects = place.objects(name) if CONTENT.fullmatch(name) else {}
        if not objects:
            raise StoreError(f"{uri}: {NO_OBJECT}")
        slot = cache / "sources" / json_digest([uri, objects])
        with staging(slot.parent) as staged:
            for path, version in objects.items():
                (staged / path).parent.mkdir(parents=True, exist_ok=True)
                os.link(place.fetch_version(cache / "objects", *version), staged / path)
            move(staged, slot, intact=slot.is_dir)
        os.utime(slot)
        return slot / name


def names_at(uri: str) -> set[str]:
    """Names of the files below `file:/path` or `s3://bucket/prefix`, but hidden ones; none where nothing is yet."""
    with translated(uri, uri):
        place = _place(uri.rstrip("/"))
        if isinstance(place, Folder) and place.path.is_file():
            raise StoreError(f"{uri}: found a file; name a directory")
        return {entry.name for entry in place.entries() if CONTENT.fullmatch(entry.name)}


def copy_to(uri: str, directory: Path, last: str) -> None:
    """Copies a directory's files to `file:/path` or `s3://bucket/prefix`, each whole or not at all, and `last` last.

    This is for what people and other programs read: files of the same name are replaced, and nothing is read-only.
    """
    names = [path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()]
    with translated(uri, uri):
        place = _place(uri.rstrip("/"))
        for name in sorted(names, key=lambda name: (name == last, name)):
            if isinstance(place, Bucket):
                place.upload(directory / name, name)
                continue
            with staging(place.path) as staged:
                shutil.copyfile(directory / name, staged / "file")
                (place.path / name).parent.mkdir(parents=True, exist_ok=True)
                (staged / "file").replace(place.path / name)


def _place(uri: str) -> Folder | Bucket:
    match = _ROOT.fullmatch(uri)
    if match is None:  # perhaps s3://key:secret@bucket, not to be shown
        raise StoreError(f"{re.sub('//.*@', '//***@', uri)!r}: use file:/path, file:rel or s3://bucket/prefix")
    return Folder(Path(match["path"])) if match["path"] else Bucket(match["bucket"], match["key"] or "")


def _artifact(ref: Ref) -> Folder | Bucket:
    if not is_stored(ref.uri) or not ref.uri.endswith(ref.digest):
        raise StoreError(f"{ref.uri}: expected {{root}}/{{kind}}/{ref.digest}, the kind in lower case")
    return _place(ref.uri)


def _listed(kind: str, ref: Ref, entries: Iterable[Entry]) -> Artifact:
    """An artifact out of its files, of which there is one at least, by their names in it."""
    files = {entry.name: entry for entry in entries}
    newest = max(entry.modified for entry in files.values())
    whole = MANIFEST in files
    modified = files[MANIFEST].modified if whole else newest
    return Artifact(kind, ref, sum(entry.size for entry in files.values()), modified, whole)
