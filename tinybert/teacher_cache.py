"""The teacher's answers for the rows of a data set, computed once and memory-mapped from then on.

A directory with `logits.npy` (N, C) in fp32, `keys.npy` (N, 2), which tells a row by its text, `manifest.json`, and,
where wanted, `states.bin`: for each row its hidden states (K + 1, L, D) and its attention scores (K, H, L, L) or
relations (K, 3, L, D) in bf16, one after the other without padding; `lengths.npy` (N) has the L of each.

Shapes: N rows, C classes, K mapped layers, L tokens of a row, D width, H heads.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor

from tinybert.attention_kind import Kind
from tinybert.batches import Batch, Indices
from tinybert.errors import DataError

STATES = "states.bin"
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
        """Logits of every row, memory-mapped."""
        logits: NDArray[np.float32] = np.load(self.directory / "logits.npy", mmap_mode="r")
        return logits

    @cached_property
    def keys(self) -> NDArray[np.uint64]:
        """What tells the rows apart, (N, 2)."""
        keys: NDArray[np.uint64] = np.load(self.directory / "keys.npy")
        return keys

    @cached_property
    def states(self) -> StateShape | None:
        """Shape of the states, None where there are none."""
        described = json.loads((self.directory / "manifest.json").read_text())["states"]
        return StateShape(**{**described, "mapped": tuple(described["mapped"])}) if described else None

    @cached_property
    def lengths(self) -> NDArray[np.int32]:
        """Tokens of each row."""
        lengths: NDArray[np.int32] = np.load(self.directory / "lengths.npy")
        return lengths

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        assert self.states is not None
        return self.states.starts(self.lengths)

    @cached_property
    def _numbers(self) -> NDArray[np.int16]:
        return np.asarray(np.memmap(self.directory / STATES, np.int16, "r"))

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

    def places(self, keys: NDArray[np.uint64]) -> Indices | None:
        """Where the answers for these rows stand, None where they are its own rows in its own order.

        Raises:
            DataError: The teacher was not asked about some of them.
        """
        if np.array_equal(self.keys, keys):
            return None
        places = find_rows(keys, self.keys)
        missing = int((places < 0).sum())
        if missing:
            raise DataError(
                f"{self.directory.name}: the teacher answered {len(self.keys)} other rows; {missing} of "
                f"{len(keys)} training rows are not among them. Run the stage `targets` on this data set"
            )
        return places

    def row_states(self, row: int) -> NDArray[np.int16]:
        """All states of a row, flat, as the bits of bf16 numbers."""
        return self._numbers[self._starts[row] : self._starts[row + 1]]

    def batch(self, rows: Indices, length: int, wanted: tuple[str, ...]) -> Batch:
        """What is wanted of these rows, padded to `length` tokens.

        Returns:
            "logits" gives teacher_logits (B, C) in fp32; "states" gives teacher_hidden (B, K + 1, L, D) and
            teacher_scores (B, K, H, L, L) or teacher_relations (B, K, 3, L, D) in bf16, zero at padding.
        """
        batch = {}
        if "logits" in wanted:
            batch["teacher_logits"] = torch.from_numpy(self.logits[rows])
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

    def _parts(self, row: int) -> Iterator[tuple[str, Tensor]]:
        """The states of one row without padding."""
        assert self.states is not None
        flat, start = torch.from_numpy(self.row_states(row).copy()).view(torch.bfloat16), 0
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


def find_rows(keys: NDArray[np.uint64], among: NDArray[np.uint64]) -> Indices:
    """Place of each key among others, -1 where it is not there."""
    if not len(among):
        return np.full(len(keys), -1)
    order = np.argsort(among[:, 0], kind="stable")
    places = np.searchsorted(among[order, 0], keys[:, 0]).clip(max=len(among) - 1)
    found: Indices = order[places]
    return np.where((among[found] == keys).all(axis=1), found, -1)
