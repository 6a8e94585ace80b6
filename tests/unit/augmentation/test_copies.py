"""Copies drawn from candidates that are known."""

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinybert.augment_config import AugmentConfig
from tinybert.augmentation import copies as module
from tinybert.augmentation.candidates import Proposer
from tinybert.augmentation.copies import augment, copies_for, draw
from tinybert.augmentation.fixed import changing_sides
from tinybert.augmentation.words import ENGLISH, Language, eligible_words
from tinybert.kinds import KINDS

LIKELY = ["good", "great", "fine", "movie"]


@pytest.fixture
def run(parts, config):
    return lambda texts, others=None, **changes: list(augment(texts, others, *parts, config(**changes)))


@pytest.mark.parametrize(
    ("rows", "number"),
    [(2_490, 30), (8_551, 30), (20_000, 30), (67_349, 20), (104_743, 20), (363_846, 10), (392_702, 10)],
)
def test_the_number_of_copies_follows_the_references_table(rows, number):
    assert copies_for(rows, None) == number
    assert copies_for(rows, 7) == 7
    assert copies_for(rows, 0) == 0


def test_probability_one_replaces_all_and_keeps_the_rest(run):
    copies = run(["The  GOOD Film, (unfunny)\t7 \U0001f600!"], candidates=1)
    assert [copy.text for copy in copies] == ["The  GREAT Good, (dull)\t7 \U0001f600!"]


def test_replacement_is_as_frequent_as_asked_and_uniform(run):
    copies = run(["film " * 50], copies=100, probability=0.4, candidates=4)
    words = Counter(word for copy in copies for word in copy.text.split())
    assert words["film"] == pytest.approx(3000, rel=0.05)
    assert all(words[word] == pytest.approx(500, rel=0.2) for word in LIKELY)


def test_copies_differ_from_the_row_and_from_each_other(run):
    copies = run(["a good film", "film"], copies=100, probability=0.5)
    for row, text in enumerate(["a good film", "film"]):
        made = [copy.text for copy in copies if copy.row == row]
        assert len(made) == len(set(made))
        assert text not in made
    assert [copy.row for copy in copies] == sorted(copy.row for copy in copies)


@pytest.mark.parametrize("text", ["", "  \n", "the and of", "\U0001f600\U0001f600", "42 ...", "[MASK]", "<br />"])
def test_rows_without_eligible_words_give_nothing(run, text):
    assert run([text]) == []
    assert [copy.row for copy in run([text, "film", text], copies=1)] == [1]


def test_no_rows(run):
    assert run([]) == []


@pytest.mark.parametrize("masking", ["each", "grouped", "none"])
def test_a_text_longer_than_the_model_is_augmented_throughout(run, masking):
    [copy] = run([" ".join(["film story"] * 300)], candidates=1, masking=masking)
    assert copy.text == " ".join(["good good"] * 300)


def test_a_copy_of_a_pair_changes_one_side_in_turn(run):
    rows = [("good film", "bad story!"), ("the", "unfunny")]
    copies = run([row[0] for row in rows], [row[1] for row in rows], candidates=3)
    for copy in copies:
        text, pair = rows[copy.row]
        assert (copy.text == text) != (copy.text_pair == pair)
        assert (copy.text_pair == pair) == (copy.copy % 2 == 0)
    assert {copy.row for copy in copies} == {0, 1}


def test_or_both_sides(run):
    [copy] = run(["good film"], ["bad story!"], candidates=1, copies=1, pairs="both_sides")
    assert copy == (0, 0, "great good", "good good!", ((0, 1), (4, -1)))  # bad, story


ROWS = [
    "A good film.", "unfunny, bad movie!", "The story " * 20, "film", "", "GREAT movie and fine story", "bad " * 90,
]  # fmt: skip


@pytest.mark.parametrize("masking", ["each", "grouped", "none"])
def test_copies_do_not_depend_on_batches_order_or_shards(run, masking, monkeypatch):
    changes = {"masking": masking, "probability": 0.5, "candidates": 3, "copies": 6}
    whole = run(ROWS, **changes)
    assert run(ROWS, batch_tokens=100_000, **changes) == whole
    backwards = run(ROWS[::-1], **changes)
    assert sorted(copy._replace(row=len(ROWS) - 1 - copy.row) for copy in backwards) == sorted(whole)
    shards = [copy[1:] for row in ROWS for copy in run([row], **changes)]
    assert shards == [copy[1:] for copy in whole]
    monkeypatch.setattr(module, "CHUNK", 2)
    assert run(ROWS, **changes) == whole


def test_the_seed_changes_the_copies(run):
    drawn = [run(ROWS, probability=0.5, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_more_copies_begin_with_the_same(run):
    few, many = (run(ROWS[:2], copies=copies, probability=0.5) for copies in (3, 9))
    assert [copy for copy in many if copy.copy < 3] == few


def test_the_order_of_candidates_does_not_change_what_is_drawn(config):
    one, other = (
        list(draw("a film", None, [[choices]], 20, config(probability=0.5))) for choices in (LIKELY, LIKELY[::-1])
    )
    assert one == other


def test_dropout_is_off_and_progress_is_told(parts, config, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 3)
    parts[0].train()
    told = []
    list(augment(ROWS, None, *parts, config(), on_progress=lambda done, total: told.append((done, total))))
    assert not parts[0].training
    assert told == [(3, 7), (6, 7), (7, 7)]


# Parts that stay ------------------------------------------------------------------------------------------------------

TAGS, ANSWERS = KINDS["token_classification"], KINDS["question_answering"]
PIECES = ["good", "Film", "the", "x2", "co-op", "it's", "U.N.-led", "\u7535", "\u7535\u5f71", "\u00fcber", "!", "<br/>"]
CHARACTERS = "\u7535\u5f71\u6545\u4e8b\u97f3\u4e50"
CHINESE = Language(frozenset())
CHOICES = ["a", "dull", "New York", "a\u00a0b", "", "e-mail", "incomprehensible", "\u6545", "\u6545\u4e8b"]
SOME_CHOICES = st.lists(st.sampled_from(CHOICES), max_size=5, unique=True)


def drawn(data, text, pair, fixed, number):
    """Copies of a row, whose words have drawn candidates."""
    sides = [text] if pair is None else [text, pair]
    found = [
        [data.draw(SOME_CHOICES) for _ in eligible_words(sides[side], ENGLISH)] for side in changing_sides(sides, fixed)
    ]
    config = AugmentConfig(
        probability=data.draw(st.sampled_from([0.3, 1.0])),
        pairs=data.draw(st.sampled_from(["one_side", "both_sides"])),
        seed=data.draw(st.integers(0, 99)),
    )
    return list(draw(text, pair, found, number, config, fixed=fixed))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.lists(st.tuples(st.sampled_from(PIECES), st.integers(0, 2)), min_size=1, max_size=12))
def test_entities_stay_and_words_stay_words(data, tagged):
    words, tags = (list(column) for column in zip(*tagged, strict=True))
    text = " ".join(words)
    for copy in drawn(data, text, None, TAGS.fixed(text, None, tags), 6):
        changed = copy.text.split(" ")
        assert len(changed) == len(words)
        assert changed == copy.text.split()
        for before, after, tag in zip(words, changed, tags, strict=True):
            assert after == before or tag == 0
            assert before[0] != "\u7535" or len(after) == len(before)  # as many ideographs
        assert TAGS.moved(tags, None, copy.changes) == tags


CONTEXTS = st.lists(st.sampled_from([*PIECES, " ", "  ", "\n", ", "]), min_size=1, max_size=25).map("".join)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), CONTEXTS, st.sampled_from(["who?", "the good film", "\u7535"]))
def test_answers_stay_where_labels_say_and_questions_stay(data, context, question):
    places = st.tuples(st.integers(0, len(context) - 1), st.integers(1, 6))
    spans = data.draw(st.lists(places, max_size=3))
    label = [{"text": context[start : start + size], "start": start} for start, size in spans]
    for copy in drawn(data, question, context, ANSWERS.fixed(question, context, label), 6):
        assert copy.text == question
        assert copy.text_pair != context
        assert len(copy.text_pair.split()) == len(context.split())
        for before, after in zip(label, ANSWERS.moved(label, context, copy.changes), strict=True):
            assert after["text"] == before["text"]
            assert copy.text_pair[after["start"] :][: len(after["text"])] == before["text"]


def test_answers_move_by_what_grew_before_them(config):
    context, label = "bad film: Ann left the story", [{"text": "Ann", "start": 10}, {"text": "the", "start": 19}]
    candidates = [[["dull"], ["movie"], ["Bob"], ["ran"], ["plot"]]]  # of bad, film, Ann, left, story
    fixed = ANSWERS.fixed("who?", context, label)
    for pairs in ("one_side", "both_sides"):
        [copy] = draw("who?", context, candidates, 4, config(pairs=pairs), fixed=fixed)
        assert copy[:4] == (0, 0, "who?", "dull movie: Ann ran the plot")
        assert copy.changes == ((0, 1), (4, 1), (14, -1), (23, -1))
        assert [answer["start"] for answer in ANSWERS.moved(label, context, copy.changes)] == [12, 20]


def test_a_part_of_a_word_is_replaced_inside_it(config):
    text = "U.S.-backed rebels"
    fixed = TAGS.fixed(text, None, [0, 0])
    assert [word.text for word in eligible_words(text, ENGLISH)] == ["U", "S", "backed", "rebels"]
    [copy] = draw(text, None, [[[], [], ["led", "two words"], ["troops"]]], 9, config(), fixed=fixed)
    assert copy.text == "U.S.-led troops"


def test_where_all_is_fixed_there_is_no_copy(config):
    assert list(draw("Ann", None, [[["Bob"]]], 4, config(), fixed=TAGS.fixed("Ann", None, [1]))) == []
    fixed = ANSWERS.fixed("who?", "Ann", [{"text": "Ann", "start": 0}])
    assert list(draw("who?", "Ann", [[["Bob"]]], 4, config(), fixed=fixed)) == []


def test_single_characters_of_chinese_stay_single(parts, config):
    text, tags = "\u7535 \u5f71 \u6545 \u4e8b \u97f3", [0, 0, 1, 2, 0]
    changes = {"candidates": 16, "copies": 30, "probability": 0.5}
    found = Proposer(*parts, config(**changes), CHINESE).propose([text], None, 0)
    assert "good" in found[0][0]  # the model would write it, too
    copies = list(draw(text, None, found, 30, config(**changes), CHINESE, TAGS.fixed(text, None, tags)))
    assert len(copies) > 20
    for copy in copies:
        assert [len(word) for word in copy.text.split(" ")] == [1] * 5
        assert set(copy.text) <= {*CHARACTERS, " "}
        assert copy.text[4:7] == text[4:7]


def test_words_of_chinese_stay_words_of_the_segmenter(parts, config):
    text = "\u7535\u5f71 \u6545\u4e8b"
    words = {"\u7535\u5f71", "\u6545\u4e8b", "\u97f3\u4e50"}
    lexicon = Language(frozenset(), cut=lambda run: [run], is_word=words.__contains__)
    found = Proposer(*parts, config(candidates=5), lexicon).propose([text], None, 0)
    copies = list(draw(text, None, found, 20, config(), lexicon, TAGS.fixed(text, None, [0, 1])))
    assert {copy.text for copy in copies} == {"\u6545\u4e8b \u6545\u4e8b", "\u97f3\u4e50 \u6545\u4e8b"}
