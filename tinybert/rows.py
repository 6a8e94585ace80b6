"""Task rows to train on: tokenised once, kept in a file, padded batch by batch."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from tinybert.batches import Batch, Indices, Rows
from tinybert.data import TaskData
from tinybert.teacher_cache import TeacherCache, row_keys

CHUNK = 10_000
"""Rows tokenised at a time."""


class TokenTable:
    """Token ids of texts and pairs, cut at `max_length`; they lie in a temporary file, so memory holds lengths alone.

    Args:
        rows: Columns text and text_pair (null for single sentences).
        tokenizer: Of the model that will read them.
        max_length: Tokens per row, special ones included.
    """

    def __init__(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        self._padding = tokenizer.pad_token_id or 0
        self._typed = "token_type_ids" in tokenizer.model_input_names
        lengths, firsts = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
        with tempfile.TemporaryFile() as file:
            for ids, first in self._encoded(rows, tokenizer, max_length):
                lengths.append(np.fromiter(map(len, ids), np.int32, len(ids)))
                firsts.append(first)
                np.concatenate(ids, dtype=np.int32).tofile(file)
            self.lengths = np.concatenate(lengths)
            self._firsts = np.concatenate(firsts)
            self._starts = np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])
            file.flush()
            # The map keeps the file alive after it is closed; it was never visible in a directory.
            self._ids = np.asarray(np.memmap(file, np.int32, "r"))

    def _encoded(
        self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> Iterator[tuple[list[list[int]], NDArray[np.int32]]]:
        """Token ids of a chunk of rows, and how many of each belong to the first segment."""
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            pairs = chunk["text_pair"] if any(pair is not None for pair in chunk["text_pair"]) else None
            encoded = tokenizer(chunk["text"], pairs, truncation=True, max_length=max_length, verbose=False)
            segments = encoded["token_type_ids"] if self._typed else encoded["input_ids"]
            firsts = (len(row) - sum(row) if self._typed else len(row) for row in segments)
            yield encoded["input_ids"], np.fromiter(firsts, np.int32, len(segments))

    def __len__(self) -> int:
        return len(self.lengths)

    def tokens(self) -> NDArray[np.int64]:
        """Token ids that occur in what `inputs` gives, rising."""
        chunks = (np.unique(self._ids[start : start + 2**24]) for start in range(0, len(self._ids), 2**24))
        return np.unique(np.concatenate([[self._padding], *chunks])).astype(np.int64)

    def inputs(self, rows: Indices) -> Batch:
        """input_ids, attention_mask and, where the model knows them, token_type_ids: (B, L) each."""
        lengths_B = torch.from_numpy(self.lengths[rows].astype(np.int64))
        places_L = torch.arange(int(lengths_B.max()))
        ids_BL = torch.full((len(rows), len(places_L)), self._padding)
        for row, at in enumerate(rows):
            start, end = self._starts[at], self._starts[at + 1]
            ids_BL[row, : end - start] = torch.from_numpy(self._ids[start:end].astype(np.int64))
        mask_BL = places_L < lengths_B[:, None]
        batch = {"input_ids": ids_BL, "attention_mask": mask_BL.long()}
        if self._typed:
            firsts_B = torch.from_numpy(self._firsts[rows].astype(np.int64))
            batch["token_type_ids"] = ((places_L >= firsts_B[:, None]) & mask_BL).long()
        return batch


@dataclass(frozen=True)
class TaskRows(Rows):
    """Labelled rows of a task, with what the teacher says of them where that is wanted."""

    table: TokenTable
    labels: NDArray[np.int64]
    teacher: TeacherCache | None = None
    wanted: tuple[str, ...] = ()
    """What of the teacher goes into a batch: "logits", "states"."""
    places: Indices | None = None
    """Where the teacher's answer for each row stands; None: in the place of the row."""

    @property
    def lengths(self) -> NDArray[np.int32]:  # type: ignore[override]
        """Tokens of each row."""
        return self.table.lengths

    def __len__(self) -> int:
        return len(self.table)

    def tokens(self) -> NDArray[np.int64]:
        """Token ids that occur, padding included."""
        return self.table.tokens()

    def batch(self, rows: Indices, chance: torch.Generator) -> Batch:
        """Token ids and masks (B, L), labels (B,), and the teacher's answers (see `TeacherCache`)."""
        batch = self.table.inputs(rows)
        batch["labels"] = torch.from_numpy(self.labels[rows])
        if self.teacher is not None:
            answered = rows if self.places is None else self.places[rows]
            batch |= self.teacher.batch(answered, batch["input_ids"].shape[1], self.wanted)
        return batch


def task_rows(rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> TaskRows:
    """Tokenise the rows of a split."""
    labels = np.asarray(rows.with_format("numpy")["label"][:])
    return TaskRows(TokenTable(rows, tokenizer, max_length), labels)


def imitation_rows(task: TaskData, tokenizer: PreTrainedTokenizerBase, teacher: TeacherCache, *wanted: str) -> TaskRows:
    """The training rows with the teacher's answers to them.

    Args:
        task: Task data set.
        tokenizer: The student's.
        teacher: Answers for these rows, in whatever order, and maybe for others.
        *wanted: "logits", "states".

    Raises:
        DataError: Rows without an answer.
    """
    rows = task.rows("train")
    places = teacher.places(row_keys(rows, task.max_length))
    return replace(task_rows(rows, tokenizer, task.max_length), teacher=teacher, wanted=wanted, places=places)
