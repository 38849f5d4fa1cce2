"""Outliers among a reward model's latents: the distance by hand, the level on one distribution, and shifts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from plaudit.online.latents import LEVEL, Gaussian, LatentWatch, p_values
from plaudit.online.records import Rollout, rollout_of, rollout_state
from plaudit.rewards.contract import RewardResult
from plaudit.rewards.scoring import ScoredGroup
from plaudit.types import Completion, PromptGroup, token_array


def test_identity_covariance_is_the_squared_norm() -> None:
    """Whether a direction is a leading one or one of the rest."""
    rows = np.random.default_rng(0).normal(size=(5, 6))
    for leading in (0, 2, 5):
        plain = Gaussian(np.zeros(6), np.eye(6)[:leading], np.ones(leading), 1.0)
        assert plain.distances(rows) == pytest.approx((rows**2).sum(1))


def test_the_distance_by_hand() -> None:
    """Along (0.6, 0.8) with variance 4, 9 elsewhere: (3, 4) is 5 along and 0 beside; (−4, 3) the other way round."""
    own = Gaussian(np.array([1.0, 1.0]), np.array([[0.6, 0.8]]), np.array([4.0]), 9.0)
    assert own.distances(np.array([[4.0, 5.0], [-3.0, 4.0], [1.0, 1.0]])) == pytest.approx([25 / 4, 25 / 9, 0])


def test_a_fit_finds_the_covariance() -> None:
    """Deviations 5 and 2 in the leading directions, 1 in the others: D² is then that of the true covariance."""
    rng = np.random.default_rng(1)
    deviations = np.array([5.0, 2.0, *[1.0] * 6])
    found = Gaussian.fit(rng.normal(size=(20_000, 8)) * deviations + 3, directions=2)
    assert found.variances_K == pytest.approx([25, 4], rel=0.05)
    assert found.rest == pytest.approx(1, rel=0.05)
    rows = rng.normal(size=(50, 8)) * deviations + 3
    assert found.distances(rows) == pytest.approx((((rows - 3) / deviations) ** 2).sum(1), rel=0.1)


def test_it_is_invertible_with_fewer_answers_than_dimensions() -> None:
    rng = np.random.default_rng(2)
    found = Gaussian.fit(rng.normal(size=(40, 300)))
    assert len(found.axes_KD) == 5  # eight answers behind each
    assert np.isfinite(found.distances(rng.normal(size=(10, 300)))).all()
    flat = Gaussian.fit(np.ones((40, 6)))
    assert np.isfinite(flat.distances(np.ones((2, 6)))).all()


def test_p_values_by_hand() -> None:
    assert p_values(np.array([0.5, 2.0, 9.0]), np.array([1.0, 2.0, 3.0])).tolist() == [1.0, 0.75, 0.25]


# -- over batches


def batch(number: int, vectors: np.ndarray[Any, Any], answers: int = 4) -> Rollout:
    """A rollout batch whose answers have these latents, [answers, D]."""
    groups, scored = [], []
    for start in range(0, len(vectors), answers):
        own = vectors[start : start + answers].astype(np.float32)
        groups.append(PromptGroup(token_array([1, 2]), [Completion(token_array([3]), np.ones(1, bool)) for _ in own]))
        scored.append(ScoredGroup([RewardResult.of(0.0).beside({"rm": v}) for v in own]))
    return Rollout(number, groups, scored)


def heavy(rng: np.random.Generator, count: int) -> np.ndarray[Any, Any]:
    """Nothing like a normal distribution: t with 3 degrees of freedom, correlated, of very unequal scales."""
    mix = np.random.default_rng(99).normal(size=(24, 24)) * np.geomspace(10, 0.01, 24)
    found: np.ndarray[Any, Any] = rng.standard_t(3, size=(count, 24)) @ mix
    return found


def test_the_same_distribution_gives_the_level() -> None:
    """For any distribution: 0.01 of those that come later, to the scatter of 512 reference answers."""
    rng, watch = np.random.default_rng(3), LatentWatch(1024)
    for number in range(4):
        assert watch.take(batch(number, heavy(rng, 256))) == {}
    found = [watch.take(batch(number, heavy(rng, 256)))["rewards/rm/outliers"] for number in range(4, 44)]
    share = sum(out for out, _ in found) / sum(count for _, count in found)
    assert share == pytest.approx(LEVEL, abs=0.009)


def test_answers_from_elsewhere_are_outliers() -> None:
    """A shift by three deviations of the direction in which the reference varies least."""
    rng, watch = np.random.default_rng(4), LatentWatch(512)
    scales = np.geomspace(10, 0.1, 16)
    for number in range(2):
        watch.take(batch(number, rng.normal(size=(256, 16)) * scales))
    shift = np.zeros(16)
    shift[-1] = 0.1 * 10
    [same, moved] = [watch.take(batch(9, rng.normal(size=(256, 16)) * scales + d)) for d in (0, shift)]
    assert same["rewards/rm/outliers"][0] / 256 < 0.04
    assert moved["rewards/rm/outliers"][0] / 256 > 0.5


def test_the_vectors_are_taken_out_of_the_batch() -> None:
    one = batch(0, np.zeros((8, 3)))
    LatentWatch(512).take(one)
    assert not any(r.latents for g in one.scored for r in g.results)


def test_it_waits_for_prompts_that_can_be_parted() -> None:
    """All answers of one prompt are no reference for themselves."""
    rng, watch = np.random.default_rng(5), LatentWatch(200)
    assert watch.take(batch(0, rng.normal(size=(400, 3)), answers=400)) == {}
    assert watch.take(batch(1, rng.normal(size=(400, 3)), answers=400)) == {}  # the second prompt is the reference
    assert watch.take(batch(2, rng.normal(size=(4, 3))))["rewards/rm/outliers"][1] == 4


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_it_goes_on_where_it_was(cut: int, tmp_path: Any) -> None:
    """While it gathers and after; what a checkpoint holds is plain."""
    vectors = [np.random.default_rng(i).normal(size=(100, 5)) for i in range(5)]
    whole, first, second = LatentWatch(256), LatentWatch(256), LatentWatch(256)
    expected = [whole.take(batch(i, v)) for i, v in enumerate(vectors)]
    found = [first.take(batch(i, v)) for i, v in enumerate(vectors[:cut])]
    torch.save(first.state(), tmp_path / "s.pt")
    second.restore(torch.load(tmp_path / "s.pt", weights_only=True))
    found += [second.take(batch(i, v)) for i, v in enumerate(vectors[cut:], start=cut)]
    assert found == expected
    assert expected[-1]


def test_a_batch_made_ahead_keeps_its_vectors() -> None:
    one = batch(0, np.random.default_rng(6).normal(size=(8, 3)))
    again = rollout_of(rollout_state(one), [PromptGroup(g.prompt_ids, []) for g in one.groups])
    pairs = zip((r for g in one.scored for r in g.results), (r for g in again.scored for r in g.results), strict=True)
    assert all(np.array_equal(a.latents["rm"], b.latents["rm"]) for a, b in pairs)
