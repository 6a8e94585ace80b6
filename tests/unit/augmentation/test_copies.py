"""Copies drawn from candidates that are known."""

from collections import Counter

import pytest

from tinybert.augmentation import copies as module
from tinybert.augmentation.copies import augment, copies_for, draw

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
    assert copy[2:] == ("great good", "good good!")


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
