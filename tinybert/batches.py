"""Which rows stand in which optimizer step: drawn from a seed, by length, so that little is padded.

A plan knows every step of a stage beforehand, so a killed run continues at any step, and several processes take
their shares of the same batches. Every row stands once in each epoch.
"""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from tinybert.errors import ConfigError
from tinybert.training_config import OptimConfig

Batch = dict[str, Tensor]
Indices = NDArray[np.int64]

POOL = 50
"""Batches whose rows are sorted by length together: more pad less, and mix the rows of an epoch less."""
WINDOW = 16
"""Blocks of a streamed data set whose rows are mixed."""


class Rows(ABC):
    """What a stage trains on: rows that can be fetched as a padded batch."""

    lengths: NDArray[np.int32] | None = None
    """Tokens of each row; None where all are of one length and lie in blocks on the disk."""
    block: int = 1
    """Rows that lie together on the disk."""
    random: bool = False
    """Something in a batch is drawn; several processes then make the whole batch, to draw the same as one."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, rows: Indices, chance: torch.Generator) -> Batch:
        """Tensors of these rows, the row first in all their shapes; what is random in them comes from `chance`."""

    def tokens(self) -> NDArray[np.int64] | None:
        """Token ids that occur in the batches, rising; None where finding out would cost more than it is worth."""
        return None


class Plan(ABC):
    """The rows of each step of a stage, all epochs through."""

    steps: int
    """Optimizer steps in all."""
    steps_per_epoch: int
    """Of the first epoch; under a token budget the others differ by a few."""

    @abstractmethod
    def rows(self, step: int) -> Indices:
        """Rows of a step, counted from 0, over all processes."""


class GroupedPlan(Plan):
    """Rows of similar length together, in batches of a number of rows or of tokens.

    Args:
        lengths: Tokens of each row.
        optim: Batch size or tokens, epochs, steps, seed.
        least: Rows a batch has at least, one for each process; a smaller rest joins the batch before it.
    """

    def __init__(self, lengths: NDArray[np.int32], optim: OptimConfig, least: int = 1) -> None:
        _check_enough(len(lengths), optim, least)
        self._lengths, self._optim, self._least = lengths, optim, least
        self._epoch = lru_cache(maxsize=1)(self._draw)
        self._ends: list[int] = []
        bound = optim.steps or optim.epochs * len(lengths)
        for epoch in range(optim.epochs):
            self._ends.append((self._ends[-1] if epoch else 0) + self._batches_of(epoch))
            if self._ends[-1] >= bound:
                break
        self.steps = min(self._ends[-1], bound)
        self.steps_per_epoch = self._ends[0]

    def rows(self, step: int) -> Indices:
        """Rows of a step, the longest first."""
        epoch = bisect_right(self._ends, step)
        return self._epoch(epoch)[step - (self._ends[epoch - 1] if epoch else 0)]

    def _batches_of(self, epoch: int) -> int:
        if self._optim.batch_tokens is not None:
            return len(self._draw(epoch))
        whole, rest = divmod(len(self._lengths), self._optim.batch_size)
        return max(1, whole + (rest >= self._least))

    def _draw(self, epoch: int) -> list[Indices]:
        chance = np.random.default_rng([self._optim.seed, epoch])
        order = chance.permutation(len(self._lengths))
        pool = POOL * self._usual_size()
        batches: list[Indices] = []
        for part in np.split(order, range(pool, len(order) - pool // 2, pool)):  # none with a few rows only
            batches += self._cut(part[np.argsort(-self._lengths[part], kind="stable")])
            if len(batches) > 1 and len(batches[-1]) < self._least:
                rest = batches.pop()
                batches[-1] = np.concatenate([batches[-1], rest])
        shuffled = [batches[i] for i in chance.permutation(len(batches))]
        if epoch == 0:  # what does not fit into memory should show at the first step
            largest = max(range(len(shuffled)), key=lambda i: len(shuffled[i]) * self._lengths[shuffled[i][0]])
            shuffled[0], shuffled[largest] = shuffled[largest], shuffled[0]
        return shuffled

    def _usual_size(self) -> int:
        tokens = self._optim.batch_tokens
        return self._optim.batch_size if tokens is None else max(1, int(tokens / self._lengths.mean()))

    def _cut(self, rows: Indices) -> Iterator[Indices]:
        """Batches of rows sorted by length, the longest first."""
        if self._optim.batch_tokens is not None:
            yield from cut_by_tokens(self._lengths, rows, self._optim.batch_tokens, self._least)
            return
        for start in range(0, len(rows), self._optim.batch_size):
            yield rows[start : start + self._optim.batch_size]


def cut_by_tokens(lengths: NDArray[np.int32], rows: Indices, tokens: int, least: int = 1) -> Iterator[Indices]:
    """Batches of rows, the longest first, whose number times the longest stays within so many tokens.

    Args:
        lengths: Tokens of every row.
        rows: Which rows, sorted by length, falling.
        tokens: Of a batch, padding included.
        least: Rows a batch has in any case.
    """
    start = 0
    while start < len(rows):
        size = max(least, tokens // int(lengths[rows[start]]))
        yield rows[start : start + size]
        start += size


class StreamedPlan(Plan):
    """Rows of one length that lie in blocks: blocks come in random order, rows are mixed within a window of them.

    So the disk is read in large pieces, and memory grows with neither rows nor epochs.

    Args:
        rows: How many.
        block: Rows a block has; the last has what is left.
        optim: Batch size, epochs, steps, seed; a token budget is divided by `length`.
        length: Tokens of a row.
        least: Rows a batch has at least, one for each process.
    """

    def __init__(self, rows: int, block: int, optim: OptimConfig, length: int, least: int = 1) -> None:
        _check_enough(rows, optim, least)
        self._rows, self._block, self._seed = rows, block, optim.seed
        self._size = optim.batch_size if optim.batch_tokens is None else max(least, optim.batch_tokens // length)
        whole, rest = divmod(rows, self._size)
        self.steps_per_epoch = max(1, whole + (rest >= least))
        self.steps = min(optim.epochs * self.steps_per_epoch, optim.steps or optim.epochs * self.steps_per_epoch)
        self._windows = lru_cache(maxsize=1)(self._draw_windows)
        self._window = lru_cache(maxsize=2)(self._mix)

    def rows(self, step: int) -> Indices:
        """Rows of a step, in the order of the disk."""
        epoch, place = divmod(step, self.steps_per_epoch)
        start = place * self._size
        last = place + 1 == self.steps_per_epoch
        return np.sort(np.concatenate(list(self._slice(epoch, start, self._rows if last else start + self._size))))

    def _slice(self, epoch: int, start: int, end: int) -> Iterator[Indices]:
        _, ends = self._windows(epoch)
        for window in count(int(np.searchsorted(ends, start, side="right"))):
            begin = int(ends[window - 1]) if window else 0
            yield self._window(epoch, window)[max(0, start - begin) : end - begin]
            if end <= ends[window]:
                return

    def _draw_windows(self, epoch: int) -> tuple[Indices, Indices]:
        """The blocks in this epoch's order, and how many rows there are up to the end of each window of them."""
        blocks = np.random.default_rng([self._seed, epoch]).permutation(-(-self._rows // self._block))
        sizes = np.minimum(self._block, self._rows - blocks * self._block)
        sums = np.cumsum(sizes)
        return blocks, np.append(sums[WINDOW - 1 : -1 : WINDOW], sums[-1])

    def _mix(self, epoch: int, window: int) -> Indices:
        blocks = self._windows(epoch)[0][window * WINDOW : (window + 1) * WINDOW]
        rows = np.concatenate([np.arange(b * self._block, min((b + 1) * self._block, self._rows)) for b in blocks])
        return np.random.default_rng([self._seed, epoch, window]).permutation(rows)


def plan(rows: Rows, optim: OptimConfig, least: int = 1) -> Plan:
    """The plan that fits the rows."""
    if rows.lengths is not None:
        return GroupedPlan(rows.lengths, optim, least)
    sample = rows.batch(np.zeros(1, np.int64), torch.Generator())
    return StreamedPlan(len(rows), rows.block, optim, length=next(iter(sample.values())).shape[-1], least=least)


def _check_enough(rows: int, optim: OptimConfig, least: int) -> None:
    batch = rows if optim.batch_tokens else min(rows, optim.batch_size)
    if batch < least:
        raise ConfigError(
            f"launch.processes: found {least}; each needs a row of every batch, and there are {rows} rows in batches "
            f"of {batch}. Use fewer processes, or a larger batch_size"
        )


class StepBatches(Dataset[Batch]):
    """A process' share of each step's batch; item n belongs to step n.

    Rows of a streamed corpus stand in the order of the disk, and each process gets a run of them, so that it reads few
    blocks that the others read too. Other rows are dealt out in turn, for they stand in the order of their lengths.

    The random numbers of a batch follow from seed and step, so they are the same however often a run was interrupted.
    """

    def __init__(self, rows: Rows, batches: Plan, seed: int, process: int = 0, processes: int = 1) -> None:
        self._rows, self._plan, self._seed = rows, batches, seed
        self._process, self._processes = process, processes

    def __len__(self) -> int:
        return self._plan.steps

    def __getitem__(self, step: int) -> Batch:
        rows = self._plan.rows(step)
        mine = self._share(len(rows))
        chance = torch.Generator().manual_seed(step_seed(self._seed, step))
        if self._rows.random:
            return {name: tensor[mine] for name, tensor in self._rows.batch(rows, chance).items()}
        return self._rows.batch(rows[mine], chance)

    def _share(self, rows: int) -> slice:
        if self._rows.lengths is not None:
            return slice(self._process, None, self._processes)
        first, last = (rows * process // self._processes for process in (self._process, self._process + 1))
        return slice(first, last)


class StepsFrom(Sampler[int]):
    """The steps still to do; its length is that of all, done ones included, as the Trainer counts."""

    def __init__(self, first: int, steps: int) -> None:
        self._first, self._steps = first, steps

    def __iter__(self) -> Iterator[int]:
        return iter(range(self._first, self._steps))

    def __len__(self) -> int:
        return self._steps


def step_seed(seed: int, step: int, process: int = 0) -> int:
    """A seed of its own for each step and process of a run."""
    return int(np.random.SeedSequence([seed, step, process]).generate_state(1, np.uint64)[0] >> np.uint64(1))
