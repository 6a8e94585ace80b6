"""Which copies count as equal, as too similar and as doubted, and what is told of them."""

import json
import math
from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from matplotlib.figure import Figure

from tinybert.augment_config import QualityConfig
from tinybert.augmentation import comparison
from tinybert.augmentation.quality import (
    Row,
    are_similar,
    common_words,
    judge,
    keys,
    repeats,
    sides,
    similarity,
    stand_among,
    words,
)
from tinybert.augmentation.survey import Survey, choose, draw, escape, metrics_of, report, shorten, write_examples
from tinybert.kinds import KINDS

FILM = "\u7535\u5f71\u5f88\u597d"  # four ideographs: the film is good
THUMB, HEART, FAMILY = "\U0001f44d", "\u2764\ufe0f", "\U0001f468\u200d\U0001f469\u200d\U0001f467"
FLAG = "\U0001f1e9\U0001f1ea"


def row(text, pair=None, label=0, origin=0, made_by="paper"):
    return Row(text, pair, label, origin, made_by)


# Equality -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A 2nd  film , I'd say ...", ["a", "2nd", "film", "i", "d", "say"]),
        (FILM + " OK", [*FILM, "ok"]),
        ("\uff21\uff22\u3000\u00bd", ["ab", "1", "\u2044", "2"]),  # NFKC: full-width letters, and a fraction
        ("STRASSE Stra\u00dfe", ["strasse", "strasse"]),
        ("\u0939\u093f\u0928\u094d\u0926\u0940 !", ["\u0939\u093f\u0928\u094d\u0926\u0940"]),  # marks are in the word
        ("e\u0301t\u00e9", ["\u00e9t\u00e9"]),
        (f"fun{THUMB} {HEART}$5", ["fun", THUMB, "\u2764", "$", "5"]),
        ("snake_case `` it ''", ["snake", "case", "it"]),
        ("?! _", ["?", "!", "_"]),  # nothing else to compare it by
        (" ", []),
    ],
)
def test_words_by_hand(text, found):
    assert list(words(text)) == found


CHARACTERS = st.integers(0x20, 0x1FFFF).filter(lambda code: not 0xD800 <= code < 0xE000).map(chr)


@given(st.lists(CHARACTERS | st.sampled_from("aB1 .'"), max_size=12).map("".join))
def test_words_of_words_are_the_same(text):
    assert words(" ".join(words(text))) == words(text)


def test_equal_rows_have_equal_keys():
    same = [row("Don't go!"), row("don ' t  GO", label=1, origin=5, made_by=None), row("\uff44on\u2019t go")]
    others = [row("go, don't"), row("dont go"), row("don't", "go"), row("go", "don't"), row("don't go", ""), row(FILM)]
    found = keys([*same, *others]).tolist()
    assert len(set(found[:3])) == 1
    assert len(set(found)) == 7
    assert keys([row(" ".join(FILM) + "!")]) == keys([row(FILM)])
    assert keys([]).shape == (0,)


@given(st.lists(st.integers(0, 9)))
def test_repeats_are_those_seen_before(numbers):
    expected = [number in numbers[:place] for place, number in enumerate(numbers)]
    assert repeats(np.array(numbers, np.uint64)).tolist() == expected


@given(st.lists(st.integers(0, 9)), st.lists(st.integers(0, 9)))
def test_keys_among_others(numbers, others):
    found = stand_among(np.array(numbers, np.uint64), np.array(others, np.uint64))
    assert found.tolist() == [number in others for number in numbers]


# Similarity -----------------------------------------------------------------------------------------------------------

TEXTS = st.lists(st.sampled_from("abcd"), max_size=8)


def longest_common(one, other):
    """The textbook's table."""
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, j in product(range(len(one)), range(len(other))):
        table[i + 1][j + 1] = table[i][j] + 1 if one[i] == other[j] else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


@given(TEXTS, TEXTS)
def test_similarity_is_the_share_of_words_in_common(one, other):
    (left,), (right,) = sides(row(" ".join(one))), sides(row(" ".join(other)))
    total = len(one) + len(other)
    assert common_words(left, right) == (2 * (Counter(one) & Counter(other)).total() / total if total else 1)
    assert similarity(left, right) == (2 * longest_common(one, other) / total if total else 1)
    assert similarity(left, right) <= common_words(left, right)


NUMBERS = [f"w{n}" for n in range(20)]


@pytest.mark.parametrize(
    ("changed", "share"),
    [
        (NUMBERS, 1.0),
        (["other", *NUMBERS[1:]], 0.95),  # one of twenty words replaced
        (NUMBERS[1:], 38 / 39),
        (["new", *NUMBERS], 40 / 41),
        ([NUMBERS[1], NUMBERS[0], *NUMBERS[2:]], 0.95),  # two words exchanged: both are there, one is out of order
        (list(reversed(NUMBERS)), 0.05),
        ([], 0.0),
    ],
)
def test_similarity_by_hand(changed, share):
    (left,), (right,) = sides(row(" ".join(NUMBERS))), sides(row(" ".join(changed)))
    assert similarity(left, right) == share
    assert are_similar([left], [right], 0.95) == (share > 0.95)
    assert not are_similar([left], [right], 1.0)


def test_of_a_pair_the_side_that_differs_more_decides():
    long = " ".join(NUMBERS * 3)
    own = sides(row(long, "it is good"))
    assert not are_similar(own, sides(row(long, "it is bad")), 0.9)
    assert are_similar(own, sides(row(f"{long} more", "It is good.")), 0.9)


# The teacher ----------------------------------------------------------------------------------------------------------


AGREES, FLIPPED, UNSURE, BOTH = (1, 0.9), (0, 0.9), (1, 0.6), (0, 0.6)


@pytest.mark.parametrize(
    ("policies", "fates"),  # of a copy that the teacher agrees to, flips, is unsure of, and both; its label is 1
    [
        (("drop", "drop"), ["kept", "flipped", "unsure", "flipped"]),
        (("drop", "relabel"), ["kept", "flipped", "kept", "flipped"]),
        (("drop", "keep"), ["kept", "flipped", "kept", "flipped"]),
        (("relabel", "drop"), ["kept", "relabelled", "unsure", "unsure"]),
        (("relabel", "relabel"), ["kept", "relabelled", "kept", "relabelled"]),
        (("relabel", "keep"), ["kept", "relabelled", "kept", "relabelled"]),
        (("keep", "drop"), ["kept", "kept", "unsure", "unsure"]),
        (("keep", "relabel"), ["kept", "kept", "kept", "relabelled"]),
        (("keep", "keep"), ["kept", "kept", "kept", "kept"]),
    ],
)
def test_policies(policies, fates):
    config = QualityConfig(flipped=policies[0], unsure=policies[1], confidence=0.7)
    assert [judge(1, *said, config) for said in (AGREES, FLIPPED, UNSURE, BOTH)] == fates


def test_lists_of_labels_agree_as_a_whole():
    relabelling = QualityConfig(flipped="relabel")
    said = [([], []), ([0, 2], [0, 2]), ([0, 2], [0]), ([1], []), ([0, 1, 0], [0, 2, 0])]
    assert [judge(*pair, 0.9, QualityConfig()) for pair in said] == ["kept", "kept", "flipped", "flipped", "flipped"]
    assert [judge(*pair, 0.9, relabelling) for pair in said[2:]] == ["relabelled"] * 3


def test_unsure_is_below_the_confidence():
    config = QualityConfig(confidence=0.7)
    assert [judge(1, 1, confidence, config) for confidence in (0.69, 0.7)] == ["unsure", "kept"]
    assert judge(1, 1, 0.01, QualityConfig(unsure="drop")) == "kept"


# Examples -------------------------------------------------------------------------------------------------------------


def test_examples_are_shared_among_recipes_and_spread():
    chosen = choose({"paper": 1000, "swap": 3, "none": 0}, 20)
    assert chosen["swap"] == {0, 1, 2}
    assert sorted(number * 17 // 1000 for number in chosen["paper"]) == list(range(17))  # one of each 17th part
    assert chosen == choose({"none": 0, "swap": 3, "paper": 1000}, 20)
    assert len({number % 20 for number in choose({"paper": 400}, 20)["paper"]}) > 5  # not always the same copy of a row
    assert choose({}, 20) == {}


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 30)), st.integers(0, 25))
def test_as_many_examples_as_there_are_copies(counts, most):
    chosen = choose(counts, most)
    assert sum(map(len, chosen.values())) == min(most, sum(counts.values()))
    assert all(0 <= number < counts[name] for name, numbers in chosen.items() for number in numbers)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two \n\tli\x00nes", "two lines"),
        ("0123456789", "0123456789"),
        ("0123456789a", "012345678\u2026"),
        ("01234567 9a", "01234567\u2026"),
        (FILM * 3, (FILM * 3)[:9] + "\u2026"),
        ("01234567e\u0301tc", "01234567\u2026"),
        ("0123" + FAMILY + "456789", "0123\u2026"[:4] + FAMILY + "\u2026"),
        ("01234567" + FAMILY, "01234567\u2026"),
        ("01234567" + THUMB + "\U0001f3fd!!", "01234567\u2026"),
        ("01234 67" + FLAG + "ab", "01234 6\u2026"),
    ],
)
def test_long_texts_are_cut_between_characters(text, shown):
    assert shorten(text, 10) == shown


def cells(markdown):
    """The cells of the tables of a Markdown text, as a renderer shows them."""
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    lines = []
    for token in tokens:
        if token.type == "tr_open":
            lines.append([])
        if token.type == "inline" and token.level >= 4:
            kinds = {child.type for child in token.children}
            assert kinds <= {"text", "text_special"}, kinds
            lines[-1].append("".join(child.content for child in token.children))
    return lines


@given(st.text(st.sampled_from("a1 \\|`*_[](){}<>!#&;~$-+:/.\n" + FILM + THUMB), min_size=1, max_size=30))
@example("\\|")
@example("&lt; <br> **x** [a](b) `|` ![i](u) <!-- c -->")
def test_a_cell_shows_the_text_itself(text):
    shown = escape(shorten(text))
    assert cells(f"| a | b |\n| --- | --- |\n| {shown} | x |\n")[1] == [" ".join(text.split()), "x"]


# Report ---------------------------------------------------------------------------------------------------------------

GATHERED = {
    "asked": {"paper": 5, "swap": 2},
    "made": {"paper": 4, "swap": 1},
    "dropped": {"held_out": {"paper": 1}, "duplicate": {}, "near_duplicate": {}},
    "kept": {"paper": 3, "swap": 1},
}


@pytest.fixture
def survey():
    """Two rows and four copies: one replaced word kept, one flipped, one relabelled, and words exchanged."""
    survey = Survey(KINDS["classification"], ["bad|", FILM], GATHERED)
    first, second = row("a good film !", made_by=None), row("a *bad* one", label=1, origin=1, made_by=None)
    survey.add_row(first, 0)
    survey.add_row(second, 0)
    survey.add_copy(first, row("a great film !"), 0, 0.91239, "kept")
    survey.add_copy(first, row("a fine movie"), 1, 0.8, "flipped")
    survey.add_copy(first, row("film a good", made_by="swap"), 0, 0.7, "kept")
    survey.add_copy(second, row(f"a {FILM} one", label=1, origin=1), 0, 0.6, "relabelled")
    return survey


def test_what_is_counted(survey):
    summary = survey.summary()
    assert summary["dropped"] == {**GATHERED["dropped"], "flipped": {"paper": 1}, "unsure": {}}
    assert summary["rows"] == 2
    assert summary["kept"] == {"paper": 2, "swap": 1}
    assert summary["relabelled"] == {"paper": 1}
    assert summary["judged"] == {"rows": 2, "misread": 1, "copies": 4, "flipped": 2}
    assert summary["classes"] == {
        "bad|": {"rows": 1, "misread": 0, "copies": 3, "flipped": 1},
        FILM: {"rows": 1, "misread": 1, "copies": 1, "flipped": 1},
    }
    # In one of the two only: good, great of 6 words; bad, and four ideographs, of 3 + 6.
    assert summary["words_replaced_by"] == {"paper": 7 / 15, "swap": 0.0}
    assert summary["words_replaced"] == 7 / 21
    # a, good, film, bad, one; then great and four ideographs. The dropped copy's words do not count.
    assert summary["vocabulary"] == {"rows": 5, "with_copies": 10}
    assert json.loads(json.dumps(summary)) == summary


def test_metrics(survey):
    assert metrics_of(survey.summary()) == {
        "asked": 7.0,
        "made": 5.0,
        "kept": 3.0,
        "relabelled": 1.0,
        "dropped_held_out": 1.0,
        "dropped_duplicate": 0.0,
        "dropped_near_duplicate": 0.0,
        "dropped_flipped": 1.0,
        "dropped_unsure": 0.0,
        "flip_rate": 0.5,
        "words_replaced": 7 / 21,
        "vocabulary_growth": 1.0,
    }


def test_the_report_shows_what_was_counted(survey):
    text = report(survey.summary(), survey.examples)
    assert "Of 7 copies that were asked for, 5 were made and 3 kept, beside 2 rows." in text
    assert "another label than the data to 50.0% of the copies it was shown, and to 50.0% of the rows" in text
    assert "5 different words in the rows, 10 with the kept copies, +100.0%." in text
    assert "Words replaced: 33.3%, the share" in text
    found = cells(text)
    assert found[1:4] == [
        ["paper", "5", "4", "1", "0", "0", "1", "0", "2", "1", "46.7%"],
        ["swap", "2", "1", "0", "0", "0", "0", "0", "1", "0", "0.0%"],
        ["all", "7", "5", "1", "0", "0", "1", "0", "3", "1", "33.3%"],
    ]
    assert found[5:7] == [["bad|", "1", "0.0%", "3", "33.3%"], [FILM, "1", "100.0%", "1", "100.0%"]]
    assert found[8:] == [
        ["paper", "a good film !", "a great film !", "bad|", "bad|", "0.91", "kept"],
        ["paper", "a good film !", "a fine movie", "bad|", FILM, "0.80", "dropped: flipped"],
        ["swap", "a good film !", "film a good", "bad|", "bad|", "0.70", "kept"],
        ["paper", "a *bad* one", f"a {FILM} one", FILM, "bad|", "0.60", "relabelled"],
    ]


def test_examples_for_mlflow(survey, tmp_path):
    write_examples(survey.examples, tmp_path / "examples.json")
    table = json.loads((tmp_path / "examples.json").read_text())
    assert table["columns"] == ["recipe", "original", "copy", "label", "teacher", "confidence", "became"]
    assert table["data"][0] == ["paper", "a good film !", "a great film !", "bad|", "bad|", 0.9124, "kept"]
    assert table["data"][3][2] == f"a {FILM} one"
    assert FILM in (tmp_path / "examples.json").read_text()


def test_pairs_are_shown_side_by_side_and_shortened_each(tmp_path):
    survey = Survey(KINDS["classification"], ["no", "yes"], {**GATHERED, "kept": {"paper": 1}})
    pair = row("x" * 500, "y" * 500, made_by=None)
    survey.add_row(pair, 0)
    survey.add_copy(pair, row("x" * 500, "z" * 9), 0, 0.5, "kept")
    _, original, copy, *_ = cells(report(survey.summary(), survey.examples))[-1]
    assert original == "x" * 239 + "\u2026 \u2016 " + "y" * 239 + "\u2026"
    assert copy == "x" * 239 + "\u2026 \u2016 " + "z" * 9
    write_examples(survey.examples, tmp_path / "examples.json")
    assert json.loads((tmp_path / "examples.json").read_text())["data"][0][1] == "x" * 500 + " \u2016 " + "y" * 500


def test_of_several_labels_each_is_counted():
    survey = Survey(KINDS["multi_label"], ["joy", "fear", "love"], GATHERED)
    first, second = row("a", label=[0, 2], made_by=None), row("b", label=[], origin=1, made_by=None)
    survey.add_row(first, [0])  # love is missed
    survey.add_row(second, [])
    survey.add_copy(first, row("c", label=[0, 2]), [2], 0.9, "flipped")
    survey.add_copy(first, row("d", label=[0, 2]), [0, 2], 0.9, "kept")
    survey.add_copy(second, row("e", label=[], origin=1), [1], 0.9, "flipped")  # what is invented is no class's miss
    summary = survey.summary()
    assert summary["judged"] == {"rows": 2, "misread": 1, "copies": 3, "flipped": 2}
    assert [tuple(counts.values()) for counts in summary["classes"].values()] == [(1, 0, 2, 1), (0,) * 4, (1, 1, 2, 0)]
    assert metrics_of(summary)["flip_rate"] == 2 / 3
    shown = cells(report(summary, survey.examples))
    assert shown[5:8] == [
        ["joy", "1", "0.0%", "2", "50.0%"],
        ["fear", "0", "0.0%", "0", "0.0%"],
        ["love", "1", "100.0%", "2", "0.0%"],
    ]
    assert shown[9][1:] == ["a", "c", "joy, love", "love", "0.90", "dropped: flipped"]


def test_of_tags_entities_are_counted_and_tags_shown():
    survey = Survey(KINDS["token_classification"], ["O", "B-PER", "I-PER", "B-LOC"], GATHERED)
    own = row("Ann Lee left Rome", label=[1, 2, 0, 3], made_by=None)
    survey.add_row(own, [1, 2, 0, 3])
    survey.add_copy(own, row("Ann Lee saw Rome", label=[1, 2, 0, 3]), [1, 0, 0, 3], 0.9, "flipped")
    summary = survey.summary()
    assert summary["judged"] == {"rows": 1, "misread": 0, "copies": 1, "flipped": 1}
    assert summary["classes"] == {
        "PER": {"rows": 1, "misread": 0, "copies": 1, "flipped": 1},
        "LOC": {"rows": 1, "misread": 0, "copies": 1, "flipped": 0},
    }
    [example] = survey.examples
    assert (example.label, example.teacher) == ("B-PER I-PER O B-LOC", "B-PER O O B-LOC")


def test_where_no_teacher_judges_nothing_of_one_is_told(tmp_path):
    survey = Survey(KINDS["regression"], ["stars"], GATHERED)
    own = row("a good film", label=2.5, made_by=None)
    survey.add_row(own, None)
    for text in ("a great film", "a good movie"):
        survey.add_copy(own, row(text, label=2.5), None, None, "kept")
    survey.add_copy(own, row("film a good", label=2.5, made_by="swap"), None, None, "kept")
    summary = survey.summary()
    assert {**GATHERED, "kept": {"paper": 2, "swap": 1}, "rows": 1}.items() <= summary.items()
    assert not {"judged", "classes", "relabelled"} & summary.keys()
    assert (summary["words_replaced"], summary["vocabulary"]) == (4 / 18, {"rows": 3, "with_copies": 5})
    assert metrics_of(summary).keys() == {
        *("asked", "made", "kept", "words_replaced", "vocabulary_growth"),
        *("dropped_held_out", "dropped_duplicate", "dropped_near_duplicate"),
    }
    found = cells(text := report(summary, survey.examples))
    assert "5 were made and 3 kept, beside 1 rows." in text
    assert found[0][-2:] == ["kept", "words replaced"]
    assert found[1] == ["paper", "5", "4", "1", "0", "0", "2", "33.3%"]
    assert found[4:] == [
        ["recipe", "original", "copy", "label", "became"],
        ["paper", "a good film", "a great film", "2.5", "kept"],
        ["paper", "a good film", "a good movie", "2.5", "kept"],
        ["swap", "a good film", "film a good", "2.5", "kept"],
    ]
    write_examples(survey.examples, tmp_path / "examples.json")
    assert json.loads((tmp_path / "examples.json").read_text())["columns"] == found[4]


def test_labels_are_counted_in_chunks_as_at_once(monkeypatch):
    labels = [(n % 3, n % 2) for n in range(20)]

    def counted():
        survey = Survey(KINDS["classification"], ["a", "b", "c"], GATHERED)
        for label, said in labels:
            survey.add_row(row("x", label=label, made_by=None), said)
        return survey.summary()["classes"]

    whole = counted()
    monkeypatch.setattr(comparison, "CHUNK", 7)
    assert counted() == whole
    assert {name: counts["rows"] for name, counts in whole.items()} == {"a": 7, "b": 7, "c": 6}


def test_a_report_of_nothing(tmp_path):
    nothing = {"asked": {}, "made": {}, "dropped": {"duplicate": {}}, "kept": {}}
    survey = Survey(KINDS["classification"], ["no", "yes"], nothing)
    survey.add_row(row("a", made_by=None), 0)
    text = report(survey.summary(), survey.examples)
    assert "There are no copies to show." in text
    assert not any(math.isnan(value) for value in metrics_of(survey.summary()).values())
    draw(survey.summary(), tmp_path / "augmentation.png")
    assert (tmp_path / "augmentation.png").stat().st_size > 1000


def test_the_picture_has_a_bar_for_each_fate(survey, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, dpi: drawn.append(figure.axes[0]))
    draw(survey.summary(), tmp_path / "augmentation.png")
    (axes,) = drawn
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["kept", "not made", "held out", "duplicate", "near duplicate", "flipped", "unsure"]
    assert [bar.get_width() for bar in axes.patches] == [3, 2, 1, 0, 0, 1, 0]
    assert [text.get_text() for text in axes.texts][:3] == ["3 (42.9%)", "2 (28.6%)", "1 (14.3%)"]
    assert axes.get_title() == "7 augmented copies asked for"
