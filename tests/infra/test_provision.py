"""What the Prefect server is told: which crashed runs are put back, and how often; schedules, triggers, templates."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
from prefect import flow
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.blocks.system import Secret
from prefect.cli.deploy._config import _load_deploy_configs_and_actions
from prefect.cli.deploy._schedules import _schedule_config_to_deployment_schedule
from prefect.cli.deploy._triggers import _initialize_deployment_triggers
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import TerminationSignal
from prefect.server.events.schemas.automations import EventTrigger
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Crashed, Failed, Pending, Running, exception_to_crashed_state
from rich.console import Console

from flows.command import preset
from infra.stack import checks, provision
from infra.stack.layout import ROOT
from infra.stack.settings import is_free

KILLED = "Process exited with status code: -9. Process was killed by SIGKILL, often because memory ran out."
ENDED = "Execution was aborted by a termination signal."
"""Of a run that SIGTERM ended, in the words of prefect.states.exception_to_crashed_state; the next test holds them."""


def crash(count="1", flow="distill", deployment=True, state="Crashed", message=KILLED) -> ReceivedEvent:
    """As the server tells of a flow run's state."""
    roles = ["flow", "deployment"] if deployment else ["flow"]
    related = [{"prefect.resource.id": f"prefect.{role}.1", "prefect.resource.role": role} for role in roles]
    related[0]["prefect.resource.name"] = flow
    resource = {
        "prefect.resource.id": f"prefect.flow-run.{uuid.uuid4()}",
        "prefect.run-count": count,
        "prefect.state-message": message,
    }
    when = datetime.now(UTC)
    return ReceivedEvent(
        occurred=when, event=f"prefect.flow-run.{state}", resource=resource, related=related, id=uuid.uuid4()
    )


@pytest.mark.parametrize(
    ("event", "put_back"),
    [
        (crash(), True),
        (crash(count="2", flow="retrain"), True),
        (crash(count="0"), False),
        (crash(count="3"), False),
        (crash(flow="rollback"), False),
        (crash(deployment=False), False),
        (crash(state="Failed"), False),
        (crash(message=""), True),
        (crash(message=ENDED), False),
    ],
)
def test_which_crashed_runs_are_put_back(event, put_back):
    trigger = EventTrigger.model_validate(provision.RESUMED.trigger.model_dump())
    assert trigger.covers(event) == put_back


def test_a_run_that_sigterm_ends_says_so_in_these_words():
    state = asyncio.run(exception_to_crashed_state(TerminationSignal(signal.SIGTERM)))
    assert (state.name, state.message) == ("Crashed", ENDED)


def deployments() -> dict[str, dict]:
    """As Prefect reads prefect.yaml."""
    configs, _ = _load_deploy_configs_and_actions(ROOT / "prefect.yaml", console=Console())
    return {config["name"]: config for config in configs}


@pytest.mark.parametrize(("name", "of"), [("retrain", "quickstart"), ("retrain-smoke", "smoke")])
def test_prefect_reads_the_box_of_another_preset(name, of):
    assert deployments()[name]["parameters"]["config"]["distill"] == preset(of)


def test_the_nightly_schedule_is_switched_off():
    [nightly] = deployments()["retrain"]["schedules"]
    made = _schedule_config_to_deployment_schedule(nightly)
    assert made["schedule"] == CronSchedule(cron="0 2 * * *", timezone="UTC")
    assert (made["slug"], made["active"]) == ("nightly", False)


@pytest.mark.parametrize(
    ("name", "resource", "starts"),
    [
        ("retrain", "tinybert.data.quickstart", True),
        ("retrain", "tinybert.data.reviews", False),
        ("retrain-smoke", "tinybert.data.smoke", True),
    ],
)
def test_data_that_land_start_the_run_of_their_name(name, resource, starts):
    [trigger] = _initialize_deployment_triggers(name, deployments()[name]["triggers"])
    trigger.set_deployment_id(uuid.uuid4())
    [action] = trigger.as_automation().actions
    event = ReceivedEvent(
        occurred=datetime.now(UTC),
        event="tinybert.data.landed",
        resource={"prefect.resource.id": resource},
        id=uuid.uuid4(),
    )
    server_side = EventTrigger.model_validate(trigger.as_automation().trigger.model_dump())
    assert server_side.covers(event) == starts
    assert action.type == "run-deployment"
    assert action.schedule_after == server_side.within  # else what lands in between would be nobody's business


def test_failed_and_crashed_runs_of_deployments_are_told_of():
    trigger = EventTrigger.model_validate(provision.told(uuid.uuid4()).trigger.model_dump())
    assert trigger.covers(crash(state="Failed"))
    assert trigger.covers(crash(state="TimedOut", flow="rollback"))
    assert trigger.covers(crash(count="3"))
    assert not trigger.covers(crash(state="Completed"))
    assert not trigger.covers(crash(deployment=False))


@pytest.fixture
def server(tmp_path: Path):
    """A Prefect server with all its services, on SQLite."""
    port = next(port for port in range(14_200, 14_300) if is_free(port))
    url = f"http://127.0.0.1:{port}/api"
    changes = {"PREFECT_HOME": str(tmp_path), "PREFECT_API_URL": url, "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    environment = {**os.environ, **changes, "PREFECT_SERVER_UI_ENABLED": "false"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        wait_until(lambda: answers(url), 300)
        with pytest.MonkeyPatch.context() as patch, temporary_settings({PREFECT_API_URL: url}):
            for name, value in changes.items():
                patch.setenv(name, value)
            yield environment
    finally:
        process.terminate()
        process.wait(30)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def wait_until(is_so, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.3)


@pytest.mark.slow
def test_a_run_that_crashes_again_and_again_is_put_back_twice(server):
    @flow(name="distill")
    def distill():
        pass

    with get_client(sync_client=True) as client:
        provision.make_pool(client)
        for _ in range(2):
            provision.apply_automation(client, provision.RESUMED)
        [made] = client.read_automations_by_name(provision.RESUMED.name)
        assert not provision._changed(provision.RESUMED, made)
        deployment = client.create_deployment(client.create_flow(distill), "smoke", work_pool_name=provision.POOL)
        run = client.create_flow_run_from_deployment(deployment).id

        def state() -> str:
            return client.read_flow_run(run).state.name

        for life in range(1, provision.LIVES):
            for step in (Pending(), Running(), Crashed()):
                client.set_flow_run_state(run, step)
            wait_until(lambda: state() == "AwaitingRetry", 30)
            assert client.read_flow_run(run).run_count == life
        again = client.create_flow_run_from_deployment(deployment).id
        for step in (Pending(), Running(), Crashed(message=ENDED)):
            client.set_flow_run_state(again, step, force=True)
        client.set_flow_run_state(run, Pending())
        client.set_flow_run_state(run, Crashed())  # it could not be started: as many lives as before
        time.sleep(5)
        assert state() == "Crashed"
        for step in (Running(), Crashed()):
            client.set_flow_run_state(run, step, force=True)
        assert client.read_flow_run(run).run_count == provision.LIVES
        time.sleep(5)
        assert state() == "Crashed"
        assert client.read_flow_run(again).state.name == "Crashed"


@pytest.mark.slow
def test_what_a_user_has_switched_on_stays_on_and_landed_data_start_a_run(server):
    with get_client(sync_client=True) as client:
        provision.make_pool(client)
        provision.deploy()
        found = client.read_deployment_by_name("retrain/retrain")
        [schedule] = found.schedules
        assert not schedule.active
        client.update_deployment_schedule(found.id, schedule.id, active=True)
        provision.deploy()
        [schedule] = client.read_deployment_by_name("retrain/retrain").schedules
        assert schedule.active
        time.sleep(3)  # until the server has loaded the triggers

        resource = {"prefect.resource.id": "tinybert.data.smoke"}
        arguments = ["tinybert.data.landed", "--resource-id", resource["prefect.resource.id"]]
        command = [sys.executable, "-m", "prefect", "event", "emit", *arguments]
        subprocess.run(command, env=server, check=True, capture_output=True)
        event = {"event": "tinybert.data.landed", "resource": resource, "id": str(uuid.uuid4())}
        posted = [event | {"occurred": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}]
        httpx.post(f"{server['PREFECT_API_URL']}/events", json=posted, trust_env=False).raise_for_status()
        smoke = client.read_deployment_by_name("retrain/retrain-smoke").id
        of_smoke = FlowRunFilter.model_validate({"deployment_id": {"any_": [smoke]}})
        wait_until(lambda: len(client.read_flow_runs(flow_run_filter=of_smoke)) == 2, 30)
        for run in client.read_flow_runs(flow_run_filter=of_smoke):
            assert run.parameters == {"config": {"distill": preset("smoke")}}


@pytest.fixture
def inbox() -> Iterator[tuple[str, list[dict]]]:
    """Where notifications go: an address, and what has come."""
    came: list[dict] = []

    class Inbox(BaseHTTPRequestHandler):
        def do_POST(self):
            came.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *words):
            pass

    listener = HTTPServer(("127.0.0.1", 0), Inbox)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listener.server_port}", came
    listener.shutdown()
    listener.server_close()


@pytest.mark.slow
def test_failed_runs_are_told_of_once_there_is_a_block_for_it(server, inbox, monkeypatch, capsys):
    monkeypatch.setattr(provision, "deploy", lambda: None)
    monkeypatch.setattr(provision, "make_samples", lambda: None)
    name = provision.told(uuid.uuid4()).name
    address, came = inbox

    @flow(name="rollback")
    def rollback():
        pass

    with get_client(sync_client=True) as client:
        provision.provision()
        assert capsys.readouterr().out.splitlines()[-1] == checks.UNTOLD
        assert client.read_automations_by_name(name) == []

        Secret(value="of another type").save(checks.BLOCK)
        assert provision.find_block(client) is None
        data = {"subject": "{{subject}}", "body": "{{body}}"}
        CustomWebhookNotificationBlock(name="inbox", url=address, json_data=data).save(checks.BLOCK)
        for said in (f"made automation '{name}'\n", ""):
            provision.provision()
            assert capsys.readouterr().out == said
        assert len(client.read_automations_by_name(name)) == 1

        deployment = client.create_deployment(client.create_flow(rollback), "rollback")
        run = client.create_flow_run_from_deployment(deployment, name="owl")
        wait_until(lambda: tells(client, run.id, came), 60)
        assert came[0] == {"subject": "rollback owl: Failed", "body": f"no champion\n{run_page(server, run.id)}"}


def tells(client, run, came) -> bool:
    """Whether its failure is told of; it fails anew at each look: automations take a while to be loaded."""
    if not came:
        client.set_flow_run_state(run, Running(), force=True)
        client.set_flow_run_state(run, Failed(message="no champion"), force=True)
        time.sleep(2)
    return bool(came)


def run_page(server: dict[str, str], run: uuid.UUID) -> str:
    return f"{server['PREFECT_API_URL'].removesuffix('/api')}/runs/flow-run/{run}"


@pytest.mark.slow
def test_a_process_starts_though_its_deployment_says_what_containers_are_to_have(server, tmp_path):
    variables = deployments()["rollback"]["work_pool"]["job_variables"]
    assert {"gpus", "device_requests"} <= set(variables)
    (tmp_path / "tiny.py").write_text("from prefect import flow\n\n@flow(name='tiny')\ndef tiny(): pass\n")

    @flow(name="tiny")
    def tiny():
        pass

    with get_client(sync_client=True) as client:
        provision.make_pool(client)
        place = {"path": str(tmp_path), "entrypoint": "tiny.py:tiny", "work_pool_name": provision.POOL}
        deployment = client.create_deployment(client.create_flow(tiny), "tiny", **place, job_variables=variables)
        run = client.create_flow_run_from_deployment(deployment).id
        command = f"worker start --pool {provision.POOL} --type process --run-once --install-policy never".split()
        subprocess.run([sys.executable, "-m", "prefect", *command], env=server, check=True, capture_output=True)
        assert client.read_flow_run(run).state.name == "Completed"
