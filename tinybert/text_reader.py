"""Text as a model reads it: tokens cut at its length, fast also where the text is far longer.

Shapes: B batch, L length.
"""

import json
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

WINDOW = 16
"""Characters read of a text first, for each token the model reads; the rest only where these do not fill it."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """One example."""

    ids: list[int]
    types: list[int]
    """0 for tokens of the text, 1 for those of the pair."""
    truncated: bool
    """There were more."""


class Reader(ABC):
    """Makes tokens of text. May be used by several threads at once.

    Args:
        directory: Of a model and its tokenizer.
        max_length: Tokens of an example at most, special ones included.
    """

    def __init__(self, directory: Path, max_length: int) -> None:
        self._max_length = max_length
        self._pad: int = json.loads((directory / "config.json").read_text()).get("pad_token_id") or 0

    def read(self, texts: list[str], pairs: list[str] | None) -> list[Tokens]:
        """Tokens of each example; halves of characters that UTF-8 cannot express become question marks."""
        return self._read([_encodable(text) for text in texts], pairs and [_encodable(pair) for pair in pairs])

    def padded(self, examples: list[Tokens]) -> dict[str, NDArray[np.int64]]:
        """Ids, mask and types (B, L) under the names that transformers gives them."""
        shape = len(examples), max(len(example.ids) for example in examples)
        ids_BL, mask_BL, types_BL = np.full(shape, self._pad), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for row, example in enumerate(examples):
            length = len(example.ids)
            ids_BL[row, :length], mask_BL[row, :length], types_BL[row, :length] = example.ids, 1, example.types
        return {"input_ids": ids_BL, "attention_mask": mask_BL, "token_type_ids": types_BL}

    @abstractmethod
    def _read(self, texts: list[str], pairs: list[str] | None) -> list[Tokens]: ...


def reader(directory: Path, max_length: int) -> Reader:
    """The reader with the tokenizer of a directory."""
    return (FastReader if (directory / "tokenizer.json").is_file() else SlowReader)(directory, max_length)


class FastReader(Reader):
    """Reads with the tokenizers library alone: neither torch nor transformers is imported."""

    def __init__(self, directory: Path, max_length: int) -> None:
        from tokenizers import Tokenizer

        super().__init__(directory, max_length)
        self._tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length)

    def _read(self, texts: list[str], pairs: list[str] | None) -> list[Tokens]:
        examples: list[str] | list[tuple[str, str]] = [self._beginning(text) for text in texts]
        if pairs is not None:
            examples = [self._beginnings(text, pair) for text, pair in zip(texts, pairs, strict=True)]
        found = self._tokenizer.encode_batch(examples)
        return [Tokens(one.ids, one.type_ids, bool(one.overflowing)) for one in found]

    def _beginnings(self, text: str, pair: str) -> tuple[str, str]:
        """Only of one: how two long ones share the room depends on which has more tokens in all."""
        if min(len(text), len(pair)) > WINDOW * self._max_length:
            return text, pair
        return self._beginning(text), self._beginning(pair)

    def _beginning(self, text: str) -> str:
        """As much of a text as gives the same tokens as all of it.

        Where to cut does not matter as long as words follow on those that the model reads, because tokenizers read word
        by word.
        """
        size = WINDOW * self._max_length
        while size < len(text):
            read = self._tokenizer.encode(text[:size], add_special_tokens=False)
            if read.overflowing and read.overflowing[-1].word_ids[-1] != read.word_ids[-1]:
                return text[:size]
            size *= 8
        return text


class SlowReader(Reader):
    """Reads with a tokenizer written in Python, for one thread at a time."""

    def __init__(self, directory: Path, max_length: int) -> None:
        from transformers import AutoTokenizer

        super().__init__(directory, max_length)
        self._lock, self._tokenizer = threading.Lock(), AutoTokenizer.from_pretrained(directory)

    def _read(self, texts: list[str], pairs: list[str] | None) -> list[Tokens]:
        with self._lock:
            found, longer = (
                self._tokenizer(texts, pairs, truncation=True, max_length=most, return_token_type_ids=True)
                for most in (self._max_length, self._max_length + 1)
            )
        columns = (found["input_ids"], found["token_type_ids"], longer["input_ids"])
        return [Tokens(ids, types, len(more) > len(ids)) for ids, types, more in zip(*columns, strict=True)]


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
