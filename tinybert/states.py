"""What a model's layers compute, captured while it runs: hidden states and unnormalised attention scores.

The scores come from an attention function registered with transformers' attention interface, so any encoder
that uses the interface can be captured; layers nobody asked for stay on the fast path.

Shapes: B batch, L length, H heads, D width, C classes, d width of one head.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from tinybert.errors import ModelError

ATTENTION = "tinybert_scores"
_SINK = "_score_sink"


@dataclass
class States:
    """The captured states of one forward pass, by layer; 0 is the embedding, 1 the first layer."""

    hidden: dict[int, Tensor] = field(default_factory=dict)
    """(B, L, D) each."""
    scores: dict[int, Tensor] = field(default_factory=dict)
    """(B, H, L, L) each, QK^T / sqrt(d) before mask and softmax."""


def scoring_attention(
    module: nn.Module,
    query_BHLd: Tensor,
    key_BHLd: Tensor,
    value_BHLd: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """transformers' attention function: sdpa, except in captured layers, which hand over their scores."""
    sink: Callable[[Tensor], None] | None = getattr(module, _SINK, None)
    if sink is None:
        output: tuple[Tensor, None] = sdpa_attention_forward(
            module,
            query_BHLd,
            key_BHLd,
            value_BHLd,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            **options,
        )
        return output
    scale = query_BHLd.shape[-1] ** -0.5 if scaling is None else scaling
    scores_BHLL = (query_BHLd @ key_BHLd.transpose(2, 3)) * scale
    sink(scores_BHLL)
    masked_BHLL = scores_BHLL
    if attention_mask is not None:
        masked_BHLL = scores_BHLL.masked_fill(~attention_mask, torch.finfo(scores_BHLL.dtype).min)
    weights_BHLL = nn.functional.dropout(masked_BHLL.softmax(dim=-1), p=dropout, training=module.training)
    return (weights_BHLL @ value_BHLd).transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, scoring_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def transformer_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The Transformer layers of an encoder, first to last.

    Raises:
        ModelError: The model has no list of as many layers as its config says.
    """
    count = model.config.num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    raise ModelError(f"{type(model).__name__}: no list of {count} Transformer layers found; is it an encoder?")


class StateCapture:
    """Captures hidden states and attention scores of the named layers of one model.

    Args:
        model: An encoder, with or without a head. Its attention function is replaced.
        layers: Which layers to capture; 0, the embedding, has hidden states only.

    Raises:
        ModelError: The model's attention does not go through transformers' attention interface.
    """

    def __init__(self, model: PreTrainedModel, layers: Iterable[int]) -> None:
        self._states: States | None = None
        stack = transformer_layers(model)
        model.set_attn_implementation(ATTENTION)
        if model.config._attn_implementation != ATTENTION:
            raise ModelError(f"{type(model).__name__} does not use transformers' attention interface")
        for layer in layers:
            if layer == 0:
                stack[0].register_forward_pre_hook(self._embedding_hook, with_kwargs=True)
                continue
            stack[layer - 1].register_forward_hook(self._hidden_hook(layer))
            for module in stack[layer - 1].modules():
                setattr(module, _SINK, self._score_sink(layer))

    @contextmanager
    def capturing(self) -> Iterator[States]:
        """Collect the states of the forward pass inside the block; outside of it nothing is kept."""
        self._states = States()
        try:
            yield self._states
        finally:
            self._states = None

    def _embedding_hook(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._states is not None:
            self._states.hidden[0] = args[0] if args else kwargs["hidden_states"]

    def _hidden_hook(self, layer: int) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if self._states is not None:
                self._states.hidden[layer] = output[0] if isinstance(output, tuple) else output

        return hook

    def _score_sink(self, layer: int) -> Callable[[Tensor], None]:
        def sink(scores_BHLL: Tensor) -> None:
            if self._states is not None:
                self._states.scores[layer] = scores_BHLL

        return sink
