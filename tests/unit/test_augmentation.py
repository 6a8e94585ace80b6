"""Algorithm 1 on a model and vectors whose right answers are known."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

from tinybert import augmentation
from tinybert.augmentation import augment, eligible_words, match_case, passes, propose
from tinybert.config import AugmentConfig
from tinybert.errors import DataError
from tinybert.masked_lm import WordPredictor
from tinybert.vectors import Vectors

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LIKELY = ["good", "great", "fine", "movie"]
"""What the tiny model proposes everywhere, the likeliest first."""
BARRED = ["##s", "##ly", "7", ".", "x", "[unused1]"]
"""What it likes even better, but no whole words."""
TOKENS = [*SPECIAL, *BARRED, *LIKELY, "film", "story", "bad", "the", "un", "##fun", "##ny", "!", ",", "'", "don"]
VECTORS = Vectors(
    ["unfunny", "dull", "boring", "film"],
    np.array([[1, 0], [0.99, 0.14], [0.9, 0.44], [0, 1]], dtype=np.float32),
)


def tiny(positions=64):
    torch.manual_seed(0)
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = BertForMaskedLM(BertConfig(vocab_size=len(TOKENS), max_position_embeddings=positions, **shape))
    bias_V = torch.linspace(0, -1, len(TOKENS))
    for rank, word in enumerate([*SPECIAL, *BARRED, *LIKELY]):
        bias_V[TOKENS.index(word)] = 100.0 - 4 * rank
    with torch.no_grad():
        model.cls.predictions.decoder.bias.copy_(bias_V)
    return model


@pytest.fixture(scope="module")
def parts():
    tokenizer = BertTokenizer(vocab={token: at for at, token in enumerate(TOKENS)}, model_max_length=64)
    return tiny(), tokenizer, VECTORS


def config(**changes):
    return AugmentConfig(**{"copies": 4, "candidates": 2, "probability": 1.0, "batch_tokens": 512, **changes})


def run(parts, texts, pairs=None, **changes):
    return list(augment(texts, pairs, *parts, config(**changes)))


def record_passes(monkeypatch):
    seen = []
    fill = WordPredictor.fill
    monkeypatch.setattr(
        WordPredictor, "fill", lambda self, texts, *rest: seen.extend(texts) or fill(self, texts, *rest)
    )
    return seen


# --- words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A good film, really!", ["good", "film", "really"]),
        ("THE The the", []),
        ("don't stop o'neill\u2019s 'film'", ["don't", "stop", "o'neill\u2019s", "film"]),
        ("3 films 3rd film3 a_b x2", ["films"]),
        ("[MASK] film [SEP] <mask> <br /> </s>", ["film"]),
        ("\u00fcber \u0444\u0438\u043b\u044c\u043c", ["\u00fcber", "\u0444\u0438\u043b\u044c\u043c"]),
        ("caf\u00e9 cafe\u0301", ["caf\u00e9", "cafe\u0301"]),
        ("\u597d\u7535\u5f71", ["\u597d", "\u7535", "\u5f71"]),
        ("\U0001f600 \u2764\ufe0f ... 42 %", []),
        ("", []),
        (" \t\n", []),
    ],
)
def test_eligible_words(text, words):
    found = eligible_words(text)
    assert [word.text for word in found] == words
    assert all(text[word.start : word.end] == word.text for word in found)


def test_stop_words_are_the_callers():
    assert [word.text for word in eligible_words("The Film", {"film"})] == ["The"]


@pytest.mark.parametrize(
    ("word", "like", "expected"),
    [("movie", "FILM", "MOVIE"), ("movie", "Film", "Movie"), ("movie", "film", "movie"), ("movie", "X", "Movie")],
)
def test_casing_follows_the_original(word, like, expected):
    assert match_case(word, like) == expected


# --- passes


@pytest.mark.parametrize("masking", ["each", "grouped"])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 20])
@pytest.mark.parametrize("tokens", [1, 10, 40])
def test_every_word_is_masked_in_exactly_one_pass(masking, count, tokens):
    groups = passes(list(range(count)), tokens, masking)
    assert sorted(word for group in groups for word in group) == list(range(count))
    for group in groups:
        assert len(group) <= max(1, 0.15 * tokens)
        assert all(right - left > 1 for left, right in pairwise(group))


@pytest.mark.parametrize("masking", ["each", "grouped"])
def test_the_model_sees_every_word_masked_once(parts, masking, monkeypatch):
    seen = record_passes(monkeypatch)
    words = ["good", "film", "great", "story"] * 3
    run(parts, [" ".join(words)], masking=masking)
    masked = Counter()
    for masked_text in seen:
        found = masked_text.text.split()
        assert [word for word in found if word != "[MASK]"] == [
            word for word, shown in zip(words, found, strict=True) if shown != "[MASK]"
        ]
        masked.update(at for at, word in enumerate(found) if word == "[MASK]")
        assert masked_text.chosen == (True,) * found.count("[MASK]")
    assert masked == Counter(range(12))
    assert len(seen) == 12


def test_grouped_masking_takes_fewer_passes(parts, monkeypatch):
    seen = record_passes(monkeypatch)
    run(parts, ["good film great story bad movie " * 7], masking="grouped")
    assert len(seen) == 7  # 42 words, 6 of the 42 tokens in a pass


# --- candidates


@pytest.mark.parametrize("masking", ["each", "grouped"])
def test_candidates_are_the_likeliest_whole_words_but_the_word_itself(parts, masking):
    text = "The Good film, unfunny the bad!"
    found = propose([text], None, 0, *parts, config(masking=masking))
    assert [word.text for word in eligible_words(text)] == ["Good", "film", "unfunny", "bad"]
    assert found == [[["great", "fine"], ["good", "great"], ["dull", "boring"], ["good", "great"]]]


def test_more_candidates_than_words_gives_all_there_are(parts):
    [[found]] = propose(["film"], None, 0, *parts, config(candidates=100))
    assert found[:4] == LIKELY
    assert sorted(found) == sorted([*LIKELY, "story", "bad", "the", "un", "don"])


def test_without_vectors_words_of_several_pieces_stay(parts):
    model, tokenizer, _ = parts
    [copy] = augment(["Unfunny film"], None, model, tokenizer, None, config(candidates=1))
    assert copy.text == "Unfunny good"


def test_neighbours_are_looked_up_once_for_all_texts(parts, monkeypatch):
    asked = []
    find = Vectors.neighbours
    monkeypatch.setattr(Vectors, "neighbours", lambda *args: asked.append(args[1]) or find(*args))
    monkeypatch.setattr(augmentation, "CHUNK", 1)
    run(parts, ["unfunny film", "Unfunny film", "nunny"])
    assert asked == [["nunny", "unfunny"]]


# --- copies


def test_probability_one_replaces_all_and_keeps_the_rest(parts):
    copies = run(parts, ["The  GOOD Film, (unfunny)\t7 \U0001f600!"], candidates=1)
    assert [copy.text for copy in copies] == ["The  GREAT Good, (dull)\t7 \U0001f600!"]


def test_replacement_is_as_frequent_as_asked_and_uniform(parts):
    copies = run(parts, ["film " * 50], copies=100, probability=0.4, candidates=4)
    words = Counter(word for copy in copies for word in copy.text.split())
    assert words["film"] == pytest.approx(3000, rel=0.05)
    assert all(words[word] == pytest.approx(500, rel=0.2) for word in LIKELY)


def test_copies_differ_from_the_row_and_from_each_other(parts):
    copies = run(parts, ["a good film", "film"], copies=100, probability=0.5)
    for row, text in enumerate(["a good film", "film"]):
        made = [copy.text for copy in copies if copy.row == row]
        assert len(made) == len(set(made))
        assert text not in made
    assert [copy.row for copy in copies] == sorted(copy.row for copy in copies)


@pytest.mark.parametrize("text", ["", "  \n", "the and of", "\U0001f600\U0001f600", "42 ...", "[MASK]", "<br />"])
def test_rows_without_eligible_words_give_nothing(parts, text):
    assert run(parts, [text]) == []
    assert [copy.row for copy in run(parts, [text, "film", text], copies=1)] == [1]


def test_no_rows(parts):
    assert run(parts, []) == []


def test_a_literal_mask_stays_and_is_not_confused(parts):
    text = "[MASK] good [MASK][MASK] film [MASK]"
    for masking in ["each", "grouped"]:
        [copy] = run(parts, [text], candidates=1, masking=masking)
        assert copy.text == "[MASK] great [MASK][MASK] good [MASK]"
    [copy, _] = run(parts, ["film [MASK]"], ["[MASK] bad"], candidates=1, copies=2)
    assert (copy.text, copy.text_pair) == ("good [MASK]", "[MASK] bad")


@pytest.mark.parametrize("masking", ["each", "grouped"])
def test_a_text_longer_than_the_model_is_augmented_throughout(parts, masking):
    text = " ".join(["film story"] * 300)
    [copy] = run(parts, [text], candidates=1, masking=masking)
    assert copy.text == " ".join(["good good"] * 300)


def test_long_texts_without_spaces_and_long_pairs(parts):
    dots, marks = "." * 700, "!" * 700
    assert [copy.text for copy in run(parts, [f"{dots}film{marks}"], candidates=1)] == [f"{dots}good{marks}"]
    assert run(parts, ["film" * 300, "film7" * 300]) == []
    long, short = "film " * 300, "bad"
    for text, pair in [(long, long), (short, long), (long, short), (long, "")]:
        copies = run(parts, [text], [pair], candidates=1, copies=2)
        assert copies[0][2:] == (text.replace("film", "good").replace("bad", "good"), pair)
        if pair:
            assert copies[1][2:] == (text, pair.replace("film", "good").replace("bad", "good"))


# --- pairs


def test_one_side_changes_beside_the_intact_other(parts, monkeypatch):
    seen = record_passes(monkeypatch)
    copies = run(parts, ["good film", "the"], ["bad story!", "unfunny"], copies=4, candidates=3)
    for copy in copies:
        text, pair = [("good film", "bad story!"), ("the", "unfunny")][copy.row]
        assert (copy.text == text) != (copy.text_pair == pair)
        assert (copy.text_pair == pair) == (copy.copy % 2 == 0)
    assert {copy.row for copy in copies} == {0, 1}
    for masked in seen:
        assert ("[MASK]" in masked.text) != ("[MASK]" in masked.text_pair)


def test_texts_and_pairs_must_match(parts):
    with pytest.raises(DataError, match="2 texts but 1 second texts"):
        run(parts, ["a", "b"], ["c"])


# --- reproducibility

ROWS = [
    "A good film.", "unfunny, bad movie!", "The story " * 20, "film", "", "GREAT movie and fine story", "bad " * 90,
]  # fmt: skip


@pytest.mark.parametrize("masking", ["each", "grouped"])
def test_copies_do_not_depend_on_batches_order_or_shards(parts, masking, monkeypatch):
    changes = {"masking": masking, "probability": 0.5, "candidates": 3, "copies": 6}
    whole = run(parts, ROWS, **changes)
    assert run(parts, ROWS, batch_tokens=100_000, **changes) == whole
    backwards = run(parts, ROWS[::-1], **changes)
    assert sorted(copy._replace(row=len(ROWS) - 1 - copy.row) for copy in backwards) == sorted(whole)
    shards = [copy[1:] for row in ROWS for copy in run(parts, [row], **changes)]
    assert shards == [copy[1:] for copy in whole]
    monkeypatch.setattr(augmentation, "CHUNK", 2)
    assert run(parts, ROWS, **changes) == whole


def test_the_seed_changes_the_copies(parts):
    drawn = [run(parts, ROWS, probability=0.5, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_more_copies_begin_with_the_same(parts):
    few, many = (run(parts, ROWS[:2], copies=copies, probability=0.5) for copies in (3, 9))
    assert [copy for copy in many if copy.copy < 3] == few


def test_dropout_is_off_and_progress_is_told(parts, monkeypatch):
    monkeypatch.setattr(augmentation, "CHUNK", 3)
    parts[0].train()
    told = []
    list(augment(ROWS, None, *parts, config(), on_progress=lambda done, total: told.append((done, total))))
    assert not parts[0].training
    assert told == [(3, 7), (6, 7), (7, 7)]
