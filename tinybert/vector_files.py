"""Files of word vectors, read block by block: GloVe and word2vec text, word2vec binary, zipped or not, and .npy.

Shape suffixes: R words of one block, D width.
"""

import codecs
import gzip
import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import csv

from tinybert.errors import DataError
from tinybert.progress import logger

Matrix = NDArray[np.float32]
Block = tuple[list[str], Matrix]
"""Words and their rows (R, D)."""

CHUNK = 1 << 23
"""Bytes of text or of binary entries parsed at a time."""
LINE = 1 << 20
"""Bytes of the longest line; what has none that ends is no text."""
ROWS = 32_768
"""Rows of a .npy matrix in a block."""
TIMES = 100
"""How many times larger than in a .zip a file may become; vectors become two to four times larger."""
SUFFIXES = (".bin", ".txt", ".vec")
"""What files of vectors in a .zip are called."""


def find(path: Path) -> list[Path]:
    """The files that hold the vectors: one, or a .npy matrix and its vocabulary.

    Args:
        path: A file, or a directory that holds one matrix and one vocabulary (.parquet, .txt or .json).

    Raises:
        DataError: There is no such file, or not exactly one matrix or vocabulary.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist; name a file of vectors, or a directory with a .npy file")
    if path.is_file() and path.suffix != ".npy":
        return [path]
    matrix = _only(path, [".npy"], "matrix") if path.is_dir() else path
    return [matrix, _only(matrix.parent, [".parquet", ".txt", ".json"], "vocabulary")]


def _only(directory: Path, suffixes: Sequence[str], role: str) -> Path:
    files = sorted(file for file in directory.iterdir() if file.is_file() and file.suffix in suffixes)
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise DataError(f"{directory}: one {role} file ({', '.join(suffixes)}) expected, found {found}")
    return files[0]


def read(files: Sequence[Path]) -> Iterator[Block]:
    """Words and vectors, in the order of the files that `find` gave.

    A .bin file is word2vec's binary form; every other one, but .npy, is text: a word and its numbers a line, after
    word2vec's header or without. Either may be gzipped (.gz). Of a .zip, the largest .bin, .txt or .vec file is read.

    Raises:
        DataError: What is read is damaged or holds no vectors; the message names file and line or entry.
    """
    if len(files) == 2:
        yield from _matrix_blocks(*files)
        return
    with _unpacked(files[0]) as (file, name, suffix):
        yield from _binary_blocks(file, name) if suffix == ".bin" else _text_blocks(file, name)


@contextmanager
def _unpacked(path: Path) -> Iterator[tuple[IO[bytes], str, str]]:
    """The bytes of a file or of the one in a .zip, what messages call it, and its suffix."""
    try:
        if path.suffix.lower() == ".zip":
            with zipfile.ZipFile(path) as archive:
                member = _member(archive, path)
                with archive.open(member) as file:
                    yield file, f"{path}, {member.filename!r}", _suffix(member)
        elif path.suffix.lower() == ".gz":
            with gzip.open(path) as file:
                yield file, str(path), Path(path.stem).suffix.lower()  # type: ignore[misc]
        else:
            with path.open("rb") as file:
                yield file, str(path), path.suffix.lower()
    except (gzip.BadGzipFile, zipfile.BadZipFile, NotImplementedError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is cut short or no {path.suffix} file ({error}); fetch it again") from error


def _suffix(member: zipfile.ZipInfo) -> str:
    return PurePosixPath(member.filename).suffix.lower()


def _member(archive: zipfile.ZipFile, path: Path) -> zipfile.ZipInfo:
    """The largest file of vectors in an archive, of equal ones the first by name."""
    found = [member for member in archive.infolist() if not member.is_dir() and _suffix(member) in SUFFIXES]
    if not found:
        raise DataError(f"{path} holds no file named {', '.join(SUFFIXES)}; give an archive with one")
    member = min(found, key=lambda member: (-member.file_size, member.filename))
    named = f"{path}, {member.filename!r}"
    if member.flag_bits & 1:
        raise DataError(f"{named} is encrypted; unpack it, and name the file in it")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{named} is compressed by method {member.compress_type}; pack it with deflate, or unpack it")
    if member.file_size > TIMES * member.compress_size:
        raise DataError(
            f"{named} would unpack from {member.compress_size} to {member.file_size} bytes; more than {TIMES} times "
            "as much is refused: unpack it yourself if you trust it"
        )
    if len(found) > 1:
        logger.info("vectors  %s is the largest of %d files in %s", member.filename, len(found), path.name)
    return member


def _header(line: bytes) -> tuple[int, int] | None:
    """Words and width from word2vec's first line, which is two whole numbers; None for any other line."""
    match = re.fullmatch(rb"([1-9]\d{0,11}) ([1-9]\d{0,5})\s*", line)
    return (int(match[1]), int(match[2])) if match else None


def _text_blocks(file: IO[bytes], name: str) -> Iterator[Block]:
    first = file.readline(LINE)
    header = _header(first)
    dims = header[1] if header else first.rstrip(b"\r\n ").count(b" ")
    lines, carried = (1, b"") if header else (0, first)
    count = 0
    while chunk := carried + file.read(CHUNK):
        rest = b"" if chunk.endswith(b"\n") else file.readline(LINE)
        chunk, carried = chunk + rest, b""
        if len(rest) == LINE and not rest.endswith(b"\n"):
            long = lines + chunk.count(b"\n") + 1
            raise DataError(f"{name}, line {long}: longer than {LINE} bytes; expected a word and its numbers")
        block = _regular(chunk, dims) or _parsed(chunk, dims, name, lines)
        yield block
        lines, count = lines + len(block[0]), count + len(block[0])
    if not count:
        raise DataError(f"{name} is empty; expected lines of a word and its numbers")
    if header and count != header[0]:
        raise DataError(f"{name} has {count} words, its first line says {header[0]}; fetch it again")


def _regular(chunk: bytes, dims: int) -> Block | None:
    """Words and rows of lines that are all as they should be; None where a line needs a closer look.

    Arrow reads numbers many times faster than Python, but knows neither words with spaces nor line numbers.
    """
    if chunk.startswith(codecs.BOM_UTF8):  # Arrow would take it off the word
        return None
    names = [str(column) for column in range(dims + 1)]
    types = dict.fromkeys(names[1:], pa.float32()) | {"0": pa.string()}
    try:
        table = csv.read_csv(
            pa.py_buffer(chunk.replace(b" \n", b"\n")),  # word2vec ends its lines with a space
            csv.ReadOptions(column_names=names),
            csv.ParseOptions(delimiter=" ", quote_char=False, ignore_empty_lines=False),
            csv.ConvertOptions(column_types=types, null_values=[]),
        )
    except pa.ArrowInvalid:
        return None
    if not dims or len(table) != chunk.count(b"\n") + (not chunk.endswith(b"\n")):
        return None
    rows_RD = np.stack([column.to_numpy() for column in table.columns[1:]], axis=1)
    return (table.column(0).to_pylist(), rows_RD) if np.isfinite(rows_RD).all() else None


def _parsed(chunk: bytes, dims: int, name: str, before: int) -> Block:
    """Words and rows, line by line; `before` lines precede them."""
    words, rows = [], []
    for line, content in enumerate(chunk.removesuffix(b"\n").split(b"\n"), start=before + 1):
        try:
            word, numbers = _parse(content.decode().rstrip("\r ").split(" "), dims)
        except ValueError as error:
            raise DataError(f"{name}, line {line}: {str(error)[:100]}; expected a word and its numbers") from None
        words.append(word)
        rows.append(numbers)
    return words, np.stack(rows)


def _parse(parts: list[str], dims: int) -> tuple[str, Matrix]:
    """A line's word, which may hold spaces (as in GloVe 840B), and its numbers."""
    word, numbers = parts[: max(len(parts) - dims, 1)], parts[max(len(parts) - dims, 1) :]
    if len(numbers) != dims or not dims or (len(word) > 1 and _is_number(word[-1])):
        raise ValueError(f"found {len(parts) - 1} numbers, the first line has {dims}")
    with np.errstate(over="ignore"):
        values_D = np.array([float(number) for number in numbers], np.float32)
    if not np.isfinite(values_D).all():
        raise ValueError("found a number that is not finite")
    return " ".join(word), values_D


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _binary_blocks(file: IO[bytes], name: str) -> Iterator[Block]:
    """Entries of a word, a space and little-endian float32 numbers, with a line end between them or without."""
    header = _header(file.readline(LINE))
    if header is None:
        raise DataError(f"{name} has no first line with the number of words and their width; it is no word2vec file")
    (count, dims), done, rest = header, 0, b""
    while done < count:
        chunk, words, rows, at = rest + file.read(CHUNK), list[str](), list[bytes](), 0
        while done + len(words) < count:
            start = chunk.find(b" ", at) + 1
            end = start + 4 * dims
            if not start or end > len(chunk):
                break
            # The C tool cuts long words inside a character; such a word is then none of letters, and not used.
            words.append(chunk[at : start - 1].lstrip(b"\n").decode(errors="replace"))
            rows.append(chunk[start:end])
            at = end
        if not words:
            raise DataError(f"{name}, entry {done + 1} of {count}: the file ends inside it; fetch it again")
        yield words, np.frombuffer(b"".join(rows), "<f4").reshape(-1, dims)
        done, rest = done + len(words), chunk[at:]
    if (rest + file.read(LINE)).strip():
        raise DataError(f"{name} goes on after the {count} words of its first line; it is no word2vec file, or damaged")


def _matrix_blocks(matrix: Path, vocabulary: Path) -> Iterator[Block]:
    try:
        raw_WD = np.load(matrix, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{matrix} is no plain numpy array ({error}); save it with numpy.save") from error
    if raw_WD.ndim != 2 or raw_WD.dtype.kind != "f":
        raise DataError(f"{matrix} holds {raw_WD.dtype} of shape {raw_WD.shape}; expected a matrix of floats")
    words = _vocabulary(vocabulary)
    if len(words) != len(raw_WD):
        raise DataError(
            f"{vocabulary} has {len(words)} words but {matrix.name} has {len(raw_WD)} rows; give matching files"
        )
    for start in range(0, len(words), ROWS):
        yield words[start : start + ROWS], np.asarray(raw_WD[start : start + ROWS], dtype=np.float32)


def _vocabulary(file: Path) -> list[str]:
    try:
        words = _words_of(file)
    except (ValueError, OSError) as error:
        raise DataError(f"{file} cannot be read as a vocabulary: {error}") from error
    for line, word in enumerate(words, start=1):
        if not isinstance(word, str):
            raise DataError(f"{file}, line {line}: found {word!r}, expected a word")
    return words


def _words_of(file: Path) -> list[Any]:
    """The words in row order: lines, a JSON list or {word: row}, or parquet's one column of strings."""
    if file.suffix == ".txt":
        return file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    if file.suffix == ".json":
        stored = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(stored, dict):
            if sorted(stored.values()) != list(range(len(stored))):
                raise ValueError("the rows of its words must be 0, 1, 2, ... each once")
            return sorted(stored, key=stored.__getitem__)
        return list(stored)
    table = pq.read_table(file)
    columns = [field.name for field in table.schema if str(field.type) in ("string", "large_string")]
    if len(columns) != 1:
        raise ValueError(f"one column of strings expected, found {columns or 'none'}")
    return list(table.column(columns[0]).to_pylist())
