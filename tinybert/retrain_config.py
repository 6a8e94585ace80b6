"""The form of `flows/retrain.py`: which run is repeated, and when there is reason to."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tinybert.config import DistillConfig
from tinybert.form import Form


class RetrainConfig(Form):
    """A run of distill that is made again when there is reason to: what its student is made from has changed."""

    distill: DistillConfig
    """The run, as in the form of distill. Its publish.name, or else its name, is the registered model that is kept up
    to date; publish.enabled must be true. The run's reason is filled in."""
    max_age_days: int | None = Field(None, ge=1, le=3650)
    """A champion that is older is challenged once though nothing has changed: layers and logits train with a new seed,
    made of their own and the champion's version. Empty: age is no reason."""
    if_running: Literal["wait", "step_aside"] = "wait"
    """Where another run retrains the same model: wait for its end and look anew, or leave it at that."""
    force: str = Field("", max_length=180)
    """A reason to retrain whatever has changed or was tried before. What is in the cache is not computed again."""

    @model_validator(mode="after")
    def _model_is_published(self) -> Self:
        if not self.distill.publish.enabled:
            raise ValueError(
                "distill.publish.enabled is false; a model that is not registered has no champion to compare with: "
                "set it to true"
            )
        return self

    @property
    def model(self) -> str:
        """The registered model that is kept up to date."""
        return self.distill.publish.name or self.distill.name
