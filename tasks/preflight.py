"""The first task of every run: what would make it fail later is looked for now, all of it, and its cost is estimated.

`flows/doctor.py` asks for more of the same, `flows/suite.py` for all its runs at once, flows that distil nothing
themselves for the services alone. Every check ends as a row; only the tasks raise, after the last of them.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from prefect import Task
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from pydantic import BaseModel

from tasks import sources
from tasks.bucket import impatient
from tasks.data import Sources, resolve_sources
from tasks.policy import quick_task
from tasks.preflight_costs import Look, check_disk, check_memory, examined_rows, glimpsed_rows, warm_up
from tasks.preflight_services import failed, services, tried
from tasks.progress_page import offer
from tasks.settings import settings
from tinybert.checks import model_checks, taught_labels
from tinybert.config import DistillConfig
from tinybert.errors import InputError, IntegrityError, TransientError
from tinybert.preflight_report import DoctorReport, Finding, Speed
from tinybert.refs import ModelRef, Ref, SourceRef, VectorsRef
from tinybert.suite_config import SuiteConfig

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("tinybert")

AGAIN = 1
"""How often preflight begins anew where all that is wrong may pass: what is down is to be told of within a minute."""
SECONDS = 3.0
"""Of warm-up steps before a run."""
THOROUGH_SECONDS = 15.0
"""Of warm-up steps where somebody asks for nothing else."""


class Preflight(BaseModel):
    """What was found, and the sources, which are pinned by then."""

    report: DoctorReport
    sources: Sources


def _first_task(function: Callable[P, R]) -> Task[P, R]:
    """A quick task with less patience than others have."""
    return quick_task("preflight")(function).with_options(retries=AGAIN)


@_first_task
def preflight(config: DistillConfig) -> Preflight:
    """Look at everything a run needs, and estimate what it will cost. Needs no accelerator slot.

    Raises:
        InputError: Something is wrong; the message names all of it.
        TransientError: What is wrong may be gone in a moment.
    """
    report, found = examine(config, thorough=False)
    _conclude(report)
    assert found is not None, "where a source is missing, something is wrong"
    return Preflight(report=report, sources=found)


@_first_task
def preflight_services(
    name: str, trains: bool = False, models: Sequence[str] | None = None, stores: bool = True
) -> None:
    """Look at the services a run needs, whatever it does. Needs no accelerator slot.

    Args:
        name: Of the run.
        trains: It takes an accelerator slot.
        models: Registered models whose champion it may change. Where there is a list, be it empty, MLflow's answers
            decide what the run does; None: it only tells MLflow what it does, which can wait.
        stores: It uses the store.

    Raises:
        InputError: Something is wrong; the message names all of it.
        TransientError: What is wrong may be gone in a moment.
    """
    with impatient():
        _conclude(DoctorReport.of(name, services(models or [], trains, stores, models is not None), []))


@_first_task
def preflight_suite(config: SuiteConfig) -> None:
    """Look at everything that the runs of a suite need, before the first of them begins. Needs no accelerator slot.

    Rows that cannot be read are wrong here: their stage `prepare` may be days away. Nothing is estimated.

    Raises:
        InputError: Something is wrong; the message names all of it, and the tasks.
        TransientError: What is wrong may be gone in a moment.
    """
    runs = config.runs()
    published = [form.publish.name or form.name for form in runs.values() if form.publish.enabled]
    told: dict[Finding, list[str]] = {}
    with impatient(), sources.looked_at_once():
        findings = services(published)
        for task, form in runs.items():
            mine, _, look = _look(form, partial(glimpsed_rows, unreadable="wrong"))
            if config.launch.engine != "ray":  # else this machine's disk and memory say little
                mine += _room(form, look)
            for finding in mine:
                told.setdefault(finding, []).append(task)
    for finding, tasks in told.items():
        findings.append(finding.model_copy(update={"what": f"{finding.what} ({', '.join(tasks)})"}))
    _conclude(DoctorReport.of(config.name, findings, []))


@quick_task("examine")
def examine_run(config: DistillConfig) -> DoctorReport:
    """Look at everything a run needs, its rows and a given teacher too. Needs no accelerator slot."""
    report, _ = examine(config, thorough=True)
    _show(report)
    return report


def _conclude(report: DoctorReport) -> None:
    """Tell what was found, and end the run where something is wrong."""
    for line in report.lines():
        logger.info("preflight  %s", line)
    _show(report)
    if report.wrong:
        error = report.error()
        raise TransientError(str(error)) if all(finding.passing for finding in report.wrong) else error


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
    with impatient(), sources.looked_at_once():
        findings = services([config.publish.name or config.name] if config.publish.enabled else [])
        mine, found, look = _look(config, examined_rows if thorough else glimpsed_rows)
    findings += [*mine, *_room(config, look)]
    if look is None or look.amounts is None:
        return DoctorReport.of(config.name, findings, []), found
    speed = None
    if all(finding.status != "wrong" for finding in findings):
        fast, speed = _speed(config, look, THOROUGH_SECONDS if thorough else SECONDS)
        findings.append(fast)
    processes = config.launch.processes if speed and speed.cuda else 1  # on a CPU they share one speed
    return DoctorReport.of(config.name, findings, look.costs(look.amounts), look.amounts, speed, processes), found


def _look(
    config: DistillConfig, rows: Callable[[DistillConfig, Sources], Look]
) -> tuple[list[Finding], Sources | None, Look | None]:
    """What is to be said of a run's sources and rows; both, as far as nothing is wrong with them."""
    findings, found = check_sources(config)
    look = rows(config, found) if found is not None else None
    return findings + (look.findings if look else []), found, look


def _room(config: DistillConfig, look: Look | None) -> list[Finding]:
    """Whether this machine has the disk and the memory for what is known of a run."""
    if look is None or look.amounts is None:
        return []
    costs = look.costs(look.amounts)
    return [*check_disk(costs), check_memory(config, costs)]


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
        rows, told = _each_source(config), failed("form", error)
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

    rows = [tried(name, partial(pin, name, uri, kind)) for name, (uri, kind) in named.items() if uri]
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
    rows = [tried(name, partial(_called, check)) for name, check in checks.items()]
    return [finding for finding in rows if finding.status != "ok"]


def _called(check: Callable[[], object]) -> str:
    return str(check())
