"""The layout of a prepared task data set: three Arrow files and a manifest."""

import json
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from tinybert.errors import DataError

SPLITS = ("train", "validation", "test")
"""What is trained on, what checkpoints and temperatures are chosen on, and what models are compared on."""
SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("text_pair", pa.string()),
        ("label", pa.int64()),
        ("origin", pa.int64()),
        ("made_by", pa.string()),
        ("group", pa.string()),
    ]
)
"""text_pair is null for single sentences; label counts from 0; origin is the row an augmented copy was made of, made_by
the recipe that made it, null for rows of the data themselves; group is the value of `data.slice_by`, null without and
for copies."""


@dataclass(frozen=True)
class TaskData:
    """A directory with `train.arrow`, `validation.arrow`, `test.arrow` and `manifest.json`."""

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
    def labels(self) -> list[str]:
        """Label names; a row's label is an index into them."""
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

    def copy_held_out(self, out: Path) -> None:
        """Take the splits that are not trained on, as they are, into a data set with other training rows."""
        for split in SPLITS[1:]:
            shutil.copyfile(self.directory / f"{split}.arrow", out / f"{split}.arrow")


class RowWriter:
    """Writes rows to one Arrow file as they come. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        self._writer = pa.ipc.new_stream(str(path), SCHEMA)
        self._columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
        self.count = 0

    def add(
        self,
        text: str,
        text_pair: str | None,
        label: int,
        origin: int,
        made_by: str | None = None,
        group: str | None = None,
    ) -> None:
        """Append one row."""
        for name, value in zip(SCHEMA.names, (text, text_pair, label, origin, made_by, group), strict=True):
            self._columns[name].append(value)
        self.count += 1
        if self.count % 10_000 == 0:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_batch(pa.record_batch(self._columns, schema=SCHEMA))
        self._columns = {name: [] for name in SCHEMA.names}

    def __enter__(self) -> "RowWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._writer.close()


def describe_split(rows: Dataset, labels: list[str]) -> dict[str, Any]:
    """Row count, counts per label, and percentiles of the length in characters."""
    counts, lengths = Counter[int](), [np.zeros(0, np.int32)]
    for batch in rows.iter(10_000):
        counts.update(batch["label"])
        sizes = (len(text) + len(pair or "") for text, pair in zip(batch["text"], batch["text_pair"], strict=True))
        lengths.append(np.fromiter(sizes, np.int32))
    joined = np.concatenate(lengths)
    return {
        "rows": len(rows),
        "labels": {name: counts[index] for index, name in enumerate(labels)},
        "characters": {f"p{p}": int(np.percentile(joined, p)) for p in (5, 50, 95, 100)},
    }


def write_manifest(
    directory: Path, labels: list[str], max_length: int, *, test_is_validation: bool = False, **more: Any
) -> dict[str, Any]:
    """Describe the splits and write `manifest.json`, the last file of the directory.

    Raises:
        DataError: A split is empty.
    """
    data = TaskData(directory)
    splits = {split: data.rows(split) for split in SPLITS}
    empty = [split for split, rows in splits.items() if not len(rows)]
    if empty:
        raise DataError(f"no rows left in {' and '.join(empty)}")
    described = {split: describe_split(rows, labels) for split, rows in splits.items()}
    manifest = {
        "labels": labels,
        "max_length": max_length,
        "splits": described,
        "test_is_validation": test_is_validation,
        **more,
    }
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    return manifest
