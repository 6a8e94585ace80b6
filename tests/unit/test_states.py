"""Captured states against transformers' own hidden states and eager attention, in every family."""

import pytest
import torch
from torch.overrides import TorchFunctionMode
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    MPNetConfig,
    MPNetForSequenceClassification,
    MPNetModel,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from tinybert.errors import ModelError
from tinybert.states import StateCapture, model_inputs

SHAPE = {"vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 30}
DISTIL = {"vocab_size": 50, "dim": 24, "n_layers": 3, "n_heads": 4, "hidden_dim": 30}
# MPNet's position bias is small at random weights, and would hardly show in the attention.
MPNET = {**SHAPE, "initializer_range": 0.5}
FAMILIES = {
    "bert": lambda: BertModel(BertConfig(**SHAPE)),
    "bert with a head": lambda: BertForSequenceClassification(BertConfig(**SHAPE)),
    "roberta": lambda: RobertaModel(RobertaConfig(**SHAPE, type_vocab_size=1)),
    "xlm-roberta": lambda: XLMRobertaModel(XLMRobertaConfig(**SHAPE, type_vocab_size=1)),
    "electra": lambda: ElectraModel(ElectraConfig(**SHAPE, embedding_size=16)),
    "distilbert": lambda: DistilBertModel(DistilBertConfig(**DISTIL)),
    "mpnet": lambda: MPNetModel(MPNetConfig(**MPNET)),
    "mpnet with a head": lambda: MPNetForSequenceClassification(MPNetConfig(**MPNET)),
}
PROJECTIONS = [("query", "key", "value"), ("q_lin", "k_lin", "v_lin"), ("q", "k", "v")]


@pytest.fixture(params=FAMILIES)
def model(request):
    torch.manual_seed(0)
    return FAMILIES[request.param]().eval()


@pytest.fixture
def batch():
    torch.manual_seed(1)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    return {"input_ids": torch.randint(5, 50, (2, 5)), "attention_mask": mask}


def eager(model, batch):
    """Hidden states and attentions as transformers computes them without our help."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        output = model(**batch, output_hidden_states=True, output_attentions=True)
    model.set_attn_implementation(before)
    return output


def captured(model, batch, layers, kind):
    capture = StateCapture(model, layers, kind)
    with torch.no_grad(), capture.capturing() as states:
        return model(**batch), states


class CountSdpa(TorchFunctionMode):
    """Counts the calls of fast attention, which materialises no scores."""

    calls = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.calls += function is torch.nn.functional.scaled_dot_product_attention
        return function(*args, **(kwargs or {}))


def test_states_are_those_of_the_model(model, batch):
    expected = eager(model, batch)
    output, states = captured(model, batch, [0, 1, 3], "scores")
    real = batch["attention_mask"].bool()
    assert sorted(states.hidden) == [0, 1, 3]
    assert sorted(states.scores) == [1, 3]
    assert not states.relations
    for layer, hidden in states.hidden.items():
        torch.testing.assert_close(hidden[real], expected.hidden_states[layer][real])
    for layer, scores in states.scores.items():
        masked = scores.masked_fill(~real[:, None, None, :], -torch.inf)
        torch.testing.assert_close(masked.softmax(-1), expected.attentions[layer - 1])
    torch.testing.assert_close(output[0], expected[0])


def test_relations_are_the_layers_own_queries_keys_and_values(model, batch):
    expected = eager(model, batch)
    output, states = captured(model, batch, [0, 2], "relations")
    assert not states.scores
    assert sorted(states.relations) == [2]
    parts = dict(model.named_modules())
    layer = next(name for name in parts if name.endswith("layer.1"))
    own = {name.rpartition(".")[2]: part for name, part in parts.items() if name.startswith(layer)}
    names = next(names for names in PROJECTIONS if names[0] in own)
    with torch.no_grad():
        projected = torch.stack([own[name](expected.hidden_states[1]) for name in names], dim=1)
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(states.relations[2].transpose(1, 2)[real], projected.transpose(1, 2)[real])
    torch.testing.assert_close(output[0], expected[0])


def test_without_attention_the_model_is_left_as_it_is(model, batch):
    expected = eager(model, batch)
    before = model.config._attn_implementation
    output, states = captured(model, batch, [0, 2, 3], "hidden")
    assert sorted(states.hidden) == [0, 2, 3]
    assert not states.scores
    assert not states.relations
    assert model.config._attn_implementation == before
    torch.testing.assert_close(output[0], expected[0])


@pytest.mark.parametrize(("kind", "fast"), [("scores", 1), ("relations", 3), ("hidden", 3)])
def test_only_layers_whose_scores_are_captured_leave_fast_attention(batch, kind, fast):
    model = FAMILIES["bert"]().eval()
    capture = StateCapture(model, [0, 1, 3], kind)
    with torch.no_grad(), capture.capturing(), CountSdpa() as counted:
        model(**batch)
    assert counted.calls == fast
    with torch.no_grad(), CountSdpa() as counted:  # and where nobody captures, none does
        model(**batch)
    assert counted.calls == 3


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


def test_scores_of_mpnet_contain_its_position_bias(batch):
    torch.manual_seed(0)
    model = FAMILIES["mpnet"]().eval()
    _, states = captured(model, batch, [0, 1], "scores")
    with torch.no_grad():
        attention = model.encoder.layer[0].attention.attn
        query, key = (part(states.hidden[0]).view(2, 5, 4, 6) for part in (attention.q, attention.k))
        bias = model.encoder.compute_position_bias(states.hidden[0])
        expected = torch.einsum("bqhd,bkhd->bhqk", query, key) / 6**0.5 + bias
    assert bias.abs().max() > 0.1
    torch.testing.assert_close(states.scores[1], expected)


@pytest.mark.parametrize("kind", ["scores", "relations"])
def test_nothing_is_kept_outside_of_capturing(model, batch, kind):
    capture = StateCapture(model, [0, 1], kind)
    with torch.no_grad():
        model(**batch)
        with capture.capturing() as states:
            pass
        model(**batch)
    assert not states.hidden
    assert not states.scores
    assert not states.relations


@pytest.mark.parametrize("kind", ["scores", "relations"])
@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_gradients_flow_through_captured_attention(batch, family, kind):
    torch.manual_seed(0)
    model = FAMILIES[family]()
    capture = StateCapture(model, [2], kind)
    with capture.capturing() as states:
        model(**batch)
    getattr(states, kind)[2].square().sum().backward()
    slopes = {
        name: part.weight.grad
        for name, part in model.named_modules()
        if name.rpartition(".")[2] in ("query", "q") and isinstance(part, torch.nn.Linear)
    }
    first, second, third = slopes.values()
    assert first.abs().sum() > 0
    assert second.abs().sum() > 0
    assert third is None


def test_dropout_falls_on_the_attention_of_captured_layers_too(batch):
    torch.manual_seed(0)
    model = BertModel(BertConfig(**SHAPE, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5)).train()
    capture = StateCapture(model, [1])
    with torch.no_grad(), capture.capturing() as states:
        model(**batch)
        first = dict(states.hidden)
        model(**batch)
    assert not torch.equal(first[1], states.hidden[1])


def test_a_family_that_does_not_use_the_interface_is_refused_but_for_its_hidden_states(batch):
    torch.manual_seed(0)
    model = DebertaV2Model(DebertaV2Config(**SHAPE)).eval()
    with pytest.raises(ModelError, match="DebertaV2Model does not use transformers' attention interface"):
        StateCapture(model, [1], "scores")
    _, states = captured(model, batch, [0, 1], "hidden")
    expected = eager(model, batch).hidden_states
    torch.testing.assert_close(states.hidden[1], expected[1])


@pytest.mark.parametrize(
    ("family", "segments"),
    [("bert", True), ("electra", True), ("roberta", False), ("distilbert", False), ("mpnet", False)],
)
def test_a_model_gets_what_it_reads_of_a_shared_batch(batch, family, segments):
    model = FAMILIES[family]().eval()
    shared = {
        **batch,
        "token_type_ids": torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 0, 0]]),
        "labels": torch.tensor([0, 1]),
    }
    chosen = model_inputs(model, shared)
    assert set(chosen) == {"input_ids", "attention_mask"} | ({"token_type_ids"} if segments else set())
    model(**chosen)
