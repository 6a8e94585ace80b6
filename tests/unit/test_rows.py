"""Tokenised rows: what the tokenizer itself would have given, batch by batch."""

import string

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, RobertaTokenizer

from tinybert import rows as module
from tinybert.rows import TaskRows, TokenTable, task_rows
from tinybert.samples import sentences

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
