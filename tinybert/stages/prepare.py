"""Labelled rows from anywhere to a clean task data set: columns chosen, labels named, duplicates and leaks gone."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from tinybert.cli import main
from tinybert.config import DataConfig
from tinybert.data import SPLITS, RowWriter, write_manifest
from tinybert.errors import DataError
from tinybert.progress import OnMetrics, logger
from tinybert.sampling import Purpose, choose
from tinybert.tables import column_names, split_files, stream

NO_LABEL = (None, "", -1, "-1")
"""What stands for a label where none is given away; the test splits of GLUE on the hub hold -1."""


@dataclass(frozen=True)
class Row:
    """One labelled example; label is a name."""

    text: str
    pair: str | None
    label: str
    group: str | None = field(default=None, compare=False)
    """The value of `data.slice_by`. Rows that differ in it alone are duplicates."""

    @property
    def sentences(self) -> tuple[str, str | None]:
        """What a model sees; two rows with the same are the same question."""
        return self.text, self.pair


Splits = dict[str, list[Row]]
"""The rows of each of `tinybert.data.SPLITS`."""


def run(
    *,
    source: Path,
    config: DataConfig,
    out: Path,
    on_metrics: OnMetrics,
    validation: Path | None = None,
    test: Path | None = None,
) -> dict[str, float]:
    """Prepare a task data set.

    Args:
        source: File or directory of the training rows.
        config: Columns, labels, sizes.
        out: Directory to write: `train.arrow`, `validation.arrow`, `test.arrow`, `manifest.json` (see
            `tinybert.data`).
        on_metrics: Told the row counts.
        validation: File or directory of the validation rows; without it the source's own validation split,
            or a stratified share of its rows.
        test: File or directory of the test rows; without it the source's own test split where that is labelled,
            or a stratified share of the validation rows; with a share of 0 all of them serve as both.

    Returns:
        train_rows, validation_rows, test_rows, and how many duplicates and leaks were dropped.

    Raises:
        DataError: Unreadable file, missing column, empty text, one class only, a label missing in a split, too few
            rows to split, test rows without labels.
    """
    read = _read_splits(source, validation, test, config)
    labels = _label_names([*chain(*read.values())], config)
    distinct = {split: list(dict.fromkeys(rows)) for split, rows in read.items()}
    test_is_validation = not distinct["test"] and not config.test_share
    parted = part(distinct, config)
    clean = _without_leaks(parted, config)
    sampled = _sampled(clean, config)
    if test_is_validation:
        sampled["test"] = _sample(sampled["validation"], config.test_rows, config.seed)
    _check_labels(sampled, labels)
    for split, rows in sampled.items():
        _write(out / f"{split}.arrow", rows, labels)
    dropped = {"duplicates": _count(read) - _count(distinct), "leaks": _count(parted) - _count(clean)}
    more = {"dropped": dropped, "slice_by": config.slice_by}
    write_manifest(out, labels, config.max_length, test_is_validation=test_is_validation, **more)
    counts = {**{f"{split}_rows": len(rows) for split, rows in sampled.items()}, **dropped}
    metrics = {name: float(value) for name, value in counts.items()}
    on_metrics(metrics, 0)
    return metrics


def _count(splits: Splits) -> int:
    return sum(map(len, splits.values()))


# Reading --------------------------------------------------------------------------------------------------------------


def _read_splits(source: Path, validation: Path | None, test: Path | None, config: DataConfig) -> Splits:
    train = split_files(source, "train")
    if not train:
        raise DataError(f"{source}: every table is named after validation or test; name the training rows train...")
    held_out = _files(source, validation, "validation")
    compared = _files(source, test, "test")
    if compared and not _are_labelled(compared, config):
        unlabelled = f"{compared[0].name} has no labels: column {config.label!r} is missing, empty or -1 in every row"
        if test is not None:
            raise DataError(f"{unlabelled}; name labelled rows in data.test_source, or none")
        logger.info("prepare  %s, so it is not used; models are compared on held-out rows", unlabelled)
        compared = []
    return {split: _read(files, config) for split, files in zip(SPLITS, (train, held_out, compared), strict=True)}


def _files(source: Path, own: Path | None, split: str) -> list[Path]:
    """Those of a split: of a source of its own, where there is one, else of the source of all."""
    if own is None:
        return split_files(source, split)
    files = split_files(own, split) or split_files(own, "train")
    if not files:
        raise DataError(f"{own}: every table is named after another split; name one file in data.{split}_source")
    return files


def _are_labelled(files: list[Path], config: DataConfig) -> bool:
    if not all(config.label in column_names(file) for file in files):
        return False
    empty = True
    for row in stream(files, [config.label], config.where):
        if row[config.label] not in NO_LABEL:
            return True
        empty = False
    return empty  # that no row matches is for `_read` to say


def _read(files: list[Path], config: DataConfig) -> list[Row]:
    columns = [column for column in (config.text, config.text_pair, config.label, config.slice_by) if column]
    rows: list[Row] = []
    empty: list[int] = []
    for number, raw in enumerate(stream(files, columns, config.where), start=1):
        pair = _text(raw[config.text_pair]) if config.text_pair else None
        group = _text(raw[config.slice_by]) or None if config.slice_by else None
        row = Row(_text(raw[config.text]), pair, _label_name(raw[config.label], config), group)
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


# Splitting ------------------------------------------------------------------------------------------------------------


def part(rows: Splits, config: DataConfig) -> Splits:
    """The splits that are missing, made of the others: validation rows of training rows, test rows of validation rows.

    For each row that is added, or removed, at most one other leaves each split, but for the rounding of quotas
    (`tinybert.sampling`). With `test_share` 0 no test rows are made.

    Raises:
        DataError: There are too few rows of a label, or in all.
    """
    train, validation, test = (rows[split] for split in SPLITS)
    is_parted = not test and config.test_share > 0
    if not validation:
        least = 2 if is_parted else 1
        train, validation = _split_off("validation", train, config.validation_share, "split", config.seed, least)
    if is_parted:
        validation, test = _split_off("test", validation, config.test_share, "test", config.seed)
    return dict(zip(SPLITS, (train, validation, test), strict=True))


def _split_off(
    split: str, rows: list[Row], share: float, purpose: Purpose, seed: int, least: int = 1
) -> tuple[list[Row], list[Row]]:
    """What is left, and what is split off: of each label at least one row, and at least `least`."""
    sizes = Counter(row.label for row in rows)
    label, size = min(sizes.items(), key=lambda item: item[1])
    if size <= least:
        raise DataError(
            f"label {label!r} has {size} of the rows that data.{split}_share splits; {least + 1} are needed: "
            f"add rows, or name a data.{split}_source"
        )
    count = max(round(share * len(rows)), least * len(sizes))
    if len(rows) - count < len(sizes):
        raise DataError(
            f"{len(rows)} rows cannot be split with data.{split}_share {share:g}: each split "
            f"needs a row of each of the {len(sizes)} labels; add rows, or change the share"
        )
    taken, left = _parted(rows, count, purpose, seed, spare=1, least=least)
    return left, taken


def _without_leaks(rows: Splits, config: DataConfig) -> Splits:
    """Validation without what stands in test, train without what stands in either."""
    clean, before = dict(rows), ["test"] if rows["test"] else []
    seen = {row.sentences for row in rows["test"]}
    for split in ("validation", "train"):
        leaks = [row for row in rows[split] if row.sentences in seen]
        if leaks and config.leaks == "refuse":
            raise DataError(
                f"{len(leaks)} rows of {split} stand in {' or '.join(before)} too, e.g. {leaks[0].text[:60]!r}; "
                "remove them, or set data.leaks to remove"
            )
        clean[split] = [row for row in rows[split] if row.sentences not in seen]
        seen |= {row.sentences for row in rows[split]}
        before.insert(0, split)
    return clean


def _sampled(rows: Splits, config: DataConfig) -> Splits:
    most = (config.rows, config.validation_rows, config.test_rows)
    return {split: _sample(rows[split], limit, config.seed) for split, limit in zip(SPLITS, most, strict=True)}


def _sample(rows: list[Row], most: int | None, seed: int) -> list[Row]:
    if most is None or len(rows) <= most:
        return rows
    labels = [row.label for row in rows]
    if most < len(set(labels)):
        raise DataError(f"{most} rows cannot hold {len(set(labels))} labels; allow more rows")
    sample, _ = _parted(rows, most, "sample", seed)
    return sample


def _parted(
    rows: list[Row], count: int, purpose: Purpose, seed: int, spare: int = 0, least: int = 1
) -> tuple[list[Row], list[Row]]:
    """The rows that are taken, and the others, both in the order they had."""
    labels = [row.label for row in rows]
    sentences = [row.sentences for row in rows]
    taken = choose(sentences, labels, count, purpose=purpose, seed=seed, spare=spare, least=least)
    others = [row for place, row in enumerate(rows) if place not in taken]
    return [rows[place] for place in sorted(taken)], others


# Writing --------------------------------------------------------------------------------------------------------------


def _check_labels(splits: Splits, labels: list[str]) -> None:
    for split, rows in splits.items():
        missing = [name for name in labels if name not in {row.label for row in rows}]
        if missing:
            raise DataError(
                f"label {missing[0]!r} is missing in {split}, which has {', '.join(sorted({r.label for r in rows}))}; "
                "add rows of it, or leave it out of all splits"
            )


def _write(path: Path, rows: list[Row], labels: list[str]) -> None:
    index = {name: number for number, name in enumerate(labels)}
    with RowWriter(path) as writer:
        for number, row in enumerate(rows):
            writer.add(row.text, row.pair, index[row.label], number, group=row.group)


if __name__ == "__main__":
    main(run)
