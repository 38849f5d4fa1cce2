"""fp32 masters behind a bf16 model: nothing that is smaller than a bf16 step is lost."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from plaudit.models.masters import Masters


def model(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 3)).to(dtype)


def test_in_fp32_the_parameters_are_their_own_masters():
    net = model(torch.float32)
    masters = Masters([("m.", net)])
    assert all(masters.weights[f"m.{n}"] is p for n, p in net.named_parameters())


def test_only_what_is_trained_has_a_master():
    net = model(torch.bfloat16)
    net[0].requires_grad_(False)
    assert list(Masters([("", net)]).weights) == ["1.weight", "1.bias", "2.weight", "2.bias"]


def test_bf16_gradients_are_added_in_fp32():
    """256 equal gradients: in bf16 the running sum would stop growing at 256 times the first bit that is lost."""
    net = model(torch.bfloat16)
    masters = Masters([("", net)])
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    net(x).float().sum().backward()
    once = {n: w.grad.clone() for n, w in masters.weights.items()}
    assert all(p.grad is None for p in net.parameters()), "the bf16 gradient is not kept"
    for _ in range(300):
        net(x).float().sum().backward()
    for name, weight in masters.weights.items():
        assert weight.grad.dtype == torch.float32
        torch.testing.assert_close(weight.grad, 301 * once[name], rtol=1e-5, atol=1e-6)


def test_updates_below_a_bf16_step_add_up():
    net = model(torch.bfloat16)
    masters = Masters([("", net)])
    name = "0.weight"
    before = net[0].weight.detach().clone()
    with torch.no_grad():
        for _ in range(100):
            masters.weights[name].add_(1e-4)
            masters.publish()
    torch.testing.assert_close(masters.weights[name], before.float() + 1e-2, atol=1e-5, rtol=0)
    torch.testing.assert_close(net[0].weight.float(), before.float() + 1e-2, atol=2e-3, rtol=1e-2)
    assert not torch.equal(net[0].weight, before)


def test_a_state_comes_back_exactly():
    first, second = Masters([("", model(torch.bfloat16))]), Masters([("", model(torch.bfloat16))])
    with torch.no_grad():
        for w in first.weights.values():
            w.add_(torch.randn(w.shape, generator=torch.Generator().manual_seed(2)) * 1e-3)
    second.load({n: w.clone() for n, w in first.state().items()})
    assert all(torch.equal(second.weights[n], w) for n, w in first.weights.items())
    assert all(torch.equal(second.compute[n], w.to(torch.bfloat16)) for n, w in first.weights.items())
    with pytest.raises(AssertionError):
        second.load({"other": torch.zeros(1)})


def test_parameters_that_nothing_reached_are_named():
    net = model(torch.float32)
    masters = Masters([("", net)])
    net[2](torch.randn(2, 8)).sum().backward()
    assert masters.without_gradient() == ["0.weight", "0.bias", "1.weight", "1.bias"]
    masters.clear_gradients()
    assert len(masters.without_gradient()) == 6


def test_a_released_model_can_be_trained_again():
    """By a second run in the same program, or by hand: hooks left behind would take the gradients away."""
    net = model(torch.bfloat16)
    first = Masters([("", net)])
    first.release()
    x = torch.ones(2, 8, dtype=torch.bfloat16)
    net(x).float().sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    assert len(first.without_gradient()) == 6
    net.zero_grad()
    second = Masters([("", net)])
    net(x).float().sum().backward()
    assert second.without_gradient() == []
