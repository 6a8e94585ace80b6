"""The rows of the data and their augmented copies as one data set, without leaks, duplicates and near duplicates."""

import json
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from tinybert.augment_config import QualityConfig
from tinybert.augmentation.quality import Row, are_similar, beside_their_rows, keys, repeats, sides, stand_among, stream
from tinybert.cli import main
from tinybert.data import RowWriter, TaskData, write_manifest
from tinybert.data_config import SPLITS
from tinybert.errors import DataError
from tinybert.progress import OnMetrics, Progress

FATES = ("kept", "held_out", "duplicate", "near_duplicate")
"""What becomes of a copy; all but the first are reasons to drop it. A copy's fate is its place here."""
KEPT, HELD_OUT, DUPLICATE, NEAR_DUPLICATE = range(len(FATES))


def run(*, data: Path, copies: list[Path], config: QualityConfig, out: Path, on_metrics: OnMetrics) -> dict[str, float]:
    """Join rows and copies. A copy is dropped where it equals a row of validation or any test, a row, an earlier copy
    of whatever row, or where it is too similar to its own row or an earlier kept copy of that.

    Memory grows by some 25 bytes a copy: texts are read twice, once for their keys, once to be compared and written.

    Args:
        data: Prepared task data set (`tinybert.data`).
        copies: Directories with the `copies.arrow` of each shard, and a `manifest.json` that says how many were asked
            for by recipe.
        config: What is too similar.
        out: Directory to write, in the same layout: the rows in order, then the copies in order of the shards.
        on_metrics: Told the counts.

    Returns:
        rows (with the copies), asked, made, kept, and dropped_<reason>.

    Raises:
        DataError: The copies were made of other rows.
    """
    task = TaskData(data)
    rows = task.rows("train")
    shards = [Dataset.from_file(str(shard / "copies.arrow")) for shard in copies]
    _check_origins(shards, len(rows))
    held_out = (*SPLITS[1:], *(f"test_{name}" for name in task.other_tests))
    fates = _compare_keys(rows, [task.rows(split) for split in held_out], shards)
    progress = Progress("gather", len(fates), unit="copy")
    counts: dict[str, Counter[str]] = {fate: Counter() for fate in FATES}
    with RowWriter(out / "train.arrow", task.kind) as writer:
        for row in stream(rows):
            writer.add(*row)
        for done, (copy, fate) in enumerate(_compare_words(rows, shards, fates, config.similarity), start=1):
            counts[FATES[fate]][str(copy.made_by)] += 1
            if fate == KEPT:
                writer.add(*copy)
            progress.update(done)
    task.copy_held_out(out)
    augmentation = _described(copies, counts)
    write_manifest(out, **task.described(), original_rows=len(rows), augmentation=augmentation)
    metrics = {"rows": float(writer.count)}
    metrics |= {name: float(sum(augmentation[name].values())) for name in ("asked", "made", "kept")}
    metrics |= {f"dropped_{reason}": float(counts[reason].total()) for reason in FATES[1:]}
    on_metrics(metrics, 0)
    return metrics


def _check_origins(shards: list[Dataset], rows: int) -> None:
    for shard in shards:
        origins = np.asarray(shard.with_format("numpy")["origin"][:])
        if len(origins) and not (origins.min() >= 0 and origins.max() < rows):
            raise DataError(
                f"a copy was made of row {origins.max()}, but the data has {rows} rows; "
                "run the stage `augment` on this data set"
            )


def _compare_keys(rows: Dataset, held_out: list[Dataset], shards: list[Dataset]) -> NDArray[np.uint8]:
    """The fate of each copy as far as equality decides it."""
    own = keys(stream(rows))
    copied, kept_back = (keys(chain.from_iterable(map(stream, parts))) for parts in (shards, held_out))
    fates = np.full(len(copied), KEPT, np.uint8)
    fates[repeats(np.concatenate([own, copied]))[len(own) :]] = DUPLICATE
    fates[stand_among(copied, kept_back)] = HELD_OUT
    return fates


def _compare_words(
    rows: Dataset, shards: list[Dataset], fates: NDArray[np.uint8], most: float
) -> Iterator[tuple[Row, int]]:
    """Each copy and its fate, where similarity too is looked at."""
    so_far = iter(fates.tolist())
    for row, copies in beside_their_rows(chain.from_iterable(map(stream, shards)), rows):
        known = [sides(row)]
        for copy in copies:
            fate = next(so_far)
            if fate == KEPT:
                own = sides(copy)
                if any(are_similar(own, other, most) for other in known):
                    fate = NEAR_DUPLICATE
                else:
                    known.append(own)
            yield copy, fate


def _described(shards: list[Path], counts: dict[str, Counter[str]]) -> dict[str, Any]:
    """Copies asked for, made, dropped and kept, by recipe."""
    asked, made = Counter[str](), Counter[str]()
    for shard in shards:
        asked.update(json.loads((shard / "manifest.json").read_text())["asked"])
    for found in counts.values():
        made += found
    return {
        "asked": dict(asked),
        "made": dict(made),
        "dropped": {reason: dict(counts[reason]) for reason in FATES[1:]},
        "kept": dict(counts["kept"]),
    }


if __name__ == "__main__":
    main(run)
