"""Logits at chosen positions, the vocabulary's whole words, and where a head is found."""

import json

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertTokenizer,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ElectraConfig,
    ElectraForMaskedLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from tinybert.checks import has_mlm_head
from tinybert.errors import ModelError
from tinybert.masked_lm import masked_logits, max_tokens, whole_words

SHAPE = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 24,
}
BERT = BertForMaskedLM, BertConfig(**SHAPE)
FAMILIES = {
    "bert": BERT,
    "roberta": (RobertaForMaskedLM, RobertaConfig(**SHAPE)),
    "electra": (ElectraForMaskedLM, ElectraConfig(**SHAPE, embedding_size=8)),
    "distilbert": (
        DistilBertForMaskedLM,
        DistilBertConfig(vocab_size=40, dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=24),
    ),
    "another": (AlbertForMaskedLM, AlbertConfig(**SHAPE, embedding_size=8)),
}
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "##s", "a", "b", "9", ".", "\u6211"]


@pytest.mark.parametrize("family", FAMILIES)
def test_masked_logits_are_those_of_the_whole_forward(family):
    torch.manual_seed(0)
    kind, config = FAMILIES[family]
    model = kind(config).eval()
    inputs = {
        "input_ids": torch.randint(5, 40, (3, 7)),
        "attention_mask": torch.tensor([[1] * 7, [1] * 5 + [0] * 2, [1] * 7]),
    }
    mask_BL = torch.zeros(3, 7, dtype=torch.bool)
    mask_BL[0, 2] = mask_BL[0, 5] = mask_BL[2, 0] = True
    with torch.no_grad():
        expected_NV = model(**inputs).logits[mask_BL]
        torch.testing.assert_close(masked_logits(model, inputs, mask_BL), expected_NV)


def test_only_chosen_positions_are_projected():
    model = BERT[0](BERT[1]).eval()
    seen = []
    model.cls.predictions.decoder.register_forward_hook(lambda module, args, out: seen.append(out.shape))
    mask_BL = torch.zeros(4, 6, dtype=torch.bool)
    mask_BL[1, 3] = True
    masked_logits(model, {"input_ids": torch.ones(4, 6, dtype=torch.long)}, mask_BL)
    assert seen == [(1, 40)]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_head_is_found(family, tmp_path):
    kind, config = FAMILIES[family]
    kind(config).save_pretrained(tmp_path / "with")
    assert has_mlm_head(tmp_path / "with")


def test_a_classifier_and_a_bare_encoder_have_no_head(tmp_path):
    model = BertForSequenceClassification(BERT[1])
    model.save_pretrained(tmp_path / "classifier")
    model.bert.save_pretrained(tmp_path / "encoder")
    assert not has_mlm_head(tmp_path / "classifier")
    assert not has_mlm_head(tmp_path / "encoder")


def test_a_sharded_model_is_judged_by_its_index(tmp_path):
    index = {"metadata": {}, "weight_map": {"bert.x": "a.safetensors", "cls.predictions.bias": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert has_mlm_head(tmp_path)


def test_missing_and_broken_weights_are_named(tmp_path):
    with pytest.raises(ModelError, match=r"neither model\.safetensors nor"):
        has_mlm_head(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no header")
    with pytest.raises(ModelError, match="cannot be read"):
        has_mlm_head(tmp_path)
    save_file({"lm_head.bias": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert has_mlm_head(tmp_path)


def test_max_tokens_leaves_out_positions_that_are_never_used():
    tokenizer = BertTokenizer(vocab={token: at for at, token in enumerate(TOKENS)})
    assert max_tokens(BERT[0](BERT[1]), tokenizer) == 24
    kind, config = FAMILIES["roberta"]
    assert max_tokens(kind(config), tokenizer) == 22


def test_whole_words_of_word_pieces():
    tokenizer = BertTokenizer(vocab={token: at for at, token in enumerate(TOKENS)})
    assert sorted(whole_words(tokenizer).values()) == sorted(["good", "bad", "film", "a", "\u6211"])


def test_whole_words_of_byte_level_pieces():
    pieces = [
        "<pad>",
        "<unk>",
        "<mask>",
        "\u0120good",
        "good",
        "\u0120film",
        "s",
        "\u0120b",
        "\u0120\u00c3\u00a9t\u00c3\u00a9",
    ]
    inner = Tokenizer(models.BPE(vocab={piece: at for at, piece in enumerate(pieces)}, merges=[]))
    from tokenizers.decoders import ByteLevel

    inner.decoder = ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>", mask_token="<mask>"
    )
    assert sorted(whole_words(tokenizer).values()) == ["film", "good", "\u00e9t\u00e9"]
