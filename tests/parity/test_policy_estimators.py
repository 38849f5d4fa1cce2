"""Advantages and losses against the forms in which others compute them: padded matrices with a response mask.

Each function below says whose definition it is; all are written for this file. What differs on purpose is named: verl
whitens with n − 1 in the variance, TRL adds 1e-4 to the deviation, and so do we.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from plaudit.methods.base import Batch, Scored, Scores, Sums
from plaudit.methods.cispo import CISPO, CISPOConfig
from plaudit.methods.dapo import DAPO, DAPOConfig
from plaudit.methods.dr_grpo import DrGRPO
from plaudit.methods.grpo import GRPO, GRPOConfig
from plaudit.methods.gspo import GSPO, GSPOConfig
from plaudit.methods.policy.advantages import whiten
from plaudit.methods.policy.base import SampledMethod
from plaudit.methods.ppo import PPO, PPOConfig
from plaudit.methods.reinforce_pp import ReinforcePP, ReinforcePPConfig
from plaudit.methods.remax import ReMax, ReMaxConfig
from plaudit.methods.rloo import RLOO, RLOOConfig
from plaudit.types import Completion, PromptGroup
from tests.methods.views import view

LENGTHS = (3, 5, 1, 4, 2, 5, 5, 3)
GROUP = 4
RNG = np.random.default_rng(11)
REWARDS = RNG.normal(size=len(LENGTHS))
GREEDY = (0.4, -0.3)
OLD = [RNG.normal(-2, 0.5, n).astype(np.float32) for n in LENGTHS]
NEW = [o + RNG.normal(0, 0.2, len(o)).astype(np.float32) for o in OLD]
REFERENCE = [o + RNG.normal(0, 0.3, len(o)).astype(np.float32) for o in OLD]
VALUES = [RNG.normal(0, 1, n).astype(np.float32) for n in LENGTHS]


def padded(rows: Sequence[np.ndarray]) -> torch.Tensor:
    """[B, T] with zeros behind the end, fp64."""
    found = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.float64)
    for i, row in enumerate(rows):
        found[i, : len(row)] = torch.from_numpy(np.asarray(row, dtype=np.float64))
    return found


MASK = padded([np.ones(n) for n in LENGTHS])


def batch() -> Batch:
    answers = [
        Completion(np.arange(n, dtype=np.int32), np.ones(n, dtype=bool), reward=float(r), finish_reason="stop")
        for n, r in zip(LENGTHS, REWARDS, strict=True)
    ]
    ids = np.arange(2, dtype=np.int32)
    greedy = [Completion(ids, np.ones(2, dtype=bool), reward=r, finish_reason="stop") for r in GREEDY]
    rows = [answers[i : i + GROUP] for i in range(0, len(answers), GROUP)]
    groups = [PromptGroup(ids, row, greedy=best) for row, best in zip(rows, greedy, strict=True)]
    return Batch(groups, per_token={"old": [OLD[i : i + GROUP] for i in range(0, len(OLD), GROUP)]})


def score(role, groups):
    columns = {"reference": REFERENCE, "critic": VALUES}[role]
    rows = [columns[i : i + GROUP] for i in range(0, len(columns), GROUP)]
    return [[Scored(logprobs=v, values=v) for v in row] for row in rows]


def ours(method):
    """(advantages as a padded matrix, the batch, the method's sums on NEW)."""
    method.longest_sampled = 6
    found = batch()
    method.prepare_batch(found, score, np.random.default_rng(0))
    columns = {n: torch.cat([torch.from_numpy(v) for r in rows for v in r]) for n, rows in found.per_token.items()}
    flat = torch.from_numpy(np.concatenate(NEW))
    sums = method.loss("policy", Scores(logprobs_N=flat, entropy_N=torch.zeros(len(flat))), view(found.groups, columns))
    return padded([a for row in found.per_token["advantage"] for a in row]), found, sums


def trl_group_advantages(scale: bool) -> torch.Tensor:
    """TRL GRPOTrainer: rewards against the mean of their group, over its standard deviation (n − 1) + 1e-4."""
    grouped = torch.from_numpy(REWARDS).view(-1, GROUP)
    centred = grouped - grouped.mean(1, keepdim=True)
    if scale:
        centred = centred / (grouped.std(1, keepdim=True) + 1e-4)
    return centred.reshape(-1, 1) * MASK


def trl_grpo_loss(advantages: torch.Tensor, beta: float, kind: str, corrected: bool) -> float:
    """TRL GRPOTrainer._compute_loss for loss_type grpo, dr_grpo and bnpo, with ε = 0.2."""
    new, old, reference = padded(NEW), padded(OLD), padded(REFERENCE)
    ratio = (new - old).exp()
    loss = -torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
    kl = (reference - new).exp() - (reference - new) - 1
    loss = (loss + beta * (kl * ratio if corrected else kl)) * MASK
    if kind == "grpo":
        return float((loss.sum(1) / MASK.sum(1).clamp(min=1)).mean())
    if kind == "dr_grpo":
        return float(loss.sum() / (len(LENGTHS) * 6))
    return float(loss.sum() / MASK.sum())


@pytest.mark.parametrize(
    ("kind", "mode"), [("grpo", "seq-mean-token-mean"), ("dr_grpo", "seq-mean-token-sum-norm"), ("bnpo", "token-mean")]
)
@pytest.mark.parametrize("corrected", [False, True])
def test_grpo(kind: str, mode: str, corrected: bool) -> None:
    std = "none" if kind == "dr_grpo" else "sample"
    estimator = "k3_corrected" if corrected else "k3"
    method = GRPO(GRPOConfig(kl_weight=0.04, kl_estimator=estimator, std=std, aggregation=mode))
    advantages, found, sums = ours(method)
    expected = trl_group_advantages(std == "sample")
    assert torch.allclose(advantages, expected, atol=1e-6)
    by = method.weights(found.groups)
    total = sum(method.coefficients()[n] * float(v) / by[n] for n, v in sums.terms.items())
    assert total == pytest.approx(trl_grpo_loss(expected, 0.04, kind, corrected), abs=1e-6)


def trl_rloo(beta: float) -> tuple[torch.Tensor, float]:
    """TRL RLOOTrainer: k1 summed into the reward, leave-one-out, the sequence's ratio clipped."""
    kl = ((padded(OLD) - padded(REFERENCE)) * MASK).sum(1)
    rewards = (torch.from_numpy(REWARDS) - beta * kl).view(-1, GROUP)
    advantages = (rewards - (rewards.sum(1, keepdim=True) - rewards) / (GROUP - 1)).flatten()
    ratio = ((padded(NEW) - padded(OLD)) * MASK).sum(1).exp()
    loss = -torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean()
    return advantages, float(loss)


def test_rloo() -> None:
    method = RLOO(RLOOConfig(kl_weight=0.05))
    advantages, found, sums = ours(method)
    expected, loss = trl_rloo(0.05)
    assert torch.allclose(advantages, expected[:, None] * MASK, atol=1e-5)
    assert float(sums.terms["policy"]) / method.weights(found.groups)["policy"] == pytest.approx(loss, abs=1e-5)


def objective(method: SampledMethod, found: Batch, sums: Sums) -> float:
    by = method.weights(found.groups)
    return sum(
        factor * float(sums.terms[n].detach()) / by[n] for n, factor in method.coefficients().items() if n in sums.terms
    )


def verl_group_advantages(by_std: bool) -> torch.Tensor:
    """verl compute_grpo_outcome_advantage: by group, torch's standard deviation (n − 1) plus 1e-6; Dr. GRPO with
    norm_adv_by_std_in_grpo=False."""
    found = torch.zeros(len(REWARDS), dtype=torch.float64)
    for start in range(0, len(REWARDS), GROUP):
        own = torch.from_numpy(REWARDS[start : start + GROUP])
        found[start : start + GROUP] = (own - own.mean()) / (own.std() + 1e-6) if by_std else own - own.mean()
    return found[:, None] * MASK


def verl_mean(losses: torch.Tensor, mode: str, longest: int = 6) -> float:
    """verl agg_loss."""
    sums, counts = (losses * MASK).sum(1), MASK.sum(1)
    if mode == "token-mean":
        return float(sums.sum() / counts.sum())
    if mode == "seq-mean-token-mean":
        return float((sums / counts).mean())
    return float(sums.sum() / len(sums) / longest)


def verl_ppo_loss(advantages: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """verl compute_policy_loss without its dual clip."""
    ratio = (padded(NEW) - padded(OLD)).exp()
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - low, 1 + high))


def test_dr_grpo_is_verls() -> None:
    method = DrGRPO()
    advantages, found, sums = ours(method)
    expected = verl_group_advantages(by_std=False)
    assert torch.allclose(advantages, expected, atol=1e-6)
    loss = verl_mean(verl_ppo_loss(expected, 0.2, 0.2), "seq-mean-token-sum-norm")
    assert objective(method, found, sums) == pytest.approx(loss, abs=1e-6)


def test_dapo_is_verls() -> None:
    """With the reward of verl's DAPO reward manager: min(−exceed / buffer · factor, 0) added to each answer's."""
    method = DAPO(DAPOConfig(overlong_buffer=3, overlong_penalty=0.7))
    advantages, found, sums = ours(method)
    exceed = torch.tensor(LENGTHS, dtype=torch.float64) - (6 - 3)
    rewards = torch.from_numpy(REWARDS) + torch.clamp(-exceed / 3 * 0.7, max=0)
    grouped = rewards.view(-1, GROUP)
    expected = ((grouped - grouped.mean(1, keepdim=True)) / (grouped.std(1, keepdim=True) + 1e-6)).reshape(-1, 1) * MASK
    assert torch.allclose(advantages, expected, rtol=1e-3)  # 1e-4 beside the deviation here, 1e-6 there
    loss = verl_mean(verl_ppo_loss(advantages, 0.2, 0.28), "token-mean")
    assert objective(method, found, sums) == pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize("token_level", [False, True])
def test_gspo_is_verls(token_level: bool) -> None:
    """verl compute_policy_loss_gspo, its gradient too: log s_it = log π − sg(log π) + sg(mean log-ratio), and
    seq-mean-token-mean."""
    method = GSPO(GSPOConfig(clip_low=0.02, clip_high=0.03, token_level=token_level))
    advantages, found, _ = ours(method)
    new = padded(NEW).requires_grad_()
    mean = ((new - padded(OLD)) * MASK).sum(1) / MASK.sum(1)
    ratio = (new - new.detach() + mean.detach()[:, None]).exp()
    losses = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(0.98, 1.03))
    loss = ((losses * MASK).sum(1) / MASK.sum(1)).mean()
    loss.backward()
    flat = torch.from_numpy(np.concatenate(NEW)).requires_grad_()
    columns = {n: torch.cat([torch.from_numpy(v) for r in rows for v in r]) for n, rows in found.per_token.items()}
    scores = Scores(logprobs_N=flat, entropy_N=torch.zeros(len(flat)))
    sums = method.loss("policy", scores, view(found.groups, columns))
    assert objective(method, found, sums) == pytest.approx(float(loss.detach()), abs=1e-6)
    (sums.terms["policy"] / len(LENGTHS)).backward()
    assert torch.allclose(flat.grad.double(), new.grad[MASK.bool()], atol=1e-6)
    assert 0 < float(sums.metrics["policy/clipfrac"][0]) < sum(LENGTHS), "clipping must matter here"


def test_cispo_is_verls() -> None:
    """verl compute_policy_loss_cispo with clip_ratio_high = cap − 1 and no floor (clip_ratio_low=1): the clamped ratio
    without gradient times A log π."""
    method = CISPO(CISPOConfig(ratio_cap=1.15))
    advantages, found, sums = ours(method)
    weight = (padded(NEW) - padded(OLD)).exp().clamp(1 - 1.0, 1 + 0.15)
    loss = verl_mean(-weight * advantages * padded(NEW), "token-mean")
    assert objective(method, found, sums) == pytest.approx(loss, abs=1e-6)
    assert float(sums.metrics["policy/clipfrac"][0]) > 0


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_remax_is_verls(beta: float) -> None:
    """verl compute_remax_outcome_advantage: rewards from each token on, less the greedy answer's. With a KL in the
    reward a token has the KL from it on there; here each has that of the whole answer, which is verl's first token's.
    """
    method = ReMax(ReMaxConfig(kl_weight=beta))
    advantages, _, _ = ours(method)
    rewards = -beta * (padded(OLD) - padded(REFERENCE)) * MASK
    for i, (n, r) in enumerate(zip(LENGTHS, REWARDS, strict=True)):
        rewards[i, n - 1] += r
    baselines = torch.tensor(GREEDY).repeat_interleave(GROUP).double()
    expected = (rewards.flip(1).cumsum(1).flip(1) - baselines[:, None]) * MASK
    assert torch.allclose(advantages[:, 0], expected[:, 0], atol=1e-5)
    assert torch.allclose(advantages, expected[:, :1] * MASK, atol=1e-5)
    assert torch.allclose(advantages, expected, atol=1e-5) == (beta == 0)


def verl_gae(
    rewards: torch.Tensor, values: torch.Tensor, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """verl compute_gae_advantage_return: from the end to the start, positions outside of the mask passed over."""
    following, last, columns = torch.zeros(len(rewards)), torch.zeros(len(rewards)), []
    following, last = following.double(), last.double()
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * following - values[:, t]
        current = delta + gamma * lam * last
        inside = MASK[:, t]
        following = values[:, t] * inside + (1 - inside) * following
        last = current * inside + (1 - inside) * last
        columns.append(last)
    gains = torch.stack(columns[::-1], dim=1)
    return gains, gains + values


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (1.0, 1.0), (0.9, 0.5)])
def test_ppo(gamma: float, lam: float) -> None:
    method = PPO(PPOConfig(kl_weight=0.05, gamma=gamma, lam=lam, whiten_advantages=False))
    advantages, found, _ = ours(method)
    rewards = -0.05 * (padded(OLD) - padded(REFERENCE)) * MASK
    for i, (n, r) in enumerate(zip(LENGTHS, REWARDS, strict=True)):
        rewards[i, n - 1] += r  # verl puts the score on the last valid token
    gains, returns = verl_gae(rewards, padded(VALUES), gamma, lam)
    assert torch.allclose(advantages * MASK, gains * MASK, atol=1e-5)
    own = padded([v for row in found.per_token["return"] for v in row])
    assert torch.allclose(own * MASK, returns * MASK, atol=1e-5)


def test_reinforce_plus_plus() -> None:
    """OpenRLHF: cumulative returns of r − β k1, normalised over all tokens (population variance there as here)."""
    advantages, _, _ = ours(ReinforcePP(ReinforcePPConfig(kl_weight=0.1)))
    rewards = -0.1 * (padded(OLD) - padded(REFERENCE)) * MASK
    for i, (n, r) in enumerate(zip(LENGTHS, REWARDS, strict=True)):
        rewards[i, n - 1] += r
    returns = rewards.flip(1).cumsum(1).flip(1) * MASK
    mean = returns.sum() / MASK.sum()
    variance = (((returns - mean) ** 2) * MASK).sum() / MASK.sum()
    assert torch.allclose(advantages, (returns - mean) * MASK / (variance + 1e-8).sqrt(), atol=1e-5)


def test_whitening_differs_from_verls_by_bessels_factor() -> None:
    """verl masked_whiten corrects the variance by n / (n − 1); lm-human-preferences and this project do not."""
    flat = np.concatenate(VALUES).astype(np.float64)
    verl = (flat - flat.mean()) / np.sqrt(flat.var(ddof=1) + 1e-8)
    n = len(flat)
    assert np.concatenate(whiten(VALUES)) == pytest.approx(verl * np.sqrt(n / (n - 1)), abs=1e-6)
