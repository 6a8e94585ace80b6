"""What a model's layers compute, captured while it runs: hidden states, and scores or relations of its attention.

Attention is seen through a function registered with transformers' attention interface, so any encoder that uses the
interface can be captured (MPNet, which does not, through hooks); layers nobody asked for stay on the fast path.

Shapes: B batch, L length, H heads, D width, d width of one head.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from tinybert.attention_kind import Kind
from tinybert.dropout import dropout as drop
from tinybert.errors import ModelError
from tinybert.mpnet import observe_attention

ATTENTION = "tinybert_states"
_TAP = "_state_tap"


@dataclass
class States:
    """The captured states of one forward pass, by layer; 0 is the embedding, 1 the first layer."""

    hidden: dict[int, Tensor] = field(default_factory=dict)
    """(B, L, D) each."""
    scores: dict[int, Tensor] = field(default_factory=dict)
    """(B, H, L, L) each: QK^T / sqrt(d), in MPNet plus its position bias, before mask and softmax."""
    relations: dict[int, Tensor] = field(default_factory=dict)
    """(B, 3, L, D) each: queries, keys and values, heads side by side."""

    def keep(self, part: Kind, layer: int, state: Tensor) -> None:
        """Put a layer's state into the dictionary of its name."""
        getattr(self, part)[layer] = state


def tapped_attention(
    module: nn.Module,
    query_BHLd: Tensor,
    key_BHLd: Tensor,
    value_BHLd: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """transformers' attention function: sdpa, except where scores are captured; attention then goes on with them.

    Training on a CPU goes on with scores as well: the backward pass of sdpa's flash kernel takes a short batch up to
    twice as long there, and its dropout is torch's dear one.
    """
    take: Callable[..., Tensor | None] | None = getattr(module, _TAP, None)
    scores_BHLL = take(query_BHLd, key_BHLd, value_BHLd, scaling=scaling) if take else None
    if scores_BHLL is None and module.training and query_BHLd.device.type == "cpu":
        scores_BHLL = unnormalised_scores(query_BHLd, key_BHLd, scaling)
    if scores_BHLL is None:
        options |= {"dropout": dropout, "scaling": scaling}
        output: tuple[Tensor, None] = sdpa_attention_forward(
            module, query_BHLd, key_BHLd, value_BHLd, attention_mask, **options
        )
        return output
    if attention_mask is not None:
        scores_BHLL = scores_BHLL.masked_fill(~attention_mask, torch.finfo(scores_BHLL.dtype).min)
    weights_BHLL = drop(scores_BHLL.softmax(dim=-1), dropout, module.training)
    return (weights_BHLL @ value_BHLd).transpose(1, 2).contiguous(), None


def unnormalised_scores(query_BHLd: Tensor, key_BHLd: Tensor, scaling: float | None) -> Tensor:
    """QK^T / sqrt(d), (B, H, L, L)."""
    # Scaled before the product: one rounding less in bf16, and one pass over the scores.
    scale = query_BHLd.shape[-1] ** -0.5 if scaling is None else scaling
    return (query_BHLd * scale) @ key_BHLd.transpose(2, 3)


AttentionInterface.register(ATTENTION, tapped_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def transformer_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The Transformer layers of an encoder, first to last.

    Raises:
        ModelError: The model has no list of as many layers as its config says.
    """
    count = model.config.num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ModelError(f"{type(model).__name__}: no list of {count} Transformer layers found; is it an encoder?")


def train_with_own_attention(module: nn.Module) -> None:
    """Have the sdpa models inside a module attend by `tapped_attention`, which trains faster on a CPU."""
    for model in module.modules():
        if isinstance(model, PreTrainedModel) and model.config._attn_implementation == "sdpa":
            model.set_attn_implementation(ATTENTION)


def model_inputs(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What of a batch a model reads; models of different families may share a batch.

    Segments are left out where the model knows one or none (RoBERTa, DistilBERT, MPNet).
    """
    names = ["input_ids", "attention_mask"]
    if getattr(model.config, "type_vocab_size", 0) > 1:
        names.append("token_type_ids")
    return {name: batch[name] for name in names if name in batch}


class StateCapture:
    """Captures hidden states, and scores or relations of the attention, in the named layers of one model.

    Args:
        model: An encoder, with or without a head. Its attention function is replaced, unless `kind` is hidden.
        layers: Which layers to capture; 0, the embedding, has hidden states only.
        kind: What of the attention is captured: its scores, its relations (which leave it on the fast path), or
            nothing.

    Raises:
        ModelError: The attention is wanted, and does not go through transformers' attention interface.
    """

    def __init__(self, model: PreTrainedModel, layers: Iterable[int], kind: Kind = "scores") -> None:
        self._kind = kind
        self._keep: Callable[[Kind, int, Tensor], None] | None = None
        stack = transformer_layers(model)
        observe = None if kind == "hidden" else _way_to_observe(model)
        for layer in layers:
            if layer == 0:
                stack[0].register_forward_pre_hook(self._embedding_hook, with_kwargs=True)
                continue
            stack[layer - 1].register_forward_hook(self._hidden_hook(layer))
            if observe is not None:
                observe(stack[layer - 1], partial(self._take, layer))

    @contextmanager
    def capturing(self, keep: Callable[[Kind, int, Tensor], None] | None = None) -> Iterator[States]:
        """Collect the states of the forward pass inside the block; outside of it nothing is kept.

        Args:
            keep: Is handed each state as soon as it is computed, after its name in `States` and its layer; the states
                that the block gives then stay empty.
        """
        states = States()
        self._keep = keep or states.keep
        try:
            yield states
        finally:
            self._keep = None

    def _embedding_hook(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._keep is not None:
            self._keep("hidden", 0, args[0] if args else kwargs["hidden_states"])

    def _hidden_hook(self, layer: int) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if self._keep is not None:
                self._keep("hidden", layer, output[0] if isinstance(output, tuple) else output)

        return hook

    def _take(
        self,
        layer: int,
        query_BHLd: Tensor,
        key_BHLd: Tensor,
        value_BHLd: Tensor,
        bias_BHLL: Tensor | None = None,
        scaling: float | None = None,
    ) -> Tensor | None:
        """Keep what is wanted of a layer's attention; gives the scores (B, H, L, L) where they are."""
        if self._keep is None:
            return None
        if self._kind == "relations":
            parts_BLD = (part_BHLd.transpose(1, 2).flatten(2) for part_BHLd in (query_BHLd, key_BHLd, value_BHLd))
            self._keep("relations", layer, torch.stack(list(parts_BLD), dim=1))
            return None
        scores_BHLL = unnormalised_scores(query_BHLd, key_BHLd, scaling)
        if bias_BHLL is not None:
            scores_BHLL = scores_BHLL + bias_BHLL
        self._keep("scores", layer, scores_BHLL)
        return scores_BHLL


def _way_to_observe(model: PreTrainedModel) -> Callable[[nn.Module, Callable[..., Tensor | None]], None]:
    """The function that has a layer of this model hand over its attention."""
    if model.config.model_type == "mpnet":
        return observe_attention
    model.set_attn_implementation(ATTENTION)
    if model.config._attn_implementation != ATTENTION:
        raise ModelError(f"{type(model).__name__} does not use transformers' attention interface")
    return _tap


def _tap(layer: nn.Module, take: Callable[..., Tensor | None]) -> None:
    for module in layer.modules():
        setattr(module, _TAP, take)
