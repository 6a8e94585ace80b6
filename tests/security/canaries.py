"""Looks for secrets in everything that a run left behind: as they are, in base64, quoted for a URL, in databases."""

import base64
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote


def disguises(secret: str) -> set[bytes]:
    """A secret as it may stand in a file.

    In base64 it reads in one of three ways, by its place in what was encoded (`user:secret` in a header); the letters
    at both ends, which its neighbours have a part in, are left off.
    """
    found = {secret, quote(secret), quote(secret, safe="")}
    for before in range(3):
        encoded = base64.b64encode(b"-" * before + secret.encode()).decode().rstrip("=")
        inner = encoded[(before * 8 + 5) // 6 : -1]
        found |= {inner, inner.replace("+", "-").replace("/", "_")}
    return {text.encode() for text in found}


def leaks(contents: Iterator[tuple[str, bytes]], secrets: Mapping[str, str]) -> set[tuple[str, str]]:
    """Where each secret was found, as pairs of its name and the place.

    Args:
        contents: Places and what lies there.
        secrets: By name.
    """
    wanted = {name: disguises(secret) for name, secret in secrets.items()}
    return {
        (name, place)
        for place, content in contents
        for name, forms in wanted.items()
        if any(form in content for form in forms)
    }


def files(directory: Path, *without: Path) -> Iterator[tuple[str, bytes]]:
    """All files below a directory with their names, and what SQLite databases hold as one text besides.

    A long value lies in pieces in the database's file.
    """
    for path in sorted(directory.rglob("*")):
        if path in without or not path.is_file() or path.is_symlink():
            continue
        content = path.read_bytes()
        yield str(path.relative_to(directory)), str(path).encode() + b"\n" + content
        if content.startswith(b"SQLite format 3\0"):
            yield f"{path.relative_to(directory)}, dumped", _dumped(path)


def _dumped(database: Path) -> bytes:
    connection = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)
    try:
        return "\n".join(connection.iterdump()).encode()
    finally:
        connection.close()
