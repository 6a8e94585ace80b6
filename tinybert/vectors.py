"""Word vectors, parsed once into a normalised, memory-mapped matrix.

Shape suffixes: W words, D width, Q words asked for, R words of one block, K nearest words.
"""

import gzip
import json
import math
import os
import shutil
import tempfile
import zlib
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinybert.digest import content_digest, json_digest
from tinybert.errors import DataError

Matrix = NDArray[np.float32]

FORMAT = 1
"""Raised whenever a parsed file's content changes: older caches are then not used."""
ROWS = 32_768
QUERIES = 512


class Vectors:
    """Unit-length vectors of alphabetic words, and the search for nearest ones."""

    def __init__(self, words: Sequence[str], matrix_WD: Matrix) -> None:
        self.words = words
        self.matrix_WD = matrix_WD
        self.rows: dict[str, int] = {}
        for row, word in enumerate(words):
            self.rows.setdefault(word.lower(), row)

    def neighbours(self, words: Sequence[str], k: int) -> dict[str, list[str]]:
        """At most k nearest words by cosine for each word that has a vector, the nearest first.

        Words are looked up in lower case. The word itself is never among its neighbours, in no casing.
        """
        known = [word for word in dict.fromkeys(words) if word.lower() in self.rows]
        found: dict[str, list[str]] = {}
        for start in range(0, len(known), QUERIES):
            block = known[start : start + QUERIES]
            query_QD = self._take([self.rows[word.lower()] for word in block])
            # Twice as many as needed: vocabularies with casing hold a word more than once.
            for word, near in zip(block, self._nearest(query_QD, 2 * k + 2), strict=True):
                others: dict[str, str] = {}
                for row in near:
                    others.setdefault(self.words[row].lower(), self.words[row])
                others.pop(word.lower(), None)
                found[word] = list(others.values())[:k]
        return found

    def _take(self, rows: Sequence[int]) -> Tensor:
        return torch.from_numpy(np.array(self.matrix_WD[rows]))

    def _nearest(self, query_QD: Tensor, k: int) -> list[list[int]]:
        """Rows of the k nearest words, the nearest first, over blocks of the matrix."""
        best_QK = torch.empty(len(query_QD), 0)
        rows_QK = torch.empty(len(query_QD), 0, dtype=torch.long)
        for start in range(0, len(self.words), ROWS):
            block_RD = torch.from_numpy(np.array(self.matrix_WD[start : start + ROWS]))
            top = (query_QD @ block_RD.T).topk(min(k, len(block_RD)))
            best_QK = torch.cat([best_QK, top.values], dim=1)
            rows_QK = torch.cat([rows_QK, top.indices + start], dim=1)
            kept = best_QK.topk(min(k, best_QK.shape[1]))
            best_QK, rows_QK = kept.values, rows_QK.gather(1, kept.indices)
        near: list[list[int]] = rows_QK.tolist()
        return near


def load(path: Path, cache: Path) -> Vectors:
    """Word vectors from GloVe text (.txt, .txt.gz) or from a .npy matrix beside its vocabulary.

    Args:
        path: The text file, the matrix, or a directory that holds one matrix and one vocabulary (.parquet,
            .txt or .json).
        cache: Directory for the parsed form, one entry per content of the source.

    Raises:
        DataError: The source cannot be read as vectors; the message names file and line.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist; name a GloVe text file, a .npy file or a directory with one")
    matrix = _matrix_file(path)
    index = _index_file(matrix) if matrix else None
    digest = json_digest([FORMAT, *(content_digest(file) for file in (matrix or path, index) if file)])
    entry = cache / f"vectors-{digest[:32]}"
    if not entry.is_dir():
        words, raw_WD = _read_matrix(matrix, index) if matrix and index else _read_text(path)
        _write(entry, words, raw_WD, matrix or path)
    stored = json.loads((entry / "words.json").read_text(encoding="utf-8"))
    return Vectors(stored, np.load(entry / "vectors.npy", mmap_mode="r", allow_pickle=False))


def _matrix_file(path: Path) -> Path | None:
    if path.is_file():
        return path if path.suffix == ".npy" else None
    return _only(path, [".npy"], "matrix")


def _index_file(matrix: Path) -> Path:
    return _only(matrix.parent, [".parquet", ".txt", ".json"], "vocabulary")


def _only(directory: Path, suffixes: Sequence[str], role: str) -> Path:
    files = sorted(file for file in directory.iterdir() if file.is_file() and file.suffix in suffixes)
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise DataError(f"{directory}: one {role} file ({', '.join(suffixes)}) expected, found {found}")
    return files[0]


def _read_matrix(matrix: Path, index: Path) -> tuple[list[str], Matrix]:
    try:
        raw_WD = np.load(matrix, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{matrix} is no plain numpy array ({error}); save it with numpy.save") from error
    if raw_WD.ndim != 2 or raw_WD.dtype.kind != "f":
        raise DataError(f"{matrix} holds {raw_WD.dtype} of shape {raw_WD.shape}; expected a matrix of floats")
    words = _read_words(index)
    if len(words) != len(raw_WD):
        raise DataError(f"{index} has {len(words)} words but {matrix.name} has {len(raw_WD)} rows; give matching files")
    return words, raw_WD


def _read_words(index: Path) -> list[str]:
    try:
        words = _words_of(index)
    except (ValueError, OSError) as error:
        raise DataError(f"{index} cannot be read as a vocabulary: {error}") from error
    for line, word in enumerate(words, start=1):
        if not isinstance(word, str):
            raise DataError(f"{index}, line {line}: found {word!r}, expected a word")
    return words


def _words_of(index: Path) -> list[Any]:
    """The words in row order: lines, a JSON list or {word: row}, or parquet's one column of strings."""
    if index.suffix == ".txt":
        return index.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    if index.suffix == ".json":
        stored = json.loads(index.read_text(encoding="utf-8"))
        if isinstance(stored, dict):
            if sorted(stored.values()) != list(range(len(stored))):
                raise ValueError("the rows of its words must be 0, 1, 2, ... each once")
            return sorted(stored, key=stored.__getitem__)
        return list(stored)
    table = pq.read_table(index)
    columns = [field.name for field in table.schema if str(field.type) in ("string", "large_string")]
    if len(columns) != 1:
        raise ValueError(f"one column of strings expected, found {columns or 'none'}")
    return list(table.column(columns[0]).to_pylist())


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield file  # type: ignore[misc]
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is cut short or no gzip file ({error}); fetch it again") from error


def _read_text(path: Path) -> tuple[list[str], Matrix]:
    words: list[str] = []
    values = array("f")
    dims = 0
    with _open(path) as file:
        for line, content in enumerate(file, start=1):
            try:
                parts = content.decode().rstrip("\r\n ").split(" ")
                dims = dims or len(parts) - 1
                word, numbers = _parse(parts, dims)
            except ValueError as error:
                raise DataError(f"{path}, line {line}: {error}; expected a word and its numbers") from None
            words.append(word)
            values.extend(numbers)
    if not words:
        raise DataError(f"{path} is empty; expected lines of a word and its numbers")
    return words, np.frombuffer(values, dtype=np.float32).reshape(len(words), dims)


def _parse(parts: list[str], dims: int) -> tuple[str, list[float]]:
    """A line's word, which may hold spaces (as in GloVe 840B), and its numbers."""
    word, numbers = parts[: max(len(parts) - dims, 1)], parts[max(len(parts) - dims, 1) :]
    if len(numbers) != dims or not dims or (len(word) > 1 and _is_number(word[-1])):
        raise ValueError(f"found {len(parts) - 1} numbers, the first line has {dims}")
    values = [float(number) for number in numbers]
    if not all(map(math.isfinite, values)):
        raise ValueError("found a number that is not finite")
    return " ".join(word), values


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _write(entry: Path, words: Sequence[str], raw_WD: Matrix, source: Path) -> None:
    """Store alphabetic words with a direction, at unit length; the entry appears whole or not at all."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    parts, kept = [], list[str]()
    for start in range(0, len(words), ROWS):
        block_RD = np.asarray(raw_WD[start : start + ROWS], dtype=np.float32)
        length_R = np.linalg.norm(block_RD, axis=1)
        if not np.isfinite(length_R).all():
            raise DataError(f"{source}, row {start + int(np.isfinite(length_R).argmin()) + 1}: numbers must be finite")
        names = words[start : start + ROWS]
        rows = [row for row, name in enumerate(names) if name.isalpha() and length_R[row]]
        kept += [names[row] for row in rows]
        parts.append(block_RD[rows] / length_R[rows, None])
    temporary = Path(tempfile.mkdtemp(dir=entry.parent, prefix=".vectors-"))
    temporary.chmod(0o755)
    try:
        np.save(temporary / "vectors.npy", np.concatenate(parts))
        (temporary / "words.json").write_text(json.dumps(kept), encoding="utf-8")
        os.replace(temporary, entry)  # noqa: PTH105
    except OSError:
        if not entry.is_dir():  # another process may have been first, with the same content
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
