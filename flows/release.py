"""What follows on an exported student: comparison, decision, package, registration, and the page that tells of it."""

import logging

from pydantic import BaseModel

from tasks.basis import Basis, code
from tasks.data import Sources
from tasks.evaluation import evaluate_models, judge_student
from tasks.publishing import find_champion, package_model, publish_model
from tasks.reporting import write_report
from tasks.run import Run
from tasks.summary import Made, RunSummary
from tinybert.config import DistillConfig
from tinybert.refs import DatasetRef, ModelRef, Ref

logger = logging.getLogger("tinybert")

ATTEMPTS = 5
"""Comparisons at most, where other runs keep promoting champions meanwhile."""
STAGES = ("evaluate", "gate", "package")


class Candidate(BaseModel):
    """A student that wants to be promoted, and those it is measured against."""

    data: DatasetRef
    teacher: ModelRef
    student: ModelRef
    baseline: ModelRef | None = None


def release(run: Run, config: DistillConfig, found: Sources, candidate: Candidate) -> RunSummary:
    """Measure, judge, package and publish a student; anew where another run has changed the champion meanwhile."""
    made = measured(run, config, found, candidate)
    for _ in range(ATTEMPTS - 1):
        if made.outcome != "overtaken":
            break
        logger.info("another run has changed the champion; comparing with the new one")
        run.expect(len(STAGES))
        made = measured(run, config, found, candidate)
    page = run.always(
        write_report,
        config.name,
        made.report,
        made.decision,
        run.outputs,
        lineage(found, candidate),
        run.stages,
        made.outcome,
        made.registered,
        run.links,
    )
    return run.summarise(config.name, made, page.report)


def measured(run: Run, config: DistillConfig, found: Sources, candidate: Candidate) -> Made:
    """One comparison with the champion there is now, and what follows from it."""
    name = config.publish.name or config.name
    data, student = candidate.data, candidate.student
    champion = run.always(find_champion, name, student) if config.publish.enabled else None
    against = (champion.model, champion.data) if champion else (None, None)
    models = (candidate.teacher, student, candidate.baseline, *against)
    report = run(evaluate_models, data, *models, config.evaluate).report
    decision = run(judge_student, report, config.gate).report
    told = config.model_copy(update={"reason": ""})  # why a run is made is no part of what it makes
    package = run(package_model, data, found.teacher, student, report, decision, told).model
    published = None
    if config.publish.enabled:
        basis = Basis.of(config, found, code()).tags
        published = run.always(publish_model, name, package, student, data, champion, decision, report, basis)
    return Made(model=package, report=report, decision=decision, published=published)


def lineage(found: Sources, candidate: Candidate) -> list[tuple[str, str, str]]:
    """What a student was made of: role, URI and digest of each source, of the prepared rows and of the teacher."""
    read = [(role, value) for role, values in found for value in (values if isinstance(values, list) else [values])]
    made = [("prepared rows", candidate.data), ("fine-tuned teacher", candidate.teacher)]
    return [(role, ref.uri, ref.digest) for role, ref in [*read, *made] if isinstance(ref, Ref)]
