"""Slices of a batch, and what happens when one of them does not fit into memory."""

import json
import sys
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from tinybert.gradients import (
    SliceSize,
    batch_length,
    batch_rows,
    clip_gradients,
    graded,
    out_of_memory,
    slice_tokens,
    slices,
)


def test_slices_are_the_batch_cut_along_its_rows():
    batch = {"input_ids": torch.arange(39).view(13, 3), "labels": torch.arange(13)}
    parts = list(slices(batch, 4))
    assert [batch_rows(part) for part in parts] == [4, 4, 4, 1]
    for name, whole in batch.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), whole)
    assert len(list(slices(batch, 100))) == 1
    assert batch_length(batch) == 3
    assert batch_length({"x": torch.zeros(13, 5)}) == 1  # not made of tokens


def fitting(size, most, batch, seen, length=1):
    """Compute a batch on a device that holds so many tokens."""

    def compute(rows):
        seen.append(rows)
        if rows * length > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return rows

    return size.fitting(compute, batch, lambda: seen.append("cleared"), length)


def test_rows_are_halved_until_they_fit_and_stay_so(tmp_path, caplog):
    size, seen = SliceSize("layers", 1, tmp_path / "slices.json"), []
    assert fitting(size, 5, 13, seen) == 4
    assert seen == [13, "cleared", 7, "cleared", 4]
    assert caplog.messages == [
        "layers  out of memory: the batch of 13 rows of 1 tokens, now in slices of 7 rows",
        "layers  out of memory: the batch of 13 rows of 1 tokens, now in slices of 4 rows",
    ]
    assert json.loads((tmp_path / "slices.json").read_text()) == {"tokens": 4}
    assert [path.name for path in tmp_path.iterdir()] == ["slices.json"]
    assert fitting(size, 5, 13, seen := []) == 4
    assert seen == [4]
    assert fitting(SliceSize("layers", 1, tmp_path / "slices.json"), 5, 13, seen := []) == 4
    assert seen == [4]


def test_a_limit_found_on_few_long_rows_holds_for_as_many_tokens_of_short_ones(tmp_path, caplog):
    """A budget of 8192 tokens, of which the device holds 5000: 16 rows of 512, then 512 rows of 16."""
    size = SliceSize("layers", 1, tmp_path / "slices.json")
    assert fitting(size, 5000, 16, seen := [], length=512) == 8
    assert seen == [16, "cleared", 8]
    assert caplog.messages == ["layers  out of memory: the batch of 16 rows of 512 tokens, now in slices of 8 rows"]
    assert json.loads((tmp_path / "slices.json").read_text()) == {"tokens": 8 * 512}
    assert fitting(size, 5000, 512, seen := [], length=16) == 256  # two slices, not 64 of 8 rows
    assert seen == [256]
    assert fitting(size, 10_000, 2, [], length=9000) == 1  # a single row is tried whatever its length


def test_a_limit_that_an_earlier_version_left_counts_as_none(tmp_path):
    (tmp_path / "slices.json").write_text(json.dumps({"rows": 2}))
    assert fitting(SliceSize("layers", 1, tmp_path / "slices.json"), 99, 13, []) == 13


@pytest.mark.parametrize("rows", [np.arange(3, 16), list(range(3, 16))], ids=["array", "list"])
def test_rows_without_gradients_are_computed_in_parts_that_fit_in_their_order(rows):
    size, seen = SliceSize("targets"), []

    def compute(part):
        seen.append(len(part))
        if len(part) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [2 * row for row in part]

    parts = list(size.computed(compute, rows, length=10))
    assert seen == [13, 7, 4, 3, 3, 3]
    assert [row for part, _ in parts for row in part] == list(range(3, 16))
    assert [found for _, part in parts for found in part] == list(range(6, 32, 2))
    assert [len(part) for part, _ in size.computed(compute, rows[:6], length=8)] == [3, 3]  # 40 tokens, as before
    assert list(size.computed(compute, rows[:0], length=8)) == []


def test_a_device_takes_so_many_tokens_at_a_time_in_slices_of_about_one_size(tmp_path):
    assert (slice_tokens(torch.device("cpu")), slice_tokens(torch.device("cuda"))) == (1024, sys.maxsize)
    file = tmp_path / "slices.json"
    size = SliceSize("layers", 1, file, tokens=1024)
    assert [fitting(size, 1024, batch, [], length=64) for batch in (16, 17, 32, 33, 1)] == [16, 9, 16, 11, 1]
    assert fitting(size, 2000, 2, [], length=2000) == 1
    assert not file.exists()  # nothing was found out
    assert fitting(SliceSize("layers", 4, file, tokens=1024), 1024, 32, [], length=64) == 8
    fitting(size, 300, 10, [], length=64)
    assert fitting(SliceSize("layers", 1, file, tokens=1024), 300, 10, seen := [], length=64) == 3
    assert seen == [3]  # found out before
    assert fitting(SliceSize("layers", 1, file, tokens=100), 300, 10, [], length=64) == 1


def test_a_batch_is_cut_into_the_parts_asked_for(tmp_path):
    size = SliceSize("layers", 4, tmp_path / "slices.json")
    assert [fitting(size, 999, batch, []) for batch in (32, 13, 400, 3, 1)] == [8, 4, 100, 1, 1]
    assert not (tmp_path / "slices.json").exists()


def test_a_small_batch_that_does_not_fit_is_halved_too(tmp_path):
    size = SliceSize("layers", 1, tmp_path / "slices.json")
    assert fitting(size, 20, 64, []) == 16
    assert fitting(size, 3, 10, seen := []) == 3  # longer rows: 10 rows are below the limit and still too many
    assert seen == [10, "cleared", 5, "cleared", 3]


def test_what_does_not_fit_at_all_is_raised(tmp_path):
    with pytest.raises(torch.OutOfMemoryError):
        fitting(SliceSize("layers", 1, tmp_path / "slices.json"), 0, 3, seen := [])
    assert seen == [3, "cleared", 2, "cleared", 1]


def test_other_errors_are_raised_at_once(tmp_path):
    seen = []

    def compute(rows):
        seen.append(rows)
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        SliceSize("layers", 1, tmp_path / "slices.json").fitting(compute, 8, lambda: None)
    assert seen == [8]


def test_the_machines_own_lack_of_memory_is_recognised():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.float32)  # more than any address space: it fails at once
    assert out_of_memory(raised.value)
    assert out_of_memory(torch.OutOfMemoryError())
    cublas = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
    assert out_of_memory(RuntimeError(cublas))
    assert out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert not out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"))
    assert not out_of_memory(RuntimeError("expected scalar type Float but found BFloat16"))


@pytest.mark.parametrize("longest", [0.5, 1e6])
def test_clipping_is_torchs_own(longest):
    torch.manual_seed(0)
    own = [nn.Parameter(torch.zeros(shape)) for shape in ((3, 4), (5,), (2, 2, 2))]
    for parameter in own[:2]:
        parameter.grad = torch.randn_like(parameter)
    other = [nn.Parameter(torch.zeros_like(parameter)) for parameter in own]
    for mine, theirs in zip(own, other, strict=True):
        theirs.grad = None if mine.grad is None else mine.grad.clone()
    torch.testing.assert_close(clip_gradients(own, longest), torch.nn.utils.clip_grad_norm_(other, longest))
    for mine, theirs in zip(own[:2], other[:2], strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
    assert own[2].grad is None


@pytest.mark.parametrize("slope", [1.0, 0.25])
def test_a_loss_graded_at_once_has_its_gradient(slope):
    torch.manual_seed(0)
    own, other = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3)

    def loss(student):
        return (student.bfloat16() - other).square().mean()

    expected = loss(own.exp())
    value = graded(loss, own.exp())
    assert torch.equal(value, expected)
    (expected * slope).backward()
    gradient, own.grad = own.grad, None
    (value * slope).backward()
    assert torch.equal(own.grad, gradient)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_loss_graded_at_once_keeps_nothing_else(at_once):
    own, other = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3)
    kept = weakref.ref(other)

    def loss(student, other=other):
        return nn.functional.mse_loss(student, other)

    value = graded(loss, own.exp()) if at_once else loss(own.exp())
    del loss, other
    assert (kept() is None) == at_once
    value.backward()
    assert own.grad is not None


def test_where_no_gradient_is_wanted_none_is_computed():
    own = torch.ones(3, requires_grad=True)
    assert not graded(torch.sum, own.detach()).requires_grad
    with torch.no_grad():
        assert not graded(torch.sum, own).requires_grad
