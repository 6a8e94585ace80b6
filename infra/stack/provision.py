"""What a Prefect server needs for this project: work pool, limits, automations, deployments. Safe to repeat.

`python -m infra.stack.provision` applies it to the server of PREFECT_API_URL; a team's server is prepared the same way.
"""

import os
import subprocess
import sys
from datetime import timedelta

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.workers.process import ProcessWorker

from infra.stack.checks import POOL
from infra.stack.layout import ROOT

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

AUTOMATIONS = (CRASHED,)


def provision() -> None:
    """Apply everything to the server."""
    with get_client(sync_client=True) as client:
        make_pool(client)
        for name in LIMITS:
            make_limit(client, name)
        for automation in AUTOMATIONS:
            apply_automation(client, automation)
    make_samples()
    deploy()


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


def make_samples() -> None:
    """What the deployment `smoke` reads, unless it is there."""
    if not (ROOT / "build" / "smoke" / "teacher").exists():
        _run("tinybert.samples", "build/smoke")


def deploy() -> None:
    """The deployments of prefect.yaml, as they stand there now."""
    _run("prefect", "--no-prompt", "deploy", "--all")


def _run(*module_and_arguments: str) -> None:
    environment = {"TINYBERT_HOME": str(ROOT)} | os.environ
    done = subprocess.run([sys.executable, "-m", *module_and_arguments], cwd=ROOT, env=environment, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(module_and_arguments)}: ended with status {done.returncode}")


if __name__ == "__main__":
    provision()
