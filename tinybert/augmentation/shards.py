"""Augmentation in shards: which rows a shard has, and the file that keeps their candidates for later runs.

A shard's directory holds `copies.arrow` (the schema of `tinybert.data`; the copies of a row stand together),
`candidates.arrow`, and `manifest.json` with the numbers of copies asked for and made by each recipe.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray

from tinybert.augmentation.candidates import Candidates
from tinybert.augmentation.fixed import asked, fixed_parts
from tinybert.batches import Indices
from tinybert.kinds.task_kind import TaskKind
from tinybert.teacher_cache import find_rows, row_keys

Keys = NDArray[np.uint64]
Sides = list[list[list[str]]]
"""Of one row: for each side, for each eligible word, its candidates."""
CHUNK = 1000
"""Rows whose keys are made at a time."""

COPIES, CANDIDATES = "copies.arrow", "candidates.arrow"
_WORDS = pa.list_(pa.list_(pa.string()))
_SCHEMA = pa.schema([("key", pa.binary(16)), ("first", _WORDS), ("second", _WORDS)])
_COMPRESSED = pa.ipc.IpcWriteOptions(compression="zstd")


def asked_keys(rows: Dataset, kind: TaskKind, max_length: int) -> Keys:
    """For each row a digest (N, 2) of what its candidates are looked for in: itself, or the context of its question."""
    found: list[Keys] = [np.zeros((0, 2), np.uint64)]
    for batch in rows.iter(CHUNK):
        columns = asked(batch, fixed_parts(batch, kind))
        found.append(row_keys(Dataset.from_dict(dict(columns)), max_length))
    return np.concatenate(found)


def rows_of_shard(keys: Keys, shard: int, shards: int) -> Indices:
    """The rows of a shard, by their keys (N, 2): a row stays in its shard whatever becomes of the others."""
    rows: Indices = np.flatnonzero(keys[:, 0] % np.uint64(shards) == shard)
    return rows


class CandidateWriter:
    """Writes candidates chunk by chunk. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        self._writer = pa.ipc.new_file(str(path), _SCHEMA, options=_COMPRESSED)

    def add(self, keys: Keys, sides: Sequence[Candidates]) -> None:
        """Append the candidates of some rows, for one side or both."""
        binary = [key.tobytes() for key in keys]
        second = sides[1] if len(sides) > 1 else [None] * len(binary)
        self._writer.write_batch(pa.record_batch([binary, sides[0], second], schema=_SCHEMA))

    def __enter__(self) -> "CandidateWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()


class KnownCandidates:
    """Candidates that an earlier run has found, looked up by key; one chunk at a time is in memory."""

    def __init__(self, directory: Path | None) -> None:
        self._reader = pa.ipc.open_file(pa.memory_map(str(directory / CANDIDATES))) if directory else None
        chunks = [self._chunk(number).column("key") for number in range(self._chunks)]
        self._starts = np.cumsum([0, *map(len, chunks)])
        joined = b"".join(key.as_py() for chunk in chunks for key in chunk)
        self._keys = np.frombuffer(joined, np.uint64).reshape(-1, 2)
        self._held: tuple[int, Any] = (-1, None)

    @property
    def _chunks(self) -> int:
        return int(self._reader.num_record_batches) if self._reader else 0

    def find(self, keys: Keys, sides: int) -> list[Sides | None]:
        """For each key the candidates of its sides, None where they are not known."""
        return [self._row(int(place), sides) if place >= 0 else None for place in find_rows(keys, self._keys)]

    def _row(self, place: int, sides: int) -> Sides | None:
        number = int(np.searchsorted(self._starts, place, side="right")) - 1
        if self._held[0] != number:
            self._held = (number, self._chunk(number))
        row = place - int(self._starts[number])
        found = [self._held[1].column(name)[row].as_py() for name in ("first", "second")[:sides]]
        return None if None in found else found

    def _chunk(self, number: int) -> Any:
        assert self._reader is not None
        return self._reader.get_batch(number)
