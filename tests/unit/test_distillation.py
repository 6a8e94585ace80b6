"""The state learner: its terms, its teacher run or remembered, its projections, its refusals."""

import copy
import logging

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel, MPNetConfig, MPNetModel

from tinybert.config import MapConfig
from tinybert.distillation import Projections, StateLearner
from tinybert.errors import ConfigError, ModelError
from tinybert.losses import attention_loss, hidden_loss, relation_loss
from tinybert.models import load_teacher
from tinybert.states import StateCapture
from tinybert.teacher_states import TeacherStates

BATCH = {
    "input_ids": torch.tensor([[2, 7, 8, 3], [2, 9, 3, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
}


def encoder(layers, hidden, heads=2, seed=0):
    torch.manual_seed(seed)
    shape = {"num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads}
    return BertModel(BertConfig(vocab_size=20, intermediate_size=2 * hidden, **shape))


def learner(student, teacher, mapped, **fields):
    return StateLearner(student, teacher, mapped, MapConfig(**fields))


def test_a_copy_of_the_teacher_has_nothing_to_learn():
    terms = learner(encoder(2, 8).eval(), encoder(2, 8).eval(), [1, 2])(**BATCH)
    assert {name: term.item() for name, term in terms.items()} == {
        "loss": 0.0,
        "embedding_loss": 0.0,
        "hidden_loss": 0.0,
        "attention_loss": 0.0,
    }


def test_terms_against_an_independent_computation():
    student, teacher = encoder(2, 4, seed=1).eval(), encoder(4, 8).eval()
    both = learner(student, teacher, [2, 4], attention_weight=2.0, hidden_weight=3.0, embedding_weight=5.0)
    terms = both(**BATCH)
    with torch.no_grad():
        own = student(**BATCH, output_hidden_states=True).hidden_states
        taught = teacher(**BATCH, output_hidden_states=True).hidden_states
    expected = []
    for layer, taught_by in ((0, 0), (1, 2), (2, 4)):
        projected = both.projections(own[layer], layer)
        examples = [
            nn.functional.mse_loss(projected[row, :length], taught[taught_by][row, :length])
            for row, length in ((0, 4), (1, 3))
        ]
        expected.append(torch.stack(examples).mean())
    torch.testing.assert_close(terms["embedding_loss"], expected[0])
    torch.testing.assert_close(terms["hidden_loss"], expected[1] + expected[2])
    total = 2 * terms["attention_loss"] + 3 * terms["hidden_loss"] + 5 * terms["embedding_loss"]
    torch.testing.assert_close(terms["loss"], total)


def test_the_teacher_is_in_eval_mode_and_learns_nothing():
    student, teacher = encoder(1, 4, seed=1), encoder(2, 8)
    both = learner(student, teacher, [2]).train()
    before = [parameter.clone() for parameter in teacher.parameters()]
    both(**BATCH)["loss"].backward()
    assert not teacher.training
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not {id(p) for p in teacher.parameters()} & {id(p) for p in both.parameters()}
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))


def states_of(model, kind):
    """All states of a model, by itself."""
    capture = StateCapture(model, range(model.config.num_hidden_layers + 1), kind)
    with torch.no_grad(), capture.capturing() as states:
        model(**BATCH)
    return states


@pytest.mark.parametrize("kind", ["scores", "relations"])
def test_layer_weights_multiply_the_terms_of_their_layer(kind):
    student, teacher = encoder(2, 8, seed=1).eval(), encoder(4, 8).eval()
    own, taught = states_of(copy.deepcopy(student), kind), states_of(copy.deepcopy(teacher), kind)
    mask = BATCH["attention_mask"]
    terms = learner(student, teacher, [2, 4], attention=kind, relation_heads=4, layer_weights=[0.5, 3.0])(**BATCH)
    hidden = [hidden_loss(own.hidden[m], taught.hidden[g], mask) for m, g in ((0, 0), (1, 2), (2, 4))]
    if kind == "scores":
        attention = [attention_loss(own.scores[m], taught.scores[g], mask) for m, g in ((1, 2), (2, 4))]
    else:
        attention = [relation_loss(own.relations[m], taught.relations[g], mask, heads=4) for m, g in ((1, 2), (2, 4))]
    torch.testing.assert_close(terms["embedding_loss"], hidden[0])
    torch.testing.assert_close(terms["hidden_loss"], 0.5 * hidden[1] + 3 * hidden[2])
    torch.testing.assert_close(terms["attention_loss"], 0.5 * attention[0] + 3 * attention[1])
    torch.testing.assert_close(terms["loss"], sum(terms[name] for name in list(terms)[1:]))


@pytest.mark.parametrize("kind", ["scores", "relations"])
def test_gradients_against_losses_of_all_states_at_once(kind):
    student, teacher = encoder(2, 4, seed=1).eval(), encoder(4, 8).eval()
    taught = states_of(copy.deepcopy(teacher), kind)
    both = learner(student, teacher, [2, 4], attention=kind, relation_heads=2, hidden_weight=3.0)
    trained = [parameter for parameter in both.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(both(**BATCH)["loss"], trained)
    mask = BATCH["attention_mask"]
    with both._student_states.capturing() as own:
        student(**BATCH)
    loss = hidden_loss(both.projections(own.hidden[0], 0), taught.hidden[0], mask)
    for m, g in ((1, 2), (2, 4)):
        loss = loss + 3 * hidden_loss(both.projections(own.hidden[m], m), taught.hidden[g], mask)
        if kind == "scores":
            loss = loss + attention_loss(own.scores[m], taught.scores[g], mask)
        else:
            loss = loss + relation_loss(own.relations[m], taught.relations[g], mask, heads=2)
    torch.testing.assert_close(found, torch.autograd.grad(loss, trained))


@pytest.mark.parametrize("kind", ["scores", "relations"])
def test_teacher_states_are_gone_as_soon_as_their_losses_are_there(kind):
    student, teacher = encoder(2, 4, seed=1), encoder(4, 8)
    both = learner(student, teacher, [2, 4], attention=kind)
    (runs,) = both._teacher
    compute, given, left = runs.states, [], []
    runs.states = lambda batch: given.append(compute(batch)) or given[0]

    def note(*_):
        left.append((sorted(given[0].hidden), sorted(getattr(given[0], kind))))

    student.embeddings.register_forward_pre_hook(note)
    for layer in student.encoder.layer:
        layer.register_forward_hook(note)
    both(**BATCH)
    assert left == [([0, 2, 4], [2, 4]), ([4], [4]), ([], [])]


FIELDS = {"scores": {}, "relations": {"attention": "relations"}, "hidden": {"attention_weight": 0.0}}


@pytest.mark.parametrize("kind", FIELDS)
def test_remembered_states_teach_exactly_what_the_teacher_does(kind):
    student, teacher = encoder(2, 4, seed=1).eval(), encoder(4, 8)
    remembered = TeacherStates(copy.deepcopy(teacher), [2, 4], kind)(**BATCH)
    by_teacher = learner(copy.deepcopy(student), teacher, [2, 4], **FIELDS[kind])
    by_memory = learner(student, teacher.config, [2, 4], **FIELDS[kind])
    by_memory.projections.load_state_dict(by_teacher.projections.state_dict())
    assert by_memory.attention.kind == kind
    expected, terms = by_teacher(**BATCH), by_memory(**BATCH, **remembered)
    assert list(terms) == list(expected)
    for name, term in terms.items():
        assert torch.equal(term, expected[name])
        assert torch.equal(by_teacher(**BATCH, **remembered)[name], term)
    expected["loss"].backward()
    terms["loss"].backward()
    slopes = [dict(both.named_parameters()) for both in (by_teacher, by_memory)]
    assert all(torch.equal(slopes[0][name].grad, p.grad) for name, p in slopes[1].items() if p.requires_grad)
    rounded = by_memory(**BATCH, **{name: tensor.bfloat16() for name, tensor in remembered.items()})
    torch.testing.assert_close(rounded["loss"], terms["loss"], rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("kind", FIELDS)
def test_slices_of_a_batch_with_remembered_states_average_to_its_loss(kind):
    student, teacher = encoder(2, 4, seed=1).eval(), encoder(4, 8)
    batch = {**BATCH, **TeacherStates(teacher, [2, 4], kind)(**BATCH)}
    both = learner(student, teacher.config, [2, 4], **FIELDS[kind])
    halves = [both(**{name: tensor[n : n + 1] for name, tensor in batch.items()})["loss"] for n in (0, 1)]
    torch.testing.assert_close(sum(halves) / 2, both(**batch)["loss"])


def test_without_teacher_and_states_the_batch_is_refused():
    both = learner(encoder(2, 4), encoder(4, 8).config, [2, 4])
    with pytest.raises(
        ModelError, match=r"the batch has input_ids, attention_mask, but not .* teacher_hidden and teach"
    ):
        both(**BATCH)


@pytest.mark.parametrize("attention", ["scores", "relations"])
def test_models_of_other_families_teach_each_other(attention):
    torch.manual_seed(0)
    shape = {"vocab_size": 20, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16}
    distil = DistilBertModel(DistilBertConfig(vocab_size=20, dim=4, n_layers=2, n_heads=2, hidden_dim=8))
    models = {
        "mpnet": (MPNetModel(MPNetConfig(**shape, num_hidden_layers=2)), encoder(4, 8)),
        "distilbert": (distil, MPNetModel(MPNetConfig(**shape, num_hidden_layers=4))),
        "bert": (encoder(2, 4), DistilBertModel(DistilBertConfig(vocab_size=20, dim=8, n_layers=4, n_heads=2))),
    }
    segments = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 0]])
    for student, teacher in models.values():
        both = learner(student, teacher, [2, 4], attention=attention)
        terms = both(**BATCH, token_type_ids=segments)
        terms["loss"].backward()
        assert all(term.item() > 0 for term in terms.values())
        assert all(p.grad is not None for p in both.parameters() if p.requires_grad)


def test_other_heads_are_refused_where_scores_are_asked_for():
    student, teacher = encoder(1, 4, heads=1), encoder(2, 8, heads=2)
    with pytest.raises(ModelError, match=r"student.heads: found 1; the attention loss needs as many .* has, 2"):
        learner(student, teacher, [2], attention="scores")
    terms = learner(student, teacher, [2], attention_weight=0.0)(**BATCH)
    assert "attention_loss" not in terms


def test_other_heads_learn_relations_and_a_line_says_so(caplog):
    caplog.set_level(logging.INFO, "tinybert")
    both = learner(encoder(1, 4, heads=1), encoder(2, 8, heads=2), [2])
    assert both(**BATCH)["attention_loss"].item() > 0
    assert [record.message.split(";")[0] for record in caplog.records] == [
        "layer_map.attention auto: the student has 1 heads, the teacher 2"
    ]
    assert caplog.records[0].message.endswith("over 2 relation heads")
    caplog.clear()
    learner(encoder(1, 4), encoder(2, 8), [2])
    assert not caplog.records


def test_layer_weights_for_another_number_of_layers_are_refused():
    with pytest.raises(ConfigError, match=r"layer_weights: found 3 for a student of 2 layers"):
        learner(encoder(2, 8), encoder(4, 8), [2, 4], layer_weights=[1, 1, 1])


def test_a_teacher_prepared_for_bf16_gives_what_autocast_gives():
    student, teacher = encoder(2, 8, seed=1).eval(), encoder(4, 8)
    config = MapConfig()
    plain = StateLearner(copy.deepcopy(student), copy.deepcopy(teacher), [2, 4], config, "fp32")
    prepared = StateLearner(student, teacher, [2, 4], config, "bf16")
    assert teacher.encoder.layer[0].attention.self.query.weight.dtype == torch.bfloat16
    assert student.encoder.layer[0].attention.self.query.weight.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        expected, terms = plain(**BATCH), prepared(**BATCH)
    assert all(torch.equal(terms[name], expected[name]) for name in expected)


@pytest.mark.parametrize(("kind", "count"), [("per_layer", 4), ("shared", 1)])
def test_projections(kind, count, tmp_path):
    torch.manual_seed(0)
    projections = Projections(4, 8, layers=3, kind=kind)
    assert len(projections.matrices) == count
    hidden = torch.randn(1, 2, 4)
    chosen = projections.matrices[2 if kind == "per_layer" else 0].weight
    torch.testing.assert_close(projections(hidden, 2), hidden @ chosen.T)
    projections.save(tmp_path)
    loaded = Projections(4, 8, layers=3, kind=kind)
    loaded.load(tmp_path)
    torch.testing.assert_close(loaded(hidden, 2), projections(hidden, 2))


def test_projections_of_another_shape_or_kind_begin_anew_and_a_line_says_so(tmp_path, caplog):
    Projections(4, 8, layers=3, kind="per_layer").save(tmp_path)
    Projections(4, 8, layers=3, kind="per_layer").load(tmp_path)
    assert not caplog.messages
    for width, kind, wanted in ((6, "per_layer", "4 of shape (8, 6)"), (4, "shared", "1 of shape (8, 4)")):
        anew = Projections(width, 8, layers=3, kind=kind)
        before = [matrix.weight.clone() for matrix in anew.matrices]
        anew.load(tmp_path)
        assert all(torch.equal(old, matrix.weight) for old, matrix in zip(before, anew.matrices, strict=True))
        assert caplog.messages[-1] == (
            "the student's projections begin anew: it brings 4 of shape (8, 4), and layer_map.projection and the "
            f"widths ask for {wanted}"
        )
    assert len(caplog.messages) == 2


def test_equal_widths_need_no_projection(tmp_path):
    projections = Projections(8, 8, layers=3, kind="per_layer")
    hidden = torch.randn(1, 2, 8)
    assert projections(hidden, 1) is hidden
    projections.save(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("family", [BertModel, DistilBertModel, MPNetModel])
def test_a_teacher_loaded_in_bf16_with_the_batchs_words_gives_the_loss_of_autocast(family, tmp_path):
    torch.manual_seed(0)
    shape = {"vocab_size": 20, "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 4}
    build = DistilBertConfig(vocab_size=20, dim=8, n_layers=4, n_heads=2) if family is DistilBertModel else None
    whole = family(build or (MPNetConfig if family is MPNetModel else BertConfig)(**shape, intermediate_size=16))
    whole.save_pretrained(tmp_path)
    student = encoder(2, 8, seed=1).eval()
    loaded = load_teacher(tmp_path, 4, "bf16", BATCH["input_ids"].unique().numpy())
    plain = StateLearner(copy.deepcopy(student), whole, [2, 4], MapConfig(), "fp32")
    prepared = StateLearner(student, loaded, [2, 4], MapConfig(), "bf16")
    with torch.autocast("cpu", torch.bfloat16):
        expected, terms = plain(**BATCH), prepared(**BATCH)
    assert all(torch.equal(terms[name], expected[name]) for name in expected)
