"""What a training stage tells while it runs: the score that decides is in its lines, all scores are in its curves."""

import logging
from types import SimpleNamespace

import pytest

from tinybert.errors import QualityError
from tinybert.reporting import Reporter

SCORES = {"eval_accuracy": 0.9, "eval_mcc": 0.25, "eval_f1": 0.5}


@pytest.fixture
def logged(monkeypatch, caplog):
    """Tells a reporter of a stage of 20 steps what the Trainer logs; gives the points of its curves and its lines."""
    monkeypatch.setattr(logging.getLogger("tinybert"), "propagate", True)
    caplog.set_level(logging.INFO, logger="tinybert")

    def logged(decides, *entries):
        points = []
        reporter = Reporter("logits", 20, lambda *point: points.append(point), lambda: {"soft_loss": 2.0})
        for step, logs in entries:
            reporter.on_log(
                SimpleNamespace(metric_for_best_model=decides), SimpleNamespace(global_step=step), None, logs
            )
        return points, [record.getMessage() for record in caplog.records]

    return logged


def test_lines_have_the_score_that_decides_and_curves_have_all(logged):
    points, lines = logged("mcc", (10, SCORES), (20, {"loss": 1.5, "learning_rate": 0.1}))
    assert points == [
        ({"validation_accuracy": 0.9, "validation_mcc": 0.25, "validation_f1": 0.5}, 10),
        ({"loss": 1.5, "learning_rate": 0.1, "soft_loss": 2.0}, 20),
    ]
    assert [line.split("  took")[0] for line in lines] == ["logits  step 20/20  loss 1.5  mcc 0.25"]


def test_a_stage_without_validation_has_its_loss_alone(logged):
    _, lines = logged(None, (20, {"loss": 1.5, "learning_rate": 0.1}))
    assert [line.split("  took")[0] for line in lines] == ["logits  step 20/20  loss 1.5"]


def test_a_loss_that_is_no_number_ends_the_stage(logged):
    with pytest.raises(QualityError, match="logits: loss nan at step 10; lower the learning rate"):
        logged("mcc", (10, {"loss": float("nan"), "learning_rate": 0.1}))
