"""Text as a model reads it: tokens as the kind of task wants them, fast also where a text is far longer than is read.

Shapes: B batch, L length.
"""

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tinybert.kinds.task_kind import Encoded, Features, TaskKind

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

WINDOW = 16
"""Characters read of a text first, for each token the model reads; the rest only where these do not fill it."""
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""What transformers calls what a model reads."""


@dataclass(frozen=True)
class Reading:
    """Rows as a model reads them."""

    encoded: Encoded
    truncated: list[bool]
    """Of each row: there was more."""

    @cached_property
    def features(self) -> Features:
        """Which tokens belong to which row."""
        ids, places = self.encoded.ids, self.encoded.places
        lengths, rows = np.fromiter(map(len, ids), np.int32, len(ids)), np.asarray(self.encoded.rows, np.int64)
        return Features(lengths, rows, None if places is None else np.concatenate(places))


class Reader(ABC):
    """Makes tokens of text. May be used by several threads at once.

    Args:
        directory: Of a model and its tokenizer.
        max_length: Tokens of a feature at most, special ones included.
        kind: Of the task: how it reads a row.
    """

    def __init__(self, directory: Path, max_length: int, kind: TaskKind) -> None:
        self._max_length, self._kind = max_length, kind
        self._pad: int = json.loads((directory / "config.json").read_text()).get("pad_token_id") or 0

    @abstractmethod
    def read(self, texts: Sequence[str], pairs: Sequence[str] | None) -> Reading:
        """Tokens of each row, which `tinybert.kinds` cuts as it does for training."""

    def padded(self, encoded: Encoded, features: Sequence[int]) -> dict[str, NDArray[np.int64]]:
        """Ids, mask and types (B, L) of some of the features under the names that transformers gives them."""
        ids = [encoded.ids[feature] for feature in features]
        shape = len(ids), max(map(len, ids))
        ids_BL, mask_BL, types_BL = np.full(shape, self._pad), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for row, (feature, tokens) in enumerate(zip(features, ids, strict=True)):
            length = len(tokens)
            ids_BL[row, :length], mask_BL[row, :length], types_BL[row, encoded.firsts[feature] : length] = tokens, 1, 1
        return dict(zip(INPUTS, (ids_BL, mask_BL, types_BL), strict=True))


def reader(directory: Path, max_length: int, kind: TaskKind) -> Reader:
    """The reader with the tokenizer of a directory."""
    return (FastReader if (directory / "tokenizer.json").is_file() else SlowReader)(directory, max_length, kind)


class FastReader(Reader):
    """Reads with the tokenizers library alone: neither torch nor transformers is imported."""

    def __init__(self, directory: Path, max_length: int, kind: TaskKind) -> None:
        super().__init__(directory, max_length, kind)
        self._tokenizers = _Tokenizers((directory / "tokenizer.json").read_text(encoding="utf-8"))

    def read(self, texts: Sequence[str], pairs: Sequence[str] | None) -> Reading:
        """With all its words, or the beginning that is read of it; a question may have been cut before."""
        tokenizer = LightTokenizer(self._tokenizers)
        encoded = self._kind.encode(tokenizer, texts, pairs, self._max_length)
        cut = [seen != text for seen, text in zip(tokenizer.seen, texts, strict=True)]
        return Reading(encoded, [one or other for one, other in zip(cut, tokenizer.cut, strict=True)])


class _Tokenizers:
    """One tokenizer with various ways to cut, which it would otherwise have to change while others use it."""

    def __init__(self, content: str) -> None:
        self._content, self._lock = content, threading.Lock()
        self._made: dict[tuple[str | None, int, int], Tokenizer] = {}

    def that_cuts(self, strategy: str | None, max_length: int = 0, stride: int = 0) -> "Tokenizer":
        """At this length, by this strategy; not at all without one."""
        with self._lock:
            wanted = strategy, max_length, stride
            if wanted not in self._made:
                self._made[wanted] = self._make(*wanted)
            return self._made[wanted]

    def _make(self, strategy: str | None, max_length: int, stride: int) -> "Tokenizer":
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(self._content)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        if strategy is not None:
            tokenizer.enable_truncation(max_length, stride=stride, strategy=strategy)
        return tokenizer


class Found(dict[str, list[Any]]):
    """What a tokenizer of transformers gives: lists by name, and where they come from."""

    encodings: "list[Encoding]"


@dataclass
class LightTokenizer:
    """What kinds of tasks ask of a tokenizer of transformers, by the tokenizers library alone, for one reading."""

    tokenizers: _Tokenizers
    seen: list[str] = field(default_factory=list)
    """First texts of all rows that it was given to cut."""
    cut: list[bool] = field(default_factory=list)
    """Of each of these: tokens were left out."""
    is_fast = True
    model_input_names = INPUTS

    def __call__(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        truncation: bool | str = False,
        max_length: int = 0,
        stride: int = 0,
        add_special_tokens: bool = True,
        return_overflowing_tokens: bool = False,
        return_offsets_mapping: bool = False,
        **_: bool,
    ) -> Found:
        """Tokens by the names that transformers gives them; of each row one feature, or all its windows.

        Other options, which say what else transformers is to give or to warn of, change nothing.
        """
        strategy = "longest_first" if truncation is True else truncation or None
        tokenizer = self.tokenizers.that_cuts(strategy, max_length if strategy else 0, stride)
        rows: list[Any] = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        if truncation is True:
            rows = [_beginnings(tokenizer, row, WINDOW * max_length) for row in rows]
        found = tokenizer.encode_batch(rows, add_special_tokens=add_special_tokens)
        if strategy is not None:
            self.seen += texts
            self.cut += [bool(one.overflowing) and not return_overflowing_tokens for one in found]
        windows = [[one, *one.overflowing] if return_overflowing_tokens else [one] for one in found]
        return _columns(windows, return_offsets_mapping)

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """To a text, or a pair."""
        return int(self.tokenizers.that_cuts(None).num_special_tokens_to_add(pair))


def _columns(windows: "list[list[Encoding]]", offsets: bool) -> Found:
    """Of all windows of each row."""
    encodings = [one for some in windows for one in some]
    columns = Found(
        input_ids=[one.ids for one in encodings],
        token_type_ids=[one.type_ids for one in encodings],
        offset_mapping=[one.offsets for one in encodings] if offsets else [],
        overflow_to_sample_mapping=[row for row, some in enumerate(windows) for _ in some],
    )
    columns.encodings = encodings
    return columns


def _beginnings(tokenizer: "Tokenizer", row: str | tuple[str, str], size: int) -> str | tuple[str, str]:
    """As much of a row as gives the same tokens as all of it.

    Of a pair only of one, and only if it still has more tokens than the other: how two long ones share the room depends
    on which has more in all.
    """
    if isinstance(row, str):
        return _beginning(tokenizer, row, size)
    begun = [_beginning(tokenizer, text, size) for text in row] if min(map(len, row)) <= size else [*row]
    if begun == [*row]:
        return row
    short, long = sorted(range(2), key=lambda side: len(row[side]))
    return (begun[0], begun[1]) if _count(tokenizer, begun[long]) > _count(tokenizer, row[short]) else row


def _count(tokenizer: "Tokenizer", text: str) -> int:
    """Tokens of all of a text."""
    read = tokenizer.encode(text, add_special_tokens=False)
    return sum(len(part.ids) for part in [read, *read.overflowing])


def _beginning(tokenizer: "Tokenizer", text: str, size: int) -> str:
    """Where to cut does not matter as long as words follow on those that the model reads.

    That is because tokenizers read word by word.
    """
    while size < len(text):
        read = tokenizer.encode(text[:size], add_special_tokens=False)
        if read.overflowing and read.overflowing[-1].word_ids[-1] != read.word_ids[-1]:
            return text[:size]
        size *= 8
    return text


class SlowReader(Reader):
    """Reads with a tokenizer written in Python, for one thread at a time."""

    def __init__(self, directory: Path, max_length: int, kind: TaskKind) -> None:
        from transformers import AutoTokenizer

        super().__init__(directory, max_length, kind)
        self._lock, self._tokenizer = (
            threading.Lock(),
            AutoTokenizer.from_pretrained(directory, trust_remote_code=False),
        )

    def read(self, texts: Sequence[str], pairs: Sequence[str] | None) -> Reading:
        """Cut twice, at one token more to see whether there are any."""
        with self._lock:
            found, longer = (
                self._kind.encode(self._tokenizer, texts, pairs, most)
                for most in (self._max_length, self._max_length + 1)
            )
        return Reading(found, [len(more) > len(ids) for ids, more in zip(found.ids, longer.ids, strict=True)])
