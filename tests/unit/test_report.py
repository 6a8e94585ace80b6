"""The comparison as a table and as pictures."""

import warnings

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.figure import Figure
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
    assert rows[0] == list(HEADINGS)
    assert rows[1] == ["teacher", "80.0% (75.0-85.0)", "0.790", "2,000", "8.0", "10.0", "100.0%", "1.0x", "100.0%"]
    assert rows[2] == ["student", "76.0% (70.5-81.1)", "0.750", "1,000", "4.0", "4.0", "95.0%", "2.5x", "90.0%"]
    assert (rows[3][0], rows[3][7]) == ("champion", "0.5x")
    assert len(rows) == 4


def test_every_model_has_its_place_in_the_table():
    everyone = {**COMPARISON, **dict.fromkeys(("baseline", "int8", "onnx"), STUDENT)}
    assert tuple(row[0] for row in table_rows(everyone)[1:]) == MODELS


def test_a_teacher_that_gets_nothing_right_divides_nothing():
    assert ratio(0.5, 0.0) == 0.0
    assert table_rows({**COMPARISON, "teacher": {**TEACHER, "accuracy": 0.0}})[2][6] == "0.0%"


def test_the_written_table_is_markdown_with_its_notes(tmp_path):
    write_table(COMPARISON, tmp_path / "table.md")
    *table, empty, notes = (tmp_path / "table.md").read_text().splitlines()
    assert {line.count("|") for line in table} == {len(HEADINGS) + 1}
    assert table[1] == "| --- | " + " | ".join(["---:"] * 8) + " |"
    assert empty == ""
    assert notes.startswith("1,200 test rows, the same for all models; in brackets the accuracy's 90% interval.")
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


def test_names_in_any_script_are_drawn_without_a_word(tmp_path):
    names = ["\u6b63\u9762", "\u8d1f\u9762", "$a_b$ & $c"]  # Chinese: positive, negative
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pictures.draw_confusion(np.array([0, 1, 2]), np.array([0, 1, 1]), names, "student", tmp_path / "picture.png")
    assert imread(tmp_path / "picture.png").shape[0] > 300


def test_installed_fonts_for_other_scripts_stand_behind_the_usual_one(monkeypatch):
    usual = list(mpl.rcParams["font.family"])
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [font_manager.FontEntry(name="WenQuanYi Zen Hei")])
    with pictures.lettering():
        text = Figure().text(0, 0, "label")
    assert text.get_fontfamily() == [*usual, "WenQuanYi Zen Hei"]
    assert mpl.rcParams["font.family"] == usual


def test_a_hundred_labels_still_make_a_picture_of_bounded_size(tmp_path):
    labels = np.arange(150)
    pictures.draw_confusion(labels, labels, [f"label {n}" for n in labels], "student", tmp_path / "picture.png")
    height, width, _ = imread(tmp_path / "picture.png").shape
    assert 1000 < max(height, width) < 2500


def test_pictures_of_the_comparison_and_of_reliability(tmp_path):
    pictures.draw_comparison({"teacher": TEACHER, "student": STUDENT}, tmp_path / "comparison.png")
    bins = [{"low": 0.4, "high": 0.6, "confidence": 0.5, "accuracy": 0.4, "rows": 3}]
    entry = {"temperature": 2.0, "ece": 0.2, "ece_calibrated": 0.1, "bins": bins}
    pictures.draw_reliability({"teacher": entry, "student": entry}, tmp_path / "reliability.png")
    for name in ("comparison", "reliability"):
        red = imread(tmp_path / f"{name}.png")[:, :, 0]
        assert len(np.unique(red)) > 50
