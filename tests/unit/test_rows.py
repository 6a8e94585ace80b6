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

from tests.unit.kind_data import tokenizer_of, write_encoder, write_kind
from tinybert import rows as module
from tinybert.data import SPLITS, RowWriter, TaskData, write_manifest
from tinybert.errors import DataError
from tinybert.kinds import KINDS
from tinybert.kinds.task_kind import Features
from tinybert.rows import TaskRows, TokenTable, imitation_rows, parts, task_rows
from tinybert.samples import sentences
from tinybert.teacher_cache import StateShape, TeacherCache, row_keys

TEXTS = [text for text, _ in sentences()[::7]]
CLASSES = KINDS["classification"]
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
    table = TokenTable(dataset(TEXTS, pairs), tokenizer, max_length, CLASSES)
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
    table = TokenTable(dataset(texts), tokenizer, 12, CLASSES)
    assert_same(table.inputs(np.arange(len(texts))), expected(tokenizer, texts, None, 12))


def test_task_rows_bring_their_labels(smoke_material, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(smoke_material / "teacher")
    rows = task_rows(write_data(tmp_path / "data", [(text, None) for text in TEXTS]), tokenizer)
    assert isinstance(rows, TaskRows)
    assert len(rows) == len(rows.lengths) == len(TEXTS)
    batch = rows.batch(np.array([4, 7, 6]), torch.Generator())
    assert batch.keys() == {"input_ids", "attention_mask", "token_type_ids", "labels"}
    assert batch["labels"].tolist() == [len(TEXTS[n]) % 2 for n in (4, 7, 6)]
    assert batch["labels"].dtype == torch.int64


def test_the_table_leaves_no_file_behind(smoke_material, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tokenizer = AutoTokenizer.from_pretrained(smoke_material / "teacher")
    table = TokenTable(dataset(TEXTS), tokenizer, 64, CLASSES)
    assert not list(tmp_path.iterdir())
    assert_same(table.inputs(np.array([0, 1])), expected(tokenizer, TEXTS[:2], None, 64))


# Every kind ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Tokenizer of the tiny BERT that reads every kind's data."""
    return tokenizer_of(write_encoder(tmp_path_factory.mktemp("models") / "encoder"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk", [1, 3, 50])
def test_targets_do_not_depend_on_the_chunks_they_are_made_in(small, tmp_path, monkeypatch, kind, chunk):
    task = write_kind(tmp_path / "data", kind, rows=10)
    monkeypatch.setattr(module, "CHUNK", chunk)
    rows = task_rows(task, small)
    whole = KINDS[kind].targets(task.rows("train")["label"][:], rows.table.features, task.labels)
    assert rows.targets.dtype == whole.dtype
    np.testing.assert_array_equal(rows.targets, whole)


def test_labels_of_words_stand_at_their_first_pieces(small, tmp_path):
    task = write_kind(tmp_path / "data", "token_classification", rows=6)
    batch = task_rows(task, small).batch(np.arange(6), torch.Generator())
    assert batch["labels"].dtype == torch.int64
    for row, ids, labels in zip(task.rows("train"), batch["input_ids"], batch["labels"], strict=True):
        pieces = [small.tokenize(word) for word in row["text"].split()]
        expected = [[label, *[-100] * (len(word) - 1)] for word, label in zip(pieces, row["label"], strict=True)]
        flat = [-100, *[label for word in expected for label in word]]
        assert labels.tolist() == flat + [-100] * (len(ids) - len(flat))


def test_windows_of_a_context_are_features_with_the_answers_place(small, tmp_path):
    task = write_kind(tmp_path / "data", "question_answering", rows=20)
    rows, texts = task_rows(task, small), task.rows("train")
    assert len(rows) == len(rows.lengths) > len(texts)
    assert rows.lengths.max() <= task.max_length
    batch = rows.batch(np.arange(len(rows)), torch.Generator())
    assert batch["labels"].shape == (len(rows), 2)
    answered = set()
    for row, ids, (first, last) in zip(rows.table.features.rows, batch["input_ids"], batch["labels"], strict=True):
        if last:
            answered.add(int(row))
            assert small.decode(ids[first : last + 1]) == "red"
        else:
            assert (int(first), int(last)) == (0, 0)
    assert answered == {number for number, row in enumerate(texts) if row["label"]}


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), max_size=9), st.integers(1, 5))
def test_parts_are_the_features_of_their_rows(windows, chunk):
    """A list of the windows' lengths for each row; place number n is n."""
    lengths = np.array([length for row in windows for length in row], np.int32)
    rows = np.array([number for number, row in enumerate(windows) for _ in row], np.int64)
    features = Features(lengths, rows, np.arange(lengths.sum())[:, None].astype(np.int32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        found = list(parts(features, len(windows)))
    assert len(found) == max(1, -(-len(windows) // chunk))
    done = 0
    for part in found:
        own = windows[part.rows]
        assert part.own.lengths.tolist() == lengths[part.features].tolist() == [n for row in own for n in row]
        assert part.own.rows.tolist() == [number for number, row in enumerate(own) for _ in row]
        assert part.own.places[:, 0].tolist() == list(range(part.tokens.start, part.tokens.stop))
        assert part.rows.start == done
        done = part.rows.stop
    assert done == len(windows)


def test_no_rows_have_no_tokens(small):
    table = TokenTable({"text": [], "text_pair": []}, small, 16, CLASSES)
    assert len(table) == 0
    assert table.tokens().tolist() == [small.pad_token_id]


# The teacher's answers ------------------------------------------------------------------------------------------------


def write_data(directory, texts):
    directory.mkdir()
    for split in SPLITS:
        with RowWriter(directory / f"{split}.arrow", CLASSES) as writer:
            for number, (text, pair) in enumerate(texts):
                writer.add(text, pair, len(text) % 2, number)
    write_manifest(directory, ["bad", "good"], 16)
    return TaskData(directory)


def write_answers(directory, task, tokenizer, numbers):
    """Answers with states, as the stage `targets` writes them; a row's are drawn from its number."""
    directory.mkdir()
    table, shape = task_rows(task, tokenizer), StateShape("scores", (2,), 4, 2)
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


def test_rows_that_teacher_and_student_read_otherwise_are_refused(smoke_material, tmp_path):
    """The cased tokenizer reads "FILM" as one unknown token, the other as "film", and "cameras" as two tokens."""
    uncased = AutoTokenizer.from_pretrained(smoke_material / "teacher")
    cased = AutoTokenizer.from_pretrained(smoke_material / "teacher", do_lower_case=False)
    assert cased.get_vocab() == uncased.get_vocab()
    rows = write_data(tmp_path / "rows", [("a FILM", None), ("a cameras", None), ("a CAMERAS", None)])
    cache = write_answers(tmp_path / "answers", rows, uncased, range(3))
    imitation_rows(rows, uncased, cache, "logits")
    said = "1 of 3 training rows have another number of tokens than they had for the teacher, e.g. 4 instead of 5"
    with pytest.raises(DataError, match=said):
        imitation_rows(rows, cased, cache, "logits")


def test_rows_that_the_teacher_was_not_asked_about_are_refused(smoke_material, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(smoke_material / "teacher")
    texts = [(text, None) for text in TEXTS[:6]]
    asked, wanted = write_data(tmp_path / "asked", texts[:4]), write_data(tmp_path / "wanted", texts[1:])
    cache = write_answers(tmp_path / "answers", asked, tokenizer, range(4))
    with pytest.raises(DataError, match="the teacher answered 4 other rows; 2 of 5 training rows are not among them"):
        imitation_rows(wanted, tokenizer, cache, "logits")
