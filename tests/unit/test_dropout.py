"""Dropout by cheap random numbers: the right share, the right mean, torch's own interface."""

import pytest
import torch
from torch import nn

from tinybert.dropout import LEVELS, Dropout, dropout, set_dropout


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_share_is_dropped_and_the_rest_scaled(share, kind):
    torch.manual_seed(0)
    values = torch.ones(1001, 1003, dtype=kind)  # no multiple of four
    found = dropout(values, share, training=True)
    assert found.dtype == kind
    zero = (found == 0).double().mean().item()
    assert zero == pytest.approx(share, abs=4 * (share * (1 - share) / values.numel()) ** 0.5)
    expected = torch.tensor(1 / (1 - round(share * LEVELS) / LEVELS), dtype=kind)
    assert found[found != 0].unique().tolist() == [expected.item()]


def test_neighbours_are_drawn_independently():
    torch.manual_seed(0)
    zero = (dropout(torch.ones(1_000_000), 0.5, training=True) == 0).double() - 0.5
    for apart in (1, 2, 3, 4, 8):  # four decisions come from one number
        assert abs((zero[apart:] * zero[:-apart]).mean().item()) < 4 * 0.25 / 1000


def test_gradients_go_where_values_went():
    torch.manual_seed(0)
    values = torch.randn(50, 7, requires_grad=True)
    found = dropout(values, 0.3, training=True)
    found.sum().backward()
    kept = found != 0
    assert (values.grad[~kept] == 0).all()
    torch.testing.assert_close(values.grad[kept], (found / values).detach()[kept])


def test_the_seed_decides_and_evaluation_changes_nothing():
    values = torch.randn(40)
    torch.manual_seed(3)
    one = dropout(values, 0.4, training=True)
    torch.manual_seed(3)
    assert torch.equal(dropout(values, 0.4, training=True), one)
    assert not torch.equal(dropout(values, 0.4, training=True), one)
    assert dropout(values, 0.4, training=False) is values
    assert dropout(values, 0.0, training=True) is values


def test_every_dropout_of_a_module_is_replaced():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.2), nn.Sequential(nn.Dropout(0.5)))
    set_dropout(model, None)
    found = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    assert [type(module) for module in found] == [Dropout, Dropout]
    assert [module.p for module in found] == [0.2, 0.5]
    set_dropout(model, 0.0)
    assert [module.p for module in model.modules() if isinstance(module, nn.Dropout)] == [0.0, 0.0]
    assert torch.equal(model.eval()(torch.eye(2)), model[0](torch.eye(2)))
