"""What a Prefect server needs for this project: work pool, limits, automations, deployments. Safe to repeat.

`python -m infra.stack.provision` applies it to the server of PREFECT_API_URL; a team's server is prepared the same way.
"""

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, WorkPoolCreate
from prefect.client.schemas.objects import DeploymentSchedule, StateType
from prefect.events.actions import ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.settings import PREFECT_API_URL
from prefect.workers.process import ProcessWorker

from infra.stack.checks import BLOCK, POOL, UNTOLD
from infra.stack.layout import ROOT

T = TypeVar("T")

LIMITS = ("accelerator", "promotions")
"""Stages that compute take a slot of the first, changes of the registry's aliases one of the second."""

BEAT = "prefect.flow-run.heartbeat"

SIGNS_OF_LIFE = frozenset({BEAT}) | {
    f"prefect.flow-run.{state}"
    for state in ("Completed", "Failed", "Cancelled", "Crashed", "AwaitingRetry", "Scheduled", "Suspended", "Paused")
}
"""After a heartbeat one of these comes in time, or the run is dead: another one, or a state in which none is due."""

CRASHED = AutomationCore(
    name="flow runs that fell silent are crashed",
    description="A flow run that was killed together with its worker is marked Crashed when its heartbeats stop.",
    trigger=EventTrigger(
        after={BEAT},
        expect=set(SIGNS_OF_LIFE),
        match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=90),  # three beats
    ),
    actions=[ChangeFlowRunState(state=StateType.CRASHED, message="No heartbeat for 90 seconds: its process is gone.")],
)

FLOWS = ("distill", "pretrain", "retrain", "suite")
"""Those that go on where they stopped: what is finished is cached, what is being trained has checkpoints."""

LIVES = 3
"""How often a run is started at most."""

ASKED_TO_END = "Execution was aborted by a termination signal*"
"""What Prefect's engine says of a run that SIGTERM has ended."""

RESUMED = AutomationCore(
    name="crashed runs go on at their last checkpoint",
    description=(
        f"A run that crashed is put back in the queue, {LIVES - 1} times at most: whatever happens to a run once it "
        "has been put back, it is put back again only after it has been running again. A run that was asked to end, by "
        "whom and why ever, is let be."
    ),
    # While a stage trains, SIGTERM has a handler of ours, and the engine of a run that is cancelled cannot learn what
    # the signal is for: it says Crashed, until its worker says Cancelled. Put back in between, it might start again.
    trigger=EventTrigger(
        expect={"prefect.flow-run.Crashed"},
        match=ResourceSpecification(
            {
                "prefect.resource.id": ["prefect.flow-run.*"],
                "prefect.run-count": [str(count) for count in range(1, LIVES)],  # 0: it could not even be started
                "prefect.state-message": [f"!{ASKED_TO_END}"],
            }
        ),
        match_related=[
            ResourceSpecification({"prefect.resource.role": ["flow"], "prefect.resource.name": [*FLOWS]}),
            ResourceSpecification({"prefect.resource.role": ["deployment"]}),  # no worker would take up others
        ],
        for_each={"prefect.resource.id", "prefect.run-count"},
        posture=Posture.Reactive,
        threshold=1,
        within=timedelta(days=1),  # a second crash at the same count, of a run that could not be started, is let be
    ),
    actions=[
        ChangeFlowRunState(
            name="AwaitingRetry",
            state=StateType.SCHEDULED,
            message="It crashed; put back by an automation, it goes on at its last checkpoint.",
        )
    ],
)

AUTOMATIONS = (CRASHED, RESUMED)


def told(block: UUID) -> AutomationCore:
    """The automation that tells those whom a notification block reaches of runs that fail or crash."""
    return AutomationCore(
        name="runs that fail are told of",
        description=f"A run of a deployment that fails or crashes is told of through the notification block {BLOCK}.",
        trigger=EventTrigger(
            expect={f"prefect.flow-run.{state}" for state in ("Failed", "Crashed", "TimedOut")},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            match_related=ResourceSpecification({"prefect.resource.role": ["deployment"]}),  # no parts of other runs
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[
            SendNotification(
                block_document_id=block,
                subject="{{ flow.name }} {{ flow_run.name }}: {{ flow_run.state.name }}",
                body="{{ flow_run.state.message }}\n{{ flow_run|ui_url }}",
            )
        ],
    )


def provision() -> None:
    """Apply everything to the server. The last line of what is said is for `make up`, which repeats UNTOLD."""
    with get_client(sync_client=True) as client:
        make_pool(client)
        for name in LIMITS:
            make_limit(client, name)
        for automation in AUTOMATIONS:
            apply_automation(client, automation)
        block = find_block(client)
        if block:
            apply_automation(client, told(block))
    make_samples()
    deploy()
    if not block:
        print(UNTOLD)


def make_pool(client: SyncPrefectClient) -> None:
    """The work pool of prefect.yaml, whose runs are processes of the worker; one that is there stays as it is.

    A run whose output went through its worker would end at its next line when that worker dies: Prefect's console
    handler (rich) ends the process at a broken pipe. Its log reaches the UI without that output.
    """
    template = ProcessWorker.get_default_base_job_template()
    template["variables"]["properties"]["stream_output"]["default"] = False
    try:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
        print(f"made work pool {POOL}")
    except ObjectAlreadyExists:
        pass


def make_limit(client: SyncPrefectClient, name: str) -> None:
    """A concurrency limit of one slot; one that is there stays as it is, because somebody may have raised it."""
    try:
        client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
        print(f"made concurrency limit {name} of 1")


def apply_automation(client: SyncPrefectClient, automation: AutomationCore) -> None:
    """Create an automation, or bring the one of that name up to date; whether it is enabled is the user's choice."""
    found = client.read_automations_by_name(automation.name)
    if not found:
        client.create_automation(automation)
        print(f"made automation '{automation.name}'")
    elif _changed(automation, found[0]):
        client.update_automation(found[0].id, automation.model_copy(update={"enabled": found[0].enabled}))
        print(f"brought automation '{automation.name}' up to date")


def _changed(wanted: AutomationCore, found: AutomationCore) -> bool:
    apart = {"trigger": {"id"}}
    fields = {"description", "trigger", "actions"}
    return wanted.model_dump(include=fields, exclude=apart) != found.model_dump(include=fields, exclude=apart)


def find_block(client: SyncPrefectClient) -> UUID | None:
    """The notification block of our name, whatever it sends: Slack messages, e-mails, requests to some address."""
    for block in _all(functools.partial(client.read_block_documents, include_secrets=False)):
        if block.name == BLOCK and block.block_schema and "notify" in block.block_schema.capabilities:
            return block.id
    return None


def make_samples() -> None:
    """What the deployment `smoke` reads, unless it is there."""
    if not (ROOT / "build" / "smoke" / "teacher").exists():
        _run("tinybert.samples", "build/smoke")


def deploy() -> None:
    """The deployments of prefect.yaml as they stand there now; whether a schedule is active is the user's choice."""
    with get_client(sync_client=True) as client:
        chosen = {key: schedule.active for key, schedule in _schedules(client).items()}
        _run("prefect", "--no-prompt", "deploy", "--all")
        for (deployment, slug), schedule in _schedules(client).items():
            active = chosen.get((deployment, slug), schedule.active)
            if active != schedule.active:
                client.update_deployment_schedule(deployment, schedule.id, active=active)


def _schedules(client: SyncPrefectClient) -> dict[tuple[UUID, str | None], DeploymentSchedule]:
    """Those of all deployments, by deployment and slug."""
    deployments = _all(client.read_deployments)
    return {(deployment.id, schedule.slug): schedule for deployment in deployments for schedule in deployment.schedules}


def _all(read: Callable[..., Sequence[T]]) -> list[T]:
    """Everything that a question to the API finds, which answers in pages."""
    found: list[T] = []
    while len(page := read(limit=200, offset=len(found))) > 0:
        found += page
    return found


def _run(*module_and_arguments: str) -> None:
    environment = {"TINYBERT_HOME": str(ROOT)} | os.environ
    done = subprocess.run([sys.executable, "-m", *module_and_arguments], cwd=ROOT, env=environment, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(module_and_arguments)}: ended with status {done.returncode}")


if __name__ == "__main__":
    if not PREFECT_API_URL.value():
        sys.exit("error: which Prefect server? set PREFECT_API_URL")
    provision()
