"""Which shard a row is in, and what is kept of rows for the next run."""

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from tinybert.augment_config import shards_for
from tinybert.augmentation.shards import Kept, asked_keys, rows_of_shard
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


FIRST = [[["a", "b"], []], [], [["\u597d"]], [["c"]], [[]]]
SECOND = [[["x"]], [["y"]], [], [["z"]], [["w"]]]
ROWS = [list(row) for row in zip(FIRST, SECOND, strict=True)]


@pytest.fixture
def keep(tmp_path):
    def keep(name, chunks, sides, previous=None, source="", rows=ROWS):
        """What is found of chunks of (keys, places of rows), and the places that were asked for."""
        asked, found = [], []
        (tmp_path / name).mkdir()
        with Kept("kept.arrow", tmp_path / name, previous and tmp_path / previous, source) as kept:
            for keys, places in chunks:

                def make(missing, places=places):
                    asked.extend(places[at] for at in missing)
                    return [rows[places[at]][:sides] for at in missing]

                found += kept.of(keys, sides, make)
        assert kept.made == len(asked)
        return found, asked

    return keep


def test_what_is_kept_is_found_by_key(keep):
    keys = some_keys(5)
    found, asked = keep("before", [(keys[:2], [0, 1]), (keys[2:4], [2, 3])], 2)
    assert (found, asked) == (ROWS[:4], [0, 1, 2, 3])
    order = [4, 0, 2, 1]
    found, asked = keep("after", [(keys[order], order)], 2, "before")
    assert (found, asked) == ([ROWS[place] for place in order], [4])
    found, asked = keep("third", [(keys[:1], [0])], 1, "after")
    assert (found, asked) == ([ROWS[0][:1]], [])


def test_rows_of_one_key_are_made_and_kept_once(keep, tmp_path):
    keys = some_keys(2)[[0, 1, 0, 0]]
    found, asked = keep("once", [(keys, [0, 1, 2, 3])], 2)
    assert (found, asked) == ([ROWS[0], ROWS[1], ROWS[0], ROWS[0]], [0, 1])
    assert len(pa.ipc.open_file(str(tmp_path / "once" / "kept.arrow")).read_all()) == 2


def test_one_side_does_not_serve_two(keep):
    keys = some_keys(1)
    keep("before", [(keys, [0])], 1)
    assert keep("after", [(keys, [0])], 2, "before") == ([ROWS[0]], [0])


def test_what_came_of_another_source_is_not_used(keep):
    keys = some_keys(1)
    keep("before", [(keys, [0])], 1, source="one")
    assert keep("other", [(keys, [0])], 1, "before", source="two")[1] == [0]
    assert keep("same", [(keys, [0])], 1, "before", source="one")[1] == []


def test_a_run_that_kept_nothing_serves_as_well_as_none(keep):
    keep("nothing", [], 1)
    assert keep("after", [(some_keys(1), [0])], 1, "nothing")[1] == [0]
