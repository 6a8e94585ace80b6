"""Copies of sentences in which words are replaced by their candidates: the drawing part of Algorithm 1."""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinybert.augment_config import AugmentConfig
from tinybert.augmentation.candidates import Proposer
from tinybert.augmentation.fixed import Fixed, changing_sides, fitting
from tinybert.augmentation.words import ENGLISH, Language, Word, eligible_words, match_case
from tinybert.vectors import Vectors

CHUNK = 1024
"""Rows whose candidates are found together."""
PER_SIZE = ((20_000, 30), (200_000, 20))
"""Copies per row up to so many rows, as the reference code's table has them task by task (CoLA, MRPC, STS-B and RTE 30,
SST-2 and QNLI 20)."""
BEYOND = 10
"""Copies per row of larger data sets (MNLI, QQP)."""


Changes = tuple[tuple[int, int], ...]
"""Where in a text words were replaced, and by how many characters each grew, rising."""


class Copy(NamedTuple):
    """An augmented copy: of which row, the how many-th, and its text."""

    row: int
    copy: int
    text: str
    text_pair: str | None
    changes: Changes = ()
    """In its second text."""


def copies_for(rows: int, copies: int | None) -> int:
    """N: as given, else by the number of rows."""
    if copies is not None:
        return copies
    return next((number for most, number in PER_SIZE if rows <= most), BEYOND)


def augment(
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    vectors: Vectors | None,
    config: AugmentConfig,
    language: Language = ENGLISH,
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[Copy]:
    """Copies of each row in order, without those equal to the row or to an earlier copy of it.

    What is drawn depends on the seed, the row's own text and the number of the copy, not on the order of rows, the
    size of batches, or what else is augmented.

    Args:
        texts: The (first) sentences.
        pairs: The second sentences, None for single sentences.
        model: The masked language model; see `WordPredictor` for what becomes of it.
        tokenizer: Its tokenizer.
        vectors: For words of several pieces; without, such words stay.
        config: N, K, p, masking, batch size and seed.
        language: Which words may be replaced.
        on_progress: Called with rows done and rows in all.

    Raises:
        DataError: Texts and pairs differ in number.
        ModelError: The tokenizer has no mask token, or the model takes too few tokens.
    """
    proposer = Proposer(model, tokenizer, vectors, config, language)
    number = copies_for(len(texts), config.copies)
    for start in range(0, len(texts), CHUNK):
        chunk = texts[start : start + CHUNK]
        others = pairs[start : start + CHUNK] if pairs is not None else None
        sides = range(changed_sides(pairs is not None, number, config))
        found = [proposer.propose(chunk, others, side) for side in sides]
        for row, text in enumerate(chunk):
            pair = others[row] if others is not None else None
            for copy in draw(text, pair, [side[row] for side in found], number, config, language):
                yield copy._replace(row=start + row)
        if on_progress:
            on_progress(start + len(chunk), len(texts))


def changed_sides(paired: bool, number: int, config: AugmentConfig) -> int:
    """How many sides of a row need candidates."""
    return 2 if paired and (number > 1 or config.pairs == "both_sides") else 1


def draw(
    text: str,
    pair: str | None,
    candidates: Sequence[Sequence[Sequence[str]]],
    number: int,
    config: AugmentConfig,
    language: Language = ENGLISH,
    fixed: Fixed = None,
) -> Iterator[Copy]:
    """The copies of one row, as row 0.

    Of a pair, even copies change the first sentence and odd ones the second, or all change both (`config.pairs`); a
    side that is fixed whole is never changed.

    Args:
        text: The (first) sentence.
        pair: The second, None for a single sentence.
        candidates: For each side that may change, for each eligible word of it, the words to choose from.
        number: Copies wanted (N).
        config: Probability and seed.
        language: Which words may be replaced.
        fixed: Parts that stay; words outside them are replaced by a single word each.
    """
    sides = [text] if pair is None else [text, pair]
    changing = changing_sides(sides, fixed)
    words = [eligible_words(sides[side], language) for side in changing[: len(candidates)]]
    # In alphabetic order: rounding that swaps two likely words does not change what is drawn.
    ordered = [[sorted(choices) for choices in side] for side in candidates]
    if fixed is not None:
        ordered = [fitting(own, ordered[place], fixed[changing[place]]) for place, own in enumerate(words)]
    seen = {(text, pair)}
    for copy in range(number if changing else 0):
        key = json.dumps([config.seed, text, pair, copy]).encode()
        rng = random.Random(blake2b(key, digest_size=8).digest())
        made, changes = list(sides), Changes()
        for place in range(len(words)) if config.pairs == "both_sides" else [copy % len(changing)]:
            side = changing[place]
            made[side], grown = replace_words(sides[side], words[place], ordered[place], config.probability, rng)
            changes = grown if side == 1 else changes
        found = Copy(0, copy, made[0], made[1] if pair is not None else None, changes)
        assert fixed is None or _counts(made) == _counts(sides), f"words of {sides} were joined or split: {made}"
        if found[2:4] not in seen:
            seen.add(found[2:4])
            yield found


def _counts(sides: Sequence[str]) -> list[int]:
    return [len(side.split()) for side in sides]


def replace_words(
    text: str,
    words: Sequence[Word],
    candidates: Sequence[Sequence[str]],
    probability: float,
    rng: random.Random,
) -> tuple[str, Changes]:
    """The text, where each word that has candidates is replaced by one of them with the given probability."""
    parts, changes, at = [], [], 0
    for word, choices in zip(words, candidates, strict=True):
        chance, pick = rng.random(), rng.random()
        if choices and chance < probability:
            new = match_case(choices[int(pick * len(choices))], word.text)
            parts += [text[at : word.start], new]
            changes.append((word.start, len(new) - len(word.text)))
            at = word.end
    return "".join([*parts, text[at:]]), tuple(changes)
