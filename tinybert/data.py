"""The layout of a prepared task data set: three Arrow files and a manifest."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from tinybert.data_config import SPLITS
from tinybert.errors import DataError
from tinybert.kinds import kind_of
from tinybert.kinds.task_kind import Label, TaskKind


def schema(kind: TaskKind) -> pa.Schema:
    """Columns of the rows of a kind of task.

    text_pair is null for single sentences; of words, text has them with a single space between two; label is of the
    kind's type; origin is the row an augmented copy was made of, made_by the recipe that made it, null for rows of the
    data themselves; group is the value of `data.slice_by`, null without and for copies.
    """
    texts = [("text", pa.string()), ("text_pair", pa.string())]
    sources = [("origin", pa.int64()), ("made_by", pa.string()), ("group", pa.string())]
    return pa.schema([*texts, ("label", kind.label_type), *sources])


@dataclass(frozen=True)
class TaskData:
    """A directory with `train.arrow`, `validation.arrow`, `test.arrow` and `manifest.json`.

    What is trained on, what checkpoints and temperatures are chosen on, and what models are compared on; further tests,
    which are scored apart, are `test_<name>.arrow`.
    """

    directory: Path

    def rows(self, split: str) -> Dataset:
        """The rows of a split, memory-mapped."""
        return Dataset.from_file(str(self.directory / f"{split}.arrow"))

    @property
    def manifest(self) -> dict[str, Any]:
        """Labels, counts per split and label, length percentiles, what was dropped."""
        manifest: dict[str, Any] = json.loads((self.directory / "manifest.json").read_text())
        return manifest

    @property
    def kind(self) -> TaskKind:
        """What kind of task it is."""
        return kind_of(self.manifest["kind"], self.always_answers)

    @property
    def always_answers(self) -> bool:
        """Every question that is trained on has an answer."""
        return bool(self.manifest.get("always_answers"))

    @property
    def metric(self) -> str:
        """The score that chooses checkpoints and decides."""
        return str(self.manifest["metric"])

    @property
    def other_tests(self) -> list[str]:
        """Names of the further tests; their splits are `test_<name>`."""
        return list(self.manifest.get("other_tests", []))

    @property
    def labels(self) -> list[str]:
        """Names of a model's outputs; a class is an index into them."""
        labels: list[str] = self.manifest["labels"]
        return labels

    @property
    def max_length(self) -> int:
        """Tokens per example at most."""
        return int(self.manifest["max_length"])

    @property
    def test_is_validation(self) -> bool:
        """The test rows are the validation rows: scores on them flatter what was chosen on them."""
        return bool(self.manifest["test_is_validation"])

    def described(self) -> dict[str, Any]:
        """What `write_manifest` wants to be told by whoever makes a data set with other training rows of this one."""
        named = ("kind", "metric", "labels", "max_length", "test_is_validation", "other_tests")
        return {"always_answers": self.always_answers} | {name: self.manifest[name] for name in named}

    def copy_held_out(self, out: Path) -> None:
        """Take the splits that are not trained on, as they are, into a data set with other training rows."""
        for split in (*SPLITS[1:], *(f"test_{name}" for name in self.other_tests)):
            shutil.copyfile(self.directory / f"{split}.arrow", out / f"{split}.arrow")


class RowWriter:
    """Writes rows of a kind of task to one Arrow file as they come. Use as a context manager."""

    def __init__(self, path: Path, kind: TaskKind) -> None:
        self._schema = schema(kind)
        self._writer = pa.ipc.new_stream(str(path), self._schema)
        self._columns: dict[str, list[Any]] = {name: [] for name in self._schema.names}
        self.count = 0

    def add(
        self,
        text: str,
        text_pair: str | None,
        label: Label,
        origin: int,
        made_by: str | None = None,
        group: str | None = None,
    ) -> None:
        """Append one row."""
        for name, value in zip(self._schema.names, (text, text_pair, label, origin, made_by, group), strict=True):
            self._columns[name].append(value)
        self.count += 1
        if self.count % 10_000 == 0:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_batch(pa.record_batch(self._columns, schema=self._schema))
        self._columns = {name: [] for name in self._schema.names}

    def __enter__(self) -> "RowWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._writer.close()


def describe_split(rows: Dataset, labels: list[str], kind: TaskKind) -> dict[str, Any]:
    """Row count, counts per label, and percentiles of the length in characters."""
    counts, lengths = kind.counts([], labels), [np.zeros(0, np.int32)]
    for batch in rows.iter(10_000):
        for name, count in kind.counts(batch["label"], labels).items():
            counts[name] += count
        sizes = (len(text) + len(pair or "") for text, pair in zip(batch["text"], batch["text_pair"], strict=True))
        lengths.append(np.fromiter(sizes, np.int32))
    joined = np.concatenate(lengths)
    return {
        "rows": len(rows),
        "labels": counts,
        "characters": {f"p{p}": int(np.percentile(joined, p)) for p in (5, 50, 95, 100)},
    }


def write_manifest(
    directory: Path,
    labels: list[str],
    max_length: int,
    *,
    kind: str = "classification",
    metric: str = "accuracy",
    test_is_validation: bool = False,
    other_tests: Sequence[str] = (),
    always_answers: bool = False,
    **more: Any,
) -> dict[str, Any]:
    """Describe the splits and write `manifest.json`, the last file of the directory.

    Args:
        directory: Which has the splits already.
        labels: Names of the outputs.
        max_length: Tokens per example at most.
        kind: Of the task.
        metric: The score that decides.
        test_is_validation: No rows were left to test on apart.
        other_tests: Further tests, for which there is a split each.
        always_answers: Every question that is trained on has an answer.
        **more: What else is to be said.

    Raises:
        DataError: A split is empty.
    """
    data = TaskData(directory)
    splits = {split: data.rows(split) for split in (*SPLITS, *(f"test_{name}" for name in other_tests))}
    empty = [split for split, rows in splits.items() if not len(rows)]
    if empty:
        raise DataError(f"no rows left in {' and '.join(empty)}")
    described = {split: describe_split(rows, labels, kind_of(kind)) for split, rows in splits.items()}
    manifest: dict[str, Any] = {
        "kind": kind,
        "metric": metric,
        "labels": labels,
        "max_length": max_length,
        "splits": described,
        "test_is_validation": test_is_validation,
        "other_tests": list(other_tests),
        "always_answers": always_answers,
        **more,
    }
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    return manifest
