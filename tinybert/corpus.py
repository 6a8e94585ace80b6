"""The layout of a tokenised corpus: sequences of one length, packed, in one Arrow file, and a manifest."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

T = TypeVar("T")


@dataclass(frozen=True)
class Corpus:
    """A directory with `corpus.arrow` and `manifest.json`."""

    directory: Path

    def rows(self) -> Dataset:
        """The packed sequences, memory-mapped: column `input_ids`, all of the manifest's length."""
        return Dataset.from_file(str(self.directory / "corpus.arrow"))

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
    """Write packed sequences as they come; returns how many."""
    schema = pa.schema([("input_ids", pa.list_(pa.int32(), length))])
    count = 0
    with pa.ipc.new_stream(str(path), schema) as writer:
        for batch in _batches(sequences, 1024):
            ids = pa.FixedSizeListArray.from_arrays(pa.array([i for row in batch for i in row], pa.int32()), length)
            writer.write_batch(pa.record_batch([ids], schema=schema))
            count += len(batch)
    return count


def collate_packed(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Packed sequences to a batch (B, L) without padding."""
    ids_BL = torch.tensor([row["input_ids"] for row in rows])
    return {"input_ids": ids_BL, "attention_mask": torch.ones_like(ids_BL)}
