"""The training loop: its gradients, its resumption, its choice of a checkpoint, its complaints."""

import json
import logging
import math
import shutil
import signal
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch._dynamo.utils import counters
from torch._inductor import config as inductor
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import AutoModelForMaskedLM, AutoTokenizer

from tests.unit.line import Broken, Hungry, Line, Points, Signalled, fit, halfway, told_while_scored, weights
from tests.unit.tiny import Taught, state_learner
from tinybert import corpus
from tinybert.batches import GroupedPlan, StepBatches, plan
from tinybert.errors import QualityError
from tinybert.learner import Validation
from tinybert.stages.mlm import MaskedRows, MlmLearner
from tinybert.training_config import OptimConfig, SelectionConfig


@pytest.fixture
def rows():
    return Points()


@pytest.fixture
def gradients():
    """The gradients of every optimizer step taken in the test, flat."""
    taken = []

    def keep(optimizer, args, kwargs):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        taken.append(torch.cat([p.grad.flatten() for p in parameters]).clone())

    handle = register_optimizer_step_pre_hook(keep)
    yield taken
    handle.remove()


@pytest.fixture
def log(caplog):
    """The messages of the core's logger."""
    caplog.set_level(logging.INFO, "tinybert")
    return caplog


def plain_gradient(learner, loss):
    """By autograd over the whole batch at once, flat."""
    loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in learner.parameters()])


def batch_of(rows, step, **fields):
    """The batch of a step, counted from 1, straight from the plan."""
    optim = OptimConfig(**{"epochs": 3, "batch_size": 8} | fields)
    return rows.batch(GroupedPlan(rows.lengths, optim).rows(step - 1), torch.Generator())


def checkpoints(directory):
    return {path.name for path in (directory / "out-resume").glob("checkpoint-*")}


def test_it_learns_and_counts(rows, tmp_path):
    learner, curve = Line(), {}
    metrics = fit(
        learner,
        rows,
        tmp_path,
        epochs=30,
        learning_rate=0.2,
        on_metrics=lambda found, step: curve.update({step: found}),
    )
    assert metrics["steps"] == metrics["chosen_step"] == 30 * 5
    assert metrics["loss"] < 0.01
    assert metrics["examples_per_second"] * metrics["seconds"] == pytest.approx(30 * 40)
    assert curve[10]["loss"] > curve[150]["loss"]
    assert curve[150]["bias"] == pytest.approx(1.0, abs=0.1)
    assert metrics["loss"] == pytest.approx(curve[150]["loss"])


def test_steps_bound_epochs(rows, tmp_path):
    assert fit(Line(), rows, tmp_path / "a", steps=7)["steps"] == 7
    assert fit(Line(), rows, tmp_path / "b", epochs=1, steps=700)["steps"] == 5


def test_dropout_is_overridden(rows, tmp_path):
    learner = Line(dropout=0.5)
    fit(learner, rows, tmp_path, steps=1, dropout=0.0)
    assert learner.dropout.p == 0.0


def test_a_learner_is_moved_to_the_device_before_its_table_is_set_aside(rows, tmp_path, monkeypatch):
    class ReachedError(Exception):
        pass

    def set_aside(learner, *_):
        raise ReachedError(learner.line.weight.device.type)

    monkeypatch.setattr("tinybert.training.device", lambda: torch.device("meta"))
    monkeypatch.setattr("tinybert.training.Shrunk", set_aside)
    with pytest.raises(ReachedError, match="meta"):
        fit(Line(), rows, tmp_path)


# Slices ---------------------------------------------------------------------------------------------------------------


class ExactPoints(Points):
    """In float64, so that what remains of a difference is the rounding of the slices' weights, which are fp32."""

    def batch(self, rows, chance):
        return {name: tensor.double() for name, tensor in super().batch(rows, chance).items()}


@pytest.mark.parametrize("accumulation", [1, 2, 4, 16])
def test_slices_of_13_rows_give_the_plain_gradient_and_loss(tmp_path, gradients, accumulation):
    rows, learner, plain, curve = ExactPoints(13), Line().double(), Line().double(), {}
    terms = plain(**batch_of(rows, 1, batch_size=16))
    expected = plain_gradient(plain, terms["loss"])
    fields = {"batch_size": 16, "accumulation": accumulation, "max_grad_norm": 1e9, "epochs": 1}
    fit(learner, rows, tmp_path, on_metrics=lambda found, step: curve.update(found), **fields)
    assert learner.passes == math.ceil(13 / (16 / accumulation))
    torch.testing.assert_close(gradients[0], expected, rtol=1e-6, atol=1e-7)
    assert curve["loss"] == pytest.approx(terms["loss"].item(), rel=1e-6)
    assert curve["bias"] == pytest.approx(terms["bias"].item(), rel=1e-6)


@pytest.mark.parametrize("accumulation", [2, 4])
def test_sliced_steps_end_in_the_plain_weights(rows, tmp_path, accumulation):
    plain, sliced, curves = Line(), Line(), ([], [])
    fit(plain, rows, tmp_path / "plain", on_metrics=lambda m, s: curves[0].append(m["loss"]))
    fields = {"accumulation": accumulation, "on_metrics": lambda m, s: curves[1].append(m["loss"])}
    fit(sliced, rows, tmp_path / "sliced", **fields)
    torch.testing.assert_close(weights(sliced), weights(plain))
    assert curves[1] == pytest.approx(curves[0])


@pytest.mark.parametrize("accumulation", [1, 4, 16])
def test_slices_give_the_mean_over_the_masked_tokens_of_their_batch(smoke_material, tmp_path, accumulation):
    torch.manual_seed(2)
    sequences = [(row, True) for row in torch.randint(10, 60, (13, 12)).tolist()]
    count = corpus.write(sequences, 12, tmp_path / "corpus.arrow")
    tokenizer = AutoTokenizer.from_pretrained(smoke_material / "teacher")
    rows = MaskedRows(corpus.PackedRows(tmp_path / "corpus.arrow", count), tokenizer, share=0.1)
    optim = OptimConfig(epochs=1, batch_size=16)
    batch = StepBatches(rows, plan(rows, optim), optim.seed)[0]
    masked = (batch["labels"] != -100).sum(1)
    assert masked.min() == 0  # a row, so a slice of one, without a masked token
    assert masked.max() > 1

    plain, trained = (AutoModelForMaskedLM.from_pretrained(smoke_material / "teacher") for _ in range(2))
    loss = plain.eval()(input_ids=batch["input_ids"], labels=batch["labels"]).loss  # the mean over all masked tokens
    expected, taken, curve = plain_gradient(plain, loss), {}, {}
    for name, parameter in trained.named_parameters():  # the last that is seen of each is the sum over all slices
        parameter.register_post_accumulate_grad_hook(
            lambda p, name=name: taken.update({name: p.grad.flatten().clone()})
        )
    fields = {"epochs": 1, "batch_size": 16, "accumulation": accumulation, "dropout": 0.0}
    fit(MlmLearner(trained), rows, tmp_path, on_metrics=lambda found, step: curve.update(found), **fields)
    gradient = torch.cat([taken[name] for name, _ in plain.named_parameters()])
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-7)
    assert curve["loss"] == pytest.approx(loss.item(), rel=1e-5)


# Memory ---------------------------------------------------------------------------------------------------------------


def test_out_of_memory_halves_the_slices_and_changes_nothing_else(rows, tmp_path, log):
    plain, hungry = Line(), Hungry(most=3)
    fit(plain, rows, tmp_path / "plain")
    fit(hungry, rows, tmp_path / "hungry", checkpoint_every=4)
    torch.testing.assert_close(weights(hungry), weights(plain))
    assert "test  out of memory: the batch of 8 rows of 1 tokens, now in slices of 4 rows" in log.messages
    assert "test  out of memory: the batch of 8 rows of 1 tokens, now in slices of 2 rows" in log.messages
    assert hungry.failures == 2  # not at every step again

    resume = tmp_path / "hungry" / "out-resume"
    for path in resume.glob("checkpoint-15"):
        shutil.rmtree(path)
    again = Hungry(most=3)
    fit(again, rows, tmp_path / "hungry", checkpoint_every=4)
    assert (again.failures, again.passes) == (0, 3 * 4)  # three steps from checkpoint-12, four slices each
    assert torch.equal(weights(again), weights(hungry))


def test_what_was_half_computed_when_memory_ran_out_is_dropped(rows, tmp_path, gradients):
    class Once(Line):
        def forward(self, **batch):
            terms = super().forward(**batch)
            if self.passes == 2:  # the second slice, when the first has left its gradient
                raise torch.OutOfMemoryError
            return terms

    plain = Line()
    expected = plain_gradient(plain, plain(**batch_of(rows, 1))["loss"])
    fit(Once(), rows, tmp_path, steps=1, accumulation=2, max_grad_norm=1e9)
    torch.testing.assert_close(gradients[0], expected)


class Longer(Points):
    """Rows of 2 to 41 tokens, whose numbers a device holds up to a limit."""

    def __init__(self):
        super().__init__()
        self.lengths = np.arange(2, 42, dtype=np.int32)

    def batch(self, rows, chance):
        return super().batch(rows, chance) | {"input_ids": torch.zeros(len(rows), int(self.lengths[rows].max()))}


class Narrow(Line):
    """Runs out of memory above a number of tokens, and notes what it was given."""

    def __init__(self, most):
        super().__init__()
        self.most, self.slices = most, []

    def forward(self, **batch):
        self.slices.append(tuple(batch["input_ids"].shape))
        if batch["input_ids"].numel() > self.most:
            raise torch.OutOfMemoryError
        return super().forward(**batch)


def test_a_limit_is_one_of_tokens(tmp_path):
    learner, plain = Narrow(most=64), Line()
    fit(learner, Longer(), tmp_path / "narrow", batch_tokens=120, epochs=1)
    fit(plain, Longer(), tmp_path / "plain", batch_tokens=120, epochs=1)
    torch.testing.assert_close(weights(learner), weights(plain))
    failed, *held = learner.slices
    assert failed == (4, 30)  # 120 tokens; half of its rows are 60
    assert all(rows * length <= 60 for rows, length in held)
    assert (1, 41) in held  # of the longest a single one
    assert max(rows for rows, _ in held) > 4  # of short ones many


def test_a_cpu_takes_a_thousand_tokens_at_a_time(tmp_path, gradients):
    """All 40 rows in one batch, the longest of 41 tokens: 1,640."""
    learner, plain = Narrow(most=1024), Line()
    expected = plain_gradient(plain, plain(**batch_of(Longer(), 1, batch_size=40))["loss"])
    fit(learner, Longer(), tmp_path, batch_size=40, epochs=1, max_grad_norm=1e9)
    assert learner.slices == [(20, 41), (20, 41)]
    torch.testing.assert_close(gradients[0], expected)


def test_memory_for_not_even_one_row(rows, tmp_path):
    hungry = Hungry(most=0)
    with pytest.raises(torch.OutOfMemoryError):
        fit(hungry, rows, tmp_path)
    assert hungry.failures == 4  # 8, 4, 2, 1


def test_a_budget_of_tokens_is_one_slice_unless_more_are_asked_for(tmp_path):
    short = Points(200)  # 3 tokens each: 100 of them are 300 tokens, many more rows than batch_size
    whole, halved = Line(), Line()
    assert fit(whole, short, tmp_path / "whole", batch_tokens=300, epochs=1)["steps"] == 2
    assert whole.passes == 2
    fit(halved, short, tmp_path / "halved", batch_tokens=300, epochs=1, accumulation=2)
    assert halved.passes == 4


# Losses that are no numbers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 10, 13, 15])  # logged, logged, between two logs, the last
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_its_batch(rows, tmp_path, step):
    with pytest.raises(QualityError, match=rf"test: loss nan at step {step}; lower the learning rate") as raised:
        fit(Broken(step), rows, tmp_path)
    path = tmp_path / "out-resume" / f"not-finite-step-{step}.safetensors"
    assert str(path) in str(raised.value)
    kept, expected = load_file(path), batch_of(rows, step)
    assert kept.keys() == expected.keys()
    assert all(torch.equal(kept[name], expected[name]) for name in expected)


@pytest.mark.parametrize("step", [1, 10, 13, 15])
def test_a_gradient_that_is_not_finite_stops_the_run_before_anything_is_written(rows, tmp_path, step):
    learner = Line()  # its loss stays finite
    learner.line.bias.register_hook(lambda gradient: gradient * (math.inf if learner.passes == step else 1.0))
    with pytest.raises(QualityError, match=rf"test: gradient norm inf at step {step}; lower the learning rate"):
        fit(learner, rows, tmp_path, checkpoint_every=1)
    kept = load_file(tmp_path / "out-resume" / f"not-finite-step-{step}.safetensors")
    assert torch.equal(kept["x"], batch_of(rows, step)["x"])
    assert checkpoints(tmp_path) == {f"checkpoint-{earlier}" for earlier in (step - 2, step - 1) if earlier > 0}
    assert not (tmp_path / "out" / "selection.json").exists()


def test_a_batch_whose_loss_was_finite_is_not_kept(rows, tmp_path):
    class Watching(Line):
        earlier = ()

        def forward(self, **batch):
            self.alive.append(sum(tensor() is not None for tensor in self.earlier))
            self.earlier = [weakref.ref(tensor) for tensor in batch.values()]
            return super().forward(**batch)

    learner = Watching()
    learner.alive = []
    fit(learner, rows, tmp_path, steps=4)
    assert learner.alive == [0, 0, 0, 0]


def test_no_checkpoint_and_no_score_follows_a_loss_that_is_not_finite(rows, tmp_path):
    scores = []
    validation = Validation(lambda check: scores.append(1) or {"accuracy": 0.5}, "accuracy", SelectionConfig())
    with pytest.raises(QualityError, match="at step 5"):
        fit(Broken(5), rows, tmp_path, validation=validation)
    assert not checkpoints(tmp_path)
    assert not scores


# Resumption -----------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """What SIGKILL is to the loop: nothing of it runs afterwards."""


class Mortal(Line):
    def __init__(self, at, **more):
        super().__init__(**more)
        self.at = at

    def forward(self, **batch):
        if self.passes == self.at:
            raise Killed
        return super().forward(**batch)


@pytest.fixture(scope="module")
def unbroken_weights(tmp_path_factory):
    """What a run with dropout ends in that was neither killed nor wrote checkpoints on its way."""
    unbroken = Line(dropout=0.2)
    fit(unbroken, Points(), tmp_path_factory.mktemp("unbroken"))
    return weights(unbroken)


@pytest.mark.parametrize("at", [3, 7, 14])
def test_a_killed_run_resumes_to_the_same_weights(rows, tmp_path, unbroken_weights, at):
    with pytest.raises(Killed):
        fit(Mortal(at, dropout=0.2), rows, tmp_path / "broken", checkpoint_every=2)
    resumed = Line(dropout=0.2)
    nn.init.zeros_(resumed.line.weight)  # what it starts from does not matter: the checkpoint does
    metrics = fit(resumed, rows, tmp_path / "broken", checkpoint_every=2)
    assert metrics["steps"] == 15
    assert resumed.passes == 15 - (at - at % 2)
    assert torch.equal(weights(resumed), unbroken_weights)


@pytest.mark.parametrize(
    ("at", "kept"),
    [(4 * 6 + 2, {"checkpoint-4", "checkpoint-6"}), (4 * 8 + 1, {"checkpoint-4", "checkpoint-8"}), (2, set())],
    ids=["between checkpoints", "right after one", "in the first step"],
)
def test_sigterm_in_the_middle_of_a_step_leaves_without_its_other_slices(
    rows, tmp_path, unbroken_slices, terminated, at, kept
):
    learner = Signalled(signal.SIGTERM, at, dropout=0.2)
    with pytest.raises(SystemExit) as ended:
        fit(learner, rows, tmp_path, accumulation=4, checkpoint_every=4)
    assert ended.value.code == 128 + signal.SIGTERM
    assert learner.passes == at  # the slice in progress is the last
    assert checkpoints(tmp_path) == kept
    assert not (tmp_path / "out" / "selection.json").exists()
    resumed = Line(dropout=0.2)
    fit(resumed, rows, tmp_path, accumulation=4, checkpoint_every=4)
    assert resumed.passes == 4 * (15 - (at - 1) // 4)
    assert torch.equal(weights(resumed), unbroken_slices)


@pytest.fixture(scope="module")
def unbroken_slices(tmp_path_factory):
    """What a run in four slices a batch ends in that nobody stopped."""
    unbroken = Line(dropout=0.2)
    fit(unbroken, Points(), tmp_path_factory.mktemp("unbroken-slices"), accumulation=4)
    return weights(unbroken)


def ends(metrics):
    """What a run ends with, its seconds left out."""
    return {name: value for name, value in metrics.items() if "second" not in name}


@pytest.mark.parametrize("evaluation", [1, 3, 5])  # the best, one after it, that of the last step
def test_sigterm_in_the_middle_of_an_evaluation_leaves_it_to_the_next_run(rows, tmp_path, terminated, evaluation):
    fields = {"dropout": 0.2, "learning_rate": 0.2, "epochs": 5}
    unbroken, learner, resumed = Line(), Line(), Line()
    whole = fit(unbroken, rows, tmp_path / "unbroken", validation=halfway(unbroken), **fields)
    assert whole["chosen_step"] == 5
    told = told_while_scored(halfway(learner), signal.SIGTERM, evaluation)
    with pytest.raises(SystemExit):
        fit(learner, rows, tmp_path / "broken", validation=told, **fields)
    assert learner.passes == 5 * evaluation
    assert f"checkpoint-{5 * evaluation}" in checkpoints(tmp_path / "broken")

    again = told_while_scored(halfway(resumed), signal.SIGTERM, 1)
    with pytest.raises(SystemExit):  # told again before it could be scored
        fit(resumed, rows, tmp_path / "broken", validation=again, **fields)
    metrics = fit(resumed, rows, tmp_path / "broken", validation=halfway(resumed), **fields)
    assert resumed.passes == 25 - 5 * evaluation
    assert ends(metrics) == ends(whole)
    assert torch.equal(weights(resumed), weights(unbroken))
    for name in ("selection.json", "last/model.safetensors"):
        assert (tmp_path / "broken/out" / name).read_bytes() == (tmp_path / "unbroken/out" / name).read_bytes()


def test_an_evaluation_that_was_interrupted_may_use_up_the_patience(rows, tmp_path, terminated):
    fields = {"learning_rate": 0.2, "epochs": 9}
    unbroken, learner, resumed = Line(), Line(), Line()
    whole = fit(unbroken, rows, tmp_path / "unbroken", validation=halfway(unbroken, patience=2), **fields)
    told = told_while_scored(halfway(learner, patience=2), signal.SIGTERM, int(whole["steps"]) // 5)
    with pytest.raises(SystemExit):
        fit(learner, rows, tmp_path / "broken", validation=told, **fields)
    metrics = fit(resumed, rows, tmp_path / "broken", validation=halfway(resumed, patience=2), **fields)
    assert resumed.passes == 0
    assert ends(metrics) == ends(whole)
    assert torch.equal(weights(resumed), weights(unbroken))


def test_a_killed_run_keeps_its_best_weights_and_may_move(rows, tmp_path):
    fields = {"dropout": 0.2, "learning_rate": 0.2, "epochs": 5}
    unbroken, mortal, resumed = Line(), Mortal(at=18), Line()
    whole = fit(unbroken, rows, tmp_path / "unbroken", validation=halfway(unbroken), **fields)
    assert 0 < whole["chosen_step"] < 15  # found before the kill
    with pytest.raises(Killed):
        fit(mortal, rows, tmp_path / "broken", validation=halfway(mortal), **fields)
    (tmp_path / "broken").rename(tmp_path / "moved")
    metrics = fit(resumed, rows, tmp_path / "moved", validation=halfway(resumed), **fields)
    assert ends(metrics) == ends(whole)
    assert torch.equal(weights(resumed), weights(unbroken))
    for name in ("selection.json", "last/model.safetensors"):
        assert (tmp_path / "moved/out" / name).read_bytes() == (tmp_path / "unbroken/out" / name).read_bytes()


def test_patience_goes_on_counting_after_a_kill(rows, tmp_path):
    fields = {"learning_rate": 0.2, "epochs": 9}
    unbroken, mortal, resumed, again = Line(), Line(), Line(), Line()
    whole = fit(unbroken, rows, tmp_path / "unbroken", validation=halfway(unbroken, patience=2), **fields)
    assert whole["steps"] == whole["chosen_step"] + 10 < 45
    mortal = Mortal(at=int(whole["chosen_step"]) + 7)  # one evaluation without improvement later
    with pytest.raises(Killed):
        fit(mortal, rows, tmp_path / "broken", validation=halfway(mortal, patience=2), **fields)
    metrics = fit(resumed, rows, tmp_path / "broken", validation=halfway(resumed, patience=2), **fields)
    assert (metrics["steps"], metrics["chosen_step"]) == (whole["steps"], whole["chosen_step"])
    assert torch.equal(weights(resumed), weights(unbroken))

    metrics = fit(again, rows, tmp_path / "broken", validation=halfway(again, patience=2), **fields)
    assert again.passes == 0  # it had ended, though steps were left
    assert metrics["steps"] == whole["steps"]
    assert torch.equal(weights(again), weights(unbroken))


def test_a_finished_run_trains_nothing_again(rows, tmp_path):
    first, second = Line(), Line()
    before = fit(first, rows, tmp_path, learning_rate=0.2, validation=halfway(first))
    shutil.move(tmp_path / "out", tmp_path / "lost")
    shutil.move(tmp_path, tmp_path.with_name(f"{tmp_path.name}-moved"))
    moved = tmp_path.with_name(f"{tmp_path.name}-moved")
    after = fit(second, rows, moved, learning_rate=0.2, validation=halfway(second))
    assert second.passes == 0
    assert ends(after) == ends(before)
    assert torch.equal(weights(second), weights(first))
    for name in ("selection.json", "last/model.safetensors"):
        assert (moved / "out" / name).read_bytes() == (moved / "lost" / name).read_bytes()


def test_checkpoints_by_time_come_once_each(rows, tmp_path, monkeypatch):
    """A step takes a minute; four and a half minutes are over in the fifth step after the last checkpoint."""
    learner, seen = Line(), set()
    clock = SimpleNamespace(monotonic=lambda: 60.0 * learner.passes)
    monkeypatch.setattr("tinybert.trainer.time", clock)

    class Watching(Points):
        def batch(self, rows, chance):
            seen.update(checkpoints(tmp_path))
            return super().batch(rows, chance)

    fit(learner, Watching(), tmp_path, checkpoint_minutes=4.5)
    assert seen == {"checkpoint-7", "checkpoint-14"}  # decided in one step, carried out at the end of the next


def test_checkpoints_by_steps_come_between_evaluations_too(rows, tmp_path):
    seen = []

    class Watching(Points):
        def batch(self, rows, chance):
            if not seen or seen[-1] != checkpoints(tmp_path):
                seen.append(checkpoints(tmp_path))
            return super().batch(rows, chance)

    scores = iter([0.1, 0.9, 0.3, 0.2])  # after steps 5, 10, 15 and 20
    validation = Validation(lambda check: {"accuracy": next(scores)}, "accuracy", SelectionConfig())
    metrics = fit(Line(), Watching(), tmp_path, validation=validation, checkpoint_every=2, epochs=4)
    assert metrics["chosen_step"] == 10
    assert [{int(name.removeprefix("checkpoint-")) for name in names} for names in seen] == [
        *(set(), {2}, {2, 4}, {4, 5}, {5, 6}, {5, 8}),
        *({8, 10}, {10, 12}, {10, 14}, {10, 15}, {10, 16}, {10, 18}),
    ]


# Choice ---------------------------------------------------------------------------------------------------------------


def test_the_best_checkpoint_is_kept_and_named(rows, tmp_path):
    learner, scores = Line(), iter([0.1, 0.9, 0.3])
    snapshots = []

    def score(check):
        snapshots.append(weights(learner).clone())
        return {"accuracy": next(scores), "f1_macro": 0.5}

    metrics = fit(learner, rows, tmp_path, validation=Validation(score, "accuracy", SelectionConfig()))
    assert metrics["validation_accuracy"] == 0.9
    assert (metrics["chosen_step"], metrics["steps"]) == (10, 15)
    assert torch.equal(weights(learner), snapshots[1])
    last = load_file(tmp_path / "out" / "last/model.safetensors")
    assert torch.equal(torch.cat([last["line.weight"].flatten(), last["line.bias"]]), snapshots[2])
    assert json.loads((tmp_path / "out" / "selection.json").read_text()) == {
        "chosen_step": 10,
        "last_step": 15,
        "why": "highest accuracy on validation",
        "validation_accuracy": 0.9,
        "validation_f1_macro": 0.5,
    }


def test_another_metric_can_choose(rows, tmp_path):
    scores = iter([{"accuracy": 0.1, "f1_macro": 0.7}, {"accuracy": 0.9, "f1_macro": 0.2}])
    validation = Validation(lambda check: next(scores), "f1_macro", SelectionConfig())
    metrics = fit(Line(), rows, tmp_path, epochs=2, validation=validation)
    assert (metrics["chosen_step"], metrics["validation_f1_macro"]) == (5, 0.7)


def test_without_validation_the_last_step_is_chosen(rows, tmp_path):
    fit(Line(), rows, tmp_path)
    chosen = json.loads((tmp_path / "out" / "selection.json").read_text())
    assert chosen == {"chosen_step": 15, "last_step": 15, "why": "the last step"}
    assert not (tmp_path / "out" / "last/model.safetensors").exists()  # it would be the same


def test_evaluation_does_not_change_training(rows, tmp_path):
    def score(check):
        torch.rand(100)
        np.random.rand(3)
        watched.eval()
        return {"accuracy": 0.5}

    quiet, watched = Line(dropout=0.2), Line(dropout=0.2)
    fit(quiet, rows, tmp_path / "quiet", epochs=1)
    validation = Validation(score, "accuracy", SelectionConfig(evaluations_per_epoch=5))
    seen = []
    fit(watched, rows, tmp_path / "watched", epochs=1, validation=validation, on_metrics=lambda m, s: seen.append(m))
    assert sum("validation_accuracy" in metrics for metrics in seen) == 5
    # The first of equally good checkpoints is put back, so compare what both had learnt after the last step.
    state = load_file(tmp_path / "watched" / "out-resume" / "checkpoint-5" / "model.safetensors")
    assert torch.equal(state["line.weight"], quiet.line.weight)


def test_patience_ends_training_early(rows, tmp_path):
    falling = iter([0.9, 0.8, 0.7, 0.6, 0.5])
    validation = Validation(lambda check: {"accuracy": next(falling)}, "accuracy", SelectionConfig(patience=2))
    metrics = fit(Line(), rows, tmp_path, epochs=5, validation=validation)
    assert metrics["steps"] == 15
    assert metrics["validation_accuracy"] == 0.9


def test_the_last_step_is_evaluated_and_saved(rows, tmp_path):
    seen = []
    validation = Validation(lambda check: {"accuracy": len(seen) / 10}, "accuracy", SelectionConfig())
    fit(Line(), rows, tmp_path, steps=7, validation=validation, on_metrics=lambda m, s: seen.append((s, m)))
    assert [step for step, metrics in seen if "validation_accuracy" in metrics] == [5, 7]
    assert "checkpoint-7" in checkpoints(tmp_path)


def test_stopping_before_the_first_regular_log(rows, tmp_path):
    falling = iter([0.9, 0.8, 0.7])
    validation = Validation(lambda check: {"accuracy": next(falling)}, "accuracy", SelectionConfig(patience=1))
    metrics = fit(Line(), rows, tmp_path, batch_size=20, epochs=9, validation=validation)
    assert metrics["steps"] == 4
    assert math.isfinite(metrics["loss"])


# torch.compile --------------------------------------------------------------------------------------------------------


def test_without_a_compiler_training_goes_on_uncompiled(rows, tmp_path, monkeypatch, log):
    monkeypatch.setattr(inductor.cpp, "cxx", ("/nowhere/c++",))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    torch.compiler.reset()
    plain, compiled = Line(dropout=0.2), Line(dropout=0.2)
    fit(plain, rows, tmp_path / "plain", steps=3)
    fit(compiled, rows, tmp_path / "compiled", steps=3, compile=True, accumulation=2)
    torch.testing.assert_close(weights(compiled), weights(plain))
    failed = [message for message in log.messages if "torch.compile failed, going on without it" in message]
    assert len(failed) == 1
    assert "No working C++ compiler found" in failed[0]


needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


@pytest.mark.slow
@needs_compiler
def test_a_compiled_learner_learns_the_same(tmp_path, log):
    class Uncounted(Line):
        def forward(self, **batch):  # a number that changes would be compiled anew at every pass
            return {"loss": (self.line(batch["x"]).squeeze(-1) - batch["y"]).square().mean()}

    torch.compiler.reset()
    counters.clear()
    plain, compiled = Uncounted(), Uncounted()
    fit(plain, Points(39), tmp_path / "plain")
    fit(compiled, Points(39), tmp_path / "compiled", compile=True)
    torch.testing.assert_close(weights(compiled), weights(plain))
    assert counters["stats"]["unique_graphs"] == 1  # batches of 8 and of 7: sizes are dynamic
    assert not [record for record in log.records if record.levelno >= logging.WARNING]


@pytest.mark.slow
@needs_compiler
@pytest.mark.timeout(600)
def test_a_compiled_learner_of_states_loses_the_same(tmp_path, log):
    class Even(Taught):
        """Rows of one length, for each other one may be compiled anew."""

        def __init__(self):
            super().__init__()
            self.lengths[:] = 6

    torch.compiler.reset()
    counters.clear()
    curves = {False: [], True: []}
    for compiled, curve in curves.items():
        told = {"on_metrics": lambda metrics, step, curve=curve: curve.append((step, metrics))}
        fit(state_learner(), Even(), tmp_path / str(compiled), compile=compiled, epochs=2, dropout=0.0, **told)
    assert counters["stats"]["unique_graphs"] >= 1
    assert not [message for message in log.messages if "torch.compile failed" in message]
    assert [step for step, _ in curves[True]] == [step for step, _ in curves[False]] == [1, 10]
    for (_, found), (_, expected) in zip(curves[True], curves[False], strict=True):
        assert found == pytest.approx(expected, rel=1e-4)
    assert curves[True][1][1]["loss"] < 0.9 * curves[True][0][1]["loss"]
