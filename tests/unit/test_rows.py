"""Tokenised rows: what the tokenizer itself would have given, batch by batch."""

import json
import string
from dataclasses import asdict

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, RobertaTokenizer

from tinybert import rows as module
from tinybert.data import SPLITS, RowWriter, TaskData, write_manifest
from tinybert.errors import DataError
from tinybert.rows import TaskRows, TokenTable, imitation_rows, task_rows
from tinybert.samples import sentences
from tinybert.teacher_cache import StateShape, TeacherCache, row_keys

TEXTS = [text for text, _ in sentences()[::7]]
PAIRS = ["boring", "a truly boring camera , I say", "the cast", "moving"]


@pytest.fixture(scope="module", params=["bert", "roberta"])
def tokenizer(request, smoke_material):
    """BERT's, which tells the segments of a pair apart, and RoBERTa's, which does not and pads with 1."""
    if request.param == "bert":
        return AutoTokenizer.from_pretrained(smoke_material / "teacher")
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *string.ascii_letters, *string.punctuation, "\u0120"]
    return RobertaTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[])


def dataset(texts, pairs=None):
    pairs = pairs if pairs is not None else [None] * len(texts)
    return Dataset.from_dict({"text": texts, "text_pair": pairs, "label": [n % 2 for n in range(len(texts))]})


def expected(tokenizer, texts, pairs, max_length):
    encoded = tokenizer(texts, pairs, truncation=True, max_length=max_length, padding=True, return_tensors="pt")
    return {name: tensor for name, tensor in encoded.items() if name in tokenizer.model_input_names}


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert found[name].dtype == torch.int64
        assert torch.equal(found[name], wanted[name]), name


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("max_length", [64, 9])
def test_batches_are_the_tokenizers_own(tokenizer, paired, max_length, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 10)
    pairs = [PAIRS[n % 4] for n in range(len(TEXTS))] if paired else None
    table = TokenTable(dataset(TEXTS, pairs), tokenizer, max_length)
    assert len(table) == len(TEXTS)
    assert ("token_type_ids" in table.inputs(np.array([0]))) == ("token_type_ids" in tokenizer.model_input_names)
    for chosen in (np.arange(len(TEXTS)), np.array([3]), np.array([20, 5, 5, len(TEXTS) - 1]), np.arange(8, 13)):
        own = [TEXTS[n] for n in chosen], [pairs[n] for n in chosen] if pairs else None
        assert_same(table.inputs(chosen), expected(tokenizer, *own, max_length))
    lengths = expected(tokenizer, TEXTS, pairs, max_length)["attention_mask"].sum(1)
    assert table.lengths.tolist() == lengths.tolist()
    assert table.lengths.max() <= max_length


@settings(deadline=None, max_examples=30)
@given(st.lists(st.text(string.ascii_lowercase + " ,.", max_size=40), min_size=1, max_size=8))
def test_any_texts(smoke_material, texts):
    tokenizer = AutoTokenizer.from_pretrained(smoke_material / "teacher")
    table = TokenTable(dataset(texts), tokenizer, 12)
    assert_same(table.inputs(np.arange(len(texts))), expected(tokenizer, texts, None, 12))


def test_task_rows_bring_their_labels(smoke_material):
    tokenizer = AutoTokenizer.from_pretrained(smoke_material / "teacher")
    rows = task_rows(dataset(TEXTS), tokenizer, 64)
    assert isinstance(rows, TaskRows)
    assert len(rows) == len(rows.lengths) == len(TEXTS)
    batch = rows.batch(np.array([4, 7, 6]), torch.Generator())
    assert batch.keys() == {"input_ids", "attention_mask", "token_type_ids", "labels"}
    assert batch["labels"].tolist() == [0, 1, 0]
    assert batch["labels"].dtype == torch.int64


def test_the_table_leaves_no_file_behind(smoke_material, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tokenizer = AutoTokenizer.from_pretrained(smoke_material / "teacher")
    table = TokenTable(dataset(TEXTS), tokenizer, 64)
    assert not list(tmp_path.iterdir())
    assert_same(table.inputs(np.array([0, 1])), expected(tokenizer, TEXTS[:2], None, 64))


# The teacher's answers ------------------------------------------------------------------------------------------------


def write_data(directory, texts):
    directory.mkdir()
    for split in SPLITS:
        with RowWriter(directory / f"{split}.arrow") as writer:
            for number, (text, pair) in enumerate(texts):
                writer.add(text, pair, len(text) % 2, number)
    write_manifest(directory, ["bad", "good"], 16)
    return TaskData(directory)


def write_answers(directory, task, tokenizer, numbers):
    """Answers with states, as the stage `targets` writes them; a row's are drawn from its number."""
    directory.mkdir()
    table, shape = task_rows(task.rows("train"), tokenizer, task.max_length), StateShape("scores", (2,), 4, 2)
    np.save(directory / "keys.npy", row_keys(task.rows("train"), task.max_length))
    np.save(directory / "lengths.npy", table.lengths)
    np.save(directory / "logits.npy", np.array([[number, -number] for number in numbers], np.float32))
    sizes = shape.numbers(table.lengths).tolist()
    states = [
        torch.randn(size, generator=torch.Generator().manual_seed(number))
        for size, number in zip(sizes, numbers, strict=True)
    ]
    torch.cat(states).to(torch.bfloat16).view(torch.int16).numpy().tofile(directory / "states.bin")
    (directory / "manifest.json").write_text(json.dumps({"rows": len(numbers), "states": asdict(shape)}))
    return TeacherCache(directory)


@pytest.mark.parametrize("numbers", [[0, 2, 3, 6], [7, 6, 5, 4, 3, 2, 1, 0], [5, 1, 5], list(range(8))])
def test_answers_for_more_rows_serve_some_of_them_in_any_order(smoke_material, tmp_path, numbers):
    tokenizer = AutoTokenizer.from_pretrained(smoke_material / "teacher")
    texts = [(TEXTS[n], PAIRS[n % 4]) for n in range(8)]
    all_rows, some = write_data(tmp_path / "all", texts), write_data(tmp_path / "some", [texts[n] for n in numbers])
    for_all = write_answers(tmp_path / "for_all", all_rows, tokenizer, range(8))
    made_for_some = write_answers(tmp_path / "for_some", some, tokenizer, numbers)
    served, expected = (
        imitation_rows(some, tokenizer, cache, "logits", "states") for cache in (for_all, made_for_some)
    )
    assert (served.places is None) == (numbers == list(range(8)))
    assert expected.places is None
    for chosen in (np.arange(len(numbers)), np.array([2, 0]), np.array([1])):
        batch, wanted = (rows.batch(chosen, torch.Generator()) for rows in (served, expected))
        assert batch.keys() == wanted.keys() >= {"input_ids", "labels", "teacher_logits", "teacher_scores"}
        for name in wanted:
            assert torch.equal(batch[name], wanted[name]), name
        assert batch["teacher_logits"][:, 0].tolist() == [numbers[n] for n in chosen]


def test_rows_that_the_teacher_was_not_asked_about_are_refused(smoke_material, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(smoke_material / "teacher")
    texts = [(text, None) for text in TEXTS[:6]]
    asked, wanted = write_data(tmp_path / "asked", texts[:4]), write_data(tmp_path / "wanted", texts[1:])
    cache = write_answers(tmp_path / "answers", asked, tokenizer, range(4))
    with pytest.raises(DataError, match="the teacher answered 4 other rows; 2 of 5 training rows are not among them"):
        imitation_rows(wanted, tokenizer, cache, "logits")
