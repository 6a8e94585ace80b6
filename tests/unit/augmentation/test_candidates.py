"""Candidates of a model and vectors whose right answers are known."""

from collections import Counter
from itertools import pairwise

import pytest

from tinybert.augmentation.candidates import Proposer, passes, propose
from tinybert.augmentation.words import ENGLISH, Language, eligible_words
from tinybert.errors import DataError, ModelError
from tinybert.vectors import Vectors

LIKELY = ["good", "great", "fine", "movie"]


@pytest.mark.parametrize("masking", ["each", "grouped"])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 20])
@pytest.mark.parametrize("tokens", [1, 10, 40])
def test_every_word_is_masked_in_exactly_one_pass(masking, count, tokens):
    groups = passes(list(range(count)), tokens, masking)
    assert sorted(word for group in groups for word in group) == list(range(count))
    for group in groups:
        assert len(group) <= max(1, 0.15 * tokens)
        assert all(right - left > 1 for left, right in pairwise(group))


def test_without_masks_one_pass_does():
    assert passes([0, 1, 2, 5], 8, "none") == [[0, 1, 2, 5]]


@pytest.mark.parametrize("masking", ["each", "grouped"])
def test_the_model_sees_every_word_masked_once(parts, config, seen, masking):
    words = ["good", "film", "great", "story"] * 3
    propose([" ".join(words)], None, 0, *parts, config(masking=masking))
    masked = Counter()
    for row in seen:
        shown = row.split()[1:13]
        assert [word for word in shown if word != "[MASK]"] == [
            word for word, there in zip(words, shown, strict=True) if there != "[MASK]"
        ]
        masked.update(at for at, word in enumerate(shown) if word == "[MASK]")
    assert masked == Counter(range(12))


def test_each_has_the_original_beside_it_as_the_reference(parts, config, seen):
    propose(["the film, bad"], None, 0, *parts, config(masking="each"))
    assert seen == [
        "[CLS] the [MASK] , bad [SEP] the film , bad [SEP]",
        "[CLS] the film , [MASK] [SEP] the film , bad [SEP]",
    ]


def test_none_shows_the_text_as_it_is(parts, config, seen):
    propose(["the film, bad"], None, 0, *parts, config(masking="none"))
    assert seen == ["[CLS] the film , bad [SEP]"]


def test_grouped_masking_takes_fewer_passes(parts, config, seen):
    propose(["good film great story bad movie " * 7], None, 0, *parts, config(masking="grouped"))
    assert len(seen) == 7  # 42 words, 6 of the 42 tokens in a pass


@pytest.mark.parametrize("masking", ["each", "grouped", "none"])
def test_candidates_are_the_likeliest_whole_words_but_the_word_itself(parts, config, masking):
    text = "The Good film, unfunny the bad!"
    found = propose([text], None, 0, *parts, config(masking=masking))
    assert [word.text for word in eligible_words(text, ENGLISH)] == ["Good", "film", "unfunny", "bad"]
    assert found == [[["great", "fine"], ["good", "great"], ["dull", "boring"], ["good", "great"]]]


def test_more_candidates_than_words_gives_all_there_are(parts, config):
    [[found]] = propose(["film"], None, 0, *parts, config(candidates=100))
    assert found[:4] == LIKELY
    assert {"story", "bad", "the", "un", "don"} < set(found)
    assert not {"film", "##s", "7", ".", "x", "[MASK]"} & set(found)


def test_without_vectors_words_of_several_pieces_have_none(parts, config):
    model, tokenizer, _ = parts
    assert propose(["Unfunny film"], None, 0, model, tokenizer, None, config(candidates=1)) == [[[], ["good"]]]


def test_neighbours_are_looked_up_once(parts, config, monkeypatch):
    asked = []
    find = Vectors.neighbours
    monkeypatch.setattr(Vectors, "neighbours", lambda *args: asked.append(args[1]) or find(*args))
    proposer = Proposer(*parts, config())
    for texts in (["unfunny film", "Unfunny film", "nunny"], ["nunny film"]):
        proposer.propose(texts, None, 0)
    assert [words for words in asked if words] == [["unfunny"]]
    # What is kept is bounded by the vectors' vocabulary, whatever else texts have.
    assert list(proposer._neighbours) == ["unfunny"]


def test_words_of_several_ideographs_are_masked_and_filled_as_a_whole(parts, config, seen):
    words = {"\u7535\u5f71", "\u6545\u4e8b", "\u97f3\u4e50"}
    chinese = Language(frozenset(), cut=lambda run: [run[:2], run[2:]], is_word=words.__contains__)
    found = propose(["\u7535\u5f71\u6545\u4e8b!"], None, 0, *parts, config(masking="each", candidates=5), chinese)
    assert [row.split(" [SEP] ")[0] for row in seen] == [
        "[CLS] [MASK] [MASK] \u6545 \u4e8b !",
        "[CLS] \u7535 \u5f71 [MASK] [MASK] !",
    ]
    assert [set(choices) for choices in found[0]] == [words - {"\u7535\u5f71"}, words - {"\u6545\u4e8b"}]


@pytest.mark.parametrize("masking", ["each", "grouped", "none"])
def test_a_text_longer_than_the_model_is_seen_throughout(parts, config, seen, masking):
    found = propose([" ".join(["film story"] * 300)], None, 0, *parts, config(masking=masking, candidates=1))
    assert found == [[["good"]] * 600]
    assert max(len(row.split()) for row in seen) <= 64


def test_long_texts_without_spaces_and_long_pairs(parts, config, seen):
    dots, marks = "." * 700, "!" * 700
    assert propose([f"{dots}film{marks}"], None, 0, *parts, config(candidates=1)) == [[["good"]]]
    assert propose(["film" * 300, "film7" * 300], None, 0, *parts, config()) == [[[]], []]
    long = "film " * 300
    for side, texts in enumerate([("bad", long), (long, "bad"), (long, long)]):
        first, second = texts
        found = propose([first], [second], side % 2, *parts, config(candidates=1))
        assert found == [[["good"]] * len(texts[side % 2].split())]
    assert max(len(row.split()) for row in seen) <= 64


def test_a_literal_mask_is_not_confused(parts, config):
    for masking in ["each", "grouped", "none"]:
        text = "[MASK] good [MASK][MASK] film [MASK]"
        assert propose([text], None, 0, *parts, config(candidates=1, masking=masking)) == [[["great"], ["good"]]]


@pytest.mark.parametrize("masking", ["each", "grouped", "none"])
def test_one_side_is_masked_beside_the_intact_other(parts, config, seen, masking):
    first, second = ["good film", "the"], ["bad story!", "unfunny"]
    assert [len(row) for row in propose(first, second, 0, *parts, config(masking=masking))] == [2, 0]
    assert all(row.endswith("[SEP] bad story ! [SEP]") for row in seen)
    seen.clear()
    assert [len(row) for row in propose(first, second, 1, *parts, config(masking=masking))] == [2, 1]
    assert all(row.startswith("[CLS] good film [SEP]") for row in seen)
    assert any("[MASK]" in row for row in seen) == (masking != "none")


def test_texts_and_pairs_must_match(parts, config):
    with pytest.raises(DataError, match="2 texts but 1 second texts"):
        propose(["a", "b"], ["c"], 0, *parts, config())


def test_a_model_of_too_few_tokens_is_refused(parts, config):
    model, tokenizer, vectors = parts
    short = type(tokenizer)(vocab=tokenizer.get_vocab(), model_max_length=8)
    with pytest.raises(ModelError, match="at least 16"):
        propose(["film"], None, 0, model, short, vectors, config())
