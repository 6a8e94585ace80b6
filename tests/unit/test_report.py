"""The comparison as a table and as pictures."""

import numpy as np
import pytest
from matplotlib.image import imread

from tinybert import pictures
from tinybert.report import HEADINGS, MODELS, ratio, table_rows, write_table

TEACHER = {
    "accuracy": 0.8,
    "accuracy_low": 0.75,
    "accuracy_high": 0.85,
    "f1_macro": 0.79,
    "parameters": 2000.0,
    "megabytes": 8.0,
    "latency_ms": 10.0,
    "agreement": 1.0,
}
STUDENT = {
    "accuracy": 0.76,
    "accuracy_low": 0.7049,
    "accuracy_high": 0.8111,
    "f1_macro": 0.75,
    "parameters": 1000.0,
    "megabytes": 4.0,
    "latency_ms": 4.0,
    "agreement": 0.9,
}
COMPARISON = {
    "metric": "accuracy",
    "metrics": ["accuracy", "f1_macro", "mcc"],
    "champion": {**STUDENT, "latency_ms": 20.0},
    "teacher": TEACHER,
    "student": STUDENT,
    "retention": 0.95,
    "speedup": 2.5,
    "rows": 1200,
    "test_is_validation": False,
    "confidence": 0.9,
    "threads": 2,
    "device": "A Processor",
    "seen_by_champion": 0,
}


def test_the_table_by_hand():
    rows = table_rows(COMPARISON)
    assert rows[0] == ["", "accuracy", "macro F1", *HEADINGS]
    assert rows[1] == ["teacher", "80.0% (75.0-85.0)", "79.0%", "2,000", "8.0", "10.0", "100.0%", "1.0x", "100.0%"]
    assert rows[2] == ["student", "76.0% (70.5-81.1)", "75.0%", "1,000", "4.0", "4.0", "95.0%", "2.5x", "90.0%"]
    assert (rows[3][0], rows[3][7]) == ("champion", "0.5x")
    assert len(rows) == 4


def test_the_score_that_decides_leads():
    numbers = {"pearson": 0.5, "pearson_low": -0.1, "pearson_high": 0.6}
    named = {"metric": "pearson", "metrics": ["pearson", "accuracy"], "student": {**STUDENT, **numbers}}
    teacher = {**TEACHER, **numbers, "pearson": 0.8}
    rows = table_rows({"teacher": teacher, **named})
    assert rows[0][1:3] == ["Pearson correlation", "accuracy"]
    assert rows[2][1:3] == ["50.0% (-10.0 to 60.0)", "76.0%"]
    assert rows[2][6] == "62.5%"


def test_every_model_has_its_place_in_the_table():
    everyone = {**COMPARISON, **dict.fromkeys(("baseline", "int8", "onnx"), STUDENT)}
    assert tuple(row[0] for row in table_rows(everyone)[1:]) == MODELS


def test_a_teacher_that_gets_nothing_right_divides_nothing():
    assert ratio(0.5, 0.0) == 0.0
    assert table_rows({**COMPARISON, "teacher": {**TEACHER, "accuracy": 0.0}})[2][6] == "0.0%"


def test_the_written_table_is_markdown_with_its_notes(tmp_path):
    write_table(COMPARISON, tmp_path / "table.md")
    *table, empty, notes = (tmp_path / "table.md").read_text().splitlines()
    assert {line.count("|") for line in table} == {len(HEADINGS) + 4}
    assert table[1] == "| --- | " + " | ".join(["---:"] * 8) + " |"
    assert empty == ""
    assert notes.startswith("1,200 test rows, the same for all models; in brackets the 90% interval of the accuracy.")
    assert "2 CPU threads; A Processor." in notes
    assert "champion" not in notes


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"test_is_validation": True}, "1,200 validation rows"),
        ({"test_is_validation": True}, "the scores are a little too good"),
        ({"seen_by_champion": 7}, "trained on 7 of these rows"),
        ({"champion_left_out": "it answers otherwise."}, "The champion is left out: it answers otherwise."),
    ],
)
def test_what_a_reader_must_know_stands_below_the_table(changed, said, tmp_path):
    write_table({**COMPARISON, **changed}, tmp_path / "table.md")
    assert said in (tmp_path / "table.md").read_text()


def test_the_notes_name_the_score(tmp_path):
    changed = {"metric": "f1_macro", "metrics": ["f1_macro", "accuracy"]}
    models = {name: {**TEACHER, "f1_macro_low": 0.7, "f1_macro_high": 0.8} for name in ("teacher", "student")}
    write_table({**COMPARISON, **changed, **models, "champion": models["student"]}, tmp_path / "table.md")
    notes = (tmp_path / "table.md").read_text().splitlines()[-1]
    assert "in brackets the 90% interval of the macro F1." in notes
    assert "Agreement is the macro F1 where the teacher's answers are taken for the right ones." in notes


def test_each_further_test_has_a_line(tmp_path):
    mismatched = {"rows": 9832, "student": {"accuracy": 0.8184}, "teacher": {"accuracy": 0.834}}
    tests = {"mismatched": mismatched, "hans": {**mismatched, "rows": 30}}
    write_table({**COMPARISON, "other_tests": tests}, tmp_path / "table.md", numbered="#0 \u6b63")
    assert (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()[-5:] == [
        "",
        "- mismatched (9,832 rows), accuracy: teacher 83.4%, student 81.8%",
        "- hans (30 rows), accuracy: teacher 83.4%, student 81.8%",
        "",
        "In the pictures: #0 \u6b63",
    ]


def test_a_hundred_labels_still_make_a_picture_of_bounded_size(tmp_path):
    labels = np.arange(150)
    pictures.draw_confusion(labels, labels, [f"label {n}" for n in labels], "student", tmp_path / "picture.png")
    height, width, _ = imread(tmp_path / "picture.png").shape
    assert 1000 < max(height, width) < 2500


def test_pictures_of_the_comparison_of_reliability_and_of_numbers(tmp_path):
    pictures.draw_comparison({"teacher": TEACHER, "student": STUDENT}, "accuracy", tmp_path / "comparison.png")
    bins = [{"low": 0.4, "high": 0.6, "confidence": 0.5, "accuracy": 0.4, "rows": 3}]
    entry = {"temperature": 2.0, "ece": 0.2, "ece_calibrated": 0.1, "bins": bins}
    pictures.draw_reliability({"teacher": entry, "student": entry}, tmp_path / "reliability.png")
    pictures.draw_scatter([1.0, 2.5, 5.0], [1.5, 2.0, 4.0], "student", tmp_path / "scatter.png")
    for name in ("comparison", "reliability", "scatter"):
        red = imread(tmp_path / f"{name}.png")[:, :, 0]
        assert len(np.unique(red)) > 50
