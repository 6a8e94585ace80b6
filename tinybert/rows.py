"""Task rows to train on: tokenised once, kept in a file, padded batch by batch."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from tinybert.batches import Batch, Indices, Rows
from tinybert.data import TaskData
from tinybert.kinds.task_kind import UNSCORED, Columns, Encoded, Features, TaskKind
from tinybert.teacher_cache import TeacherCache, feature_keys

CHUNK = 2000
"""Rows that are in memory at a time."""


class TokenTable:
    """Token ids of texts and pairs, feature by feature; they lie in temporary files, so memory holds lengths alone.

    Args:
        rows: Columns text and text_pair (null for single sentences), of a data set or of lists.
        tokenizer: Of the model that will read them.
        max_length: Tokens per feature, special ones included.
        kind: Of the task: how it reads a row.
    """

    def __init__(
        self, rows: Dataset | Columns, tokenizer: PreTrainedTokenizerBase, max_length: int, kind: TaskKind
    ) -> None:
        self._padding = tokenizer.pad_token_id or 0
        self._typed = "token_type_ids" in tokenizer.model_input_names
        lengths, firsts, owners = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
        with tempfile.TemporaryFile() as ids, tempfile.TemporaryFile() as places:
            for start, encoded in _encoded(rows, tokenizer, max_length, kind):
                lengths.append(np.fromiter(map(len, encoded.ids), np.int32, len(encoded.ids)))
                firsts.append(np.asarray(encoded.firsts, np.int32))
                owners.append(np.asarray(encoded.rows, np.int64) + start)
                np.concatenate(encoded.ids, dtype=np.int32).tofile(ids)
                if encoded.places is not None:
                    np.concatenate(encoded.places, dtype=np.int32).tofile(places)
            counts = np.concatenate(lengths)
            self._ids, found = _mapped(ids, np.int32), _mapped(places, np.int32)
            found_TP = found.reshape(int(counts.sum()), -1) if len(found) else None
            self.features = Features(counts, np.concatenate(owners), found_TP)
        self._firsts = np.concatenate(firsts)

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Tokens of each feature."""
        return self.features.lengths

    def __len__(self) -> int:
        return len(self.features.lengths)

    def tokens(self) -> NDArray[np.int64]:
        """Token ids that occur in what `inputs` gives, rising."""
        chunks = (np.unique(self._ids[start : start + 2**24]) for start in range(0, len(self._ids), 2**24))
        return np.unique(np.concatenate([[self._padding], *chunks])).astype(np.int64)

    def inputs(self, rows: Indices) -> Batch:
        """input_ids, attention_mask and, where the model knows them, token_type_ids: (B, L) each."""
        lengths_B = torch.from_numpy(self.lengths[rows].astype(np.int64))
        places_L = torch.arange(int(lengths_B.max()))
        mask_BL = places_L < lengths_B[:, None]
        ids_BL = padded(self._ids, self.features, rows, len(places_L), self._padding)
        batch = {"input_ids": ids_BL, "attention_mask": mask_BL.long()}
        if self._typed:
            firsts_B = torch.from_numpy(self._firsts[rows].astype(np.int64))
            batch["token_type_ids"] = ((places_L >= firsts_B[:, None]) & mask_BL).long()
        return batch


@dataclass(frozen=True)
class TaskRows(Rows):
    """Labelled rows of a task, feature by feature, with what the teacher says of them where that is wanted."""

    table: TokenTable
    targets: NDArray[Any]
    """As the kind of task has them, of features or of tokens (`TaskKind.targets`)."""
    per_token: bool = False
    """The targets are those of tokens."""
    teacher: TeacherCache | None = None
    wanted: tuple[str, ...] = ()
    """What of the teacher goes into a batch: "logits", "states"."""
    places: Indices | None = None
    """Where the teacher's answer for each row stands; None: in the place of the row."""

    @property
    def lengths(self) -> NDArray[np.int32]:  # type: ignore[override]
        """Tokens of each feature."""
        return self.table.lengths

    def __len__(self) -> int:
        return len(self.table)

    def tokens(self) -> NDArray[np.int64]:
        """Token ids that occur, padding included."""
        return self.table.tokens()

    def batch(self, rows: Indices, chance: torch.Generator) -> Batch:
        """Token ids and masks (B, L), labels (B, ...) or (B, L), and the teacher's answers (see `TeacherCache`)."""
        batch = self.table.inputs(rows)
        batch["labels"] = self._labels(rows, batch["input_ids"].shape[1])
        if self.teacher is not None:
            answered = rows if self.places is None else self.places[rows]
            batch |= self.teacher.batch(answered, batch["input_ids"].shape[1], self.wanted)
        return batch

    def _labels(self, rows: Indices, length: int) -> torch.Tensor:
        if not self.per_token:
            return torch.from_numpy(self.targets[rows])
        return padded(self.targets, self.table.features, rows, length, UNSCORED)


def padded(values_T: NDArray[Any], features: Features, chosen: Indices, length: int, filling: int) -> torch.Tensor:
    """What the tokens of the chosen features have, as integers (B, L)."""
    padded_BL, starts = np.full((len(chosen), length), filling), features.starts
    for place, feature in enumerate(chosen):
        found = values_T[starts[feature] : starts[feature + 1]]
        padded_BL[place, : len(found)] = found
    return torch.from_numpy(padded_BL)


class Part(NamedTuple):
    """Rows that stand together, and where their features and tokens lie among those of all."""

    rows: slice
    features: slice
    tokens: slice
    own: Features
    """Theirs alone; rows are counted from the first of them."""


def parts(features: Features, rows: int) -> Iterator[Part]:
    """So many rows in parts of `CHUNK`, with their features; of no rows, one part without any."""
    for start in range(0, max(1, rows), CHUNK):
        first, last = (int(place) for place in np.searchsorted(features.rows, [start, start + CHUNK]))
        tokens = slice(int(features.starts[first]), int(features.starts[last]))
        places = None if features.places is None else features.places[tokens]
        own = Features(features.lengths[first:last], features.rows[first:last] - start, places)
        yield Part(slice(start, min(start + CHUNK, rows)), slice(first, last), tokens, own)


def _encoded(
    rows: Dataset | Columns, tokenizer: PreTrainedTokenizerBase, max_length: int, kind: TaskKind
) -> Iterator[tuple[int, Encoded]]:
    """The rows chunk by chunk, and the place of each chunk's first."""
    texts, pairs = rows["text"], rows["text_pair"]
    for start in range(0, len(texts), CHUNK):
        chunk = slice(start, start + CHUNK)
        second = list(pairs[chunk])
        yield start, kind.encode(tokenizer, list(texts[chunk]), second if second[0] is not None else None, max_length)


def _mapped(file: Any, dtype: np.typing.DTypeLike) -> NDArray[Any]:
    """The numbers in a file. The map keeps it alive after it is closed; it was never visible in a directory."""
    file.flush()
    return np.asarray(np.memmap(file, dtype, "r")) if file.tell() else np.zeros(0, dtype)


def task_rows(task: TaskData, tokenizer: PreTrainedTokenizerBase, split: str = "train") -> TaskRows:
    """Tokenise the rows of a split."""
    rows, kind = task.rows(split), task.kind
    table = TokenTable(rows, tokenizer, task.max_length, kind)
    return TaskRows(table, _targets(rows["label"], table.features, kind, task.labels), kind.targets_per_token)


def _targets(labels: Sequence[Any], features: Features, kind: TaskKind, names: Sequence[str]) -> NDArray[Any]:
    """The targets of rows' labels, which come from the disk and lie in a temporary file in turn."""
    with tempfile.TemporaryFile() as file:
        for part in parts(features, len(labels)):
            found = kind.targets(labels[part.rows], part.own, names)
            found.tofile(file)
        return _mapped(file, found.dtype).reshape(-1, *found.shape[1:])


def imitation_rows(task: TaskData, tokenizer: PreTrainedTokenizerBase, teacher: TeacherCache, *wanted: str) -> TaskRows:
    """The training rows with the teacher's answers to them.

    Args:
        task: Task data set.
        tokenizer: The student's.
        teacher: Answers for these rows, in whatever order, and maybe for others.
        *wanted: "logits", "states".

    Raises:
        DataError: Rows without an answer, or that the teacher read as another number of tokens.
    """
    rows = task_rows(task, tokenizer)
    keys = feature_keys(task.rows("train"), rows.table.features, task.max_length)
    places = teacher.places(keys, rows.lengths)
    return replace(rows, teacher=teacher, wanted=wanted, places=places)
