"""What a run says at its end: the table and the further tests, and how the student is asked."""

import pytest

from flows.command import show, where
from tasks.run import _columns
from tasks.summary import RunSummary
from tinybert.refs import ModelRef
from tinybert.released import Released, Variant

NUMBERS = {
    **{"pearson": 0.8, "pearson_low": 0.75, "pearson_high": 0.85, "spearman": 0.79, "agreement": 1.0},
    **{"parameters": 2000.0, "megabytes": 8.0, "latency_ms": 10.0},
}
COMPARISON = {
    **{"kind": "regression", "metric": "pearson", "metrics": ["pearson", "spearman"], "rows": 1500},
    "teacher": NUMBERS,
    "student": {**NUMBERS, "pearson": 0.72},
    "int8": {**NUMBERS, "pearson": 0.6, "spearman": 0.5},
    "other_tests": {"late": {"rows": 1200, "teacher": {"pearson": 0.71}, "student": {"pearson": 0.64}}},
}
DECISION = {
    **{"served": "int8", "summary": "Reject int8 [for now].", "rules": []},
    **{"retention": 0.75, "speedup": 2.0, "megabytes": 2.0, "latency_ms": 5.0, "difference": None, "p_value": None},
}


@pytest.fixture
def summary(tmp_path, monkeypatch):
    """Gives the summary of a run of a kind of task whose model lies in the working directory."""
    monkeypatch.chdir(tmp_path)

    def summary(kind="regression", pair=False):
        (tmp_path / "model").mkdir()
        variants = {"torch": Variant(file="model.safetensors")}
        released = Released(kind=kind, labels=["x"], max_length=16, pair=pair, default="torch", variants=variants)
        released.write(tmp_path / "model")
        return RunSummary(
            name="stars",
            comparison={**COMPARISON, "kind": kind},
            decision=DECISION,
            stages=[],
            seconds=1.0,
            model=ModelRef(uri="s3://bucket/model", digest="ab" * 32),
            model_directory=str(tmp_path / "model"),
            report_directory=str(tmp_path),
            page=str(tmp_path / "report.html"),
            tracking_uri="sqlite:///mlflow.db",
        )

    return summary


def test_the_closing_table_has_the_scores_of_the_task(summary, capsys):
    show(summary())
    said = capsys.readouterr().out
    for words in ("Pearson", "Spearman", "stars: 1,500 test rows", "(75.0-85.0)", "90.0%"):
        assert words in said
    assert "late (1,200 rows), Pearson correlation: teacher 71.0%, student 64.0%\n" in said
    assert "Reject int8 [for now].\n" in said


def test_mlflow_is_told_the_scores_of_the_task(summary):
    expected = {"pearson": 0.6, "spearman": 0.5, "teacher_pearson": 0.8, "student_pearson": 0.72, "int8_pearson": 0.6}
    expected |= {"retention": 0.75, "speedup": 2.0, "megabytes": 2.0, "latency_ms": 5.0}
    assert _columns(summary()) == expected


@pytest.mark.parametrize(
    ("kind", "pair", "said"),
    [
        ("classification", False, ["pipeline('text-classification'", "truncation=True", "('A text to classify')"]),
        ("classification", True, ["'text': 'A text to classify', 'text_pair': 'Its pair'"]),
        ("multi_label", False, ["pipeline('text-classification'", "top_k=None"]),
        ("regression", False, ["pipeline('text-classification'"]),
        ("token_classification", False, ["pipeline('token-classification'", "aggregation_strategy="]),
        ("question_answering", True, ["tinybert.serving", "Where was Ada Lovelace born?", "was born in London."]),
    ],
)
def test_the_student_is_asked_as_its_kind_of_task_wants(summary, kind, pair, said):
    lines = where(summary(kind, pair))
    first = next(number for number, line in enumerate(lines) if line.startswith("predict:"))
    code = "\n".join(line[10:] for line in lines[first:])
    assert all(words in code.replace('"', "'") for words in [*said, "'model'"])
    compile(code, "where", "exec")
