"""Fine-tuning of the teacher on the task's labels, with a floor under its score."""

from pathlib import Path

from transformers import set_seed

from tinybert.cli import main
from tinybert.config import FineTuneConfig
from tinybert.data import TaskData
from tinybert.floor import check_floor
from tinybert.models import load_model, load_tokenizer, save
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
        QualityError: The teacher is hardly better than a constant answer.
    """
    set_seed(config.optim.seed)
    task = TaskData(data)
    tokenizer, model = load_tokenizer(teacher), load_model(teacher, task.kind, task.labels)
    validation = validation_of(model, tokenizer, task, config.selection, config.optim.precision)
    learner, rows = SupervisedLearner(model, task.kind), task_rows(task, tokenizer)
    metrics = train("fine_tune", learner, rows, config.optim, out, on_metrics, validation)
    check_floor(metrics[f"validation_{task.metric}"], task, config.floor)
    save(model, tokenizer, out, task.max_length)
    return metrics


if __name__ == "__main__":
    main(run)
