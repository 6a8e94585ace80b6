"""General distillation: a student learns the states of the pretrained teacher on plain text."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tinybert.cli import main
from tinybert.config import GeneralConfig, MapConfig, StudentConfig
from tinybert.corpus import Corpus
from tinybert.distillation import Projections, StateLearner
from tinybert.layer_map import map_layers
from tinybert.models import load_config, load_teacher, load_tokenizer, save
from tinybert.progress import OnMetrics
from tinybert.student import SAMPLE, build_student
from tinybert.training import train


def run(
    *,
    teacher: Path,
    student: StudentConfig,
    layer_map: MapConfig,
    config: GeneralConfig,
    out: Path,
    on_metrics: OnMetrics,
    corpus: Path | None = None,
) -> dict[str, float]:
    """Make a general student.

    Args:
        teacher: Pretrained encoder, not fine-tuned.
        student: Shape and starting weights.
        layer_map: Which teacher layer teaches which student layer, and the weights of the losses.
        config: Training; where it is not enabled, the student is written as it starts.
        out: Directory to write: the student encoder, its projections, and the tokenizer.
        on_metrics: Points of the curves.
        corpus: Packed corpus (`tinybert.corpus`).

    Returns:
        steps, loss and its terms over the last logged steps, seconds; empty where nothing was trained.
    """
    taught_by, precision = load_config(teacher), config.optim.precision
    mapped = map_layers(layer_map, student.layers, taught_by.num_hidden_layers)
    model, start_DS = build_student(student, teacher, mapped, config.optim.seed, _first_text(corpus))
    projections = Projections(student.hidden, taught_by.hidden_size, len(mapped), layer_map.projection)
    projections.begin(start_DS)
    metrics: dict[str, float] = {}
    if config.enabled and corpus is not None:
        learner = StateLearner(model, load_teacher(teacher, mapped[-1], precision), mapped, layer_map, precision)
        learner.projections = projections
        metrics = train("general", learner, Corpus(corpus).rows(), config.optim, out, on_metrics)
    projections.save(out)
    save(model, load_tokenizer(teacher), out, max_length=None)
    return metrics


def _first_text(corpus: Path | None) -> Tensor | None:
    """Token ids (B, L) of the first sequences, None without a corpus."""
    if corpus is None:
        return None
    rows = Corpus(corpus).rows()
    return rows.batch(np.arange(min(SAMPLE, len(rows))), torch.Generator())["input_ids"]


if __name__ == "__main__":
    main(run)
