"""Who is timed when and which number comes out; operations, bytes and tokens by hand."""

import time

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from tinybert import cost
from tinybert.released import Released, Variant

ROWS = {"text": ["the film", "a truly wonderful story", "awful"], "text_pair": [None] * 3}


class Clock:
    """Time that passes only when a call says so."""

    def __init__(self, monkeypatch):
        self.now, self.calls = 0.0, []
        monkeypatch.setattr(cost.time, "perf_counter", lambda: self.now)

    def call(self, name, seconds):
        def run(number):
            self.calls.append(name)
            self.now += seconds[number % len(seconds)]

        return run


def test_percentiles_of_what_is_timed(monkeypatch):
    clock = Clock(monkeypatch)
    slow = [0.001 * (1 + number) for number in range(101)]  # 1 to 101 ms, so the 95th of 100 parts is at 96
    found = cost.latencies({"slow": clock.call("slow", slow), "fast": clock.call("fast", [0.0005])}, runs=101)
    wanted = {"latency_ms": 51, "latency_p95_ms": 96, "latency_p99_ms": 100}
    assert found["slow"] == {key: pytest.approx(value) for key, value in wanted.items()}
    assert found["fast"] == {key: pytest.approx(0.5) for key in wanted}


def test_models_take_turns_each_after_an_untimed_call_of_its_own(monkeypatch):
    clock, names = Clock(monkeypatch), ("a", "b", "c")
    times = cost.interleaved({name: clock.call(name, [0.001]) for name in names}, runs=20)
    assert all(len(values) == 20 for values in times.values())
    in_turn = clock.calls[len(names) * (cost.WARM_UP + 1) :]
    assert in_turn[::2] == in_turn[1::2]
    rounds = {tuple(in_turn[start : start + 6 : 2]) for start in range(0, len(in_turn), 6)}
    assert all(sorted(order) == list(names) for order in rounds)
    assert len(rounds) > 3  # of the six orders


def test_throughput_is_rows_over_the_median_time(monkeypatch):
    clock = Clock(monkeypatch)
    batches = {"model": clock.call("batch", [9.0, 0.5, 0.5, 4.0, 0.5])}
    found = cost.throughputs(batches, batch=8, runs=5, settling={"model": clock.call("single", [0.1])})
    assert found == {"model": pytest.approx(16)}
    assert clock.calls.count("batch") == 5 + 1  # one to warm up


def test_a_planted_slow_model_shows():
    wait = {"plain": 0.0, "slow": 0.003}
    calls = {name: lambda run, seconds=seconds: time.sleep(seconds) for name, seconds in wait.items()}
    found = cost.latencies(calls, runs=5)
    assert found["slow"]["latency_ms"] > 3 > found["plain"]["latency_ms"]


def test_threads_are_put_back():
    before = torch.get_num_threads()
    with cost.torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with cost.torch_threads(None):
        assert torch.get_num_threads() == before


def test_an_answering_call_takes_text_to_classes(smoke_material):
    tokenizer = AutoTokenizer.from_pretrained(smoke_material / "teacher")
    asked = []

    class Model:
        device = torch.device("cpu")

        def __call__(self, input_ids, attention_mask, token_type_ids):
            assert not torch.is_grad_enabled()
            asked.append(tokenizer.batch_decode(input_ids, skip_special_tokens=True))
            return type("Output", (), {"logits": torch.tensor([[0.0, 1.0]]).expand(len(input_ids), 2)})

    single, batch = (cost.answering(Model(), tokenizer, 16, ROWS, size) for size in (1, 5))
    assert single(0) == [1]
    assert batch(0) == [1] * 5  # more than there are rows: they come again
    assert asked == [["the film"], [*ROWS["text"], *ROWS["text"][:2]]]
    for run in range(30):
        single(run)
    assert {texts[0] for texts in asked[2:]} == set(ROWS["text"])


def test_operations_by_hand():
    hidden, inner, layers, length, classes = 24, 30, 4, 7, 2
    shape = {"vocab_size": 50, "hidden_size": hidden, "num_attention_heads": 3, "intermediate_size": inner}
    model = BertForSequenceClassification(BertConfig(**shape, num_hidden_layers=layers)).eval()
    projections = 4 * 2 * length * hidden * hidden
    attention = 2 * 2 * length * length * hidden
    feed_forward = 2 * 2 * length * hidden * inner
    head = 2 * hidden * hidden + 2 * hidden * classes
    expected = layers * (projections + attention + feed_forward) + head
    assert cost.gigaflops(model, length) == pytest.approx(expected / 1e9)


def test_megabytes_of_each_variant(tmp_path):
    sizes = {"model-1.safetensors": 300, "model-2.safetensors": 500, "tokenizer.json": 9}
    sizes |= {"onnx/model.onnx": 607, "onnx/model_int8.onnx": 200}
    for name, size in sizes.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    files = {"torch": "model.safetensors", "onnx": "onnx/model.onnx", "int8": "onnx/model_int8.onnx"}
    variants = {name: Variant(file=file) for name, file in files.items()}
    Released(labels=["a", "b"], max_length=16, pair=False, default="int8", variants=variants).write(tmp_path)
    found = {name: cost.megabytes(tmp_path, name) for name in files}
    assert found == {"torch": 800 / 1e6, "onnx": 607 / 1e6, "int8": 200 / 1e6}
    assert cost.megabytes(tmp_path) == found["torch"]


def test_tokens_of_rows(smoke_material):
    tokenizer = AutoTokenizer.from_pretrained(smoke_material / "teacher")
    assert tokenizer.tokenize("a truly wonderful story") == ["a", "truly", "wonderful", "story"]
    counts = cost.token_counts(tokenizer, {"text": ROWS["text"][:2] * 700, "text_pair": [None] * 1400}, 5)
    np.testing.assert_array_equal(counts, [4, 5] * 700)  # [CLS] and [SEP] with them, cut at 5
    pairs = cost.token_counts(tokenizer, {"text": ["the film"], "text_pair": ["a story"]}, 16)
    assert pairs.tolist() == [7]
