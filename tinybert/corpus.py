"""The layout of a tokenised corpus: sequences of one length, packed, in one Arrow file, and a manifest."""

import json
import random
import re
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
from tinybert.config import CorpusConfig
from tinybert.tables import stream

T = TypeVar("T")
BLOCK = 1024
"""Sequences that are written and read together."""
HELD = 512
"""Second segments that others may be drawn from."""
_MARKUP = re.compile(r"<[a-zA-Z/!][^<>]*>")


@dataclass(frozen=True)
class Corpus:
    """A directory with `corpus.arrow` and `manifest.json`."""

    directory: Path

    def rows(self) -> "PackedRows":
        """The packed sequences, to train on."""
        return PackedRows(
            self.directory / "corpus.arrow", int(self.manifest["sequences"]), bool(self.manifest["pairs"])
        )

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


def pack_pairs(
    texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, length: int, seed: int = 0
) -> Iterator[tuple[list[int], bool]]:
    """Sequences `[CLS] A [SEP] B [SEP]` of exactly `length` tokens, and whether B follows on A, as for half it does.

    A and B are halves of what `pack` gives, so either may hold the end of one document and the beginning of the next.
    Where B does not follow, it is that of a sequence drawn from some hundreds before; nothing is left out for it.
    """
    chance = random.Random(seed)
    first = (length - 3) // 2
    held: list[list[int]] = []
    for sequence in pack(texts, tokenizer, length - 1):
        one, other = sequence[1 : first + 1], sequence[first + 1 : -1]
        follows = chance.random() < 0.5 or not held
        if not follows:
            place = chance.randrange(len(held))
            held[place], other = other, held[place]
        elif len(held) < HELD:
            held.append(other)
        cls, sep = sequence[0], sequence[-1]
        yield [cls, *one, sep, *other, sep], follows


def texts_of(files: list[Path], config: CorpusConfig) -> Iterator[str]:
    """The texts of a corpus' files, those that are not blank."""
    for row in stream(files, [config.text], config.where):
        text = _MARKUP.sub(" ", str(row[config.text] or "")) if config.strip_markup else str(row[config.text] or "")
        if text.strip():
            yield text


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def write(sequences: Iterable[tuple[list[int], bool]], length: int, path: Path) -> int:
    """Write packed sequences as they come, in blocks that can be read one by one; returns how many.

    Args:
        sequences: With what is true of their second segment; of sequences of one, whatever.
        length: Tokens of each.
        path: File to write.
    """
    schema = pa.schema([("input_ids", pa.list_(pa.int32(), length)), ("follows", pa.bool_())])
    count = 0
    with pa.ipc.new_file(str(path), schema) as writer:
        for batch in _batches(sequences, BLOCK):
            flat = pa.array([token for row, _ in batch for token in row], pa.int32())
            columns = [pa.FixedSizeListArray.from_arrays(flat, length), pa.array([follows for _, follows in batch])]
            writer.write_batch(pa.record_batch(columns, schema=schema))
            count += len(batch)
    return count


class PackedRows(Rows):
    """Packed sequences, read block by block; memory holds a few blocks, however large the corpus is."""

    block = BLOCK

    def __init__(self, path: Path, sequences: int, pairs: bool = False) -> None:
        # Read, not mapped: what is mapped counts as this process' memory once it was touched.
        self._file = pa.ipc.open_file(pa.OSFile(str(path)))
        self._sequences, self._pairs = sequences, pairs
        self._block = lru_cache(maxsize=2 * WINDOW)(self._read)

    def __len__(self) -> int:
        return self._sequences

    def _read(self, number: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        block = self._file.get_batch(number)
        ids = block.column(0)
        return ids.flatten().to_numpy().reshape(len(ids), -1), block.column(1).to_numpy(zero_copy_only=False)

    def batch(self, rows: Indices, chance: torch.Generator) -> Batch:
        """input_ids and attention_mask (B, L); nothing is padded.

        Of pairs also token_type_ids (B, L) and next_sentence_label (B), which is 0 where the second follows, as in
        transformers.
        """
        blocks, places = np.divmod(rows, BLOCK)
        found = [self._block(int(block)) for block in blocks]
        ids = np.stack([ids[place] for (ids, _), place in zip(found, places, strict=True)])
        ids_BL = torch.from_numpy(ids.astype(np.int64))
        batch = {"input_ids": ids_BL, "attention_mask": torch.ones_like(ids_BL)}
        if self._pairs:
            length = ids_BL.shape[1]
            types_L = (torch.arange(length) >= (length - 3) // 2 + 2).long()
            batch["token_type_ids"] = types_L.expand(len(rows), -1).contiguous()
            follows = [follows[place] for (_, follows), place in zip(found, places, strict=True)]
            batch["next_sentence_label"] = torch.tensor([int(not value) for value in follows])
        return batch
