"""What a run will take of this machine, as far as its rows can tell before it: rows, disk, memory, speed."""

import importlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from tasks import sources
from tasks.data import Sources
from tasks.masking import masked
from tasks.policy import stage_module
from tasks.settings import settings
from tinybert.config import DistillConfig
from tinybert.errors import InputError
from tinybert.estimate import GIGABYTE, Amounts, StageCost, estimate
from tinybert.estimate_encoder import Encoder
from tinybert.preflight_report import Finding, Speed, Status, total_gigabytes

NARROW, WIDE = 2, 4
"""Bytes of a number in bf16, and in fp32."""


@dataclass(frozen=True)
class Look:
    """What the rows and the models say of a run."""

    config: DistillConfig
    teacher: Path
    encoders: tuple[Encoder, Encoder]
    """Teacher and student."""
    findings: list[Finding]
    amounts: Amounts | None

    def costs(self, amounts: Amounts) -> list[StageCost]:
        """Of each stage, with numbers as wide and slices as large as this machine computes them."""
        precision = importlib.import_module("tinybert.precision")
        where = precision.device()
        width = NARROW if precision.use_bf16(where, self.config.layers.optim.precision) else WIDE
        most = importlib.import_module("tinybert.gradients").slice_tokens(where)
        return estimate(self.config, *self.encoders, amounts, width, most)


class _Places(NamedTuple):
    """The sources on this machine."""

    data: Path
    teacher: Path
    validation: Path | None
    test: Path | None
    student: Path | None
    corpus: Path | None

    @classmethod
    def of(cls, found: Sources) -> "_Places":
        named = (found.validation, found.test, found.student, found.corpus)
        optional = [sources.local(ref) if ref else None for ref in named]
        return cls(sources.local(found.data), sources.local(found.teacher), *optional)

    @property
    def models(self) -> tuple[Path, Path | None]:
        return self.teacher, self.student


def glimpsed_rows(config: DistillConfig, found: Sources, unreadable: Status = "warning") -> Look:
    """Rows as they stand in the sources, counted for a second or two.

    Args:
        config: Of the run.
        found: Its sources.
        unreadable: What it is that rows cannot be read; `prepare` will say it again.
    """
    look, places = _module(), _Places.of(found)
    splits = look.Splits(places.data, places.validation, places.test)
    try:
        amounts = look.glimpsed(config, splits, *places.models, places.corpus)
        rows = _rows(amounts)
    except InputError as error:
        mend = "the stage prepare will not take them either; python -m flows.doctor says all that is wrong"
        amounts, rows = None, Finding(what="rows", status=unreadable, found=str(error), mend=mend)
    return Look(config, places.teacher, look.encoders(config, *places.models), [rows], amounts)


def examined_rows(config: DistillConfig, found: Sources) -> Look:
    """Rows prepared as the run will have them, their labels, and what a given teacher says to some of them."""
    look, places = _module(), _Places.of(found)
    with TemporaryDirectory() as directory:
        prepared = Path(directory)
        try:
            _prepare(config, found.labels, places, prepared)
        except InputError as error:
            amounts, findings = None, [Finding(what="rows", status="wrong", found=str(error))]
        else:
            amounts = look.counted(config, prepared, *places.models, places.corpus)
            findings = [_rows(amounts), _labels(prepared)]
            if config.teacher.fine_tuned:
                findings.append(_teacher(config, prepared, places.teacher))
    return Look(config, places.teacher, look.encoders(config, *places.models), findings, amounts)


def _module() -> Any:
    """Loaded when it is needed, as stages are: it brings torch."""
    importlib.import_module("tinybert.libraries").quiet()
    return importlib.import_module("tinybert.preflight")


def _prepare(config: DistillConfig, labels: list[str], places: _Places, out: Path) -> None:
    importlib.import_module(stage_module("prepare")).run(
        source=places.data,
        validation=places.validation,
        test=places.test,
        config=config.data,
        out=out,
        on_metrics=lambda metrics, step: None,
        order=labels,
    )


def _rows(amounts: Amounts) -> Finding:
    about = "" if amounts.exact else "about "
    found = (
        f"{about}{amounts.train:,} training, {amounts.validation:,} validation and {amounts.test:,} test rows of "
        f"{amounts.tokens:.0f} tokens in the mean"
    )
    copies = f"; {amounts.copies} copies of each training row" if amounts.copies else ""
    corpus = f"; a corpus of {amounts.sequences:,} sequences" if amounts.sequences else ""
    return Finding(what="rows", status="ok", found=f"{found}{copies}{corpus}")


def _labels(prepared: Path) -> Finding:
    labels = importlib.import_module("tinybert.data").TaskData(prepared).labels
    return Finding(what="labels", status="ok", found=", ".join(labels[:20]) + (" ..." if len(labels) > 20 else ""))


def _teacher(config: DistillConfig, prepared: Path, teacher: Path) -> Finding:
    """The score of a given teacher on some validation rows."""
    optim, floor = config.logits.optim, config.fine_tune.floor
    try:
        score = _module().check_sample(prepared, teacher, optim.precision, floor)
    except InputError as error:
        return Finding(what="teacher", status="wrong", found=str(error))
    above = "" if floor is None else ", above fine_tune.floor"
    found = f"{config.data.score} {score:.1%} on {_module().ASKED} validation rows at most{above}"
    return Finding(what="teacher", status="ok", found=found)


# This machine ---------------------------------------------------------------------------------------------------------


def check_disk(costs: list[StageCost]) -> Iterator[Finding]:
    """Room for all that is written: too little for one stage is wrong, too little for all a warning, as some may be
    cached."""
    total, largest = total_gigabytes(costs), max(cost.gigabytes + cost.scratch_gigabytes for cost in costs)
    work, root = _existing(settings().work), settings().store  # which may be one that cannot be opened
    yield _room("disk", work, largest, total, "TINYBERT_WORK")
    if root.startswith("file:"):
        kept = _existing(Path(root.removeprefix("file:")))
        if kept.stat().st_dev != work.stat().st_dev:
            yield _room("disk of the store", kept, largest, total, "TINYBERT_STORE")


def _existing(path: Path) -> Path:
    """A directory, or the nearest above it that is there."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())


def _room(what: str, place: Path, largest: float, total: float, variable: str) -> Finding:
    free = shutil.disk_usage(place).free / GIGABYTE
    found = f"{free:,.3g} GB free at {place}; about {total:.2g} GB will be written, at most {largest:.2g} by one stage"
    status = "wrong" if free < largest else "warning" if free < total else "ok"
    mend = "" if status == "ok" else f"free space, or set {variable} to a larger disk"
    return Finding(what=what, status=status, found=found, mend=mend)


def check_memory(config: DistillConfig, costs: list[StageCost]) -> Finding:
    """Memory for the stage that takes most: a batch that does not fit is sliced, a row that does not is wrong."""
    if config.launch.engine == "ray":
        return Finding(what="memory", status="ok", found="that of the cluster's machines is not known here")
    cuda = importlib.import_module("tinybert.precision").device().type == "cuda"
    shared = 1 if cuda else config.launch.processes  # GPUs have their own memory each
    free = importlib.import_module("tinybert.warm_up").free_memory() / GIGABYTE
    stage = max(costs, key=lambda cost: cost.memory_gigabytes)
    least = shared * max(cost.least_gigabytes for cost in costs)
    most = shared * stage.memory_gigabytes
    found = f"{free:,.3g} GB free; {stage.name} takes about {most:.2g} GB, {least:.2g} with its batch in slices"
    if free < least:
        mend = "use a smaller model, shorter data.max_length, or a machine with more memory"
        return Finding(what="memory", status="wrong", found=found, mend=mend)
    if free < most:
        mend = f"stages slice their batches by themselves; set {stage.name}.optim.accumulation to do so from the start"
        return Finding(what="memory", status="warning", found=found, mend=mend)
    return Finding(what="memory", status="ok", found=found)


def warm_up(config: DistillConfig, look: Look, seconds: float) -> tuple[Finding, Speed | None]:
    """How fast this machine trains."""
    assert look.amounts is not None
    length = min(config.data.max_length, max(2, round(look.amounts.tokens)))
    try:
        found = importlib.import_module("tinybert.warm_up").measure(look.teacher, config.layers.optim, length, seconds)
    except Exception as error:  # what is only for information must not end a run
        reason = masked(str(error)).strip().partition("\n")[0][:200]
        return Finding(what="speed", status="warning", found=f"cannot be measured: {reason}"), None
    return Finding(what="speed", status="ok", found=str(found)), found
