"""Training without the rows of the word table that no token asks for: they need no gradient and no optimizer state.

A task's rows use a part of the vocabulary, of a multilingual one a small part, and AdamW reads and writes four numbers
for every one of the table at every step. While a stage trains, its table holds the rows that occur. The others only
decay, each by the same factor, which is kept beside and applied in the end. A teacher needs no others at all.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, TrainerCallback

from tinybert.allocator import forget_pages

MOST = 0.8
"""Share of the table's rows in use above which it is left whole."""


class KnownRows(nn.Module):
    """Stands in for a frozen embedding and holds some of its rows; other tokens are an error.

    Args:
        whole: The embedding it stands in for, which is of no use any more.
        known_U: Tokens it is asked for, rising.
    """

    _place_of: Tensor

    def __init__(self, whole: nn.Embedding, known_U: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(whole.weight.detach()[known_U], requires_grad=False)
        self.register_buffer("_place_of", _places(known_U, whole.num_embeddings), persistent=False)
        forget_pages(whole.weight)

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings (..., D) of token ids (...)."""
        return F.embedding(self._place_of[ids], self.weight)


class UsedRows(nn.Module):
    """Stands in for an embedding; gives the same for every token, and gradients to those in use.

    Shapes: V rows of the whole table, U of them in use, D wide.

    Args:
        whole: The embedding it stands in for, which is of no use any more.
        used_U: Tokens in use, rising.
        directory: Where the whole table lies meanwhile, in a file without a name; None: with the system's temporary
            files. On an accelerator it stays there.
    """

    decay: Tensor
    """Factor by which the rows that are not in use have shrunk."""
    _place_of: Tensor

    def __init__(self, whole: nn.Embedding, used_U: Tensor, directory: Path | None = None) -> None:
        super().__init__()
        weight_VD = whole.weight.detach()
        self.weight = nn.Parameter(weight_VD[used_U])
        self._used_U = used_U
        self._whole_VD = _set_aside(weight_VD, directory)  # no parameter, no buffer: not in state_dict()
        self._padding_of_whole = whole.padding_idx
        places_V = _places(used_U, whole.num_embeddings)
        self.register_buffer("_place_of", places_V, persistent=False)
        self.register_buffer("decay", torch.ones((), dtype=torch.float64, device=used_U.device))
        padding = None if whole.padding_idx is None else int(places_V[whole.padding_idx])
        self._padding = None if padding == -1 else padding

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings (..., D) of token ids (...)."""
        places = self._place_of[ids]
        if self.training:
            return F.embedding(places, self.weight, self._padding)
        known = F.embedding(places.clamp(min=0), self.weight, self._padding)
        other = F.embedding(ids, self._whole_VD) * self.decay.to(known.dtype)
        return torch.where((places >= 0)[..., None], known, other)

    @torch.no_grad()
    def expanded(self) -> nn.Embedding:
        """The whole embedding, with what was learnt in it; this one is of no use any more unless taken again."""
        weight_VD = self._whole_VD * self.decay.to(self._whole_VD.dtype)
        weight_VD[self._used_U] = self.weight
        padding = self._padding_of_whole
        expanded: nn.Embedding = nn.Embedding.from_pretrained(weight_VD, freeze=False, padding_idx=padding)
        return expanded


def _places(tokens_U: Tensor, count: int) -> Tensor:
    """Where each of so many tokens stands among some; -1: nowhere."""
    places_V = torch.full((count,), -1, device=tokens_U.device)
    places_V[tokens_U] = torch.arange(len(tokens_U), device=tokens_U.device)
    return places_V


def _set_aside(weight_VD: Tensor, directory: Path | None) -> Tensor:
    """The same numbers, read from a file as they are asked for."""
    if weight_VD.device.type != "cpu":
        return weight_VD
    with tempfile.TemporaryFile(dir=directory) as file:
        numbers = weight_VD.contiguous().view(torch.uint8).numpy()
        numbers.tofile(file)
        file.flush()
        aside = np.asarray(np.memmap(file, np.uint8, "c", shape=numbers.shape))  # the map keeps the file alive
    forget_pages(weight_VD)
    return torch.from_numpy(aside).view(weight_VD.dtype)


class Shrunk(TrainerCallback):
    """A learner whose word table holds what occurs in its rows, until it is restored.

    Args:
        learner: Its one model that trains its own word table; tables that also predict words stay whole.
        tokens: Token ids that occur in its rows, padding included; None: not known, the table stays whole.
        directory: Where the whole table lies meanwhile.
    """

    def __init__(self, learner: nn.Module, tokens: NDArray[np.int64] | None, directory: Path | None = None) -> None:
        self._model: PreTrainedModel | None = None
        for model in (module for module in learner.modules() if isinstance(module, PreTrainedModel)):
            table = model.get_input_embeddings()
            if tokens is not None and _may_shrink(learner, table) and len(tokens) < MOST * table.num_embeddings:
                used_U = torch.as_tensor(tokens, device=table.weight.device)
                self._model, self._table = model, UsedRows(table, used_U, directory)
                self.shrink()
                break

    def shrink(self) -> None:
        """Put the table of used rows in the whole one's place."""
        if self._model is not None:
            self._model.set_input_embeddings(self._table)

    def restore(self) -> None:
        """Put the whole table back, with what was learnt in it."""
        if self._model is not None:
            self._model.set_input_embeddings(self._table.expanded())

    def on_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        """Called by the Trainer after each step: what the step did to the used rows by decay, it did to the others."""
        if self._model is None:
            return
        of_table = (group for group in optimizer.param_groups if any(p is self._table.weight for p in group["params"]))
        for group in of_table:
            self._table.decay *= 1 - group["lr"] * group["weight_decay"]


def _may_shrink(learner: nn.Module, table: Any) -> bool:
    if type(table) is not nn.Embedding or not table.weight.requires_grad:
        return False
    return sum(getattr(module, "weight", None) is table.weight for module in learner.modules()) == 1
