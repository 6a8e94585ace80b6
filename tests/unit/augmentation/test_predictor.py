"""Passes put together by token ids, and predictions that do not depend on company."""

import random

import pytest
import torch
from tokenizers import Tokenizer, models, processors
from transformers import BertConfig, BertForMaskedLM, BertTokenizer, PreTrainedTokenizerFast

from tinybert.augmentation.forward import Pass
from tinybert.augmentation.predictor import Template, Tokens, WordPredictor
from tinybert.errors import ModelError

WORDS = [
    first + second for first in "bcdfghjklm" for second in ("at", "en", "ip", "ot", "ug", "ay", "ee", "oa", "um", "ix")
]
VOCABULARY = {token: at for at, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}


@pytest.fixture(scope="module")
def predictor():
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    model = BertForMaskedLM(BertConfig(vocab_size=len(VOCABULARY), max_position_embeddings=128, **shape))
    return WordPredictor(model, BertTokenizer(vocab=VOCABULARY, model_max_length=128))


def roberta_like():
    pieces = ["<s>", "</s>", "<pad>", "<unk>", "<mask>", "a", "good"]
    inner = Tokenizer(models.WordLevel({piece: at for at, piece in enumerate(pieces)}, unk_token="<unk>"))
    inner.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0), add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>", mask_token="<mask>")


def test_a_template_puts_special_tokens_where_the_tokenizer_does():
    bert, roberta = BertTokenizer(vocab=VOCABULARY), roberta_like()
    assert Template.of(bert, pair=False) == Template(([2], [3]), ([0], [0]), (0,))
    assert Template.of(bert, pair=True) == Template(([2], [3], [3]), ([0], [0], [1]), (0, 1))
    assert Template.of(roberta, pair=True) == Template(([0], [1, 1], [1]), ([0], [0, 0], [0]), (0, 0))
    assert len(Template.of(roberta, pair=True)) == 4


@pytest.mark.parametrize("pair", [False, True])
def test_a_filled_template_is_what_the_tokenizer_encodes(pair):
    tokenizer = BertTokenizer(vocab=VOCABULARY)
    texts = ["bat cen dip", "fot gug"][: 1 + pair]
    encoded = tokenizer(*texts)
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    made = Template.of(tokenizer, pair).fill(ids, int(pair), [[0], [1]])
    assert made.ids == encoded["input_ids"]
    assert made.types == encoded["token_type_ids"]
    assert [made.ids[place] for [place] in made.places] == ids[-1][:2]


def test_tokens_know_where_they_stand(predictor):
    [tokens, empty] = predictor.tokens(["bat, \U0001f600 CEN", ""])
    assert tokens.spans == [(0, 3), (3, 4), (5, 6), (7, 10)]
    assert [tokens.ids[0], tokens.ids[3]] == [VOCABULARY["bat"], VOCABULARY["cen"]]
    assert empty == Tokens([], [])


def passes_of(seed, number):
    rng = random.Random(seed)
    for _ in range(number):
        ids = [2, *(rng.randrange(4, len(VOCABULARY)) for _ in range(rng.randrange(1, 70))), 3]
        places = [[place] for place in sorted(rng.sample(range(1, len(ids) - 1), min(3, len(ids) - 2)))]
        yield Pass(ids, [0] * len(ids), places)


@pytest.mark.parametrize("batch_tokens", [1024, 2000, 100_000])
def test_answers_do_not_depend_on_batches_or_company(predictor, batch_tokens):
    rows = list(passes_of(1, 120))
    whole = predictor.fill(rows, 10, 8192)
    assert predictor.fill(rows, 10, batch_tokens) == whole
    assert predictor.fill(rows[::-1], 10, batch_tokens)[::-1] == whole
    assert [predictor.fill([row], 10, batch_tokens)[0] for row in rows[:20]] == whole[:20]


def test_answers_are_those_of_the_model(predictor):
    [row] = passes_of(2, 1)
    [found] = predictor.fill([row], 5, 1024)
    plain = BertForMaskedLM(predictor.model.config).eval()
    plain.load_state_dict(predictor.model.state_dict())
    with torch.no_grad():
        logits_LV = plain(input_ids=torch.tensor([row.ids])).logits[0]
    for [place], words in zip(row.places, found, strict=True):
        logits_V = logits_LV[place]
        least = logits_V[5:].topk(5).values[-1]
        assert len(words) == len(set(words)) == 5
        assert all(logits_V[VOCABULARY[word]] >= least - 0.02 for word in words)


def test_nothing_gives_nothing(predictor):
    assert predictor.fill([], 3, 1024) == []


def test_a_tokenizer_without_mask_is_refused(predictor):
    inner = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(ModelError, match="no mask token"):
        WordPredictor(predictor.model, PreTrainedTokenizerFast(tokenizer_object=inner))
