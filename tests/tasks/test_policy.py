"""What a stage's cache key depends on, and what is retried."""

import httpx
import pytest
from prefect import flow
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError

from tasks import policy
from tasks.policy import source_modules, stage_key
from tinybert.config import LogitsConfig
from tinybert.errors import DataError, TransientError
from tinybert.refs import ModelRef

A, B = "a" * 64, "b" * 64


def key(uri="file:/x", digest=A, stage="logits", **fields):
    return stage_key(stage, {"teacher": ModelRef(uri=uri, digest=digest), "config": LogitsConfig(**fields)})


def test_content_counts_and_its_place_does_not():
    assert key() == key(uri="s3://elsewhere/model")
    assert key() != key(digest=B)
    assert key() != key(temperature=2.0)
    assert key() != key(stage="layers")
    assert key().startswith("logits-")


def test_source_modules_are_found_through_imports_without_running_them():
    names = set(source_modules("tinybert.stages.logits"))
    assert {"tinybert.stages.logits", "tinybert.losses", "tinybert.training", "tinybert.scoring"} <= names
    assert not {"tinybert.stages.augment", "tinybert.augmentation.copies", "tinybert.config", "torch"} & names
    assert "tinybert.augmentation.copies" in source_modules("tinybert.stages.augment")


def test_an_edit_of_an_imported_module_changes_the_key(tmp_path, monkeypatch):
    before, real = key(), source_modules
    edited = tmp_path / "losses.py"
    edited.write_text(real("tinybert.losses")["tinybert.losses"].read_text() + "# edited\n")
    monkeypatch.setattr(policy, "source_modules", lambda module: real(module) | {"tinybert.losses": edited})
    assert key() != before


@pytest.mark.parametrize(("error", "attempts"), [(TransientError("server down"), 3), (DataError("bad row"), 1)])
def test_only_the_worlds_faults_are_retried(home, error, attempts):
    calls = []

    def failing() -> int:
        calls.append(1)
        if len(calls) < 3:
            raise error
        return 7

    task = policy.gpu_stage("logits")(failing).with_options(retry_delay_seconds=0)

    @flow
    def run():
        return task()

    if attempts == 1:
        with pytest.raises(DataError, match="bad row"):
            run()
    else:
        assert run() == 7
    assert len(calls) == attempts


def answered(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "http://server/api")
    return httpx.HTTPStatusError(str(status), request=request, response=httpx.Response(status, request=request))


class Slot:
    """A slot of a server that fails when it is asked for, or given back."""

    def __init__(self, asked: Exception | None = None, given_back: Exception | None = None):
        self.asked, self.given_back = asked, given_back

    def __enter__(self):
        if self.asked is not None:
            raise ConcurrencySlotAcquisitionError("no slot") from self.asked

    def __exit__(self, *_):
        if self.given_back is not None:
            raise self.given_back


@pytest.mark.parametrize("error", [answered(500), answered(503), httpx.ConnectError("refused")], ids=repr)
def test_what_was_computed_in_a_slot_is_not_lost_where_nobody_takes_it_back(monkeypatch, caplog, error):
    monkeypatch.setattr(policy, "concurrency", lambda *_, **__: Slot(given_back=error))
    with policy.slot("accelerator"):
        computed = True
    assert computed
    assert "a slot of 'accelerator' stays taken until its lease ends" in caplog.text


def test_a_slot_that_the_server_does_not_know_is_an_error(monkeypatch):
    monkeypatch.setattr(policy, "concurrency", lambda *_, **__: Slot(given_back=answered(404)))
    with pytest.raises(httpx.HTTPStatusError, match="404"), policy.slot("accelerator"):
        pass


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (answered(500), TransientError),
        (httpx.ConnectError("refused"), TransientError),
        (answered(404), ConcurrencySlotAcquisitionError),
    ],
    ids=repr,
)
def test_whoever_asks_a_server_that_is_away_for_a_slot_may_ask_again(monkeypatch, error, raised):
    monkeypatch.setattr(policy, "concurrency", lambda *_, **__: Slot(asked=error))
    with pytest.raises(raised), policy.slot("accelerator"):
        pytest.fail("there is no slot")
