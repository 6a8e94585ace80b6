"""Algorithm 1 of arXiv:1909.10351: copies of sentences in which words are replaced by likely ones.

A word that is one piece of the tokenizer gets its candidates from the masked language model, any other from
word vectors. Candidates are found once per sentence and used for all its copies. The reference masks one word
per forward pass, one pass at a time; here passes are batched, and `grouped` masking hides several words in one.
"""

import hashlib
import json
import math
import random
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinybert.config import AugmentConfig
from tinybert.errors import DataError
from tinybert.masked_lm import IDEOGRAPHS, LETTERS, MaskedText, WordPredictor
from tinybert.vectors import Vectors

MASKED_SHARE = 0.15
"""Of a sentence's tokens, at most this share is masked in one grouped pass, as in BERT's own pretraining."""
CHUNK = 512
"""Rows whose passes are sorted by length together."""

_WORDS = re.compile(
    # Reserved tokens and tags are matched first, so that no word is found inside them.
    rf"\[[A-Z]+\d*\]|</?[a-z]+ ?/?>|<\|\w+\|>"
    rf"|(?P<word>[{IDEOGRAPHS}]|(?<!\w){LETTERS}(?:['\u2019]{LETTERS})*+(?!\w))"
)


class Word(NamedTuple):
    """A word's span in the original string."""

    start: int
    end: int
    text: str


class Copy(NamedTuple):
    """An augmented copy: of which row, the how many-th, and its text."""

    row: int
    copy: int
    text: str
    text_pair: str | None


Candidates = list[list[list[str]]]
"""Per text, per eligible word in order, the words that may replace it."""


class _Pass(NamedTuple):
    row: int
    words: list[int]
    masked: MaskedText


def eligible_words(text: str, stop_words: Collection[str] = ENGLISH_STOP_WORDS) -> list[Word]:
    """The words that may be replaced: letters of any script, inner apostrophes, no stop words.

    Numbers, punctuation, words with digits, reserved tokens ([MASK], <mask>) and tags (<br />) are none. An
    ideograph is a word.
    """
    words = [Word(*match.span(), match.group()) for match in _WORDS.finditer(text) if match["word"]]
    return [word for word in words if word.text.lower() not in stop_words]


def propose(
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    side: int,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    vectors: Vectors | None,
    config: AugmentConfig,
    stop_words: Collection[str] = ENGLISH_STOP_WORDS,
) -> Candidates:
    """Up to K candidates for each eligible word of one side (0: texts, 1: pairs), the likeliest first.

    The other side of a pair stands by unmasked. A word without candidates has an empty list.
    """
    _check_pairs(texts, pairs)
    proposer = _Proposer(model, tokenizer, vectors, config, stop_words, [*texts, *(pairs or [])])
    return proposer.propose(texts, pairs, side)


def augment(
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    vectors: Vectors | None,
    config: AugmentConfig,
    stop_words: Collection[str] = ENGLISH_STOP_WORDS,
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[Copy]:
    """Copies of each row in order, without those equal to the row or to an earlier copy of it.

    Even copies change the first sentence of a pair, odd ones the second. What is drawn depends on the seed, the
    row's own text and the number of the copy, not on the order of rows or the size of batches (bf16 rounding
    may exchange nearly equal words at the K-th place).

    Args:
        texts: The (first) sentences.
        pairs: The second sentences, None for single sentences.
        model: The masked language model; put in eval mode.
        tokenizer: Its tokenizer.
        vectors: For words of several pieces; without, such words stay.
        config: N, K, p, masking, batch size and seed.
        stop_words: Lower-case words never replaced.
        on_progress: Called with rows done and rows in all.

    Raises:
        DataError: Texts and pairs differ in number.
        ModelError: The tokenizer has no mask token, or the model takes too few tokens.
    """
    _check_pairs(texts, pairs)
    proposer = _Proposer(model, tokenizer, vectors, config, stop_words, [*texts, *(pairs or [])])
    sides = 2 if pairs is not None and config.copies > 1 else 1
    for start in range(0, len(texts), CHUNK):
        chunk = texts[start : start + CHUNK]
        others = pairs[start : start + CHUNK] if pairs is not None else None
        candidates = [proposer.propose(chunk, others, side) for side in range(sides)]
        for row, text in enumerate(chunk):
            pair = others[row] if others is not None else None
            for copy in _copies(text, pair, [found[row] for found in candidates], config, stop_words):
                yield copy._replace(row=start + row)
        if on_progress:
            on_progress(start + len(chunk), len(texts))


def passes(words: Sequence[int], tokens: int, masking: str) -> list[list[int]]:
    """Which of the words are masked together, each in exactly one pass.

    `each`: one by one. `grouped`: word j goes into pass j mod G, with G so large that a pass masks at most
    about 15% of the sentence's tokens and never two of the words in a row.
    """
    if masking == "each":
        return [[word] for word in words]
    together = max(1, int(MASKED_SHARE * tokens))
    groups = max(math.ceil(len(words) / together), min(2, len(words)))
    return [list(words[first::groups]) for first in range(groups)]


class _Proposer:
    """Finds candidates; holds what is worked out once for all texts: word pieces, neighbours."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        vectors: Vectors | None,
        config: AugmentConfig,
        stop_words: Collection[str],
        texts: Iterable[str],
    ) -> None:
        self.predictor = WordPredictor(model, tokenizer)
        self.config = config
        self.stop_words = stop_words
        words = sorted({word.text for text in texts for word in eligible_words(text, stop_words)})
        self.one_piece = self.predictor.one_piece(words)
        others = sorted({word.lower() for word in words if word not in self.one_piece})
        self.neighbours = vectors.neighbours(others, config.candidates) if vectors else {}

    def propose(self, texts: Sequence[str], pairs: Sequence[str] | None, side: int) -> Candidates:
        """Candidates for some of the texts that were given at construction."""
        changed = pairs if pairs is not None and side == 1 else texts
        words = [eligible_words(text, self.stop_words) for text in changed]
        found = [[self._neighbours_of(word) for word in row] for row in words]
        jobs = list(self._jobs(texts, pairs, side, words))
        # More than K, for the word itself and for other casings of a word are dropped afterwards.
        top = 2 * self.config.candidates + 8
        filled = self.predictor.fill([job.masked for job in jobs], top, self.config.batch_tokens)
        for job, answers in zip(jobs, filled, strict=True):
            for index, answer in zip(job.words, answers, strict=True):
                others = _others(answer, words[job.row][index].text)
                found[job.row][index] = others[: self.config.candidates]
        return found

    def _neighbours_of(self, word: Word) -> list[str]:
        return [] if word.text in self.one_piece else self.neighbours.get(word.text.lower(), [])

    def _jobs(
        self, texts: Sequence[str], pairs: Sequence[str] | None, side: int, words: Sequence[Sequence[Word]]
    ) -> Iterator[_Pass]:
        """Every forward pass that the words of one piece need."""
        changed, others = (texts, pairs) if pairs is None or side == 0 else (pairs, texts)
        sizes = [len(ids) for ids in self.predictor.pieces(changed)]
        other_sizes = [len(ids) for ids in self.predictor.pieces(others or [])]
        for row, (text, size, row_words) in enumerate(zip(changed, sizes, words, strict=True)):
            beside = None if others is None else (others[row], other_sizes[row])
            windows, other = self.predictor.views(text, size, beside)
            chosen = [index for index, word in enumerate(row_words) if word.text in self.one_piece]
            for window, members in _assign(windows, row_words, chosen):
                tokens = size * (window[1] - window[0]) // len(text)
                for group in passes(members, tokens, self.config.masking):
                    hidden = [row_words[index] for index in group]
                    yield _Pass(row, group, self._masked(text, hidden, window, other, side))

    def _masked(
        self, text: str, words: Sequence[Word], window: tuple[int, int], other: str | None, side: int
    ) -> MaskedText:
        """A window of the text with mask tokens in place of words, beside the other side."""
        mask, (at, end) = self.predictor.mask, window
        parts, ours = [], []
        for word in words:
            parts += [text[at : word.start], mask]
            ours += [False] * parts[-2].count(mask) + [True]
            at = word.end
        parts.append(text[at:end])
        ours += [False] * parts[-1].count(mask)
        theirs = [False] * (other or "").count(mask)
        if other is None or side == 0:
            return MaskedText("".join(parts), other, (*ours, *theirs))
        return MaskedText(other, "".join(parts), (*theirs, *ours))


def _check_pairs(texts: Sequence[str], pairs: Sequence[str] | None) -> None:
    if pairs is not None and len(pairs) != len(texts):
        raise DataError(f"{len(texts)} texts but {len(pairs)} second texts; give one for each, or None")


def _assign(
    windows: Sequence[tuple[int, int]], words: Sequence[Word], chosen: Iterable[int]
) -> list[tuple[tuple[int, int], list[int]]]:
    """The chosen words of each window: every word goes where it stands farthest from an edge."""
    members: dict[tuple[int, int], list[int]] = {window: [] for window in windows}
    for index in chosen:
        word = words[index]
        room = {window: min(word.start - window[0], window[1] - word.end) for window in windows}
        best = max(windows, key=room.__getitem__)
        if room[best] >= 0:
            members[best].append(index)
    return [(window, inside) for window, inside in members.items() if inside]


def _others(candidates: Iterable[str], word: str) -> list[str]:
    """The candidates without the word itself, each once whatever its casing, in order."""
    kept = {word.lower(): word}
    for candidate in candidates:
        kept.setdefault(candidate.lower(), candidate)
    return list(kept.values())[1:]


def _copies(
    text: str,
    pair: str | None,
    candidates: Sequence[list[list[str]]],
    config: AugmentConfig,
    stop_words: Collection[str],
) -> Iterator[Copy]:
    """The copies of one row, as row 0."""
    sides = [text] if pair is None else [text, pair]
    words = [eligible_words(side, stop_words) for side in sides]
    # In alphabetic order, so that rounding which swaps two likely words does not change what is drawn.
    ordered = [[sorted(choices) for choices in side] for side in candidates]
    seen = {(text, pair)}
    for number in range(config.copies):
        side = number % len(sides)
        key = json.dumps([config.seed, text, pair, number]).encode()
        rng = random.Random(hashlib.blake2b(key, digest_size=8).digest())
        made = replace_words(sides[side], words[side], ordered[side], config.probability, rng)
        copy = Copy(0, number, made, pair) if side == 0 else Copy(0, number, text, made)
        if copy[2:] not in seen:
            seen.add(copy[2:])
            yield copy


def replace_words(
    text: str,
    words: Sequence[Word],
    candidates: Sequence[Sequence[str]],
    probability: float,
    rng: random.Random,
) -> str:
    """The text, where each word that has candidates is replaced by one of them with the given probability."""
    parts, at = [], 0
    for word, choices in zip(words, candidates, strict=True):
        chance, pick = rng.random(), rng.random()
        if choices and chance < probability:
            parts += [text[at : word.start], match_case(choices[int(pick * len(choices))], word.text)]
            at = word.end
    return "".join([*parts, text[at:]])


def match_case(word: str, like: str) -> str:
    """The word in the casing of another: UPPER, Capitalised, or as it is."""
    if len(like) > 1 and like.isupper():
        return word.upper()
    return word[:1].upper() + word[1:] if like[:1].isupper() else word
