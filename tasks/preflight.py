"""The first task of every run: what would make it fail later is looked for now, all of it, and its cost is estimated.

`flows/doctor.py` asks for more of the same. Every check ends as a row; only the task raises, after the last of them.
"""

import logging
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from pydantic import BaseModel

from tasks import sources
from tasks.connections import registry, store, tracker
from tasks.data import Sources, resolve_sources
from tasks.policy import quick_task
from tasks.preflight_costs import Look, check_disk, check_memory, examined_rows, glimpsed_rows, warm_up
from tasks.progress_page import offer
from tasks.settings import settings
from tasks.spool import without_credentials
from tinybert.checks import model_checks, taught_labels
from tinybert.config import DistillConfig
from tinybert.errors import InputError, IntegrityError, TransientError
from tinybert.preflight_report import DoctorReport, Finding, Speed
from tinybert.refs import ModelRef, Ref, SourceRef, VectorsRef

logger = logging.getLogger("tinybert")

SECONDS = 3.0
"""Of warm-up steps before a run."""
THOROUGH_SECONDS = 15.0
"""Of warm-up steps where somebody asks for nothing else."""


class Preflight(BaseModel):
    """What was found, and the sources, which are pinned by then."""

    report: DoctorReport
    sources: Sources


@quick_task("preflight")
def preflight(config: DistillConfig) -> Preflight:
    """Look at everything a run needs, and estimate what it will cost. Needs no accelerator slot.

    Raises:
        InputError: Something is wrong; the message names all of it.
        TransientError: What is wrong may be gone in a moment.
    """
    report, found = examine(config, thorough=False)
    for line in report.lines():
        logger.info("preflight  %s", line)
    _show(report)
    if report.wrong or found is None:
        error = report.error()
        raise TransientError(str(error)) if all(finding.passing for finding in report.wrong) else error
    return Preflight(report=report, sources=found)


@quick_task("examine")
def examine_run(config: DistillConfig) -> DoctorReport:
    """Look at everything a run needs, its rows and a given teacher too. Needs no accelerator slot."""
    report, _ = examine(config, thorough=True)
    _show(report)
    return report


def _show(report: DoctorReport) -> None:
    offer(
        create_markdown_artifact,
        report.markdown(),
        key="preflight",
        description=f"Before {report.name}: {report.summary}",
    )


def examine(config: DistillConfig, thorough: bool) -> tuple[DoctorReport, Sources | None]:
    """Every check there is, and the sources where nothing is wrong with them.

    Args:
        config: Of the run.
        thorough: The rows are prepared, and a given teacher answers some of them, which takes longer.
    """
    findings = [check_store(), *check_tracking(config), *check_limits(config)]
    pinned, found = check_sources(config)
    findings += pinned
    if found is None:
        return DoctorReport.of(config.name, findings, []), None
    look = (examined_rows if thorough else glimpsed_rows)(config, found)
    findings += look.findings
    if look.amounts is None:
        return DoctorReport.of(config.name, findings, []), found
    costs = look.costs(look.amounts)
    findings += [*check_disk(costs), check_memory(config, costs)]
    speed = None
    if all(finding.status != "wrong" for finding in findings):
        fast, speed = _speed(config, look, THOROUGH_SECONDS if thorough else SECONDS)
        findings.append(fast)
    processes = config.launch.processes if speed and speed.cuda else 1  # on a CPU they share one speed
    return DoctorReport.of(config.name, findings, costs, look.amounts, speed, processes), found


def _tried(what: str, check: Callable[[], str], mend: str = "") -> Finding:
    """A check that gives what it found, or raises what is wrong."""
    try:
        return Finding(what=what, status="ok", found=check())
    except (InputError, IntegrityError, TransientError) as error:
        return _wrong(what, error, mend)


def _wrong(what: str, error: Exception, mend: str = "") -> Finding:
    passing = isinstance(error, TransientError)
    return Finding(what=what, status="wrong", found=without_credentials(error), mend=mend, passing=passing)


# Services -------------------------------------------------------------------------------------------------------------


def check_store() -> Finding:
    """Write, read back and delete a small artifact. A run ends at once where that is not possible."""

    def probe() -> str:
        begun = time.monotonic()
        with TemporaryDirectory() as directory:
            written = uuid.uuid4().hex
            Path(directory, "probe").write_text(written)
            ref = store().put("preflight", Path(directory))
            if (store().get(ref) / "probe").read_text() != written:
                raise IntegrityError(f"{ref.uri}: what was read is not what was written")
            store().delete(ref)
        return f"{store().root}: written, read back and deleted in {time.monotonic() - begun:.1f} s"

    found = _tried("store", probe, "check TINYBERT_STORE, the AWS_* variables, and the rights to put, get and delete")
    return found.model_copy(update={"passing": False})


def check_tracking(config: DistillConfig) -> Iterator[Finding]:
    """MLflow answers; where it does not, a run goes on and is logged later, but cannot publish."""
    shown = without_credentials(settings().tracking_uri)
    try:
        tracker().experiment_id(settings().experiment)
    except InputError as error:
        yield Finding(what="MLflow", status="wrong", found=str(error), mend="set MLFLOW_TRACKING_URI")
        return
    except Exception as error:  # whatever mlflow and its HTTP client raise
        reason = without_credentials(error).splitlines()[0][:200]
        later = "logging will be delayed" + (", and publishing at the end needs it" if config.publish.enabled else "")
        mend = "start it, or set MLFLOW_TRACKING_URI"
        yield Finding(what="MLflow", status="warning", found=f"{shown}: {reason}; {later}", mend=mend)
        return
    yield Finding(what="MLflow", status="ok", found=f"{shown}: experiment {settings().experiment!r}")
    if config.publish.enabled:
        name = config.publish.name or config.name
        yield _tried("registry", lambda: f"{name!r} has {len(registry().model(name).versions)} versions")


def check_limits(config: DistillConfig) -> Iterator[Finding]:
    """The concurrency limits that stages and publishing occupy exist, and have slots."""
    named = {settings().slots: "TINYBERT_SLOTS"}
    if config.publish.enabled:
        named[settings().promotions] = "TINYBERT_PROMOTIONS"
    with get_client(sync_client=True) as client:
        for name, variable in named.items():
            make = f"prefect gcl create {name} --limit 1, or set {variable}"
            try:
                limit = client.read_global_concurrency_limit_by_name(name)
            except ObjectNotFound:
                yield Finding(what=f"limit {name}", status="wrong", found="Prefect has no such limit", mend=make)
                continue
            found = f"{limit.active_slots} of {limit.limit} slots are taken"
            if not limit.active:
                found, mend = "switched off: nothing is limited", f"prefect gcl enable {name}"
                yield Finding(what=f"limit {name}", status="warning", found=found, mend=mend)
            elif not limit.limit:
                mend = f"prefect gcl update {name} --limit 1"
                yield Finding(what=f"limit {name}", status="wrong", found="it has no slots", mend=mend)
            else:
                yield Finding(what=f"limit {name}", status="ok", found=found)


def _speed(config: DistillConfig, look: Look, seconds: float) -> tuple[Finding, Speed | None]:
    """Measured where the stages run, and nothing else does: another run's training would be slowed down, too."""
    if config.launch.engine == "ray":
        return Finding(what="speed", status="ok", found="that of the cluster's machines is not known here"), None
    with get_client(sync_client=True) as client:
        limit = client.read_global_concurrency_limit_by_name(settings().slots)
    if limit.active_slots >= limit.limit:
        return Finding(what="speed", status="ok", found="not measured, as another run is training"), None
    return warm_up(config, look, seconds)


# Sources --------------------------------------------------------------------------------------------------------------


def check_sources(config: DistillConfig) -> tuple[list[Finding], Sources | None]:
    """Everything the run reads is there and fits; where not, each source and each model check is looked at alone."""
    try:
        found = resolve_sources.fn(config)
    except (InputError, IntegrityError, TransientError) as error:
        rows, told = _each_source(config), _wrong("form", error)
        return (rows if any(finding.found == told.found for finding in rows) else [*rows, told]), None
    read = [name for name, value in found if isinstance(value, Ref)]
    return [Finding(what="sources", status="ok", found=f"found and pinned: {', '.join(read)}")], found


def _each_source(config: DistillConfig) -> list[Finding]:
    named: dict[str, tuple[str | None, type[Ref]]] = {
        "data.source": (config.data.source, SourceRef),
        "data.validation_source": (config.data.validation_source, SourceRef),
        "data.test_source": (config.data.test_source, SourceRef),
        "teacher.source": (config.teacher.source, ModelRef),
        "student.source": (config.student.source, ModelRef),
        "corpus.source": (config.corpus.source if config.needs_corpus else None, SourceRef),
    }
    if config.augment.enabled:
        asked = {recipe.kind for recipe in config.augment.recipes}
        used: dict[str, tuple[bool, type[Ref]]] = {
            "vectors": (config.augment.copies != 0, VectorsRef),
            "thesaurus": ("synonym" in asked, SourceRef),
            "translator": ("back_translation" in asked, ModelRef),
            "back_translator": ("back_translation" in asked, ModelRef),
        }
        given = config.augment.model_dump()
        named |= {f"augment.{name}": (given[name], kind) for name, (is_used, kind) in used.items() if is_used}
    pinned: dict[str, Ref] = {}

    def pin(name: str, uri: str, kind: type[Ref]) -> str:
        pinned[name] = sources.pin(uri, kind)
        return f"{uri} has digest {pinned[name].digest[:12]}"

    rows = [_tried(name, partial(pin, name, uri, kind)) for name, (uri, kind) in named.items() if uri]
    if "teacher.source" in pinned and ("student.source" in pinned or not config.student.source):
        student = pinned.get("student.source")
        rows += _each_fit(config, sources.local(pinned["teacher.source"]), sources.local(student) if student else None)
    return rows


def _each_fit(config: DistillConfig, teacher: Path, student: Path | None) -> list[Finding]:
    """What of the form does not fit the models."""
    try:
        checks = model_checks(config, teacher, student)
    except InputError as error:
        return [Finding(what="models", status="wrong", found=str(error))]
    if config.teacher.fine_tuned:
        checks["labels"] = partial(taught_labels, teacher)
    rows = [_tried(name, partial(_called, check)) for name, check in checks.items()]
    return [finding for finding in rows if finding.status != "ok"]


def _called(check: Callable[[], object]) -> str:
    return str(check())
