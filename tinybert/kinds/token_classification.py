"""A tag a word: names of people and places in BIO2 or BIOES, or parts of speech."""

import operator
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tinybert.data_config import DataConfig
from tinybert.errors import DataError
from tinybert.kinds import words
from tinybert.kinds.reading import class_names, label_name
from tinybert.kinds.tags import OUTSIDE, bio2, entities, entity_type, entity_types
from tinybert.kinds.task_kind import UNSCORED, Answers, Columns, Encoded, Example, Features, Label, Spans, TaskKind
from tinybert.metrics import Floats, Metric, class_scores, f1_micro, found_members, share

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

# Scores ---------------------------------------------------------------------------------------------------------------


def _hits(labels: Sequence[Label], answers: Sequence[Label], names: Sequence[str]) -> Floats:
    """How many words are right, and how many there are."""
    pairs = zip(labels, answers, strict=True)
    counts = [(sum(map(operator.eq, label, answer)), len(label)) for label, answer in pairs]
    return np.array(counts, np.float64).reshape(-1, 2)


def _confusions(labels: Sequence[Label], answers: Sequence[Label], names: Sequence[str]) -> Floats:
    """Entities of each type: found, invented, missed. One is found where type, first and last word are right."""
    types = entity_types(names)
    counts_N3C = np.zeros((len(labels), 3, len(types)))
    for counts_3C, label, answer in zip(counts_N3C, labels, answers, strict=True):
        there, said = (set(entities(numbers, names)) for numbers in (label, answer))
        for counts_C, found in zip(counts_3C, (there & said, said - there, there - said), strict=True):
            for kind, _, _ in found:
                counts_C[types.index(kind)] += 1
    return counts_N3C.reshape(len(labels), 3 * len(types))


def _entities(labels: Sequence[Label], answers: Sequence[Label], names: Sequence[str]) -> Floats:
    """Entities of all types together: found, invented, missed."""
    counts_N3C = _confusions(labels, answers, names).reshape(len(labels), 3, len(entity_types(names)))
    counts_N3: Floats = counts_N3C.sum(axis=2)
    return counts_N3


# Kind -----------------------------------------------------------------------------------------------------------------


class TokenClassification(TaskKind):
    """Words and their tags. The text of a row is its words with a single space between two.

    A row's label, and an answer, is a list of class numbers, one a word. A model says a word's tag at the first of its
    pieces. Words beyond the cut, and those without a piece, e.g. a lone joiner, count as "O".
    """

    name = "token_classification"
    pipeline = "token-classification"
    metrics = {"entity_f1": Metric(_entities, f1_micro), "accuracy": Metric(_hits, share)}
    label_type = answer_type = pa.list_(pa.int64())
    per_token = targets_per_token = True

    # Rows -------------------------------------------------------------------------------------------------------------

    def example(self, text: Any, pair: Any, label: Any, config: DataConfig) -> Example:
        """Words and tags are lists, or texts with blanks between. White space within a word goes.

        An empty word is left out with its tag if that is "O".
        """
        read = ["" if word is None else "".join(str(word).split()) for word in _parts(text)]
        tags = bio2([label_name(tag, config) for tag in _parts(label)], config.labels)
        begin = " ".join(read)[:40]
        if len(read) != len(tags):
            raise DataError(
                f"the row {begin!r}... has {len(read)} words in column {config.text_column!r}, but {len(tags)} tags "
                f"in {config.label_column!r}; give each word one"
            )
        lost = [tag for word, tag in zip(read, tags, strict=True) if not word and tag != OUTSIDE]
        if lost:
            raise DataError(f"the row {begin!r}... has an empty word tagged {lost[0]!r}; leave it out or tag it O")
        kept = [(word, tag) for word, tag in zip(read, tags, strict=True) if word]
        return Example(" ".join(word for word, _ in kept), None, tuple(tag for _, tag in kept))

    def label_names(self, labels: Collection[Label], config: DataConfig) -> list[str]:
        """ "O", then the others as the form lists them, else sorted."""
        found, column = set(chain(*labels)), config.label_column
        if all(name.isdigit() for name in found):
            raise DataError(f"column {column!r} holds numbers of tags only; name the tags in data.labels")
        names = class_names(found, config)
        if len(found) < 2:
            raise DataError(f"only the tag {next(iter(found))!r} in column {column!r}; there is nothing to tell apart")
        return sorted(names, key=lambda name: name != OUTSIDE)

    def number(self, label: Label, names: Sequence[str]) -> Label:
        """The place of each tag."""
        return [names.index(tag) for tag in label]

    def counts(self, labels: Sequence[Label], names: Sequence[str]) -> dict[str, int]:
        """Entities of each type."""
        found = Counter(kind for numbers in labels for kind, _, _ in entities(numbers, names))
        return {kind: found[kind] for kind in entity_types(names)}

    def missing(self, labels: Sequence[Label], names: Sequence[str]) -> list[str]:
        """All types where there is no entity; that a rare one is missing is no reason to refuse rows."""
        counts = self.counts(labels, names)
        return [] if any(counts.values()) else list(counts)

    # Model ------------------------------------------------------------------------------------------------------------

    def auto_class(self) -> Any:
        """A tagger."""
        from transformers import AutoModelForTokenClassification

        return AutoModelForTokenClassification

    def encode(
        self, tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], pairs: Sequence[str] | None, max_length: int
    ) -> Encoded:
        """Texts as tokens, cut at `max_length`, one feature a row."""
        return words.encoded(tokenizer, texts, max_length)

    def targets(self, labels: Sequence[Label], features: Features, names: Sequence[str]) -> NDArray[Any]:
        """Class numbers at first pieces, else UNSCORED (T)."""
        tokens, _, places = _scored(features, list(map(len, labels)))
        targets_T = np.full(int(features.starts[-1]), UNSCORED, np.int64)
        targets_T[tokens] = np.fromiter(chain.from_iterable(labels), np.int64)[places]
        return targets_T

    # Losses -----------------------------------------------------------------------------------------------------------

    def hard_loss(self, logits: "Tensor", targets: "Tensor") -> "Tensor":
        """Cross entropy, a mean over the batch's scored tokens; 0 where there is none."""
        from torch.nn import functional as F

        total = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="sum", ignore_index=UNSCORED)
        return total / (targets != UNSCORED).sum().clamp(min=1)

    def soft_loss(
        self, student: "Tensor", teacher: "Tensor", batch: "Mapping[str, Tensor]", temperature: float
    ) -> "Tensor":
        """Soft cross entropy, a mean over the batch's scored tokens."""
        from tinybert.losses import token_soft_cross_entropy

        return token_soft_cross_entropy(student, teacher, batch["labels"] != UNSCORED, temperature)

    def items(self, batch: "Mapping[str, Tensor]") -> int:
        """Scored tokens."""
        return int((batch["labels"] != UNSCORED).sum())

    # Answers ----------------------------------------------------------------------------------------------------------

    def answers(self, logits: NDArray[np.floating[Any]], features: Features, rows: Columns) -> Answers:
        """The likeliest tag of each word. The confidence of a row none of whose words was read is 0."""
        counts = [text.count(" ") + 1 for text in rows["text"]]
        tokens, owners, places = _scored(features, counts)
        logits_MC = np.asarray(logits[tokens], np.float64)
        said = np.zeros(sum(counts), np.int64)
        said[places] = logits_MC.argmax(axis=1)
        sums_M = np.exp(logits_MC - logits_MC.max(axis=1, keepdims=True)).sum(axis=1)
        confidence_N = np.where(np.bincount(owners, minlength=len(counts)) > 0, 1.0, 0.0)
        np.minimum.at(confidence_N, owners, 1 / sums_M)
        ends = np.cumsum(counts)
        return Answers(
            [said[end - count : end].tolist() for end, count in zip(ends, counts, strict=True)], confidence_N
        )

    def trivial(self, labels: Sequence[Label], names: Sequence[str]) -> list[Any]:
        """The most frequent tag, for each word."""
        counted = Counter(chain.from_iterable(labels)).most_common(1)
        return [[counted[0][0]] * len(label) for label in labels]

    def wrong(self, labels: Sequence[Label], names: Sequence[str]) -> list[Any]:
        """All entities overlooked; where there is none, the first word taken for one."""
        return [[0] * len(label) if any(label) else [1, *label[1:]] for label in labels]

    def decisions(
        self, logits: NDArray[np.floating[Any]], features: Features, labels: Sequence[Label]
    ) -> tuple[NDArray[np.floating[Any]], NDArray[np.int64]] | None:
        """One for each word that was read."""
        targets_T = self.targets(labels, features, [])
        scored_T = targets_T != UNSCORED
        return logits[scored_T], targets_T[scored_T]

    # Breakdown --------------------------------------------------------------------------------------------------------

    def recalls(self, labels: Sequence[Label], answers: Sequence[Any], names: Sequence[str]) -> dict[str, Floats]:
        """A type's members are its entities."""
        return found_members(_confusions(labels, answers, names), entity_types(names))

    def per_class(
        self, labels: Sequence[Label], answers: Sequence[Any], names: Sequence[str]
    ) -> dict[str, dict[str, float]]:
        """Of each type of entity, as seqeval counts; what is divided by none is 0."""
        return class_scores(_confusions(labels, answers, names), entity_types(names))

    def confusion(
        self, labels: Sequence[Label], answers: Sequence[Any], names: Sequence[str]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]] | None:
        """One choice a word: which type of entity it belongs to."""
        types = [entity_type(name) or OUTSIDE for name in names]
        classes = list(dict.fromkeys(types))
        places = np.array([classes.index(kind) for kind in types])
        right, given = (np.fromiter(chain.from_iterable(numbers), np.int64) for numbers in (labels, answers))
        return places[right], places[given], classes

    def shown(self, value: Label, names: Sequence[str]) -> str:
        """The tags."""
        return " ".join(names[number] for number in value)

    # Augmentation -----------------------------------------------------------------------------------------------------

    def fixed(self, text: str, pair: str | None, label: Label) -> tuple[Spans, Spans] | None:
        """The words of entities: those that are not class 0."""
        spans, start = [], 0
        for word, number in zip(text.split(" "), label, strict=True):
            if number:
                spans.append((start, start + len(word)))
            start += len(word) + 1
        return spans, []


def _parts(value: Any) -> list[Any]:
    """A list as it is, a text without its blanks."""
    return [] if value is None else str(value).split() if not isinstance(value, list | tuple) else list(value)


def _scored(
    features: Features, counts: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Of each first piece: its place among the tokens, its row, and the place of its word among all rows' words.

    Args:
        features: With places.
        counts: Words of each row.
    """
    assert features.places is not None
    tokens = np.flatnonzero(features.places[:, 0] >= 0)
    owners = np.repeat(features.rows, features.lengths)[tokens]
    return tokens, owners, np.cumsum([0, *counts])[owners] + features.places[tokens, 0]
