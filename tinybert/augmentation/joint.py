"""Words of several characters from predictions for each character alone.

A masked language model says for each masked character what it may be, but not which characters go together. So
their combinations are gone through from the likeliest on, and those kept that a lexicon knows.

Shape suffixes: P characters of a word, K likeliest at each.
"""

from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import islice
from operator import getitem

TRIES = 2000
"""Combinations looked up per word at most: all of two characters, and the likeliest of more."""


def joint_candidates(
    log_probs_PK: Sequence[Sequence[tuple[str, float]]], is_word: Callable[[str], bool], top: int
) -> list[str]:
    """The likeliest combinations that are words, the likeliest first; equally likely ones in order of their text.

    Args:
        log_probs_PK: For each character of the word, likely single characters with their log probabilities.
        is_word: Whether a string is a word of the lexicon.
        top: Words at most. There are fewer where the first `TRIES` combinations have fewer.
    """
    likeliest = islice(_combinations(log_probs_PK), TRIES)
    return list(islice(filter(is_word, likeliest), top))


def _combinations(log_probs_PK: Sequence[Sequence[tuple[str, float]]]) -> Iterator[str]:
    """All combinations in falling order of their summed log probabilities: best-first search with a heap."""
    ranked_PK = [sorted((-score, text) for text, score in likely) for likely in log_probs_PK]
    if not ranked_PK or not all(ranked_PK):
        return
    costs_PK = [[cost for cost, _ in ranked] for ranked in ranked_PK]
    texts_PK = [[text for _, text in ranked] for ranked in ranked_PK]

    def entry(ranks: tuple[int, ...], changed: int) -> tuple[float, str, tuple[int, ...], int]:
        return sum(map(getitem, costs_PK, ranks)), "".join(map(getitem, texts_PK, ranks)), ranks, changed

    heap = [entry((0,) * len(ranked_PK), 0)]
    while heap:
        _, text, ranks, changed = heappop(heap)
        yield text
        # A combination follows from another at that one's last changed place or later, so each is made once.
        for place in range(changed, len(ranks)):
            rank = ranks[place] + 1
            if rank < len(ranked_PK[place]):
                heappush(heap, entry((*ranks[:place], rank, *ranks[place + 1 :]), place))
