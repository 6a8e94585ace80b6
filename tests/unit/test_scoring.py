"""What a model says of rows is what it says of each alone, whatever the kind of task, in the rows' order."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import nn

from tests.unit.kind_data import LENGTHS, NAMES, tokenizer_of, write_encoder, write_kind
from tinybert.errors import ModelError
from tinybert.kinds import KINDS
from tinybert.models import load_model
from tinybert.scoring import predict


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("models") / "encoder")


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def model_of(encoder, kind):
    torch.manual_seed(0)
    return load_model(encoder, kind, NAMES[kind.name]).eval()


def test_logits_are_those_of_each_row_alone(encoder, kind, tmp_path):
    task = write_kind(tmp_path / "data", kind.name, 20)
    model, tokenizer = model_of(encoder, kind), tokenizer_of(encoder)
    rows = task.rows("train")
    said = predict(model, tokenizer, rows, task.max_length, kind, batch_size=7, precision="fp32")
    alone = []
    for row in rows:
        encoded = kind.encode(tokenizer, [row["text"]], row["text_pair"] and [row["text_pair"]], task.max_length)
        for ids, first in zip(encoded.ids, encoded.firsts, strict=True):
            types = torch.tensor([[0] * first + [1] * (len(ids) - first)])
            with torch.no_grad():
                output = model(input_ids=torch.tensor([ids]), token_type_ids=types)
            alone.append(kind.logits(output)[0] if kind.per_token else kind.logits(output))
    np.testing.assert_allclose(said.logits, torch.cat(alone).numpy(), rtol=1e-4, atol=1e-6)
    assert said.logits.dtype == np.float32
    assert len(said.answers) == len(said.confidence) == len(rows)
    expected = kind.answers(torch.cat(alone).numpy(), said.features, rows[:])
    assert said.answers == expected.values or kind.name == "regression"  # whose numbers differ by rounding
    np.testing.assert_allclose(said.confidence, expected.confidence, rtol=1e-4)


def test_what_does_not_fit_into_memory_goes_through_in_halves(encoder, kind, tmp_path, caplog):
    task = write_kind(tmp_path / "data", kind.name, 20)
    model, tokenizer, sizes = model_of(encoder, kind), tokenizer_of(encoder), []

    def full(module, args, inputs):
        sizes.append(inputs["input_ids"].numel())
        if sizes[-1] > 100:
            raise torch.OutOfMemoryError

    rows = task.rows("train")
    expected = predict(model, tokenizer, rows, task.max_length, kind, precision="fp32")
    model.register_forward_pre_hook(full, with_kwargs=True)
    found = predict(model, tokenizer, rows, task.max_length, kind, precision="fp32", name="the student")
    np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-4, atol=1e-6)
    assert 1 <= sum(size > 100 for size in sizes) < 6  # not at every batch again
    assert any(message.startswith("the student  out of memory: the batch of") for message in caplog.messages)


def test_rows_may_be_lists_and_are_read_in_any_order(encoder, kind, tmp_path):
    task = write_kind(tmp_path / "data", kind.name, 12)
    model, tokenizer = model_of(encoder, kind), tokenizer_of(encoder)
    rows = task.rows("train")[:]
    turned = {name: list(reversed(rows[name])) for name in ("text", "text_pair")}
    forward, backward = (
        predict(model, tokenizer, found, task.max_length, kind, precision="fp32") for found in (rows, turned)
    )
    if kind.name == "regression":
        assert forward.answers == pytest.approx(backward.answers[::-1], rel=1e-4)
    else:
        assert forward.answers == backward.answers[::-1]
    np.testing.assert_allclose(forward.confidence, backward.confidence[::-1], rtol=1e-4)


def test_no_rows(encoder, kind):
    tokenizer, model = tokenizer_of(encoder), model_of(encoder, kind)
    said = predict(model, tokenizer, {"text": [], "text_pair": []}, LENGTHS.get(kind.name, 24), kind)
    assert said.logits.shape == (0, len(NAMES[kind.name]))
    assert said.answers == []
    assert said.confidence.shape == (0,)


@pytest.mark.parametrize("training", [False, True])
def test_a_model_is_in_eval_mode_and_put_back_after(encoder, training):
    kind, seen = KINDS["classification"], []
    model = model_of(encoder, kind).train(training)
    model.register_forward_pre_hook(lambda module, args: seen.append(module.training))
    predict(model, tokenizer_of(encoder), {"text": ["f0"], "text_pair": [None]}, 24, kind)
    assert seen == [False]
    assert model.training == training


def test_logits_that_are_no_numbers_are_refused_by_name(encoder, kind):
    model = model_of(encoder, kind)
    head = model.qa_outputs if kind.name == "question_answering" else model.classifier
    nn.init.constant_(head.bias, torch.nan)
    rows = Dataset.from_dict({"text": ["f0 f1"], "text_pair": ["f2" if kind.name == "question_answering" else None]})
    with pytest.raises(ModelError, match=r"the student: \d of \d logits are not finite"):
        predict(model, tokenizer_of(encoder), rows, 24, kind, name="the student")


def test_between_batches_it_can_be_told_to_give_up(encoder, kind, tmp_path):
    class ToldError(Exception):
        pass

    def check():
        if len(passes) == 2:
            raise ToldError

    task, passes = write_kind(tmp_path / "data", kind.name, 20), []
    model = model_of(encoder, kind)
    model.register_forward_pre_hook(lambda module, args: passes.append(module))
    with pytest.raises(ToldError):
        predict(model, tokenizer_of(encoder), task.rows("train"), task.max_length, kind, batch_size=7, check=check)
    assert len(passes) == 2  # of three at least
