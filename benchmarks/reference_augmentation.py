"""The reference's augmentation, TinyBERT's data_augmentation.py, re-created from what it does, to compare with.

Each word has a forward pass to itself, in fp32 and with a graph for gradients that nobody asks for; every position
is projected onto the vocabulary, and the whole vocabulary is sorted. A word of several pieces is compared with the
first 100,000 words of GloVe, which are sorted too. Kinder than the code it re-creates in three points: the sentence
is cut into pieces once (there twice a word), attention is torch's fused one, and the stop words are ours, which are
more. As in ours, a word of one piece is never its own candidate.

Shape suffixes: L tokens, V vocabulary, W words with a vector, D its width.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinybert.augmentation.words import ENGLISH
from tinybert.vectors import Vectors

KNOWN, LIMIT = 100_000, 512
FRAGMENTS = (
    *("s", "t", "d", "ll", "m", "o", "re", "ve", "y", "ma", "ain", "aren", "couldn", "didn", "doesn", "don", "hadn"),
    *("hasn", "haven", "isn", "mightn", "mustn", "needn", "shan", "shouldn", "wasn", "weren", "won", "wouldn"),
)
"""What BERT's own cutting leaves of contractions; the reference's stop words hold it too."""
STOP_WORDS = ENGLISH.stop_words.union(FRAGMENTS)


class WordVectors(NamedTuple):
    """Unit-length vectors in float64, as the reference holds them."""

    words: Sequence[str]
    rows: dict[str, int]
    matrix: np.ndarray
    """(W, D)."""


def word_vectors(vectors: Vectors) -> WordVectors:
    """The first words of a file of vectors, which are its most frequent."""
    words = vectors.words[:KNOWN]
    return WordVectors(words, {word: row for row, word in enumerate(words)}, vectors.matrix_WD[:KNOWN].astype(float))


def basic_tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """BERT's words: lower case, without accents, cut at white space and around punctuation."""
    backend = tokenizer.backend_tokenizer
    return [token for token, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text))]


def is_eligible(token: str) -> bool:
    """Letters a to z alone, and no stop word."""
    return token.isascii() and token.isalpha() and token not in STOP_WORDS


def likely_words(
    pieces: Sequence[str], place: int, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, k: int
) -> list[str]:
    """The whole words among the k likeliest pieces at one place of a sentence, which stands beside, unmasked."""
    masked = [*pieces[:place], tokenizer.mask_token, *pieces[place + 1 :]]
    first = [tokenizer.cls_token, *masked, tokenizer.sep_token]
    second = [*pieces, tokenizer.sep_token]
    ids_L = tokenizer.convert_tokens_to_ids([*first, *second])[:LIMIT]
    segments_L = ([0] * len(first) + [1] * len(second))[:LIMIT]
    if place + 1 >= len(ids_L):
        return []
    inputs = torch.tensor([ids_L], device=model.device), torch.tensor([segments_L], device=model.device)
    logits_LV = model(input_ids=inputs[0], token_type_ids=inputs[1]).logits[0]
    best = torch.argsort(logits_LV[place + 1], descending=True)[:k].tolist()
    found = tokenizer.convert_ids_to_tokens(best)
    return [piece for piece in found if not piece.startswith("##") and piece != pieces[place]]


def near_words(word: str, vectors: WordVectors, k: int) -> list[str]:
    """The k words nearest to a word by cosine; none where it has no vector."""
    if word not in vectors.rows:
        return []
    row = vectors.rows[word]
    closeness_W = vectors.matrix @ vectors.matrix[row]
    closeness_W[row] = -np.inf
    return [vectors.words[other] for other in np.argsort(-closeness_W)[:k]]


def candidates(
    tokens: Sequence[str],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    vectors: WordVectors,
    k: int,
) -> dict[int, list[str]]:
    """By the place of each eligible word, what may stand there; the word itself where nothing else was found."""
    cut = [tokenizer.tokenize(token) for token in tokens]
    pieces, begins = [], []
    for word in cut:
        begins.append(len(pieces))
        pieces += word
    found = {}
    for place, token in enumerate(tokens):
        if not is_eligible(token):
            continue
        if len(cut[place]) == 1:
            others = likely_words(pieces, begins[place], model, tokenizer, k)
        else:
            others = near_words(token, vectors, k)
        found[place] = others or [token]
    return found


def copies(text: str, tokens: Sequence[str], found: dict[int, list[str]], count: int, probability: float) -> list[str]:
    """As many sentences as were drawn, without those that were there before."""
    made = [text]
    for _ in range(count):
        changed = list(tokens)
        for place, others in found.items():
            choice = random.choice(others)
            if random.random() < probability:
                changed[place] = choice
        sentence = " ".join(changed)
        if sentence not in made:
            made.append(sentence)
    return made[1:]


def augmented(
    text: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    vectors: WordVectors,
    *,
    count: int,
    k: int,
    probability: float,
) -> list[str]:
    """Copies of a sentence, as the reference makes them."""
    tokens = basic_tokens(text, tokenizer)
    found = candidates(tokens, model, tokenizer, vectors, k)
    return copies(text, tokens, found, count, probability)
