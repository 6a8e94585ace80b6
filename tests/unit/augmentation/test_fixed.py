"""What a copy keeps: which sides may change, what candidates are looked for in, and which of them fit."""

import pytest

from tinybert.augmentation.fixed import asked, changing_sides, fitting
from tinybert.augmentation.words import ENGLISH, eligible_words


@pytest.mark.parametrize(
    ("sides", "fixed", "changing"),
    [
        (["who?", "Ann did"], None, [0, 1]),
        (["who?", "Ann did"], ([(0, 4)], [(0, 3)]), [1]),
        (["who?", "Ann did"], ([(2, 4), (0, 2)], [(0, 3), (3, 7)]), []),
        (["who?", "Ann did"], ([(0, 3)], [(1, 7)]), [0, 1]),
        (["Ann did"], ([(0, 3)], []), [0]),
        (["Ann"], ([(0, 3)], []), []),
        (["a b c"], ([(0, 1), (2, 3)], []), [0]),
    ],
)
def test_a_side_changes_unless_all_of_it_is_fixed(sides, fixed, changing):
    assert changing_sides(sides, fixed) == changing


def test_questions_about_a_context_ask_for_the_context():
    rows = {"text": ["who?", "when?", "one"], "text_pair": ["Ann did", "Ann did", "two"]}
    fixed = [([(0, 4)], [(0, 3)]), ([(0, 5)], []), None]
    assert {name: list(column) for name, column in asked(rows, fixed).items()} == {
        "text": ["Ann did", "Ann did", "one"],
        "text_pair": [None, None, "two"],
    }


def test_a_single_text_asks_for_itself_whatever_is_fixed():
    assert asked({"text": ["Ann"], "text_pair": [None]}, [([(0, 3)], [])]) == {"text": ("Ann",), "text_pair": (None,)}


def test_only_words_without_white_space_fit_and_only_outside_what_stays():
    words = eligible_words("Washington Post reporters", ENGLISH)
    choices = ["New York", "paper", "a\u00a0b", "", " gap", "e-mail"]
    # "shin" within the first word stays, so all of that word does; the second begins where another part ends.
    assert fitting(words, [choices] * 3, [(2, 6), (8, 11)]) == [[], ["paper", "e-mail"], ["paper", "e-mail"]]


def test_ideographs_give_way_to_as_many_ideographs():
    words = eligible_words("\u7535 film", ENGLISH)
    choices = ["\u6545", "\u6545\u4e8b", "good", "\u6545x"]
    assert fitting(words, [choices] * 2, []) == [["\u6545"], choices]
