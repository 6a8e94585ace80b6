"""Linear layers kept in bf16 against autocast's own casts."""

import torch
from transformers import BertConfig, BertForMaskedLM

from tinybert.precision import halve_linears


def test_halved_linears_change_no_number_under_autocast():
    torch.manual_seed(0)
    shape = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 30}
    model = BertForMaskedLM(BertConfig(vocab_size=50, **shape)).eval()
    ids = torch.randint(5, 50, (2, 5))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = model(input_ids=ids).logits
        halve_linears(model)
        assert torch.equal(model(input_ids=ids).logits, expected)
    assert model.bert.encoder.layer[0].attention.self.query.weight.dtype == torch.bfloat16
    assert model.bert.encoder.layer[0].attention.self.query.bias.dtype == torch.bfloat16
    assert model.bert.encoder.layer[0].output.LayerNorm.weight.dtype == torch.float32
    assert model.bert.embeddings.word_embeddings.weight.dtype == torch.float32  # the decoder shared it
