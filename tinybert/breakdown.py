"""Where models are right and wrong: per slice of the rows, and row by row against another model.

Shapes: N rows.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from numpy.typing import NDArray

from tinybert.kinds.task_kind import Answers, Columns, TaskKind
from tinybert.metrics import Metric

LENGTHS = (8, 16, 32, 64, 128, 256, 512)
"""Most tokens of each slice of lengths."""
GROUPS = 50
"""Groups that become slices at most, the largest ones."""


def seen(rows: Columns, train: Dataset) -> NDArray[np.bool_]:
    """Which rows stand, text and pair, among these training rows (N)."""
    sentences = list(zip(rows["text"], rows["text_pair"], strict=True))
    sought, trained = set(sentences), set[tuple[str, str | None]]()
    for batch in train.select_columns(["text", "text_pair"]).iter(10_000):
        trained |= sought.intersection(zip(batch["text"], batch["text_pair"], strict=True))
    return np.array([sentence in trained for sentence in sentences])


def flips(
    kind: TaskKind,
    rows: Columns,
    said: Mapping[str, Answers],
    compared: NDArray[np.bool_],
    names: Sequence[str],
    examples: int,
) -> dict[str, Any] | None:
    """Rows the student gets right and the champion wrong ("fixed"), and those the other way round ("broken").

    Args:
        kind: Of the task.
        rows: With the columns text, text_pair and label.
        said: Answers of student and champion.
        compared: Which rows count (N).
        names: Of the outputs.
        examples: Rows shown of each kind, those the student is surest of first.

    Returns:
        fixed and broken: lists of {text, text_pair, label, champion, student}, the last three as people read them;
        fixed_rows and broken_rows: how many there are. None where answers are not simply right or wrong.
    """
    labels, shown = rows["label"], {"label": rows["label"]}
    shown |= {name: said[name].values for name in ("champion", "student")}
    right, was_right = (kind.right(labels, said[name].values) for name in ("student", "champion"))
    if right is None or was_right is None:
        return None

    def example(place: int) -> dict[str, str | None]:
        texts = {key: rows[key][place] for key in ("text", "text_pair")}
        return texts | {key: kind.shown(values[place], names) for key, values in shown.items()}

    found: dict[str, Any] = {}
    for sort, chosen in (("fixed", right & ~was_right), ("broken", ~right & was_right)):
        places = np.flatnonzero(chosen & compared)
        surest = places[np.argsort(-said["student"].confidence[places], kind="stable")][:examples]
        found |= {sort: [example(place) for place in surest.tolist()], f"{sort}_rows": len(places)}
    return found


def slices(
    rows: Columns,
    tokens: NDArray[np.int64],
    said: Mapping[str, Answers],
    metric: Metric,
    compared: Mapping[str, NDArray[np.bool_]],
    names: Sequence[str],
    group: str,
) -> list[dict[str, Any]]:
    """Each model's score on parts of the rows: by length, by label where a row has one class, by group.

    Args:
        rows: With the columns label and group.
        tokens: Of each row (N).
        said: Answers by model.
        metric: The score.
        compared: By model, which rows count for it (N); all where it is not named.
        names: Of the outputs.
        group: What the column group holds, as the slices' name; rows without a group are in no such slice.

    Returns:
        One {slice, value, rows, <model>: score} for each part that has rows; no number of a model that has no row
        there that counts.
    """
    partitions = [_lengths(tokens), *_labels(rows, names), _groups(rows, group)]
    parts = [
        (places, place, {"slice": name, "value": value, "rows": int((places == place).sum())})
        for name, values, places in partitions
        for place, value in enumerate(values)
    ]
    for model, answers in said.items():
        statistics_NK = metric.statistics(rows["label"], answers.values, names)
        for places, place, entry in parts:
            counted = (places == place) & compared.get(model, True)
            if counted.any():
                entry[model] = float(metric.value(statistics_NK[counted].sum(axis=0)))
    return [entry for *_, entry in parts if entry["rows"]]


def _lengths(tokens: NDArray[np.int64]) -> tuple[str, list[str], NDArray[np.int64]]:
    lowest = [1, *(most + 1 for most in LENGTHS)]
    spans = [f"{low}-{high} tokens" for low, high in zip(lowest, LENGTHS, strict=False)]
    return "length", [*spans, f"{lowest[-1]} tokens or more"], np.searchsorted(LENGTHS, tokens)


def _labels(rows: Columns, names: Sequence[str]) -> list[tuple[str, Sequence[str], NDArray[np.int64]]]:
    """By label, where it is the number of a class."""
    labels = rows["label"]
    return [("label", names, np.asarray(labels))] if labels and isinstance(labels[0], int) else []


def _groups(rows: Columns, name: str) -> tuple[str, list[str], NDArray[np.int64]]:
    counts = Counter(value for value in rows["group"] if value is not None)
    values = [value for value, _ in counts.most_common(GROUPS)]
    places = {value: place for place, value in enumerate(values)}
    return name, values, np.array([places.get(value, -1) for value in rows["group"]], np.int64)


def write_predictions(
    kind: TaskKind, rows: Columns, seen: NDArray[np.bool_], said: Mapping[str, Answers], path: Path
) -> None:
    """Every row, in order, with `seen_by_champion` and each model's answer and how sure it is of it, as Parquet."""
    texts = {name: pa.array(rows[name], pa.string()) for name in ("text", "text_pair", "group")}
    labels = {"label": pa.array(rows["label"], kind.label_type), "seen_by_champion": pa.array(seen)}
    answers = {f"answer_{name}": pa.array(entry.values, kind.answer_type) for name, entry in said.items()}
    sure = {f"confidence_{name}": pa.array(entry.confidence, pa.float32()) for name, entry in said.items()}
    columns = [column for name in said for column in (f"answer_{name}", f"confidence_{name}")]
    order = ["text", "text_pair", "label", "group", "seen_by_champion", *columns]
    pq.write_table(pa.table(texts | labels | answers | sure).select(order), path)
