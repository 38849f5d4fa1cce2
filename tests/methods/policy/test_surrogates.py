"""Clipped losses, aggregation and KL: values, gradients, and identities by enumeration of a small policy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plaudit.methods.policy.kl import adapted, kl_loss
from plaudit.methods.policy.surrogates import aggregate, clipped_surrogate, clipped_value_loss, denominator, ratio_of
from tests.methods.views import group, view


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(
    ("advantage", "ratio", "high", "dual", "objective", "flows"),
    [
        (1, 1.5, 0.2, None, 1.2, False),
        (1, 0.5, 0.2, None, 0.5, True),
        (-1, 0.5, 0.2, None, -0.8, False),
        (-1, 1.5, 0.2, None, -1.5, True),
        (-1, 5.0, 0.2, 3.0, -3.0, False),
        (-1, 2.0, 0.2, 3.0, -2.0, True),
        (1, 5.0, 0.2, 3.0, 1.2, False),
        (1, 1.3, 0.28, None, 1.28, False),  # clip-higher
        (-1, 0.75, 0.28, None, -0.8, False),
    ],
)
def test_the_clip_table(advantage, ratio, high, dual, objective, flows) -> None:
    w = tensor(ratio)
    loss, cut = clipped_surrogate(w, tensor(advantage).detach(), 0.2, high, dual)
    assert float(-loss.detach()) == pytest.approx(objective)
    (gradient,) = torch.autograd.grad(loss.sum(), w)
    assert bool(gradient != 0) == flows
    assert bool(cut) == (not flows)


def test_at_ratio_one_the_gradient_is_reinforces() -> None:
    """−A ∇ log π, to the bit: the clip is not active."""
    logprobs = tensor(-1.0, -2.0, -0.5)
    advantages = torch.tensor([0.7, -0.3, 2.0], dtype=torch.float64)
    loss, _ = clipped_surrogate(ratio_of(logprobs, logprobs.detach()), advantages, 0.2, 0.2)
    (gradient,) = torch.autograd.grad(loss.sum(), logprobs)
    assert torch.equal(gradient, -advantages)


def test_ratios_stay_finite() -> None:
    found = ratio_of(tensor(0.0, 0.0), tensor(-1000.0, 1000.0).detach())
    assert found.tolist() == pytest.approx([np.exp(20), np.exp(-20)])


@pytest.mark.parametrize(("target", "loss", "flows"), [(0.0, 1.125, True), (2.0, 0.32, False)])
def test_the_value_loss(target, loss, flows) -> None:
    values = tensor(1.5)
    found, cut = clipped_value_loss(values, tensor(1.0).detach(), tensor(target).detach(), 0.2)
    assert float(found.detach()) == pytest.approx(loss)
    (gradient,) = torch.autograd.grad(found.sum(), values)
    assert bool(gradient != 0) == flows
    assert bool(cut) == (not flows)
    plain, never = clipped_value_loss(values, tensor(1.0).detach(), tensor(target).detach(), None)
    assert float(plain.detach()) == pytest.approx(0.5 * (1.5 - target) ** 2)
    assert not never.any()


def test_rounding_is_not_clipping() -> None:
    """V_old + (V − V_old) is not V in the last digit: a loss that compares that with V counts values in
    `value/clipfrac` that nothing holds back, and which ones depends on how a batch was packed."""
    generator = torch.Generator().manual_seed(0)
    old, targets = 0.1 * torch.randn(1000, generator=generator), torch.randn(1000, generator=generator)
    values = (old + 0.38 * torch.rand(1000, generator=generator) - 0.19).requires_grad_()
    found, cut = clipped_value_loss(values, old, targets, 0.2)
    assert not cut.any()
    plain, _ = clipped_value_loss(values, old, targets, None)
    assert torch.equal(found, plain)
    assert torch.equal(*(torch.autograd.grad(x.sum(), values)[0] for x in (found, plain)))


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("token-mean", 0.25),
        ("seq-mean-token-mean", 0.5),
        ("seq-mean-token-sum", 0.5),
        ("seq-mean-token-sum-norm", 0.125),
    ],
)
def test_aggregation(mode, expected) -> None:
    """Lengths 1 and 3, all losses 1 in the first and 0 in the second, L_max = 4."""
    groups = [group([1]), group([3])]
    found = aggregate(torch.tensor([1.0, 0, 0, 0]), view(groups), mode)
    assert float(found) / denominator(groups, [[True], [True]], mode, 4) == pytest.approx(expected)


def test_answers_that_do_not_count_are_in_no_denominator() -> None:
    both = group([1, 3])
    assert denominator([both], [[True, False]], "token-mean", 4) == 1
    assert denominator([both], [[True, False]], "seq-mean-token-sum-norm", 4) == 4
    both.completions[1].action_mask[0] = False  # an observation
    assert denominator([both], [[True, True]], "token-mean", 4) == 3


# -- KL


def test_kl_values() -> None:
    """One sample with π/q = 2."""
    pi, q = tensor(np.log(2.0)), tensor(0.0).detach()
    found = [float(kl_loss(pi, q, name).detach()) for name in ("k1", "k2", "k3")]
    assert found == pytest.approx([0.693147, 0.240227, 0.193147], abs=5e-7)


def test_kl_expectations() -> None:
    pi, q = torch.tensor([0.7, 0.3], dtype=torch.float64), torch.tensor([0.5, 0.5], dtype=torch.float64)
    mean = {name: float((pi * kl_loss(pi.log(), q.log(), name)).sum()) for name in ("k1", "k2", "k3")}
    assert mean["k1"] == pytest.approx(0.08228287850505176, abs=1e-15)
    assert mean["k3"] == pytest.approx(0.08228287850505176, abs=1e-15)
    assert mean["k2"] == pytest.approx(0.0787661707902955, abs=1e-15)
    assert float((q * (q.log() - pi.log())).sum()) == pytest.approx(0.0871766935723889, abs=1e-15)


def test_k3_is_held_and_an_outlier_has_no_gradient() -> None:
    far = tensor(-3.0, -50.0)
    loss = kl_loss(far, tensor(0.0, 0.0).detach(), "k3")
    assert loss.tolist() == [10.0, 10.0]
    (gradient,) = torch.autograd.grad(loss.sum(), far)
    assert gradient.tolist() == [0.0, 0.0]


LOGITS = [0.3, -0.7, 1.1, 0.0, -0.2]
REFERENCE = torch.tensor([-0.4, 0.5, 0.2, 0.9, -1.0], dtype=torch.float64).log_softmax(-1)
REWARDS = torch.tensor([1.0, -0.5, 0.2, 2.0, 0.0], dtype=torch.float64)


def _policy() -> tuple[torch.Tensor, torch.Tensor]:
    theta = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)
    return theta, theta.log_softmax(-1)


def _gradient(loss: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss, theta, retain_graph=True)[0]


def test_gradients_of_kl_estimators_by_enumeration() -> None:
    """On samples of the policy itself: k1 none, k2 the reverse KL's, k3 the forward KL's, w · k3 the reverse KL's."""
    theta, logp = _policy()
    p = logp.detach().exp()  # the samples' weights
    reverse = _gradient((logp.exp() * (logp - REFERENCE)).sum(), theta)
    forward = _gradient((REFERENCE.exp() * (REFERENCE - logp)).sum(), theta)
    expected = {"k1": torch.zeros(5).double(), "k2": reverse, "k3": forward, "k3_corrected": reverse}
    for name, gradient in expected.items():
        terms = kl_loss(logp, REFERENCE, name, ratio_of(logp, logp.detach()))
        assert torch.allclose(_gradient((p * terms).sum(), theta), gradient, atol=1e-14), name


@pytest.mark.parametrize("baseline", [0.0, 0.37])
def test_the_surrogates_gradient_is_the_policy_gradient_by_enumeration(baseline: float) -> None:
    """∇ E[r] for every baseline, and with the KL in the reward ∇ (E[r] − β KL)."""
    theta, logp = _policy()
    p = logp.detach().exp()
    for beta in (0.0, 0.3):
        objective = (logp.exp() * (REWARDS - beta * (logp - REFERENCE))).sum()
        gains = REWARDS - beta * (logp.detach() - REFERENCE) - baseline
        loss, _ = clipped_surrogate(ratio_of(logp, logp.detach()), gains, 0.2, 0.2)
        assert torch.allclose(_gradient((p * loss).sum(), theta), -_gradient(objective, theta), atol=1e-14)


def test_leave_one_out_is_unbiased_by_enumeration() -> None:
    """Over all pairs of answers: the mean gradient is the policy gradient."""
    from plaudit.methods.policy.advantages import leave_one_out

    theta, logp = _policy()
    p = logp.detach().exp()
    total = torch.zeros(5).double()
    for i in range(5):
        for j in range(5):
            gains = torch.from_numpy(leave_one_out([float(REWARDS[i]), float(REWARDS[j])]))
            pair = torch.stack([logp[i], logp[j]])
            loss, _ = clipped_surrogate(ratio_of(pair, pair.detach()), gains, 0.2, 0.2)
            total = total + p[i] * p[j] * _gradient(loss.mean(), theta)
    assert torch.allclose(total, -_gradient((logp.exp() * REWARDS).sum(), theta), atol=1e-14)


# -- the controller


@pytest.mark.parametrize(("kl", "expected"), [(12, 0.151536), (1e6, 0.151536), (6, 0.15), (0, 0.148464)])
def test_zieglers_controller(kl, expected) -> None:
    assert adapted(0.15, kl, 6.0, 512, 10_000) == pytest.approx(expected, abs=1e-12)


def test_the_controller_doubles_slowly_and_stays_positive() -> None:
    beta, steps = 0.15, 0
    while beta < 0.3:
        beta, steps = adapted(beta, 100.0, 6.0, 512, 10_000), steps + 1
    assert steps == 69  # 68.0 saturated steps double it
    for _ in range(10_000):
        beta = adapted(beta, 0.0, 6.0, 512, 10_000)
    assert beta > 0
