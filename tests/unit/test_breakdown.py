"""Classes, flips and slices, by hand and by scikit-learn."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from sklearn.metrics import classification_report

from tinybert import breakdown

NAMES = ["bad", "good", "odd"]
ROWS = {
    "text": ["t0", "t1", "t2", "t3", "t4", "t5"],
    "text_pair": [None, "p1", None, None, None, None],
    "label": [0, 1, 1, 0, 1, 0],
    "group": ["web", "shop", None, "web", "web", "shop"],
}
STUDENT = [0, 1, 1, 1, 0, 1]
CHAMPION = [1, 1, 0, 0, 1, 0]


def shares(predicted, confidence):
    """Probabilities of three classes whose highest is the predicted one's."""
    rest = (1 - np.array(confidence)) / 2
    found = np.repeat(rest[:, None], 3, axis=1)
    found[np.arange(len(predicted)), predicted] = confidence
    return found


def found_flips(compared=(True,) * 6, examples=20):
    student = shares(STUDENT, [0.6, 0.9, 0.8, 0.5, 0.7, 0.95])
    champion = shares(CHAMPION, [0.9] * 6)
    return breakdown.flips(ROWS, student, champion, np.array(compared), NAMES, examples)


def test_classes_as_scikit_learn_reports_them():
    generator = np.random.default_rng(0)
    labels, predicted = generator.integers(0, 3, (2, 200))
    expected = classification_report(labels, predicted, target_names=NAMES, output_dict=True)
    for name, numbers in breakdown.per_class(labels, predicted, NAMES).items():
        wanted = {**expected[name], "f1": expected[name]["f1-score"]}
        assert numbers == {key: pytest.approx(wanted[key]) for key in ("precision", "recall", "f1", "support")}


def test_a_class_that_no_row_has_is_zero_all_over():
    found = breakdown.per_class(np.array([0, 1]), np.array([0, 1]), NAMES)
    assert found["odd"] == {"precision": 0, "recall": 0, "f1": 0, "support": 0}


def test_agreement_counts_equal_answers():
    assert breakdown.agreement(np.array(STUDENT), np.array(CHAMPION)) == 1 / 6


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


def test_slices_by_hand():
    right = {"student": np.array(STUDENT) == ROWS["label"], "champion": np.array(CHAMPION) == ROWS["label"]}
    compared = {"champion": np.array([True, True, True, True, True, False])}
    tokens = np.array([3, 8, 9, 16, 700, 700])
    found = breakdown.slices(ROWS, tokens, right, compared, NAMES, "source")
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
    right = {"champion": np.ones(6, bool)}
    found = breakdown.slices(ROWS, np.full(6, 5), right, {"champion": np.arange(6) != 2}, NAMES, "source")
    everywhere = breakdown.slices(ROWS, np.full(6, 5), right, {"champion": np.zeros(6, bool)}, NAMES, "source")
    assert all("champion" in entry for entry in found)
    assert [entry["rows"] for entry in everywhere] == [entry["rows"] for entry in found]
    assert not any("champion" in entry for entry in everywhere)


def test_only_the_largest_groups_become_slices(monkeypatch):
    monkeypatch.setattr(breakdown, "GROUPS", 1)
    found = breakdown.slices(ROWS, np.full(6, 5), {"student": np.ones(6, bool)}, {}, NAMES, "source")
    assert [entry["value"] for entry in found if entry["slice"] == "source"] == ["web"]


def test_a_row_is_seen_where_text_and_pair_stand_in_training():
    train = Dataset.from_dict({"text": ["t5", "t1", "t0", "x"], "text_pair": [None, "other", None, None]})
    assert breakdown.seen(ROWS, train).tolist() == [True, False, False, False, False, True]


def test_predictions_come_back_as_they_were_written(tmp_path):
    logits = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    seen = np.arange(6) == 4
    breakdown.write_predictions(ROWS, seen, {"teacher": logits, "int8": -logits}, tmp_path / "predictions.parquet")
    table = pq.read_table(tmp_path / "predictions.parquet")
    columns = ["text", "text_pair", "label", "group", "seen_by_champion", "logits_teacher", "logits_int8"]
    assert table.column_names == columns
    assert {name: table[name].to_pylist() for name in ROWS} == ROWS
    assert table["seen_by_champion"].to_pylist() == seen.tolist()
    assert table.schema.field("logits_teacher").type.value_type == pa.float32()
    np.testing.assert_array_equal(np.array(table["logits_int8"].to_pylist(), np.float32), -logits)
