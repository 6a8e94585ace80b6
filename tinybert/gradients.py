"""A batch in slices that fit into memory.

The loss of a batch is a mean over its items (rows, or whatever the learner counts), so slices weigh by the items
they hold, and the sum of their gradients is the gradient of the whole batch however it was cut.
"""

import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tinybert.allocator import give_back_gpu_memory
from tinybert.batches import Batch, Indices
from tinybert.progress import logger

R = TypeVar("R")
S = TypeVar("S", Indices, list[int])
NO_MEMORY = ("can't allocate memory", "_STATUS_ALLOC_FAILED", "CUDA error: out of memory")
"""What errors without a class of their own say: the CPU's allocator, cuBLAS and cuDNN, the driver."""
CPU_SLICE = 1024
"""Tokens of a slice on a CPU: more together are no faster there, and take more memory (`benchmarks/memory.py`)."""


def slices(batch: Batch, rows: int) -> Iterator[Batch]:
    """The batch in pieces of at most so many rows."""
    for start in range(0, batch_rows(batch), rows):
        yield {name: tensor[start : start + rows] for name, tensor in batch.items()}


def slice_tokens(where: torch.device) -> int:
    """Tokens, padding included, that a device trains on together, as long as memory suffices."""
    return CPU_SLICE if where.type == "cpu" else sys.maxsize


def batch_rows(batch: Batch) -> int:
    """Rows of a batch: every tensor of it has them first."""
    return len(next(iter(batch.values())))


def batch_length(batch: Batch) -> int:
    """Tokens of each of its rows, padding included; 1 where it is not made of tokens."""
    return batch["input_ids"].shape[1] if "input_ids" in batch else 1


def clip_gradients(parameters: list[nn.Parameter], longest: float) -> Tensor:
    """Scale all gradients down where their common norm is over `longest`; gives the norm before.

    As `torch.nn.utils.clip_grad_norm_`, which on a CPU takes twice as long for the norm, and writes every gradient
    anew also where nothing has to be clipped.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if any(gradient.device.type != "cpu" for gradient in gradients):
        return nn.utils.clip_grad_norm_(parameters, longest)
    norm = torch.stack([torch.dot(g.flatten(), g.flatten()) for g in gradients]).sum().sqrt()
    if norm > longest:
        torch._foreach_mul_(gradients, longest / (norm + 1e-6))
    return norm


def graded(loss: Callable[[Tensor], Tensor], student: Tensor) -> Tensor:
    """A loss whose gradient is computed at once, so that what else it was computed from need not be kept for it.

    The gradient is scaled where the backward pass arrives: exactly, if by a power of two.

    Args:
        loss: Gives a scalar.
        student: What it is the loss of; nothing else gets a gradient.
    """
    if not (torch.is_grad_enabled() and student.requires_grad) or torch.compiler.is_compiling():
        return loss(student)
    value: Tensor = _Graded.apply(student, loss)
    return value


class _Graded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
        leaf = student.detach().requires_grad_()
        with torch.enable_grad():
            value = loss(leaf)
        ctx.save_for_backward(*torch.autograd.grad(value, leaf))
        return value.detach()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        return ctx.saved_tensors[0] * slope, None


class SliceSize:
    """Tokens a slice may have: halved whenever memory runs out, and remembered.

    Tokens, padding included, for under a token budget one batch has a few long rows, another many short ones.

    Args:
        what: The stage's name, for the message.
        parts: Slices a batch is cut into as long as memory suffices.
        file: Where a limit is kept, so that a resumed run need not find it out again; None: nowhere.
        tokens: The limit as long as memory suffices.
    """

    def __init__(self, what: str, parts: int = 1, file: Path | None = None, tokens: int = sys.maxsize) -> None:
        self._what, self._parts, self._file = what, parts, file
        kept = json.loads(file.read_text()) if file is not None and file.is_file() else {}
        self._limit: int = min(tokens, kept.get("tokens", tokens))

    def fitting(self, compute: Callable[[int], R], batch: int, clear: Callable[[], None], length: int = 1) -> R:
        """Call `compute` with the rows of a slice, all about as large, until it does not run out of memory.

        Args:
            compute: Called with the number of rows.
            batch: Rows of the batch to be sliced.
            clear: Called after a failure, to drop what was half computed.
            length: Tokens of each row, padding included.

        Raises:
            RuntimeError: Not even a single row fits, or another error than missing memory.
        """
        while True:
            parts = max(self._parts, math.ceil(batch / max(1, self._limit // length)))
            rows = math.ceil(batch / parts)
            try:
                return compute(rows)
            except RuntimeError as error:
                if not out_of_memory(error) or rows == 1:
                    raise
            clear()  # outside of the handler, whose error holds on to the failed tensors
            give_back_gpu_memory()  # cuBLAS takes its own from the driver, past what torch has kept
            half = -(-rows // 2)
            self._remember(half * length)
            logger.warning(
                "%s  out of memory: the batch of %d rows of %d tokens, now in slices of %d rows",
                *(self._what, batch, length, half),
            )

    def computed(self, compute: Callable[[S], R], rows: S, length: int) -> Iterator[tuple[S, R]]:
        """What `compute` gives of rows, in their order: of all at once, or of as many as fit into memory.

        Args:
            compute: Called with some of the rows; keeps nothing where it fails.
            rows: Numbers of rows.
            length: Tokens of the longest.

        Raises:
            RuntimeError: As `fitting`.
        """
        rest = rows

        def first(size: int) -> tuple[S, R]:
            return rest[:size], compute(rest[:size])

        while len(rest):
            part, found = self.fitting(first, len(rest), lambda: None, length)
            yield part, found
            rest = rest[len(part) :]

    def _remember(self, tokens: int) -> None:
        self._limit = tokens
        if self._file is None:
            return
        whole = self._file.with_suffix(f".{os.getpid()}")  # of its own: other processes may write theirs
        whole.write_text(json.dumps({"tokens": tokens}))
        whole.replace(self._file)


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that the device, or the machine, has no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in NO_MEMORY)
