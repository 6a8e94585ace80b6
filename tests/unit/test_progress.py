"""Progress lines: when they come and what they say, to people and to who listens."""

import logging
import sys
import threading
from types import SimpleNamespace

import pytest

from tinybert import progress
from tinybert.progress import Progress, clock, heard_by, measure_memory_anew, memory


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


def test_who_listens_is_told_what_each_line_says(said):
    now, lines = said
    shown, heard = Progress("layers", 100), []
    with heard_by(heard.append):
        for step in (10, 20, 70, 100):
            now[0] += 4
            shown.update(step, loss=0.5)
        threading.Thread(target=shown.update, args=(100,)).start()  # another thread is another stage's
    shown.update(100, loss=0.5)
    assert [(report.what, report.unit, report.done, report.total) for report in heard] == [
        ("layers", "step", 20, 100),
        ("layers", "step", 100, 100),
    ]
    # 10 steps took 4 s, so the 80 that are left take 32.
    assert [report.left for report in heard] == [32, 0]
    assert [report.numbers for report in heard] == [{"loss": 0.5}] * 2
    assert len(lines()) == 4


def test_nobody_knows_how_long_without_a_total_or_before_the_first_step(said):
    now, _ = said
    heard = []
    with heard_by(heard.append):
        for shown in (Progress("corpus", None), Progress("corpus", 100)):
            now[0] += 6
            shown.update(7)
    assert [report.left for report in heard] == [None, None]


def test_memory_is_that_of_the_process_until_it_uses_a_gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(is_initialized=lambda: False)))
    measure_memory_anew()
    [(name, gigabytes)] = memory().items()
    assert name == "memory, GB"
    assert 0.01 < gigabytes < 100
    peak = [1_500_000_000]
    cuda = {
        "is_initialized": lambda: True,
        "max_memory_allocated": lambda: peak[0],
        "reset_peak_memory_stats": peak.clear,
    }
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(**cuda)))
    assert memory() == {"GPU memory, GB": 1.5}
    measure_memory_anew()
    assert peak == []


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3661, "1:01:01")])
def test_clock(seconds, text):
    assert clock(seconds) == text
