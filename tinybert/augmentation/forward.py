"""What a language model's encoder gives at chosen places of rows of many lengths.

Shape suffixes: B rows, L tokens of a row, T tokens of a forward pass, D width, H heads, d width of one head, N chosen
places.

A row gets the same bits in whatever company it is, so that candidates do not depend on the size of batches, nor on
what else is augmented. On a CPU, matrix products of `LEAST` rows and more see to that (seen with AVX512-BF16, and of
padded rows with AMX, in bf16 and fp32); there rows stand side by side without padding, each attending to itself
(`Packed`). The libraries of a GPU choose kernels by the number of rows, so there all passes of a length have as many
(`Padded`).

Matrix products have few shapes, whatever the number of rows: for each one it has met, the CPU's kernel library
compiles code and keeps it.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import accumulate, chain, groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from tinybert.gradients import SliceSize
from tinybert.last_layer import finish_only
from tinybert.masked_lm import first_position, hidden_and_head
from tinybert.states import model_inputs

LEAST = 1024
"""Rows of a matrix product that gives each of them the same bits, at least."""
ON_GPU = 8192
"""Tokens of every padded forward pass on a GPU, as long as memory suffices."""
GRAIN = 4
"""Rows are padded to a multiple of so many tokens."""
SIDE_BY_SIDE = "tinybert_side_by_side"
_PACKABLE = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert")
"""Families that take positions, and hand to transformers' attention interface what else they are given."""


class Pass(NamedTuple):
    """One row of a forward pass."""

    ids: list[int]
    types: list[int]
    places: list[list[int]]
    """For each word to be filled, the positions of its tokens."""


def forward_of(model: PreTrainedModel, padding: int) -> "Packed | Padded":
    """The way that suits a model and its device.

    Args:
        model: A masked language model in eval mode.
        padding: Token id to fill up with.
    """
    if model.device.type == "cpu" and model.config.model_type in _PACKABLE:
        return Packed(model, padding)
    return Padded(model, padding, 2 * LEAST if model.device.type == "cpu" else ON_GPU)


class Packed:
    """Rows side by side, filled up to a multiple of `LEAST` tokens.

    Args:
        model: Its attention function is replaced; what it computes of rows below each other stays the same.
        padding: Token id to fill up with.
    """

    def __init__(self, model: PreTrainedModel, padding: int) -> None:
        model.set_attn_implementation(SIDE_BY_SIDE)
        self._model, self._padding, self._first = model, padding, first_position(model)
        self._encode, _ = hidden_and_head(model)
        self._slices = SliceSize("augment")

    def batches(self, rows: Sequence[Pass], batch_tokens: int) -> Iterator[list[int]]:
        """Indices of rows to be read at once: of at most so many tokens, or one row that has more."""
        most = max(1, batch_tokens // LEAST) * LEAST
        batch: list[int] = []
        total = 0
        for index in sorted(range(len(rows)), key=lambda index: len(rows[index].ids)):
            tokens = len(rows[index].ids)
            if batch and total + tokens > most:
                yield batch
                batch, total = [], 0
            batch.append(index)
            total += tokens
        if batch:
            yield batch

    def hidden(self, rows: Sequence[Pass]) -> Tensor:
        """What the head reads at the places of a batch (N, D), rows in order; in parts where memory runs out."""

        def compute(most: int) -> Tensor:
            return torch.cat([self._read(rows[start : start + most]) for start in range(0, len(rows), most)])

        return self._slices.fitting(compute, len(rows), lambda: None, max(len(row.ids) for row in rows))

    def _read(self, rows: Sequence[Pass]) -> Tensor:
        """The same of a single forward pass."""
        lengths = [len(row.ids) for row in rows]
        total = sum(lengths)
        rest = -total % LEAST
        starts = accumulate(lengths, initial=0)
        ids = [*chain(*(row.ids for row in rows)), *[self._padding] * rest]
        types = [*chain(*(row.types for row in rows)), *[0] * rest]
        positions = [*chain(*map(range, lengths)), *[0] * rest]
        chosen = [start + at for start, row in zip(starts, rows, strict=False) for at in chain(*row.places)]
        padded = chosen + [0] * (-len(chosen) % LEAST)
        inputs = model_inputs(self._model, {"input_ids": torch.tensor([ids]), "token_type_ids": torch.tensor([types])})
        inputs["position_ids"] = torch.tensor([positions]) + self._first
        runs = [(len(list(run)), length) for length, run in groupby(lengths)]
        # Of a family that does not finish chosen tokens alone, they are chosen afterwards.
        finishing = finish_only(self._model, lambda value_1TD: value_1TD[:, padded])
        with torch.no_grad(), finishing or nullcontext():
            hidden_TD = self._encode(inputs | {"runs": runs})[0]
        return hidden_TD[: len(chosen)] if finishing else hidden_TD[chosen]


def side_by_side_attention(
    module: nn.Module,
    query_1HTd: Tensor,
    key_1HTd: Tensor,
    value_1HTd: Tensor,
    attention_mask: Tensor | None,
    runs: Sequence[tuple[int, int]] | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function: sdpa of each row by itself.

    Args:
        module: The layer's attention.
        query_1HTd: Of rows side by side.
        key_1HTd: Likewise.
        value_1HTd: Likewise.
        attention_mask: Of rows below each other; None otherwise.
        runs: How many rows there are of one length, and that length, in order; what is beyond gets zeros. None: rows
            are below each other, (B, H, L, d).
        **options: What else sdpa is given.

    Returns:
        The outputs (1, T, H, d), and no weights.
    """
    states = (query_1HTd, key_1HTd, value_1HTd)
    if runs is None:
        output: tuple[Tensor, None] = sdpa_attention_forward(module, *states, attention_mask, **options)
        return output
    outputs_1THd = torch.zeros_like(query_1HTd.transpose(1, 2), memory_format=torch.contiguous_format)
    start = 0
    for rows, length in runs:
        end = start + rows * length
        run_BHLd = [state[0, :, start:end].unflatten(1, (rows, length)).transpose(0, 1) for state in states]
        outputs_BLHd, _ = sdpa_attention_forward(module, *run_BHLd, None, **options | {"is_causal": False})
        outputs_1THd[0, start:end] = outputs_BLHd.flatten(0, 1)
        start = end
    return outputs_1THd, None


AttentionInterface.register(SIDE_BY_SIDE, side_by_side_attention)
AttentionMaskInterface.register(SIDE_BY_SIDE, sdpa_mask)


class Padded:
    """Rows below each other: all forward passes of a length have the same number of rows, the last of them empty.

    Args:
        model: Any masked language model; nothing about it is changed.
        padding: Token id to fill up with.
        tokens: Of every forward pass, as long as memory suffices.
    """

    def __init__(self, model: PreTrainedModel, padding: int, tokens: int) -> None:
        self._model, self._padding, self._tokens = model, padding, tokens
        self._encode, _ = hidden_and_head(model)
        self._slices = SliceSize("augment")

    def batches(self, rows: Sequence[Pass], _: int) -> Iterator[list[int]]:
        """Indices of rows to be read at once, which are of one padded length."""
        by_length: dict[int, list[int]] = {}
        for index, row in enumerate(rows):
            by_length.setdefault(_padded(len(row.ids)), []).append(index)
        for length, members in sorted(by_length.items()):
            size = self._rows(length) - 1
            yield from (members[start : start + size] for start in range(0, len(members), size))

    def _rows(self, length: int) -> int:
        """Rows of a forward pass, the empty one included."""
        return max(2, self._tokens // length)

    def hidden(self, rows: Sequence[Pass]) -> Tensor:
        """What the head reads at the places of a batch (N, D), rows in order; in parts where memory runs out."""
        length = _padded(max(len(row.ids) for row in rows))

        def compute(most: int) -> Tensor:
            # Without any padding in a batch attention takes another kernel; the empty row keeps it from that.
            size = max(1, most - 1)
            parts = [rows[start : start + size] for start in range(0, len(rows), size)]
            return torch.cat([self._read(part, length, max(most, 2)) for part in parts])

        return self._slices.fitting(compute, self._rows(length), lambda: None, length)

    def _read(self, rows: Sequence[Pass], length: int, filled: int) -> Tensor:
        """The same of a single forward pass, with empty rows up to so many."""
        ids_BL = torch.full((filled, length), self._padding)
        types_BL = torch.zeros_like(ids_BL)
        sizes_B = torch.ones(filled, dtype=torch.long)
        for at, row in enumerate(rows):
            ids_BL[at, : len(row.ids)] = torch.tensor(row.ids)
            types_BL[at, : len(row.types)] = torch.tensor(row.types)
            sizes_B[at] = len(row.ids)
        mask_BL = (torch.arange(length) < sizes_B[:, None]).long()
        batch = {"input_ids": ids_BL, "attention_mask": mask_BL, "token_type_ids": types_BL}
        inputs = model_inputs(self._model, batch)
        with torch.no_grad():
            hidden_BLD = self._encode({name: tensor.to(self._model.device) for name, tensor in inputs.items()})
        rows_N = [at for at, row in enumerate(rows) for place in row.places for _ in place]
        return hidden_BLD[rows_N, [position for row in rows for position in chain(*row.places)]]


def _padded(length: int) -> int:
    return -(-length // GRAIN) * GRAIN
