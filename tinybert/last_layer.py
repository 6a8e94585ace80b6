"""Where few tokens of a model's last layer are read, it need not finish the others."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from tinybert.states import transformer_layers

_FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert", "electra")
"""`attention.output` begins what their layers do token by token."""


def finish_only(model: PreTrainedModel, choose: Callable[[Tensor], Tensor]) -> RemovableHandle | None:
    """Have the last layer go on from its attention with some tokens alone; what it gives of them stays the same.

    Saves three quarters of that layer. The hidden states such a model gives are those of the chosen tokens.

    Args:
        model: Its base model's last layer is changed.
        choose: Takes the tokens out of (B, L, D); what it gives has three dimensions as well.

    Returns:
        What takes it back; as a context manager, at the end. None for a family for which this is not known.
    """
    if model.config.model_type not in _FAMILIES:
        return None

    def chosen(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(choose(value_BLD) if isinstance(value_BLD, Tensor) else value_BLD for value_BLD in args)

    last: Any = transformer_layers(model.base_model)[-1]
    handle: RemovableHandle = last.attention.output.register_forward_pre_hook(chosen)
    return handle


def finish_first_token_only(classifier: PreTrainedModel) -> None:
    """Have a sequence classifier's last layer finish the first token alone, which is what its head reads.

    A fifth of a student of four layers (`benchmarks/distill_step.py`). Logits and gradients stay the same. Other
    families than BERT's own are left as they are.
    """
    finish_only(classifier, lambda value_BLD: value_BLD[:, :1])
