"""Labelled rows from anywhere to a clean task data set: columns chosen, labels named, duplicates and leaks gone."""

from pathlib import Path
from typing import Any

from tinybert.checks import label_order
from tinybert.cli import main
from tinybert.data import RowWriter, TaskData, write_manifest
from tinybert.data_config import SPLITS, DataConfig
from tinybert.describe import describe
from tinybert.errors import DataError
from tinybert.kinds import kind_of
from tinybert.kinds.reading import plain_text
from tinybert.kinds.task_kind import Label, TaskKind
from tinybert.progress import OnMetrics, logger
from tinybert.splitting import Row, Splits, part, sample, without_leaks
from tinybert.tables import Layout, check_unmixed, column_names, one_of, split_files, stream

NO_LABEL = (None, "", -1, "-1")
"""What stands for a label where none is given away; the test splits of GLUE on the hub hold -1."""


def run(
    *,
    source: Path,
    config: DataConfig,
    out: Path,
    on_metrics: OnMetrics,
    validation: Path | None = None,
    test: Path | None = None,
    order: list[str] | None = None,
) -> dict[str, float]:
    """Prepare a task data set.

    Args:
        source: File or directory of the training rows, and of the further tests.
        config: Kind of task, columns, labels, sizes.
        out: Directory to write: `train.arrow`, `validation.arrow`, `test.arrow`, `test_<name>.arrow` of further tests,
            `data.md` (see `tinybert.describe`), `manifest.json` (see `tinybert.data`).
        on_metrics: Told the row counts.
        validation: File or directory of the validation rows; without it the source's own validation split,
            or a stratified share of its rows.
        test: File or directory of the test rows; without it the source's own test split where that is labelled,
            or a stratified share of the validation rows; with a share of 0 all of them serve as both.
        order: Names of the outputs of a teacher that is fine-tuned already; the data take their order. None, or empty,
            where there is none.

    Returns:
        train_rows, validation_rows, test_rows, those of further tests, and how many duplicates and leaks were dropped.

    Raises:
        DataError: Unreadable file, missing column, empty text, one class only, a label missing in a split, too few
            rows to split, test rows without labels, different tests in one split, a metric that the labels do not have.
        ModelError: The teacher's outputs are not the data's labels.
    """
    kind = kind_of(config.kind)
    read = _read_splits(source, validation, test, config, kind)
    labels = label_order(order or [], _label_names(read, config, kind), config)
    _check_metric(config, kind, labels)
    needed = kind.missing([], labels)
    distinct = {split: list(dict.fromkeys(rows)) for split, rows in read.items()}
    test_is_validation = not distinct["test"] and not config.test_share
    parted = part(distinct, config, needed)
    clean = without_leaks(parted, config)
    most = {"train": config.rows, "validation": config.validation_rows}
    chosen = {s: sample(rows, most.get(s, config.test_rows), config.seed, needed) for s, rows in clean.items()}
    if test_is_validation:
        chosen["test"] = sample(chosen["validation"], config.test_rows, config.seed, needed)
    for split, rows in chosen.items():
        numbers = [kind.number(row.label, labels) for row in rows]
        if split in SPLITS:
            _check_labels(split, numbers, labels, kind)
        _write(out / f"{split}.arrow", rows, numbers, kind)
    dropped = {"duplicates": _count(read) - _count(distinct), "leaks": _count(parted) - _count(clean)}
    _say(out, config, labels, dropped, test_is_validation)
    counts = {**{f"{split}_rows": len(rows) for split, rows in chosen.items()}, **dropped}
    metrics = {name: float(value) for name, value in counts.items()}
    on_metrics(metrics, 0)
    return metrics


def _count(splits: Splits) -> int:
    return sum(map(len, splits.values()))


# Reading --------------------------------------------------------------------------------------------------------------


def _read_splits(
    source: Path, validation: Path | None, test: Path | None, config: DataConfig, kind: TaskKind
) -> Splits:
    layout = Layout.of(config)
    own = {split: path for split, path in (("validation", validation), ("test", test)) if path}
    shared = Layout(layout.kind, layout.text, layout.header, {s: p for s, p in layout.splits.items() if s not in own})
    files = {split: _files(split, source, own.get(split), layout, shared) for split in SPLITS}
    if not files["train"]:
        raise DataError(f"{source}: every table is named after validation or test; name the training rows train...")
    if files["test"] and not _are_labelled(files["test"], config, layout):
        unlabelled = f"{files['test'][0].name} has no labels: column {config.label_column!r} is missing, empty or -1 in"
        if test is not None:
            raise DataError(f"{unlabelled} every row; name labelled rows in data.test_source, or none")
        logger.info("prepare  %s every row, so it is not used; models are compared on held-out rows", unlabelled)
        files["test"] = []
    for split in SPLITS[1:]:
        if split not in config.splits:
            check_unmixed(files[split], split)
    files |= {f"test_{name}": split_files(source, name, shared) for name in config.other_tests}
    return {split: _read(split, found, config, kind) for split, found in files.items()}


def _files(split: str, source: Path, own: Path | None, layout: Layout, shared: Layout) -> list[Path]:
    """Those of a split: of a source of its own, where there is one, else of the source of all."""
    if own is None:
        return split_files(source, split, shared)
    named = {name: pattern for name, pattern in layout.splits.items() if name == split}
    mine = Layout(layout.kind, layout.text, layout.header, named)
    files = split_files(own, split, mine) or split_files(own, "train", mine)
    if not files:
        raise DataError(f"{own}: every table is named after another split; name one file in data.{split}_source")
    return files


def _are_labelled(files: list[Path], config: DataConfig, layout: Layout) -> bool:
    column = config.label_column
    if not all(one_of(column, column_names(file, layout)) for file in files):
        return False
    empty = True
    for row in stream(files, [column], config.where, layout):
        if not _is_withheld(row[column]):
            return True
        empty = False
    return empty  # that no row matches is for `_read` to say


def _is_withheld(label: Any) -> bool:
    """Whether a label, all tags of a row, or all parts of an answer are given away nowhere."""
    if isinstance(label, dict):
        return all(map(_is_withheld, label.values()))
    return all(map(_is_withheld, label)) if isinstance(label, list | tuple) else label in NO_LABEL


def _read(split: str, files: list[Path], config: DataConfig, kind: TaskKind) -> list[Row]:
    text, pair, label = config.text_column, config.pair_column, config.label_column
    columns = [column for column in (text, pair, label, config.slice_by) if column]
    rows: list[Row] = []
    empty: list[int] = []
    for number, raw in enumerate(stream(files, columns, config.where, Layout.of(config)), start=1):
        if str(raw[label]) in config.drop_labels:
            continue
        try:
            example = kind.example(raw[text], raw[pair] if pair else None, raw[label], config)
        except DataError as error:
            raise DataError(f"{error} (row {number} of {split})") from error
        group = plain_text(raw[config.slice_by]) or None if config.slice_by else None
        rows.append(Row(*example, kind.stratum(example.label), group))
        if not example.text.strip() or (example.pair is not None and not example.pair.strip()):
            empty.append(number)
    if empty:
        shown = ", ".join(map(str, empty[:5])) + (", ..." if len(empty) > 5 else "")
        raise DataError(f"empty text in {len(empty)} of {len(rows)} rows (row {shown}); fill or remove them")
    if files and not rows:
        dropped = f" but for those of data.drop_labels {config.drop_labels}" if config.drop_labels else ""
        raise DataError(f"no row of {files[0].name} matches data.where {config.where}{dropped}")
    return rows


# Labels ---------------------------------------------------------------------------------------------------------------


def _label_names(rows: Splits, config: DataConfig, kind: TaskKind) -> list[str]:
    """Names of the outputs, by the rows that models are made and chosen on: a further test may add none."""
    found = {row.label for split in SPLITS for row in rows[split]}
    labels = kind.label_names(found, config)
    for name in config.other_tests:
        more = set(kind.label_names(found | {row.label for row in rows[f"test_{name}"]}, config)) - set(labels)
        if more:
            raise DataError(
                f"data.splits {name!r} has the label {min(more)!r}, the other rows have {', '.join(labels)}; name "
                "it in data.drop_labels, or leave the test out"
            )
    return labels


def _check_metric(config: DataConfig, kind: TaskKind, labels: list[str]) -> None:
    if config.score not in kind.measured(labels):
        raise DataError(
            f"data.metric: found {config.score}; with the labels {', '.join(labels)} there are "
            f"{', '.join(kind.measured(labels))}; choose one of them"
        )


def _check_labels(split: str, numbers: list[Label], labels: list[str], kind: TaskKind) -> None:
    missing = kind.missing(numbers, labels)
    if missing:
        present = [name for name, count in kind.counts(numbers, labels).items() if count]
        raise DataError(
            f"label {missing[0]!r} is missing in {split}, which has {', '.join(sorted(present)) or 'none'}; "
            "add rows of it, or leave it out of all splits"
        )


# Writing --------------------------------------------------------------------------------------------------------------


def _write(path: Path, rows: list[Row], numbers: list[Label], kind: TaskKind) -> None:
    with RowWriter(path, kind) as writer:
        for place, (row, number) in enumerate(zip(rows, numbers, strict=True)):
            writer.add(row.text, row.pair, number, place, group=row.group)


def _say(out: Path, config: DataConfig, labels: list[str], dropped: dict[str, int], test_is_validation: bool) -> None:
    """Write what there is: for people, then for the stages that follow."""
    data = TaskData(out)
    splits = {split: data.rows(split) for split in (*SPLITS, *(f"test_{name}" for name in config.other_tests))}
    (out / "data.md").write_text(describe(splits, config, labels, dropped, test_is_validation), encoding="utf-8")
    write_manifest(
        out,
        labels,
        config.max_length,
        kind=config.kind,
        metric=config.score,
        test_is_validation=test_is_validation,
        other_tests=config.other_tests,
        dropped=dropped,
        slice_by=config.slice_by,
    )


if __name__ == "__main__":
    main(run)
