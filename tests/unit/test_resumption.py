"""The real learners, killed and continued: the weights in the end are those of an unbroken run, bit by bit."""

import contextlib
import os
import signal

import pytest
import torch
from transformers import PreTrainedModel

from tests.unit.kind_data import write_encoder, write_kind
from tests.unit.line import fit
from tests.unit.tiny import LEARNERS, USED, WORDS, Masked, Taught, masked_learner
from tinybert.config import FineTuneConfig
from tinybert.models import load_model
from tinybert.stages import fine_tune
from tinybert.training_config import OptimConfig, SelectionConfig
from tinybert.used_rows import UsedRows

FIELDS = {"epochs": 2, "accumulation": 2, "checkpoint_every": 3, "weight_decay": 0.5, "learning_rate": 1e-2}
STEPS = 10


class Killed(BaseException):
    """What SIGKILL is to the loop: nothing of it runs afterwards."""


def killed_in(learner, step):
    """Have it end in the second slice of a step, where the first has left its gradient."""
    passes = []

    def count(module, args, kwargs):
        model = next(module for module in learner.modules() if isinstance(module, PreTrainedModel))
        passes.append(type(model.get_input_embeddings()))
        if len(passes) == 2 * step:
            raise Killed

    learner.register_forward_pre_hook(count, with_kwargs=True)
    return passes


@pytest.fixture(scope="module", params=LEARNERS)
def unbroken(request, tmp_path_factory):
    """What it is called, and the weights it ends in, nobody having killed it."""
    learner = LEARNERS[request.param]()
    fit(learner, Taught(), tmp_path_factory.mktemp("unbroken"), **FIELDS)
    return request.param, learner.state_dict()


@pytest.mark.parametrize("step", [2, 5, 10])  # before the first checkpoint, after one, in the last step
def test_a_killed_learner_ends_in_the_weights_of_an_unbroken_one(unbroken, tmp_path, step):
    name, expected = unbroken
    learner, again = LEARNERS[name](), LEARNERS[name]()
    tables = killed_in(learner, step)
    with pytest.raises(Killed):
        fit(learner, Taught(), tmp_path, **FIELDS)
    assert set(tables) == {UsedRows}  # the word table was the shrunk one
    if step > 3:  # what is learnt comes from the checkpoint, whatever the second one starts from
        with torch.no_grad():
            again.student.get_input_embeddings().weight[USED] = 0.0
            again.student.base_model.encoder.layer[0].attention.self.query.weight.zero_()
    metrics = fit(again, Taught(), tmp_path, **FIELDS)
    assert metrics["steps"] == STEPS
    found = again.state_dict()
    assert found.keys() == expected.keys()
    assert again.student.get_input_embeddings().weight.shape[0] == WORDS
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_the_weights_it_ends_in_were_learnt(unbroken):
    """Every matrix that has a loss has moved, projections and head included."""
    name, found = unbroken
    begun = LEARNERS[name]().state_dict()
    stayed = {key for key in begun if torch.equal(found[key], begun[key])}
    assert stayed <= {key for key in begun if "pooler" in key and name == "layers"}
    assert any("projections" in key for key in begun) == (name == "layers")


@pytest.mark.parametrize("step", [2, 5, 10])
def test_a_killed_model_whose_word_table_also_predicts_resumes(tmp_path, step):
    unbroken, learner, again = masked_learner(), masked_learner(), masked_learner()
    fit(unbroken, Masked(), tmp_path / "unbroken", **FIELDS)
    killed_in(learner, step)
    with pytest.raises(Killed):
        fit(learner, Masked(), tmp_path / "broken", **FIELDS)
    if step > 3:
        torch.nn.init.zeros_(again.model.get_input_embeddings().weight)
    assert fit(again, Masked(), tmp_path / "broken", **FIELDS)["steps"] == STEPS
    found, expected = again.state_dict(), unbroken.state_dict()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert again.model.get_output_embeddings().weight is again.model.get_input_embeddings().weight


@pytest.fixture
def tuned(tmp_path, monkeypatch):
    """Fine-tunes in a directory, three evaluations of three batches; SIGTERM comes in one batch, counted from 1.

    Gives the metrics and the batches that were scored, None for what it did not come to.
    """
    data, encoder = write_kind(tmp_path / "data", "classification", 64, 150), tmp_path / "encoder"
    optim = OptimConfig(epochs=3, batch_size=8, learning_rate=1e-3, dropout=0.1, precision="fp32")
    config = FineTuneConfig(floor=None, optim=optim, selection=SelectionConfig())
    write_encoder(encoder)

    def tune(directory, told=None):
        passes = []

        def count(module, args):
            if not module.training:
                passes.append(module)
                if len(passes) == told:
                    os.kill(os.getpid(), signal.SIGTERM)

        def counted(*args):
            model = load_model(*args)
            model.register_forward_pre_hook(count)
            return model

        monkeypatch.setattr(fine_tune, "load_model", counted)
        out, metrics = directory / "out", None
        out.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(SystemExit):
            metrics = fine_tune.run(data=data.directory, teacher=encoder, config=config, out=out, on_metrics=nothing)
        return metrics, len(passes)

    return tune


def nothing(metrics, step):
    """No curves are wanted."""


@pytest.mark.parametrize("batch", [2, 5, 7])  # of the first, the second and the last evaluation
def test_a_stage_told_to_end_while_it_is_scored_ends_in_the_weights_of_an_unbroken_one(
    tuned, tmp_path, terminated, batch
):
    whole, passes = tuned(tmp_path / "unbroken")
    assert passes == 3 * 3
    assert tuned(tmp_path / "broken", told=batch) == (None, batch)  # nothing more of this evaluation
    metrics, passes = tuned(tmp_path / "broken")
    assert passes == 3 * (3 - (batch - 1) // 3)  # that evaluation from its beginning, and those after it
    assert {name: value for name, value in metrics.items() if "second" not in name} == {
        name: value for name, value in whole.items() if "second" not in name
    }
    for name in ("model.safetensors", "selection.json"):
        assert (tmp_path / "broken/out" / name).read_bytes() == (tmp_path / "unbroken/out" / name).read_bytes()
