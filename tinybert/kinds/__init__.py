"""The kinds of task: what differs between classifying sentences, tagging words, predicting numbers, finding answers."""

from tinybert.data_config import KindName
from tinybert.kinds.classification import Classification
from tinybert.kinds.multi_label import MultiLabel
from tinybert.kinds.question_answering import QuestionAnswering
from tinybert.kinds.regression import Regression
from tinybert.kinds.task_kind import TaskKind
from tinybert.kinds.token_classification import TokenClassification

KINDS: dict[KindName, TaskKind] = {
    kind.name: kind
    for kind in (Classification(), MultiLabel(), Regression(), TokenClassification(), QuestionAnswering())
}
"""By the names the form knows."""


_ALWAYS_ANSWERS = QuestionAnswering(always_answers=True)


def kind_of(name: str, always_answers: bool = False) -> TaskKind:
    """The kind with this name.

    Args:
        name: As the form has it.
        always_answers: Of question answering: every training row has an answer, so "no answer" is never one.

    Raises:
        KeyError: There is none.
    """
    return _ALWAYS_ANSWERS if always_answers and name == _ALWAYS_ANSWERS.name else KINDS[name]  # type: ignore[index]
