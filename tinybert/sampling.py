"""Which rows are taken when not all are: by a number of their own, so that a data set may grow and the choice stays."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

Purpose = Literal["split", "test", "sample"]
"""Held out of training, of the held-out rows in test, or in a sample of any split."""


def choose(
    rows: Sequence[tuple[str, str | None]],
    labels: Sequence[str],
    count: int,
    *,
    purpose: Purpose,
    seed: int,
    spare: int = 0,
    least: int = 1,
) -> set[int]:
    """Places of the rows taken: per label those with the lowest numbers, as many as its quota.

    A row's number is a hash of seed, purpose and texts, whatever rows there are beside it, in whatever order. So
    each row that is added, or removed, exchanges at most one other, but for the rounding of quotas.

    Args:
        rows: Text and second text of each row; of rows of one label that have the same, the first come first.
        labels: Label of each row.
        count: How many are taken.
        purpose: Choices for different purposes are independent.
        seed: Another seed, another choice.
        spare: Rows of each label that must not be taken.
        least: Rows of each label that must be.
    """
    members: dict[str, list[int]] = {}
    for place, label in enumerate(labels):
        members.setdefault(label, []).append(place)
    quota = quotas(Counter(labels), count, spare, least)
    taken: set[int] = set()
    for label, places in members.items():
        taken |= set(sorted(places, key=lambda place: _number(rows[place], purpose, seed))[: quota[label]])
    return taken


def _number(row: tuple[str, str | None], purpose: Purpose, seed: int) -> bytes:
    return hashlib.blake2b(json.dumps([seed, purpose, *row]).encode(), digest_size=16).digest()


def quotas(sizes: Mapping[str, int], count: int, spare: int = 0, least: int = 1) -> dict[str, int]:
    """How many rows of each label make `count` in all, in proportion by the method of largest remainders.

    Each label gives at least `least` rows, and keeps `spare`; where that is more, or less, than its share, the labels
    nearest to another row give way.

    Args:
        sizes: Rows of each label, at least `spare` and `least` together.
        count: Between `least` rows a label, and all but `spare` of each.
        spare: Rows of each label that must not be taken.
        least: Rows of each label that must be.
    """
    total = sum(sizes.values())
    quota = {label: min(max(count * sizes[label] // total, least), sizes[label] - spare) for label in sorted(sizes)}
    while missing := count - sum(quota.values()):
        step = 1 if missing > 0 else -1
        movable = [label for label in quota if least <= quota[label] + step <= sizes[label] - spare]
        # Whole numbers: share and quota, both times the total. Of equal labels the first by name.
        furthest = max(movable, key=lambda label: step * (count * sizes[label] - quota[label] * total))
        quota[furthest] += step
    return quota
