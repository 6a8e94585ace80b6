"""Flips and slices by hand, and predictions as they come back."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from tinybert import breakdown
from tinybert.kinds import KINDS
from tinybert.kinds.task_kind import Answers

KIND = KINDS["classification"]
ACCURACY = KIND.metrics["accuracy"]

NAMES = ["bad", "good", "odd"]
ROWS = {
    "text": ["t0", "t1", "t2", "t3", "t4", "t5"],
    "text_pair": [None, "p1", None, None, None, None],
    "label": [0, 1, 1, 0, 1, 0],
    "group": ["web", "shop", None, "web", "web", "shop"],
}
STUDENT = [0, 1, 1, 1, 0, 1]
CHAMPION = [1, 1, 0, 0, 1, 0]


def said(student=(0.6, 0.9, 0.8, 0.5, 0.7, 0.95)):
    return {
        "student": Answers(STUDENT, np.array(student)),
        "champion": Answers(CHAMPION, np.full(6, 0.9)),
    }


def found_flips(compared=(True,) * 6, examples=20):
    return breakdown.flips(KIND, ROWS, said(), np.array(compared), NAMES, examples)


def test_flips_by_hand():
    # The student alone is right on rows 0 and 2, the champion alone on 3, 4 and 5; the student's surest stand first.
    found = found_flips()
    assert (found["fixed_rows"], found["broken_rows"]) == (2, 3)
    assert [entry["text"] for entry in found["fixed"]] == ["t2", "t0"]
    assert [entry["text"] for entry in found["broken"]] == ["t5", "t4", "t3"]
    assert found["fixed"][0] == {
        "text": "t2",
        "text_pair": None,
        "label": "good",
        "champion": "bad",
        "student": "good",
    }


def test_flips_leave_out_rows_that_do_not_count_and_show_so_many():
    found = found_flips(compared=(False, True, True, True, True, False), examples=1)
    assert (found["fixed_rows"], found["broken_rows"]) == (1, 2)
    assert [[entry["text"] for entry in found[kind]] for kind in ("fixed", "broken")] == [["t2"], ["t4"]]
    assert found_flips(examples=0)["fixed"] == []


def test_answers_of_several_parts_are_shown_as_people_read_them():
    kind = KINDS["multi_label"]
    rows = {"text": ["t0", "t1"], "text_pair": [None, None], "label": [[0, 2], []]}
    answers = {"student": Answers([[0, 2], [1]], np.ones(2)), "champion": Answers([[0], []], np.ones(2))}
    found = breakdown.flips(kind, rows, answers, np.ones(2, bool), NAMES, 5)
    assert (found["fixed_rows"], found["broken_rows"]) == (1, 1)
    assert found["fixed"] == [
        {**dict.fromkeys(("label", "student"), "bad, odd"), "text": "t0", "text_pair": None, "champion": "bad"}
    ]


def test_numbers_are_neither_fixed_nor_broken():
    rows = {"text": ["t0"], "text_pair": [None], "label": [1.5]}
    answers = dict.fromkeys(("student", "champion"), Answers([1.0], np.ones(1)))
    assert breakdown.flips(KINDS["regression"], rows, answers, np.ones(1, bool), ["stars"], 5) is None


def test_slices_by_hand():
    compared = {"champion": np.array([True, True, True, True, True, False])}
    tokens = np.array([3, 8, 9, 16, 700, 700])
    found = breakdown.slices(ROWS, tokens, said(), ACCURACY, compared, NAMES, "source")
    third, two_thirds = pytest.approx(1 / 3), pytest.approx(2 / 3)
    # Student: rows 0, 1, 2 right. Champion: 1, 3, 4, and 5, which does not count.
    assert found == [
        {"slice": "length", "value": "1-8 tokens", "rows": 2, "student": 1.0, "champion": 0.5},
        {"slice": "length", "value": "9-16 tokens", "rows": 2, "student": 0.5, "champion": 0.5},
        {"slice": "length", "value": "513 tokens or more", "rows": 2, "student": 0.0, "champion": 1.0},
        {"slice": "label", "value": "bad", "rows": 3, "student": third, "champion": 0.5},
        {
            "slice": "label",
            "value": "good",
            "rows": 3,
            "student": two_thirds,
            "champion": two_thirds,
        },
        {
            "slice": "source",
            "value": "web",
            "rows": 3,
            "student": third,
            "champion": two_thirds,
        },
        {"slice": "source", "value": "shop", "rows": 2, "student": 0.5, "champion": 1.0},
    ]


def test_a_model_that_no_row_of_a_slice_counts_for_has_no_number_there():
    def sliced(compared):
        answers = {"champion": said()["champion"]}
        return breakdown.slices(ROWS, np.full(6, 5), answers, ACCURACY, {"champion": compared}, NAMES, "source")

    found, everywhere = sliced(np.arange(6) != 2), sliced(np.zeros(6, bool))
    assert all("champion" in entry for entry in found)
    assert [entry["rows"] for entry in everywhere] == [entry["rows"] for entry in found]
    assert not any("champion" in entry for entry in everywhere)


def test_only_the_largest_groups_become_slices(monkeypatch):
    monkeypatch.setattr(breakdown, "GROUPS", 1)
    found = breakdown.slices(ROWS, np.full(6, 5), said(), ACCURACY, {}, NAMES, "source")
    assert [entry["value"] for entry in found if entry["slice"] == "source"] == ["web"]


def test_a_slice_has_the_score_that_decides():
    labels, student = [[0], [0, 1], [2], [1]], [[0], [1], [2], []]
    rows = {"label": labels, "group": ["web", "web", "shop", "shop"]}
    metric = KINDS["multi_label"].metrics["f1_micro"]
    answers = {"student": Answers(student, np.ones(4))}
    found = breakdown.slices(rows, np.array([3, 9, 9, 9]), answers, metric, {}, NAMES, "source")
    # 9-16 tokens: of 0, 1 and 2 and 1 the answers are 1 and 2: 2 tp, 2 fn. web: 2 tp, 1 fn. shop: 1 tp, 1 fn.
    assert [(entry["slice"], entry["value"]) for entry in found] == [
        ("length", "1-8 tokens"),
        ("length", "9-16 tokens"),
        ("source", "web"),
        ("source", "shop"),
    ]
    assert [entry["student"] for entry in found] == pytest.approx([1, 4 / 6, 4 / 5, 2 / 3])


def test_a_row_is_seen_where_text_and_pair_stand_in_training():
    train = Dataset.from_dict({"text": ["t5", "t1", "t0", "x"], "text_pair": [None, "other", None, None]})
    assert breakdown.seen(ROWS, train).tolist() == [True, False, False, False, False, True]


@pytest.mark.parametrize(
    ("kind", "labels", "answers"),
    [
        ("classification", [0, 1], [1, 1]),
        ("multi_label", [[0, 2], []], [[], [1]]),
        ("regression", [0.5, -3.0], [0.25, 1e9]),
        ("token_classification", [[0, 0, 1], [2]], [[0, 1, 1], [0]]),
        ("question_answering", [[{"text": "a film", "start": 4}], []], ["", "film"]),
    ],
)
def test_predictions_come_back_as_they_were_written(kind, labels, answers, tmp_path):
    rows = {"text": ["t0", "t1"], "text_pair": [None, "p1"], "label": labels, "group": ["web", None]}
    given = {"teacher": Answers(answers, np.array([0.5, 0.75])), "int8": Answers(answers[::-1], np.ones(2))}
    breakdown.write_predictions(KINDS[kind], rows, np.array([False, True]), given, tmp_path / "predictions.parquet")
    table = pq.read_table(tmp_path / "predictions.parquet")
    models = [f"{part}_{name}" for name in given for part in ("answer", "confidence")]
    assert table.column_names == ["text", "text_pair", "label", "group", "seen_by_champion", *models]
    assert {name: table[name].to_pylist() for name in rows} == rows
    assert table["seen_by_champion"].to_pylist() == [False, True]
    assert table["answer_teacher"].to_pylist() == answers
    assert table["answer_int8"].to_pylist() == answers[::-1]
    assert table.schema.field("answer_int8").type == KINDS[kind].answer_type
    assert table["confidence_teacher"].to_pylist() == [0.5, 0.75]
    assert table.schema.field("confidence_teacher").type == pa.float32()
