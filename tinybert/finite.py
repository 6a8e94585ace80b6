"""Ends a stage whose loss or gradient is no number any more, before anything is written of it."""

from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from tinybert.batches import Batch
from tinybert.errors import QualityError
from tinybert.processes import process, processes
from tinybert.reporting import not_finite


class FiniteCheck:
    """Looks at the latest step one step late, so that a GPU need not be waited for.

    The norm is of the gradients of all processes, so they stop together, whosever loss it was.

    Args:
        what: The stage's name, for the message.
        directory: Where the batch is kept for a look.
    """

    def __init__(self, what: str, directory: Path) -> None:
        self._what, self._directory = what, directory
        self._loss = self._norm = torch.zeros(())
        self._batch: Batch | None = None

    def computed(self, loss: Tensor, batch: Batch) -> None:
        """This process' part of the latest step's loss, a scalar, and what it is the loss of."""
        self._loss, self._batch = loss, batch

    def clipped(self, norm: Tensor) -> None:
        """The norm of the latest step's gradients, a scalar on the loss' device."""
        self._norm = norm

    def check(self, step: int) -> None:
        """Keep the batch and stop, if one of both is not finite.

        Args:
            step: Number of the latest step.

        Raises:
            QualityError: One is not.
        """
        batch, self._batch = self._batch, None  # a batch that was well is of no use any more
        if batch is None or torch.isfinite(self._loss + self._norm):  # one question, for each waits for a GPU
            return
        own = f"-process-{process()}" if processes() > 1 else ""
        path = self._directory / f"not-finite-step-{step}{own}.safetensors"
        safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in batch.items()}, path)
        found = f"gradient norm {float(self._norm)}" if torch.isfinite(self._loss) else f"loss {float(self._loss)}"
        raise QualityError(not_finite(self._what, found, step, str(path)))
