"""MPNet's attention, which does not go through transformers' attention interface, observed from outside by hooks.

Shapes: B batch, L length, H heads, D width, d width of one head.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers.models.mpnet.modeling_mpnet import MPNetSelfAttention

from tinybert.errors import ModelError

OnAttention = Callable[[Tensor, Tensor, Tensor, Tensor | None], object]
"""Called with queries, keys and values (B, H, L, d), and the position bias (B, H, L, L) MPNet adds to its scores."""


def observe_attention(layer: nn.Module, on_attention: OnAttention) -> None:
    """Have a layer's queries, keys, values and position bias handed over at every forward pass.

    Raises:
        ModelError: There is no MPNet attention in the layer.
    """
    found = [module for module in layer.modules() if isinstance(module, MPNetSelfAttention)]
    if not found:
        raise ModelError(f"{type(layer).__name__}: found no MPNetSelfAttention in a layer of an MPNet")
    parts: dict[str, Tensor] = {}

    def part_hook(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(_: nn.Module, __: Any, output_BLD: Tensor) -> None:
            parts[name] = output_BLD.unflatten(-1, (found[0].num_attention_heads, -1)).transpose(1, 2)

        return hook

    def attention_hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], __: Any) -> None:
        bias_BHLL = args[2] if len(args) > 2 else kwargs.get("position_bias")
        on_attention(parts.pop("q"), parts.pop("k"), parts.pop("v"), bias_BHLL)

    for name in ("q", "k", "v"):
        getattr(found[0], name).register_forward_hook(part_hook(name))
    found[0].register_forward_hook(attention_hook, with_kwargs=True)
