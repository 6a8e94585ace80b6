"""One training loop for all stages: any learner on any rows, continued where it was killed."""

import json
import time
from pathlib import Path
from typing import Any

import safetensors.torch
from transformers import TrainerState

from tinybert.allocator import give_back_freed_memory
from tinybert.batches import Rows
from tinybert.dropout import set_dropout
from tinybert.interruption import Interruption
from tinybert.learner import Learner, Validation
from tinybert.precision import device
from tinybert.processes import join, process
from tinybert.progress import OnMetrics
from tinybert.reporting import Reporter
from tinybert.resume import WEIGHTS, resume_beside
from tinybert.trainer import StageTrainer
from tinybert.training_config import OptimConfig
from tinybert.used_rows import Shrunk

SELECTION, LAST = "selection.json", "last/model.safetensors"


def train(
    what: str,
    learner: Learner,
    rows: Rows,
    optim: OptimConfig,
    out: Path,
    on_metrics: OnMetrics,
    validation: Validation | None = None,
) -> dict[str, float]:
    """Train a learner in place; with a validation, it ends up with its best weights.

    Started in several processes (torchrun, Ray), each computes its share of every batch; the first one writes.
    SIGTERM writes a checkpoint and then does what it does. What an earlier, killed call left beside `out` is
    continued, with the same result as if it had never been killed.

    Args:
        what: The stage's name, for progress lines.
        learner: What is trained.
        rows: Training rows.
        optim: Epochs, steps, learning rate and so on.
        out: Directory of the stage's output. Gets `selection.json`, which says which checkpoint was chosen and why,
            and, where it was not the last step's, `last/` with the last weights.
        on_metrics: Called with points of the curves and their step.
        validation: Scores that choose the best checkpoint.

    Returns:
        steps, chosen_step, loss (of the last logged steps), seconds, examples and tokens per second of this call,
        and the best validation scores.

    Raises:
        QualityError: The loss is not finite.
        ConfigError: Fewer rows than processes.
    """
    join()
    resume = resume_beside(out)
    for directory in (out, resume):
        directory.mkdir(parents=True, exist_ok=True)
    set_dropout(learner, optim.dropout)
    learner.to(device())  # before: a table that is set aside stays where it is
    shrunk = Shrunk(learner, rows.tokens(), resume)
    with Interruption() as interruption:
        trainer = StageTrainer(what, learner, rows, optim, resume, validation, interruption)
        trainer.add_callback(Reporter(what, trainer.batches.steps, on_metrics, trainer.mean_terms))
        trainer.add_callback(shrunk)
        begun = time.monotonic()
        state = trainer.run()
        seconds = time.monotonic() - begun
    give_back_freed_memory()
    chosen = _keep_chosen(learner, shrunk, state, validation, out)
    return {
        "steps": float(state.global_step),
        "loss": next(entry["loss"] for entry in reversed(state.log_history) if "loss" in entry),
        "seconds": seconds,
        "examples_per_second": trainer.examples / seconds,
        "tokens_per_second": trainer.tokens / seconds,
        **chosen,
    }


def _keep_chosen(
    learner: Learner, shrunk: Shrunk, state: TrainerState, validation: Validation | None, out: Path
) -> dict[str, float]:
    """Put the chosen weights into the learner, write down which they are, and keep the last ones beside them."""
    last = chosen = int(state.global_step)
    scores: dict[str, float] = {}
    record: dict[str, Any] = {"why": "the last step"}
    if validation is not None and state.best_global_step is not None:
        chosen = int(state.best_global_step)
        scores = next(
            {f"validation_{k.removeprefix('eval_')}": v for k, v in sorted(entry.items()) if k.startswith("eval_")}
            for entry in state.log_history  # sorted: a resumed run has them in another order
            if entry["step"] == chosen and any(k.startswith("eval_") for k in entry)
        )
        record = {"why": f"highest {validation.metric} on validation", **scores}
    if chosen != last and process() == 0:
        (out / LAST).parent.mkdir(exist_ok=True)
        shrunk.restore()
        safetensors.torch.save_model(learner, str(out / LAST))
        shrunk.shrink()
        safetensors.torch.load_model(learner, Path(state.best_model_checkpoint or "") / WEIGHTS)
    shrunk.restore()
    if process() == 0:
        (out / SELECTION).write_text(json.dumps({"chosen_step": chosen, "last_step": last, **record}, indent=1) + "\n")
    return {"chosen_step": float(chosen), **scores}
