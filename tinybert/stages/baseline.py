"""The student's shape from random weights on labels alone: what the same steps give without distillation."""

from pathlib import Path

from transformers import set_seed

from tinybert.cli import main
from tinybert.config import BaselineConfig
from tinybert.data import TaskData
from tinybert.models import load_config, load_tokenizer, save
from tinybert.precision import device
from tinybert.progress import OnMetrics
from tinybert.rows import task_rows
from tinybert.supervised import SupervisedLearner, validation_of
from tinybert.training import train
from tinybert.training_config import OptimConfig, SelectionConfig


def run(
    *,
    data: Path,
    student: Path,
    optim: OptimConfig,
    selection: SelectionConfig,
    config: BaselineConfig,
    steps: int,
    out: Path,
    on_metrics: OnMetrics,
) -> dict[str, float]:
    """Train the baseline.

    Args:
        data: Prepared task data set, not augmented.
        student: Student whose shape and tokenizer are taken; its weights are not.
        optim: The student's own prediction-phase training: batch size, warm-up, decay, seed.
        selection: How often it is scored.
        config: Learning rate.
        steps: Optimizer steps, as many as the student's task distillation took.
        out: Directory to write: the classifier with its best weights, and the tokenizer.
        on_metrics: Points of the curves.

    Returns:
        steps, loss, validation scores of the chosen checkpoint, seconds.
    """
    set_seed(optim.seed)
    task, tokenizer = TaskData(data), load_tokenizer(student)
    shape = load_config(student, **task.kind.options(task.labels))
    model = task.kind.auto_class().from_config(shape).to(device())
    selection = selection.model_copy(update={"patience": None})
    validation = validation_of(model, tokenizer, task, selection, optim.precision)
    rows = task_rows(task, tokenizer)
    changes = {"steps": steps, "epochs": steps, "learning_rate": config.learning_rate}
    optim = optim.model_copy(update=changes)
    metrics = train("baseline", SupervisedLearner(model, task.kind), rows, optim, out, on_metrics, validation)
    save(model, tokenizer, out, task.max_length)
    return metrics


if __name__ == "__main__":
    main(run)
