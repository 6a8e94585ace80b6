"""The nlpaug augmenter: nlpaug's contract, alone and in a flow."""

import nlpaug.augmenter.word as naw
import nlpaug.flow as naf
import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

from tinybert.augmentation.augmenter import TinyBertAug
from tinybert.config import AugmentConfig
from tinybert.vectors import Vectors

WORDS = ["good", "great", "fine", "film", "movie", "story", "the", "un", "##funny"]
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]


@pytest.fixture
def make():
    torch.manual_seed(0)
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = BertForMaskedLM(BertConfig(vocab_size=len(TOKENS), max_position_embeddings=32, **shape))
    tokenizer = BertTokenizer(vocab={token: at for at, token in enumerate(TOKENS)}, model_max_length=32)
    vectors = Vectors(["unfunny", "dull"], np.array([[1, 0], [0.6, 0.8]], dtype=np.float32))

    def build(**changes):
        return TinyBertAug(model, tokenizer, vectors, AugmentConfig(candidates=3, **changes))

    return build


def test_a_text_gives_up_to_n_different_copies(make):
    copies = make().augment("unfunny film story", n=3)
    assert len(copies) == len(set(copies)) == 3
    assert "unfunny film story" not in copies
    assert make(probability=1.0).augment("unfunny", n=3) == ["dull"]


def test_a_list_gives_n_per_item_in_order(make):
    texts = ["a film 1", "the", "unfunny 2", "story 3"]
    flat = make().augment(texts, n=2)
    assert len(flat) == 8
    assert [text[-1] for text in flat] == list("11ee2233")
    assert flat[2:4] == ["the", "the"]
    assert flat[4:6] == ["dull 2", "dull 2"]


@pytest.mark.parametrize("nothing", [None, "", []])
def test_nothing_gives_nothing(make, nothing):
    assert make().augment(nothing) == []


def test_without_a_possible_copy_the_text_stands_for_itself(make):
    assert make().augment("the 42", n=2) == ["the 42"]
    assert make().augment(["", "the"]) == ["", "the"]
    assert make().substitute("") == ""


def test_substitute_gives_one_copy(make):
    assert make(probability=1.0).substitute("Unfunny") == "Dull"


def test_calls_draw_anew_and_repeat_with_a_new_augmenter(make):
    first, second = make(), make()
    drawn = [first.augment("good film story") for _ in range(6)]
    assert [second.augment("good film story") for _ in range(6)] == drawn
    assert len({tuple(copies) for copies in drawn}) > 1


@pytest.mark.parametrize("ours_first", [True, False])
def test_composes_with_nlpaugs_own(make, ours_first):
    steps = [make(probability=1.0), naw.RandomWordAug(action="swap", aug_p=0.5)]
    flow = naf.Sequential(steps if ours_first else steps[::-1])
    [made] = flow.augment("Unfunny film and good story")
    words = made.lower().split()
    assert len(words) == 5
    assert "dull" in words


def test_a_flow_gives_as_many_as_asked(make):
    made = naf.Sequential([make()]).augment("good film and a fine story", n=3)
    assert len(made) == 3
    assert all(isinstance(text, str) and text != "good film and a fine story" for text in made)
