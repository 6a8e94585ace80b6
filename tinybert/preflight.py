"""What a look at the data tells before a run: how many rows of what length, and whether a given teacher knows them."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tinybert.augmentation.copies import copies_for
from tinybert.checks import read_model_config, wanted_states
from tinybert.config import CorpusConfig, DistillConfig
from tinybert.corpus import texts_of
from tinybert.data import TaskData
from tinybert.data_config import DataConfig
from tinybert.errors import DataError
from tinybert.estimate import Amounts
from tinybert.estimate_encoder import Encoder
from tinybert.floor import check_floor
from tinybert.kinds import kind_of
from tinybert.kinds.task_kind import Columns, TaskKind
from tinybert.models import load_model, load_tokenizer
from tinybert.rows import TokenTable
from tinybert.scoring import predict
from tinybert.stages.prepare import NO_LABEL, example_of
from tinybert.tables import Layout, column_names, one_of, split_files, stream, table_files
from tinybert.teacher_cache import StateShape

SAMPLE = 500
"""Rows that are tokenised."""
ASKED = 200
"""Validation rows that a given teacher answers."""
COUNTING = 1.5
"""Seconds after which rows are no longer counted one by one."""
HEAD = 2**20
"""Bytes from whose lines those of a whole file are told."""
STATE_BYTES = 2
"""Of a number of the teacher's states."""


class Splits(NamedTuple):
    """Where the rows of a run stand."""

    source: Path
    validation: Path | None = None
    test: Path | None = None


class Counted(NamedTuple):
    """How many there are of something."""

    number: int
    exact: bool


class _Seen(NamedTuple):
    """A sample of training rows."""

    lengths: NDArray[np.int32]
    """Tokens of each feature."""
    rows: int
    characters: float
    outputs: int


def encoders(config: DistillConfig, teacher: Path, student: Path | None) -> tuple[Encoder, Encoder]:
    """Shapes of the teacher and of the student, which has the teacher's vocabulary."""
    taught = Encoder.of(read_model_config(teacher))
    if student:
        return taught, Encoder.of(read_model_config(student))
    shape = config.student
    sizes = {"layers": shape.layers, "hidden": shape.hidden, "ffn": shape.ffn, "heads": shape.heads}
    return taught, taught.model_copy(update=sizes)


def glimpsed(
    config: DistillConfig, splits: Splits, teacher: Path, student: Path | None, corpus: Path | None
) -> Amounts:
    """Amounts of a run whose rows nobody has prepared yet, as far as a few seconds tell.

    Raises:
        DataError: The rows cannot be read, or lack a column; there are none.
    """
    data, kind = config.data, kind_of(config.data.kind)
    files = split_files(splits.source, "train", _layout(splits, data))
    rows = _read(files, data, kind)
    sample = list(islice(rows, SAMPLE))
    if not sample:
        raise DataError("no row to train on; check data.source, data.where and data.drop_labels")
    columns: Columns = {"text": [text for text, _ in sample], "text_pair": [pair for _, pair in sample]}
    seen = _seen(columns, kind, teacher, data.max_length, len(data.labels) or 2)
    counts = _glimpsed_counts(_number(rows, len(sample), files), splits, data)
    return _amounts(config, counts, seen, teacher, student, corpus)


def counted(config: DistillConfig, prepared: Path, teacher: Path, student: Path | None, corpus: Path | None) -> Amounts:
    """Amounts of a run whose rows are prepared; only the corpus is still estimated."""
    task = TaskData(prepared)
    counts = {split: Counted(len(task.rows(split)), True) for split in ("train", "validation", "test")}
    sample = task.rows("train")[:SAMPLE]
    seen = _seen(sample, task.kind, teacher, task.max_length, len(task.labels))
    return _amounts(config, counts, seen, teacher, student, corpus)


def check_sample(prepared: Path, teacher: Path, precision: str, floor: float | None) -> float:
    """Hold a given teacher's score on a few validation rows against the floor; gives the score.

    Args:
        prepared: Task data set (`tinybert.data`).
        teacher: Fine-tuned already.
        precision: auto, bf16 or fp32.
        floor: As `tinybert.floor.check_floor` has it.

    Raises:
        QualityError: It is below.
    """
    task = TaskData(prepared)
    rows = task.rows("validation").shuffle(seed=0)
    rows = rows.select(range(min(ASKED, len(rows)))).flatten_indices()
    model, tokenizer = load_model(teacher, task.kind), load_tokenizer(teacher)
    said = predict(model, tokenizer, rows, task.max_length, task.kind, precision=precision, name="the teacher")
    score = task.kind.metrics[task.metric].score(rows["label"][:], said.answers, task.labels)
    check_floor(score, task, floor)
    return score


def _amounts(
    config: DistillConfig,
    counts: dict[str, Counted],
    seen: _Seen,
    teacher: Path,
    student: Path | None,
    corpus: Path | None,
) -> Amounts:
    kind, augment, train = kind_of(config.data.kind), config.augment, counts["train"].number
    sequences = _sequences(corpus, teacher, config.corpus) if corpus else Counted(0, True)
    copies = copies_for(train, augment.copies) + sum(recipe.copies for recipe in augment.recipes)
    return Amounts(
        train=train,
        validation=counts["validation"].number,
        test=counts["test"].number,
        tokens=float(seen.lengths.mean()),
        characters=seen.characters,
        features=len(seen.lengths) / seen.rows,
        outputs=seen.outputs,
        per_token=kind.per_token,
        copies=copies if augment.enabled else 0,
        sequences=sequences.number,
        state_bytes=_state_bytes(config, teacher, student, seen.lengths),
        exact=sequences.exact and all(found.exact for found in counts.values()),
    )


def _state_bytes(config: DistillConfig, teacher: Path, student: Path | None, lengths: NDArray[np.int32]) -> float:
    """Of the teacher's states for a feature, where they are wanted."""
    mapped, attention = wanted_states(config, teacher, student)
    if not mapped:
        return 0.0
    taught = Encoder.of(read_model_config(teacher))
    shape = StateShape(attention, tuple(mapped), taught.hidden, taught.heads)
    return STATE_BYTES * float(shape.numbers(lengths).mean())


def _seen(columns: Columns, kind: TaskKind, teacher: Path, max_length: int, outputs: int) -> _Seen:
    texts, pairs = columns["text"], columns["text_pair"]
    characters = [len(text) + len(pair or "") for text, pair in zip(texts, pairs, strict=True)]
    lengths = TokenTable(columns, load_tokenizer(teacher), max_length, kind).lengths
    return _Seen(lengths, len(texts), float(np.mean(characters)), outputs)


# Rows -----------------------------------------------------------------------------------------------------------------


def _layout(splits: Splits, data: DataConfig) -> Layout:
    """Of the source that all splits share: patterns of those with a source of their own are not for it."""
    layout = Layout.of(data)
    own = {"validation": splits.validation, "test": splits.test}
    return replace(layout, splits={split: p for split, p in layout.splits.items() if not own.get(split)})


def _read(files: Sequence[Path], data: DataConfig, kind: TaskKind) -> Iterator[tuple[str, str | None]]:
    """Text and pair of rows as they stand."""
    text, pair, label = data.text_column, data.pair_column, data.label_column
    columns = [column for column in (text, pair, label) if column]
    for raw in stream(files, columns, data.where, Layout.of(data)):
        if str(raw[label]) not in data.drop_labels:
            try:
                example = example_of(raw, data, kind)
            except DataError:
                if data.bad_rows == "refuse":
                    raise
            else:
                yield example.text, example.pair


def _glimpsed_counts(train: Counted, splits: Splits, data: DataConfig) -> dict[str, Counted]:
    """Rows of each split as `prepare` would have them, but for duplicates and leaks."""
    held_out = _labelled("validation", splits.validation, splits, data)
    test = _labelled("test", splits.test, splits, data)
    if not held_out.number:
        held_out = Counted(round(train.number * data.validation_share), False)
        train = Counted(train.number - held_out.number, False)
    if not test.number:
        test = Counted(round(held_out.number * (data.test_share or 1)), False)
        held_out = Counted(round(held_out.number * (1 - data.test_share)), False)
    most = {"train": data.rows, "validation": data.validation_rows, "test": data.test_rows}
    counts = {"train": train, "validation": held_out, "test": test}
    return {split: Counted(min(number, most[split] or number), exact) for split, (number, exact) in counts.items()}


def _labelled(split: str, own: Path | None, splits: Splits, data: DataConfig) -> Counted:
    """Rows of a split, none where their labels are withheld."""
    label, layout = data.label_column, _layout(splits, data)
    found = [own] if own else split_files(splits.source, split, layout)
    tables = chain(*([path] if path.is_file() else table_files(path, layout) for path in found))
    files = [file for file in tables if one_of(label, column_names(file, layout))]
    rows = stream(files, [label], data.where, layout)
    first = next(rows, None)
    return Counted(0, True) if first is None or first[label] in NO_LABEL else _number(rows, 1, files)


def _number(rows: Iterator[Any], already: int, files: Sequence[Path]) -> Counted:
    """Of rows, one by one while there is time, then by what their files say of themselves."""
    deadline, number = time.monotonic() + COUNTING, already
    for number, _ in enumerate(rows, start=already + 1):
        if number % 1000 == 0 and time.monotonic() > deadline:
            return Counted(max(number, sum(map(_told_rows, files))), False)
    return Counted(number, True)


def _told_rows(file: Path) -> int:
    """Rows of a file: Parquet knows them, of others as many as lines, told from the first of them."""
    if file.suffix == ".parquet":
        return int(pq.read_metadata(file).num_rows)
    with file.open("rb") as opened:
        head = opened.read(HEAD)
    return round(head.count(b"\n") * file.stat().st_size / max(1, len(head)))


def _sequences(corpus: Path, tokenizer: Path, config: CorpusConfig) -> Counted:
    """Packed sequences of a corpus, from the tokens of its first texts."""
    files, deadline = split_files(corpus, "train"), time.monotonic() + COUNTING
    texts = texts_of(files, config)
    first = list(islice(texts, SAMPLE))
    if not first:
        return Counted(0, True)
    pieces: list[Any] = load_tokenizer(tokenizer)(first, add_special_tokens=False, verbose=False)["input_ids"]
    characters, separators = sum(map(len, first)), len(first)
    per_character, share = sum(map(len, pieces)) / max(1, characters), 1.0
    for text in texts:
        characters, separators = characters + len(text), separators + 1
        if separators % 1000 == 0 and time.monotonic() > deadline:
            share = max(1.0, sum(map(_told_rows, files)) / separators)
            break
    found = int(share * (per_character * characters + separators) / (config.length - 2))
    return Counted(min(found, config.sequences or found), found >= (config.sequences or math.inf))
