"""Answers of a published model for one shard of rows, and the cutting of rows, of whatever format, into shards."""

import json
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tinybert.answers import Answer
from tinybert.cli import main
from tinybert.errors import DataError
from tinybert.kinds import kind_of
from tinybert.progress import OnMetrics, Progress
from tinybert.released import ERROR, TRUNCATED, Released
from tinybert.score_config import AnswerConfig
from tinybert.serving import Student
from tinybert.tables import stream, table_files

ROWS, ANSWERS, COUNTS = "rows.parquet", "answers.parquet", "counts.json"
CHUNK = 2048
"""Rows in memory at a time."""
ENTITY = {"label": pa.string(), "text": pa.string(), "start": pa.int64(), "end": pa.int64(), "score": pa.float32()}
TYPES = {
    "label": pa.string(),
    "labels": pa.list_(pa.string()),
    "value": pa.float64(),
    "entities": pa.list_(pa.struct(list(ENTITY.items()))),
    "answer": pa.string(),
    "start": pa.int64(),
    "end": pa.int64(),
    TRUNCATED: pa.bool_(),
    ERROR: pa.string(),
}
"""Of the columns of answers (`Released.columns`); all others hold probabilities."""


def run(*, model: Path, rows: Path, config: AnswerConfig, out: Path, on_metrics: OnMetrics) -> dict[str, float]:
    """Answer one shard.

    Args:
        model: Package or export directory (`tinybert.released`).
        rows: Directory with `rows.parquet`, as `cut` writes it.
        config: Columns, variant, batches.
        out: Directory to write: `answers.parquet`, in the order of the rows, with the columns carried along, then those
            of an answer (`Released.columns`); and `counts.json`. A row that cannot be answered has an `error` alone.
        on_metrics: Told the counts.

    Returns:
        rows, answered, errors, truncated.

    Raises:
        ModelError: The model is none that this pipeline exported.
        ConfigError: The form does not fit the model.
    """
    released = Released.read(model)
    config.check(released)
    student = Student.load(model, config.variant, config.threads)
    table = pq.ParquetFile(rows / ROWS)
    schema = _answer_schema(table.schema_arrow, config.kept, released.columns)
    counts = _Counts(released)
    progress = Progress("score", table.metadata.num_rows, unit="row")
    with pq.ParquetWriter(out / ANSWERS, schema, compression="zstd") as writer:
        for batch in table.iter_batches(CHUNK):
            answers = _answers(student, batch, config)
            columns = zip(*(answer.values(released.columns) for answer in answers), strict=True)
            kept = [batch.column(name) for name in config.kept]
            arrays = [pa.array(column, schema.field(len(kept) + at).type) for at, column in enumerate(columns)]
            writer.write_batch(pa.record_batch([*kept, *arrays], schema=schema))
            counts.add(answers)
            progress.update(counts.rows["rows"])
    (out / COUNTS).write_text(json.dumps(counts.described, indent=1) + "\n")
    metrics = {name: float(value) for name, value in counts.rows.items()}
    on_metrics(metrics, 0)
    return metrics


class _Counts:
    """What answers say, all together."""

    def __init__(self, model: Released) -> None:
        self.rows = dict.fromkeys(("rows", "answered", "errors", "truncated"), 0)
        self._classes = Counter(kind_of(model.kind).counts([], model.labels))
        self._measured = next((name for name in ("score", "value") if name in model.columns), None)
        self._total = 0.0

    def add(self, answers: list[Answer]) -> None:
        """Count some more."""
        answered = [answer for answer in answers if answer.error is None]
        self.rows["rows"] += len(answers)
        self.rows["answered"] += len(answered)
        self.rows["errors"] += len(answers) - len(answered)
        self.rows["truncated"] += sum(answer.truncated for answer in answered)
        self._classes.update(name for answer in answered for name in answer.given)
        if self._measured is not None:
            self._total += sum(getattr(answer, self._measured) for answer in answered)

    @property
    def described(self) -> dict[str, Any]:
        """The content of `counts.json`: rows, rows that were given each class, and the sum of the scores, or values."""
        scores = None if self._measured is None else self._total
        return {**self.rows, "labels": dict(self._classes), "scores": scores}


def _answers(student: Student, batch: Any, config: AnswerConfig) -> list[Answer]:
    texts, *pairs = [batch.column(name).to_pylist() for name in config.texts]
    return student.answer(texts, pairs[0] if pairs else None, config.batch_size)


def _answer_schema(rows: Any, kept: list[str], columns: list[str]) -> Any:
    answers = [pa.field(name, TYPES.get(name, pa.float32())) for name in columns]
    return pa.schema([*(rows.field(name).remove_metadata() for name in kept), *answers])


def cut(source: Path, config: AnswerConfig, shard_rows: int, out: Path) -> Iterator[Path]:
    """Write the rows of a source shard by shard, in order; each is a directory with `rows.parquet`.

    Rows that are added at the end change the last shard only. What a column holds is decided by its first rows; where
    they are text, values of other kinds become text, but in the columns the model reads they become null: a number is
    no sentence.

    Args:
        source: A table, or a directory of tables, which are read in the order of their names.
        config: Which columns.
        shard_rows: Rows of each shard but the last.
        out: Directory to write. Whoever has done with a shard may delete it.

    Raises:
        DataError: There are no rows; a file cannot be read, lacks a column, or has other kinds of values than the rows
            before.
    """
    rows = stream([source] if source.is_file() else table_files(source), config.columns)
    head = list(islice(rows, CHUNK))
    if not head:
        raise DataError(f"{source.name}: no rows; name a source that has some")
    rows, schema = chain(head, rows), _schema(head, config)
    progress, done = Progress("rows", None, unit="row"), 0
    while first := next(chunks := _chunks(rows, shard_rows), None):
        directory = out / f"{done:012}"
        directory.mkdir(parents=True)
        with pq.ParquetWriter(directory / ROWS, schema, compression="zstd") as writer:
            for chunk in chain([first], chunks):
                writer.write_batch(_batch(chunk, schema, config))
                done += len(chunk)
                progress.update(done)
        yield directory


def _chunks(rows: Iterator[dict[str, Any]], most: int) -> Iterator[list[dict[str, Any]]]:
    while most > 0 and (chunk := list(islice(rows, min(CHUNK, most)))):
        yield chunk
        most -= len(chunk)


def _schema(rows: list[dict[str, Any]], config: AnswerConfig) -> Any:
    """Types of the columns, as the first rows show them. What Parquet's readers disagree about is kept as JSON."""
    types = {name: _type([row[name] for row in rows]) for name in config.columns}
    for name in config.texts:
        if not pa.types.is_string(types[name]):
            raise DataError(f"column {name!r} holds {types[name]}, no text; name the column of the text")
    return pa.schema(list(types.items()))


def _type(values: list[Any]) -> Any:
    try:
        found = pa.array(values).type
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):  # of several kinds
        return pa.string()
    return pa.string() if pa.types.is_null(found) or pa.types.is_nested(found) else found


def _batch(rows: list[dict[str, Any]], schema: Any, config: AnswerConfig) -> Any:
    return pa.record_batch([_array([row[f.name] for row in rows], f, config) for f in schema], schema=schema)


def _array(values: list[Any], field: Any, config: AnswerConfig) -> Any:
    """A column's values as its type."""
    if field.name in config.texts:
        values = [value if isinstance(value, str) else None for value in values]
    elif pa.types.is_string(field.type):
        values = [value if value is None or isinstance(value, str) else _as_text(value) for value in values]
    try:
        return pa.array(values, field.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(
            f"column {field.name!r} holds {field.type} at first, then something else ({str(error).splitlines()[0]}); "
            "write it with one type, or leave it out of keep"
        ) from error


def _as_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


if __name__ == "__main__":
    main(run)
