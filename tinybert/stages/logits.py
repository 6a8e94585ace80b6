"""Task distillation, second part: the student learns the fine-tuned teacher's predictions."""

from pathlib import Path

from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, set_seed

from tinybert.checks import check_same_vocabulary, check_teacher_labels
from tinybert.cli import main
from tinybert.config import LogitsConfig
from tinybert.data import TaskData
from tinybert.last_layer import finish_first_token_only
from tinybert.learner import Learner
from tinybert.losses import regression_loss, soft_cross_entropy
from tinybert.models import load_classifier, load_tokenizer, save
from tinybert.progress import OnMetrics
from tinybert.rows import imitation_rows
from tinybert.supervised import validation_of
from tinybert.teacher_cache import TeacherCache
from tinybert.training import train


class LogitLearner(Learner):
    """Soft cross entropy with the teacher, mixed with hard labels where the form says so."""

    def __init__(self, student: PreTrainedModel, config: LogitsConfig) -> None:
        super().__init__()
        finish_first_token_only(student)
        self.student = student
        self._config = config

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """loss, and its soft and hard parts; a single output is a regression on the teacher's."""
        labels_B, teacher_BC = batch.pop("labels"), batch.pop("teacher_logits")
        student_BC = self.student(**batch).logits
        if student_BC.shape[-1] == 1:
            return {"loss": regression_loss(student_BC, teacher_BC)}
        soft = soft_cross_entropy(student_BC, teacher_BC, self._config.temperature)
        share = self._config.hard_weight
        if not share:
            return {"loss": soft}
        hard = F.cross_entropy(student_BC.float(), labels_B)
        return {"loss": (1 - share) * soft + share * hard, "soft_loss": soft, "hard_loss": hard}


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
        data: Augmented task data set (`tinybert.data`).
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
    check_teacher_labels(teacher, task.labels)
    set_seed(config.optim.seed)
    model = load_classifier(student, task.labels)
    take_over_head(model, load_classifier(teacher))
    rows = imitation_rows(task, tokenizer, TeacherCache(targets), "logits")
    validation = validation_of(model, tokenizer, task, config.selection, config.optim.precision)
    metrics = train("logits", LogitLearner(model, config), rows, config.optim, out, on_metrics, validation)
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
    return any(part in name.split(".") for part in ("pooler", "classifier", "pre_classifier"))


if __name__ == "__main__":
    main(run)
