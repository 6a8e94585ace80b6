"""The state learner: its terms, its projections, its refusal."""

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from tinybert.config import MapConfig
from tinybert.distillation import Projections, StateLearner
from tinybert.errors import ModelError

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


def test_other_heads_are_refused_unless_attention_has_no_weight():
    student, teacher = encoder(1, 4, heads=1), encoder(2, 8, heads=2)
    with pytest.raises(ModelError, match=r"student.heads: found 1; the attention loss needs as many .* has, 2"):
        learner(student, teacher, [2])
    terms = learner(student, teacher, [2], attention_weight=0.0)(**BATCH)
    assert "attention_loss" not in terms


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
    Projections(6, 8, layers=3, kind=kind).load(tmp_path)  # another shape is left alone


def test_equal_widths_need_no_projection(tmp_path):
    projections = Projections(8, 8, layers=3, kind="per_layer")
    hidden = torch.randn(1, 2, 8)
    assert projections(hidden, 1) is hidden
    projections.save(tmp_path)
    assert not list(tmp_path.iterdir())
