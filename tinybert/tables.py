"""Rows from files as users, hubs and makers of benchmarks have them: which file is which split, and what is in it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path
from typing import Any

from tinybert import conll, squad, tabular
from tinybert.data_config import DataConfig
from tinybert.errors import DataError
from tinybert.tabular import READERS, Table, first_line, suffix

_SPLIT_NAMES = {
    "train": r"train(ing)?",
    "validation": r"(validation|valid|val|dev|testa)",
    "test": r"(test(ing)?|testb)",
}
_BESIDE = ("dataset_infos.json", "dev_ids.tsv")
"""What the hub, and GLUE for MRPC, write beside tables."""
_SHARD = re.compile(r"-\d{5}-of-\d{5}.*|[\W\d_]+")
"""What the names of two parts of one split may differ in."""


@dataclass(frozen=True)
class Layout:
    """What files do not say of themselves. As it is made by default it suits tables with their columns' names."""

    kind: str = "classification"
    """Words and their tags, and questions and their answers, come in formats of their own."""
    text: str = "text"
    """Column by which a header is told from a row; alternatives with |."""
    header: tuple[str, ...] = ()
    """Names of the columns of csv and tsv files that do not name this one."""
    splits: Mapping[str, str] = field(default_factory=dict)
    """Patterns of names of files, or of paths inside the source, by split; several with |."""

    @classmethod
    def of(cls, config: DataConfig) -> "Layout":
        """As a form has it."""
        return cls(config.kind, config.text_column, tuple(config.header), config.splits)


PLAIN = Layout()


# Files ----------------------------------------------------------------------------------------------------------------


def split_files(path: Path, split: str, layout: Layout = PLAIN) -> list[Path]:
    """The files of one split: those its pattern matches; without one, those named after it, or in a directory that is.

    Where none is named after training, what is named after no split is training: a single file too. Files that a
    pattern matches belong to that split alone.

    Raises:
        DataError: The directory holds no table at all; a pattern matches none, or two patterns match the same.
    """
    if path.is_file() and not layout.splits:
        return [path] if split == "train" else []
    files = [path] if path.is_file() else table_files(path, layout)
    within = path.parent if path.is_file() else path
    matched = _matched(files, within, layout.splits)
    if split in matched:
        return matched[split]
    free = [file for file in files if file not in set(chain(*matched.values()))]
    named = {name: _named(free, name, within) for name in _SPLIT_NAMES}
    if not named["train"]:
        named["train"] = [file for file in free if file not in set(chain(*named.values()))]
    return named.get(split, [])


def table_files(directory: Path, layout: Layout = PLAIN) -> list[Path]:
    """All tables below a directory, in the order of their names.

    Raises:
        DataError: It holds none.
    """
    inside = [file for file in sorted(directory.rglob("*")) if file.is_file() and _is_table(file, layout)]
    visible = [f for f in inside if not any(part.startswith(".") for part in f.relative_to(directory).parts)]
    files = [file for file in visible if file.name.removesuffix(".gz") not in _BESIDE]
    if not files:
        raise DataError(f"{directory}: no table found; expected files of {_known(layout)}")
    return files


def check_unmixed(files: Sequence[Path], split: str) -> None:
    """Refuse rows to judge models on that come from files whose names say that they are different tests.

    Files named after the split may differ in numbers only, as the parts of one table do.

    Raises:
        DataError: Their names differ in more, as those of dev_matched.tsv and dev_mismatched.tsv.
    """
    own = [file for file in files if _in_name(file, split) or _in_parts(file, split)]
    kinds: dict[str, Path] = {}
    for file in own:
        kinds.setdefault(_SHARD.sub(" ", _stem(file)).strip(), file)
    if len(kinds) > 1:
        first, second, *_ = kinds.values()
        example = f'{{"{split}": "{_stem(first)}*", "{_stem(second)}": "{_stem(second)}*"}}'
        raise DataError(
            f"{split} would mix {', '.join(file.name for file in kinds.values())}; say which files are meant in "
            f"data.splits, e.g. {example}"
        )


def _known(layout: Layout) -> str:
    more = [ending for ending in conll.SUFFIXES if ending not in READERS] if _is_tagged(layout) else []
    return ", ".join([*READERS, *more])


def _is_tagged(layout: Layout) -> bool:
    return layout.kind == "token_classification"


def _is_table(file: Path, layout: Layout) -> bool:
    return suffix(file) in READERS or (_is_tagged(layout) and conll.is_conll(file))


def _matched(files: Sequence[Path], within: Path, splits: Mapping[str, str]) -> dict[str, list[Path]]:
    matched = {split: [f for f in files if _matches(f, within, pattern)] for split, pattern in splits.items()}
    for split, found in matched.items():
        if not found:
            there = ", ".join(file.relative_to(within).as_posix() for file in files)
            raise DataError(f"data.splits: {splits[split]!r} of {split} matches none of {there}")
        for other, others in matched.items():
            if other != split and (both := set(found) & set(others)):
                raise DataError(
                    f"data.splits: {min(both).name} matches {splits[split]!r} of {split} and {splits[other]!r} of "
                    f"{other}; narrow one of them down"
                )
    return matched


def _matches(file: Path, within: Path, patterns: str) -> bool:
    names = file.name, file.relative_to(within).as_posix()
    return any(fnmatchcase(name, pattern.strip()) for pattern in patterns.split("|") for name in names)


def _named(files: Sequence[Path], split: str, within: Path) -> list[Path]:
    """Files whose names begin with a split's; where no file's does so for any split, those that have it as a part."""
    begun = any(_in_name(file, name) for file in files for name in _SPLIT_NAMES)
    is_named = _in_name if begun else _in_parts
    pattern = _SPLIT_NAMES[split]
    inside = [file.parent != within and re.fullmatch(pattern, file.parent.name.lower()) is not None for file in files]
    return [file for file, is_inside in zip(files, inside, strict=True) if is_inside or is_named(file, split)]


def _in_name(file: Path, split: str) -> bool:
    return re.match(rf"{_SPLIT_NAMES[split]}(?![a-z])", file.name.lower()) is not None


def _in_parts(file: Path, split: str) -> bool:
    return any(re.fullmatch(_SPLIT_NAMES[split], part) for part in re.split(r"[\W_]+", file.name.lower()))


def _stem(file: Path) -> str:
    name = file.name.removesuffix(".gz")
    return name.removesuffix(Path(name).suffix) if suffix(file) in {*READERS, *conll.SUFFIXES} else name


# Rows -----------------------------------------------------------------------------------------------------------------


def column_names(file: Path, layout: Layout = PLAIN) -> list[str]:
    """The columns that a file has.

    Raises:
        DataError: It cannot be read.
    """
    table = _open(file, layout)
    return list(table.columns) if table else []


def one_of(column: str, names: Sequence[str]) -> str | None:
    """The first of a column's alternatives (a|b) that is among the names."""
    return next((name for name in (column, *column.split("|")) if name in names), None)


def stream(
    files: Sequence[Path], columns: Sequence[str], where: Mapping[str, str] | None = None, layout: Layout = PLAIN
) -> Iterator[dict[str, Any]]:
    """Rows of the files one after another, only the named columns, only where other columns hold given values.

    Memory does not grow with the rows, but for questions and contexts. A `txt` file has one column, "text", a row a
    line. Of alternatives (a|b) each file gives the first that it has, under the name of all.

    Raises:
        DataError: A file cannot be read, or lacks a column; the message lists those it has.
    """
    where = where or {}
    for file in files:
        table = _open(file, layout)
        if table is None:
            continue
        names = {column: _found(column, table, file) for column in (*columns, *where)}
        for row in table.rows:
            if all(str(row.get(names[column])) == value for column, value in where.items()):
                yield {column: row[names[column]] for column in columns}


def _found(column: str, table: Table, file: Path) -> str:
    found = one_of(column, table.columns)
    if found is None:
        wanted = " or ".join(map(repr, column.split("|")))
        advice = _advice(column, table.columns, file)
        raise DataError(f"{file.name}: no column {wanted}; it has {', '.join(sorted(table.columns))}{advice}")
    return found


def _advice(column: str, columns: Sequence[str], file: Path) -> str:
    """How a file may be meant that lacks a column, as the end of a sentence; nothing where that is open."""
    folded = {name.strip().casefold(): name for name in columns}
    meant = [folded[name.casefold()] for name in column.split("|") if name.casefold() in folded]
    if meant:
        return f"; did you mean {meant[0]!r}?"
    if suffix(file) == ".json" and "data" in columns:
        return "; where it holds questions as SQuAD does, set data.kind to question_answering"
    if len(columns) > 1 or suffix(file) not in (".csv", ".tsv", ".txt"):
        return ""
    line = first_line(file)
    if "\t" in line:
        return "; tabs part its columns: let its name end in .tsv"
    mark = {".csv": ";", ".tsv": ","}.get(suffix(file), "")
    better = "save it with commas between" if mark == ";" else "let its name end in .csv"
    return f"; {mark!r} parts its columns: {better}" if mark and mark in line else ""


def _open(file: Path, layout: Layout) -> Table | None:
    """A file's rows; None where it is empty."""
    if _is_tagged(layout) and conll.is_conll(file):
        return conll.read(file)
    if suffix(file) not in READERS:
        raise DataError(f"{file.name}: unknown kind of table {suffix(file)!r}; expected one of {_known(layout)}")
    if layout.kind == "question_answering" and suffix(file) == ".json" and (table := squad.read(file)):
        return table
    return tabular.read(file, layout.header, layout.text.split("|"))
