"""The directory that is registered: the student in the variants that passed, calibrated, with card and evidence."""

import shutil
from pathlib import Path

from tinybert.cli import main
from tinybert.config import DistillConfig
from tinybert.cost import megabytes
from tinybert.data import TaskData
from tinybert.digest import list_files
from tinybert.errors import ModelError
from tinybert.model_card import Sources, card, read_json
from tinybert.progress import OnMetrics
from tinybert.released import COMPARED_AS, FILE, TORCH, Released
from tinybert.serving import Student

WRITTEN = {FILE, "README.md"}
"""Of the student's files those that a package has its own of."""


def run(
    *,
    data: Path,
    teacher: Path,
    student: Path,
    report: Path,
    decision: Path,
    config: DistillConfig,
    out: Path,
    on_metrics: OnMetrics,
) -> dict[str, float]:
    """Make the package; the same inputs give the same bytes.

    Args:
        data: Prepared task data set.
        teacher: The model that taught, for its digest and licence.
        student: Exported student.
        report: Its evaluation, for the temperatures and the card.
        decision: What the gate says of it: which variants are kept, which one is served.
        config: The run's form, for the card.
        out: Directory to write.
        on_metrics: Told the numbers.

    Returns:
        variants (how many), megabytes of the served one, and its temperature where answers are calibrated.

    Raises:
        ModelError: The gate serves a variant that the student does not have, or did not keep it; or the package does
            not answer.
    """
    released = _released(Released.read(student), read_json(decision / "decision.json"), report)
    kept = {variant.file for variant in released.variants.values()}
    dropped = {variant.file for variant in Released.read(student).variants.values()} - kept
    for name in list_files(student).keys() - dropped - WRITTEN:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(student / name, out / name)
    shutil.copyfile(report / "comparison.json", out / "evaluation.json")
    shutil.copyfile(decision / "decision.json", out / "decision.json")
    released.write(out)
    sources = Sources(data, teacher, student, report, decision)
    written = card(released, COMPARED_AS[released.default], config, sources)
    (out / "README.md").write_text(written, encoding="utf-8")
    _check_answer(out, released, data)
    metrics = {"variants": float(len(released.variants)), "megabytes": megabytes(out, released.default)}
    if COMPARED_AS[released.default] in read_json(report / "calibration.json"):
        metrics["temperature"] = released.variants[released.default].temperature
    on_metrics(metrics, 0)
    return metrics


def _released(exported: Released, decision: dict[str, object], report: Path) -> Released:
    """The kept variants, calibrated. Torch's stays whatever the gate says: its weights answer where ONNX cannot."""
    fates, served = decision["variants"], decision["served"]
    assert isinstance(fates, dict)
    names = [name for name in exported.variants if name == TORCH or fates.get(name, {}).get("kept")]
    if served not in names:
        raise ModelError(
            f"the decision serves {served!r}, but the student was exported and kept as {', '.join(names)}; "
            "evaluate and judge this student"
        )
    calibration = read_json(report / "calibration.json")
    variants = {name: exported.variants[name] for name in names}
    for name, variant in variants.items():
        if fitted := calibration.get(COMPARED_AS[name]):
            variants[name] = variant.model_copy(update={"temperature": fitted["temperature"]})
    return exported.model_copy(update={"default": served, "variants": variants})


def _check_answer(package: Path, released: Released, data: Path) -> None:
    """What is about to be registered answers a row of the data.

    Raises:
        ModelError: It does not.
    """
    row = TaskData(data).rows("test")[0]
    pairs = [row["text_pair"]] if released.pair else None
    [answer] = Student.load(package).answer([row["text"]], pairs)
    if answer.error is not None:
        raise ModelError(f"the package does not answer {row['text'][:40]!r} ({answer.error}); export the student again")


if __name__ == "__main__":
    main(run)
