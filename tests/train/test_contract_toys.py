"""What methods and toys must compute, against direct formulas on plain forwards: the contract carries the mathematics
unchanged."""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch

from plaudit.methods.aot import AOT, AOTConfig
from plaudit.methods.base import Batch
from plaudit.methods.kto import KTO, KTOConfig, mismatched_answers
from plaudit.methods.reward import Reward
from plaudit.methods.sft import SFT
from plaudit.models.probe import native_logprobs
from plaudit.train.parallel import World
from plaudit.train.scorer import GroupScorer
from plaudit.train.step import Stream
from tests.train.steps import METHODS, build, gradients, largest_error, make_groups, prepare, streams_of
from tests.train.toys import TOYS, ToyCentredReward, ToyPPO, gae


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
    method = AOT(AOTConfig(beta=0.1))
    batch = prepare(setup, method, make_groups("preference"))
    policy = native_logprobs(setup.models["policy"], batch.groups)
    reference = native_logprobs(setup.models["reference"], batch.groups)

    def margins(found):
        return np.sort([float(found[i, 0].sum() - found[i, 1].sum()) for i in range(len(batch.groups))])

    expected = np.mean(np.logaddexp(0, -0.1 * (margins(policy) - margins(reference))))
    _, metrics = gradients(setup, [Stream(method, batch, range(len(batch.groups)))], budget=30)
    assert metrics["loss"] == pytest.approx(expected, rel=1e-5)


def test_kto_baseline_is_the_mean_over_the_step_and_carries_no_gradient():
    setup = roles_of(build())
    method = KTO(KTOConfig(beta=0.5))
    batch = prepare(setup, method, make_groups("feedback"))
    ratios = plain_ratios(setup, batch)
    drawn = mismatched_answers(batch.groups, None, np.random.default_rng(6))
    others = [replace(g, completions=[c for c, _ in row]) for g, row in zip(batch.groups, drawn, strict=True)]
    baseline = max(0.0, float(np.mean([row[0] for row in plain_ratios(setup, Batch(others))])))
    assert baseline > 0.1, "at 0 the clamp would hide whatever is wrong with it"
    sign = [1 if g.completions[0].label else -1 for g in batch.groups]
    expected = np.mean([1 / (1 + np.exp(-0.5 * s * (baseline - row[0]))) for s, row in zip(sign, ratios, strict=True)])
    stream = Stream(method, batch, range(len(batch.groups)))
    found, metrics = gradients(setup, [stream], budget=30)
    assert metrics["kl"] == pytest.approx(baseline, rel=1e-4, abs=1e-5)
    assert metrics["loss"] == pytest.approx(expected, rel=1e-5)
    # A constant in place of the reference point gives the same gradient.
    constant = _ConstantBaseline(baseline)
    alone, _ = gradients(setup, [Stream(constant, batch, range(len(batch.groups)))], budget=100_000)
    assert largest_error(found, alone) < 1e-5


class _ConstantBaseline(KTO):
    name = "constant"

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
            completion.sampling_logprobs = np.zeros(len(completion.token_ids), np.float32)
            completion.sampling_logprobs[completion.action_mask] = found[i, k].numpy()
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


@pytest.mark.parametrize("toy", [Reward, ToyCentredReward], ids=lambda t: t.name)
def test_a_reward_model_reads_the_last_token_and_compares_within_a_prompt(toy):
    """Against plain forwards: the scalar head on the hidden state of each sequence's last token, pair by pair."""
    setup = build()
    groups = make_groups("ranking")
    for group in groups:
        group.completions[0].action_mask[-1:] = False  # the last token is read, whether it is trained or not
    batch = prepare(setup, toy(), groups)
    got, metrics = gradients(setup, [Stream(toy(), batch, range(len(groups)))], budget=60)

    reward = setup.models["reward"]
    reward.zero_grad()
    total, scores = torch.zeros(()), []
    with reward.native() as inner:
        for group in groups:
            own = []
            for c in group.completions:
                ids = torch.from_numpy(np.concatenate([group.prompt_ids, c.token_ids]).astype(np.int64))
                own.append(reward.heads["reward"](inner.model(input_ids=ids[None])[0][0, -1])[0])
            ranks = [c.rank for c in group.completions]
            pairs = [(a, b) for a in range(4) for b in range(4) if ranks[a] < ranks[b]]
            assert len(pairs) == 4, "two ties"
            total = total + sum(torch.nn.functional.softplus(own[b] - own[a]) for a, b in pairs) / len(pairs)
            scores += own
        loss = total / len(groups) + (torch.stack(scores).mean() ** 2 if toy.scope == "step" else 0)
        loss.backward()
    assert metrics["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    expected = {f"reward.{n}": p.grad for n, p in reward.named_parameters() if p.grad is not None}
    assert largest_error(got, expected) < 1e-5


def test_two_passes_give_the_gradient_of_one():
    """A loss that separates over groups needs no scope "step"; with it, prompt targets included, nothing changes."""
    setup = build()
    groups = make_groups("completion")
    assert any(g.prompt_mask is not None and g.prompt_mask.any() for g in groups)
    found = []
    for scope in ("group", "step"):
        method = type("ScopedSFT", (SFT,), {"scope": scope, "name": "scoped"})()
        batch = prepare(setup, method, groups)
        found.append(gradients(setup, [Stream(method, batch, range(len(groups)))], budget=47))
    assert largest_error(found[1][0], found[0][0]) < 1e-5
    assert found[1][1] == pytest.approx(found[0][1], rel=1e-5)


def test_scores_of_a_bf16_model_are_not_rounded_to_bf16():
    setup = build(bf16=True)
    batch = prepare(setup, Reward(), make_groups("ranking"))
    scores = [s.last for row in GroupScorer(setup.models, World(), 1000)("reward", batch.groups) for s in row]
    assert any(float(torch.tensor(s).bfloat16()) != s for s in scores)


def test_changing_roles_changes_no_requires_grad():
    """PEFT's switches make the active adapter trainable and every other one frozen."""
    setup = build(lora=True)
    model = setup.models["policy"]
    for name, parameter in model.named_parameters():
        if ".reward." in name:
            parameter.requires_grad_(False)
    before = {n: p.requires_grad for n, p in model.named_parameters()}
    for role in ("reward", "reference", "critic", "policy"):
        with model.role(role):
            assert {n: p.requires_grad for n, p in model.named_parameters()} == before
        assert {n: p.requires_grad for n, p in model.named_parameters()} == before
