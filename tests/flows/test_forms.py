"""What Prefect's server says to a form that is sent off with something wrong in it: no run begins, and why."""

from uuid import uuid4

import httpx
import pytest
import yaml
from prefect.client.orchestration import get_client

from flows.command import DEPLOYMENTS, preset
from tests.security.test_forms import FLOWS
from tinybert.form import merge

ROLLBACK = {"name": "reviews", "reason": "it calls every complaint a compliment"}


def sent(flow: str, values: dict) -> httpx.Response:
    """The answer to a run asked for as browsers ask, of a deployment that is as `prefect deploy` makes it."""
    with get_client(sync_client=True) as client:
        schema = FLOWS[flow].parameters.model_dump()
        deployment = client.create_deployment(
            client.create_flow(FLOWS[flow]), f"forms-{uuid4()}", parameter_openapi_schema=schema
        )
        address = f"{client.api_url}".rstrip("/")
    asked = f"{address}/deployments/{deployment}/create_flow_run"
    return httpx.post(asked, json={"parameters": {"config": values}}, timeout=30, trust_env=False)


@pytest.mark.parametrize(
    ("flow", "given", "wrong", "said"),
    [
        ("distill", "smoke", {"student": {"layers": 0}}, ("student.layers", "0 is less than the minimum of 1")),
        ("distill", "smoke", {"gate": {"retention": "0.9"}}, ("gate.retention", "'0.9' is not of type 'number'")),
        ("doctor", "smoke", {"studnet": {}}, ("", "Additional properties are not allowed ('studnet' was unexpected)")),
        ("retrain", "retrain", {"if_running": "hope"}, ("if_running", "'hope' is not one of ['wait', 'step_aside']")),
        ("retrain", "retrain", {"distill": {"name": ""}}, ("distill.name", "'' does not match '^[A-Za-z0-9]")),
        ("suite", "glue-all", {"tasks": {"own": {"layers": {"epochs": 3}}}}, ("tasks.own.layers", "'epochs' was")),
        ("suite", "glue-all", {"tasks": {"cola": {"benchmark": "glue/cloa"}}}, ("tasks.cola.benchmark", "'glue/cloa'")),
        ("suite", "glue-all", {"settings": {"student": {"layers": "4"}}}, ("settings.student.layers", "'integer'")),
        ("pretrain", "pretrain-smoke", {"encoder": {"layers": 0}}, ("encoder.layers", "0 is less than the minimum")),
        ("collect", "collect", {"keep_days": -1}, ("keep_days", "-1 is less than the minimum of 0")),
        ("score", None, {"model": "models:/reviews@champion"}, ("", "'source' is a required property")),
        ("rollback", None, {**ROLLBACK, "reason": "because"}, ("reason", "'because' is too short")),
    ],
)
def test_what_is_wrong_is_refused_with_the_reason(prefect_server, flow, given, wrong, said):
    refused = sent(flow, merge(preset(given, "distill" if flow == "doctor" else flow) if given else {}, wrong))
    field, reason = said
    told = refused.json()["detail"]
    assert refused.status_code == 409
    assert told.startswith(
        f"Error creating flow run: Validation failed for field 'config{'.' if field else ''}{field}'."
    )
    assert reason in told


@pytest.mark.parametrize(
    ("flow", "given"), [("distill", "smoke"), ("retrain", "retrain"), ("suite", "glue-all"), ("suite", "kinds-smoke")]
)
def test_what_is_right_is_taken(prefect_server, flow, given):
    assert sent(flow, preset(given, flow)).status_code == 201


def test_no_deployment_takes_what_its_form_refuses():
    listed = yaml.safe_load(DEPLOYMENTS.read_text())["deployments"]
    assert [made["name"] for made in listed if not made.get("enforce_parameter_schema", True)] == []
