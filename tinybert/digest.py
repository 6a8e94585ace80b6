"""SHA-256 digests of files and directories: the name under which content is stored and cached."""

import hashlib
import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict


class FileEntry(BaseModel):
    """Size and content digest of one file."""

    model_config = ConfigDict(frozen=True)

    sha256: str
    size: int


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_digest(value: object) -> str:
    """SHA-256 of a JSON value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


FOREIGN = {"__pycache__", "registered_model_meta"}
"""Names of what Python and MLflow leave in directories that they read."""


def list_files(directory: Path) -> dict[str, FileEntry]:
    """Every regular file below a directory, by its POSIX path inside it, in sorted order.

    Hidden files and folders, and what others leave there, are no content: caches of tools, not of ours.
    """
    entries: dict[str, FileEntry] = {}
    for path in sorted(directory.rglob("*")):
        inside = path.relative_to(directory)
        if path.is_file() and not any(part.startswith(".") or part in FOREIGN for part in inside.parts):
            entries[inside.as_posix()] = FileEntry(sha256=file_digest(path), size=path.stat().st_size)
    return entries


def files_digest(entries: dict[str, FileEntry]) -> str:
    """Digest of a directory from the digests of its files: names and contents count, times do not."""
    return json_digest({name: entry.sha256 for name, entry in entries.items()})


def content_digest(path: Path) -> str:
    """Digest of a file, or of a directory with all its files."""
    return files_digest(list_files(path)) if path.is_dir() else file_digest(path)
