"""Task distillation, second part: the student learns the fine-tuned teacher's predictions."""

from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel, set_seed

from tinybert.batches import Batch
from tinybert.checks import check_same_vocabulary, check_teacher_labels
from tinybert.cli import main
from tinybert.config import LogitsConfig
from tinybert.data import TaskData
from tinybert.kinds.task_kind import TaskKind
from tinybert.last_layer import finish_first_token_only
from tinybert.learner import Learner
from tinybert.models import load_model, load_tokenizer, save
from tinybert.progress import OnMetrics
from tinybert.rows import imitation_rows
from tinybert.supervised import trained_logits, validation_of
from tinybert.teacher_cache import TeacherCache
from tinybert.training import train


class LogitLearner(Learner):
    """The loss against the teacher's logits, mixed with that against labels where the form says so."""

    def __init__(self, student: PreTrainedModel, kind: TaskKind, config: LogitsConfig) -> None:
        super().__init__()
        if not kind.per_token:
            finish_first_token_only(student)
        self.student = student
        self._kind, self._config = kind, config

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """loss, and its soft and hard parts."""
        teacher = batch.pop("teacher_logits")
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        student = trained_logits(self.student, self._kind, inputs)
        soft = self._kind.soft_loss(student, teacher, batch, self._config.temperature)
        share = self._config.hard_weight
        if not share:
            return {"loss": soft}
        hard = self._kind.hard_loss(student, batch["labels"])
        return {"loss": (1 - share) * soft + share * hard, "soft_loss": soft, "hard_loss": hard}

    def items(self, batch: Batch) -> int:
        """What the kind's losses are a mean over."""
        return self._kind.items(batch)


def run(
    *,
    data: Path,
    teacher: Path,
    student: Path,
    targets: Path,
    config: LogitsConfig,
    out: Path,
    on_metrics: OnMetrics,
) -> dict[str, float]:
    """Distil the predictions.

    Args:
        data: Task data set, augmented or not (`tinybert.data`).
        teacher: Fine-tuned teacher.
        student: Student after the first part. Where it is as wide as the teacher it takes over the teacher's head,
            which reads the states it has learnt to imitate; else its head starts new.
        targets: The teacher's logits for the rows (`tinybert.teacher_cache`).
        config: Temperature, hard labels, training, selection.
        out: Directory to write: the classifier with its best weights, and the tokenizer.
        on_metrics: Points of the curves.

    Returns:
        steps, loss, validation scores of the chosen checkpoint, seconds.

    Raises:
        ModelError: Vocabularies or labels differ.
        DataError: The targets belong to other rows.
    """
    check_same_vocabulary(student, teacher)
    task, tokenizer = TaskData(data), load_tokenizer(student)
    check_teacher_labels(teacher, task.labels, task.kind.name)
    set_seed(config.optim.seed)
    model = load_model(student, task.kind, task.labels)
    take_over_head(model, load_model(teacher, task.kind))
    rows = imitation_rows(task, tokenizer, TeacherCache(targets), "logits")
    validation = validation_of(model, tokenizer, task, config.selection, config.optim.precision)
    metrics = train("logits", LogitLearner(model, task.kind, config), rows, config.optim, out, on_metrics, validation)
    save(model, tokenizer, out, task.max_length)
    return metrics


def take_over_head(student: PreTrainedModel, teacher: PreTrainedModel) -> bool:
    """Copy everything between the last layer and the logits, where all its shapes agree; tells whether it did."""
    own = {name: p for name, p in student.named_parameters() if _in_head(name)}
    taught = {name: p for name, p in teacher.named_parameters() if _in_head(name)}
    if {n: p.shape for n, p in own.items()} != {n: p.shape for n, p in taught.items()}:
        return False
    for name, parameter in own.items():
        parameter.data.copy_(taught[name].data)
    return True


def _in_head(name: str) -> bool:
    return any(part in name.split(".") for part in ("pooler", "classifier", "pre_classifier", "qa_outputs"))


if __name__ == "__main__":
    main(run)
