"""The stage that asks the teacher: its answers are the teacher's own, each row is asked once, within the budget."""

import json
import logging

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    BertModel,
)

from tinybert.config import MapConfig, TargetsConfig
from tinybert.data import SPLITS, RowWriter, TaskData, write_manifest
from tinybert.distillation import StateLearner
from tinybert.errors import DataError
from tinybert.kinds import KINDS
from tinybert.models import load_encoder
from tinybert.rows import imitation_rows
from tinybert.samples import sentences
from tinybert.stages import targets
from tinybert.teacher_cache import FORMAT, StateShape, TeacherCache

TEXTS = [(text, None) for text, _ in sentences()[::9]]
PAIRS = [(text, other) for (text, _), (other, _) in zip(TEXTS, reversed(TEXTS), strict=True)]
MAPPED = [2, 4]
ALL_FITS = TargetsConfig(states_gb=1, batch_tokens=256)
BF16 = {"rtol": 2**-8, "atol": 1e-6}


@pytest.fixture(scope="module")
def teacher(smoke_material, tmp_path_factory):
    """The tiny BERT with a head for two classes, as fine-tuning leaves it."""
    directory = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(3)
    BertForSequenceClassification.from_pretrained(smoke_material / "teacher", num_labels=2).save_pretrained(directory)
    AutoTokenizer.from_pretrained(smoke_material / "teacher").save_pretrained(directory)
    return directory


@pytest.fixture
def make(teacher, tmp_path):
    """Run the stage on texts; gives its cache and its metrics."""

    def make(name, texts=TEXTS, config=ALL_FITS, max_length=64, **more):
        data, out = write_data(tmp_path / f"{name}-data", texts, max_length), tmp_path / name
        out.mkdir()
        more = {"mapped": MAPPED, "precision": "fp32", **more}
        metrics = targets.run(
            data=data, teacher=teacher, config=config, out=out, on_metrics=lambda metrics, step: None, **more
        )
        return TeacherCache(out), metrics

    return make


def write_data(directory, texts, max_length=64):
    directory.mkdir(parents=True)
    for split in SPLITS:
        with RowWriter(directory / f"{split}.arrow", KINDS["classification"]) as writer:
            for number, (text, pair) in enumerate(texts):
                writer.add(text, pair, number % 2, number)
    write_manifest(directory, ["bad", "good"], max_length)
    return directory


def direct(model, teacher, row, max_length=64, **options):
    """What transformers' own model says of one row, alone and so without padding."""
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    inputs = tokenizer(
        *[part for part in row if part is not None], return_tensors="pt", truncation=True, max_length=max_length
    )
    with torch.no_grad():
        return model(**inputs, **options), inputs["input_ids"].shape[1]


# Answers --------------------------------------------------------------------------------------------------------------


def test_logits_are_the_teachers(make, teacher):
    cache, metrics = make("t")
    model = AutoModelForSequenceClassification.from_pretrained(teacher)
    expected = torch.cat([direct(model, teacher, row)[0].logits for row in TEXTS])
    assert cache.logits.dtype == np.float32
    torch.testing.assert_close(torch.from_numpy(cache.logits.copy()), expected, rtol=1e-5, atol=1e-6)
    assert (metrics["rows"], metrics["scored"], metrics["reused"]) == (len(TEXTS), len(TEXTS), 0)


@pytest.mark.parametrize(("texts", "max_length"), [(TEXTS, 64), (TEXTS, 7), (PAIRS, 64), (PAIRS, 12)])
def test_hidden_states_and_scores_are_the_teachers(make, teacher, texts, max_length):
    cache, _ = make("t", texts, max_length=max_length)
    assert cache.states == StateShape("scores", (2, 4), 32, 4)
    model = AutoModel.from_pretrained(teacher, attn_implementation="eager")
    rows = np.array([5, 0, 9])  # of different lengths, so two of them padded
    batch = cache.batch(rows, int(cache.lengths[rows].max()) + 2, ("states",))
    for place, row in enumerate(rows):
        wanted = {"output_hidden_states": True, "output_attentions": True}
        answer, length = direct(model, teacher, texts[row], max_length, **wanted)
        assert length == cache.lengths[row]
        hidden = torch.stack([answer.hidden_states[layer][0] for layer in (0, *MAPPED)])
        torch.testing.assert_close(batch["teacher_hidden"][place, :, :length].float(), hidden, **BF16)
        scores = batch["teacher_scores"][place, :, :, :length, :length].float()
        attention = torch.stack([answer.attentions[layer - 1][0] for layer in MAPPED])
        torch.testing.assert_close(scores.softmax(dim=-1), attention, rtol=2e-2, atol=1e-3)
        assert not batch["teacher_hidden"][place, :, length:].any()
        assert not batch["teacher_scores"][place, :, :, length:].any()
        assert not batch["teacher_scores"][place, :, :, :, length:].any()


def test_what_does_not_fit_into_memory_is_asked_in_halves(make, monkeypatch):
    expected, _ = make("whole")
    asked, forward = [], BertModel.forward

    def full(self, input_ids, *args, **kwargs):
        asked.append(input_ids.numel())
        if asked[-1] > 60:
            raise torch.OutOfMemoryError
        return forward(self, input_ids, *args, **kwargs)

    monkeypatch.setattr(BertModel, "forward", full)
    cache, metrics = make("halved")
    assert metrics["scored"] == len(TEXTS)
    assert 2 <= sum(size > 60 for size in asked) < 8  # for logits and for states, and not at every batch again
    assert_same_answers(cache, expected)


def test_relations_are_the_teachers_queries_keys_and_values(make, teacher):
    cache, _ = make("t", attention="relations")
    model = AutoModel.from_pretrained(teacher)
    batch = cache.batch(np.array([4]), int(cache.lengths[4]), ("states",))
    assert batch.keys() == {"teacher_hidden", "teacher_relations"}
    seen = {}
    for layer in MAPPED:
        attention = model.encoder.layer[layer - 1].attention.self
        for name in ("query", "key", "value"):
            getattr(attention, name).register_forward_hook(
                lambda module, inputs, output, at=(layer, name): seen.update({at: output[0]})
            )
    direct(model, teacher, TEXTS[4])
    expected = torch.stack([torch.stack([seen[layer, name] for name in ("query", "key", "value")]) for layer in MAPPED])
    torch.testing.assert_close(batch["teacher_relations"][0].float(), expected, **BF16)


def test_hidden_states_alone(make, teacher):
    cache, _ = make("t", attention="hidden")
    batch = cache.batch(np.array([0, 1]), 30, ("states",))
    assert {name: tensor.shape for name, tensor in batch.items()} == {"teacher_hidden": (2, 3, 30, 32)}
    assert batch["teacher_hidden"][:, :, 0].any()


@pytest.mark.parametrize("attention", ["scores", "relations"])
def test_a_student_learns_from_the_cache_what_it_learns_from_the_teacher(make, teacher, tmp_path, attention):
    cache, _ = make("t", attention=attention)
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    rows = imitation_rows(TaskData(tmp_path / "t-data"), tokenizer, cache, "states")
    batch = rows.batch(np.array([0, 7, 3, 8, 1]), torch.Generator())
    config, losses = MapConfig(attention=attention), []
    for brings_states in (True, False):
        torch.manual_seed(5)
        encoder = load_encoder(teacher)
        student = type(encoder)(type(encoder.config)(**encoder.config.to_dict() | {"num_hidden_layers": 2})).eval()
        learner = StateLearner(student, encoder, MAPPED, config)
        own = {name: t for name, t in batch.items() if brings_states or not name.startswith("teacher_")}
        losses.append({name: float(loss.detach()) for name, loss in learner(**own).items()})
    assert losses[0].keys() == losses[1].keys() >= {"loss", "hidden_loss", "embedding_loss", "attention_loss"}
    for name, loss in losses[0].items():
        assert loss == pytest.approx(losses[1][name], rel=5e-3)


def test_bf16_answers_are_close(make):
    plain, half = make("plain")[0], make("half", precision="bf16")[0]
    assert np.abs(plain.logits - half.logits).max() < 0.02
    assert np.abs(plain.logits - half.logits).max() > 0
    one, other = (cache.batch(np.array([2]), 30, ("states",)) for cache in (plain, half))
    for name in one:
        torch.testing.assert_close(one[name].float(), other[name].float(), rtol=0.05, atol=0.1)


# Reuse ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["scores", "relations"])
def test_of_a_larger_data_set_only_the_new_rows_are_scored(make, attention, tmp_path):
    texts = [*reversed(TEXTS), ("a moving film", None), TEXTS[0], ("the ending", None)]  # two new ones, and one twice
    old, _ = make("old", attention=attention)
    cache, metrics = make("new", texts, attention=attention, previous=tmp_path / "old")
    assert (metrics["rows"], metrics["scored"], metrics["reused"]) == (len(TEXTS) + 3, 2, len(TEXTS) + 1)
    assert (cache.logits[: len(TEXTS)] == old.logits[::-1]).all()
    for row in range(len(TEXTS)):
        assert (cache.row_states(row) == old.row_states(len(TEXTS) - 1 - row)).all()
    assert_same_answers(cache, make("fresh", texts, attention=attention)[0])


def assert_same_answers(cache, fresh):
    assert (cache.keys == fresh.keys).all()
    assert (cache.lengths == fresh.lengths).all()
    np.testing.assert_allclose(cache.logits, fresh.logits, rtol=1e-5, atol=1e-6)
    assert_same_states(cache, fresh)


def assert_same_states(cache, fresh):
    assert cache.states == fresh.states
    rows = np.arange(len(cache.keys))
    one, other = (found.batch(rows, int(cache.lengths.max()), ("states",)) for found in (cache, fresh))
    for name in one:
        torch.testing.assert_close(one[name].float(), other[name].float(), **BF16)


def test_nothing_new_asks_nobody(make, tmp_path):
    old, _ = make("old")
    cache, metrics = make("again", previous=tmp_path / "old")
    assert (metrics["scored"], metrics["reused"]) == (0, len(TEXTS))
    assert (cache.logits == old.logits).all()
    assert (tmp_path / "again/states.bin").read_bytes() == (tmp_path / "old/states.bin").read_bytes()


def test_answers_cut_at_another_length_are_not_reused(make, tmp_path):
    make("old", max_length=64)
    assert make("new", max_length=32, previous=tmp_path / "old")[1]["reused"] == 0


@pytest.fixture
def asked(monkeypatch):
    """How many rows went through the teacher, by whether its head answered too."""
    rows, forward = {"logits": 0, "states": 0}, targets._Questions.answers

    def counted(self, what, model):
        for batch, answer in forward(self, what, model):
            rows[what] += len(batch)
            yield batch, answer

    monkeypatch.setattr(targets._Questions, "answers", counted)
    return rows


@pytest.mark.parametrize(
    ("before", "computed"),
    [
        ({"mapped": None}, len(TEXTS) + 1),  # no states to copy
        ({"mapped": [1, 4]}, len(TEXTS) + 1),  # those of other layers
        ({"attention": "relations"}, len(TEXTS) + 1),
        ({"states_precision": "bf16"}, len(TEXTS) + 1),
        ({"precision": "bf16", "states_precision": "fp32"}, 1),
        ({"states_precision": "fp32"}, 1),
        ({}, 1),
    ],
)
def test_logits_are_reused_whatever_states_there_are(make, tmp_path, asked, before, computed):
    old, _ = make("old", **before)
    asked.update(logits=0, states=0)
    texts = [("a moving film", None), *TEXTS]
    cache, metrics = make("new", texts, previous=tmp_path / "old")
    assert (metrics["scored"], metrics["reused"]) == (1, len(TEXTS))
    assert asked == {"logits": 1, "states": computed}
    assert (cache.logits[1:] == old.logits).all()
    fresh, _ = make("fresh", texts)
    assert_same_states(cache, fresh)
    np.testing.assert_allclose(cache.logits[0], fresh.logits[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("written", [None, 1])
def test_answers_made_otherwise_are_not_reused(make, tmp_path, written):
    make("old")
    manifest = tmp_path / "old" / "manifest.json"
    content = json.loads(manifest.read_text())
    assert content.pop("format") == FORMAT
    manifest.write_text(json.dumps(content if written is None else {**content, "format": written}))
    assert make("new", previous=tmp_path / "old")[1]["reused"] == 0


def test_answers_to_other_tokens_are_not_reused(make, tmp_path):
    cache, _ = make("old")
    np.save(tmp_path / "old" / "lengths.npy", cache.lengths + (np.arange(len(TEXTS)) == 3))
    assert make("new", mapped=None, previous=tmp_path / "old")[1]["scored"] == 1


def test_logits_and_states_have_each_their_precision(make):
    both, plain = make("both", precision="bf16", states_precision="fp32")[0], make("plain")[0]
    half = make("half", precision="bf16")[0]
    assert (both.logits == half.logits).all()
    assert (both.logits != plain.logits).any()
    files = [(cache.directory / "states.bin").read_bytes() for cache in (both, plain, half)]
    assert files[0] == files[1] != files[2]


def test_logits_are_reused_where_states_are_no_longer_wanted(make, tmp_path):
    make("old")
    cache, metrics = make("new", mapped=None, previous=tmp_path / "old")
    assert metrics["reused"] == len(TEXTS)
    assert cache.states is None
    assert not (tmp_path / "new" / "states.bin").exists()


# Budget ---------------------------------------------------------------------------------------------------------------


def test_the_estimate_is_exact_and_decides(make, tmp_path, caplog):
    caplog.set_level(logging.INFO, "tinybert")
    cache, metrics = make("whole")
    numbers = sum(3 * length * 32 + 2 * 4 * length * length for length in cache.lengths.tolist())
    assert (tmp_path / "whole/states.bin").stat().st_size == 2 * numbers
    assert metrics["states_gb"] == 2 * numbers / 1e9
    said = (
        f"targets  the teacher's states of {len(TEXTS)} rows take {2 * numbers / 1e9:.3g} GB, targets.states_gb allows"
    )
    assert f"{said} 1: kept" in caplog.messages

    exactly = 2 * numbers / 1e9
    assert make("exactly", config=TargetsConfig(states_gb=exactly))[0].states is not None
    less, metrics = make("less", config=TargetsConfig(states_gb=exactly * 0.999))
    assert less.states is None
    assert metrics["states_gb"] == 0
    assert not (tmp_path / "less" / "states.bin").exists()
    assert f"{said} {exactly * 0.999:.3g}: computed at each step instead" in caplog.messages
    assert json.loads((tmp_path / "less" / "manifest.json").read_text()) == {
        "format": FORMAT,
        "rows": len(TEXTS),
        "per_token": False,
        "states": None,
        "states_precision": None,
    }
    np.testing.assert_allclose(less.logits, cache.logits, rtol=1e-5, atol=1e-7)


def test_by_default_no_states_are_kept(make):
    assert make("plain", config=TargetsConfig())[0].states is None


# Use ------------------------------------------------------------------------------------------------------------------


def test_answers_serve_the_rows_they_were_made_of(make, teacher, tmp_path):
    cache, _ = make("t")
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    rows = imitation_rows(TaskData(tmp_path / "t-data"), tokenizer, cache, "logits", "states")
    batch = rows.batch(np.array([2, 0]), torch.Generator())
    assert batch.keys() == {
        *("input_ids", "attention_mask", "token_type_ids", "labels"),
        *("teacher_logits", "teacher_hidden", "teacher_scores"),
    }
    assert batch["teacher_hidden"].shape[2] == batch["input_ids"].shape[1]
    assert torch.equal(batch["teacher_logits"], torch.from_numpy(cache.logits[[2, 0]]))
    other = TaskData(write_data(tmp_path / "other", [*TEXTS[1:], ("a row of its own", None)]))
    with pytest.raises(DataError, match=f"{len(TEXTS)} other rows; 1 of {len(TEXTS)} training rows are not among them"):
        imitation_rows(other, tokenizer, cache, "logits")
