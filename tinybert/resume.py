"""Where a stage keeps what a killed run continues from."""

from pathlib import Path


def resume_beside(out: Path) -> Path:
    """Directory of a stage's checkpoints: beside its output, and no part of it."""
    return out.with_name(f"{out.name}-resume")


def last_checkpoint(directory: Path) -> str | None:
    """The newest whole checkpoint, None without one.

    The Trainer writes `trainer_state.json` last; a checkpoint without it was cut off by a kill or a full disk.
    """
    whole = [state.parent for state in directory.glob("checkpoint-*/trainer_state.json")]
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None
