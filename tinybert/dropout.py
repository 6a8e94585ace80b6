"""Dropout that costs a CPU little: four decisions from each random number instead of one.

Drawing is serial on a CPU, and torch's own dropout takes a sixth of a small student's training step
(`benchmarks/distill_step.py`); this takes a third of that.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEVELS = 2**16
"""A share is rounded to a multiple of one part in so many."""


def dropout(values: Tensor, share: float, training: bool) -> Tensor:
    """Values with a share of them set to 0 and the rest scaled so that the mean stays.

    Args:
        values: Any shape.
        share: Of values to drop, 0 to below 1.
        training: Whether to drop at all.
    """
    if not training or not share:
        return values
    if values.device.type != "cpu":
        return F.dropout(values, share)
    dropped, count = round(share * LEVELS), values.numel()
    numbers = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    kept = (numbers.view(torch.int16)[:count] >= dropped - LEVELS // 2).view(values.shape)
    return values * kept.to(values.dtype).mul_(LEVELS / (LEVELS - dropped))


class Dropout(nn.Dropout):
    """`nn.Dropout` by the function above."""

    def forward(self, input: Tensor) -> Tensor:
        """Dropped out while training."""
        return dropout(input, self.p, self.training)


def set_dropout(module: nn.Module, share: float | None) -> None:
    """Give every dropout inside a module this share, None leaves theirs, and the cheap way to draw.

    A saved model's config keeps its own share.
    """
    for inside in module.modules():
        for name, child in inside.named_children():
            if isinstance(child, nn.Dropout):
                setattr(inside, name, Dropout(child.p if share is None else share))
