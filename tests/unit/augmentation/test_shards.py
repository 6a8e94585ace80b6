"""Which shard a row is in, and candidates kept for the next run."""

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from tinybert.augment_config import shards_for
from tinybert.augmentation.shards import CANDIDATES, CandidateWriter, KnownCandidates, asked_keys, rows_of_shard
from tinybert.kinds import KINDS
from tinybert.teacher_cache import row_keys


def some_keys(number, seed=0):
    return np.random.default_rng(seed).integers(0, 2**64, (number, 2), dtype=np.uint64)


@pytest.mark.parametrize(
    ("rows", "shard_rows", "shards"),
    [(1, 10, 1), (10, 10, 1), (11, 10, 2), (20, 10, 2), (21, 10, 4), (67_349, 4096, 32)],
)
def test_shards_are_a_power_of_two_and_no_larger_than_asked(rows, shard_rows, shards):
    assert shards_for(rows, shard_rows) == shards


@given(st.integers(0, 300), st.sampled_from([1, 2, 4, 8]))
def test_every_row_is_in_one_shard(number, shards):
    keys = some_keys(number)
    found = np.concatenate([rows_of_shard(keys, shard, shards) for shard in range(shards)])
    assert sorted(found) == list(range(number))


def test_a_row_stays_in_its_shard_and_a_doubled_number_halves_it():
    keys = some_keys(200)
    few = set(map(tuple, keys[:150][rows_of_shard(keys[:150], 1, 4)]))
    many = set(map(tuple, keys[rows_of_shard(keys, 1, 4)]))
    assert few < many
    halves = [set(map(tuple, keys[rows_of_shard(keys, shard, 8)])) for shard in (1, 5)]
    assert halves[0] | halves[1] == many


@pytest.mark.parametrize("kind", ["classification", "token_classification"])
def test_candidates_are_kept_by_what_the_teacher_reads_of_a_row(kind):
    labels = [0, 1] if kind == "classification" else [[1, 0], [0]]
    pairs = ["beside", "it"] if kind == "classification" else [None, None]
    rows = Dataset.from_dict({"text": ["Ann left", "now"], "text_pair": pairs, "label": labels})
    assert (asked_keys(rows, KINDS[kind], 64) == row_keys(rows, 64)).all()


def test_those_of_questions_by_their_context_alone():
    labels = [[{"text": "Ann", "start": 0}], [], []]
    columns = {"text": ["who?", "why?", "who?"], "text_pair": ["Ann left", "Ann left", "all left"], "label": labels}
    contexts = Dataset.from_dict({"text": ["Ann left", "Ann left", "all left"], "text_pair": [None] * 3})
    found = asked_keys(Dataset.from_dict(columns), KINDS["question_answering"], 64)
    assert (found == row_keys(contexts, 64)).all()


def test_kept_candidates_are_found_by_key(tmp_path):
    keys, others = some_keys(5), some_keys(3, seed=1)
    first = [[["a", "b"], []], [], [["\u597d"]], [["c"]], [[]]]
    second = [[["x"]], [["y"]], [], [["z"]], [["w"]]]
    with CandidateWriter(tmp_path / CANDIDATES) as writer:
        writer.add(keys[:2], [first[:2], second[:2]])
        writer.add(keys[2:], [first[2:], second[2:]])
    known = KnownCandidates(tmp_path)
    asked = np.concatenate([keys[[4, 0]], others, keys[[2]]])
    assert known.find(asked, 2) == [
        [first[4], second[4]],
        [first[0], second[0]],
        None,
        None,
        None,
        [first[2], second[2]],
    ]
    assert known.find(keys[:1], 1) == [[first[0]]]


def test_candidates_of_one_side_do_not_serve_two(tmp_path):
    keys = some_keys(1)
    with CandidateWriter(tmp_path / CANDIDATES) as writer:
        writer.add(keys, [[[["a"]]]])
    assert KnownCandidates(tmp_path).find(keys, 2) == [None]
    assert KnownCandidates(tmp_path).find(keys, 1) == [[[["a"]]]]


def test_without_an_earlier_run_nothing_is_known():
    assert KnownCandidates(None).find(some_keys(2), 1) == [None, None]
