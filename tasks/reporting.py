"""The last task of a run: its page, for people."""

import tempfile
from datetime import UTC, datetime
from pathlib import Path

from tasks import sources
from tasks.connections import store, tracker
from tasks.lineage import commit
from tasks.policy import quick_task
from tasks.spool import without_credentials
from tasks.summary import StageTime
from tinybert.page_words import RunFacts
from tinybert.refs import Ref, ReportRef, ReportResult
from tinybert.released import Released

FILE = "report.html"
PACKAGE = "package"
"""Stage whose output the page says how to use."""


@quick_task("report")
def write_report(
    name: str,
    report: ReportRef,
    decision: ReportRef,
    stages: dict[str, Ref],
    lineage: list[tuple[str, str, str]],
    timing: list[StageTime],
    outcome: str | None,
    registered: str | None,
    links: dict[str, str],
) -> ReportResult:
    """Write a run's page, `report.html`, into the store. While MLflow is out it has no curves, and says so.

    Args:
        name: Of the run.
        report: Of the stage evaluate.
        decision: Of the stage gate.
        stages: Output of each stage, by its name. Curves are those of the runs that made them, this one or earlier.
        lineage: Role, URI and digest of what the run read.
        timing: How each stage went.
        outcome: What became of the version; None where nothing was published.
        registered: As `name version 3`; None where nothing was published.
        links: Pages about the run.

    Raises:
        DataError: report or decision is not what those stages write.
    """
    from tinybert.page import write_page  # matplotlib, which a flow's form can do without

    package = stages.get(PACKAGE)
    curves = {stage: found for stage, ref in stages.items() if (found := tracker().curves(ref.digest))}
    facts = RunFacts(
        name=name,
        outcome=outcome,
        registered=registered,
        model=package.uri if package else None,
        pair=package is not None and Released.read(sources.local(package)).pair,
        curves=curves,
        lineage=[(role, without_credentials(uri), digest) for role, uri, digest in lineage],
        stages=[(stage.name, stage.seconds, stage.cached) for stage in timing],
        links={server: without_credentials(page) for server, page in links.items()},
        commit=commit(),
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )
    with tempfile.TemporaryDirectory() as directory:
        write_page(sources.local(report), sources.local(decision), facts, Path(directory, FILE))
        stored = store().put("report", Path(directory))
    return ReportResult(report=ReportRef(uri=stored.uri, digest=stored.digest))
