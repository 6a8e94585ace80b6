"""Plans: every row once an epoch, reproducibly, within the budget, with little padding, in shares without overlap."""

from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tests.unit.line import Points
from tinybert.batches import WINDOW, GroupedPlan, Rows, StepBatches, StepsFrom, StreamedPlan, plan, step_seed
from tinybert.errors import ConfigError
from tinybert.training_config import OptimConfig

sizes = st.integers(1, 40)
budgets = st.none() | st.integers(16, 400)
seeds = st.integers(0, 5)


def lengths_of(seed, rows, longest=60):
    """Like those of sentences: many short, few long."""
    return np.random.default_rng(seed).geometric(1 / 12, rows).clip(1, longest).astype(np.int32)


def steps_of(batches, first=0):
    return [batches.rows(step) for step in range(first, batches.steps)]


def epochs_of(batches, rows):
    """The steps of each epoch, told apart by their number of rows."""
    epochs, seen = [[]], 0
    for chosen in steps_of(batches):
        if seen == rows:
            epochs.append([])
            seen = 0
        epochs[-1].append(chosen)
        seen += len(chosen)
        assert seen <= rows
    return epochs


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 700), sizes, budgets, seeds, st.integers(1, 4), st.integers(1, 3))
def test_every_row_stands_once_in_each_epoch(rows, batch_size, tokens, seed, least, epochs):
    optim = OptimConfig(batch_size=batch_size, batch_tokens=tokens, seed=seed, epochs=epochs)
    assume(least <= rows and (tokens or least <= batch_size))
    batches = GroupedPlan(lengths_of(seed, rows), optim, least)
    found = epochs_of(batches, rows)
    assert len(found) == epochs
    assert len(found[0]) == batches.steps_per_epoch
    for steps in found:
        assert sorted(np.concatenate(steps)) == list(range(rows))
        assert min(map(len, steps)) >= least  # every process has a row


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 700), sizes, seeds, st.integers(1, 4), st.integers(1, 3), st.integers(1, 60), st.booleans())
def test_every_streamed_row_stands_once_in_each_epoch(rows, batch_size, seed, least, epochs, block, by_tokens):
    optim = OptimConfig(batch_size=batch_size, seed=seed, epochs=epochs, batch_tokens=160 if by_tokens else None)
    assume(least <= rows and (by_tokens or least <= batch_size))
    batches = StreamedPlan(rows, block, optim, 16, least)
    found = epochs_of(batches, rows)
    assert [len(steps) for steps in found] == [batches.steps_per_epoch] * epochs
    for steps in found:
        assert sorted(np.concatenate(steps)) == list(range(rows))
        assert all((np.diff(chosen) > 0).all() for chosen in steps)  # as they lie on the disk
        assert min(map(len, steps)) >= least
        usual = max(least, 10) if by_tokens else batch_size
        assert {len(chosen) for chosen in steps[:-1]} <= {usual}
        assert len(steps[-1]) < usual + least


@settings(deadline=None, max_examples=60)
@given(st.integers(40, 700), sizes, budgets, seeds)
def test_a_seed_gives_one_plan_and_another_seed_another(rows, batch_size, tokens, seed):
    def drawn(seed, epochs=2):
        optim = OptimConfig(batch_size=batch_size, batch_tokens=tokens, seed=seed, epochs=epochs)
        grouped = GroupedPlan(lengths_of(0, rows), optim)
        streamed = StreamedPlan(rows, 7, optim, 16)
        return [[chosen.tolist() for chosen in steps_of(batches)] for batches in (grouped, streamed)]

    first, again, other = drawn(seed), drawn(seed), drawn(seed + 1)
    assert first == again
    assert first[0] != other[0]
    assert first[1] != other[1] or batch_size >= rows  # a whole epoch in one batch is sorted


def test_epochs_differ():
    optim = OptimConfig(batch_size=8, epochs=2)
    for batches in (GroupedPlan(lengths_of(0, 80), optim), StreamedPlan(80, 8, optim, 16)):
        first, second = ([batches.rows(10 * epoch + step).tolist() for step in range(10)] for epoch in range(2))
        assert first != second


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 900), st.integers(16, 500), seeds, st.integers(1, 4))
def test_a_batch_stays_within_its_tokens_unless_a_row_for_each_process_does_not(rows, tokens, seed, least):
    rows = max(rows, least)
    lengths = lengths_of(seed, rows)
    batches = GroupedPlan(lengths, OptimConfig(batch_tokens=tokens, seed=seed, epochs=1), least)
    for chosen in steps_of(batches):
        at_most = tokens + (least - 1) * lengths[chosen].max()  # less than a row for each joins the batch before
        assert len(chosen) * lengths[chosen].max() <= at_most or len(chosen) < 2 * least


@pytest.mark.parametrize("budget", [{"batch_size": 32}, {"batch_tokens": 1000}])
def test_little_is_padded(budget):
    lengths = lengths_of(3, 20_000)
    batches = GroupedPlan(lengths, OptimConfig(epochs=1, **budget))
    padded = sum(len(chosen) * int(lengths[chosen].max()) for chosen in steps_of(batches))
    shuffled = np.random.default_rng(0).permutation(lengths)[: 20_000 // 32 * 32].reshape(-1, 32)
    assert padded / lengths.sum() < 1.06
    assert 32 * shuffled.max(axis=1).sum() / lengths.sum() > 3  # what batches of random rows come to


def test_batches_are_not_in_order_of_length_and_mix_from_epoch_to_epoch():
    lengths = lengths_of(3, 20_000)
    batches = GroupedPlan(lengths, OptimConfig(epochs=2, batch_size=32))
    longest = np.array([lengths[batches.rows(step)].max() for step in range(batches.steps_per_epoch)])
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.1
    first, second = (
        {frozenset(batches.rows(step + epoch * batches.steps_per_epoch).tolist()) for step in range(625)}
        for epoch in range(2)
    )
    assert not first & second  # no two rows are bound to each other


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3000), sizes, budgets, seeds)
def test_the_largest_batch_comes_first(rows, batch_size, tokens, seed):
    lengths = lengths_of(seed, rows)
    batches = GroupedPlan(lengths, OptimConfig(batch_size=batch_size, batch_tokens=tokens, seed=seed, epochs=2))
    padded = [len(chosen) * lengths[chosen].max() for chosen in steps_of(batches)]
    assert padded[0] == max(padded[: batches.steps_per_epoch])


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), sizes, budgets, st.integers(1, 50), st.integers(1, 4))
def test_steps_bound_the_epochs(rows, batch_size, tokens, steps, epochs):
    fields = {"batch_size": batch_size, "batch_tokens": tokens, "epochs": epochs}
    lengths = lengths_of(0, rows)
    for make in (lambda o: GroupedPlan(lengths, o), lambda o: StreamedPlan(rows, 7, o, 16)):
        whole, bounded = make(OptimConfig(**fields)), make(OptimConfig(**fields, steps=steps))
        assert bounded.steps == min(whole.steps, steps)
        for found, expected in zip(steps_of(bounded), steps_of(whole)[:steps], strict=True):
            assert found.tolist() == expected.tolist()


@settings(deadline=None, max_examples=60)
@given(st.integers(4, 300), sizes, budgets, st.integers(1, 4))
def test_a_plan_can_be_entered_anywhere(rows, batch_size, tokens, epochs):
    optim = OptimConfig(batch_size=batch_size, batch_tokens=tokens, epochs=epochs)
    for make in (lambda: GroupedPlan(lengths_of(0, rows), optim), lambda: StreamedPlan(rows, 7, optim, 16)):
        expected = [chosen.tolist() for chosen in steps_of(make())]
        for first in {len(expected) // 3, len(expected) // 2, len(expected) - 1}:
            assert [chosen.tolist() for chosen in steps_of(make(), first)] == expected[first:]


def test_a_streamed_plan_has_few_blocks_open_at_a_time():
    block, rows = 64, 64 * 70 + 5  # a partial last block, a partial last window
    batches = StreamedPlan(rows, block, OptimConfig(batch_size=32, epochs=2), 16)
    assert batches.steps == 2 * 141
    for epoch in range(2):
        touched = [set((batches.rows(epoch * 141 + step) // block).tolist()) for step in range(141)]
        used = {number: [step for step, blocks in enumerate(touched) if number in blocks] for number in range(71)}
        held = [sum(steps[0] <= step <= steps[-1] for steps in used.values()) for step in range(141)]
        assert max(held) <= 2 * WINDOW  # what PackedRows keeps, so that it reads each block once an epoch
        assert sum(count > WINDOW for count in held) <= 70 // WINDOW  # only where one window goes over into the next
        assert min(map(len, touched[:-20])) > WINDOW // 2  # and all blocks of a window are mixed


@pytest.mark.parametrize("fields", [{"batch_size": 2}, {"batch_tokens": 64}])
def test_a_row_of_every_batch_for_each_process(fields):
    optim = OptimConfig(**fields)
    refused = r"launch.processes: found 3; each needs a row of every batch, and there are 2 rows in batches of 2"
    for make in (lambda: GroupedPlan(lengths_of(0, 2), optim, 3), lambda: StreamedPlan(2, 7, optim, 16, 3)):
        with pytest.raises(ConfigError, match=refused):
            make()


def test_a_batch_smaller_than_the_processes_is_refused():
    with pytest.raises(ConfigError, match=r"there are 90 rows in batches of 2\. Use fewer processes, or a larger"):
        GroupedPlan(lengths_of(0, 90), OptimConfig(batch_size=2), 3)


# Shares ---------------------------------------------------------------------------------------------------------------


class Numbered(Rows):
    """Each row is its number, and a random one."""

    def __init__(self, lengths=None, count=0, block=1):
        self.lengths, self.block = lengths, block
        self.count = count if lengths is None else len(lengths)

    def __len__(self):
        return self.count

    def batch(self, rows, chance):
        return {
            "number": torch.from_numpy(rows)[:, None].expand(-1, 16),
            "random": torch.rand(len(rows), generator=chance),
        }


@settings(deadline=None, max_examples=60)
@given(st.integers(4, 300), sizes, budgets, st.integers(1, 4), st.booleans())
def test_shares_are_disjoint_and_together_the_batch(rows, batch_size, tokens, processes, streamed):
    assume(tokens or processes <= batch_size)
    optim = OptimConfig(batch_size=batch_size, batch_tokens=tokens, epochs=2)
    material = Numbered(count=rows, block=7) if streamed else Numbered(lengths_of(1, rows))
    batches = plan(material, optim, least=processes)
    assert isinstance(batches, StreamedPlan if streamed else GroupedPlan)
    shares = [StepBatches(material, batches, 0, process, processes) for process in range(processes)]
    for step in range(batches.steps):
        parts = [share[step]["number"][:, 0].tolist() for share in shares]
        assert min(map(len, parts)) >= 1
        assert sorted(chain(*parts)) == sorted(batches.rows(step).tolist())
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_processes_read_blocks_of_their_own_of_a_streamed_corpus():
    block, processes = 64, 4
    material = Numbered(count=64 * 4 * WINDOW, block=block)
    batches = plan(material, OptimConfig(batch_size=128, epochs=1), least=processes)
    shares = [StepBatches(material, batches, 0, process, processes) for process in range(processes)]
    read = [0] * processes
    for window in range(4):
        steps = range(window * 8, (window + 1) * 8)
        for process, share in enumerate(shares):
            blocks = {number // block for step in steps for number in share[step]["number"][:, 0].tolist()}
            read[process] += len(blocks)
    assert sum(read) < 1.6 * 4 * WINDOW  # dealt out in turn, each would read all: 4 times as many
    assert max(read) <= WINDOW * 4 // processes + 4 * 3


def test_a_plan_of_packed_rows_divides_the_tokens_by_their_length():
    batches = plan(Numbered(count=100, block=10), OptimConfig(batch_tokens=50, epochs=1))
    assert len(batches.rows(0)) == 50 // 16
    single = plan(Numbered(count=100, block=10), OptimConfig(batch_tokens=16, epochs=1), least=2)
    assert len(single.rows(0)) == 2


def test_what_is_drawn_follows_from_seed_and_step_in_however_many_processes():
    optim = OptimConfig(batch_size=8, epochs=1)
    rows = Numbered(lengths_of(0, 80))
    rows.random = True
    batches = plan(rows, optim, least=2)
    alone = {(seed, step): StepBatches(rows, batches, seed)[step]["random"] for seed in (0, 1) for step in range(4)}
    assert len({tuple(numbers.tolist()) for numbers in alone.values()}) == len(alone)
    for process in (1, 0):
        share = StepBatches(rows, batches, 1, process, 2)
        assert torch.equal(share[3]["random"], alone[1, 3][process::2])  # whichever came before
    numbers = range(9)
    assert len({step_seed(seed, step, process) for seed in numbers for step in numbers for process in numbers}) == 729


def test_a_loader_makes_the_same_batches_from_any_step_on():
    rows = Points()
    batches = StepBatches(rows, plan(rows, OptimConfig(batch_size=8, epochs=2)), seed=0)
    sampler = StepsFrom(3, len(batches))
    assert (len(sampler), list(sampler)) == (10, [3, 4, 5, 6, 7, 8, 9])  # the Trainer counts all steps
    worked = DataLoader(batches, batch_size=None, sampler=sampler)
    for batch, step in zip(worked, range(3, 10), strict=True):
        assert torch.equal(batch["x"], batches[step]["x"])
