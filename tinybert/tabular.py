"""Rows of csv, tsv, parquet, json, txt and arrow files, gzipped or not, through the readers of `datasets`."""

import codecs
import csv
import gzip
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datasets import ClassLabel, Features, IterableDataset, List, Value, load_dataset
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

TEXT = "text"
"""The one column of a txt file that is no table."""
BATCH = 2048
"""Rows of a Parquet file read at a time; without a number, its reader refuses an empty one."""
AT_ONCE = 256
"""Rows asked of a reader at a time: one by one they cost it more than the reading does."""


class Table(NamedTuple):
    """One file, opened."""

    columns: Sequence[str]
    rows: Iterable[dict[str, Any]]


def suffix(file: Path) -> str:
    """What the name ends with, not counting the .gz of a gzipped file."""
    return Path(file.stem).suffix.lower() if file.suffix == ".gz" else file.suffix.lower()


def open_text(file: Path) -> Iterator[str]:
    """Lines of a text file, gzipped or not, without their ends and without a byte order mark.

    Raises:
        DataError: It is damaged, or not UTF-8.
    """
    opened = gzip.open if file.suffix == ".gz" else open
    try:
        with opened(file, "rt", encoding="utf-8-sig", newline=None) as lines:
            for line in lines:
                yield line.rstrip("\n")
    except READ_ERRORS as error:
        raise unreadable(file, error) from error


def read(file: Path, header: Sequence[str] = (), text: Sequence[str] = ()) -> Table | None:
    """A file's columns and rows, names in place of the numbers of classes; None where it is empty.

    A txt file is read as a tsv where its first line has tabs and is known to be more than text: by what it names, or
    because the form names its columns. Else it has one column, "text", and a row a line.

    Args:
        file: Its suffix is one of `READERS`.
        header: Names of the columns of a csv, tsv or tabbed txt file whose first line has none of them, and none of
            `text`.
        text: Names the column of the text may have.

    Raises:
        DataError: It cannot be read.
    """
    ending = ".tsv" if suffix(file) == ".txt" and _has_columns(file, header, text) else suffix(file)
    reader, options = READERS[ending], _options(ending)
    try:
        if reader == "csv":
            options |= _columns(file, ending, header, text)
        rows = load_dataset(reader, data_files=str(file), split="train", streaming=True, **options)
        rows = rows if rows.column_names else rows._resolve_features()
        if reader == "csv":  # cells as they are written: types guessed from the first rows fail later
            columns = Features({name: Value("string") for name in rows.column_names})
            rows = load_dataset("csv", data_files=str(file), split="train", streaming=True, features=columns, **options)
    except READ_ERRORS as error:
        raise error if isinstance(error, DataError) else unreadable(file, error) from error
    except StopIteration:
        return None
    return Table(rows.column_names or [], _named(_reading(rows, file), rows.features))


def first_line(file: Path) -> str:
    """Of a text file; nothing where it is empty.

    Raises:
        DataError: It is damaged, or not UTF-8.
    """
    return next(open_text(file), "")


def _has_columns(file: Path, header: Sequence[str], text: Sequence[str]) -> bool:
    cells = first_line(file).split("\t")
    return len(cells) > 1 and bool(header or set(text) & set(cells) or (text and TEXT not in text))


def _options(ending: str) -> dict[str, Any]:
    """What the reader of a file is to be told. Without `index_col`, a tab at the end of lines shifts all columns."""
    if ending == ".parquet":
        return {"batch_size": BATCH}
    if READERS[ending] != "csv":
        return {}
    cells: dict[str, Any] = {"keep_default_na": False, "index_col": False, "sep": ","}
    return cells | ({"sep": "\t", "quoting": csv.QUOTE_NONE} if ending == ".tsv" else {})


def _columns(file: Path, ending: str, header: Sequence[str], text: Sequence[str]) -> dict[str, Any]:
    """The names of the columns, where the first line is a row; a look at whether there are as many as cells."""
    lines = open_text(file)
    rows = (line.split("\t") for line in lines) if ending == ".tsv" else csv.reader(lines)
    first, second = next(rows, []), next(rows, [])
    if header and not {*text, *header} & set(first):
        if len(first) != len(header):
            raise DataError(
                f"{file.name}: its first line has {len(first)} columns, data.header names {len(header)}; name each"
            )
        return {"names": list(header), "header": None}
    if any(second[len(first) :]):
        raise DataError(
            f"{file.name}: its first row has {len(second)} columns, its header names {len(first)}; name each in "
            "data.header, or mend the file"
        )
    return {}


def _reading(rows: IterableDataset, file: Path) -> Iterator[dict[str, Any]]:
    batches = rows.iter(AT_ONCE)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except READ_ERRORS as error:
            raise unreadable(file, error) from error
        for cells in zip(*batch.values(), strict=True):
            yield dict(zip(batch, cells, strict=True))


def unreadable(file: Path, error: Exception) -> DataError:
    """What to say of a file that a reader refuses."""
    if _is_utf16(file):
        return DataError(f"{file.name}: is UTF-16, which Excel calls Unicode text; save it as UTF-8")
    reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
    return DataError(f"{file.name}: cannot be read as {suffix(file)[1:] or 'text'}: {reason[0]}")


def _is_utf16(file: Path) -> bool:
    try:
        with (gzip.open if file.suffix == ".gz" else open)(file, "rb") as content:
            return content.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    except READ_ERRORS:
        return False


def _named(rows: Iterator[dict[str, Any]], features: Features | None) -> Iterator[dict[str, Any]]:
    names = {column: found for column, feature in (features or {}).items() if (found := _class_names(feature))}
    for row in rows:
        yield row | {column: _name(row[column], found) for column, found in names.items()}


def _class_names(feature: Any) -> list[str] | None:
    inner = feature.feature if isinstance(feature, List) else feature
    return inner.names if isinstance(inner, ClassLabel) else None


def _name(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_name(item, names) for item in value]
    return names[value] if isinstance(value, int) and value >= 0 else value
