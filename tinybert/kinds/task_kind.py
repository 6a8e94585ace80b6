"""What every kind of task says of itself: rows, head, losses, answers, scores. Stages ask; no stage knows a kind.

Three forms of a label occur. Named: as `example` reads it, with the names of classes. A row's: as it stands in the
prepared data, with numbers of classes (`number`). A target: as the loss wants it, tokens instead of words (`targets`).
Answers have the form of rows' labels, but for question answering.

Shapes: N rows, F features (a row has one, or several where its text is read in windows), T tokens of all features,
P places of a token, B batch, L length, C outputs, M decisions.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tinybert.data_config import DEFAULTS, DataConfig, KindName
from tinybert.metrics import Floats, Metric

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

Label = Any
"""A label of a row, in one of the forms that the module's docstring names."""
Columns = Mapping[str, Sequence[Any]]
"""Columns of prepared rows by name: text, text_pair, label."""
Texts = tuple[str, str | None]
"""Text and second text."""
Spans = Sequence[tuple[int, int]]
"""Beginnings and ends of parts of a text, in characters."""
UNSCORED = -100
"""Target of what no loss is to see, as torch and transformers have it."""


class Example(NamedTuple):
    """One row as it was read. Two with the same texts are the same question."""

    text: str
    pair: str | None
    label: Label
    """Named; hashable."""


@dataclass(frozen=True)
class Encoded:
    """Rows as a model reads them, feature by feature."""

    ids: list[list[int]]
    """Tokens of each feature."""
    firsts: list[int]
    """How many of them belong to the first segment."""
    rows: list[int]
    """The row of each feature, as its place among those encoded."""
    places: list[NDArray[np.int32]] | None = None
    """`_LP` of each feature; see `Features.places`."""


@dataclass(frozen=True)
class Features:
    """Which tokens belong to which row, and what of it they are."""

    lengths: NDArray[np.int32]
    """Tokens of each feature (F)."""
    rows: NDArray[np.int64]
    """Row of each feature (F), rising."""
    places: NDArray[np.int32] | None = None
    """`_TP`. Of words: the number of the word where the token is its first, else -1. Of contexts: where in the context
    the token begins and ends, else -1. None where no kind asks."""

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Where each feature begins among the tokens, and where the last ends (F + 1)."""
        return np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])


class Answers(NamedTuple):
    """What a model says of rows."""

    values: list[Any]
    """N."""
    confidence: NDArray[np.float64]
    """Probability of each, its least certain part where it has several (N)."""


class TaskKind(ABC):
    """One kind of task. Has no state; may be asked from several threads."""

    name: ClassVar[KindName]
    pipeline: ClassVar[str]
    """The pipeline of transformers that answers with such a model."""
    metrics: ClassVar[Mapping[str, Metric]]
    """Scores of answers, the higher the better; the first decides where the form names none."""
    label_type: ClassVar[pa.DataType]
    """Of a row's label."""
    answer_type: ClassVar[pa.DataType]
    """Of an answer."""
    per_token: ClassVar[bool] = False
    """Logits are (B, L, C), kept as (T, C), not (B, C), kept as (N, C)."""
    targets_per_token: ClassVar[bool] = False
    """Targets are (T,), not (F,) or (F, ...)."""

    @property
    def judged(self) -> bool:
        """Augmented copies are held against what the teacher says of them."""
        return DEFAULTS[self.name].judged

    def measured(self, names: Sequence[str]) -> list[str]:
        """Those of the scores that there are with these outputs."""
        return list(self.metrics)

    # Rows -------------------------------------------------------------------------------------------------------------

    @abstractmethod
    def example(self, text: Any, pair: Any, label: Any, config: DataConfig) -> Example:
        """A row as read, out of the values of its columns; `pair` is None where there is no such column.

        Raises:
            DataError: The label cannot be one, e.g. is empty. An empty text is for the caller to refuse.
        """

    @abstractmethod
    def label_names(self, labels: Collection[Label], config: DataConfig) -> list[str]:
        """Names of the outputs in their order, out of all named labels there are.

        Raises:
            DataError: There are too few classes, or some that `config.labels` does not name.
        """

    def stratum(self, label: Label) -> str:
        """Rows are sampled and split so that each stratum of named labels keeps its share; one for all by default."""
        return ""

    def unit(self, example: Example) -> Texts:
        """What examples share that are never parted where rows are split; their texts by default."""
        return example.text, example.pair

    @abstractmethod
    def number(self, label: Label, names: Sequence[str]) -> Label:
        """A named label as it stands in a row."""

    def counts(self, labels: Sequence[Label], names: Sequence[str]) -> dict[str, int]:
        """How often each class occurs among rows' labels; nothing where there are no classes."""
        return {}

    def missing(self, labels: Sequence[Label], names: Sequence[str]) -> list[str]:
        """Classes without which a split of these rows' labels is of no use."""
        return []

    # Model ------------------------------------------------------------------------------------------------------------

    @abstractmethod
    def auto_class(self) -> Any:
        """The class of transformers that loads such a model."""

    def options(self, names: Sequence[str]) -> dict[str, Any]:
        """What a model's config needs to know of its outputs."""
        return {
            "num_labels": len(names),
            "id2label": dict(enumerate(names)),
            "label2id": {name: index for index, name in enumerate(names)},
        }

    def logits(self, output: Any) -> "Tensor":
        """(B, C) or (B, L, C) of what such a model, in torch or ONNX Runtime, gives."""
        logits: Tensor = output.logits
        return logits

    # Tokens -----------------------------------------------------------------------------------------------------------

    def encode(
        self, tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], pairs: Sequence[str] | None, max_length: int
    ) -> Encoded:
        """Texts, or pairs, as tokens, cut at `max_length`: one feature a row by default."""
        encoded = tokenizer(list(texts), pairs and list(pairs), truncation=True, max_length=max_length, verbose=False)
        ids: list[list[int]] = encoded["input_ids"]
        return Encoded(ids, first_segments(tokenizer, encoded), list(range(len(ids))))

    @abstractmethod
    def targets(self, labels: Sequence[Label], features: Features, names: Sequence[str]) -> NDArray[Any]:
        """Rows' labels as the loss wants them, along features or tokens (`targets_per_token`)."""

    # Losses -----------------------------------------------------------------------------------------------------------

    @abstractmethod
    def hard_loss(self, logits: "Tensor", targets: "Tensor") -> "Tensor":
        """Against the data's own labels: a mean over what `items` counts."""

    @abstractmethod
    def soft_loss(
        self, student: "Tensor", teacher: "Tensor", batch: "Mapping[str, Tensor]", temperature: float
    ) -> "Tensor":
        """Against the teacher's logits: a mean over what `items` counts.

        Args:
            student: Logits.
            teacher: Logits of the same shape; anything at padding.
            batch: attention_mask (B, L) and labels, the targets.
            temperature: Softens both.
        """

    def items(self, batch: "Mapping[str, Tensor]") -> int:
        """What the losses are a mean over: rows (features) by default."""
        return len(batch["labels"])

    # Answers ----------------------------------------------------------------------------------------------------------

    @abstractmethod
    def answers(self, logits: NDArray[np.floating[Any]], features: Features, rows: Columns) -> Answers:
        """What the logits, (N, C) or (T, C), say of the rows."""

    @abstractmethod
    def trivial(self, labels: Sequence[Label], names: Sequence[str]) -> list[Any]:
        """The constant answer that is best without looking at the texts, for each of these rows."""

    @abstractmethod
    def wrong(self, labels: Sequence[Label], names: Sequence[str]) -> list[Any]:
        """A wrong answer to each of these rows."""

    def as_labels(self, answers: Sequence[Any]) -> list[Label]:
        """Answers as if they were rows' labels, to hold others against them."""
        return list(answers)

    def right(self, labels: Sequence[Label], answers: Sequence[Any]) -> NDArray[np.bool_] | None:
        """Which answers are right in full (N); None where more or less is all there is."""
        return np.array([label == answer for label, answer in zip(labels, answers, strict=True)], bool)

    def decisions(
        self, logits: NDArray[np.floating[Any]], features: Features, labels: Sequence[Label]
    ) -> tuple[NDArray[np.floating[Any]], NDArray[np.int64]] | None:
        """Logits `_MC` and right classes `_M` of the choices a model makes, to calibrate; None where it makes none."""
        return None

    # Breakdown --------------------------------------------------------------------------------------------------------

    def recalls(self, labels: Sequence[Label], answers: Sequence[Any], names: Sequence[str]) -> dict[str, Floats]:
        """Of each class that rows have: of each row how many of its members were found, and how many it has (N, 2)."""
        return {}

    def per_class(
        self, labels: Sequence[Label], answers: Sequence[Any], names: Sequence[str]
    ) -> dict[str, dict[str, float]]:
        """Precision, recall, F1 and support of each class; nothing where there are no classes."""
        return {}

    def confusion(
        self, labels: Sequence[Label], answers: Sequence[Any], names: Sequence[str]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]] | None:
        """Right and given classes `_M`, and the names of the classes; None where a choice is not one class."""
        return None

    @abstractmethod
    def shown(self, value: Label, names: Sequence[str]) -> str:
        """A row's label, or an answer, for people."""

    # Augmentation -----------------------------------------------------------------------------------------------------

    def fixed(self, text: str, pair: str | None, label: Label) -> tuple[Spans, Spans] | None:
        """Parts of text and pair whose words an augmented copy keeps; None where nlpaug may do with them as it likes.

        Where it is not None, words are only replaced, each by one without white space.
        """
        return None

    def moved(self, label: Label, pair: str | None, changes: Sequence[tuple[int, int]]) -> Label:
        """The label of a copy, in whose pair text grew.

        Args:
            label: Of the row.
            pair: Of the row.
            changes: Where a word of the pair was replaced, and by how many characters it grew, rising.
        """
        return label


def first_segments(tokenizer: "PreTrainedTokenizerBase", encoded: Mapping[str, Any]) -> list[int]:
    """How many tokens of each encoded feature belong to the first segment."""
    if "token_type_ids" not in tokenizer.model_input_names:
        return [len(ids) for ids in encoded["input_ids"]]
    return [len(types) - sum(types) for types in encoded["token_type_ids"]]
