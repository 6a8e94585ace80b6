"""What a copy must not touch where a label belongs to parts of the text: named entities, answers, a whole question."""

from collections.abc import Sequence

from tinybert.augmentation.words import Word
from tinybert.kinds.task_kind import Columns, Spans, TaskKind
from tinybert.masked_lm import IDEOGRAPH

Fixed = tuple[Spans, Spans] | None
"""Parts of text and second text that stay (`TaskKind.fixed`). None: labels do not depend on single words."""


def changing_sides(sides: Sequence[str], fixed: Fixed) -> list[int]:
    """Which of the texts of a row have a part that may change."""
    if fixed is None:
        return list(range(len(sides)))
    return [number for number, text in enumerate(sides) if not _covers(fixed[number], text)]


def _covers(spans: Spans, text: str) -> bool:
    at = 0
    for start, end in sorted(spans):
        if start > at:
            break
        at = max(at, end)
    return at >= len(text)


def asked(rows: Columns, fixed: Sequence[Fixed]) -> Columns:
    """What candidates of words are looked for in: of a pair of which one text is fixed whole, the other alone.

    So the questions about one context ask for its words once.

    Args:
        rows: Columns text and text_pair.
        fixed: What stays of each row.
    """
    found = map(_asked, rows["text"], rows["text_pair"], fixed)
    return dict(zip(("text", "text_pair"), zip(*found, strict=True), strict=True))


def _asked(text: str, pair: str | None, fixed: Fixed) -> tuple[str, str | None]:
    if pair is not None and fixed is not None:
        for spans, own, other in zip(fixed, (text, pair), (pair, text), strict=True):
            if _covers(spans, own):
                return other, None
    return text, pair


def fixed_parts(rows: Columns, kind: TaskKind) -> list[Fixed]:
    """What stays of each row."""
    return list(map(kind.fixed, rows["text"], rows["text_pair"], rows["label"]))


def fitting(words: Sequence[Word], candidates: Sequence[Sequence[str]], spans: Spans) -> list[list[str]]:
    """Of each word the candidates that may stand there: none inside the parts that stay, none with white space.

    A word of ideographs gets as many ideographs, for the words of some data are single ones.
    """
    return [
        [] if any(start < word.end and word.start < end for start, end in spans) else _fitting(word.text, choices)
        for word, choices in zip(words, candidates, strict=True)
    ]


def _fitting(word: str, candidates: Sequence[str]) -> list[str]:
    whole = [candidate for candidate in candidates if candidate.split() == [candidate]]
    if not IDEOGRAPH.match(word):
        return whole
    return [candidate for candidate in whole if len(candidate) == len(word) and all(map(IDEOGRAPH.match, candidate))]
