"""Interleaved timing: who is called when, and which number comes out."""

import torch

from tinybert import latency


def test_calls_take_turns_and_the_median_counts(monkeypatch):
    now, calls = [0.0], []
    monkeypatch.setattr(latency.time, "perf_counter", lambda: now[0])

    def call(name, seconds):
        def run(number):
            calls.append((name, number))
            now[0] += seconds[number]

        return run

    medians = latency.interleaved_medians(
        {"slow": call("slow", [0.004, 0.002, 0.009, 0, 0]), "fast": call("fast", [0.001, 0.001, 0.5, 0, 0])}, runs=3
    )
    assert {name: round(value, 6) for name, value in medians.items()} == {"slow": 4.0, "fast": 1.0}
    timed = calls[2 * latency.WARM_UP :]
    assert timed == [("slow", 0), ("fast", 0), ("slow", 1), ("fast", 1), ("slow", 2), ("fast", 2)]


def test_threads_are_put_back():
    before = torch.get_num_threads()
    with latency.torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with latency.torch_threads(None):
        assert torch.get_num_threads() == before
