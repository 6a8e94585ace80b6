"""The layout of a tokenised corpus: sequences of one length, packed, in one Arrow file, and a manifest."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from tinybert.batches import WINDOW, Batch, Indices, Rows

T = TypeVar("T")
BLOCK = 1024
"""Sequences that are written and read together."""


@dataclass(frozen=True)
class Corpus:
    """A directory with `corpus.arrow` and `manifest.json`."""

    directory: Path

    def rows(self) -> "PackedRows":
        """The packed sequences, to train on."""
        return PackedRows(self.directory / "corpus.arrow", int(self.manifest["sequences"]))

    @property
    def manifest(self) -> dict[str, Any]:
        """Sequences, length, tokens, documents."""
        manifest: dict[str, Any] = json.loads((self.directory / "manifest.json").read_text())
        return manifest


def pack(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, length: int) -> Iterator[list[int]]:
    """Documents joined by separators and cut into sequences `[CLS] ... [SEP]` of exactly `length` tokens.

    What is left at the end, less than a sequence, is dropped. Memory does not grow with the text.
    """
    inside = length - 2
    left: list[int] = []
    for batch in _batches(texts, 256):
        for ids in tokenizer(batch, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]:
            left.extend(ids)
            left.append(tokenizer.sep_token_id)
        whole = len(left) - len(left) % inside
        for start in range(0, whole, inside):
            yield [tokenizer.cls_token_id, *left[start : start + inside], tokenizer.sep_token_id]
        left = left[whole:]


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def write(sequences: Iterable[list[int]], length: int, path: Path) -> int:
    """Write packed sequences as they come, in blocks that can be read one by one; returns how many."""
    schema = pa.schema([("input_ids", pa.list_(pa.int32(), length))])
    count = 0
    with pa.ipc.new_file(str(path), schema) as writer:
        for batch in _batches(sequences, BLOCK):
            ids = pa.FixedSizeListArray.from_arrays(pa.array([i for row in batch for i in row], pa.int32()), length)
            writer.write_batch(pa.record_batch([ids], schema=schema))
            count += len(batch)
    return count


class PackedRows(Rows):
    """Packed sequences, read block by block; memory holds a few blocks, however large the corpus is."""

    block = BLOCK

    def __init__(self, path: Path, sequences: int) -> None:
        # Read, not mapped: what is mapped counts as this process' memory once it was touched.
        self._file = pa.ipc.open_file(pa.OSFile(str(path)))
        self._sequences = sequences
        self._block = lru_cache(maxsize=2 * WINDOW)(self._read)

    def __len__(self) -> int:
        return self._sequences

    def _read(self, number: int) -> NDArray[np.int32]:
        ids = self._file.get_batch(number).column(0)
        numbers: NDArray[np.int32] = ids.flatten().to_numpy().reshape(len(ids), -1)
        return numbers

    def batch(self, rows: Indices, chance: torch.Generator) -> Batch:
        """input_ids and attention_mask (B, L); nothing is padded."""
        blocks, places = np.divmod(rows, BLOCK)
        ids = np.stack([self._block(int(block))[place] for block, place in zip(blocks, places, strict=True)])
        ids_BL = torch.from_numpy(ids.astype(np.int64))
        return {"input_ids": ids_BL, "attention_mask": torch.ones_like(ids_BL)}
