"""Captured states against transformers' own hidden states and eager attention."""

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    RobertaConfig,
    RobertaModel,
)

from tinybert.states import StateCapture

SHAPE = {"vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 30}
DISTIL = {"vocab_size": 50, "dim": 24, "n_layers": 3, "n_heads": 4, "hidden_dim": 30}
FAMILIES = {
    "bert": lambda: BertModel(BertConfig(**SHAPE)),
    "bert with a head": lambda: BertForSequenceClassification(BertConfig(**SHAPE)),
    "roberta": lambda: RobertaModel(RobertaConfig(**SHAPE)),
    "electra": lambda: ElectraModel(ElectraConfig(**SHAPE, embedding_size=16)),
    "distilbert": lambda: DistilBertModel(DistilBertConfig(**DISTIL)),
}


@pytest.fixture(params=FAMILIES)
def model(request):
    torch.manual_seed(0)
    return FAMILIES[request.param]().eval()


@pytest.fixture
def batch():
    torch.manual_seed(1)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    return {"input_ids": torch.randint(5, 50, (2, 5)), "attention_mask": mask}


def test_states_are_those_of_the_model(model, batch):
    with torch.no_grad():
        model.set_attn_implementation("eager")
        expected = model(**batch, output_hidden_states=True, output_attentions=True)
        capture = StateCapture(model, [0, 1, 3])
        with capture.capturing() as states:
            output = model(**batch)
    real = batch["attention_mask"].bool()
    assert sorted(states.hidden) == [0, 1, 3]
    assert sorted(states.scores) == [1, 3]
    for layer, hidden in states.hidden.items():
        torch.testing.assert_close(hidden[real], expected.hidden_states[layer][real])
    for layer, scores in states.scores.items():
        masked = scores.masked_fill(~real[:, None, None, :], -torch.inf)
        torch.testing.assert_close(masked.softmax(-1), expected.attentions[layer - 1])
    torch.testing.assert_close(output[0], expected[0])


def test_scores_are_query_times_key_over_the_root_of_the_width(batch):
    torch.manual_seed(0)
    model = BertModel(BertConfig(**SHAPE)).eval()
    capture = StateCapture(model, [0, 1])
    with torch.no_grad(), capture.capturing() as states:
        model(**batch)
        attention = model.encoder.layer[0].attention.self
        query, key = (part(states.hidden[0]).view(2, 5, 4, 6) for part in (attention.query, attention.key))
        expected = torch.einsum("bqhd,bkhd->bhqk", query, key) / 6**0.5
    torch.testing.assert_close(states.scores[1], expected)


def test_nothing_is_kept_outside_of_capturing(model, batch):
    capture = StateCapture(model, [0, 1])
    with torch.no_grad():
        model(**batch)
        with capture.capturing() as states:
            pass
        model(**batch)
    assert not states.hidden
    assert not states.scores


def test_gradients_flow_through_captured_scores(batch):
    torch.manual_seed(0)
    model = BertModel(BertConfig(**SHAPE))
    capture = StateCapture(model, [2])
    with capture.capturing() as states:
        model(**batch)
    states.scores[2].sum().backward()
    assert model.encoder.layer[1].attention.self.query.weight.grad.abs().sum() > 0
    assert model.encoder.layer[2].attention.self.query.weight.grad is None
