"""What a served model says about an example: an answer for each kind of task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from tinybert.data_config import KindName
from tinybert.kinds import kind_of
from tinybert.released import probability_column


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What every answer says; one with an `error` says nothing else."""

    truncated: bool = False
    """The example has more tokens than the model reads; the rest was left out."""
    error: str | None = None

    @property
    def given(self) -> list[str]:
        """The classes it was given, those that its kind of task counts (`TaskKind.counts`)."""
        return []

    @property
    def chances(self) -> Mapping[str, float]:
        """The probability of each label, for kinds that say it."""
        return {}

    def values(self, columns: Sequence[str]) -> list[Any]:
        """Of the columns that `Released.columns` names."""
        chances = {probability_column(label): chance for label, chance in self.chances.items()}
        return [
            chances.get(name) if name.startswith(probability_column("")) else getattr(self, name) for name in columns
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassAnswer(Answer):
    """One class."""

    label: str | None = None
    score: float | None = None
    """Probability of the label."""
    probabilities: dict[str, float] | None = None
    """By label."""

    @property
    def given(self) -> list[str]:
        """The label."""
        return [] if self.label is None else [self.label]

    @property
    def chances(self) -> Mapping[str, float]:
        """The probabilities."""
        return self.probabilities or {}


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelsAnswer(Answer):
    """Any number of classes."""

    labels: list[str] | None = None
    """Those whose probability is above one half."""
    probabilities: dict[str, float] | None = None
    """By label; each is a yes or no of its own."""

    @property
    def given(self) -> list[str]:
        """The labels."""
        return self.labels or []

    @property
    def chances(self) -> Mapping[str, float]:
        """The probabilities."""
        return self.probabilities or {}


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberAnswer(Answer):
    """A number."""

    value: float | None = None


class Entity(TypedDict):
    """A part of a text, e.g. a name."""

    label: str
    """Its type."""
    text: str
    start: int
    """Its first character in the text."""
    end: int
    """The character after its last."""
    score: float
    """Probability of the tag that is the least certain of those of its words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntitiesAnswer(Answer):
    """Parts of the text."""

    entities: list[Entity] | None = None
    """In the order of the text."""

    @property
    def given(self) -> list[str]:
        """Their types, each once."""
        return list(dict.fromkeys(entity["label"] for entity in self.entities or []))


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanAnswer(Answer):
    """A part of the context."""

    answer: str | None = None
    """Empty where the context has no answer."""
    start: int | None = None
    """Its first character in the context."""
    end: int | None = None
    """The character after its last."""
    score: float | None = None
    """Probability of the answer, or of none, within the window it was read in."""

    @property
    def given(self) -> list[str]:
        """Whether there is an answer."""
        answerable, unanswerable = kind_of("question_answering").counts([], [])
        return [] if self.answer is None else [answerable if self.answer else unanswerable]


ANSWERS: dict[KindName, type[Answer]] = {
    "classification": ClassAnswer,
    "multi_label": LabelsAnswer,
    "regression": NumberAnswer,
    "token_classification": EntitiesAnswer,
    "question_answering": SpanAnswer,
}
"""By kind of task."""
