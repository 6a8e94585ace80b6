"""Tagged words as CoNLL's tasks write them: a word and its tag a line, a blank line between sentences."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tinybert.errors import DataError
from tinybert.tabular import Table, open_text, suffix

SUFFIXES = (".txt", ".conll", ".bio", ".bio2", ".iob", ".iob2")
_PARTS = (".train", ".dev", ".test", ".testa", ".testb")
"""Endings that name a split, as in eng.testa; what has no ending at all may be such a file too."""
_NO_TABLES = ("readme", "license", "licence", "copying", "notice", "makefile")
_DOCUMENT = "-DOCSTART-"
_HEADERS = ("tag", "tags", "ner", "ner_tag", "ner_tags", "label", "labels")
"""What stands over the column of tags in files that name their columns."""


def is_conll(file: Path) -> bool:
    """Whether a file may hold tagged words, by its name."""
    if suffix(file) in SUFFIXES or suffix(file) in _PARTS:
        return not file.name.lower().startswith(_NO_TABLES)
    return suffix(file) == "" and not file.name.lower().startswith((".", *_NO_TABLES))


def read(file: Path) -> Table | None:
    """A file as rows with the columns tokens, the words of a sentence, and tags; None where it is empty.

    Lines between documents (-DOCSTART-) are left out. Columns are parted by tabs where a line has one, else by spaces.
    A file with one column has no tags.

    Raises:
        DataError: It cannot be read as text, it has a header, or its lines differ in the number of columns.
    """
    first = next(_lines(file), None)
    if first is None:
        return None
    if len(first) > 1 and first[-1].lower() in _HEADERS:
        raise DataError(f"{file.name}: its first line names columns ({', '.join(first)}), not a word; take it out")
    columns = ["tokens", "tags"] if len(first) > 1 else ["tokens"]
    return Table(columns, _sentences(file, len(columns)))


def _sentences(file: Path, columns: int) -> Iterator[dict[str, Any]]:
    words: list[str] = []
    tags: list[str] = []
    for cells in _lines(file, blank=True):
        if cells:
            words.append(cells[0])
            tags.append(cells[-1])
        elif words:
            yield dict(zip(("tokens", "tags")[:columns], (words, tags), strict=False))
            words, tags = [], []
    if words:
        yield dict(zip(("tokens", "tags")[:columns], (words, tags), strict=False))


def _lines(file: Path, blank: bool = False) -> Iterator[list[str]]:
    """Columns of each line with a word, and, where `blank`, none for the lines between sentences."""
    width = 0
    for number, line in enumerate(open_text(file), start=1):
        cells = _cells(line)
        if not cells or cells[0] == _DOCUMENT:
            if blank:
                yield []
            continue
        width = width or len(cells)
        if len(cells) != width:
            raise DataError(
                f"{file.name}: line {number} has {len(cells)} columns, those before {width}; write a word and its tag "
                "on each line, and a blank line between sentences"
            )
        yield cells


def _cells(line: str) -> list[str]:
    """Not `str.split`, for which the spaces of other scripts, which can be words here, are white space too."""
    if not line.strip(" \t\r"):
        return []
    if "\t" in line:
        return [cell.strip(" \r") for cell in line.strip("\r").split("\t")]
    return re.split(" +", line.strip(" \r"))
