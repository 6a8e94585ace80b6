"""Every flow begins by looking at the services it needs: where one is missing, that is all it does."""

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.exceptions import ObjectNotFound

from flows.command import preset
from tasks import connections, settings
from tests.security.test_forms import FLOWS
from tinybert.errors import InputError

SMOKE = preset("smoke")
FORMS = {
    "distill": SMOKE,
    "suite": preset("kinds-smoke", "suite"),
    "retrain": {"distill": SMOKE},
    "pretrain": preset("pretrain-smoke", "pretrain"),
    "score": {"model": "models:/reviews@champion", "source": "file:/rows.csv"},
    "collect": {},
    "rollback": {"name": "reviews", "reason": "it calls every complaint a compliment"},
}
CACHES = (settings.settings, connections.store, connections.tracker, connections.registry)


@pytest.fixture
def broken(shared_home, monkeypatch):
    """A store that nobody can use, and no limit for promotions."""
    monkeypatch.setenv("TINYBERT_STORE", "s3//nowhere")
    for cache in CACHES:
        cache.cache_clear()
    with get_client(sync_client=True) as client:
        client.delete_global_concurrency_limit_by_name("promotions")
        yield client
        client.upsert_global_concurrency_limit_by_name("promotions", limit=1)
    for cache in CACHES:
        cache.cache_clear()


def test_no_flow_is_left_out():
    assert FORMS.keys() | {"doctor"} == FLOWS.keys()


@pytest.mark.parametrize("name", FORMS)
def test_what_is_missing_is_told_before_anything_else_is_done(broken, name):
    state = FLOWS[name](config=FORMS[name], return_state=True)
    with pytest.raises(InputError) as error:
        state.result()
    assert (" store: " in str(error.value)) == (name != "rollback")  # which must work without
    assert ("limit promotions: " in str(error.value)) == (name in ("distill", "suite", "retrain", "rollback"))
    mine = FlowRunFilter.model_validate({"id": {"any_": [state.state_details.flow_run_id]}})
    runs = broken.read_task_runs(flow_run_filter=mine)
    assert [run.name.split("-")[0] for run in runs] == ["preflight"]
    with pytest.raises(ObjectNotFound):  # nobody has asked for a model's slot either
        broken.read_global_concurrency_limit_by_name("model-smoke")
