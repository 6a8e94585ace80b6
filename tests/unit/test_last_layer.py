"""A classifier whose last layer finishes one token: the same logits and gradients, for less."""

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from tinybert.last_layer import finish_first_token_only
from tinybert.states import transformer_layers

SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 40}
FAMILIES = [
    BertConfig(**SMALL),
    RobertaConfig(**SMALL, pad_token_id=1),
    XLMRobertaConfig(**SMALL, pad_token_id=1),
    ElectraConfig(**SMALL, embedding_size=8),
    DistilBertConfig(dim=16, n_layers=3, n_heads=2, hidden_dim=24, vocab_size=40),
]


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config.model_type)
def test_logits_and_gradients_stay(config):
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    inputs = {"input_ids": torch.randint(4, 40, (5, 7)), "attention_mask": torch.ones(5, 7, dtype=torch.long)}
    inputs["attention_mask"][::2, 4:] = 0

    def logits_and_gradients():
        model.zero_grad()
        logits = model(**inputs).logits
        logits.square().sum().backward()
        return logits.detach(), [p.grad.clone() if p.grad is not None else None for p in model.parameters()]

    before = logits_and_gradients()
    finish_first_token_only(model)
    after = logits_and_gradients()
    torch.testing.assert_close(after, before)
    shapes = []
    transformer_layers(model.base_model)[-1].register_forward_hook(
        lambda module, args, output: shapes.append((output[0] if isinstance(output, tuple) else output).shape)
    )
    model(**inputs)
    assert shapes == [torch.Size([5, 7 if config.model_type == "distilbert" else 1, 16])]
