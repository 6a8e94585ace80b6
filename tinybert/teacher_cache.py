"""The teacher's answers for the rows of a data set, computed once and read from files from then on.

A directory with `logits.npy` in fp32, (F, C), or (T, C) where each token has its own; `keys.npy` (F, 2), which tells a
feature by its row's text; `lengths.npy` (F), the tokens of each; `manifest.json`; where copies are to be judged,
`opinions.arrow`, row by row: the columns answer (`TaskKind.answer_type`) and confidence; and, where wanted,
`states.bin`, of each feature: its hidden states (K + 1, L, D) and its attention scores (K, H, L, L) or relations
(K, 3, L, D) in bf16, one after the other without padding.

Shapes: F features (a row has one, or several where it is read in windows), T tokens of all, C outputs, K mapped layers,
L tokens of a feature, D width, H heads.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor

from tinybert.attention_kind import Kind
from tinybert.batches import Batch, Indices
from tinybert.errors import DataError
from tinybert.kinds.task_kind import Answers, Features, TaskKind

FORMAT = 2
"""Raise it when a teacher's answer to a row becomes another than it was: those of before are then no longer copied."""
STATES = "states.bin"
OPINIONS = "opinions.arrow"
BYTES = 2
"""Of a number in `states.bin`."""
CHUNK = 1000
"""Rows whose keys are made at a time."""


@dataclass(frozen=True)
class StateShape:
    """Which states of a teacher are kept, and how large they are."""

    kind: Kind
    """What of its attention: scores, relations or hidden (nothing)."""
    mapped: tuple[int, ...]
    """Teacher layers, from 1; the embedding is always kept."""
    width: int
    heads: int

    def parts(self, length: int) -> dict[str, tuple[int, ...]]:
        """Tensors of one row of `length` tokens, by their name in a batch."""
        layers = len(self.mapped)
        shapes: dict[str, tuple[int, ...]] = {"teacher_hidden": (layers + 1, length, self.width)}
        if self.kind == "scores":
            shapes["teacher_scores"] = (layers, self.heads, length, length)
        if self.kind == "relations":
            shapes["teacher_relations"] = (layers, 3, length, self.width)
        return shapes

    def numbers(self, lengths: NDArray[Any]) -> NDArray[np.int64]:
        """How many numbers each row has."""
        lengths, layers = lengths.astype(np.int64), len(self.mapped)
        numbers = (layers + 1) * self.width * lengths
        if self.kind == "scores":
            numbers += layers * self.heads * lengths**2
        if self.kind == "relations":
            numbers += layers * 3 * self.width * lengths
        return numbers

    def starts(self, lengths: NDArray[Any]) -> NDArray[np.int64]:
        """Where each row begins in the file, and where the last ends, in numbers."""
        return np.concatenate([[0], np.cumsum(self.numbers(lengths))])


@dataclass(frozen=True)
class TeacherCache:
    """Reads a directory of a teacher's answers."""

    directory: Path

    @cached_property
    def logits(self) -> NDArray[np.float32]:
        """Logits of every feature, or every token, memory-mapped."""
        logits: NDArray[np.float32] = np.load(self.directory / "logits.npy", mmap_mode="r")
        return logits

    @cached_property
    def keys(self) -> NDArray[np.uint64]:
        """What tells the rows apart, (N, 2)."""
        keys: NDArray[np.uint64] = np.load(self.directory / "keys.npy")
        return keys

    @cached_property
    def _manifest(self) -> dict[str, Any]:
        manifest: dict[str, Any] = json.loads((self.directory / "manifest.json").read_text())
        return manifest

    @cached_property
    def states(self) -> StateShape | None:
        """Shape of the states, None where there are none."""
        described = self._manifest["states"]
        return StateShape(**{**described, "mapped": tuple(described["mapped"])}) if described else None

    def holds(self, states: StateShape, precision: str) -> bool:
        """It has these states, of passes at this precision, which is said as in the form."""
        return self.states == states and self._manifest.get("states_precision") == precision

    @property
    def is_current(self) -> bool:
        """Made as answers are made today, so that they may be copied."""
        return bool(self._manifest.get("format") == FORMAT)

    @property
    def per_token(self) -> bool:
        """Each token has its own logits. Older directories do not say so: there no token has."""
        return bool(self._manifest.get("per_token"))

    def opinions(self) -> Iterator[tuple[Any, float]]:
        """The teacher's answer to each row, and how sure it is; a chunk of them is in memory."""
        for batch in Dataset.from_file(str(self.directory / OPINIONS)).iter(CHUNK):
            yield from zip(batch["answer"], batch["confidence"], strict=True)

    @cached_property
    def lengths(self) -> NDArray[np.int32]:
        """Tokens of each feature."""
        lengths: NDArray[np.int32] = np.load(self.directory / "lengths.npy")
        return lengths

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        assert self.states is not None
        return self.states.starts(self.lengths)

    def check(self, keys: NDArray[np.uint64]) -> None:
        """Hold the cache against the rows it is to serve.

        Raises:
            DataError: It was made of other rows.
        """
        if not np.array_equal(self.keys, keys):
            raise DataError(
                f"{self.directory.name}: the teacher answered {len(self.keys)} other rows; there are {len(keys)} "
                "training rows. Run the stage `targets` on this data set"
            )

    def places(self, keys: NDArray[np.uint64], lengths: NDArray[np.int32]) -> Indices | None:
        """Where the answers for these rows stand, None where they are its own rows in its own order.

        Args:
            keys: Of the rows.
            lengths: Tokens of each, as the student reads it.

        Raises:
            DataError: The teacher was not asked about some of them, or read them as another number of tokens.
        """
        places = None if np.array_equal(self.keys, keys) else find_rows(keys, self.keys)
        missing = 0 if places is None else int((places < 0).sum())
        if missing:
            raise DataError(
                f"{self.directory.name}: the teacher answered {len(self.keys)} other rows; {missing} of "
                f"{len(keys)} training rows are not among them. Run the stage `targets` on this data set"
            )
        read = self.lengths if places is None else self.lengths[places]
        others = np.flatnonzero(read != lengths)
        if len(others):
            raise DataError(
                f"{self.directory.name}: {len(others)} of {len(keys)} training rows have another number of tokens than "
                f"they had for the teacher, e.g. {lengths[others[0]]} instead of {read[others[0]]}. Choose a student "
                "with the teacher's tokenizer, and run the stage `targets` on this data set"
            )
        return places

    def known(self, keys: NDArray[np.uint64], lengths: NDArray[np.int32]) -> Indices:
        """Where the answers for these rows stand, -1 for those not asked about, or as another number of tokens."""
        places = find_rows(keys, self.keys)
        found = np.flatnonzero(places >= 0)
        places[found[self.lengths[places[found]] != lengths[found]]] = -1
        return places

    def row_states(self, row: int) -> NDArray[np.int16]:
        """All states of a row, flat, as the bits of bf16 numbers.

        Read, not mapped: what is mapped counts as this process' memory once it was touched, and these are gigabytes.
        """
        start, end = (int(place) for place in self._starts[row : row + 2])
        return np.fromfile(self.directory / STATES, np.int16, end - start, offset=start * BYTES)

    def batch(self, rows: Indices, length: int, wanted: tuple[str, ...]) -> Batch:
        """What is wanted of these rows, padded to `length` tokens.

        Returns:
            "logits" gives teacher_logits (B, C), or (B, L, C), in fp32; "states" gives teacher_hidden (B, K + 1, L, D)
            and teacher_scores (B, K, H, L, L) or teacher_relations (B, K, 3, L, D) in bf16, zero at padding.
        """
        batch = {}
        if "logits" in wanted:
            batch["teacher_logits"] = self._logits(rows, length)
        if "states" in wanted and self.states is not None:
            padded = {
                name: torch.zeros(len(rows), *shape, dtype=torch.bfloat16)
                for name, shape in self.states.parts(length).items()
            }
            for place, row in enumerate(rows):
                for name, part in self._parts(int(row)):
                    inside = (slice(place, place + 1), *(slice(size) for size in part.shape))
                    padded[name][inside] = part
            batch |= padded
        return batch

    def _logits(self, rows: Indices, length: int) -> Tensor:
        if not self.per_token:
            return torch.from_numpy(self.logits[rows])
        logits_BLC = np.zeros((len(rows), length, self.logits.shape[1]), np.float32)
        for place, row in enumerate(rows):
            found_LC = self.row_logits(int(row))
            logits_BLC[place, : len(found_LC)] = found_LC
        return torch.from_numpy(logits_BLC)

    def row_logits(self, row: int) -> NDArray[np.float32]:
        """Logits (L, C) of a feature's tokens, where each has its own."""
        start = self._token_starts[row]
        return self.logits[start : start + self.lengths[row]]

    @cached_property
    def _token_starts(self) -> NDArray[np.int64]:
        return Features(self.lengths, np.zeros(0, np.int64)).starts

    def _parts(self, row: int) -> Iterator[tuple[str, Tensor]]:
        """The states of one row without padding."""
        assert self.states is not None
        flat, start = torch.from_numpy(self.row_states(row)).view(torch.bfloat16), 0
        for name, shape in self.states.parts(int(self.lengths[row])).items():
            size = int(np.prod(shape))
            yield name, flat[start : start + size].view(shape)
            start += size


def row_keys(rows: Dataset, max_length: int) -> NDArray[np.uint64]:
    """A digest (N, 2) of what the teacher reads of each row."""
    found = [np.zeros((0, 2), np.uint64)]
    for batch in rows.iter(CHUNK):  # rows fetched one by one take a hundred times as long
        read = ([*texts, max_length] for texts in zip(batch["text"], batch["text_pair"], strict=True))
        digests = (hashlib.blake2b(json.dumps(row).encode(), digest_size=16).digest() for row in read)
        found.append(np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2))
    return np.concatenate(found)


def write_opinions(kind: TaskKind, said: Iterable[Answers], directory: Path) -> None:
    """Keep the teacher's answers to the rows, and how sure it is of each, beside its logits.

    Args:
        kind: Of the task.
        said: The answers, one part of the rows after the other.
        directory: Of the teacher's answers.
    """
    schema = pa.schema([("answer", kind.answer_type), ("confidence", pa.float32())])
    with pa.ipc.new_stream(str(directory / OPINIONS), schema) as writer:
        for part in said:
            columns = [pa.array(part.values, kind.answer_type), pa.array(part.confidence, pa.float32())]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def feature_keys(rows: Dataset, features: Features, max_length: int) -> NDArray[np.uint64]:
    """A digest (F, 2) of what the teacher reads of each feature: the row's, plus which of its windows it is."""
    keys = row_keys(rows, max_length)[features.rows]
    window_F = np.arange(len(features.rows)) - np.searchsorted(features.rows, features.rows)
    keys[:, 0] += window_F.astype(np.uint64)  # by the first half, `find_rows` tells keys apart
    return keys


def find_rows(keys: NDArray[np.uint64], among: NDArray[np.uint64]) -> Indices:
    """Place of each key among others, -1 where it is not there."""
    if not len(among):
        return np.full(len(keys), -1)
    order = np.argsort(among[:, 0], kind="stable")
    places = np.searchsorted(among[order, 0], keys[:, 0]).clip(max=len(among) - 1)
    found: Indices = order[places]
    return np.where((among[found] == keys).all(axis=1), found, -1)
