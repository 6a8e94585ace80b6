"""Task distillation, first part: the student learns the fine-tuned teacher's states on the augmented rows."""

from pathlib import Path

from transformers import set_seed

from tinybert.attention_kind import AttentionShape, attention_kind
from tinybert.checks import check_same_vocabulary
from tinybert.cli import main
from tinybert.config import LayersConfig, MapConfig
from tinybert.data import TaskData
from tinybert.distillation import StateLearner
from tinybert.layer_map import map_layers
from tinybert.models import load_config, load_encoder, load_teacher, load_tokenizer, save
from tinybert.precision import device
from tinybert.progress import OnMetrics
from tinybert.rows import imitation_rows, task_rows
from tinybert.teacher_cache import TeacherCache
from tinybert.training import train


def run(
    *,
    data: Path,
    teacher: Path,
    student: Path,
    layer_map: MapConfig,
    config: LayersConfig,
    out: Path,
    on_metrics: OnMetrics,
    targets: Path | None = None,
) -> dict[str, float]:
    """Distil the intermediate layers.

    Args:
        data: Augmented task data set (`tinybert.data`).
        teacher: Fine-tuned teacher.
        student: General student; projections it brings are continued.
        layer_map: Which teacher layer teaches which student layer, and the weights of the losses.
        config: Training.
        out: Directory to write: the student encoder, its projections, and the tokenizer.
        on_metrics: Points of the curves.
        targets: The teacher's answers for the rows (`tinybert.teacher_cache`); where they hold its states, the
            teacher itself is not needed.

    Returns:
        steps, loss and its terms over the last logged steps, seconds.

    Raises:
        ModelError: Heads or vocabularies differ.
        DataError: The targets belong to other rows.
    """
    check_same_vocabulary(student, teacher)
    set_seed(config.optim.seed)
    task, tokenizer, model = TaskData(data), load_tokenizer(student), load_encoder(student)
    taught_by = load_config(teacher)
    mapped = map_layers(layer_map, model.config.num_hidden_layers, taught_by.num_hidden_layers)
    own, other = (AttentionShape(model.num_attention_heads, model.hidden_size) for model in (model.config, taught_by))
    wanted = attention_kind(layer_map, own, other).kind, tuple(mapped)
    answers = TeacherCache(targets) if targets else None
    if answers and answers.states and (answers.states.kind, answers.states.mapped) == wanted:
        rows = imitation_rows(task, tokenizer, answers, "states")
        learner = StateLearner(model, taught_by, mapped, layer_map)
    else:
        rows = task_rows(task, tokenizer)
        precision = config.optim.precision
        encoder = load_teacher(teacher, mapped[-1], precision, rows.tokens())
        learner = StateLearner(model, encoder, mapped, layer_map, precision)
    learner.projections.load(student)
    metrics = train("layers", learner.to(device()), rows, config.optim, out, on_metrics)
    save(model, tokenizer, out, task.max_length)
    learner.projections.save(out)
    return metrics


if __name__ == "__main__":
    main(run)
