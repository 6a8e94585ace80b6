"""Long contexts read in windows that overlap: how they are cut, where answers stand in them, which answer is likeliest.

A window is a feature: the question, then a part of the context. What `Features.places` says of tokens is used.

Shapes: N rows, F features, T tokens of all features, L of one, K lengths of an answer.
"""

from collections.abc import Sequence
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from tinybert.errors import ModelError
from tinybert.kinds.task_kind import Encoded, Features, first_segments

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

LONGEST = 30
"""Tokens of an answer at most, as in BERT's run_squad.py."""
CHUNK = 500
"""Rows looked at at a time: offsets of tokens take memory."""


def encode_windows(
    tokenizer: "PreTrainedTokenizerBase", questions: Sequence[str], contexts: Sequence[str], max_length: int
) -> Encoded:
    """Questions and contexts as tokens; windows overlap by a third of `max_length`, questions get a third at most.

    Raises:
        ModelError: The tokenizer does not say which characters a token stands for.
    """
    if not tokenizer.is_fast:
        kind = type(tokenizer).__name__
        raise ModelError(f"{kind} does not say where in a context its tokens stand; take a model with a tokenizer.json")
    ids: list[list[int]] = []
    firsts: list[int] = []
    rows: list[int] = []
    places: list[NDArray[np.int32]] = []
    for start in range(0, len(questions), CHUNK):
        chunk = slice(start, start + CHUNK)
        encoded = _cut(tokenizer, list(questions[chunk]), list(contexts[chunk]), max_length)
        ids += encoded["input_ids"]
        firsts += first_segments(tokenizer, encoded)
        rows += [start + row for row in encoded["overflow_to_sample_mapping"]]
        places += _context_places(encoded)
    return Encoded(ids, firsts, rows, places)


def _cut(
    tokenizer: "PreTrainedTokenizerBase", questions: list[str], contexts: list[str], max_length: int
) -> "BatchEncoding":
    overlap = max_length // 3
    # A window holds more of the context than it shares with the next one, else there were no end of windows.
    room = max_length - overlap - tokenizer.num_special_tokens_to_add(pair=True) - 1
    return tokenizer(
        _shortened(tokenizer, questions, min(overlap, room)),
        contexts,
        truncation="only_second",
        max_length=max_length,
        stride=overlap,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )


def _shortened(tokenizer: "PreTrainedTokenizerBase", questions: list[str], limit: int) -> list[str]:
    """The questions up to the end of the token that is the last allowed."""
    encoded = tokenizer(questions, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    # A character that several tokens stand for goes with all of them.
    ends = (
        min(places[limit - 1][1], places[limit][0]) if len(places) > limit else None
        for places in encoded["offset_mapping"]
    )
    return [question[:end] for question, end in zip(questions, ends, strict=True)]


def _context_places(encoded: "BatchEncoding") -> list[NDArray[np.int32]]:
    """Beginnings and ends in the context (L, 2) of each feature's tokens, -1 of those that stand elsewhere."""
    found = []
    for feature, offsets in zip(encoded.encodings or [], encoded["offset_mapping"], strict=True):
        places_L2 = np.fromiter(chain.from_iterable(offsets), np.int32, 2 * len(offsets)).reshape(-1, 2)
        sequences = feature.sequence_ids
        first = sequences.index(1) if 1 in sequences else len(sequences)
        places_L2[:first] = places_L2[first + sequences.count(1) :] = -1
        found.append(places_L2)
    return found


def held_spans(spans_N2: NDArray[np.int64], features: Features) -> NDArray[np.int64]:
    """First and last token (F, 2) of a part of each row's context; 0 and 0 where a window does not hold it whole.

    Args:
        spans_N2: Where the parts begin and end, in characters; -1 where there is none.
        features: Of these rows.
    """
    bounds = np.searchsorted(features.rows, [*range(0, len(spans_N2), CHUNK), len(spans_N2)])
    found = (_held(spans_N2, features, slice(start, end)) for start, end in pairwise(bounds.tolist()))
    return np.concatenate([np.zeros((0, 2), np.int64), *found])


def _held(spans_N2: NDArray[np.int64], features: Features, chunk: slice) -> NDArray[np.int64]:
    """Of a chunk of features, which has all those of its rows. Here F and T are of the chunk."""
    assert features.places is not None
    lengths_F, rows_F, starts_F = features.lengths[chunk], features.rows[chunk], features.starts[chunk]
    begins_T, ends_T = features.places[starts_F[0] : starts_F[-1] + lengths_F[-1]].T
    starts_F = starts_F - starts_F[0]
    from_T, to_T = np.repeat(spans_N2[rows_F], lengths_F, axis=0).T
    touched_T = (begins_T >= 0) & (ends_T > from_T) & (begins_T < to_T)

    def least(values_T: NDArray[Any]) -> NDArray[np.int64]:
        return np.minimum.reduceat(np.where(touched_T, values_T, np.iinfo(np.int32).max), starts_F)

    places_T = np.arange(len(touched_T)) - np.repeat(starts_F, lengths_F)
    first_F, last_F, begin_F, end_F = least(places_T), -least(-places_T), least(begins_T), -least(-ends_T)
    firsts, windows_N = _rows(rows_F)
    whole_F = end_F >= 0
    for reached_F in (begin_F, -end_F):
        whole_F = whole_F & (reached_F == np.repeat(np.minimum.reduceat(reached_F, firsts), windows_N))
    return np.where(whole_F[:, None], np.stack([first_F, last_F], axis=1), 0)


def _rows(rows_F: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first feature of each row, and how many it has."""
    firsts = np.flatnonzero(np.diff(rows_F, prepend=-1))
    return firsts, np.diff(firsts, append=len(rows_F))


class Windows(NamedTuple):
    """What logits say of each window (F)."""

    scores: NDArray[np.float64]
    """Sum of the two logits of the likeliest span; -inf in a window without context."""
    spans: NDArray[np.int64]
    """Where in the context that span begins and ends (F, 2)."""
    nulls: NDArray[np.float64]
    """Sum of the two logits of the first token, [CLS], which stands for no answer."""
    totals: NDArray[np.float64]
    """Logarithm of the sum over all pairs of tokens: less it, a sum of logits is the logarithm of a probability."""


def read_windows(logits_T2: NDArray[np.floating[Any]], features: Features) -> Windows:
    """The likeliest span of at most `LONGEST` tokens in each window, and what it is weighed against."""
    assert features.places is not None
    found_F5 = np.zeros((len(features.lengths), 5))
    for feature, (start, end) in enumerate(pairwise(features.starts.tolist())):
        logits_L2 = np.asarray(logits_T2[start:end], np.float64)
        score, begin, finish = _best_span(logits_L2, features.places[start:end])
        total = np.logaddexp.reduce(logits_L2, axis=0).sum()
        found_F5[feature] = score, begin, finish, logits_L2[0].sum(), total
    return Windows(found_F5[:, 0], found_F5[:, 1:3].astype(np.int64), found_F5[:, 3], found_F5[:, 4])


def _best_span(logits_L2: NDArray[np.float64], places_L2: NDArray[np.int32]) -> tuple[float, int, int]:
    """The highest sum of logits, and the characters between which that span stands."""
    first_L, last_L = np.where(places_L2[:, 0] >= 0, logits_L2.T, -np.inf)
    beyond = np.full(LONGEST - 1, -np.inf)
    scores_LK = first_L[:, None] + sliding_window_view(np.concatenate([last_L, beyond]), LONGEST)
    first, more = divmod(int(scores_LK.argmax()), LONGEST)
    return float(scores_LK[first, more]), int(places_L2[first, 0]), int(places_L2[first + more, 1])


def highest(scores_F: NDArray[np.float64], features: Features) -> NDArray[np.int64]:
    """The feature of each row (N) that scores the highest."""
    order_F = np.lexsort((-scores_F, features.rows))
    return order_F[_rows(features.rows)[0]]
