"""Augmentation in shards: which rows a shard has, and the files that keep what was found of them for later runs.

A shard's directory holds `copies.arrow` (the schema of `tinybert.data`; the copies of a row stand together),
`candidates.arrow`, where there are recipes `recipes.arrow`, and `manifest.json` with the numbers of copies asked for
and made by each recipe.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray

from tinybert.augmentation.fixed import asked, fixed_parts
from tinybert.batches import Indices
from tinybert.kinds.task_kind import TaskKind
from tinybert.teacher_cache import find_rows, row_keys

Keys = NDArray[np.uint64]
Sides = list[list[list[str]]]
"""Of one row: for each side, for each eligible word, its candidates; or for each copy of a recipe, kind and text."""
CHUNK = 1000
"""Rows whose keys are made at a time."""

COPIES, CANDIDATES, RECIPES = "copies.arrow", "candidates.arrow", "recipes.arrow"
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


class Kept:
    """What is found of rows, by their keys: an earlier run's is used again, and all is written for the next run.

    Use as a context manager. Without rows no file is written.

    Args:
        name: File that keeps it.
        out: Directory to write.
        previous: Directory that an earlier run has written.
        source: Digest of what else it depends on; what came of another source is not used.
    """

    def __init__(self, name: str, out: Path, previous: Path | None, source: str = "") -> None:
        self._path, self._schema = out / name, _SCHEMA.with_metadata({"source": source})
        self._known = _Known(previous / name if previous else None, self._schema)
        self._writer: Any = None
        self.made = self.reused = 0

    def of(self, keys: Keys, sides: int, make: Callable[[list[int]], Sequence[Sides]]) -> list[Sides]:
        """What is known of each row, else made; rows with one key are made, and kept, once.

        Args:
            keys: Of the rows.
            sides: So many of each are wanted.
            make: Is given the places of rows of which nothing is known, if there are any.
        """
        firsts: dict[bytes, int] = {}
        for place, key in enumerate(keys):
            firsts.setdefault(key.tobytes(), place)
        known = dict(zip(firsts, self._known.find(keys[list(firsts.values())], sides), strict=True))
        missing = [key for key, row in known.items() if row is None]
        made = dict(zip(missing, make([firsts[key] for key in missing]) if missing else [], strict=True))
        rows = {key: made[key] if row is None else row for key, row in known.items()}
        self.made += len(missing)
        self.reused += len(rows) - len(missing)
        self._add(rows, sides)
        return [rows[key.tobytes()] for key in keys]

    def _add(self, rows: dict[bytes, Sides], sides: int) -> None:
        if self._writer is None:
            self._writer = pa.ipc.new_file(str(self._path), self._schema, options=_COMPRESSED)
        columns = [[row[side] if side < sides else None for row in rows.values()] for side in range(2)]
        self._writer.write_batch(pa.record_batch([list(rows), *columns], schema=self._schema))

    def __enter__(self) -> "Kept":
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()


class _Known:
    """What an earlier run has kept, looked up by key; one chunk at a time is in memory."""

    def __init__(self, path: Path | None, schema: pa.Schema) -> None:
        reader = pa.ipc.open_file(pa.memory_map(str(path))) if path and path.is_file() else None
        self._reader = reader if reader and reader.schema.equals(schema, check_metadata=True) else None
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
