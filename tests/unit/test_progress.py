"""Progress lines: when they come and what they say."""

import logging

import pytest

from tinybert import progress
from tinybert.progress import Progress, clock


@pytest.fixture
def said(monkeypatch, caplog):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    logger = logging.getLogger("tinybert")
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level(logging.INFO, logger="tinybert")
    return now, lambda: [record.getMessage() for record in caplog.records]


def test_a_line_every_few_seconds_and_one_at_the_end(said):
    now, lines = said
    shown = Progress("layers", 100)
    for step in range(10, 101, 10):
        now[0] += 2
        shown.update(step, loss=0.5)
    assert lines() == [
        "layers  step 30/100  loss 0.5  ETA 0:14",
        "layers  step 60/100  loss 0.5  ETA 0:08",
        "layers  step 90/100  loss 0.5  ETA 0:02",
        "layers  step 100/100  loss 0.5  took 0:18",
    ]


def test_an_unknown_total(said):
    now, lines = said
    shown = Progress("corpus", None, unit="sequence")
    for count in range(1, 13):
        now[0] += 1
        shown.update(count)
    assert lines() == ["corpus  sequence 5  took 0:04", "corpus  sequence 10  took 0:09"]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3661, "1:01:01")])
def test_clock(seconds, text):
    assert clock(seconds) == text
