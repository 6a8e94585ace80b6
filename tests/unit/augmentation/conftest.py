"""A model and vectors whose right answers are known."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

from tinybert.augment_config import AugmentConfig
from tinybert.augmentation.predictor import WordPredictor
from tinybert.vectors import Vectors

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LIKELY = ["good", "great", "fine", "movie"]
"""What the tiny model proposes everywhere, the likeliest first."""
BARRED = ["##s", "##ly", "7", ".", "x", "[unused1]"]
"""What it likes even better, but no whole words."""
CHINESE = ["\u7535", "\u5f71", "\u6545", "\u4e8b", "\u97f3", "\u4e50"]
"""film (2 characters), story (2), music (2)"""
TOKENS = [
    *SPECIAL, *BARRED, *LIKELY, "film", "story", "bad", "the", "un", "##fun", "##ny", "!", ",", "'", "don", *CHINESE,
]  # fmt: skip


def tiny_model(positions=64):
    """A BERT that proposes the same everywhere: its bias decides."""
    torch.manual_seed(0)
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = BertForMaskedLM(BertConfig(vocab_size=len(TOKENS), max_position_embeddings=positions, **shape))
    bias_V = torch.linspace(0, -1, len(TOKENS))
    for rank, word in enumerate([*SPECIAL, *BARRED, *LIKELY]):
        bias_V[TOKENS.index(word)] = 100.0 - 4 * rank
    with torch.no_grad():
        model.cls.predictions.decoder.bias.copy_(bias_V)
    return model


@pytest.fixture(scope="session")
def parts():
    """Model, tokenizer and vectors."""
    tokenizer = BertTokenizer(vocab={token: at for at, token in enumerate(TOKENS)}, model_max_length=64)
    vectors = Vectors(
        ["unfunny", "dull", "boring", "film"],
        np.array([[1, 0], [0.99, 0.14], [0.9, 0.44], [0, 1]], dtype=np.float32),
    )
    return tiny_model(), tokenizer, vectors


@pytest.fixture
def config():
    """A form with small numbers, and changes to it."""
    return lambda **changes: AugmentConfig(**{"copies": 4, "candidates": 2, "probability": 1.0, **changes})


@pytest.fixture
def seen(monkeypatch, parts):
    """The passes the model has seen, as texts of tokens."""
    texts = []
    fill = WordPredictor.fill

    def recorded(self, passes, *rest):
        texts.extend(" ".join(parts[1].convert_ids_to_tokens(row.ids)) for row in passes)
        return fill(self, passes, *rest)

    monkeypatch.setattr(WordPredictor, "fill", recorded)
    return texts
