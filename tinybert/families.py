"""What the encoder families call the same things: shape fields of a config, modules of a layer. No torch here."""

from dataclasses import dataclass

BERT_FIELDS = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "ffn": "intermediate_size",
    "heads": "num_attention_heads",
}
DISTILBERT_FIELDS = {"layers": "n_layers", "hidden": "dim", "ffn": "hidden_dim", "heads": "n_heads"}


def shape_fields(model_type: str) -> dict[str, str]:
    """Name in `config.json` of each of layers, hidden, ffn and heads."""
    return DISTILBERT_FIELDS if model_type == "distilbert" else BERT_FIELDS


@dataclass(frozen=True)
class LayerModules:
    """Names of the linear modules and norms inside a Transformer layer that has both norms behind its sums."""

    query: str
    key: str
    value: str
    attention_out: str
    attention_norm: str
    ffn_in: str
    ffn_out: str
    ffn_norm: str


_BERT = LayerModules(
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention_out="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    ffn_in="intermediate.dense",
    ffn_out="output.dense",
    ffn_norm="output.LayerNorm",
)
_DISTILBERT = LayerModules(
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    attention_out="attention.out_lin",
    attention_norm="sa_layer_norm",
    ffn_in="ffn.lin1",
    ffn_out="ffn.lin2",
    ffn_norm="output_layer_norm",
)
_MPNET = LayerModules(
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    attention_out="attention.attn.o",
    attention_norm="attention.LayerNorm",
    ffn_in="intermediate.dense",
    ffn_out="output.dense",
    ffn_norm="output.LayerNorm",
)

LAYER_MODULES = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "electra": _BERT,
    "distilbert": _DISTILBERT,
    "mpnet": _MPNET,
}
"""By `model_type`: the families that a narrower student can be cut out of."""
