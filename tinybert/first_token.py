"""A sequence classifier reads the first token alone, so its last layer need not finish the others."""

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from tinybert.states import transformer_layers

_FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert", "electra")
"""Their heads read position 0, and `attention.output` begins what a layer does token by token."""


def finish_first_token_only(classifier: PreTrainedModel) -> None:
    """Have the last layer go on from its attention with the first token alone; logits and gradients stay the same.

    Saves three quarters of that layer, a fifth of a student of four layers (`benchmarks/distill_step.py`). The hidden
    states such a model gives are the first token's. Other families than BERT's own are left as they are.
    """
    if classifier.config.model_type in _FAMILIES:
        last: Any = transformer_layers(classifier.base_model)[-1]
        last.attention.output.register_forward_pre_hook(_first_token)


def _first_token(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value_BLD[:, :1] if isinstance(value_BLD, Tensor) else value_BLD for value_BLD in args)
