"""A suite's table: scores as a benchmark averages them, failed runs beside finished ones."""

import pytest
from matplotlib.image import imread

from tinybert.suite_report import TaskLine, average, draw, line, markdown, table_rows

DECISION = {"served": "int8", "speedup": 5.0, "megabytes": 14.5, "verdict": "promote"}


def scores(**values: float) -> dict[str, dict[str, float]]:
    """The teacher's are 0.1 higher."""
    return {"int8": values, "teacher": {name: value + 0.1 for name, value in values.items()}}


def test_a_task_is_scored_by_the_metric_that_decides():
    comparison = {"metric": "mcc", "metrics": ["mcc", "accuracy"], "rows": 50, **scores(mcc=0.4, accuracy=0.8)}
    found = line("cola", "glue/cola", comparison, DECISION, 60.0, "file:/model", {})
    assert (found.student, found.teacher) == pytest.approx((0.4, 0.5))
    assert found.retention == pytest.approx(0.8)
    assert (found.scores, found.verdict) == ("Matthews correlation", "promote")


def test_mrpc_counts_with_the_mean_of_its_two_scores():
    comparison = {"metric": "f1", "metrics": ["f1", "accuracy"], "rows": 50, **scores(f1=0.8, accuracy=0.6)}
    found = line("mrpc", "glue/mrpc", comparison, DECISION, 60.0, "file:/model", {})
    assert (found.student, found.teacher) == pytest.approx((0.7, 0.8))
    assert found.scores == "F1 and accuracy"


def test_a_further_test_counts_as_much_as_the_first():
    other = {"mismatched": {"rows": 10, **scores(accuracy=0.6)}}
    comparison = {"metric": "accuracy", "metrics": ["accuracy"], "rows": 50, "other_tests": other}
    found = line("mnli", "glue/mnli", comparison | scores(accuracy=0.8), DECISION, 60.0, "file:/model", {})
    assert (found.student, found.teacher) == pytest.approx((0.7, 0.8))
    assert found.scores == "accuracy, mismatched"


LINES = [
    TaskLine(task="a", scores="F1", teacher=0.8, student=0.6, retention=0.75, verdict="promote", seconds=60),
    TaskLine(task="b", verdict="failed", seconds=30),
    TaskLine(task="c", scores="F1", teacher=0.4, student=0.4, retention=1.0, verdict="reject", seconds=30),
]


def test_the_average_is_of_the_runs_that_finished():
    assert average(LINES) == pytest.approx({"teacher": 0.6, "student": 0.5, "retention": 5 / 6})
    assert average(LINES[1:2]) == {}


def test_the_table_has_every_run_and_the_average_last():
    header, *rows = table_rows(LINES)
    assert [row[0] for row in rows] == ["a", "b", "c", "average of 2 of 3"]
    assert all(len(row) == len(header) for row in rows)
    assert rows[-1][2:5] == ["60.0", "50.0", "83.3"]
    assert rows[-1][-1] == "2.0"
    assert rows[1][8] == "failed"
    assert markdown("suite", LINES).count("\n") == 2 + 2 + 4


def test_the_table_leads_to_the_pages_of_the_runs_where_there_are_any():
    pages = {"MLflow run": "http://mlflow/#/runs/1", "report": "http://mlflow/#/runs/1/artifacts/report.html"}
    shown = markdown("suite", [LINES[0].model_copy(update={"pages": pages}), *LINES[1:]]).splitlines()
    links = "[MLflow run](http://mlflow/#/runs/1), [report](http://mlflow/#/runs/1/artifacts/report.html)"
    assert shown[2].endswith("| minutes | pages |")
    assert [line.count("|") for line in shown[2:]] == [12] * 6
    assert [line.split("|")[-2].strip() for line in shown[4:]] == [links, "", "", ""]
    assert "pages" not in markdown("suite", LINES)


def test_the_average_of_all_or_none_does_not_say_of_how_many():
    assert [table_rows(lines)[-1][0] for lines in (LINES[::2], LINES[1:2])] == ["average", "average"]


def test_the_picture_has_a_pair_of_bars_for_each_finished_run(tmp_path):
    draw(LINES, tmp_path / "suite.png")
    assert imread(tmp_path / "suite.png").std() > 0.05
