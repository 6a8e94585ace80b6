"""Fine-tuning of the teacher on the task's labels, with a floor under its accuracy."""

from pathlib import Path

import numpy as np
from transformers import set_seed

from tinybert.cli import main
from tinybert.config import FineTuneConfig
from tinybert.data import TaskData
from tinybert.errors import QualityError
from tinybert.metrics import majority_share
from tinybert.models import load_classifier, load_tokenizer, save
from tinybert.progress import OnMetrics
from tinybert.rows import task_rows
from tinybert.supervised import SupervisedLearner, validation_of
from tinybert.training import train


def run(*, data: Path, teacher: Path, config: FineTuneConfig, out: Path, on_metrics: OnMetrics) -> dict[str, float]:
    """Fine-tune a teacher.

    Args:
        data: Prepared task data set (`tinybert.data`).
        teacher: Pretrained encoder.
        config: Training, selection, floor.
        out: Directory to write: the classifier with its best weights, and the tokenizer.
        on_metrics: Points of the curves.

    Returns:
        steps, loss, validation scores of the chosen checkpoint, seconds.

    Raises:
        QualityError: The teacher is hardly better than naming the majority class.
    """
    set_seed(config.optim.seed)
    task = TaskData(data)
    tokenizer, model = load_tokenizer(teacher), load_classifier(teacher, task.labels)
    validation = validation_of(model, tokenizer, task, config.selection, config.optim.precision)
    rows = task_rows(task.rows("train"), tokenizer, task.max_length)
    metrics = train("fine_tune", SupervisedLearner(model), rows, config.optim, out, on_metrics, validation)
    _check_floor(metrics["validation_accuracy"], task, config.floor)
    save(model, tokenizer, out, task.max_length)
    return metrics


def _check_floor(accuracy: float, task: TaskData, floor: float) -> None:
    majority = majority_share(np.asarray(task.rows("validation")["label"]))
    if accuracy < majority + floor:
        raise QualityError(
            f"the fine-tuned teacher reaches {accuracy:.1%} on validation; always naming the majority class gives "
            f"{majority:.1%}, and fine_tune.floor asks for {100 * floor:g} points more. There is nothing to distil: "
            "check the labels, train longer, or lower fine_tune.floor"
        )


if __name__ == "__main__":
    main(run)
