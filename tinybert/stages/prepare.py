"""Labelled rows from anywhere to a clean task data set: columns chosen, labels named, duplicates and leaks gone."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinybert.checks import label_order
from tinybert.cli import main
from tinybert.data import RowWriter, TaskData, write_manifest
from tinybert.data_config import SPLITS, DataConfig
from tinybert.describe import describe_prepared
from tinybert.errors import DataError
from tinybert.kinds import kind_of
from tinybert.kinds.reading import plain_text
from tinybert.kinds.task_kind import Example, Label, TaskKind
from tinybert.progress import OnMetrics, logger
from tinybert.splitting import Row, Splits, leaking, part, sample, without_leaks
from tinybert.tables import Layout, check_unmixed, column_names, one_of, split_files, stream

NO_LABEL = (None, "", -1, "-1")
"""What stands for a label where none is given away; the test splits of GLUE on the hub hold -1."""
DROPPED = ("bad_rows", "duplicates", "leaks")
"""Why rows are dropped."""
COUNTED = 30
"""Labels of a split whose rows are counted in the log at most."""


@dataclass
class _Gone:
    """What was left out, and what is to be said of what was not."""

    rows: dict[str, dict[str, int]] = field(default_factory=dict)
    """Rows of each split that were dropped, by reason, one of `DROPPED`."""
    problems: list[str] = field(default_factory=list)
    """Sentences for people."""

    def add(self, split: str, reason: str, count: int) -> None:
        """Count rows that were dropped, if any."""
        if count:
            self.rows.setdefault(split, {})[reason] = count

    def total(self, reason: str) -> int:
        """Rows of all splits that were dropped for it."""
        return sum(reasons.get(reason, 0) for reasons in self.rows.values())


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
        train_rows, validation_rows, test_rows, those of further tests, and how many bad_rows (`data.bad_rows`),
        duplicates and leaks were dropped.

    Raises:
        DataError: Unreadable file or row, missing column, empty text, one class only, a label missing in train, too few
            rows to split, test rows without labels, different tests in one split, a metric that the labels do not have.
        ModelError: The teacher's outputs are not the data's labels.
    """
    kind, gone = kind_of(config.kind), _Gone()
    read = _read_splits(source, validation, test, config, kind, gone)
    _count_labels(read)
    labels = label_order(order or [], _label_names(read, config, kind), config)
    _check_metric(config, kind, labels)
    needed = kind.missing([], labels)
    clean = _clean(read, config, gone)
    test_is_validation = not clean["test"] and not config.test_share
    parted = part(clean, config, needed)
    most = {"train": config.rows, "validation": config.validation_rows}
    chosen = {s: sample(rows, most.get(s, config.test_rows), config.seed, needed) for s, rows in parted.items()}
    if test_is_validation:
        chosen["test"] = sample(chosen["validation"], config.test_rows, config.seed, needed)
    for split, rows in chosen.items():
        numbers = [kind.number(row.label, labels) for row in rows]
        if split in SPLITS:
            _check_labels(split, numbers, labels, kind)
        _write(out / f"{split}.arrow", rows, numbers, kind)
    always_answers = kind.name == "question_answering" and all(row.label for row in parted["train"])
    _say(out, config, labels, gone, test_is_validation, always_answers)
    counts = {f"{split}_rows": len(rows) for split, rows in chosen.items()}
    counts |= {name: gone.total(name) for name in DROPPED}
    metrics = {name: float(value) for name, value in counts.items()}
    on_metrics(metrics, 0)
    return metrics


def _clean(read: Splits, config: DataConfig, gone: _Gone) -> Splits:
    """Train without duplicates and leaks. Other splits that were given keep all rows: their scores are compared."""
    distinct = {**read, "train": list(dict.fromkeys(read["train"]))}
    clean = without_leaks(distinct, config)
    gone.add("train", "duplicates", len(read["train"]) - len(distinct["train"]))
    gone.add("train", "leaks", len(distinct["train"]) - len(clean["train"]))
    known, tests = leaking(clean, "validation")
    if known:
        where = f"in {' or '.join(tests)} too, and stay"
        gone.problems.append(f"{len(known):,} rows of validation stand {where}, e.g. {known[0].text[:60]!r}")
    return clean


# Reading --------------------------------------------------------------------------------------------------------------


def _read_splits(
    source: Path, validation: Path | None, test: Path | None, config: DataConfig, kind: TaskKind, gone: _Gone
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
    return {split: _read(split, found, config, kind, gone) for split, found in files.items()}


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


def _read(split: str, files: list[Path], config: DataConfig, kind: TaskKind, gone: _Gone) -> list[Row]:
    columns = [c for c in (config.text_column, config.pair_column, config.label_column, config.slice_by) if c]
    rows: list[Row] = []
    bad, first = 0, ""
    for number, raw in enumerate(stream(files, columns, config.where, Layout.of(config)), start=1):
        if str(raw[config.label_column]) in config.drop_labels:
            continue
        try:
            example = example_of(raw, config, kind)
        except DataError as error:
            bad, first = bad + 1, first or f"{error} (row {number} of {split})"
            continue
        group = plain_text(raw[config.slice_by]) or None if config.slice_by else None
        rows.append(Row(*example, kind.stratum(example.label), group, kind.unit(example)))
    if bad and (config.bad_rows == "refuse" or not rows):
        more = f" and {bad - 1:,} more" if bad > 1 else ""
        raise DataError(f"{first}{more}; to leave out what cannot be read, set data.bad_rows to drop")
    if bad:
        gone.problems.append(f"{bad:,} rows of {split} cannot be read and are left out, e.g.: {first}")
    gone.add(split, "bad_rows", bad)
    if files and not rows:
        dropped = f" but for those of data.drop_labels {config.drop_labels}" if config.drop_labels else ""
        raise DataError(f"no row of {files[0].name} matches data.where {config.where}{dropped}")
    return rows


def example_of(raw: Mapping[str, Any], config: DataConfig, kind: TaskKind) -> Example:
    """A row of a table as its kind of task reads it.

    Raises:
        DataError: Its label cannot be one, or a text is empty.
    """
    pair = config.pair_column
    example = kind.example(raw[config.text_column], raw[pair] if pair else None, raw[config.label_column], config)
    if not example.text.strip() or (example.pair is not None and not example.pair.strip()):
        raise DataError("empty text; fill it, or leave the row out")
    return example


def _count_labels(rows: Splits) -> None:
    """Say how often each label occurs, where rows have one each: what is refused next may follow from it."""
    for split, found in rows.items():
        counts = Counter(row.stratum for row in found if row.stratum).most_common()
        if counts:
            shown = ", ".join(f"{label} {count:,}" for label, count in counts[:COUNTED])
            more = f" and {len(counts) - COUNTED} more" if len(counts) > COUNTED else ""
            logger.info("prepare  %d rows of %s: %s%s", len(found), split, shown, more)


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
    """Refuse training rows that lack a label, and others that have not two of several; `describe` tells the rest."""
    missing = kind.missing(numbers, labels)
    present = sorted(name for name, count in kind.counts(numbers, labels).items() if count)
    if missing and (split == "train" or len(present) < 2):
        raise DataError(
            f"{split} has no row of {', '.join(map(repr, missing))}, only of {', '.join(present) or 'no label'}; "
            "add some, or leave out of all splits what is missing"
        )


# Writing --------------------------------------------------------------------------------------------------------------


def _write(path: Path, rows: list[Row], numbers: list[Label], kind: TaskKind) -> None:
    with RowWriter(path, kind) as writer:
        for place, (row, number) in enumerate(zip(rows, numbers, strict=True)):
            writer.add(row.text, row.pair, number, place, group=row.group)


def _say(
    out: Path, config: DataConfig, labels: list[str], gone: _Gone, test_is_validation: bool, always_answers: bool
) -> None:
    """Write what there is: for the stages that follow, then for people."""
    write_manifest(
        out,
        labels,
        config.max_length,
        kind=config.kind,
        metric=config.score,
        test_is_validation=test_is_validation,
        other_tests=config.other_tests,
        always_answers=always_answers,
        dropped=gone.rows,
        problems=gone.problems,
        slice_by=config.slice_by,
    )
    (out / "data.md").write_text(describe_prepared(TaskData(out), config), encoding="utf-8")


if __name__ == "__main__":
    main(run)
