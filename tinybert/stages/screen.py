"""The augmented copies held against the teacher: those it contradicts or doubts go, and a report tells of all.

Kinds of task of which more or less is all there is (`TaskKind.judged`) keep all copies; the report is the same.
"""

from itertools import islice, repeat
from pathlib import Path
from typing import Any

from tinybert.augment_config import QualityConfig
from tinybert.augmentation.quality import KEPT, beside_their_rows, judge, stream
from tinybert.augmentation.survey import Survey, draw, metrics_of, report, write_examples
from tinybert.cli import main
from tinybert.data import RowWriter, TaskData, write_manifest
from tinybert.errors import DataError
from tinybert.progress import OnMetrics, Progress, logger
from tinybert.teacher_cache import TeacherCache, row_keys

CURES = {
    "held_out": "validation and test rows are too much like training rows; name others in data.validation_source and "
    "data.test_source",
    "duplicate": "raise augment.probability or augment.candidates, so that copies differ",
    "near_duplicate": "raise quality.similarity or augment.probability",
    "flipped": "set quality.flipped to relabel or keep, or lower augment.probability",
    "unsure": "lower quality.confidence, or set quality.unsure to keep",
}
"""What to change where most copies are dropped for a reason."""


def run(
    *, data: Path, config: QualityConfig, out: Path, on_metrics: OnMetrics, targets: Path | None = None
) -> dict[str, float]:
    """Choose among the copies by what the teacher says of them. The original rows all stay, as they are.

    Args:
        data: Rows and their copies, as the stage `gather` joins them.
        config: What becomes of copies with another label, and of unsure ones.
        out: Directory to write, in the same layout, with `augmentation.md`, `augmentation.png` and `examples.json`.
        on_metrics: Told the numbers.
        targets: The teacher's answers for exactly these (`tinybert.teacher_cache`); None for a kind of task whose
            copies no teacher can judge.

    Returns:
        rows (with the copies), asked, made, kept, dropped_<reason>, words_replaced, vocabulary_growth; where copies are
        judged, relabelled and flip_rate as well.

    Raises:
        DataError: The targets belong to other rows or labels, or are missing or of no use; or `data` was not gathered.
    """
    task, answers = TaskData(data), TeacherCache(targets) if targets else None
    gathered, originals = _gathered(task)
    _check(task, answers)
    survey = Survey(task.kind, task.labels, gathered)
    with RowWriter(out / "train.arrow", task.kind) as writer:
        _choose(task, originals, answers, config, survey, writer)
    task.copy_held_out(out)
    summary = survey.summary()
    write_manifest(out, **task.described(), original_rows=originals, augmentation=summary)
    (out / "augmentation.md").write_text(report(summary, survey.examples), encoding="utf-8")
    write_examples(survey.examples, out / "examples.json")
    draw(summary, out / "augmentation.png")
    metrics = {"rows": float(writer.count), **metrics_of(summary)}
    _warn_if_none_is_kept(metrics)
    on_metrics(metrics, 0)
    return metrics


def _gathered(task: TaskData) -> tuple[dict[str, Any], int]:
    """What `gather` counted, and how many rows are no copies."""
    manifest = task.manifest
    if "augmentation" not in manifest:
        raise DataError("the data's manifest says nothing of copies; run the stage `gather` first")
    return manifest["augmentation"], manifest["original_rows"]


def _check(task: TaskData, answers: TeacherCache | None) -> None:
    """Hold the teacher's answers against the rows and their kind."""
    if answers is None:
        if task.kind.judged:
            raise DataError(f"copies of a task of kind {task.kind.name} are judged by the teacher; give its targets")
        return
    if not task.kind.judged:
        raise DataError(
            f"copies of a task of kind {task.kind.name} keep their rows' labels, whatever a teacher says of them; "
            "leave the targets out"
        )
    answers.check(row_keys(task.rows("train"), task.max_length))
    told_apart = answers.logits.shape[1]
    if told_apart != len(task.labels):
        raise DataError(
            f"the teacher tells {told_apart} labels apart, but the data has {len(task.labels)}: "
            f"{', '.join(task.labels)}; fine-tune it on this data"
        )


def _choose(
    task: TaskData,
    originals: int,
    answers: TeacherCache | None,
    config: QualityConfig,
    survey: Survey,
    writer: RowWriter,
) -> None:
    """Write the rows, and the copies that are kept."""
    rows = task.rows("train")
    every, said = stream(rows), answers.opinions() if answers else repeat((None, None))
    for row in islice(every, originals):
        survey.add_row(row, next(said)[0])
        writer.add(*row)
    progress, done = Progress("screen", len(rows) - originals, unit="copy"), 0
    for row, group in beside_their_rows(every, rows):
        for copy in group:
            answer, confidence = next(said)
            fate = "kept" if confidence is None else judge(copy.label, answer, confidence, config)
            survey.add_copy(row, copy, answer, confidence, fate)
            if fate in KEPT:
                writer.add(*copy._replace(label=answer if fate == "relabelled" else copy.label))
        done += len(group)
        progress.update(done)


def _warn_if_none_is_kept(metrics: dict[str, float]) -> None:
    dropped = {reason: count for reason in CURES if (count := metrics.get(f"dropped_{reason}", 0.0))}
    if dropped and not metrics["kept"]:
        counts = ", ".join(f"{reason} {count:.0f}" for reason, count in dropped.items())
        cure = CURES[max(dropped, key=dropped.__getitem__)]
        logger.warning(
            "screen  all %d copies were dropped (%s), so the student sees the original rows only: %s",
            metrics["made"],
            counts,
            cure,
        )


if __name__ == "__main__":
    main(run)
