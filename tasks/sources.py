"""Finding what a source URI names, wherever it is: files and hubs, the object store, the model registry."""

import fnmatch
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

from tasks.connections import registry, store
from tasks.settings import settings
from tasks.store import fetch_source, is_stored
from tinybert.digest import content_digest, files_digest, list_files
from tinybert.errors import TransientError
from tinybert.refs import ModelRef, Ref
from tinybert.sources import HUB_FILES, Kind, check_pin, parse, resolve

R = TypeVar("R", bound=Ref)
T = TypeVar("T")

_KNOWN: ContextVar[dict[Any, Any] | None] = ContextVar("known", default=None)
"""Within `looked_at_once`, what is known of sources."""
_SILENT = "silent"
"""There: the first source for which the hub had no answer, and why."""


@contextmanager
def looked_at_once() -> Iterator[None]:
    """Inside, a source that several ask for is fetched and digested for the first of them only.

    A hub that does not answer is not asked again, whatever is wanted of it.
    """
    before = _KNOWN.set({})
    try:
        yield
    finally:
        _KNOWN.reset(before)


def _once(key: tuple[Any, ...], look: Callable[[], T]) -> T:
    known = _KNOWN.get()
    if known is None:
        return look()
    if key not in known:
        known[key] = look()
    found: T = known[key]
    return found


def pin(uri: str, kind: type[R]) -> R:
    """Resolve a source and take its digest, so that what later stages read is what was meant now.

    Raises:
        SourceError: It does not exist, cannot be read, or is not what its URI pins.
        StoreError: The object store refuses.
        TransientError: A hub, a store or the registry does not answer.
    """
    return _once((uri, kind), lambda: _pin(uri, kind))


def _pin(uri: str, kind: type[R]) -> R:
    source = parse(uri)
    if source.scheme == "models":
        name, _, version = source.location.replace("@", "/").rpartition("/")
        found = registry().model(name).get(version)
        place, digest = found.uri, found.digest
    else:
        path = _fetch(uri, _hub_kind(kind))
        digest = _digest(path, source.scheme, _hub_kind(kind))
        place = f"file:{path.resolve()}" if source.scheme == "file" else uri.partition("#")[0]
    check_pin(source, digest)
    return kind(uri=place, digest=digest)


def local(ref: Ref) -> Path:
    """A ref's content as a local, read-only directory or file, checked against its digest.

    Raises:
        SourceError: A source is no longer what it was when it was pinned.
        IntegrityError: A stored artifact was altered.
    """
    return _once((ref.uri, type(ref), ref.digest), lambda: _local(ref))


def _local(ref: Ref) -> Path:
    if is_stored(ref.uri):
        return store().get(Ref(uri=ref.uri, digest=ref.digest))
    kind = _hub_kind(type(ref))
    path = _fetch(ref.uri, kind)
    source = parse(f"{ref.uri}#sha256={ref.digest}")
    check_pin(source, _digest(path, source.scheme, kind))
    return path


def _fetch(uri: str, kind: Kind) -> Path:
    if parse(uri).scheme == "s3":
        return fetch_source(uri.partition("#")[0], settings().work / "fetched")
    return _of_hub(uri, kind) if parse(uri).scheme == "hub" else resolve(uri, kind)


def _of_hub(uri: str, kind: Kind) -> Path:
    known = _KNOWN.get()
    if known is None:
        return resolve(uri, kind)
    if _SILENT in known:
        first, why = known[_SILENT]
        raise TransientError(why if uri == first else f"{uri}: not asked, as the hub gave no answer for {first}")
    try:
        return resolve(uri, kind)
    except TransientError as error:
        known[_SILENT] = uri, str(error)
        raise


def _digest(path: Path, scheme: str, kind: Kind) -> str:
    """A hub's cache may hold more than we ask for (another program's files); only ours count."""
    if scheme != "hub" or path.is_file():
        return content_digest(path)
    entries = list_files(path)
    wanted = {name: e for name, e in entries.items() if any(fnmatch.fnmatch(name, p) for p in HUB_FILES[kind])}
    return files_digest(wanted)


def _hub_kind(kind: type[Ref]) -> Kind:
    return "model" if issubclass(kind, ModelRef) else "dataset"
