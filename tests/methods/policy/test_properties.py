"""What holds for every method and every batch: what is no target takes no part, order does not matter, a masked answer
is as good as absent, denominators add up; and the bounds of the losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plaudit.methods import find
from plaudit.methods.base import Batch, Scored, Scores
from plaudit.methods.policy.advantages import gae, reward_to_go
from plaudit.methods.policy.base import SampledMethod
from plaudit.methods.policy.kl import kl_loss
from plaudit.methods.policy.surrogates import aggregate, clipped_surrogate, clipped_value_loss, denominator
from plaudit.types import Completion, PromptGroup
from tests.methods.views import group, view

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "ppo": ("ppo", {"whiten_rewards": True, "lam_alpha": 0.4, "kl_weight": 0.2}),
    "grpo": ("grpo", {"kl_weight": 0.1, "entropy_weight": 0.02}),
    "grpo, unbiased KL": ("grpo", {"kl_weight": 0.1, "kl_estimator": "k3_corrected", "aggregation": "token-mean"}),
    "grpo, Lite-PPO": ("grpo", {"std": "batch", "aggregation": "token-mean", "off_policy_mask": 0.1}),
    "grpo, process": ("grpo", {"supervision": "process", "std": "population", "kl_weight": 0.1}),
    "dr_grpo": ("dr_grpo", {"kl_weight": 0.1, "off_policy_mask": 0.1}),
    "dapo": ("dapo", {"overlong_buffer": 14, "entropy_weight": 0.02}),
    "gspo": ("gspo", {"kl_weight": 0.1, "aggregation": "token-mean", "clip_low": 0.3, "clip_high": 0.3}),
    "gspo, token level": ("gspo", {"token_level": True, "supervision": "process", "clip_high": 0.3}),
    "cispo": ("cispo", {"ratio_cap": 1.2, "kl_weight": 0.1}),
    "remax": ("remax", {"kl_weight": 0.2, "entropy_weight": 0.02}),
    "rloo": ("rloo", {"kl_weight": 0.2}),
    "reinforce_pp": ("reinforce_pp", {"kl_weight": 0.2}),
    "reinforce_pp baseline": ("reinforce_pp", {"kl_weight": 0.2, "baseline": "group"}),
}
cases = pytest.mark.parametrize("case", METHODS)


def configured(case: str, **more: Any) -> SampledMethod:
    name, options = METHODS[case]
    method = find(name)
    found = method(method.Config(**options, **more))
    assert isinstance(found, SampledMethod)
    found.longest_sampled = 16
    return found


def value_of(completion: Completion, salt: int) -> np.ndarray:
    """[T] a number for every target that depends on the answer's tokens before it and on nothing else."""
    return np.sin(salt + np.cumsum(completion.token_ids[completion.action_mask] % 97)).astype(np.float32)


def score(role: str, groups: Sequence[PromptGroup]) -> list[list[Scored]]:
    return [
        [Scored(logprobs=value_of(c, 1) - 2, values=value_of(c, 2)) for c in g.completions] for g in groups
    ]  # fmt: skip


def batch_of(seed: int, count: int = 3, answers: int = 3) -> list[PromptGroup]:
    rng = np.random.default_rng(seed)

    def answer() -> Completion:
        ids = rng.integers(0, 90, int(rng.integers(1, 7))).astype(np.int32)
        found = Completion(ids, np.ones(len(ids), np.bool_), reward=float(rng.normal()), finish_reason="stop")
        ends = sorted({int(end) for end in rng.integers(0, len(ids), 2)})
        found.step_rewards = tuple((end, float(rng.normal())) for end in ends)
        return found

    groups = [PromptGroup(np.arange(2, dtype=np.int32), [answer() for _ in range(answers)]) for _ in range(count)]
    return [replace(group, greedy=answer()) for group in groups]


def prepared(method: SampledMethod, groups: list[PromptGroup]) -> Batch:
    batch = Batch(groups, per_token={"old": [[value_of(c, 1) - 1.9 for c in g.completions] for g in groups]})
    method.prepare_batch(batch, score, np.random.default_rng(0))
    return batch


def objective(method: SampledMethod, batch: Batch) -> tuple[float, dict[str, torch.Tensor], list[str]]:
    """The step's objective, the gradient with respect to every score, and whose target each entry is."""
    columns = {n: torch.cat([torch.from_numpy(v) for r in rows for v in r]) for n, rows in batch.per_token.items()}
    columns |= {n: torch.from_numpy(np.concatenate(rows)) for n, rows in batch.per_completion.items()}
    answers = [c for g in batch.groups for c in g.completions]
    scores = {
        name: torch.from_numpy(np.concatenate([value_of(c, salt) + shift for c in answers])).requires_grad_(True)
        for name, salt, shift in (("logprobs_N", 1, -1.7), ("entropy_N", 3, 2.0), ("values_N", 4, 0.0))
    }
    by, factors = method.weights(batch.groups), method.coefficients()
    total = torch.zeros(())
    for role in dict.fromkeys(method.terms.values()):
        sums = method.loss(role, Scores(**scores), view(batch.groups, columns))
        total = total + sum(factors[n] / by[n] * v for n, v in sums.terms.items() if by[n] > 0)
    total.backward()
    owners = [
        f"{c.token_ids[c.action_mask].tolist()}{c.reward}@{t}" for c in answers for t in range(c.action_mask.sum())
    ]
    return total.item(), {n: s.grad for n, s in scores.items() if s.grad is not None}, owners


def by_owner(gradients: dict[str, torch.Tensor], owners: list[str]) -> dict[tuple[str, str], float]:
    return {(n, owner): float(g) for n, grad in gradients.items() for owner, g in zip(owners, grad, strict=True)}


def same(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    assert one[0] == pytest.approx(other[0], abs=1e-5)
    a, b = by_owner(*one[1:]), by_owner(*other[1:])
    assert a.keys() == b.keys()
    assert [a[k] for k in a] == pytest.approx([b[k] for k in a], abs=1e-5)


def with_observations(completion: Completion, rng: np.random.Generator) -> Completion:
    """Tokens that nobody sampled, before, between and behind the others."""
    ids, mask = [], []
    for token in completion.token_ids:
        extra = rng.integers(0, 90, int(rng.integers(0, 3)))
        ids += [*extra, token]
        mask += [False] * len(extra) + [True]
    ids, mask = [*ids, 5], [*mask, False]
    places = np.flatnonzero(mask)
    return replace(
        completion,
        token_ids=np.array(ids, np.int32),
        action_mask=np.array(mask, np.bool_),
        step_rewards=tuple((int(places[end]), reward) for end, reward in completion.step_rewards or ()),
    )


@cases
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_what_is_no_target_takes_no_part(case: str, seed: int) -> None:
    groups, rng = batch_of(seed), np.random.default_rng(seed)
    longer = [replace(g, completions=[with_observations(c, rng) for c in g.completions]) for g in groups]
    method = configured(case)
    same(objective(method, prepared(method, longer)), objective(method, prepared(method, groups)))


@cases
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_order_does_not_matter(case: str, seed: int) -> None:
    groups, rng = batch_of(seed), np.random.default_rng(seed)
    other = [
        replace(groups[i], completions=[groups[i].completions[k] for k in rng.permutation(3)])
        for i in rng.permutation(3)
    ]
    method = configured(case)
    same(objective(method, prepared(method, other)), objective(method, prepared(method, groups)))


@pytest.mark.parametrize("case", ["ppo", "reinforce_pp", "remax"])
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_without_a_baseline_a_masked_answer_is_as_good_as_absent(case: str, seed: int) -> None:
    groups = batch_of(seed)
    method = configured(case, truncated="mask")
    without = objective(method, prepared(method, [replace(g, completions=g.completions[1:]) for g in groups]))
    for g in groups:
        g.completions[0].finish_reason = "length"
    value, gradients, owners = objective(method, prepared(method, groups))
    cut = {f"{c.token_ids.tolist()}{c.reward}@" for g in groups for c in g.completions[:1]}
    kept = [not any(o.startswith(c) for c in cut) for o in owners]
    assert all(not g[~torch.tensor(kept)].any() for g in gradients.values())
    shown = {n: g[torch.tensor(kept)] for n, g in gradients.items()}
    same((value, shown, [o for o, k in zip(owners, kept, strict=True) if k]), without)


@pytest.mark.parametrize("case", ["grpo", "dr_grpo", "dapo", "gspo", "cispo", "grpo, process", "rloo"])
def test_with_a_baseline_a_masked_answer_still_counts_in_it(case: str) -> None:
    groups = batch_of(1, count=1)
    groups[0].completions[0].finish_reason = "length"
    masked, plain = configured(case, truncated="mask"), configured(case)
    one, other = prepared(masked, groups), prepared(plain, groups)
    for a, b in zip(one.per_token["advantage"][0], other.per_token["advantage"][0], strict=True):
        assert np.array_equal(a, b)
    gradients = objective(masked, one)[1]
    first = len(groups[0].completions[0].token_ids)
    assert not gradients["logprobs_N"][:first].any()
    assert gradients["logprobs_N"][first:].any()


@cases
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), cut=st.integers(1, 2))
def test_denominators_add_up(case: str, seed: int, cut: int) -> None:
    """Over any split of a step, so over processes."""
    method, groups = configured(case), batch_of(seed)
    whole, parts = method.weights(groups), [method.weights(groups[:cut]), method.weights(groups[cut:])]
    assert whole == pytest.approx({n: sum(p[n] for p in parts) for n in whole})
    assert set(whole) == set(method.terms)


@cases
def test_a_columns_entries_are_the_targets(case: str) -> None:
    groups, rng = batch_of(2), np.random.default_rng(2)
    longer = [replace(g, completions=[with_observations(c, rng) for c in g.completions]) for g in groups]
    batch = prepared(configured(case), longer)
    for rows in batch.per_token.values():
        for g, row in zip(longer, rows, strict=True):
            for c, values in zip(g.completions, row, strict=True):
                assert values.dtype == np.float32
                assert len(values) == c.action_mask.sum()


# -- losses


reals = st.floats(-4, 4, allow_nan=False, width=32)


def double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@settings(max_examples=100, deadline=None)
@given(reals, st.floats(0.01, 8), st.floats(0.05, 0.9), st.floats(0.05, 3), st.floats(1.1, 6))
def test_bounds_of_the_clipped_loss(advantage: float, ratio: float, low: float, high: float, dual: float) -> None:
    """Never better than the plain surrogate; and with a dual clip never above c |A| where A < 0."""
    a, w = double(advantage), double(ratio)
    plain = float(-a * w)
    loss = float(clipped_surrogate(w, a, low, high)[0])
    assert loss >= plain - 1e-12
    assert loss == pytest.approx(max(plain, -advantage * min(max(ratio, 1 - low), 1 + high)), abs=1e-9)
    bounded = float(clipped_surrogate(w, a, low, high, dual)[0])
    assert bounded == pytest.approx(min(loss, -dual * advantage) if advantage < 0 else loss, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(reals, reals, reals, st.floats(0.05, 2))
def test_the_clipped_value_loss_is_never_below_the_plain(value: float, old: float, target: float, clip: float) -> None:
    v, o, g = double(value), double(old), double(target)
    plain = 0.5 * (value - target) ** 2
    assert float(clipped_value_loss(v, o, g, clip)[0]) >= plain - 1e-12
    assert float(clipped_value_loss(v, o, g, None)[0]) == pytest.approx(plain)
    if abs(value - old) <= clip * (1 - 1e-9):
        found, cut = clipped_value_loss(v, o, g, clip)
        assert torch.equal(found, clipped_value_loss(v, o, g, None)[0]), "to the bit: nothing holds it back"
        assert not cut, "rounding is not clipping"


@settings(max_examples=100, deadline=None)
@given(st.floats(-2, 2), st.floats(-2, 2))
def test_k3_is_not_negative_and_its_definition(own: float, reference: float) -> None:
    a, b = double(own), double(reference)
    d = reference - own
    k1, k2, k3 = (float(kl_loss(a, b, name)) for name in ("k1", "k2", "k3"))
    assert k3 >= 0
    assert k3 == pytest.approx(min(10.0, np.exp(d) - d - 1), abs=1e-12)
    assert (k1, k2) == pytest.approx((-d, d * d / 2))


def test_k3_of_near_policies_is_not_rounded_away() -> None:
    """e^d − d − 1 in fp32 is 0 or noise at d = 1e-4; its value is d²/2."""
    found = kl_loss(torch.tensor([-1e-4]), torch.tensor([0.0]), "k3")
    assert float(found) == pytest.approx(5e-9, rel=0.01)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(reals, reals), min_size=1, max_size=10))
def test_monte_carlo_returns_do_not_depend_on_the_critic(pairs: list[tuple[float, float]]) -> None:
    """λ = 1, γ = 1: A + V is the reward to go whatever V is."""
    rewards, values = (np.array(x) for x in zip(*pairs, strict=True))
    assert gae(rewards, values, 1.0, 1.0) + values == pytest.approx(reward_to_go(rewards), abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(reals, min_size=1, max_size=6), min_size=1, max_size=6))
def test_aggregations_are_their_formulas(rows: list[list[float]]) -> None:
    groups = [group([len(row)]) for row in rows]
    flat, keeps = double(*(x for row in rows for x in row)), [[True]] * len(rows)
    seen, count = view(groups), len(rows)
    expected = {
        "token-mean": sum(map(sum, rows)) / sum(map(len, rows)),
        "seq-mean-token-mean": sum(sum(row) / len(row) for row in rows) / count,
        "seq-mean-token-sum": sum(map(sum, rows)) / count,
        "seq-mean-token-sum-norm": sum(map(sum, rows)) / (count * 16),
    }
    for mode, value in expected.items():
        found = float(aggregate(flat, seen, mode)) / denominator(groups, keeps, mode, 16)  # type: ignore[arg-type]
        assert found == pytest.approx(value, abs=1e-9), mode
