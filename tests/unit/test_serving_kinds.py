"""What students of every kind answer: what evaluation says of the same rows, with names and places people can use."""

import json
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.unit.exported import LABELS, LENGTH, NAMES, PAIRED, released, served
from tinybert import samples
from tinybert.answering import answers, asked, word_spans
from tinybert.answers import ANSWERS
from tinybert.errors import DataError
from tinybert.kinds import KINDS, kind_of
from tinybert.kinds.task_kind import Features
from tinybert.models import load_model, load_tokenizer
from tinybert.released import Released
from tinybert.scoring import predict
from tinybert.serving import ServedModel, Student, _load_pyfunc

TEXTS = [text for text, _ in samples.sentences()[::40]] + [" , ".join(text for text, _ in samples.sentences()[:5])]
CONTEXTS = [" . ".join(text for text, _ in samples.sentences()[at : at + 4]) for at in range(len(TEXTS))]
STRANGE = [None, 5, ["a"]]


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def student(kind):
    return Student.load(served(kind), threads=1)


@pytest.fixture(scope="module")
def pairs(kind):
    return CONTEXTS if kind in PAIRED else None


def numbers(answer):
    """All numbers of an answer, and the rest of it."""
    plain, found = dict(zip(released_columns(answer), answer.values(released_columns(answer)), strict=True)), []
    for name, value in plain.items():
        if isinstance(value, float):
            found.append(value)
            plain[name] = None
        if name == "entities":
            found += [entity["score"] for entity in value]
            plain[name] = [{**entity, "score": None} for entity in value]
    return found, plain


def released_columns(answer):
    kind = next(name for name, made in ANSWERS.items() if type(answer) is made)
    return released(kind).columns


def said(kind, answer):
    """An answer in the form that the kind of task has it."""
    return {
        "classification": lambda: LABELS.index(answer.label),
        "multi_label": lambda: [LABELS.index(name) for name in answer.labels],
        "regression": lambda: answer.value,
        "question_answering": lambda: answer.answer,
    }[kind]()


def test_answers_are_those_of_evaluation(kind, student, pairs):
    rows = asked(kind, TEXTS, pairs).rows
    model, tokenizer = load_model(served(kind), kind_of(kind)), load_tokenizer(served(kind))
    expected = predict(model, tokenizer, rows, LENGTH, kind_of(kind), 4, "fp32")
    found = student.answer(TEXTS, pairs)
    if kind == "token_classification":
        for answer, tags, text in zip(found, expected.answers, TEXTS, strict=True):
            covered = {place for entity in answer.entities for place in range(entity["start"], entity["end"])}
            tagged = [bool(covered & set(range(*span))) for span in word_spans(text)]
            assert tagged == [tag > 0 for tag in tags]
        assert any(answer.entities for answer in found)
        return
    values = [said(kind, answer) for answer in found]
    assert values == (pytest.approx(expected.answers, abs=1e-4) if kind == "regression" else expected.answers)
    if kind in ("classification", "question_answering"):
        assert [answer.score for answer in found] == pytest.approx(expected.confidence.tolist(), abs=1e-4)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_answers_stand_in_the_callers_order_whatever_the_batch(student, pairs, batch_size):
    together = student.answer(TEXTS, pairs, batch_size=batch_size)
    for at, answer in enumerate(together):
        alone = student.answer(TEXTS[at : at + 1], pairs and pairs[at : at + 1])[0]
        assert numbers(answer)[1] == numbers(alone)[1]
        assert numbers(answer)[0] == pytest.approx(numbers(alone)[0], abs=1e-4)


def test_what_is_no_text_gets_an_error_and_the_others_go_on(kind, student, pairs):
    texts = [TEXTS[0], *STRANGE, "", TEXTS[1]]
    found = student.answer(texts, pairs and pairs[: len(texts)])
    problems = ["is missing", "is of type int", "is of type list"]
    assert found[1:4] == [ANSWERS[kind](error=f"text {problem}; give a string") for problem in problems]
    assert [answer.error for answer in (found[0], *found[4:])] == [None] * 3
    columns = student.released.columns
    assert found[1].values(columns)[:-2] == [None] * (len(columns) - 2)


@pytest.mark.parametrize("text", ["", " \n", "\x00", "\ud800 half", "\U0001f600", "\u200d", "film " * 5_000])
def test_every_string_is_answered(kind, student, text):
    answer = student.answer([text], ["a story"] if kind in PAIRED else None)[0]
    assert answer.error is None
    assert answer.truncated == (len(text) > 1000)
    json.dumps(answer.values(student.released.columns), allow_nan=False)


def test_mlflow_gets_the_columns_of_the_kind(kind, student, pairs):
    served_model = ServedModel(student)
    rows = [list(row) for row in zip(TEXTS, pairs, strict=True)] if pairs else TEXTS
    found = served_model.predict(rows)
    assert list(found.columns) == student.released.columns
    assert found.columns.tolist()[-2:] == ["truncated", "error"]
    again = _load_pyfunc(str(served(kind))).predict(pd.DataFrame(rows))
    assert again.to_dict("records") == found.to_dict("records")
    json.dumps(found.to_dict("records"), allow_nan=False)
    refused = served_model.predict([[None, "a"]] if pairs else [None]).to_dict("records")[0]
    assert refused.pop("error") == "text is missing; give a string"
    assert set(refused.values()) == {None, False}


def test_a_question_and_its_context_may_be_called_so():
    model = ServedModel(Student.load(served("question_answering")))
    expected = model.predict([[TEXTS[0], CONTEXTS[0]]]).to_dict("records")
    names = {"question": TEXTS[0], "context": CONTEXTS[0]}
    for form in (pd.DataFrame([names]), [names], {name: [text] for name, text in names.items()}):
        assert model.predict(form).to_dict("records") == expected
    with pytest.raises(DataError, match=r"found the columns 'text', 'text'; expected 'question' and 'context'"):
        model.predict([{"text": "a", "question": "b"}])
    with pytest.raises(DataError, match="found the columns 'question', 'context'; expected 'text'"):
        ServedModel(Student.load(served("classification"))).predict([names])


def test_each_label_has_the_sigmoid_of_its_logit():
    directory = served("multi_label")
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForSequenceClassification.from_pretrained(directory)
    found = Student.load(directory).answer(TEXTS)
    assert 0 < sum(len(answer.labels) for answer in found) < len(LABELS) * len(found)
    for text, answer in zip(TEXTS, found, strict=True):
        with torch.no_grad():
            inputs = tokenizer(text, truncation=True, max_length=LENGTH, return_tensors="pt")
            expected = model(**inputs).logits[0].sigmoid().tolist()
        assert answer.probabilities == pytest.approx(dict(zip(LABELS, expected, strict=True)), abs=1e-5)
        assert answer.labels == [name for name, chance in zip(LABELS, expected, strict=True) if chance > 0.5]


def test_words_are_cut_out_of_the_text():
    text = "Mr. O'Neil, 33,  well-known\tin U.S. \u5317\u4eac2024\u5e74! (e\u0301t\u00e9) -3.5 a_b \U0001f600"
    expected = ["Mr", ".", "O'Neil", ",", "33", ",", "well-known", "in", "U.S", ".", "\u5317", "\u4eac", "2024"]
    expected += ["\u5e74", "!", "(", "e\u0301t\u00e9", ")", "-", "3.5", "a_b", "\U0001f600"]
    assert [text[start:end] for start, end in word_spans(text)] == expected


@given(st.text())
def test_words_hold_all_of_a_text_but_its_white_space(text):
    spans = word_spans(text)
    assert "".join(text[start:end] for start, end in spans) == "".join(text.split())
    assert all(one[1] <= other[0] for one, other in pairwise(spans))


def hand_made(logits, lengths, rows, places):
    """Features of rows, and the logits of their tokens."""
    features = Features(np.array(lengths, np.int32), np.array(rows, np.int64), np.array(places, np.int32))
    return np.array(logits, np.float32), features


def test_entities_stand_where_their_words_do():
    text = "I saw  Ada Lovelace, twice."
    tags = {"Ada": 1, "Lovelace": 2}
    model = released("token_classification", labels=["O", "B-PER", "I-PER"])
    words = [text[start:end] for start, end in word_spans(text)]
    chances = [
        [8, 1, 1] if word not in tags else [1, 1 + 7 * (tags[word] == 1), 1 + 6 * (tags[word] == 2)] for word in words
    ]
    # [CLS], a piece for each word but a second one for Lovelace, [SEP].
    places = [-1, *range(4), -1, *range(4, len(words)), -1]
    logits = [[0, 9, 0] if place < 0 else np.log(chances[place]) for place in places]
    found = answers(model, *hand_made(logits, [len(places)], [0], [[place] for place in places]),
                    asked("token_classification", [text], None), [False])  # fmt: skip
    [entity] = found[0].entities
    assert (entity["label"], entity["text"], entity["start"], entity["end"]) == ("PER", "Ada Lovelace", 7, 19)
    assert entity["score"] == pytest.approx(7 / 9)
    assert found[0].given == ["PER"]


def test_words_that_were_not_read_are_in_no_entity():
    model = released("token_classification", labels=["NOUN", "VERB"])
    logits, features = hand_made([[0, 0], [1, 0], [0, 2], [0, 0]], [4], [0], [[-1], [0], [1], [-1]])
    [found] = answers(model, logits, features, asked("token_classification", ["dogs bark loudly"], None), [True])
    assert [(entity["label"], entity["text"]) for entity in found.entities] == [("NOUN", "dogs"), ("VERB", "bark")]
    assert found.truncated


def test_an_answer_stands_where_its_tokens_do_and_not_where_its_text_stands_first():
    context = "oslo or  oslo ?"
    # [CLS] question [SEP] oslo or (the blank and) oslo ? [SEP]
    places = [[-1, -1]] * 3 + [[0, 4], [5, 7], [8, 13], [14, 15], [-1, -1]]
    logits = np.zeros((8, 2))
    logits[5] = 6, 5
    examples = asked("question_answering", ["where ?"], [context])
    [found] = answers(released("question_answering"), *hand_made(logits, [8], [0], places), examples, [False])
    assert (found.answer, found.start, found.end, found.given) == ("oslo", 9, 13, ["answerable"])
    assert found.score == pytest.approx(np.exp(11) / ((7 + np.exp(6)) * (7 + np.exp(5))))
    logits[0] = 9, 9
    [found] = answers(released("question_answering"), *hand_made(logits, [8], [0], places), examples, [False])
    assert (found.answer, found.start, found.end, found.given) == ("", None, None, ["unanswerable"])


def test_an_old_serving_json_is_that_of_a_classifier(tmp_path):
    released("classification").write(tmp_path)
    written = json.loads((tmp_path / "serving.json").read_text())
    del written["kind"]
    (tmp_path / "serving.json").write_text(json.dumps(written))
    assert Released.read(tmp_path) == released("classification")


def test_the_columns_of_each_kind():
    chances = [f"p_{name}" for name in LABELS]
    expected = {
        "classification": ["label", "score", *chances],
        "multi_label": ["labels", *chances],
        "regression": ["value"],
        "token_classification": ["entities"],
        "question_answering": ["answer", "start", "end", "score"],
    }
    assert {kind: released(kind).columns for kind in NAMES} == {
        kind: [*columns, "truncated", "error"] for kind, columns in expected.items()
    }


def test_a_student_that_learnt_from_answers_alone_always_gives_one():
    examples = asked("question_answering", ["q"], ["a b"])
    places_T2 = np.array([[-1, -1], [-1, -1], [-1, -1], [0, 1], [2, 3], [-1, -1]], np.int32)  # [CLS] q [SEP] a b [SEP]
    features = Features(np.array([6], np.int32), np.array([0]), places_T2)
    logits_T2 = np.zeros((6, 2))
    logits_T2[0], logits_T2[4] = 9, 5
    for always, expected in ((False, ("", None)), (True, ("b", 2))):
        model = released("question_answering", always_answers=always)
        (answer,) = answers(model, logits_T2, features, examples, [False])
        assert (answer.answer, answer.start) == expected
