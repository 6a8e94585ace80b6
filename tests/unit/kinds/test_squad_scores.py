"""Scores of answers: cases worked out by hand from what the official scripts do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinybert.kinds.squad_scores import answer_f1, exact_match


@pytest.mark.parametrize(
    ("answer", "gold", "match", "f1"),
    [
        ("Eiffel Tower", "Eiffel Tower", 1, 1),
        ("the eiffel\n  TOWER!", "Eiffel Tower", 1, 1),
        ("a cat and the dog", "cat and dog", 1, 1),
        ("another theatre", "other atre", 0, 0),  # articles are words of their own
        ("U.S.", "US", 1, 1),
        ("well-known", "well known", 0, 0),  # punctuation leaves no space
        ("Tower of Paris", "the Eiffel Tower", 0, 2 / 5),  # tower: 1 of 3, 1 of 2
        ("new york new york", "New York", 0, 2 / 3),  # repeated words count as often as both have them
        ("york new", "new york", 0, 1),  # in whatever order
        ("in 1998 and 1999", "1999", 0, 2 / 5),
        ("Paris", "London", 0, 0),
        ("", "Paris", 0, 0),
        ("\u201cParis\u201d", "Paris", 0, 0),  # only ASCII punctuation goes
    ],
)
def test_english_answers_score_as_squad_counts(answer, gold, match, f1):
    assert (exact_match(answer, [gold]), answer_f1(answer, [gold])) == (match, pytest.approx(f1))


@pytest.mark.parametrize(
    ("answer", "gold", "match", "f1"),
    [
        ("\u300a\u7ea2\u697c\u68a6\u300b", "\u7ea2\u697c\u68a6\u3002", 1, 1),
        ("\u4e2d\u56fd\uff5e", "-\u4e2d\u56fd", 1, 1),
        ("2018\u5e74", "2018", 0, 2 / 3),  # 2018 and the ideograph against 2018
        (
            "\u5317\u4eac\u5927\u5b66",
            "\u5317\u4eac\u7684\u5927\u5b66",
            0,
            4 / 9,
        ),  # the longest run in common: 2 of 4 and 5
        ("\u56fd\u4e2d", "\u4e2d\u56fd", 0, 1 / 2),
        ("\u5149\u8363\u548c Omega Force", "\u5149\u8363\u548comega", 0, 8 / 9),  # 4 of 5 segments, 4 of 4
        ("\u4e2d The \u56fd", "\u4e2d\u56fd", 0, 2 / 5),  # articles are words like others: 1 of 3, 1 of 2
        ("\u4e0a\u6d77", "\u5317\u4eac", 0, 0),
        ("", "\u4e2d\u56fd", 0, 0),
    ],
)
def test_chinese_answers_score_as_cmrc_counts(answer, gold, match, f1):
    assert (exact_match(answer, [gold]), answer_f1(answer, [gold])) == (match, pytest.approx(f1))


@pytest.mark.parametrize("golds", [[], [""], ["the"], ["...", "The!"]])
def test_an_empty_answer_is_right_where_there_is_none(golds):
    assert exact_match("", golds) == answer_f1("", golds) == 1
    assert exact_match("Paris", golds) == answer_f1("Paris", golds) == 0


def test_the_best_of_several_right_answers_counts():
    golds = ["the", "Tower", "Eiffel Tower in Paris", "\u57c3\u83f2\u5c14"]
    assert exact_match("tower", golds) == 1
    assert answer_f1("the Eiffel Tower", golds) == pytest.approx(2 / 3)  # against the second and the third alike
    assert answer_f1("\u83f2\u5c14", golds) == pytest.approx(4 / 5)
    assert exact_match("", golds) == answer_f1("", golds) == 0


words = st.lists(
    st.sampled_from(["a", "The", "cat", "dog.", "1999", "\u4e2d\u56fd", "\u56fd", "\u3002", "-"]), max_size=5
)


@given(words, words)
def test_f1_is_the_same_both_ways_and_1_for_a_match(one, other):
    one, other = " ".join(one), " ".join(other)
    f1 = answer_f1(one, [other])
    assert 0 <= f1 <= 1
    assert exact_match(one, [other]) <= f1
    if exact_match(one, [""]) == exact_match(other, [""]) == 0:
        assert f1 == pytest.approx(answer_f1(other, [one]))
