"""What a training stage tells while it runs: progress lines, and the points of its curves."""

import math
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from tinybert.errors import QualityError
from tinybert.processes import process
from tinybert.progress import OnMetrics, Progress


class Reporter(TrainerCallback):
    """Turns the Trainer's logs into progress lines and curves; in the first of several processes alone.

    Args:
        what: The stage's name.
        steps: All steps of the stage.
        on_metrics: Called with points of the curves and their step.
        mean_terms: The loss terms' means since it was last called.
    """

    def __init__(
        self, what: str, steps: int, on_metrics: OnMetrics, mean_terms: Callable[[], dict[str, float]]
    ) -> None:
        self._what, self._on_metrics, self._mean_terms = what, on_metrics, mean_terms
        self._progress = Progress(what, steps)
        self._latest: dict[str, float] = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        """Called by the Trainer with a loss, or with validation scores."""
        if "loss" in logs:
            self._on_loss(logs, state.global_step)
        scores = {k.removeprefix("eval_"): v for k, v in logs.items() if k.startswith("eval_")}
        if scores:
            self._latest = {name: scores[name] for name in (args.metric_for_best_model,) if name in scores}
            self._tell({f"validation_{k}": v for k, v in scores.items()}, state.global_step)

    def _on_loss(self, logs: dict[str, float], step: int) -> None:
        terms = self._mean_terms()
        if not math.isfinite(logs["loss"]):
            raise QualityError(not_finite(self._what, f"loss {logs['loss']}", step))
        self._tell({"loss": logs["loss"], "learning_rate": logs["learning_rate"], **terms}, step)
        if process() == 0:
            self._progress.update(step, loss=logs["loss"], **self._latest)

    def _tell(self, metrics: dict[str, float], step: int) -> None:
        if process() == 0:
            self._on_metrics(metrics, step)


def not_finite(what: str, found: str, step: int, batch: str = "") -> str:
    """The message for a loss, or the norm of a gradient, that is no number any more."""
    kept = f"; its batch is kept in {batch}" if batch else ""
    return f"{what}: {found} at step {step}; lower the learning rate or use precision fp32{kept}"
