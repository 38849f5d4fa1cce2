"""What the toys must compute, against direct formulas on plain forwards: the contract carries the mathematics
unchanged."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

from plaudit.methods.sft import SFT
from plaudit.models.probe import native_logprobs
from plaudit.train.step import Stream
from tests.train.steps import METHODS, build, gradients, largest_error, make_groups, prepare, streams_of
from tests.train.toys import TOYS, ToyAOT, ToyKTO, ToyPPO, gae


def plain_ratios(setup, batch):
    """[group][completion] log π − log π_ref from one plain forward per sequence."""
    policy = native_logprobs(setup.models["policy"], batch.groups)
    reference = native_logprobs(setup.models["reference"], batch.groups)
    return [
        [float((policy[i, k] - reference[i, k]).sum()) for k in range(len(g.completions))]
        for i, g in enumerate(batch.groups)
    ]


def roles_of(setup):
    """Let `native_logprobs` read a model in the role it plays."""
    for role in ("policy", "reference"):
        setup.models[role]._role = role
    return setup


@pytest.mark.parametrize("toy", TOYS, ids=lambda t: t.name)
def test_a_method_is_short(toy):
    source = inspect.getsource(toy).splitlines()
    assert len([line for line in source if line.strip()]) <= 45


def test_aot_sorts_over_the_whole_step():
    setup = roles_of(build())
    batch = prepare(setup, ToyAOT(), make_groups("preference"))
    policy = native_logprobs(setup.models["policy"], batch.groups)
    reference = native_logprobs(setup.models["reference"], batch.groups)

    def margins(found):
        return np.sort([float(found[i, 0].sum() - found[i, 1].sum()) for i in range(len(batch.groups))])

    expected = np.mean(np.logaddexp(0, -0.1 * (margins(policy) - margins(reference))))
    _, metrics = gradients(setup, [Stream(ToyAOT(), batch, range(len(batch.groups)))], budget=30)
    assert metrics["loss"] == pytest.approx(expected, rel=1e-5)


def test_kto_baseline_is_the_mean_over_the_step_and_carries_no_gradient():
    setup = roles_of(build())
    method = ToyKTO()
    batch = prepare(setup, method, make_groups("feedback"))
    ratios = plain_ratios(setup, batch)
    baseline = max(0.0, float(np.mean([row[1] for row in ratios])))
    sign = [1 if g.completions[0].label else -1 for g in batch.groups]
    expected = np.mean([1 / (1 + np.exp(-0.5 * s * (baseline - row[0]))) for s, row in zip(sign, ratios, strict=True)])
    stream = Stream(method, batch, range(len(batch.groups)))
    found, metrics = gradients(setup, [stream], budget=30)
    assert metrics["kl"] == pytest.approx(baseline, rel=1e-4, abs=1e-5)
    assert metrics["loss"] == pytest.approx(expected, rel=1e-5)
    # Replacing the mismatched completions by a constant baseline gives the same gradient.
    constant = _ConstantBaseline(baseline)
    alone, _ = gradients(setup, [Stream(constant, batch, range(len(batch.groups)))], budget=100_000)
    assert largest_error(found, alone) < 1e-5


class _ConstantBaseline(ToyKTO):
    name = "constant"
    scope = "group"

    def __init__(self, baseline):
        super().__init__()
        self.baseline = baseline

    def loss(self, role, scores, view):
        from plaudit.methods.base import Sums

        ratio = view.sum_C(scores.logprobs_N - view.columns["reference"])
        sign = 2 * view.columns["desirable"] - 1
        return Sums({"loss": torch.sigmoid(0.5 * sign * (self.baseline - ratio)).sum()})


def test_gae_oracle():
    values = np.array([0.5, 0.6, 0.8])
    assert gae(1.0, values, lam=1.0) == pytest.approx([0.5, 0.4, 0.2])
    assert gae(1.0, values, lam=0.0) == pytest.approx([0.1, 0.2, 0.2])
    assert gae(1.0, values, lam=0.95) == pytest.approx([0.4705, 0.39, 0.2])


def test_ppo_at_the_first_minibatch_is_the_policy_gradient():
    """With old log-probs equal to the policy's own, ratio = 1 and the gradient is −A ∇ log π over the minibatch's
    tokens."""
    setup = build()
    groups = make_groups("prompt")
    found = native_logprobs(_as("policy", setup), groups)
    for i, group in enumerate(groups):
        for k, completion in enumerate(group.completions):
            completion.sampling_logprobs = found[i, k].numpy()
    batch = prepare(setup, ToyPPO(), groups)
    minibatch = [4, 2, 0]
    got, metrics = gradients(setup, [Stream(ToyPPO(), batch, minibatch)], budget=40)
    assert metrics["ratio"] == pytest.approx(1.0, abs=1e-5)

    policy = setup.models["policy"].model
    policy.zero_grad()
    tokens = sum(int(c.action_mask.sum()) for i in minibatch for c in groups[i].completions)
    with setup.models["policy"].native():
        for i in minibatch:
            for k, c in enumerate(groups[i].completions):
                ids = torch.from_numpy(np.concatenate([groups[i].prompt_ids, c.token_ids]).astype(np.int64))
                logits = policy(input_ids=ids[None]).logits[0]
                at = torch.from_numpy(np.flatnonzero(c.action_mask)) + len(groups[i].prompt_ids)
                logprobs = torch.log_softmax(logits[at - 1], -1).gather(-1, ids[at, None]).squeeze(-1)
                (-torch.from_numpy(batch.per_token["advantage"][i][k]) * logprobs).sum().div(tokens).backward()
    expected = {f"policy.model.{n}": p.grad for n, p in policy.named_parameters()}
    own = {n: g for n, g in got.items() if n.startswith("policy.")}
    assert largest_error(own, expected) < 1e-5


def _as(role, setup):
    setup.models[role]._role = role
    return setup.models[role]


def test_two_streams_add_up():
    setup = build()
    ppo, sft = streams_of(setup, "toy_ppo_ptx")
    both, metrics = gradients(setup, [ppo, sft], budget=60)
    first, _ = gradients(setup, [ppo], budget=60)
    second, _ = gradients(setup, [Stream(SFT(), sft.batch, sft.indices)], budget=60)
    combined = {n: first[n] + (2.5 * second[n] if n in second else 0) for n in both}
    assert largest_error(both, combined) < 1e-5
    assert "ptx/logps/mean" in metrics


def test_epochs_and_minibatches_cover_the_rollout_batch_once():
    """Minibatch gradients, weighted by their denominators, sum to the gradient of the whole batch."""
    setup = build()
    method = METHODS["toy_ppo"]()
    batch = prepare(setup, method, make_groups("prompt"))
    whole, _ = gradients(setup, [Stream(method, batch, range(7))], budget=60)
    parts = [[0, 3, 5], [1, 2], [4, 6]]
    total = {n: torch.zeros_like(g) for n, g in whole.items()}
    tokens = method.weights(batch.groups)["policy"]
    for part in parts:
        found, _ = gradients(setup, [Stream(method, batch, part)], budget=60)
        share = method.weights([batch.groups[i] for i in part])["policy"] / tokens
        total = {n: total[n] + share * found[n] for n in total}
    assert largest_error(total, whole) < 1e-5
