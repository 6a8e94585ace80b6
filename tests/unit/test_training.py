"""The training loop: its loss under accumulation, its resumption, its choice of a checkpoint, its complaints."""

import math

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from torch import nn

from tinybert.errors import QualityError
from tinybert.training import Learner, Validation, train
from tinybert.training_config import OptimConfig, SelectionConfig


class Line(Learner):
    """y = w x + b under a mean squared error; dropout makes it depend on the random numbers."""

    def __init__(self, dropout=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.line = nn.Linear(4, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, **batch):
        predicted = self.line(self.dropout(batch["x"])).squeeze(-1)
        return {"loss": (predicted - batch["y"]).square().mean(), "bias": self.line.bias.sum()}


def collate(rows):
    return {"x": torch.tensor([row["x"] for row in rows]), "y": torch.tensor([row["y"] for row in rows])}


@pytest.fixture
def rows():
    torch.manual_seed(1)
    x = torch.randn(40, 4)
    return Dataset.from_dict({"x": x.tolist(), "y": (x.sum(1) + 1).tolist()})


def fit(learner, rows, resume, on_metrics=lambda metrics, step: None, validation=None, **fields):
    config = OptimConfig(**{"epochs": 3, "batch_size": 8, "learning_rate": 0.05, "precision": "fp32", **fields})
    return train("test", learner, rows, collate, config, resume, on_metrics, validation)


def weights(learner):
    return torch.cat([parameter.detach().flatten() for parameter in learner.parameters()])


def test_it_learns_and_counts(rows, tmp_path):
    learner, curve = Line(), {}
    metrics = fit(learner, rows, tmp_path, epochs=60, on_metrics=lambda found, step: curve.update({step: found}))
    assert metrics["steps"] == 60 * 5
    assert metrics["loss"] < 0.01
    assert curve[10]["loss"] > curve[300]["loss"]
    assert curve[300]["bias"] == pytest.approx(1.0, abs=0.1)
    assert metrics["loss"] == pytest.approx(curve[300]["loss"])


def test_steps_bound_epochs(rows, tmp_path):
    assert fit(Line(), rows, tmp_path / "a", steps=7)["steps"] == 7
    assert fit(Line(), rows, tmp_path / "b", epochs=1, steps=700)["steps"] == 5


@pytest.mark.parametrize("accumulation", [2, 4])
def test_accumulated_slices_give_the_plain_weights_and_loss(rows, tmp_path, accumulation):
    plain, sliced, curves = Line(), Line(), ([], [])
    fit(plain, rows, tmp_path / "plain", on_metrics=lambda m, s: curves[0].append(m["loss"]))
    fit(
        sliced,
        rows,
        tmp_path / "sliced",
        accumulation=accumulation,
        on_metrics=lambda m, s: curves[1].append(m["loss"]),
    )
    torch.testing.assert_close(weights(sliced), weights(plain))
    assert curves[1] == pytest.approx(curves[0])


class Killed(BaseException):
    """What SIGKILL is to the loop: nothing of it runs afterwards."""


@pytest.mark.parametrize("at", [3, 7, 14])
def test_a_killed_run_resumes_to_the_same_weights(rows, tmp_path, at):
    class Mortal(Line):
        steps = 0

        def forward(self, **batch):
            self.steps += 1
            if self.steps > at:
                raise Killed
            return super().forward(**batch)

    unbroken = Line(dropout=0.2)
    fit(unbroken, rows, tmp_path / "unbroken", checkpoint_every=2)
    with pytest.raises(Killed):
        fit(Mortal(dropout=0.2), rows, tmp_path / "broken", checkpoint_every=2)
    resumed = Line(dropout=0.2)
    nn.init.zeros_(resumed.line.weight)  # what it starts from does not matter: the checkpoint does
    metrics = fit(resumed, rows, tmp_path / "broken", checkpoint_every=2)
    assert metrics["steps"] == 15
    assert torch.equal(weights(resumed), weights(unbroken))


def test_the_best_checkpoint_is_kept_and_named(rows, tmp_path):
    learner, scores = Line(), iter([0.1, 0.9, 0.3])
    snapshots = []

    def score():
        snapshots.append(weights(learner).clone())
        return {"accuracy": next(scores), "f1_macro": 0.5}

    metrics = fit(learner, rows, tmp_path, validation=Validation(score, SelectionConfig()))
    assert metrics["validation_accuracy"] == 0.9
    assert torch.equal(weights(learner), snapshots[1])


def test_evaluation_does_not_change_training(rows, tmp_path):
    def score():
        torch.rand(100)
        return {"accuracy": 0.5, "f1_macro": 0.5}

    quiet, watched = Line(dropout=0.2), Line(dropout=0.2)
    fit(quiet, rows, tmp_path / "quiet", epochs=1)
    validation = Validation(score, SelectionConfig(evaluations_per_epoch=5))
    seen = []
    fit(watched, rows, tmp_path / "watched", epochs=1, validation=validation, on_metrics=lambda m, s: seen.append(m))
    assert sum("validation_accuracy" in metrics for metrics in seen) == 5
    # The first of equally good checkpoints is put back, so compare what both had learnt after the last step.
    state = load_file(tmp_path / "watched" / "checkpoint-5" / "model.safetensors")
    assert torch.equal(state["line.weight"], quiet.line.weight)


def test_patience_ends_training_early(rows, tmp_path):
    falling = iter([0.9, 0.8, 0.7, 0.6, 0.5])
    validation = Validation(lambda: {"accuracy": next(falling), "f1_macro": 0.5}, SelectionConfig(patience=2))
    metrics = fit(Line(), rows, tmp_path, epochs=5, validation=validation)
    assert metrics["steps"] == 15
    assert metrics["validation_accuracy"] == 0.9


def test_the_last_step_is_evaluated_and_saved(rows, tmp_path):
    seen = []
    validation = Validation(lambda: {"accuracy": len(seen) / 10, "f1_macro": 0.5}, SelectionConfig())
    fit(Line(), rows, tmp_path, steps=7, validation=validation, on_metrics=lambda m, s: seen.append((s, m)))
    assert [step for step, metrics in seen if "validation_accuracy" in metrics] == [5, 7]
    assert (tmp_path / "checkpoint-7").is_dir()


def test_a_loss_that_is_not_finite_stops_the_run(rows, tmp_path):
    class Broken(Line):
        def forward(self, **batch):
            return {"loss": super().forward(**batch)["loss"] * math.inf}

    with pytest.raises(QualityError, match=r"test: loss (inf|nan) at step 1; lower the learning rate"):
        fit(Broken(), rows, tmp_path)


def test_dropout_is_overridden(rows, tmp_path):
    learner = Line(dropout=0.5)
    fit(learner, rows, tmp_path, steps=1, dropout=0.0)
    assert learner.dropout.p == 0.0


def test_stopping_before_the_first_regular_log(rows, tmp_path):
    falling = iter([0.9, 0.8, 0.7])
    validation = Validation(lambda: {"accuracy": next(falling), "f1_macro": 0.5}, SelectionConfig(patience=1))
    metrics = fit(Line(), rows, tmp_path, batch_size=20, epochs=9, validation=validation)
    assert metrics["steps"] == 4
    assert math.isfinite(metrics["loss"])
