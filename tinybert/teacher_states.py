"""The teacher's side of state distillation: one forward pass, and the tensors that losses and cache need of it.

Shapes: B batch, K mapped layers, L length, H heads, D width.
"""

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tinybert.attention_kind import Kind
from tinybert.states import StateCapture, States, model_inputs, transformer_layers

HIDDEN = "teacher_hidden"
ATTENTION = {"scores": "teacher_scores", "relations": "teacher_relations"}


def state_names(kind: Kind) -> list[str]:
    """Names in a batch of the tensors that `TeacherStates` gives."""
    return [HIDDEN, *(name for of, name in ATTENTION.items() if of == kind)]


class TeacherStates(nn.Module):
    """Runs a teacher for its states.

    The teacher is taken over: it stays in eval mode and loses its gradients, its head and pooler, and the layers
    above the last mapped one.

    Args:
        teacher: Encoder, with or without a head.
        mapped: g(1..M), teacher layers from 1.
        kind: What of its attention is wanted.

    Raises:
        ModelError: Its attention cannot be captured.
    """

    def __init__(self, teacher: PreTrainedModel, mapped: list[int], kind: Kind) -> None:
        super().__init__()
        self.encoder: PreTrainedModel = teacher.base_model.requires_grad_(False)
        self._mapped, self._kind = mapped, kind
        self._capture = StateCapture(self.encoder, [0, *mapped], kind)
        del transformer_layers(self.encoder)[mapped[-1] :]
        self.encoder.config.num_hidden_layers = mapped[-1]
        if getattr(self.encoder, "pooler", None) is not None:
            self.encoder.pooler = None
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """The teacher stays in eval mode whatever is asked."""
        return super().train(False)

    def states(self, batch: Mapping[str, Tensor]) -> States:
        """The states of a batch (input_ids, attention_mask and so on), computed where the batch lies.

        They are named by the teacher's layers: 0, the embedding, and the mapped ones.
        """
        where = batch["input_ids"].device
        if self.encoder.device != where:
            self.encoder.to(where)
        with torch.no_grad(), self._capture.capturing() as states:
            self.encoder(**model_inputs(self.encoder, batch))
        return states

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """The same as tensors of a batch.

        Returns:
            teacher_hidden (B, K + 1, L, D), first the embedding, then the mapped layers, and teacher_scores
            (B, K, H, L, L) or teacher_relations (B, K, 3, L, D), which are queries, keys and values.
        """
        states = self.states(batch)
        captured = {HIDDEN: torch.stack([states.hidden[layer] for layer in (0, *self._mapped)], dim=1)}
        if self._kind != "hidden":
            by_layer = getattr(states, self._kind)
            captured[ATTENTION[self._kind]] = torch.stack([by_layer[layer] for layer in self._mapped], dim=1)
        return captured


def remembered_states(batch: Mapping[str, Tensor], mapped: list[int], kind: Kind) -> States:
    """The states that `TeacherStates.forward` once gave, from a batch that brings them."""
    states = States(hidden=dict(zip((0, *mapped), batch[HIDDEN].unbind(1), strict=True)))
    if kind != "hidden":
        setattr(states, kind, dict(zip(mapped, batch[ATTENTION[kind]].unbind(1), strict=True)))
    return states
