"""Rows from files as users and hub repositories have them: csv, tsv, parquet, jsonl, txt, gzipped or not."""

import csv
import re
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Features, IterableDataset, Value, load_dataset
from datasets.exceptions import DatasetsError

from tinybert.errors import DataError

READERS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".json": "json",
    ".jsonl": "json",
    ".txt": "text",
    ".arrow": "arrow",
}
READ_ERRORS = (ValueError, OSError, EOFError, zlib.error, DatasetsError)
"""What the readers raise for a damaged file; Arrow's and pandas' own errors are ValueErrors."""

BATCH = 2048
"""Rows of a Parquet file read at a time; without a number, its reader refuses an empty one."""
_SPLIT_NAMES = {"train": r"train(ing)?", "validation": r"(validation|valid|val|dev)", "test": r"test(ing)?"}


def split_files(path: Path, split: str) -> list[Path]:
    """The files of one split: those named after it, or in a directory that is. Where none is named after training,
    what is named after no split is training: a single file too.

    Raises:
        DataError: The directory holds no table at all.
    """
    if path.is_file():
        return [path] if split == "train" else []
    files = table_files(path)
    named = {name: [f for f in files if _is_named(f, pattern, path)] for name, pattern in _SPLIT_NAMES.items()}
    if not named["train"]:
        others = set(chain(*named.values()))
        named["train"] = [file for file in files if file not in others]
    return named[split]


def table_files(directory: Path) -> list[Path]:
    """All tables below a directory, in the order of their names.

    Raises:
        DataError: It holds none.
    """
    inside = [file for file in sorted(directory.rglob("*")) if file.is_file() and _suffix(file) in READERS]
    visible = [f for f in inside if not any(part.startswith(".") for part in f.relative_to(directory).parts)]
    files = [file for file in visible if file.name != "dataset_infos.json"]
    if not files:
        raise DataError(f"{directory}: no table found; expected files of {', '.join(READERS)}")
    return files


def _is_named(file: Path, pattern: str, within: Path) -> bool:
    in_name = re.match(rf"{pattern}(?![a-z])", file.name.lower())
    return in_name is not None or (
        file.parent != within and re.fullmatch(pattern, file.parent.name.lower()) is not None
    )


def column_names(file: Path) -> list[str]:
    """The columns that a file has.

    Raises:
        DataError: It cannot be read.
    """
    rows = _open(file)
    return [] if rows is None else rows.column_names or []


def _suffix(file: Path) -> str:
    return Path(file.stem).suffix.lower() if file.suffix == ".gz" else file.suffix.lower()


def stream(files: list[Path], columns: list[str], where: dict[str, str] | None = None) -> Iterator[dict[str, Any]]:
    """Rows of the files one after another, only the named columns, only where other columns hold given values.

    Memory does not grow with the rows. A `txt` file has one column, "text", a row a line.

    Raises:
        DataError: A file cannot be read, or lacks a column; the message lists those it has.
    """
    where = where or {}
    for file in files:
        rows = _open(file)
        if rows is None:
            continue
        wanted = [*columns, *where]
        present = rows.column_names
        missing = [column for column in wanted if present is not None and column not in present]
        if missing:
            raise DataError(f"{file.name}: no column {missing[0]!r}; it has {', '.join(sorted(present))}")
        names = _class_names(rows, columns)
        for row in _reading(rows, file):
            if all(str(row.get(column)) == value for column, value in where.items()):
                yield {column: _named(row[column], names.get(column)) for column in columns}


def _open(file: Path) -> IterableDataset | None:
    """The rows of a file; None where datasets finds no first one to learn the columns from."""
    suffix = _suffix(file)
    if suffix not in READERS:
        raise DataError(f"{file.name}: unknown kind of table {suffix!r}; expected one of {', '.join(READERS)}")
    options: dict[str, Any] = {"batch_size": BATCH} if suffix == ".parquet" else {}
    if READERS[suffix] == "csv":
        options = {"keep_default_na": False, "sep": ","}
    if suffix == ".tsv":
        options |= {"sep": "\t", "quoting": csv.QUOTE_NONE}
    try:
        rows = load_dataset(READERS[suffix], data_files=str(file), split="train", streaming=True, **options)
        rows = rows if rows.column_names else rows._resolve_features()
        if READERS[suffix] == "csv":  # cells as they are written: types guessed from the first rows fail later
            columns = Features({name: Value("string") for name in rows.column_names})
            rows = load_dataset("csv", data_files=str(file), split="train", streaming=True, features=columns, **options)
        return rows
    except READ_ERRORS as error:
        raise _unreadable(file, error) from error
    except StopIteration:
        return None


def _reading(rows: IterableDataset, file: Path) -> Iterator[dict[str, Any]]:
    iterator = iter(rows)
    while True:
        try:
            row = next(iterator)
        except StopIteration:
            return
        except READ_ERRORS as error:
            raise _unreadable(file, error) from error
        yield row


def _unreadable(file: Path, error: Exception) -> DataError:
    reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
    return DataError(f"{file.name}: cannot be read as {_suffix(file)[1:]}: {reason[0]}")


def _class_names(rows: IterableDataset, columns: list[str]) -> dict[str, list[str]]:
    features = rows.features or {}
    return {c: features[c].names for c in columns if isinstance(features.get(c), ClassLabel)}


def _named(value: Any, names: list[str] | None) -> Any:
    return names[value] if names is not None and isinstance(value, int) and value >= 0 else value
