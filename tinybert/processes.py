"""The processes that train a stage together: which one this is, and sums over all of them."""

import os
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

T = TypeVar("T")
BUCKET = 25_000_000
"""Numbers that go over the wire together."""
TIMEOUT = timedelta(hours=2)
"""How long processes wait for one another: so long may the first one score a validation alone. A process that is lost
is noticed by whoever launched it, and much sooner."""


def join() -> None:
    """Join the other processes, where a launcher said in the environment that there are any."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)


def leave() -> None:
    """Leave the other processes, once all is done: the threads that talk to them end here.

    Left to the end of the interpreter, one that still holds a tensor of Python's now and then aborts the process
    (https://github.com/pytorch/pytorch/pull/179291). After a failure this could wait for processes that do not come.
    """
    if distributed.is_initialized():
        distributed.destroy_process_group()


def processes() -> int:
    """Training processes of this stage, this one included."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def process() -> int:
    """This process' number among them; 0 is the one that writes."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def summed(numbers: Tensor) -> Tensor:
    """The sum of the processes' numbers, in every process."""
    if processes() > 1:
        distributed.all_reduce(numbers)
    return numbers


def agreed(value: T) -> T:
    """What the first process has, in every process."""
    shared = [value]
    if processes() > 1:
        distributed.broadcast_object_list(shared)
    return shared[0]


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add up the gradients of all processes, in every process, some millions of numbers at a time."""
    if processes() == 1:
        return
    for bucket in _buckets([p.grad for p in parameters if p.grad is not None]):
        flat = summed(torch.cat([gradient.flatten() for gradient in bucket]))
        for gradient, part in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
            gradient.copy_(part.view_as(gradient))


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for gradient in gradients:
        if bucket and sum(g.numel() for g in bucket) + gradient.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket
