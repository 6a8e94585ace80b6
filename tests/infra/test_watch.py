"""What `make up` tells about parts while it watches them."""

from infra.stack import control, supervisor
from infra.stack.layout import Layout


def told(monkeypatch, tmp_path, *looks: tuple[str, int]) -> list[str]:
    """What is told of a part that is seen in these states with these process numbers, one look after another."""
    seen = iter([{"s3": {"statename": name, "pid": number}} for name, number in looks])
    left = [True] * (len(looks) - 1) + [False]
    monkeypatch.setattr(supervisor, "processes", lambda layout: next(seen))
    monkeypatch.setattr(supervisor, "answers", lambda layout: left.pop(0))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    return [line.split("  ", 1)[1].split(";")[0] for line in control.watch(Layout(tmp_path))]


def test_a_part_that_is_fine_is_not_talked_about(monkeypatch, tmp_path):
    assert told(monkeypatch, tmp_path, ("STARTING", 5), ("RUNNING", 5), ("RUNNING", 5)) == []


def test_a_part_that_came_back_between_two_looks_is_told_once(monkeypatch, tmp_path):
    looks = [("RUNNING", 5), ("STARTING", 6), ("RUNNING", 6)]
    assert told(monkeypatch, tmp_path, *looks) == ["s3 died and was started again"]


def test_a_part_that_is_seen_dead_is_told_once_when_it_is_back(monkeypatch, tmp_path):
    looks = [("RUNNING", 5), ("EXITED", 0), ("BACKOFF", 0), ("STARTING", 6), ("RUNNING", 6)]
    assert told(monkeypatch, tmp_path, *looks) == ["s3 died and was started again"]


def test_a_part_that_is_given_up_is_told_once(monkeypatch, tmp_path):
    looks = [("RUNNING", 5), ("BACKOFF", 0), ("FATAL", 0), ("FATAL", 0)]
    assert told(monkeypatch, tmp_path, *looks) == ["s3 dies whenever it is started, and is left alone now"]
