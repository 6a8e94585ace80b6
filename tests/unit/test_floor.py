"""A teacher near the best constant answer is refused, in words that say what to change."""

import pytest

from tests.unit.kind_data import write_kind
from tinybert.data import RowWriter, TaskData, write_manifest
from tinybert.errors import QualityError
from tinybert.floor import check_floor
from tinybert.kinds import KINDS


@pytest.fixture
def task(tmp_path):
    """Ten validation rows, seven of one class."""
    for split in ("train", "validation", "test"):
        with RowWriter(tmp_path / f"{split}.arrow", KINDS["classification"]) as writer:
            for number in range(10):
                writer.add("a film", None, int(number < 7), number)
    write_manifest(tmp_path, ["bad", "good"], 16)
    return TaskData(tmp_path)


@pytest.mark.parametrize(("score", "floor"), [(0.75, 0.05), (0.7, 0.0), (1.0, 0.3), (0.1, None)])
def test_a_score_that_is_high_enough(task, score, floor):
    check_floor(score, task, floor)


@pytest.mark.parametrize(("score", "floor"), [(0.74, 0.05), (0.69, 0.0), (0.0, 0.0)])
def test_a_score_that_is_not(task, score, floor):
    message = f"the teacher's accuracy on validation is {score:.1%}; always giving the same answer reaches 70.0%"
    with pytest.raises(QualityError, match=f"{message}, and fine_tune.floor asks for {100 * floor:g} points more"):
        check_floor(score, task, floor)


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_constant_answer_of_every_kind(tmp_path, kind):
    task = write_kind(tmp_path / kind, kind)
    check_floor(1.0, task, 0.2)
    with pytest.raises(QualityError, match="always giving the same answer reaches"):
        check_floor(0.0, task, 0.2)
