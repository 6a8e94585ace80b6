"""Which words may stand in a word's place: the masked language model's, or the nearest word vectors'.

A word that is one piece of the tokenizer gets its candidates from the masked language model, any other from word
vectors; a word of several ideographs is masked as a whole and filled jointly. `each` masks one word a pass and sets
the original beside it, as the reference does; `grouped` masks several far-apart words a pass; `none` masks nothing and
reads what else the model would write where a word stands. Texts longer than the model are seen in windows.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinybert.augment_config import AugmentConfig
from tinybert.augmentation.forward import Pass
from tinybert.augmentation.predictor import Tokens, WordPredictor
from tinybert.augmentation.words import ENGLISH, Language, Word, eligible_words
from tinybert.errors import DataError, ModelError
from tinybert.masked_lm import IDEOGRAPH
from tinybert.vectors import Vectors

MASKED_SHARE = 0.15
"""Of a sentence's tokens, at most this share is masked in one grouped pass, as in BERT's own pretraining."""

Candidates = list[list[list[str]]]
"""Per text, per eligible word in order, the words that may replace it."""
Span = tuple[int, int]


class _Job(NamedTuple):
    row: int
    words: list[int]
    filled: Pass


def propose(
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    side: int,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    vectors: Vectors | None,
    config: AugmentConfig,
    language: Language = ENGLISH,
) -> Candidates:
    """Up to K candidates for each eligible word of one side (0: texts, 1: pairs), the likeliest first.

    The other side of a pair stands by intact. A word without candidates has an empty list.
    """
    return Proposer(model, tokenizer, vectors, config, language).propose(texts, pairs, side)


def passes(words: Sequence[int], tokens: int, masking: str) -> list[list[int]]:
    """Which of the words are asked for together, each in exactly one pass.

    `each`: one by one. `none`: all. `grouped`: word j goes into pass j mod G, with G so large that a pass masks at
    most about 15% of the sentence's tokens and never two of the words in a row.
    """
    if masking == "each":
        return [[word] for word in words]
    if masking == "none":
        return [list(words)]
    together = max(1, int(MASKED_SHARE * tokens))
    groups = max(math.ceil(len(words) / together), min(2, len(words)))
    return [list(words[first::groups]) for first in range(groups)]


class Proposer:
    """Finds candidates; keeps the neighbours of every word with a vector that it was ever asked about."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        vectors: Vectors | None,
        config: AugmentConfig,
        language: Language = ENGLISH,
    ) -> None:
        self.predictor = WordPredictor(model, tokenizer, language.is_word)
        self.vectors, self.config, self.language = vectors, config, language
        self._neighbours: dict[str, list[str]] = {}

    def propose(self, texts: Sequence[str], pairs: Sequence[str] | None, side: int) -> Candidates:
        """As the function `propose`."""
        if pairs is not None and len(pairs) != len(texts):
            raise DataError(f"{len(texts)} texts but {len(pairs)} second texts; give one for each, or None")
        changed, others = (pairs, texts) if pairs is not None and side == 1 else (texts, pairs)
        rows = [eligible_words(text, self.language) for text in changed]
        cut = self.predictor.tokens(changed)
        places = [[self._places(word, tokens) for word in words] for words, tokens in zip(rows, cut, strict=True)]
        found = self._from_vectors(rows, places)
        beside = self.predictor.tokens(others) if others is not None else [None] * len(cut)
        jobs = [
            job
            for row, (tokens, other) in enumerate(zip(cut, beside, strict=True))
            for job in self._jobs(row, tokens, places[row], other, side)
        ]
        # More than K, for the word itself and for other casings of a word are dropped afterwards.
        top = 2 * self.config.candidates + 8
        answers = self.predictor.fill([job.filled for job in jobs], top, self.config.batch_tokens)
        for job, filled in zip(jobs, answers, strict=True):
            for index, likely in zip(job.words, filled, strict=True):
                found[job.row][index] = _others(likely, rows[job.row][index].text)[: self.config.candidates]
        return found

    def _places(self, word: Word, tokens: Tokens) -> list[int]:
        """Positions of a word's tokens where the language model can fill it, else none."""
        first = bisect_right(tokens.spans, word.start, key=lambda span: span[1])
        last = bisect_left(tokens.spans, word.end, key=lambda span: span[0])
        covered = tokens.spans[first:last]
        if not covered or (covered[0][0], covered[-1][1]) != (word.start, word.end):
            return []
        if self.predictor.tokenizer.unk_token_id in tokens.ids[first:last]:
            return []
        each = len(covered) == len(word.text) and all(map(IDEOGRAPH.match, word.text))
        return list(range(first, last)) if len(covered) == 1 or each else []

    def _from_vectors(self, rows: Sequence[Sequence[Word]], places: Sequence[Sequence[list[int]]]) -> Candidates:
        """Neighbours of the words that the language model cannot fill."""
        asked = [
            [None if place else word.text.lower() for word, place in zip(words, row, strict=True)]
            for words, row in zip(rows, places, strict=True)
        ]
        if self.vectors is not None:
            known = {word for row in asked for word in row if word} & self.vectors.rows.keys()
            missing = sorted(known - self._neighbours.keys())
            self._neighbours |= self.vectors.neighbours(missing, self.config.candidates)
        return [[self._neighbours.get(word, []) if word else [] for word in row] for row in asked]

    def _jobs(
        self, row: int, tokens: Tokens, places: Sequence[list[int]], other: Tokens | None, side: int
    ) -> Iterator[_Job]:
        """Every pass that the words of a text need."""
        twice = other is None and self.config.masking == "each"
        template = self.predictor.templates[int(twice or other is not None)]
        room = self.predictor.limit - len(template)
        if room < 8:
            raise ModelError(f"the model takes rows of {self.predictor.limit} tokens; augmentation needs at least 16")
        size = len(tokens.ids)
        beside = other.ids[: max(room - size, room // 2)] if other is not None else []
        room = room // 2 if twice else room - len(beside)
        chosen = [index for index, place in enumerate(places) if place]
        for (start, end), members in _assign(_windows(size, room), places, chosen):
            window = tokens.ids[start:end]
            for group in passes(members, end - start, self.config.masking):
                at = [[position - start for position in places[index]] for index in group]
                masked = self._masked(window, at)
                texts = [masked] if other is None else [masked, beside] if side == 0 else [beside, masked]
                if twice:
                    texts = [masked, window]
                changed = side if other is not None else 0
                yield _Job(row, group, template.fill(texts, changed, at))

    def _masked(self, ids: list[int], places: Iterable[Iterable[int]]) -> list[int]:
        if self.config.masking == "none":
            return ids
        masked = list(ids)
        for place in places:
            for position in place:
                masked[position] = self.predictor.mask
        return masked


def _windows(size: int, room: int) -> list[Span]:
    """Spans of at most `room` tokens that cover all, neighbours overlapping by half."""
    if size <= room:
        return [(0, size)]
    step = room // 2
    return [(start, min(start + room, size)) for start in range(0, size - room + step, step)]


def _assign(
    windows: Sequence[Span], places: Sequence[list[int]], chosen: Iterable[int]
) -> list[tuple[Span, list[int]]]:
    """The chosen words of each window: every word goes where it stands farthest from an edge."""
    if len(windows) == 1:
        return [(windows[0], list(chosen))] if chosen else []
    members: dict[Span, list[int]] = {window: [] for window in windows}
    for index in chosen:
        room = {window: min(places[index][0] - window[0], window[1] - 1 - places[index][-1]) for window in windows}
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
