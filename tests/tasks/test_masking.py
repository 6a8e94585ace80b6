"""Secrets of the environment stand neither in log lines nor in what Prefect keeps of a run that fails."""

import io
import json
import logging
import os

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter
from prefect.client.schemas.sorting import LogSort
from prefect.logging import get_run_logger
from prefect.logging.handlers import APILogHandler
from pydantic import BaseModel

from tasks.masking import mask_logs, masked, masked_error
from tasks.policy import quick_task
from tasks.run import open_run
from tests.security.canaries import files, leaks
from tinybert.errors import TransientError

TOKEN, PASSWORD = "hf_canaryZq81Vb7Ny4", "canary/p+Xw8 k3"
QUOTED = "canary%2Fp%2BXw8%20k3"


@pytest.fixture(autouse=True)
def secrets(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "team:canary-auth-77")


@pytest.fixture
def proxy(monkeypatch):
    """A password in a URL; not for tests that talk to Prefect's server, which would take it for theirs."""
    monkeypatch.setenv("https_proxy", f"http://somebody:{QUOTED}@127.0.0.1:9")


@pytest.mark.usefixtures("proxy")
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"token {TOKEN}.", "token ***."),
        (f"proxy {PASSWORD}, {QUOTED}", "proxy ***, ***"),
        ("team:canary-auth-77 or canary-auth-77", "*** or ***"),
        ("somebody at 127.0.0.1:9", "somebody at 127.0.0.1:9"),
        ("", ""),
    ],
)
def test_secrets_are_masked_as_they_are_and_as_urls_hold_them(text, shown):
    assert masked(text) == shown


def test_short_values_and_paths_are_no_secrets(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "key")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////home/somebody@host/mlflow.db")
    assert masked("key /home/somebody@host") == "key /home/somebody@host"


def test_an_exception_keeps_its_class_and_its_causes_and_loses_secrets():
    error = TransientError(f"no answer to {TOKEN}", 7)
    error.__cause__ = KeyError(TOKEN)
    assert masked_error(error) is error
    assert error.args == ("no answer to ***", 7)
    assert error.__cause__.args == ("***",)


def test_an_exception_that_keeps_its_words_elsewhere_is_replaced():
    found = masked_error(OSError(2, "no such file", f"/home/{TOKEN}"))
    assert (type(found), str(found)) == (RuntimeError, "FileNotFoundError: [Errno 2] no such file: '/home/***'")
    fine = OSError(2, "no such file", "/home")
    assert masked_error(fine) is fine


@pytest.fixture
def console(proxy):
    """What a handler writes for a logger of its own."""
    stream, logger = io.StringIO(), logging.getLogger("somebody.else")
    handler = logging.StreamHandler(stream)
    logger.addHandler(handler)
    mask_logs()
    mask_logs()
    assert len(handler.filters) == 1
    yield stream
    logger.removeHandler(handler)


def test_a_line_is_masked_in_message_arguments_and_traceback(console):
    logger = logging.getLogger("somebody.else")
    logger.warning("with %s and %d", TOKEN, 3)
    try:
        raise RuntimeError(PASSWORD)
    except RuntimeError:
        logger.exception("it broke")
    told = console.getvalue()
    assert told.startswith("with *** and 3\nit broke\nTraceback (most recent call last):\n")
    assert told.endswith("RuntimeError: ***\n")


class Form(BaseModel):
    """Of no interest."""


@quick_task("says")
def says():
    logging.getLogger("tinybert").warning("ours: %s", os.environ["HF_TOKEN"])
    get_run_logger().warning("theirs: %s", os.environ["HF_TOKEN"])


@quick_task("fails")
def fails():
    raise RuntimeError(os.environ["HF_TOKEN"])


STATES = []
"""Of tasks that failed."""


@flow(persist_result=True)
def leaking(itself: bool):
    with open_run(Form(), "leaking", 1) as run:
        run.always(says)
        if itself:
            raise RuntimeError(os.environ["HF_TOKEN"])
        STATES.append(fails(return_state=True))
        STATES[-1].result()


@pytest.mark.parametrize("itself", [False, True], ids=["its task fails", "it fails itself"])
def test_nothing_is_left_of_a_secret_that_is_logged_and_raised(home, itself, capfd):
    STATES.clear()
    logging.getLogger("tinybert").addHandler(APILogHandler())
    state = leaking(itself, return_state=True)
    with pytest.raises(RuntimeError, match=r"^\*\*\*$"):
        state.result()
    logging.getLogger("tinybert").handlers[-1].flush()
    run = state.state_details.flow_run_id
    with get_client(sync_client=True) as client:
        mine = {"any_": [run]}
        logs = client.read_logs(LogFilter(flow_run_id=mine), limit=200, sort=LogSort.TIMESTAMP_ASC)
        kept = [*logs, client.read_flow_run(run), *client.read_flow_run_states(run)]
    told = [log.message for log in logs]
    assert {"ours: ***", "theirs: ***"} <= set(told)
    assert any("RuntimeError: ***" in line and "Traceback" in line for line in told)
    assert all(state.message.endswith("RuntimeError: ***") for state in [state, *STATES])
    assert bool(STATES) != itself
    text = json.dumps([record.model_dump(mode="json") for record in kept]).encode()
    shown = "".join(capfd.readouterr()).encode()
    raised = repr([(failed.message, failed.data) for failed in STATES]).encode()
    left = [("Prefect", text), ("states", raised), ("console", shown), *files(home)]
    assert leaks(iter(left), {"token": TOKEN}) == set()
