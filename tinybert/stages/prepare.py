"""Labelled rows from anywhere to a clean task data set: columns chosen, labels named, duplicates and leaks gone."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinybert.cli import main
from tinybert.config import DataConfig
from tinybert.data import RowWriter, write_manifest
from tinybert.errors import DataError
from tinybert.progress import OnMetrics
from tinybert.sampling import Purpose, choose
from tinybert.tables import split_files, stream


@dataclass(frozen=True)
class Row:
    """One labelled example; label is a name."""

    text: str
    pair: str | None
    label: str

    @property
    def sentences(self) -> tuple[str, str | None]:
        """What a model sees; two rows with the same are the same question."""
        return self.text, self.pair


def run(
    *, source: Path, config: DataConfig, out: Path, on_metrics: OnMetrics, validation: Path | None = None
) -> dict[str, float]:
    """Prepare a task data set.

    Args:
        source: File or directory of the training rows.
        config: Columns, labels, sizes.
        out: Directory to write: `train.arrow`, `validation.arrow`, `manifest.json` (see `tinybert.data`).
        on_metrics: Told the row counts.
        validation: File or directory of the validation rows; without it the source's own validation split,
            or a stratified share of its rows.

    Returns:
        train_rows, validation_rows, and how many duplicates and leaks were dropped.

    Raises:
        DataError: Unreadable file, missing column, empty text, one class only, a label missing in a split.
    """
    train = _read(split_files(source, "train"), config)
    held_out = _read(_validation_files(source, validation), config)
    labels = _label_names([*train, *held_out], config)
    train, train_duplicates = _distinct(train)
    held_out, held_out_duplicates = _distinct(held_out)
    if not held_out:
        train, held_out = _split(train, config)
    train, leaks = _without_leaks(train, held_out, config)
    train = _sample(train, config.rows, config.seed)
    held_out = _sample(held_out, config.validation_rows, config.seed)
    _check_labels(train, held_out, labels)
    _write(out / "train.arrow", train, labels)
    _write(out / "validation.arrow", held_out, labels)
    dropped = {"duplicates": train_duplicates + held_out_duplicates, "leaks": leaks}
    write_manifest(out, labels, config.max_length, dropped=dropped)
    counts = {"train_rows": len(train), "validation_rows": len(held_out), **dropped}
    metrics = {name: float(value) for name, value in counts.items()}
    on_metrics(metrics, 0)
    return metrics


def _validation_files(source: Path, validation: Path | None) -> list[Path]:
    if validation is None:
        return split_files(source, "validation")
    return split_files(validation, "validation") or split_files(validation, "train")


def _read(files: list[Path], config: DataConfig) -> list[Row]:
    columns = [config.text, *([config.text_pair] if config.text_pair else []), config.label]
    rows: list[Row] = []
    empty: list[int] = []
    for number, raw in enumerate(stream(files, columns, config.where), start=1):
        pair = _text(raw[config.text_pair]) if config.text_pair else None
        row = Row(_text(raw[config.text]), pair, _label_name(raw[config.label], config))
        if not row.text or pair == "":
            empty.append(number)
        rows.append(row)
    if empty:
        shown = ", ".join(map(str, empty[:5])) + (", ..." if len(empty) > 5 else "")
        raise DataError(f"empty text in {len(empty)} of {len(rows)} rows (row {shown}); fill or remove them")
    if files and not rows:
        raise DataError(f"no row of {files[0].name} matches data.where {config.where}")
    return rows


def _text(value: Any) -> str:
    return "" if value is None else " ".join(str(value).split())


def _label_name(value: Any, config: DataConfig) -> str:
    if value is None or value == "":
        raise DataError(f"column {config.label!r} is empty in some rows; every row needs a label")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if config.labels and str(value).isdigit() and str(value) not in config.labels:
        if int(value) >= len(config.labels):
            raise DataError(
                f"column {config.label!r} holds {value}, but data.labels names only {len(config.labels)} "
                f"classes, 0 to {len(config.labels) - 1}: {', '.join(config.labels)}"
            )
        return config.labels[int(value)]
    return str(value)


def _label_names(rows: Sequence[Row], config: DataConfig) -> list[str]:
    found = {row.label for row in rows}
    unknown = sorted(found - set(config.labels))
    if config.labels and unknown:
        raise DataError(f"column {config.label!r} holds {unknown[0]!r}; data.labels allows {', '.join(config.labels)}")
    if len(found) < 2:
        raise DataError(f"only one class, {next(iter(found))!r}, in column {config.label!r}; a classifier needs two")
    return config.labels or sorted(found, key=lambda name: (len(name), name) if name.isdigit() else (0, name))


def _distinct(rows: list[Row]) -> tuple[list[Row], int]:
    distinct = list(dict.fromkeys(rows))
    return distinct, len(rows) - len(distinct)


def _split(rows: list[Row], config: DataConfig) -> tuple[list[Row], list[Row]]:
    smallest = min(Counter(row.label for row in rows).items(), key=lambda item: item[1])
    if smallest[1] < 2:
        raise DataError(f"label {smallest[0]!r} has one row; two are needed to split off a validation set")
    labels = [row.label for row in rows]
    count = max(round(config.validation_share * len(rows)), len(set(labels)))
    if len(rows) - count < len(set(labels)):
        raise DataError(
            f"{len(rows)} rows cannot be split with data.validation_share {config.validation_share:g}: each split "
            f"needs a row of each of the {len(set(labels))} labels; add rows, or change the share"
        )
    held_out, train = _parted(rows, count, "split", config.seed, spare=1)
    return train, held_out


def _without_leaks(train: list[Row], held_out: list[Row], config: DataConfig) -> tuple[list[Row], int]:
    seen = {row.sentences for row in held_out}
    clean = [row for row in train if row.sentences not in seen]
    leaks = len(train) - len(clean)
    if leaks and config.leaks == "refuse":
        example = next(row.text for row in train if row.sentences in seen)
        raise DataError(
            f"{leaks} training rows stand in validation too, e.g. {example[:60]!r}; "
            "remove them, or set data.leaks to remove"
        )
    return clean, leaks


def _sample(rows: list[Row], most: int | None, seed: int) -> list[Row]:
    if most is None or len(rows) <= most:
        return rows
    labels = [row.label for row in rows]
    if most < len(set(labels)):
        raise DataError(f"{most} rows cannot hold {len(set(labels))} labels; allow more rows")
    sample, _ = _parted(rows, most, "sample", seed)
    return sample


def _parted(rows: list[Row], count: int, purpose: Purpose, seed: int, spare: int = 0) -> tuple[list[Row], list[Row]]:
    """The rows that are taken, and the others, both in the order they had."""
    labels = [row.label for row in rows]
    taken = choose([row.sentences for row in rows], labels, count, purpose=purpose, seed=seed, spare=spare)
    others = [row for place, row in enumerate(rows) if place not in taken]
    return [rows[place] for place in sorted(taken)], others


def _check_labels(train: list[Row], held_out: list[Row], labels: list[str]) -> None:
    for split, rows in {"train": train, "validation": held_out}.items():
        missing = [name for name in labels if name not in {row.label for row in rows}]
        if missing:
            raise DataError(
                f"label {missing[0]!r} is missing in {split}, which has {', '.join(sorted({r.label for r in rows}))}; "
                "add rows of it, or leave it out of both splits"
            )


def _write(path: Path, rows: list[Row], labels: list[str]) -> None:
    index = {name: number for number, name in enumerate(labels)}
    with RowWriter(path) as writer:
        for number, row in enumerate(rows):
            writer.add(row.text, row.pair, index[row.label], number)


if __name__ == "__main__":
    main(run)
