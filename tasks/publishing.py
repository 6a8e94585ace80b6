"""Tasks that hand the student over: export, package, its version in the registry, promotion, and the way back."""

import getpass
import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Literal

from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run
from pydantic import BaseModel, ConfigDict

from tasks import sources
from tasks.connections import registry, store
from tasks.lineage import commit
from tasks.policy import cpu_stage, quick_task, slot
from tasks.progress_page import offer
from tasks.registry import CHAMPION, PREVIOUS, Registered, Version, make_servable
from tasks.settings import settings
from tasks.stage import open_stage, run_stage
from tinybert.config import DistillConfig
from tinybert.errors import SourceError, StoreError, TransientError
from tinybert.refs import DatasetRef, ModelRef, ModelResult, PublishResult, ReportRef
from tinybert.release_config import ExportConfig
from tinybert.released import COMPARED_AS

logger = logging.getLogger("tinybert")

Outcome = Literal["promoted", "rejected", "unchanged", "overtaken"]
STUDENT, AGAINST = "student.digest", "gate.against"
PROMOTED_BY, PROMOTED_AT = "promoted.flow_run_id", "promoted.at"
ROLLED_BACK_BY, FROM, TO = "rollback.flow_run_id", "rollback.from", "rollback.to"
"""Tags of a version."""
JUDGED = ("retention", "speedup", "megabytes", "latency_ms", "difference", "p_value")
SCORED = ("ece_calibrated",)
"""Numbers of the served variant that a version's tags tell, in decision.json, and beside its scores in
comparison.json."""


class Champion(BaseModel):
    """The published model that a student has to beat."""

    model_config = ConfigDict(frozen=True)

    version: str
    model: ModelRef
    data: DatasetRef | None
    """What it was trained on; None where its version does not tell."""
    student_digest: str


class RolledBack(BaseModel):
    """What a rollback did."""

    name: str
    withdrawn: str
    """The version that was champion, and is `previous` now."""
    restored: str
    """The version that is champion again."""
    reason: str
    at: str
    flow_run_id: str


@cpu_stage("export")
def export_student(data: DatasetRef, student: ModelRef, config: ExportConfig) -> ModelResult:
    """Write the student as a plain Hugging Face directory, with its ONNX variants beside."""
    return run_stage("export", ModelResult, data=data, student=student, config=config)


@cpu_stage("package")
def package_model(
    data: DatasetRef,
    teacher: ModelRef,
    student: ModelRef,
    report: ReportRef,
    decision: ReportRef,
    config: DistillConfig,
) -> ModelResult:
    """Make the directory that is registered, with all that MLflow needs to serve it."""
    inputs = {"data": data, "teacher": teacher, "student": student, "report": report, "decision": decision}
    with open_stage("package", **inputs, config=config) as stage:
        begun = time.monotonic()
        metrics = stage.compute()
        make_servable(stage.out)
        metrics["seconds"] = time.monotonic() - begun
        stage.run.log_metrics({f"final_{key}": value for key, value in metrics.items()}, 0)
        return stage.finish(ModelResult, metrics)


@quick_task("champion")
def find_champion(name: str, student: ModelRef) -> Champion | None:
    """The published model that the student has to beat, None where there is none.

    That is the champion; where the champion is this student, it is what the student was compared with when it was
    promoted. So a run that is repeated compares the same models, and finds everything cached.
    """
    return _opponent(registry().model(name), student)


def _opponent(model: Registered, student: ModelRef) -> Champion | None:
    found = model.find(CHAMPION)
    if found is not None and found.tags.get(STUDENT) == student.digest:
        found = model.find(found.tags[AGAINST]) if AGAINST in found.tags else None
    if found is None:
        return None
    tags = found.tags
    data = DatasetRef(uri=tags["data.uri"], digest=tags["data.digest"]) if "data.uri" in tags else None
    package = ModelRef(uri=found.uri, digest=found.digest)
    return Champion(version=found.number, model=package, data=data, student_digest=tags.get(STUDENT, ""))


@quick_task("publish")
def publish_model(
    name: str,
    package: ModelRef,
    student: ModelRef,
    data: DatasetRef,
    champion: Champion | None,
    decision: ReportRef,
    report: ReportRef,
    made_from: Mapping[str, str] | None = None,
) -> PublishResult:
    """Register the package as a version, and make it the champion where the gate lets it pass.

    The same content is registered once, however often it is run; its tags `made_from` tell of the newest run that made
    it. One publisher at a time, by a concurrency limit: where the champion is no longer the one the gate compared with,
    nothing is promoted.
    """
    judged = json.loads((sources.local(decision) / "decision.json").read_text(encoding="utf-8"))
    compared = json.loads((sources.local(report) / "comparison.json").read_text(encoding="utf-8"))
    metrics = _numbers(judged, compared)
    tags = _lineage({"student": student, "data": data, "report": report, "decision": decision})
    tags |= {key: f"{value:.6g}" for key, value in metrics.items()}
    tags |= {"verdict": judged["verdict"], "served": judged["served"]}
    tags |= {"kind": compared["kind"], "metric": compared["metric"]}
    tags |= {"gate.force": str(judged["force"])} if judged["forced"] else {}
    tags |= {AGAINST: champion.version} if champion else {}
    made_from = dict(made_from or {})
    with _promoting():
        version = registry().register(name, package.uri, package.digest, tags | made_from, judged["summary"])
        if not made_from.items() <= version.tags.items():
            registry().tag(name, version.number, {**made_from})
        outcome = _settle(name, version, student, champion, judged)
    logger.info("%s version %s: %s; %s", name, version.number, outcome, judged["summary"])
    return PublishResult(name=name, version=version.number, outcome=outcome, metrics=metrics)


def _numbers(judged: dict[str, Any], compared: dict[str, Any]) -> dict[str, float]:
    """Of the served variant, those there are."""
    served = compared[COMPARED_AS[judged["served"]]]
    found = {key: judged.get(key) for key in JUDGED}
    found |= {key: served.get(key) for key in (*compared["metrics"], *SCORED)}
    return {key: float(value) for key, value in found.items() if value is not None}


def _lineage(refs: dict[str, Any]) -> dict[str, str]:
    """What a version was made of, and by what."""
    tags = {f"{role}.{field}": getattr(ref, field) for role, ref in refs.items() for field in ("uri", "digest")}
    told = {**tags, "prefect.flow_run_id": str(flow_run.id or ""), "git.commit": commit()}
    return {key: value for key, value in told.items() if value}


@contextmanager
def _promoting() -> Iterator[None]:
    """Inside, nobody else moves a champion."""
    with slot(settings().promotions):
        yield


def _settle(name: str, version: Version, student: ModelRef, champion: Champion | None, judged: Any) -> Outcome:
    """Move the aliases as the decision wants it, and say what came of it."""
    model = registry().model(name)
    if model.aliases.get(CHAMPION) == version.number:
        registry().crown(name, version.number)  # completes what a kill may have left undone
        return "promoted" if flow_run.id and version.tags.get(PROMOTED_BY) == flow_run.id else "unchanged"
    opponent = _opponent(model, student)
    against = champion.version if champion else None
    passed = judged["verdict"] == "promote"
    withdrawn = withdrawal(model, student.digest) if passed and not judged["forced"] else None
    if withdrawn:
        logger.warning("%s: the student was %s; roll back to that version, or give gate.force", model.name, withdrawn)
    if not passed or withdrawn:
        registry().challenge(name, version.number)
        return "rejected"
    if against != (opponent.version if opponent else None):
        registry().challenge(name, version.number)
        return "overtaken"
    by = {PROMOTED_BY: flow_run.id, PROMOTED_AT: _now()}
    registry().tag(name, version.number, {AGAINST: against, TO: None, **by})
    registry().crown(name, version.number)
    return "promoted"


def withdrawal(model: Registered, student: str) -> str | None:
    """How somebody took the student of this digest back when it was champion; None where nobody did.

    A run that is merely repeated must not undo that.
    """
    for number, tags in model.versions.items():
        if tags.get(STUDENT) == student and TO in tags:
            return f"withdrawn as version {number} by a rollback ({tags.get('rollback.reason')})"
    return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@quick_task("rollback")
def restore_champion(name: str, version: str | None, reason: str) -> RolledBack:
    """Make the previous champion, or a version by its number, the champion; the one it replaces becomes `previous`.

    Raises:
        SourceError: There is no such model or version, no champion, nothing to go back to, or its files are gone.
    """
    with _promoting():
        model = registry().model(name)
        withdrawn, restored = _exchange(model, version)
        if withdrawn == restored:
            raise SourceError(f"models:/{name}: version {restored} is the champion already; name another version")
        if restored not in model.aliases.values():  # collection keeps what has an alias
            _check_files(name, model.get(restored))
        done = RolledBack(
            name=name,
            withdrawn=withdrawn,
            restored=restored,
            reason=reason,
            at=_now(),
            flow_run_id=str(flow_run.id or ""),
        )
        if model.aliases[CHAMPION] != restored:
            registry().tag(name, withdrawn, {TO: restored, FROM: None, **_record(done)})
            registry().tag(name, restored, {FROM: withdrawn, TO: None, **_record(done)})
        registry().crown(name, restored)
    _show(done)
    return done


def _exchange(model: Registered, version: str | None) -> tuple[str, str]:
    """Numbers of the version to be withdrawn, and of the one to be restored."""
    champion = model.get(CHAMPION)
    if flow_run.id and champion.tags.get(ROLLED_BACK_BY) == flow_run.id and FROM in champion.tags:
        return champion.tags[FROM], champion.number  # this run has done it, but MLflow's answer was lost
    if version is not None:
        return champion.number, model.get(version).number
    previous = model.find(PREVIOUS)
    if previous == champion:  # something was killed in the middle
        previous = model.find(champion.tags[TO]) if TO in champion.tags else None
    if previous is None:
        known = ", ".join(sorted(model.versions.keys() - {champion.number}, key=int))
        raise SourceError(
            f"models:/{model.name}: version {champion.number} has no previous champion to go back to; "
            + (f"name one of the versions {known}" if known else "there is no other version")
        )
    return champion.number, previous.number


def _check_files(name: str, version: Version) -> None:
    """Refuse a version whose files are gone; where the store cannot be asked, the way back stays open."""
    try:
        kept = store().holds(ModelRef(uri=version.uri, digest=version.digest))
    except (StoreError, TransientError) as error:
        logger.warning("%s version %s: not known whether its files are still there: %s", name, version.number, error)
        return
    if not kept:
        raise SourceError(
            f"models:/{name}: the files of version {version.number}, {version.uri}, are gone, collected perhaps; "
            "name another version, or run again what made it"
        )


def _record(done: RolledBack) -> dict[str, str | None]:
    """Tags of both versions."""
    user = ""
    with suppress(KeyError, OSError):  # a container may have a user without a name
        user = getpass.getuser()
    told = {
        ROLLED_BACK_BY: done.flow_run_id,
        "rollback.reason": done.reason,
        "rollback.at": done.at,
        "rollback.user": user,
    }
    return {key: value or None for key, value in told.items()}


def _show(done: RolledBack) -> None:
    said = f"{done.name}: version {done.restored} is champion again, {done.withdrawn} is previous; {done.reason}"
    logger.info("%s", said)
    offer(create_markdown_artifact, f"{said}\n", key="rollback", description=f"Rollback of {done.name}")
