"""Jointly filled words against a full product."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinybert.augmentation import joint
from tinybert.augmentation.joint import joint_candidates
from tinybert.augmentation.words import language


def anything(text):
    return True


def brute_force(log_probs_PK, is_word, top):
    scored = []
    for choices in product(*log_probs_PK):
        text = "".join(text for text, _ in choices)
        if is_word(text):
            scored.append((-sum(score for _, score in choices), text))
    return [text for _, text in sorted(scored)][:top]


def test_the_likeliest_words_come_first():
    log_probs_PK = [[("a", -0.5), ("b", -1.0), ("c", -4.0)], [("x", -0.25), ("y", -2.0)]]
    # -0.75, -1.25, -2.5, -3, -4.25, -6
    assert joint_candidates(log_probs_PK, anything, 10) == ["ax", "bx", "ay", "by", "cx", "cy"]
    assert joint_candidates(log_probs_PK, {"by", "cx", "bx", "zz"}.__contains__, 2) == ["bx", "by"]
    assert joint_candidates(log_probs_PK, lambda text: False, 10) == []


def test_equally_likely_words_come_in_order_of_their_text():
    log_probs_PK = [[("c", -1.0), ("a", -1.0), ("b", -2.0)], [("y", -1.0), ("x", -2.0), ("z", -1.0)]]
    expected = ["ay", "az", "cy", "cz", "ax", "by", "bz", "cx", "bx"]
    assert joint_candidates(log_probs_PK, anything, 9) == expected
    assert joint_candidates([likely[::-1] for likely in log_probs_PK], anything, 9) == expected


CHOICES = st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from([-0.25, -0.5, -1.0, -1.5, -3.0]), max_size=5)


@given(st.lists(CHOICES, min_size=1, max_size=4), st.integers(0, 12), st.integers(1, 5))
def test_as_the_full_product(choices, top, every):
    log_probs_PK = [list(likely.items()) for likely in choices]

    def is_word(text):
        return sum(map(ord, text)) % every == 0

    assert joint_candidates(log_probs_PK, is_word, top) == brute_force(log_probs_PK, is_word, top)


@pytest.mark.parametrize("log_probs_PK", [[], [[]], [[("a", -1.0)], []]])
def test_a_character_without_choices_gives_no_word(log_probs_PK):
    assert joint_candidates(log_probs_PK, anything, 5) == []


def test_only_the_likeliest_combinations_are_looked_up(monkeypatch):
    asked = []
    likely = [(chr(ord("A") + rank), -0.25 * rank**2) for rank in range(30)]
    assert joint_candidates([likely] * 4, lambda text: bool(asked.append(text)), 5) == []
    assert len(asked) == len(set(asked)) == joint.TRIES
    monkeypatch.setattr(joint, "TRIES", 50)
    few = [likely[:6]] * 4
    assert joint_candidates(few, anything, 1000) == brute_force(few, anything, 50)


def test_nothing_is_looked_up_once_there_are_enough():
    asked = []
    likely = [("a", -1.0), ("b", -2.0), ("c", -3.5)]
    assert joint_candidates([likely] * 3, lambda text: not asked.append(text), 2) == ["aaa", "aab"]
    assert asked == ["aaa", "aab"]


def test_chinese_characters_make_words_of_the_lexicon():
    # "Electricity" or "good" before "shadow", "vision", "person": film, television, good person.
    log_probs_PK = [[("\u7535", -0.5), ("\u597d", -1.0)], [("\u5f71", -0.5), ("\u89c6", -1.5), ("\u4eba", -2.0)]]
    words = joint_candidates(log_probs_PK, language("zh").is_word, 10)
    assert words == ["\u7535\u5f71", "\u7535\u89c6", "\u597d\u4eba"]
