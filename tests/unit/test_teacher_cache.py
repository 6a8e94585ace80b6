"""The teacher's answers on the disk: where each row's numbers lie, and which rows they belong to."""

import hashlib
import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from tinybert.errors import DataError
from tinybert.kinds import KINDS
from tinybert.kinds.task_kind import Answers, Features
from tinybert.teacher_cache import StateShape, TeacherCache, feature_keys, find_rows, row_keys, write_opinions


def tokens_of(texts):
    """Tokens of each row in the fixture's reckoning: words."""
    return np.array([len(text.split()) for text in texts], np.int32)


def dataset(*texts):
    """Rows of single sentences; a tuple is a pair."""
    split = [text if isinstance(text, tuple) else (text, None) for text in texts]
    return Dataset.from_dict({"text": [text for text, _ in split], "text_pair": [pair for _, pair in split]})


# Keys -----------------------------------------------------------------------------------------------------------------


def test_a_key_tells_what_the_teacher_reads():
    rows = dataset("a b", "a", "ab", ("a", "b"), ("a b", ""), ("", "a b"), "", "\u00e9", "e\u0301")
    keys = row_keys(rows, 64)
    assert (keys.shape, keys.dtype) == ((9, 2), np.uint64)
    assert len({tuple(key) for key in keys.tolist()}) == 9
    assert (row_keys(rows, 64) == keys).all()
    assert (row_keys(rows, 65) != keys).any(axis=1).all()  # cut elsewhere, it is another row
    assert (row_keys(dataset("a"), 64) == keys[1]).all()  # whichever data set it stands in


def test_keys_do_not_depend_on_the_chunks_they_are_made_in(monkeypatch):
    rows = dataset(*"abcde", ("f", "g"))
    whole = row_keys(rows, 64)
    monkeypatch.setattr("tinybert.teacher_cache.CHUNK", 2)
    assert (row_keys(rows, 64) == whole).all()
    # The second row's by hand: what stands in stores was made so.
    by_hand = hashlib.blake2b(b'["b", null, 64]', digest_size=16).digest()
    assert whole[1].tobytes() == by_hand


def test_keys_of_no_rows():
    assert row_keys(dataset(), 64).shape == (0, 2)


def test_windows_of_a_row_have_keys_of_their_own():
    rows = dataset("a", "b", "c")
    features = Features(np.array([3, 3, 2, 1], np.int32), np.array([0, 0, 1, 2]))
    keys, own = feature_keys(rows, features, 64), row_keys(rows, 64)
    assert (keys[[0, 2, 3]] == own).all()  # the first is the row's: what stands in stores was made so
    assert len({tuple(key) for key in keys.tolist()}) == 4
    assert find_rows(keys, keys[::-1]).tolist() == [3, 2, 1, 0]
    assert (
        feature_keys(dataset("x", "a"), Features(np.ones(3, np.int32), np.array([0, 1, 1])), 64)[1:] == keys[:2]
    ).all()


def keys_of(numbers):
    """Distinct keys whose first halves agree in pairs."""
    return np.array([[number // 2, number] for number in numbers], np.uint64).reshape(-1, 2)


@given(st.lists(st.integers(0, 20)), st.lists(st.integers(0, 20)))
def test_rows_are_found_by_both_halves_of_their_key(asked, known):
    numbers = [2 * number for number in known]  # no two that share their first half
    found = find_rows(keys_of(asked), keys_of(numbers))
    assert found.shape == (len(asked),)
    for number, place in zip(asked, found.tolist(), strict=True):
        assert place == (numbers.index(number) if number in numbers else -1)


@pytest.mark.parametrize(
    ("asked", "known", "places"),
    [
        ([], [], []),
        ([], [2], []),
        ([4, 2], [], [-1, -1]),
        ([4, 2], [2, 4], [1, 0]),
        ([3, 99], [2, 4], [-1, -1]),  # 3 shares the first half of its key with 2
        ([2, 2, 4], [4, 2, 2], [1, 1, 0]),
    ],
)
def test_rows_that_are_found_or_not(asked, known, places):
    assert find_rows(keys_of(asked), keys_of(known)).tolist() == places


# Numbers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "numbers", "shapes"),
    [
        ("hidden", [3 * 5 * 8, 3 * 1 * 8], {"teacher_hidden": (3, 5, 8)}),
        (
            "scores",
            [3 * 5 * 8 + 2 * 4 * 25, 3 * 1 * 8 + 2 * 4 * 1],
            {"teacher_hidden": (3, 5, 8), "teacher_scores": (2, 4, 5, 5)},
        ),
        (
            "relations",
            [3 * 5 * 8 + 2 * 3 * 5 * 8, 3 * 1 * 8 + 2 * 3 * 1 * 8],
            {"teacher_hidden": (3, 5, 8), "teacher_relations": (2, 3, 5, 8)},
        ),
    ],
)
def test_sizes_of_two_mapped_layers_of_width_8_with_4_heads(kind, numbers, shapes):
    shape = StateShape(kind, mapped=(2, 4), width=8, heads=4)
    assert shape.numbers(np.array([5, 1], np.int32)).tolist() == numbers
    assert shape.starts(np.array([5, 1], np.int32)).tolist() == [0, numbers[0], sum(numbers)]
    assert shape.parts(5) == shapes


def test_sizes_do_not_overflow():
    shape = StateShape("scores", mapped=(1, 2, 3, 4), width=768, heads=12)
    lengths = np.full(100_000, 512, np.int32)
    assert shape.starts(lengths)[-1] == 100_000 * (5 * 768 * 512 + 4 * 12 * 512 * 512)


@pytest.fixture
def cache(tmp_path):
    """Answers for rows of 2, 1 and 3 tokens: one mapped layer, width 2, one head; number n of the file is n / 4."""
    shape = {"kind": "scores", "mapped": [3], "width": 2, "heads": 1}
    (tmp_path / "manifest.json").write_text(json.dumps({"rows": 3, "states": shape}))
    np.save(tmp_path / "keys.npy", row_keys(dataset("a a", "b", "c c c"), 64))
    np.save(tmp_path / "lengths.npy", np.array([2, 1, 3], np.int32))
    np.save(tmp_path / "logits.npy", np.array([[1, 2], [3, 4], [5, 6]], np.float32))
    numbers = torch.arange(12 + 5 + 21).to(torch.bfloat16) / 4
    numbers.view(torch.int16).numpy().tofile(tmp_path / "states.bin")
    return TeacherCache(tmp_path)


def test_a_batch_is_padded_with_zeros(cache):
    assert cache.states == StateShape("scores", (3,), 2, 1)
    batch = cache.batch(np.array([1, 0]), 3, ("logits", "states"))
    assert batch["teacher_logits"].tolist() == [[3, 4], [1, 2]]
    assert batch["teacher_logits"].dtype == torch.float32
    assert batch["teacher_hidden"].dtype == batch["teacher_scores"].dtype == torch.bfloat16
    second = [[[[12, 13], [0, 0], [0, 0]], [[14, 15], [0, 0], [0, 0]]]]
    first = [[[[0, 1], [2, 3], [0, 0]], [[4, 5], [6, 7], [0, 0]]]]
    assert (4 * batch["teacher_hidden"]).tolist() == second + first
    assert (4 * batch["teacher_scores"][0]).tolist() == [[[[16, 0, 0], [0, 0, 0], [0, 0, 0]]]]
    assert (4 * batch["teacher_scores"][1]).tolist() == [[[[8, 9, 0], [10, 11, 0], [0, 0, 0]]]]


def test_only_what_is_wanted_is_read(cache):
    assert cache.batch(np.array([0]), 2, ("logits",)).keys() == {"teacher_logits"}
    assert cache.batch(np.array([0]), 2, ("states",)).keys() == {"teacher_hidden", "teacher_scores"}
    assert cache.batch(np.array([0]), 2, ()) == {}


def test_states_that_were_not_kept_are_not_given(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"rows": 3, "states": None}))
    cache = TeacherCache(tmp_path)
    assert cache.states is None
    assert cache.batch(np.array([0]), 2, ("states",)) == {}


def test_directories_of_before_there_were_logits_of_tokens(cache):
    assert not cache.per_token  # their manifest does not say it


def test_logits_of_tokens_are_padded_with_zeros(tmp_path):
    """Features of 2 and 1 tokens, three outputs; number n of the file is n."""
    (tmp_path / "manifest.json").write_text(json.dumps({"rows": 2, "per_token": True, "states": None}))
    np.save(tmp_path / "lengths.npy", np.array([2, 1], np.int32))
    np.save(tmp_path / "logits.npy", np.arange(9, dtype=np.float32).reshape(3, 3))
    cache = TeacherCache(tmp_path)
    batch = cache.batch(np.array([1, 0]), 3, ("logits",))
    assert batch["teacher_logits"].dtype == torch.float32
    assert batch["teacher_logits"].tolist() == [
        [[6, 7, 8], [0, 0, 0], [0, 0, 0]],
        [[0, 1, 2], [3, 4, 5], [0, 0, 0]],
    ]
    assert cache.row_logits(0).tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("kind", "answers"),
    [
        ("classification", [1, 0, 2]),
        ("multi_label", [[0, 2], [], [1]]),
        ("token_classification", [[0, 1], [2], [0, 0, 0]]),
    ],
)
def test_opinions_come_back_as_they_were_written(tmp_path, kind, answers):
    sure = np.array([0.5, 0.25, 1.0])
    said = [Answers(answers[:2], sure[:2]), Answers(answers[2:], sure[2:])]
    write_opinions(KINDS[kind], said, tmp_path)
    assert list(TeacherCache(tmp_path).opinions()) == list(zip(answers, sure.tolist(), strict=True))


def test_opinions_of_no_rows(tmp_path):
    write_opinions(KINDS["classification"], [], tmp_path)
    assert list(TeacherCache(tmp_path).opinions()) == []


def test_answers_for_other_rows_are_refused(cache):
    cache.check(row_keys(dataset("a a", "b", "c c c"), 64))
    refused = r"the teacher answered 3 other rows; there are {} training rows. Run the stage `targets`"
    with pytest.raises(DataError, match=refused.format(2)):
        cache.check(row_keys(dataset("a a", "b"), 64))
    with pytest.raises(DataError, match=refused.format(3)):
        cache.check(row_keys(dataset("b", "a a", "c c c"), 64))  # the same in another order
    with pytest.raises(DataError, match=refused.format(3)):
        cache.check(row_keys(dataset("a a", "b", "c c c"), 32))


@pytest.mark.parametrize(
    ("texts", "places"),
    [
        (["a a", "b", "c c c"], None),  # the cache's own rows
        (["a a", "b"], [0, 1]),
        (["c c c", "a a", "b"], [2, 0, 1]),
        (["b", "b"], [1, 1]),
        ([], []),
    ],
)
def test_places_of_rows_that_are_among_those_answered(cache, texts, places):
    found = cache.places(row_keys(dataset(*texts), 64), tokens_of(texts))
    assert (found if found is None else found.tolist()) == places


@pytest.mark.parametrize(
    ("texts", "length", "missing"), [(["b", "d", "e"], 64, 2), (["a a", "b", "c c c"], 32, 3), (["d"] * 4, 64, 4)]
)
def test_rows_without_an_answer_are_refused(cache, texts, length, missing):
    refused = f"the teacher answered 3 other rows; {missing} of {len(texts)} training rows are not among them. Run the"
    with pytest.raises(DataError, match=refused):
        cache.places(row_keys(dataset(*texts), length), tokens_of(texts))


@pytest.mark.parametrize(
    ("texts", "lengths", "said"),
    [
        (["a a", "b", "c c c"], [2, 4, 3], "1 of 3 training rows have another number of tokens .* 4 instead of 1. Cho"),
        (["c c c", "b"], [2, 2], "2 of 2 training rows have another number of tokens .* 2 instead of 3. Choose a stud"),
    ],
)
def test_rows_that_the_student_reads_as_another_number_of_tokens_are_refused(cache, texts, lengths, said):
    keys = row_keys(dataset(*texts), 64)
    with pytest.raises(DataError, match=said):
        cache.places(keys, np.array(lengths, np.int32))
    cache.places(keys, tokens_of(texts))


def test_answers_to_rows_of_another_number_of_tokens_are_not_known(cache):
    keys = row_keys(dataset("c c c", "d", "b", "a a"), 64)
    assert cache.known(keys, np.array([3, 1, 1, 2], np.int32)).tolist() == [2, -1, 1, 0]
    assert cache.known(keys, np.array([3, 1, 2, 2], np.int32)).tolist() == [2, -1, -1, 0]
    assert cache.known(keys[:0], np.zeros(0, np.int32)).tolist() == []


def test_of_no_answers_none_is_known(tmp_path):
    np.save(tmp_path / "keys.npy", np.zeros((0, 2), np.uint64))
    np.save(tmp_path / "lengths.npy", np.zeros(0, np.int32))
    keys = row_keys(dataset("a", "b"), 64)
    assert TeacherCache(tmp_path).known(keys, np.ones(2, np.int32)).tolist() == [-1, -1]


def test_states_are_told_apart_by_shape_and_precision(cache):
    shape, manifest = StateShape("scores", (3,), 2, 1), cache.directory / "manifest.json"
    assert not cache.holds(shape, "fp32")  # older directories do not say their precision
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "states_precision": "fp32"}))
    cache = TeacherCache(cache.directory)
    assert [cache.holds(shape, precision) for precision in ("fp32", "bf16", "auto")] == [True, False, False]
    assert not cache.holds(StateShape("scores", (2,), 2, 1), "fp32")
