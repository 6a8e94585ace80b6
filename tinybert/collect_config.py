"""What a collection may delete: the form of `flows/collect.py`."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tinybert.form import Form

Kind = Literal["dataset", "corpus", "copies", "targets", "model", "report", "rows", "scores", "checkpoints"]
CHECKPOINTS: Kind = "checkpoints"
"""The one kind that has an age of its own."""


class CollectConfig(Form):
    """What nobody needs any more. As the form stands, nothing is deleted, and what would be is shown."""

    dry_run: bool = True
    """Only show what would be deleted."""
    keep_days: int = Field(30, ge=0, le=36_500)
    """Days for which everything is kept since it was last stored, found or named by a run. Raising it keeps more."""
    checkpoints_days: int = Field(7, ge=0, le=36_500)
    """Days for which the checkpoints of a stage that did not finish are kept. Later it begins anew."""
    kinds: list[Kind] = []
    """Kinds of artifacts to look at. Empty: all, and with them what lies in TINYBERT_WORK and what kills have left."""

    @model_validator(mode="after")
    def _runs_in_progress_are_safe(self) -> Self:
        for name in ("keep_days", "checkpoints_days"):
            if not self.dry_run and getattr(self, name) < 1:
                raise ValueError(f"{name} is 0, which a run in progress would not survive; give 1 at least, or dry_run")
        return self
