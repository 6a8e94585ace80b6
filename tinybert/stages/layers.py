"""Task distillation, first part: the student learns the fine-tuned teacher's states on the augmented rows."""

from pathlib import Path

from transformers import set_seed

from tinybert.checks import check_same_vocabulary
from tinybert.cli import main
from tinybert.config import LayersConfig, MapConfig
from tinybert.data import TaskData
from tinybert.distillation import StateLearner
from tinybert.layer_map import map_layers
from tinybert.models import load_encoder, load_tokenizer, save
from tinybert.resume import resume_beside
from tinybert.training import OnMetrics, TextCollator, train, with_lengths


def run(
    *,
    data: Path,
    teacher: Path,
    student: Path,
    layer_map: MapConfig,
    config: LayersConfig,
    out: Path,
    on_metrics: OnMetrics,
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

    Returns:
        steps, loss and its terms over the last logged steps, seconds.

    Raises:
        ModelError: Heads or vocabularies differ.
    """
    check_same_vocabulary(student, teacher)
    set_seed(config.optim.seed)
    task, tokenizer = TaskData(data), load_tokenizer(student)
    model, guide = load_encoder(student), load_encoder(teacher)
    mapped = map_layers(layer_map, model.config.num_hidden_layers, guide.config.num_hidden_layers)
    learner = StateLearner(model, guide, mapped, layer_map)
    learner.projections.load(student)
    rows, collate = with_lengths(task.rows("train")), TextCollator(tokenizer, task.max_length)
    metrics = train("layers", learner, rows, collate, config.optim, resume_beside(out), on_metrics)
    save(model, tokenizer, out, task.max_length)
    learner.projections.save(out)
    return metrics


if __name__ == "__main__":
    main(run)
