"""Teacher, student and its variants, baseline and champion on the same test rows and the same machine: one table."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tinybert import breakdown, calibration, cost, pictures
from tinybert.cli import main
from tinybert.contestants import Contestant, each, left_out, load_contestants
from tinybert.data import TaskData
from tinybert.kinds.task_kind import Answers, Features, TaskKind
from tinybert.plot_text import legend
from tinybert.progress import OnMetrics
from tinybert.release_config import EvaluateConfig
from tinybert.report import ratio, write_table
from tinybert.resampling import interval

COLUMNS = ("text", "text_pair", "label", "group")


@dataclass(frozen=True)
class Judged:
    """What a model says about the test rows."""

    answers: Answers
    """Confidence is calibrated."""
    calibration: dict[str, Any]
    """temperature, ece, ece_calibrated and bins; empty where there is nothing to calibrate."""
    features: Features
    """The rows as it reads them."""


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
    `slices.json`, pictures, and `flips.json` where there is a champion and answers are right or wrong.

    Args:
        data: Prepared task data set. Scores are of its test rows; temperatures are fitted on its validation rows. Its
            further tests are scored apart, and nothing else comes of them.
        teacher: Fine-tuned teacher.
        student: Exported student, measured in each of its variants.
        config: Batch sizes, timed runs, threads, resamples.
        out: Directory to write.
        on_metrics: Told the numbers.
        baseline: The student's shape without distillation.
        champion: Package of the current champion; it is measured in the variant it serves, and left out where its
            kind of task or its labels are not the data's.
        champion_data: Data set the champion was trained on. Test rows that stand among its training rows count
            neither in flips nor in the champion's slices, and are marked in `predictions.parquet`.

    Returns:
        `<model>_<key>` for the numbers of each model in `comparison.json`, and retention (the student's score / the
        teacher's) and speedup (teacher latency / student latency).

    Raises:
        ModelError: A model's labels are not the data's, or its logits not finite.
    """
    task = TaskData(data)
    foreign = left_out(champion, task)
    directories = {"teacher": teacher, "student": student, "baseline": baseline, "champion": champion}
    found = {name: d for name, d in directories.items() if d and not (name == "champion" and foreign)}
    contestants = load_contestants(task, found, config.threads or torch.get_num_threads())
    rows = _columns(task, "test")
    seen = np.zeros(len(rows["label"]), bool)
    if champion_data and "champion" in found:
        seen = breakdown.seen(rows, TaskData(champion_data).rows("train"))
    judged, broken = each(contestants, lambda name, one: _judged(name, one, task, rows, config.batch_size))
    contestants = {name: contestants[name] for name in judged}
    table = _table(task, judged, rows["label"], config)
    for name, numbers in _costs(task.kind, contestants, rows, judged["student"].features, config).items():
        table[name] |= numbers
    others = {name: _scored(task, name, contestants, config) for name in task.other_tests}
    comparison = {
        **table,
        "retention": ratio(table["student"][task.metric], table["teacher"][task.metric]),
        "speedup": ratio(table["teacher"]["latency_ms"], table["student"]["latency_ms"]),
        **_circumstances(task, contestants, len(seen), config),
        "seen_by_champion": int(seen.sum()),
        **({"champion_left_out": foreign} if foreign else {}),
        **({"variants_left_out": broken} if broken else {}),
        **({"other_tests": others} if others else {}),
    }
    _write_json(out / "comparison.json", comparison)
    numbered = _write_breakdown(task, rows, judged, seen, config.examples, out)
    write_table(comparison, out / "comparison.md", numbered)
    pictures.draw_comparison(table, task.metric, out / "comparison.png")
    metrics = {f"{name}_{key}": float(value) for name, values in table.items() for key, value in values.items()}
    metrics |= {key: comparison[key] for key in ("retention", "speedup")}
    on_metrics(metrics, 0)
    return metrics


def _columns(task: TaskData, split: str) -> dict[str, Any]:
    """The rows of a split by column."""
    columns: dict[str, Any] = task.rows(split).select_columns(list(COLUMNS))[:]
    return columns


def _judged(name: str, contestant: Contestant, task: TaskData, rows: dict[str, Any], batch_size: int) -> Judged:
    """What a model says about the test rows, calibrated on the validation rows."""
    kind, said = task.kind, contestant.said(name, task.kind, rows, batch_size)
    made = kind.decisions(said.logits, said.features, rows["label"])
    if made is None:
        return Judged(Answers(said.answers, said.confidence), {}, said.features)
    fitted_on = made
    if not task.test_is_validation:
        held_out = _columns(task, "validation")
        before = contestant.said(name, kind, held_out, batch_size)
        fitted_on = kind.decisions(before.logits, before.features, held_out["label"]) or made
    temperature = calibration.fit_temperature(*fitted_on)
    confidence = kind.answers(said.logits / temperature, said.features, rows).confidence
    return Judged(Answers(said.answers, confidence), calibration.calibrated(*made, temperature), said.features)


def _table(
    task: TaskData, judged: Mapping[str, Judged], labels: Sequence[Any], config: EvaluateConfig
) -> dict[str, dict[str, float]]:
    """Of each model its scores with their intervals, its calibration, and its agreement with the teacher."""
    taught, metric = task.kind.as_labels(judged["teacher"].answers.values), task.kind.metrics[task.metric]
    table: dict[str, dict[str, float]] = {}
    for name, entry in judged.items():
        calibrated = {key: value for key, value in entry.calibration.items() if key != "bins"}
        agreement = metric.score(taught, entry.answers.values, task.labels)
        table[name] = {**_scores(task, labels, entry.answers.values, config), **calibrated, "agreement": agreement}
    return table


def _scores(task: TaskData, labels: Sequence[Any], values: Sequence[Any], config: EvaluateConfig) -> dict[str, float]:
    """Every score of answers, and the ends of its interval."""
    found = dict[str, float]()
    for name in _measured(task):
        metric = task.kind.metrics[name]
        statistics_NK = metric.statistics(labels, values, task.labels)
        low, high = interval(metric, statistics_NK, config.confidence, config.resamples, config.seed)
        score = float(metric.value(statistics_NK.sum(axis=0)))
        found |= {name: score, f"{name}_low": low, f"{name}_high": high}
    return found


def _measured(task: TaskData) -> list[str]:
    """The scores there are, the one that decides first."""
    return list(dict.fromkeys([task.metric, *task.kind.measured(task.labels)]))


def _scored(task: TaskData, test: str, contestants: Mapping[str, Contestant], config: EvaluateConfig) -> dict[str, Any]:
    """How many rows a further test has, and the scores of every model on them."""
    rows = _columns(task, f"test_{test}")

    def scores(name: str, contestant: Contestant) -> dict[str, float]:
        said = contestant.said(name, task.kind, rows, config.batch_size)
        return _scores(task, rows["label"], said.answers, config)

    return {"rows": len(rows["label"]), **each(contestants, scores)[0]}


def _costs(
    kind: TaskKind,
    contestants: Mapping[str, Contestant],
    rows: dict[str, Any],
    features: Features,
    config: EvaluateConfig,
) -> dict[str, dict[str, float]]:
    """Of each model parameters, gigaflops of a row, megabytes, and what is timed with all models taking turns."""

    def calls(batch: int) -> dict[str, cost.Call]:
        return {
            name: cost.answering(c.model, c.tokenizer, c.max_length, rows, batch, kind)
            for name, c in contestants.items()
        }

    batch, singles = config.throughput_batch, calls(1)
    with cost.torch_threads(config.threads):
        latencies = cost.latencies(singles, config.latency_runs)
        throughputs = cost.throughputs(calls(batch), batch, config.throughput_runs, singles)
    length, windows = round(float(features.lengths.mean())), len(features.lengths) / len(rows["label"])
    return {
        name: {
            "parameters": float(contestant.network.num_parameters()),
            "gigaflops": windows * cost.gigaflops(contestant.network, min(length, contestant.max_length)),
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
        "kind": task.kind.name,
        "metric": task.metric,
        "metrics": _measured(task),
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
    judged: Mapping[str, Judged],
    seen: NDArray[np.bool_],
    examples: int,
    out: Path,
) -> str:
    """What is told of single classes, bins, slices and rows; gives what the numbers in pictures stand for, if any."""
    kind, labels, names = task.kind, rows["label"], task.labels
    said = {name: entry.answers for name, entry in judged.items()}
    classes = {name: kind.per_class(labels, answers.values, names) for name, answers in said.items()}
    calibrations = {name: entry.calibration for name, entry in judged.items() if entry.calibration}
    tokens = cost.token_counts(judged["student"].features, len(labels))
    group, metric = task.manifest.get("slice_by") or "group", kind.metrics[task.metric]
    flips = breakdown.flips(kind, rows, said, ~seen, names, examples) if "champion" in said else None
    breakdown.write_predictions(kind, rows, seen, said, out / "predictions.parquet")
    _write_json(out / "classes.json", classes)
    _write_json(out / "calibration.json", calibrations)
    _write_json(out / "slices.json", breakdown.slices(rows, tokens, said, metric, {"champion": ~seen}, names, group))
    if flips:
        _write_json(out / "flips.json", flips)
    if calibrations:
        pictures.draw_reliability(calibrations, out / "reliability.png")
    return _draw_answers(kind, labels, said, names, out)


def _draw_answers(
    kind: TaskKind, labels: Sequence[Any], said: Mapping[str, Answers], names: Sequence[str], out: Path
) -> str:
    """Each model's answers against the right ones, where they are classes or numbers; gives what `legend` gives."""
    drawn: Sequence[str] = ()
    for name, answers in said.items():
        if confusion := kind.confusion(labels, answers.values, names):
            pictures.draw_confusion(*confusion, name, out / f"confusion_{name}.png")
            drawn = confusion[2]
        elif isinstance(labels[0], float):
            pictures.draw_scatter(labels, answers.values, name, out / f"scatter_{name}.png")
    return legend(drawn)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(run)
