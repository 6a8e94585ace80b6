"""Whether there is reason to retrain a model, whether that was tried before, and that one run at a time is at it."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from typing import Literal, cast

import httpx
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.exceptions import ObjectAlreadyExists
from prefect.runtime import flow_run
from prefect.states import Completed
from pydantic import BaseModel, ConfigDict

from tasks.basis import Basis, code, config_digest, renewed
from tasks.connections import registry
from tasks.data import Sources
from tasks.policy import quick_task, slot
from tasks.progress_page import offer
from tasks.publishing import PROMOTED_AT, STUDENT, withdrawal
from tasks.registry import CHAMPION, Registered, Version
from tasks.run import Run
from tasks.summary import RunSummary
from tinybert.config import DistillConfig
from tinybert.retrain_config import RetrainConfig

logger = logging.getLogger("tinybert")

LONGEST = 200
"""Characters of DistillConfig.reason."""

Decision = Literal["unchanged", "tried", "stepped_aside", "retrained"]


class Plan(BaseModel):
    """What is to be done, and why."""

    model_config = ConfigDict(frozen=True)

    decision: Decision
    changes: list[str] = []
    said: str
    """In a sentence: of a run, its reason."""
    run: DistillConfig | None = None


@quick_task("changes")
def find_changes(config: RetrainConfig, found: Sources) -> Plan:
    """Hold what a run would be made from against the champion, and against all that was tried."""
    return decide(config, found, registry().model(config.model), code(), datetime.now(UTC))


def decide(config: RetrainConfig, found: Sources, model: Registered, code: str, now: datetime) -> Plan:
    """Whether to retrain.

    Args:
        config: The run that would be made, and what is a reason to make it.
        found: Its sources, pinned.
        model: The registered model as it stands.
        code: Digest of the code.
        now: The time.
    """
    form, champion = config.distill, model.find(CHAMPION)
    reasons = _changes(form, found, code, model, champion)
    days = age(champion, now) if champion else None
    if champion and not reasons and days is not None and days > (config.max_age_days or days):
        form = renewed(form, champion.number)
        reasons = [f"the champion is {_days(days)} old: new seeds"]
    if config.force:
        reasons = [f"forced: {config.force}", *reasons]
    elif champion and not reasons:
        old = "of unknown age" if days is None else f"{_days(days)} old"
        since = f"version {champion.number} of {model.name} (champion, {old})"
        return Plan(decision="unchanged", said=f"nothing changed since {since}")
    elif tried := _tried(model, Basis.of(form, found, code)):
        return Plan(decision="tried", changes=reasons, said=f"{_sentence(reasons)}; but {tried}")
    reason = _sentence(reasons)
    return Plan(decision="retrained", changes=reasons, said=reason, run=form.model_copy(update={"reason": reason}))


def _changes(form: DistillConfig, found: Sources, code: str, model: Registered, champion: Version | None) -> list[str]:
    """What speaks for a run. A champion whose seeds were renewed has the form's config all the same."""
    if champion is None:
        return ["there is no champion yet"]
    told, basis = Basis.told(champion.tags), Basis.of(form, found, code)
    if told is None:
        return [f"version {champion.number} does not tell what it was made from"]
    if told.config in {config_digest(renewed(form, number)) for number in model.versions}:
        basis = basis.model_copy(update={"config": told.config})
    return basis.since(told)


def _tried(model: Registered, basis: Basis) -> str | None:
    """Which version was made from the same, and what became of it; None where no run came to its end with it."""
    same = [number for number, tags in model.versions.items() if Basis.told(tags) == basis]
    for number in sorted(same, key=int, reverse=True):
        fate = _fate(model, model.versions[number])
        if fate:
            return f"version {number} of {model.name} was made from the same, and {fate}"
    return None


def _fate(model: Registered, tags: dict[str, str]) -> str | None:
    """What became of a version; None where its run was killed, or overtaken, before that was settled."""
    withdrawn = withdrawal(model, tags.get(STUDENT, ""))
    if withdrawn:
        return withdrawn
    if tags.get("verdict") != "promote":
        return "rejected"
    return "champion before" if PROMOTED_AT in tags else None


def age(version: Version, now: datetime) -> int | None:
    """Whole days since its promotion; None where it does not tell."""
    promoted = version.tags.get(PROMOTED_AT)
    return (now - datetime.fromisoformat(promoted)).days if promoted else None


def _days(days: int) -> str:
    return f"{days} day{'' if days == 1 else 's'}"


def _sentence(phrases: list[str]) -> str:
    """The phrases as a sentence that a form takes; digests are left out where there are too many."""
    whole = "; ".join(phrases)
    return whole if len(whole) <= LONGEST else "; ".join(phrase.partition(": ")[0] for phrase in phrases)[:LONGEST]


@contextmanager
def alone(model: str, policy: Literal["wait", "step_aside"]) -> Iterator[bool]:
    """Inside, no other run retrains the model, by a concurrency limit of Prefect's.

    A run that goes on after a crash waits in any case: the slot may still be its own, until the lease runs out.

    Yields:
        False where another run is at it, and the policy is to step aside.
    """
    limit = f"model-{model}"
    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):  # somebody was faster
        client.upsert_global_concurrency_limit_by_name(limit, limit=1)
    with ExitStack() as held:
        mine = _take(limit, held, patient=False)
        if not mine and (policy == "wait" or (flow_run.run_count or 0) > 1):
            logger.info("another run retrains %s; waiting for its end", model)
            mine = _take(limit, held, patient=True)
        yield mine


def _take(limit: str, held: ExitStack, patient: bool) -> bool:
    """Take the slot of a limit until `held` is closed; False where it is taken."""
    try:
        held.enter_context(slot(limit, retries=None if patient else 0))
    except ConcurrencySlotAcquisitionError as error:
        if patient or not _is_taken(error):
            raise
        return False
    return True


def _is_taken(error: ConcurrencySlotAcquisitionError) -> bool:
    answer = error.__cause__
    return isinstance(answer, httpx.HTTPStatusError) and answer.response.status_code == httpx.codes.LOCKED


def stepped_aside(model: str) -> Plan:
    """What is done where another run retrains the model."""
    return Plan(decision="stepped_aside", said=f"another run is at it: it holds the concurrency limit model-{model}")


class RetrainSummary(BaseModel):
    """What came of the question whether to retrain."""

    model: str
    decision: Decision
    changes: list[str]
    said: str
    summary: RunSummary | None = None
    """Of the run, where there was reason for one."""


def conclude(run: Run, model: str, plan: Plan, summary: RunSummary | None) -> RetrainSummary:
    """Say what was decided, in both UIs, and where a run that was made is to be seen.

    Returns:
        Prefect's state with the sentence, for the flow to return; its caller gets the RetrainSummary inside.
    """
    said = plan.said
    if summary is not None:
        said += f": {summary.registered}, {summary.outcome}"
    logger.info("%s: %s", model, said)
    pages = ", ".join(f"[{what}]({page})" for what, page in (summary.pages if summary else {}).items())
    markdown = f"## {model}: {plan.decision.replace('_', ' ')}\n\n{said}\n" + (f"\n{pages}\n" if pages else "")
    offer(create_markdown_artifact, markdown, key="retrain", description=f"Whether to retrain {model}")
    run.log({}, {"decision": plan.decision, "reason": plan.said, "mlflow.note.content": markdown})
    told = RetrainSummary(model=model, decision=plan.decision, changes=plan.changes, said=said, summary=summary)
    return cast(RetrainSummary, Completed(message=said, data=told))
