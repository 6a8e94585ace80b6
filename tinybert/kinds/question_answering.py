"""Answers to questions, cut out of the context they are about, or the word that it has none.

A long context is read in windows (`tinybert.kinds.windows`). The two logits of a token say how likely the answer begins
and ends with it; the first token, [CLS], stands for no answer.

Shapes: N rows, F features, T tokens of all features, B batch, L length.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tinybert.augmentation.letters import MARKS
from tinybert.data_config import DataConfig
from tinybert.errors import DataError
from tinybert.kinds.reading import plain_text
from tinybert.kinds.squad_scores import answer_f1, exact_match
from tinybert.kinds.task_kind import Answers, Columns, Encoded, Example, Features, Label, Spans, TaskKind, Texts
from tinybert.kinds.windows import encode_windows, held_spans, highest, read_windows
from tinybert.metrics import Floats, Metric, divided, share

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

NEAR = 30
"""An answer stands at most so many characters from where the data has it; data sets have such errors."""
CLASSES = "answerable", "unanswerable"
"""What sorts of questions are called in counts and breakdowns."""
_MARKS = re.compile(f"[{MARKS}]+")


def _of_each(
    score: Callable[[str, list[str]], float], labels: Sequence[Label], answers: Sequence[str], names: Sequence[str]
) -> Floats:
    """What an answer scores, and 1."""
    rows = zip(answers, labels, strict=True)
    return np.array([[score(answer, _texts(label)), 1] for answer, label in rows], np.float64).reshape(-1, 2)


def _span(answer: Mapping[str, Any]) -> tuple[int, int]:
    """Where it begins and ends in the context."""
    return answer["start"], answer["start"] + len(answer["text"])


def _texts(label: Label) -> list[str]:
    """Right answers of a row."""
    return [answer["text"] for answer in label]


class QuestionAnswering(TaskKind):
    """Questions, each with a context; SQuAD 1.1 and 2.0, CMRC 2018 and what is made like them.

    A named label is a tuple of right answers, (text, first character in the context); a row's label a list of
    {"text", "start"}; both are empty where the context has no answer. An answer is a string, "" where there is none.
    """

    name = "question_answering"
    pipeline = "question-answering"
    metrics = {
        "answer_f1": Metric(partial(_of_each, answer_f1), share),
        "exact_match": Metric(partial(_of_each, exact_match), share),
    }
    label_type = pa.list_(pa.struct([("text", pa.string()), ("start", pa.int64())]))
    answer_type = pa.string()
    per_token = True

    def __init__(self, always_answers: bool = False) -> None:
        self._always_answers = always_answers
        """No question it was trained on goes without an answer, so that none may."""

    # Rows -------------------------------------------------------------------------------------------------------------

    def example(self, text: Any, pair: Any, label: Any, config: DataConfig) -> Example:
        """The context stays as it is, since the answers say where in it they begin."""
        question, context = plain_text(text), "" if pair is None else str(pair)
        found = [(answer, start) for answer, start in _read(label, config.label_column) if answer.strip()]
        golds = ((answer, _place(answer, start, context, question)) for answer, start in found)
        return Example(question, context, tuple(dict.fromkeys(golds)))

    def label_names(self, labels: Collection[Label], config: DataConfig) -> list[str]:
        """The same of every task.

        Raises:
            DataError: No question has an answer.
        """
        if not any(labels):
            raise DataError(f"no row has an answer in column {config.label_column!r}; there is nothing to find")
        return ["start", "end"]

    def stratum(self, label: Label) -> str:
        """Whether there is an answer."""
        return CLASSES[not label]

    def unit(self, example: Example) -> Texts:
        """The context: who has learnt one question about it half knows the others."""
        return "", example.pair

    def number(self, label: Label, names: Sequence[str]) -> Label:
        """The same as records."""
        return [{"text": text, "start": start} for text, start in label]

    def counts(self, labels: Sequence[Label], names: Sequence[str]) -> dict[str, int]:
        """Rows with an answer and without."""
        answerable = sum(map(bool, labels))
        return dict(zip(CLASSES, (answerable, len(labels) - answerable), strict=True))

    # Model ------------------------------------------------------------------------------------------------------------

    def auto_class(self) -> Any:
        """An extractive reader."""
        from transformers import AutoModelForQuestionAnswering

        return AutoModelForQuestionAnswering

    def logits(self, output: Any) -> "Tensor":
        """(B, L, 2); transformers has them in two."""
        import torch

        if getattr(output, "start_logits", None) is None:
            return super().logits(output)
        return torch.stack([output.start_logits, output.end_logits], dim=-1)

    # Tokens -----------------------------------------------------------------------------------------------------------

    def encode(
        self, tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], pairs: Sequence[str] | None, max_length: int
    ) -> Encoded:
        """Windows that overlap by a third of `max_length`; a question gets a third at most.

        Raises:
            ModelError: The tokenizer does not say which characters a token stands for.
        """
        return encode_windows(tokenizer, texts, [""] * len(texts) if pairs is None else pairs, max_length)

    def targets(self, labels: Sequence[Label], features: Features, names: Sequence[str]) -> NDArray[Any]:
        """First and last token (F, 2) of the first right answer; 0, [CLS], where a window does not hold it whole."""
        spans = [_span(label[0]) if label else (-1, -1) for label in labels]
        return held_spans(np.array(spans, np.int64).reshape(-1, 2), features)

    # Losses -----------------------------------------------------------------------------------------------------------

    def hard_loss(self, logits: "Tensor", targets: "Tensor") -> "Tensor":
        """Mean of the cross entropies of the first and the last token."""
        from torch.nn import functional as F

        return F.cross_entropy(logits.float(), targets)

    def soft_loss(
        self, student: "Tensor", teacher: "Tensor", batch: "Mapping[str, Tensor]", temperature: float
    ) -> "Tensor":
        """Mean of the soft cross entropies of the first and the last token, over real tokens."""
        from tinybert.losses import span_soft_cross_entropy

        return span_soft_cross_entropy(student, teacher, batch["attention_mask"], temperature)

    # Answers ----------------------------------------------------------------------------------------------------------

    def answers(self, logits: NDArray[np.floating[Any]], features: Features, rows: Columns) -> Answers:
        """The part of the context with the highest sum of logits, unless that of no answer is higher and may be given.

        As in BERT's run_squad.py: both tokens stand in one window, and no answer scores what it does in the window
        where that is least; it is given where some training rows have none. But all pairs of tokens are looked at, not
        the 20 best of each. The probability of an answer is that within its window.
        """
        windows = read_windows(logits, features)
        best_N, least_N = highest(windows.scores, features), highest(-windows.nulls, features)
        scores_N = windows.scores[best_N]
        null_N = np.isneginf(scores_N) if self._always_answers else windows.nulls[least_N] > scores_N
        chosen_N = np.where(null_N, least_N, best_N)
        sums_N = np.where(null_N, windows.nulls[least_N], windows.scores[best_N])
        spans = zip(rows["text_pair"], windows.spans[best_N].tolist(), null_N, strict=True)
        values = ["" if null else _cut_out(context, begin, end) for context, (begin, end), null in spans]
        return Answers(values, np.exp(sums_N - windows.totals[chosen_N]))

    def trivial(self, labels: Sequence[Label], names: Sequence[str]) -> list[Any]:
        """That there is no answer: no other is right twice."""
        return [""] * len(labels)

    def wrong(self, labels: Sequence[Label], names: Sequence[str]) -> list[Any]:
        """A word longer than any right answer."""
        return ["x" * (1 + max(map(len, _texts(label)), default=0)) for label in labels]

    def as_labels(self, answers: Sequence[Any]) -> list[Label]:
        """With -1 for where they begin, which answers do not say."""
        return [[{"text": answer, "start": -1}] if answer else [] for answer in answers]

    def right(self, labels: Sequence[Label], answers: Sequence[Any]) -> NDArray[np.bool_] | None:
        """Exact matches."""
        return _of_each(exact_match, labels, answers, [])[:, 0] > 0

    # Breakdown --------------------------------------------------------------------------------------------------------

    def recalls(self, labels: Sequence[Label], answers: Sequence[Any], names: Sequence[str]) -> dict[str, Floats]:
        """Exact matches among rows with an answer and among those without, where there are both."""
        right_N, answerable_N = self.right(labels, answers), np.array([bool(label) for label in labels], bool)
        if answerable_N.all() or not answerable_N.any():
            return {}
        members = zip(CLASSES, (answerable_N, ~answerable_N), strict=True)
        return {name: np.stack([inside_N & right_N, inside_N], axis=1).astype(float) for name, inside_N in members}

    def per_class(
        self, labels: Sequence[Label], answers: Sequence[Any], names: Sequence[str]
    ) -> dict[str, dict[str, float]]:
        """Of exact matches among rows with an answer and without, and among those that were given one and not."""
        lines, answered = {}, sum(map(bool, answers))
        for name, hits_N2 in self.recalls(labels, answers, names).items():
            given = answered if name == CLASSES[0] else len(answers) - answered
            hits, support = hits_N2.sum(axis=0).tolist()
            parts = divided(np.array([hits, hits, 2 * hits]), np.array([given, support, given + support]))
            lines[name] = dict(zip(("precision", "recall", "f1", "support"), [*parts.tolist(), support], strict=True))
        return lines

    def shown(self, value: Label, names: Sequence[str]) -> str:
        """The first right answer of a label, or the answer."""
        text = value if isinstance(value, str) else "".join(_texts(value)[:1])
        return text or "(no answer)"

    # Augmentation -----------------------------------------------------------------------------------------------------

    def fixed(self, text: str, pair: str | None, label: Label) -> tuple[Spans, Spans] | None:
        """The question, and the right answers in the context."""
        return [(0, len(text))], sorted({_span(answer) for answer in label})

    def moved(self, label: Label, pair: str | None, changes: Sequence[tuple[int, int]]) -> Label:
        """Answers begin as much later as the context grew before them."""
        grown = [sum(by for at, by in changes if at < answer["start"]) for answer in label]
        return [{**answer, "start": answer["start"] + by} for answer, by in zip(label, grown, strict=True)]


def _cut_out(context: str, begin: int, end: int) -> str:
    """What stands there, with the marks on its last letter, which tokenizers that strip accents pass over."""
    marks = _MARKS.match(context, end)
    return context[begin : marks.end() if marks else end].strip()


def _read(label: Any, column: str) -> Iterator[tuple[str, int]]:
    """Texts and beginnings of the answers in a column of them, in any of the forms that data sets have.

    Raises:
        DataError: It is in none of them.
    """
    if label is None or label == "" or label != label:
        return
    try:
        if isinstance(label, Mapping):
            texts, starts = label["text"], _starts(label)
            label = [label] if isinstance(texts, str) else _records(texts, starts)
        for answer in label:
            yield str(answer["text"]), int(_starts(answer))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"column {column!r} holds {str(label)[:80]!r}, which says neither text nor answer_start of answers; "
            'write {"text": [...], "answer_start": [...]}, with empty lists where there is no answer'
        ) from error


def _records(texts: Sequence[str], starts: Sequence[int]) -> list[dict[str, Any]]:
    return [{"text": text, "start": start} for text, start in zip(texts, starts, strict=True)]


def _starts(answers: Mapping[str, Any]) -> Any:
    return answers["answer_start"] if "answer_start" in answers else answers["start"]


def _place(answer: str, start: int, context: str, question: str) -> int:
    """Where the answer begins.

    Raises:
        DataError: Neither where the data says, nor at one place near it.
    """
    if start >= 0 and context.startswith(answer, start):
        return start
    near = range(max(start - NEAR, 0), start + NEAR + 1)
    found = [place for place in near if context.startswith(answer, place)]
    if len(found) != 1:
        raise DataError(
            f"question {question!r}: the answer {answer!r} does not stand at character {start:,} of its context, nor "
            f"at just one place within {NEAR} characters of it; correct the row or leave it out"
        )
    return found[0]
