"""Teacher, student and its variants, baseline and champion on the same test rows and the same machine: one table."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinybert import breakdown, calibration, cost, pictures
from tinybert.checks import check_teacher_labels
from tinybert.cli import main
from tinybert.data import TaskData
from tinybert.errors import ModelError
from tinybert.metrics import METRICS, answers
from tinybert.models import load_classifier, load_tokenizer
from tinybert.onnx_model import OnnxClassifier
from tinybert.progress import OnMetrics
from tinybert.release_config import EvaluateConfig
from tinybert.released import INT8, ONNX, TORCH, Released
from tinybert.report import ratio, write_table
from tinybert.resampling import interval
from tinybert.scoring import predict
from tinybert.serving import load_variant

COLUMNS = ("text", "text_pair", "label", "group")


@dataclass(frozen=True)
class Contestant:
    """A model that is measured."""

    model: Any
    """Called as a classifier in torch is."""
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    network: PreTrainedModel
    """The same in torch, of which operations and parameters are counted."""
    megabytes: float


@dataclass(frozen=True)
class Answers:
    """What a model says about the test rows: N of them, C classes."""

    logits: Tensor
    """N, C."""
    predicted: NDArray[np.int64]
    """N."""
    probabilities: NDArray[np.float64]
    """N, C; calibrated."""
    calibration: dict[str, Any]
    """temperature, ece, ece_calibrated and bins."""


def run(
    *,
    data: Path,
    teacher: Path,
    student: Path,
    config: EvaluateConfig,
    out: Path,
    on_metrics: OnMetrics,
    baseline: Path | None = None,
    champion: Path | None = None,
    champion_data: Path | None = None,
) -> dict[str, float]:
    """Compare the models.

    Writes `comparison.json`, `comparison.md`, `predictions.parquet`, `classes.json`, `calibration.json`,
    `slices.json`, with a champion `flips.json`, and pictures.

    Args:
        data: Prepared task data set. Scores are of its test rows; temperatures are fitted on its validation rows.
        teacher: Fine-tuned teacher.
        student: Exported student, measured in each of its variants.
        config: Batch sizes, timed runs, threads, resamples.
        out: Directory to write.
        on_metrics: Told the numbers.
        baseline: The student's shape without distillation.
        champion: Package of the current champion; it is measured in the variant it serves, and left out where its
            labels are not the data's.
        champion_data: Data set the champion was trained on. Test rows that stand among its training rows count
            neither in flips nor in the champion's slices, and are marked in `predictions.parquet`.

    Returns:
        `<model>_<key>` for the numbers of each model in `comparison.json`, and retention (student accuracy / teacher
        accuracy) and speedup (teacher latency / student latency).

    Raises:
        ModelError: A model's labels are not the data's, or its logits not finite.
    """
    task = TaskData(data)
    left_out = _other_labels(champion, task.labels)
    directories = {"teacher": teacher, "student": student, "baseline": baseline, "champion": champion}
    found = {name: d for name, d in directories.items() if d and not (name == "champion" and left_out)}
    contestants = _contestants(task, found, config.threads or torch.get_num_threads())
    rows = _columns(task, "test")
    seen = np.zeros(len(rows["label"]), bool)
    if champion_data and "champion" in found:
        seen = breakdown.seen(rows, TaskData(champion_data).rows("train"))
    tokens = cost.token_counts(contestants["student"].tokenizer, rows, task.max_length)
    said, broken = _answers(task, contestants, rows, config.batch_size)
    contestants = {name: contestants[name] for name in said}
    table = _table(said, np.asarray(rows["label"]), len(task.labels), config)
    for name, numbers in _costs(contestants, rows, tokens, config).items():
        table[name] |= numbers
    comparison = {
        **table,
        "retention": ratio(table["student"]["accuracy"], table["teacher"]["accuracy"]),
        "speedup": ratio(table["teacher"]["latency_ms"], table["student"]["latency_ms"]),
        **_circumstances(task, contestants, len(tokens), config),
        "seen_by_champion": int(seen.sum()),
        **({"champion_left_out": left_out} if left_out else {}),
        **({"variants_left_out": broken} if broken else {}),
    }
    _write_json(out / "comparison.json", comparison)
    write_table(comparison, out / "comparison.md")
    pictures.draw_comparison(table, out / "comparison.png")
    logits = {name: entry.logits.numpy() for name, entry in said.items()}
    breakdown.write_predictions(rows, seen, logits, out / "predictions.parquet")
    _write_breakdown(task, rows, tokens, said, seen, config.examples, out)
    metrics = {f"{name}_{key}": float(value) for name, values in table.items() for key, value in values.items()}
    metrics |= {key: comparison[key] for key in ("retention", "speedup")}
    on_metrics(metrics, 0)
    return metrics


def _other_labels(champion: Path | None, labels: list[str]) -> str | None:
    """Why the champion cannot be compared; None where it can."""
    if champion is None or (own := Released.read(champion).labels) == labels:
        return None
    return f"it answers with other labels ({_listed(own)}) than the data has ({_listed(labels)})."


def _listed(labels: list[str]) -> str:
    return ", ".join(labels[:5]) + (f" and {len(labels) - 5} more" if len(labels) > 5 else "")


def _contestants(task: TaskData, directories: Mapping[str, Path], threads: int) -> dict[str, Contestant]:
    """The models in the table's order.

    Raises:
        ModelError: A model's labels are not the data's.
    """
    found = {}
    for name, directory in directories.items():
        check_teacher_labels(directory, task.labels)
        network, tokenizer = load_classifier(directory).eval(), load_tokenizer(directory)
        max_length, variants = task.max_length, {name: TORCH}
        if name == "student":
            variants |= {variant: variant for variant in (ONNX, INT8) if variant in Released.read(directory).variants}
        if name == "champion":
            max_length, variants = Released.read(directory).max_length, {name: Released.read(directory).default}
        for shown, variant in variants.items():
            model = network if variant == TORCH else load_variant(directory, variant, threads)
            loaded = variant if isinstance(model, OnnxClassifier) else TORCH
            if shown in (name, loaded):  # without onnxruntime torch stands in, and must not pass for onnx
                found[shown] = Contestant(model, tokenizer, max_length, network, cost.megabytes(directory, loaded))
    return found


def _columns(task: TaskData, split: str) -> dict[str, Any]:
    """The rows of a split by column."""
    columns: dict[str, Any] = task.rows(split).select_columns(list(COLUMNS))[:]
    return columns


def _answers(
    task: TaskData, contestants: Mapping[str, Contestant], rows: dict[str, Any], batch_size: int
) -> tuple[dict[str, Answers], dict[str, str]]:
    """What each model says about the test rows, calibrated on the validation rows; and why variants are left out."""
    labels = np.asarray(rows["label"])
    held_out = None if task.test_is_validation else _columns(task, "validation")
    found, broken = {}, {}
    for name, contestant in contestants.items():
        try:
            logits_NC, predicted = _answer(name, contestant, rows, batch_size)
        except ModelError as error:
            if name not in (ONNX, INT8):
                raise
            broken[name] = str(error)
            continue
        fitted_on = (logits_NC, labels)
        if held_out is not None:
            fitted_on = (_answer(name, contestant, held_out, batch_size)[0], np.asarray(held_out["label"]))
        temperature = calibration.fit_temperature(*fitted_on)
        calibrated = calibration.calibrated(logits_NC, labels, temperature)
        found[name] = Answers(logits_NC, predicted, calibration.probabilities(logits_NC, temperature), calibrated)
    return found, broken


def _answer(
    name: str, contestant: Contestant, rows: dict[str, Any], batch_size: int
) -> tuple[Tensor, NDArray[np.int64]]:
    model, tokenizer, most = contestant.model, contestant.tokenizer, contestant.max_length
    logits_NC = predict(model, tokenizer, rows, most, batch_size, precision="fp32")
    return logits_NC, answers(logits_NC.numpy(), name)


def _table(
    said: Mapping[str, Answers], labels: NDArray[np.int64], classes: int, config: EvaluateConfig
) -> dict[str, dict[str, float]]:
    """Of each model its scores with their intervals, its calibration, and its agreement with the teacher."""
    table: dict[str, dict[str, float]] = {}
    for name, entry in said.items():
        numbers = table[name] = {}
        for key, metric in METRICS.items():
            statistics_NK = metric.statistics(labels, entry.predicted, classes)
            numbers[key] = float(metric.value(statistics_NK.sum(axis=0)))
            ends = interval(metric, statistics_NK, config.confidence, config.resamples, config.seed)
            numbers |= {f"{key}_low": ends[0], f"{key}_high": ends[1]}
        numbers |= {key: entry.calibration[key] for key in ("ece", "ece_calibrated", "temperature")}
        numbers["agreement"] = breakdown.agreement(entry.predicted, said["teacher"].predicted)
    return table


def _costs(
    contestants: Mapping[str, Contestant], rows: dict[str, Any], tokens: NDArray[np.int64], config: EvaluateConfig
) -> dict[str, dict[str, float]]:
    """Of each model parameters, gigaflops, megabytes, and what is timed with all models taking turns."""

    def calls(batch: int) -> dict[str, cost.Call]:
        return {
            name: cost.answering(c.model, c.tokenizer, c.max_length, rows, batch) for name, c in contestants.items()
        }

    batch, singles = config.throughput_batch, calls(1)
    with cost.torch_threads(config.threads):
        latencies = cost.latencies(singles, config.latency_runs)
        throughputs = cost.throughputs(calls(batch), batch, config.throughput_runs, singles)
    length = round(float(tokens.mean()))
    return {
        name: {
            "parameters": float(contestant.network.num_parameters()),
            "gigaflops": cost.gigaflops(contestant.network, length),
            "megabytes": contestant.megabytes,
            **latencies[name],
            "throughput": throughputs[name],
        }
        for name, contestant in contestants.items()
    }


def _circumstances(
    task: TaskData, contestants: Mapping[str, Contestant], rows: int, config: EvaluateConfig
) -> dict[str, Any]:
    """What the numbers were measured on, and how."""
    on_cpu = [name for name, contestant in contestants.items() if contestant.model.device.type == "cpu"]
    split = 0 < len(on_cpu) < len(contestants)
    return {
        "rows": rows,
        "test_is_validation": task.test_is_validation,
        "labels": task.labels,
        "confidence": config.confidence,
        "throughput_batch": config.throughput_batch,
        "threads": config.threads or torch.get_num_threads(),
        "device": cost.device_name() + (f" ({', '.join(on_cpu)} on the CPU)" if split else ""),
    }


def _write_breakdown(
    task: TaskData,
    rows: dict[str, Any],
    tokens: NDArray[np.int64],
    said: Mapping[str, Answers],
    seen: NDArray[np.bool_],
    examples: int,
    out: Path,
) -> None:
    """What is told of single classes, bins, slices and rows."""
    labels, names = np.asarray(rows["label"]), task.labels
    classes = {name: breakdown.per_class(labels, entry.predicted, names) for name, entry in said.items()}
    calibrations = {name: entry.calibration for name, entry in said.items()}
    right = {name: entry.predicted == labels for name, entry in said.items()}
    group = task.manifest.get("slice_by") or "group"
    _write_json(out / "classes.json", classes)
    _write_json(out / "calibration.json", calibrations)
    _write_json(out / "slices.json", breakdown.slices(rows, tokens, right, {"champion": ~seen}, names, group))
    if "champion" in said:
        shares = (said["student"].probabilities, said["champion"].probabilities)
        _write_json(out / "flips.json", breakdown.flips(rows, *shares, ~seen, names, examples))
    pictures.draw_reliability(calibrations, out / "reliability.png")
    for name, entry in said.items():
        pictures.draw_confusion(labels, entry.predicted, names, name, out / f"confusion_{name}.png")


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(run)
