"""Where a stage keeps what a killed run continues from, and what it finds there."""

import json
import os
from pathlib import Path
from typing import Any

STATE, WEIGHTS = "trainer_state.json", "model.safetensors"
"""Of a checkpoint; tied weights are in it once."""


def resume_beside(out: Path) -> Path:
    """Directory of a stage's checkpoints: beside its output, and no part of it."""
    return out.with_name(f"{out.name}-resume")


def last_checkpoint(directory: Path) -> str | None:
    """The newest whole checkpoint, None without one.

    The Trainer writes `trainer_state.json` last; a checkpoint without a readable one was cut off by a kill or a full
    disk. One whose best predecessor is gone would lose the best weights, so it does not count either.
    """
    newest_first = sorted(directory.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2]))
    whole = (path for path in newest_first if (state := read_state(path)) is not None and _has_best(path, state))
    return str(found) if (found := next(whole, None)) else None


def read_state(checkpoint: Path) -> dict[str, Any] | None:
    """The Trainer's state in a checkpoint: steps, log, best checkpoint; None where it is cut off."""
    try:
        state: dict[str, Any] = json.loads((checkpoint / STATE).read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return state


def continue_from(checkpoint: Path) -> dict[str, Any]:
    """The state of a checkpoint, whose best checkpoint is looked for beside it: it may come from another machine."""
    state = read_state(checkpoint)
    assert state is not None
    if best := state["best_model_checkpoint"]:
        state["best_model_checkpoint"] = str(checkpoint.with_name(Path(best).name))
        whole = checkpoint / f"{STATE}.{os.getpid()}"  # of its own: other processes of the stage write theirs
        whole.write_text(json.dumps(state, indent=1))
        whole.replace(checkpoint / STATE)
    return state


def _has_best(checkpoint: Path, state: dict[str, Any]) -> bool:
    best = state.get("best_model_checkpoint")
    return not best or checkpoint.with_name(Path(best).name).is_dir()


def is_finished(state: dict[str, Any], steps: int) -> bool:
    """Whether training had ended when this state was written: by its last step, or by patience.

    It had not where the evaluation of its step was interrupted.
    """
    control = state["stateful_callbacks"]["TrainerControl"]["args"]
    ended = state["global_step"] >= steps or control["should_training_stop"]
    return bool(ended and not control["should_evaluate"])
