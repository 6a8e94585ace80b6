"""What the training loop asks of a stage: a learner that knows its own loss, and scores that choose a checkpoint."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from tinybert.batches import Batch
from tinybert.gradients import batch_rows
from tinybert.interruption import Check
from tinybert.training_config import SelectionConfig


class Learner(nn.Module, ABC):
    """Base of the learners. Its loss is a mean over the items of a batch."""

    accepts_loss_kwargs = False

    @abstractmethod
    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """Loss terms of a batch, each a scalar; "loss" is minimised."""

    def items(self, batch: Batch) -> int:
        """What the loss is a mean over: rows, unless a learner counts something else."""
        return batch_rows(batch)


@dataclass(frozen=True)
class Validation:
    """How a stage is scored while it trains."""

    score: Callable[[Check], dict[str, float]]
    """Metrics of the learner as it stands, the higher the better; asks between batches whether to go on."""
    metric: str
    """The one that decides."""
    selection: SelectionConfig
    """How often it is measured, when to give up."""
