"""Small teachers of every family, random weights, for the tests of what is read off a teacher."""

from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    MPNetConfig,
    MPNetModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)

SHAPE = {"vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 30}
DISTIL = {"vocab_size": 50, "dim": 24, "n_layers": 4, "n_heads": 3, "hidden_dim": 30}
FAMILIES = {
    "bert": lambda: BertModel(BertConfig(**SHAPE)),
    "bert with a head": lambda: BertForSequenceClassification(BertConfig(**SHAPE)),
    "roberta with a head": lambda: RobertaForSequenceClassification(RobertaConfig(**SHAPE, type_vocab_size=1)),
    "electra": lambda: ElectraModel(ElectraConfig(**SHAPE, embedding_size=16)),
    "distilbert": lambda: DistilBertModel(DistilBertConfig(**DISTIL)),
    "mpnet": lambda: MPNetModel(MPNetConfig(**SHAPE)),
}
