"""Which augmented copies are worth training on: new ones, unlike their row, that the teacher does not contradict.

Texts are compared by their words: runs of letters and digits, single ideographs, and symbols such as emoji, after NFKC
and case folding. Punctuation and white space do not count, so "Don't!" equals "don ' t". A text of punctuation alone is
compared by that. Both sides of a pair count.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import groupby, islice
from typing import NamedTuple
from unicodedata import category, normalize

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from tinybert.augment_config import QualityConfig
from tinybert.augmentation.letters import IDEOGRAPHS, MARKS
from tinybert.kinds.task_kind import Label

CHUNK = 1000
"""Rows that are in memory at once."""
KEPT = ("kept", "relabelled")
"""What `judge` says of copies that stay."""
_LETTER = rf"[^\W_{IDEOGRAPHS}]"
_WORD = re.compile(rf"{_LETTER}++(?:[{MARKS}]++{_LETTER}*+)*+|[{IDEOGRAPHS}]|[^\w\s]|_")
_SYMBOLS = {"So", "Sc", "Sm"}
"""Emoji, currencies and mathematics. Other symbols, such as the grave accent, serve as punctuation."""


class Row(NamedTuple):
    """A row of a task data set; its fields are the columns of `tinybert.data.schema`."""

    text: str
    text_pair: str | None
    label: Label
    origin: int
    made_by: str | None
    group: str | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """The text, or both of a pair."""
        return (self.text,) if self.text_pair is None else (self.text, self.text_pair)


class Side(NamedTuple):
    """What is compared of one text."""

    words: tuple[str, ...]
    bag: frozenset[tuple[str, int]]
    """The words as a multiset: each with the how many-th of its kind it is."""


# Rows -----------------------------------------------------------------------------------------------------------------


def stream(rows: Dataset) -> Iterator[Row]:
    """The rows one by one; a chunk of them is in memory."""
    for batch in rows.iter(CHUNK):
        yield from map(Row, *(batch[name] for name in Row._fields))


def beside_their_rows(copies: Iterable[Row], rows: Dataset) -> Iterator[tuple[Row, list[Row]]]:
    """Each row that has copies, and these.

    Args:
        copies: Those of a row stand together; `origin` is its place among the rows.
        rows: What the copies were made of.
    """
    groups = (list(group) for _, group in groupby(copies, key=lambda copy: copy.origin))
    while chunk := list(islice(groups, CHUNK // 4)):
        found = rows[[group[0].origin for group in chunk]]
        yield from zip(map(Row, *(found[name] for name in Row._fields)), chunk, strict=True)


# Equality -------------------------------------------------------------------------------------------------------------


def words(text: str) -> tuple[str, ...]:
    """What a text is compared by; see the module's docstring."""
    found = _WORD.findall(normalize("NFKC", normalize("NFKC", text).casefold()))
    return tuple(word for word in found if word[0].isalnum() or category(word[0]) in _SYMBOLS) or tuple(found)


def keys(rows: Iterable[Row]) -> NDArray[np.uint64]:
    """64 bits that are the same for rows with the same words in the same order."""
    return np.fromiter(map(_key, rows), np.uint64)


def _key(row: Row) -> int:
    said = "\0".join(" ".join(words(text)) for text in row.texts)
    return int.from_bytes(blake2b(said.encode(), digest_size=8).digest())


def repeats(keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which keys stand somewhere before."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    found = np.zeros(len(keys), np.bool_)
    found[order[1:]] = ordered[1:] == ordered[:-1]
    return found


def stand_among(keys: NDArray[np.uint64], others: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which keys are among others."""
    others = np.sort(others)
    left, right = (np.searchsorted(others, keys, side) for side in ("left", "right"))
    found: NDArray[np.bool_] = left < right
    return found


# Similarity -----------------------------------------------------------------------------------------------------------


def sides(row: Row) -> tuple[Side, ...]:
    """What is compared of each text of a row."""
    return tuple(_side(words(text)) for text in row.texts)


def _side(found: tuple[str, ...]) -> Side:
    bag, times = set(), dict[str, int]()
    for word in found:
        times[word] = times.get(word, 0) + 1
        bag.add((word, times[word]))
    return Side(found, frozenset(bag))


def common_words(one: Side, other: Side) -> float:
    """Share of words in common as multisets, 2 |A & B| / (|A| + |B|), wherever they stand; of no words, 1."""
    total = len(one.bag) + len(other.bag)
    return 2 * len(one.bag & other.bag) / total if total else 1.0


def similarity(one: Side, other: Side) -> float:
    """Share of words in common and in the same order, never above `common_words`.

    The two agree where words were replaced, inserted or deleted, but a copy with words exchanged shares them all.
    """
    if one.words == other.words:
        return 1.0
    return 2 * _common_in_order(one.words, other.words) / (len(one.words) + len(other.words))


def _common_in_order(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence, a word of `other` a step.

    The usual table with a row in one number: bit i is 0 where one[: i + 1] has a word more in common than one[:i]
    (Hyyro, "Bit-parallel LCS-length computation revisited", 2004).
    """
    places: dict[str, int] = {}
    for at, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << at
    full = row = (1 << len(one)) - 1
    for word in other:
        matched = row & places.get(word, 0)
        row = (row + matched | row - matched) & full
    return len(one) - row.bit_count()


def are_similar(one: Sequence[Side], other: Sequence[Side], most: float) -> bool:
    """Every side has more than this share of its words in common: of a pair, the side that differs more decides."""
    for left, right in zip(one, other, strict=True):
        # Multisets are compared in a fraction of the time, and tell most texts apart.
        if not (common_words(left, right) > most and similarity(left, right) > most):
            return False
    return True


# The teacher's opinion ------------------------------------------------------------------------------------------------


def judge(label: Label, said: Label, confidence: float, config: QualityConfig) -> str:
    """What becomes of a copy: "kept", "relabelled", or the reason it is dropped for, "flipped" or "unsure".

    Where both policies apply, drop wins over relabel, and that over keep. A copy whose label is the teacher's already
    is kept where it would be relabelled.

    Args:
        label: Its row's: a class, or a list of them.
        said: The teacher's, in the same form.
        confidence: Probability of the latter.
        config: The policies.
    """
    found = {"flipped": said != label, "unsure": confidence < config.confidence}
    policies = {reason: getattr(config, reason) for reason, holds in found.items() if holds}
    for reason, policy in policies.items():
        if policy == "drop":
            return reason
    return "relabelled" if found["flipped"] and "relabel" in policies.values() else "kept"
