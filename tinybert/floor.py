"""A teacher that knows hardly more than the most frequent answer has nothing to teach."""

from tinybert.data import TaskData
from tinybert.errors import QualityError
from tinybert.metrics import TITLES


def check_floor(score: float, task: TaskData, floor: float | None) -> None:
    """Hold a teacher's validation score against that of the best constant answer.

    Args:
        score: By the task's metric.
        task: Whose validation rows it was.
        floor: By how much it must be higher; None: nobody asks.

    Raises:
        QualityError: It is not.
    """
    if floor is None:
        return
    labels, kind = task.rows("validation")["label"][:], task.kind
    trivial = kind.metrics[task.metric].score(labels, kind.trivial(labels, task.labels), task.labels)
    if score < trivial + floor:
        raise QualityError(
            f"the teacher's {TITLES[task.metric]} on validation is {score:.1%}; always giving the same answer reaches "
            f"{trivial:.1%}, and fine_tune.floor asks for {100 * floor:g} points more. There is nothing to distil: "
            "check the labels and their order, train longer, or lower fine_tune.floor (empty: not asked)"
        )
