"""Who is timed when and which number comes out; operations, bytes and tokens by hand."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from tinybert import cost, samples
from tinybert.kinds import KINDS
from tinybert.kinds.task_kind import Features
from tinybert.released import Released, Variant
from tinybert.scoring import predict

ROWS = {"text": ["the film", "a truly wonderful story", "awful"], "text_pair": [None] * 3}


@pytest.fixture(scope="module")
def tokenizer():
    return BertTokenizerFast(vocab=samples.vocabulary(), model_max_length=64)


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


@pytest.mark.parametrize("pairs", [[None] * 3, ["a film", "moving", "the cast is funny"]])
def test_an_answering_call_takes_text_to_classes(tokenizer, pairs):
    rows, asked = {**ROWS, "text_pair": pairs}, []

    class Model:
        device = torch.device("cpu")

        def __call__(self, **inputs):
            assert not torch.is_grad_enabled()
            asked.append(inputs)
            return SimpleNamespace(logits=torch.tensor([[0.0, 1.0]]).expand(len(inputs["input_ids"]), 2))

    single, batch = (cost.answering(Model(), tokenizer, 8, rows, size, KINDS["classification"]) for size in (1, 5))
    assert single(0) == [1]
    assert batch(0) == [1] * 5  # more than there are rows: they come again
    for found, places in zip(asked, ([0], [0, 1, 2, 0, 1]), strict=True):
        texts, second = ([rows[name][place] for place in places] for name in ("text", "text_pair"))
        given = (texts, second) if pairs[0] else (texts,)
        wanted = tokenizer(*given, truncation=True, max_length=8, padding=True, return_tensors="pt")
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    for run in range(30):
        single(run)
    begins = {tokenizer.decode(inputs["input_ids"][0, 1:3]) for inputs in asked[2:]}
    assert len(begins) == 3


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_an_answering_call_says_what_predict_says(tokenizer, kind):
    torch.manual_seed(0)
    shape = {"hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 2, "intermediate_size": 30}
    names = {"regression": ["stars"], "token_classification": ["O", "B-X", "I-X"]}.get(kind.name, ["start", "end"])
    config = BertConfig(vocab_size=len(tokenizer), initializer_range=0.5, **shape, **kind.options(names))
    model = kind.auto_class().from_config(config).eval()
    story = "the story is moving the cast is funny the film is awful"  # longer than a window
    rows = {"text": ["what is funny", *ROWS["text"][:2]], "text_pair": [None] * 3}
    if kind.name == "question_answering":
        rows["text_pair"] = [story, "the film", story + " " + story]
    said = predict(model, tokenizer, rows, 12, kind, precision="fp32").answers
    for batch in (1, 4):
        found, expected = cost.answering(model, tokenizer, 12, rows, batch, kind)(0), (said * 2)[:batch]
        assert found == (pytest.approx(expected, rel=1e-5) if kind.name == "regression" else expected)
    assert len(set(map(str, said))) > 1


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


def test_tokens_of_rows_are_those_of_all_their_windows():
    features = Features(np.array([5, 12, 9, 3], np.int32), np.array([0, 1, 1, 2]))
    assert cost.token_counts(features, 3).tolist() == [5, 21, 3]
