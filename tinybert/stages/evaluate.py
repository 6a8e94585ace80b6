"""Teacher, student and baseline on the same validation rows and the same machine: one table."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinybert.checks import check_teacher_labels
from tinybert.cli import main
from tinybert.config import EvaluateConfig
from tinybert.data import TaskData
from tinybert.latency import interleaved_medians, torch_threads
from tinybert.metrics import classification_scores
from tinybert.models import load_classifier, load_tokenizer
from tinybert.pictures import draw_comparison, draw_confusion
from tinybert.progress import OnMetrics
from tinybert.report import write_table
from tinybert.scoring import predict
from tinybert.stages.export import megabytes


def run(
    *,
    data: Path,
    teacher: Path,
    student: Path,
    config: EvaluateConfig,
    out: Path,
    on_metrics: OnMetrics,
    baseline: Path | None = None,
) -> dict[str, float]:
    """Compare the models.

    Args:
        data: Prepared task data set.
        teacher: Fine-tuned teacher.
        student: Exported student.
        config: Batch size, timed runs, threads.
        out: Directory to write: `comparison.json`, `comparison.md`, and pictures.
        on_metrics: Told the numbers.
        baseline: The student's shape without distillation.

    Returns:
        `<model>_accuracy`, `_f1_macro`, `_parameters`, `_megabytes`, `_latency_ms` of each model, and
        retention (student accuracy / teacher accuracy) and speedup (teacher latency / student latency).

    Raises:
        ModelError: A model's labels are not the data's.
    """
    task = TaskData(data)
    directories = {"teacher": teacher, "student": student, **({"baseline": baseline} if baseline else {})}
    for directory in directories.values():
        check_teacher_labels(directory, task.labels)
    models = {name: (load_classifier(d).eval(), load_tokenizer(d)) for name, d in directories.items()}
    rows = task.rows("validation")
    labels = np.asarray(rows["label"])
    table: dict[str, dict[str, float]] = {}
    for name, (model, tokenizer) in models.items():
        logits_NC = predict(model, tokenizer, rows, task.max_length, config.batch_size, precision="fp32")
        sizes = {"parameters": model.num_parameters(), "megabytes": megabytes(directories[name])}
        table[name] = {**classification_scores(logits_NC, labels), **sizes}
        draw_confusion(labels, logits_NC.argmax(dim=1).numpy(), task.labels, name, out / f"confusion_{name}.png")
    for name, milliseconds in _latencies(models, rows, task.max_length, config).items():
        table[name]["latency_ms"] = milliseconds
    comparison: dict[str, Any] = {
        **table,
        "retention": table["student"]["accuracy"] / table["teacher"]["accuracy"],
        "speedup": table["teacher"]["latency_ms"] / table["student"]["latency_ms"],
    }
    draw_comparison(table, out / "comparison.png")
    write_table(comparison, out / "comparison.md")
    (out / "comparison.json").write_text(json.dumps(comparison, indent=1) + "\n")
    metrics = {f"{name}_{key}": float(value) for name, values in table.items() for key, value in values.items()}
    metrics |= {key: comparison[key] for key in ("retention", "speedup")}
    on_metrics(metrics, 0)
    return metrics


def _latencies(
    models: dict[str, tuple[PreTrainedModel, PreTrainedTokenizerBase]],
    rows: Any,
    max_length: int,
    config: EvaluateConfig,
) -> dict[str, float]:
    sample = [rows[i * len(rows) // config.latency_runs] for i in range(config.latency_runs)]

    def call(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Callable[[int], object]:
        def predict_one(run: int) -> object:
            row = sample[run % len(sample)]
            pair = [row["text_pair"]] if row["text_pair"] is not None else None
            inputs = tokenizer([row["text"]], pair, truncation=True, max_length=max_length, return_tensors="pt")
            return model(**inputs.to(model.device)).logits.argmax().item()

        return predict_one

    with torch.no_grad(), torch_threads(config.threads):
        return interleaved_medians({name: call(*pair) for name, pair in models.items()}, config.latency_runs)


if __name__ == "__main__":
    main(run)
