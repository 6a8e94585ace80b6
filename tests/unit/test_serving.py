"""Any input gets its answer: the right one, in its place, or an error of its own."""

import json
import logging
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer

from tests.unit.exported import LABELS, LENGTH, altered, exported, network
from tinybert.answers import ClassAnswer
from tinybert.errors import DataError, ModelError
from tinybert.kinds import kind_of
from tinybert.models import load_model
from tinybert.onnx_model import OnnxModel
from tinybert.released import Released, Variant
from tinybert.serving import ServedModel, Student, _load_pyfunc, load_variant

TEXTS = ["the film is wonderful", "awful", "a truly boring script and a truly boring story , I say", "", "what music"]
VARIANTS = {
    "torch": Variant(file="model.safetensors", temperature=2.0),
    "onnx": Variant(file="onnx/model.onnx", temperature=0.5),
    "int8": Variant(file="onnx/model_int8.onnx", temperature=1.5),
}


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """The export, for single texts and with temperatures; ONNX answers."""
    return altered(tmp_path_factory.mktemp("s") / "single", pair=False, variants=VARIANTS, default="onnx")


@pytest.fixture(scope="module")
def classifier(single):
    return Student.load(single, threads=1)


@pytest.fixture(scope="module")
def pairs():
    return Student.load(exported().out, "onnx", threads=1)


def chances(text, pair=None, temperature=1.0):
    """Of the exported model, by transformers and torch alone."""
    tokenizer = AutoTokenizer.from_pretrained(exported().out)
    with torch.no_grad():
        inputs = tokenizer(text, pair, truncation=True, max_length=LENGTH, return_tensors="pt")
        return (network()(**inputs).logits[0] / temperature).softmax(dim=0).tolist()


@pytest.mark.parametrize(("variant", "temperature"), [("torch", 2.0), ("onnx", 0.5), (None, 0.5)])
def test_probabilities_are_calibrated_by_the_variants_temperature(single, variant, temperature):
    for text, answer in zip(TEXTS, Student.load(single, variant).answer(TEXTS), strict=True):
        expected = chances(text, temperature=temperature)
        assert list(answer.probabilities.values()) == pytest.approx(expected, abs=1e-4)
        assert list(answer.probabilities) == LABELS
        assert answer.label == LABELS[int(np.argmax(expected))]
        assert answer.score == max(answer.probabilities.values())
        assert (answer.error, sum(answer.probabilities.values())) == (None, pytest.approx(1))


def test_pairs_are_read_together(pairs):
    answer = pairs.answer(["the film is wonderful"], ["a boring story"])[0]
    assert list(answer.probabilities.values()) == pytest.approx(
        chances("the film is wonderful", "a boring story"), abs=1e-4
    )
    swapped = pairs.answer(["a boring story"], ["the film is wonderful"])[0]
    assert abs(swapped.probabilities["good"] - answer.probabilities["good"]) > 1e-3


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_answers_stand_in_the_callers_order(classifier, batch_size):
    alone = [classifier.answer([text])[0] for text in TEXTS]
    assert len({answer.score for answer in alone}) == len(TEXTS)
    for one, other in zip(classifier.answer(TEXTS, batch_size=batch_size), alone, strict=True):
        assert list(one.probabilities.values()) == pytest.approx(list(other.probabilities.values()), abs=1e-4)


def test_what_is_no_text_gets_an_error_and_the_others_go_on(classifier):
    strange = [None, 5, 1.5, ["a"], b"bytes", {"text": "a"}, True]
    answers = classifier.answer([TEXTS[0], *strange, TEXTS[1]])
    assert answers[0].label == classifier.answer([TEXTS[0]])[0].label
    assert answers[-1].label == classifier.answer([TEXTS[1]])[0].label
    kinds = ["is missing", *(f"is of type {k}" for k in ("int", "float", "list", "bytes", "dict", "bool"))]
    assert answers[1:-1] == [ClassAnswer(error=f"text {kind}; give a string") for kind in kinds]
    assert classifier.answer([None]) == [ClassAnswer(error="text is missing; give a string")]
    assert classifier.answer([]) == []


@pytest.mark.parametrize(
    "text", ["", "   ", "\n\t", "\x00", "\ud800 half", "\U0001f600", "a" * 100_000, "film " * 20_000]
)
def test_every_string_is_answered(classifier, text):
    answer = classifier.answer([text])[0]
    assert answer.error is None
    assert answer.label in LABELS


def test_a_pair_model_wants_both_and_another_wants_one(classifier, pairs):
    found = pairs.answer(["a", "a", "a"], ["b", None, 7])
    assert [answer.error for answer in found[1:]] == [
        "text_pair is missing; give a string",
        "text_pair is of type int; give a string",
    ]
    assert found[0].label in LABELS
    assert pairs.answer(["a"])[0].error == "text_pair is missing; give a string"
    found = classifier.answer(["a", "a"], [None, "b"])
    assert found[0].label in LABELS
    assert found[1].error == "text_pair is given, but the model reads single texts; leave it out"


def test_calls_that_make_no_sense_are_refused(classifier):
    with pytest.raises(DataError, match="2 texts but 1 pairs"):
        classifier.answer(["a", "b"], ["c"])
    with pytest.raises(DataError, match="give a list of strings"):
        classifier.answer("the film")


def test_truncated_says_whether_tokens_were_left_out(classifier):
    fits, spills = "film " * (LENGTH - 2), "film " * (LENGTH - 1)
    assert [answer.truncated for answer in classifier.answer([fits, spills, "film " * 5000])] == [False, True, True]


def test_without_onnxruntime_torch_answers_with_one_warning(single, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with caplog.at_level(logging.WARNING, "tinybert"):
        answers = Student.load(single).answer(TEXTS)
    assert [record.message for record in caplog.records] == [caplog.messages[0]]
    assert "onnxruntime cannot be imported" in caplog.messages[0]
    assert list(answers[0].probabilities.values()) == pytest.approx(chances(TEXTS[0], temperature=2.0), abs=1e-4)


def test_a_variant_is_loaded_by_name(single):
    assert isinstance(load_variant(single, "int8", 1), OnnxModel)
    assert isinstance(load_variant(single), OnnxModel)
    assert type(load_variant(single, "torch")) is type(load_model(single, kind_of("classification")))
    with pytest.raises(ModelError, match=r"no variant 'fp16'; choose one of torch, onnx, int8"):
        load_variant(single, "fp16")
    with pytest.raises(ModelError, match=r"no serving\.json; name a model that this pipeline exported"):
        load_variant(exported().student)


FORMS = {
    "list": ["the film", "awful"],
    "tuple": ("the film", "awful"),
    "array": np.array(["the film", "awful"]),
    "object array": np.array(["the film", "awful"], dtype=object),
    "column of an array": np.array([["the film"], ["awful"]]),
    "series": pd.Series(["the film", "awful"]),
    "records": [{"text": "the film"}, {"text": "awful"}],
    "columns": {"text": ["the film", "awful"]},
    "columns of arrays": {"text": np.array(["the film", "awful"])},
    "table": pd.DataFrame({"text": ["the film", "awful"]}),
    "column without a name": pd.DataFrame(["the film", "awful"]),
    "table with empty pairs": pd.DataFrame({"text_pair": [None, float("nan")], "text": ["the film", "awful"]}),
}


@pytest.mark.parametrize("form", FORMS)
def test_mlflow_may_hand_on_texts_in_any_form(classifier, form):
    found = ServedModel(classifier).predict(FORMS[form])
    expected = classifier.answer(["the film", "awful"])
    assert list(found.columns) == ["label", "score", "p_bad", "p_good", "p_neither", "truncated", "error"]
    assert found["label"].tolist() == [answer.label for answer in expected]
    assert found["p_good"].tolist() == [answer.probabilities["good"] for answer in expected]


PAIR_FORMS = {
    "records": [{"text": "the film", "text_pair": "a story"}],
    "list of lists": [["the film", "a story"]],
    "array": np.array([["the film", "a story"]]),
    "columns": {"text": ["the film"], "text_pair": ["a story"]},
    "scalars": {"text": "the film", "text_pair": "a story"},
    "table": pd.DataFrame({"text_pair": ["a story"], "text": ["the film"]}),
    "table without names": pd.DataFrame([["the film", "a story"]]),
    "lists in one column": pd.DataFrame({0: [["the film", "a story"]]}),
}


@pytest.mark.parametrize("form", PAIR_FORMS)
def test_mlflow_may_hand_on_pairs_in_any_form(pairs, form):
    found = ServedModel(pairs).predict(PAIR_FORMS[form])
    assert found["p_good"].tolist() == [pairs.answer(["the film"], ["a story"])[0].probabilities["good"]]


@pytest.mark.parametrize(
    "given",
    [
        pd.DataFrame({"text": ["a"], "langauge": ["en"]}),
        pd.DataFrame({"text_pair": ["a"]}),
        pd.DataFrame({"one": ["a"], "two": ["b"]}),
        [{"sentence": "a"}],
        {"text": ["a"], "id": [1]},
        pd.DataFrame(),
    ],
)
def test_columns_that_nobody_reads_are_named(classifier, given):
    with pytest.raises(DataError, match=r"found the columns .*; expected 'text' \(and 'text_pair'\), or one column"):
        ServedModel(classifier).predict(given)


def test_served_answers_are_json_whatever_came_in(classifier):
    found = ServedModel(classifier).predict(["the film", None, float("nan"), 5, np.nan])
    records = json.loads(json.dumps(found.to_dict(orient="records"), allow_nan=False))
    assert [record["error"] is None for record in records] == [True, False, False, False, False]
    nothing = {"label": None, "score": None, "truncated": False, "p_bad": None, "p_good": None, "p_neither": None}
    assert records[1] == {**nothing, "error": "text is missing; give a string"}
    assert ServedModel(classifier).predict([]).to_dict(orient="records") == []


def test_mlflow_loads_the_default_with_the_threads_it_is_given(monkeypatch):
    asked = []
    original = Student.load.__func__
    monkeypatch.setattr(Student, "load", classmethod(lambda *a, **k: asked.append(k["threads"]) or original(*a, **k)))
    for value, threads in (("3", 3), ("", None), ("4,2", None)):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert _load_pyfunc(str(exported().out)).predict([["a", "b"]])["label"][0] in LABELS
        assert asked.pop() == threads
    assert Released.read(exported().out).default == "int8"
