"""How texts become rows as a kind of task has them, and a model's logits answers with names and places.

Shapes: N rows, T tokens of all features, C outputs.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinybert.answers import Answer, ClassAnswer, EntitiesAnswer, Entity, LabelsAnswer, NumberAnswer, SpanAnswer
from tinybert.augmentation.letters import IDEOGRAPHS, MARKS
from tinybert.data_config import KindName
from tinybert.kinds import kind_of
from tinybert.kinds.reading import plain_text
from tinybert.kinds.tags import entities
from tinybert.kinds.task_kind import Columns, Features
from tinybert.kinds.windows import highest, read_windows
from tinybert.released import Released

_LETTER = rf"[^\W{IDEOGRAPHS}][{MARKS}]*+"
"""A letter, digit or underscore of any script but ideographs."""
_WORD = re.compile(rf"{_LETTER}(?:[-'\u2019.,]?{_LETTER})*+|\S[{MARKS}]*+")


@dataclass(frozen=True)
class Asked:
    """Examples, as they were asked and as the prepared data would have them."""

    texts: Sequence[str]
    rows: Columns
    """text and text_pair."""


def asked(kind: KindName, texts: Sequence[str], pairs: Sequence[str] | None) -> Asked:
    """Texts become what the stage `prepare` makes of them.

    That is single spaces, of words a single space between two, and a context as it is. Halves of characters, which
    UTF-8 cannot express, become question marks.
    """
    texts, pairs = list(map(_encodable, texts)), pairs and list(map(_encodable, pairs))
    if kind == "token_classification":
        first = [" ".join(text[start:end] for start, end in word_spans(text)) for text in texts]
    else:
        first = [plain_text(text) for text in texts]
    if pairs is not None and kind != "question_answering":
        pairs = [plain_text(pair) for pair in pairs]
    return Asked(texts, {"text": first, "text_pair": [None] * len(first) if pairs is None else pairs})


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where the words of a text begin and end.

    A run of letters and digits is one, with hyphens, apostrophes, dots and commas inside it; each ideograph is one, and
    each sign.
    """
    return [match.span() for match in _WORD.finditer(text)]


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


@dataclass(frozen=True)
class _Said:
    """What a model says of examples."""

    labels: list[str]
    logits: NDArray[np.floating[Any]]
    """(N, C) or (T, C)."""
    features: Features
    asked: Asked
    values: list[Any]
    """Answers as the kind of task has them (N)."""
    confidence: NDArray[np.float64]
    """Probability of each (N)."""


def answers(
    released: Released,
    logits: NDArray[np.floating[Any]],
    features: Features,
    asked: Asked,
    truncated: Sequence[bool],
) -> list[Answer]:
    """What a model says, example by example.

    Args:
        released: The model.
        logits: (N, C), or (T, C) where each token has its own, divided by the temperature.
        features: Which tokens belong to which example.
        asked: The examples.
        truncated: Whether tokens of an example were left out.
    """
    found = kind_of(released.kind, released.always_answers).answers(logits, features, asked.rows)
    said = _Said(released.labels, logits, features, asked, found.values, found.confidence)
    made = _MAKERS[released.kind](said)
    return [replace(answer, truncated=cut) for answer, cut in zip(made, truncated, strict=True)]


def _class_answers(said: _Said) -> list[ClassAnswer]:
    names = said.labels
    return [
        ClassAnswer(label=names[best], score=chances[best], probabilities=dict(zip(names, chances, strict=True)))
        for chances, best in zip(softmax(said.logits).tolist(), said.values, strict=True)
    ]


def _labels_answers(said: _Said) -> list[LabelsAnswer]:
    names = said.labels
    chances_NC = 0.5 + 0.5 * np.tanh(said.logits.astype(np.float64) / 2)  # the sigmoid, without its overflow
    return [
        LabelsAnswer(labels=[names[number] for number in numbers], probabilities=dict(zip(names, chances, strict=True)))
        for chances, numbers in zip(chances_NC.tolist(), said.values, strict=True)
    ]


def _number_answers(said: _Said) -> list[NumberAnswer]:
    return [NumberAnswer(value=value) for value in said.values]


def _entities_answers(said: _Said) -> list[EntitiesAnswer]:
    rows = zip(said.asked.texts, said.values, _word_chances(said), strict=True)
    return [EntitiesAnswer(entities=_entities(text, tags, chances, said.labels)) for text, tags, chances in rows]


def _word_chances(said: _Said) -> list[dict[int, float]]:
    """Of each row the probability of each word's tag, by the number of the word; of words that were read."""
    assert said.features.places is not None
    words_T, rows_T = said.features.places[:, 0], np.repeat(said.features.rows, said.features.lengths)
    read = np.flatnonzero(words_T >= 0)
    chances = softmax(said.logits[read]).max(axis=1, initial=0).tolist()
    found: list[dict[int, float]] = [{} for _ in said.values]
    for row, word, chance in zip(rows_T[read].tolist(), words_T[read].tolist(), chances, strict=True):
        found[row][word] = chance
    return found


def _entities(text: str, tags: list[int], chances: Mapping[int, float], names: Sequence[str]) -> list[Entity]:
    """Those with a word that was read."""
    spans, found = word_spans(text), []
    for label, first, last in entities(tags, names):
        certain = [chances[word] for word in range(first, last + 1) if word in chances]
        if certain:
            start, end = spans[first][0], spans[last][1]
            found.append(Entity(label=label, text=text[start:end], start=start, end=end, score=min(certain)))
    return found


def _span_answers(said: _Said) -> list[SpanAnswer]:
    windows = read_windows(said.logits, said.features)
    begins = windows.spans[highest(windows.scores, said.features), 0].tolist()
    contexts, scores = said.asked.rows["text_pair"], said.confidence.tolist()
    found = []
    for answer, context, begin, score in zip(said.values, contexts, begins, scores, strict=True):
        # An answer has no white space around it; the part of the context that its tokens stand for may.
        start = context.index(answer, begin) if answer else None
        end = None if start is None else start + len(answer)
        found.append(SpanAnswer(answer=answer, start=start, end=end, score=score))
    return found


_MAKERS: dict[KindName, Callable[[_Said], Sequence[Answer]]] = {
    "classification": _class_answers,
    "multi_label": _labels_answers,
    "regression": _number_answers,
    "token_classification": _entities_answers,
    "question_answering": _span_answers,
}


def softmax(logits_NC: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Probabilities (N, C)."""
    powers_NC = np.exp(logits_NC.astype(np.float64) - logits_NC.max(axis=1, keepdims=True))
    chances_NC: NDArray[np.float64] = powers_NC / powers_NC.sum(axis=1, keepdims=True)
    return chances_NC
