"""Scores and the table, by hand."""

import numpy as np
import pytest
import torch

from tinybert.metrics import classification_scores, majority_share
from tinybert.report import table_rows, write_table

COMPARISON = {
    "teacher": {"accuracy": 0.8, "f1_macro": 0.79, "parameters": 2000, "megabytes": 8.0, "latency_ms": 10.0},
    "student": {"accuracy": 0.76, "f1_macro": 0.75, "parameters": 1000, "megabytes": 4.0, "latency_ms": 4.0},
}


def test_scores_by_hand():
    # Three of four right. Class 0: precision 1, recall 1/2, F1 2/3. Class 1: precision 2/3, recall 1, F1 4/5.
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [0.0, 3.0], [-1.0, 0.0]])
    scores = classification_scores(logits, np.array([0, 0, 1, 1]))
    assert scores == {"accuracy": 0.75, "f1_macro": pytest.approx((2 / 3 + 4 / 5) / 2)}


def test_majority_share():
    assert majority_share(np.array([1, 1, 0, 2])) == 0.5


def test_table(tmp_path):
    rows = table_rows(COMPARISON)
    assert rows[1] == ["teacher", "80.0%", "0.790", "2,000", "8.0", "10.0", "100.0%", "1.0x"]
    assert rows[2] == ["student", "76.0%", "0.750", "1,000", "4.0", "4.0", "95.0%", "2.5x"]
    write_table(COMPARISON, tmp_path / "table.md")
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert len(lines) == 4
    assert {line.count("|") for line in lines} == {9}
