"""Advantage estimators against numbers that were derived by hand, limits, and loops that say the same another way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plaudit.methods.policy.advantages import (
    adaptive_lambda,
    gae,
    group_normalised,
    leave_one_out,
    normalised,
    reward_to_go,
    rewards_to_come,
    soft_overlong,
    token_rewards,
    whiten,
)

R, V = (0.0, 0.0, 1.0), (0.5, 0.6, 0.8)
numbers = st.floats(-5, 5, allow_nan=False, width=32)
groups = st.lists(numbers, min_size=2, max_size=8)


@pytest.mark.parametrize(
    ("lam", "expected"), [(1.0, (0.5, 0.4, 0.2)), (0.0, (0.1, 0.2, 0.2)), (0.95, (0.4705, 0.39, 0.2))]
)
def test_gae(lam, expected) -> None:
    assert gae(R, V, 1.0, lam) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=12), st.floats(0, 1), st.floats(0, 1))
def test_gae_is_the_sum_of_its_definition(pairs, gamma, lam) -> None:
    """A_t = Σ_l (γλ)^l δ_{t+l}, written as the paper's double sum."""
    rewards, values = (np.array(x) for x in zip(*pairs, strict=True))
    nexts = [*values[1:], 0.0]
    deltas = [r + gamma * n - v for r, n, v in zip(rewards, nexts, values, strict=True)]
    expected = [sum((gamma * lam) ** i * d for i, d in enumerate(deltas[t:])) for t in range(len(deltas))]
    assert gae(rewards, values, gamma, lam) == pytest.approx(expected, abs=1e-9)


def test_without_a_critic_gae_is_the_reward_to_go() -> None:
    rewards = [0.3, -0.1, 0.0, 2.0]
    assert gae(rewards, [0.0] * 4, 1.0, 1.0) == pytest.approx(reward_to_go(rewards))
    assert reward_to_go(rewards) == pytest.approx([2.2, 1.9, 2.0, 2.0])


def test_the_score_lies_on_the_last_token_and_the_penalty_on_each() -> None:
    assert token_rewards(1.0, 0.05 * np.array([0.2, -0.1, 0.3])) == pytest.approx([-0.010, 0.005, 0.985])
    assert token_rewards(1.0, []).tolist() == []


@pytest.mark.parametrize(
    ("length", "expected"), [(100, 0.8), (200, 0.9), (500, 0.96), (1000, 0.98), (20, 0), (5, 0), (0, 0)]
)
def test_length_adaptive_lambda(length, expected) -> None:
    assert adaptive_lambda(length, 0.05) == pytest.approx(expected, abs=1e-12)


def test_group_normalised() -> None:
    r = [1.0, 0, 0, 0]
    assert group_normalised(r, "sample", eps=0) == pytest.approx([1.5, -0.5, -0.5, -0.5])
    population = group_normalised(r, "population", eps=0)
    assert population == pytest.approx([1.7320508075688772, *[-0.5773502691896257] * 3], abs=1e-15)
    assert group_normalised(r) == pytest.approx([1.4997000600, *[-0.4999000200] * 3], abs=1e-10)
    assert group_normalised(r, "none") == pytest.approx([0.75, -0.25, -0.25, -0.25])


def test_the_deviation_of_the_batch() -> None:
    """All six rewards: mean 1.5, Σ (r − 1.5)² = 11.5; each group less its own mean. A group without differences stays
    at 0."""
    rewards = [np.array([1.0, 0.0]), np.array([4.0, 0.0]), np.array([2.0, 2.0])]
    std = np.sqrt(11.5 / 5)
    found = normalised(rewards, "batch", eps=0)
    assert np.stack(found) == pytest.approx(np.array([[0.5, -0.5], [2.0, -2.0], [0.0, 0.0]]) / std, abs=1e-15)
    assert [row.tolist() for row in normalised([np.array([3.0])], "batch")] == [[0.0]]
    assert normalised([], "batch") == []
    for scale in ("sample", "population", "none"):
        one_by_one = [group_normalised(row, scale) for row in rewards]
        assert np.stack(normalised(rewards, scale)) == pytest.approx(np.stack(one_by_one), abs=0)


def test_process_supervision() -> None:
    """Step rewards .2 .8 and .5 .1 .9: mean .5, standard deviation (population) √.1; one token to a step."""
    (steps,) = normalised([np.array([0.2, 0.8, 0.5, 0.1, 0.9])], "population", eps=0)
    first, second = rewards_to_come(steps[:2], [0, 1], 2), rewards_to_come(steps[2:], [0, 1, 2], 3)
    assert first == pytest.approx([0.0, 0.9486832980505138], abs=1e-15)
    assert second == pytest.approx([0.0, 0.0, 1.2649110640673518], abs=1e-15)


def test_a_token_has_the_rewards_of_the_steps_that_end_behind_it() -> None:
    """Steps that end at tokens 1 and 3 of six: what comes after the last step has none."""
    assert rewards_to_come([1.0, -3.0], [1, 3], 6).tolist() == [-2.0, -2.0, -3.0, -3.0, 0.0, 0.0]
    assert rewards_to_come([], [], 2).tolist() == [0.0, 0.0]


def test_soft_overlong_of_dapo() -> None:
    lengths = [0, 16384, 17408, 18432, 20480, 20481, 10**9]
    assert soft_overlong(lengths, 20480, 4096).tolist() == [0, 0, -0.25, -0.5, -1, -1, -1]
    with pytest.raises(ValueError, match="cache"):
        soft_overlong([1], 10, 11)


@pytest.mark.parametrize("rewards", [[0.0] * 4, [1.0] * 8, [100.1, 100.1 + 1e-5, 100.1], [3.0]])
def test_equal_rewards_teach_nothing(rewards) -> None:
    """Also rewards that differ by rounding: divided by a tiny deviation they would look like real differences."""
    assert group_normalised(rewards).tolist() == [0.0] * len(rewards)


@pytest.mark.parametrize("scale", [1e-7, 1e-4, 1.0, 1e4])
def test_small_rewards_that_differ_are_told_apart(scale) -> None:
    """Whether rewards are equal is a matter of their own size; and of rounding, at every size."""
    rewards = scale * np.array([1.0, 1.005, 0.5, 1.0])
    assert np.all(group_normalised(rewards)[1:3] != 0)
    assert group_normalised(rewards, "none") == pytest.approx(rewards - rewards.mean(), rel=1e-9)
    assert not group_normalised(scale * np.array([1.0, 1.0 + 5e-7, 1.0])).any()


def test_parts_that_cancel_are_equal() -> None:
    assert not group_normalised([0.1 + 0.2 - 0.3, 0.0, 0.0]).any()


@settings(max_examples=50, deadline=None)
@given(groups, st.floats(0.5, 3), st.floats(-3, 3))
def test_affine_invariance(rewards, a, b) -> None:
    """r → a r + b leaves GRPO's advantages as they are, and scales Dr. GRPO's."""
    r = np.array(rewards)
    if np.ptp(r) < 1e-2:
        return
    assert group_normalised(a * r + b, "population", 0) == pytest.approx(group_normalised(r, "population", 0), abs=1e-6)
    assert np.mean(group_normalised(r, "population", 0) ** 2) == pytest.approx(1)
    assert group_normalised(a * r + b, "none") == pytest.approx(a * group_normalised(r, "none"), abs=1e-6)


def test_leave_one_out() -> None:
    assert leave_one_out([1, 0, 0, 0]) == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])
    assert leave_one_out([0.7, 0.2]) == pytest.approx([0.5, -0.5])
    assert leave_one_out([2.0]).tolist() == [2.0]


@settings(max_examples=50, deadline=None)
@given(groups)
def test_leave_one_out_is_dr_grpo_scaled(rewards) -> None:
    r, k = np.array(rewards), len(rewards)
    assert leave_one_out(r) == pytest.approx(k / (k - 1) * (r - r.mean()), abs=1e-9)
    naive = [r[i] - np.mean(np.delete(r, i)) for i in range(k)]
    assert leave_one_out(r) == pytest.approx(naive, abs=1e-9)


WHITENED = [
    [0.05080677770652, 0.43810508327989, 0.82540338885326],
    [1.21270169442663, 1.6, 1.98729830557337],
    [2.37459661114674, 2.76189491672011, 3.14919322229348],
]


def test_whitening() -> None:
    rows = [np.array([1.2, 1.3, 1.4]), np.array([1.5, 1.6, 1.7]), np.array([1.8, 1.9, 2.0])]
    assert np.stack(whiten(rows, shift_mean=False)) == pytest.approx(np.array(WHITENED), abs=1e-13)
    assert np.stack(whiten(rows)) == pytest.approx(np.array(WHITENED) - 1.6, abs=1e-13)
    ragged = whiten([np.array([1.0, 2.0]), np.array([]), np.array([6.0])])
    assert [len(r) for r in ragged] == [2, 0, 1]
    assert np.concatenate(ragged).std() == pytest.approx(1)
    assert whiten([np.array([4.0])])[0].tolist() == [0.0]
    assert whiten([]) == []
