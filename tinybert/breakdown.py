"""Where models are right and wrong: per class, per slice of the rows, and row by row against another model.

Shapes: N rows, C classes.
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
from sklearn.metrics import precision_recall_fscore_support

Rows = Mapping[str, Sequence[Any]]
"""Columns of the rows by name: text, text_pair, label, group."""

LENGTHS = (8, 16, 32, 64, 128, 256, 512)
"""Most tokens of each slice of lengths."""
GROUPS = 50
"""Groups that become slices at most, the largest ones."""


def per_class(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and support (rows) of each class; what is divided by no row is 0."""
    classes = range(len(names))
    columns = precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=0)
    keys = ("precision", "recall", "f1", "support")
    return {
        name: dict(zip(keys, map(float, numbers), strict=True)) for name, *numbers in zip(names, *columns, strict=True)
    }


def agreement(predicted: NDArray[np.int64], other: NDArray[np.int64]) -> float:
    """Share of rows on which two models say the same."""
    return float((predicted == other).mean())


def seen(rows: Rows, train: Dataset) -> NDArray[np.bool_]:
    """Which rows stand, text and pair, among these training rows (N)."""
    sentences = list(zip(rows["text"], rows["text_pair"], strict=True))
    sought, trained = set(sentences), set[tuple[str, str | None]]()
    for batch in train.select_columns(["text", "text_pair"]).iter(10_000):
        trained |= sought.intersection(zip(batch["text"], batch["text_pair"], strict=True))
    return np.array([sentence in trained for sentence in sentences])


def flips(
    rows: Rows,
    student_NC: NDArray[np.float64],
    champion_NC: NDArray[np.float64],
    compared: NDArray[np.bool_],
    names: Sequence[str],
    examples: int,
) -> dict[str, Any]:
    """Rows the student gets right and the champion wrong ("fixed"), and those the other way round ("broken").

    Args:
        rows: With the columns text, text_pair and label.
        student_NC: The student's probabilities.
        champion_NC: The champion's.
        compared: Which rows count (N).
        names: Of the labels.
        examples: Rows shown of each kind, those the student is surest of first.

    Returns:
        fixed and broken: lists of {text, text_pair, label, champion, student}, the last three as names; fixed_rows and
        broken_rows: how many there are.
    """
    labels = np.asarray(rows["label"])
    student, champion, confidence = student_NC.argmax(axis=1), champion_NC.argmax(axis=1), student_NC.max(axis=1)
    right, was_right = student == labels, champion == labels

    def example(place: int) -> dict[str, str | None]:
        said = {"label": labels, "champion": champion, "student": student}
        texts = {key: rows[key][place] for key in ("text", "text_pair")}
        return texts | {key: names[values[place]] for key, values in said.items()}

    found: dict[str, Any] = {}
    for kind, chosen in (("fixed", right & ~was_right), ("broken", ~right & was_right)):
        places = np.flatnonzero(chosen & compared)
        surest = places[np.argsort(-confidence[places], kind="stable")][:examples]
        found |= {kind: [example(place) for place in surest.tolist()], f"{kind}_rows": len(places)}
    return found


def slices(
    rows: Rows,
    tokens: NDArray[np.int64],
    right: Mapping[str, NDArray[np.bool_]],
    compared: Mapping[str, NDArray[np.bool_]],
    names: Sequence[str],
    group: str,
) -> list[dict[str, Any]]:
    """Each model's accuracy on parts of the rows: by length, by label, by group.

    Args:
        rows: With the columns label and group.
        tokens: Of each row (N).
        right: By model, which rows it answers rightly (N).
        compared: By model, which rows count for it (N); all where it is not named.
        names: Of the labels.
        group: What the column group holds, as the slices' name; rows without a group are in no such slice.

    Returns:
        One {slice, value, rows, <model>: accuracy} for each part that has rows; no number of a model that has no row
        there that counts.
    """
    found = []
    for name, values, places in (_lengths(tokens), ("label", names, np.asarray(rows["label"])), _groups(rows, group)):
        for place, value in enumerate(values):
            inside = places == place
            counted = {model: hits[inside & compared.get(model, True)] for model, hits in right.items()}
            numbers = {model: float(hits.mean()) for model, hits in counted.items() if len(hits)}
            if inside.any():
                found.append({"slice": name, "value": value, "rows": int(inside.sum()), **numbers})
    return found


def _lengths(tokens: NDArray[np.int64]) -> tuple[str, list[str], NDArray[np.int64]]:
    lowest = [1, *(most + 1 for most in LENGTHS)]
    spans = [f"{low}-{high} tokens" for low, high in zip(lowest, LENGTHS, strict=False)]
    return "length", [*spans, f"{lowest[-1]} tokens or more"], np.searchsorted(LENGTHS, tokens)


def _groups(rows: Rows, name: str) -> tuple[str, list[str], NDArray[np.int64]]:
    counts = Counter(value for value in rows["group"] if value is not None)
    values = [value for value, _ in counts.most_common(GROUPS)]
    places = {value: place for place, value in enumerate(values)}
    return name, values, np.array([places.get(value, -1) for value in rows["group"]], np.int64)


def write_predictions(
    rows: Rows, seen: NDArray[np.bool_], logits: Mapping[str, NDArray[np.float32]], path: Path
) -> None:
    """Every row with `seen_by_champion` and what each model says about it, as Parquet, in the rows' order."""
    texts = {name: pa.array(rows[name], pa.string()) for name in ("text", "text_pair", "group")}
    labels = {"label": pa.array(rows["label"], pa.int64()), "seen_by_champion": pa.array(seen)}
    said = {f"logits_{name}": _lists(logits_NC) for name, logits_NC in logits.items()}
    order = ["text", "text_pair", "label", "group", "seen_by_champion", *said]
    pq.write_table(pa.table(texts | labels | said).select(order), path)


def _lists(logits_NC: NDArray[np.float32]) -> pa.ListArray:
    rows, classes = logits_NC.shape
    ends = pa.array(np.arange(rows + 1) * classes, pa.int32())
    return pa.ListArray.from_arrays(ends, pa.array(logits_NC.ravel(), pa.float32()))
