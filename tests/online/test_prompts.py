"""Which prompts a batch has: drawn without putting back, by what is known of their pass rates."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plaudit.config.schema import RolloutSection
from plaudit.errors import TrainingError
from plaudit.online.prompts import PassRates, PromptChooser, Request, drawn, outcomes


def test_draws_follow_their_weights() -> None:
    """The first draw is i with probability w_i, the second of what is left."""
    weights = np.array([0.5, 0.3, 0.2, 0.0])
    draws = [drawn(weights, 2, np.random.default_rng([7, i])) for i in range(4000)]
    assert all(len(set(d)) == 2 for d in draws)
    first = np.bincount([d[0] for d in draws], minlength=4) / len(draws)
    assert first == pytest.approx(weights, abs=0.03)
    after_0 = [d[1] for d in draws if d[0] == 0]
    assert np.mean(np.array(after_0) == 1) == pytest.approx(0.6, abs=0.04)
    assert drawn(weights, 9, np.random.default_rng(0)) == drawn(weights, 3, np.random.default_rng(0))


def test_further_prompts_are_new_ones() -> None:
    request = Request(3, (0, 2), seed=1, total=6)
    first = request.more(1, 3, {0, 2})
    assert len(first) == 3
    assert not {0, 2} & set(first)
    assert request.more(1, 3, {0, 2}) == first
    assert sorted(request.more(2, 9, {0, 2})) == [1, 3, 4, 5]
    assert request.more(2, 9, range(6)) == []
    assert any(request.more(k, 3, {0, 2}) != first for k in range(2, 6))


def test_what_is_learnable_is_drawn_more_often() -> None:
    rates = PassRates()
    rates.learn({0: (4.0, 4), 1: (2.0, 4), 2: (0.0, 4)})
    assert rates.rates(4) == pytest.approx([4.5 / 5, 0.5, 0.5 / 5, 0.5])
    weights = rates.weights(4, uniform=0.2)
    learnable = np.array([0.09, 0.25, 0.09, 0.25])
    assert weights == pytest.approx(0.8 * learnable / learnable.sum() + 0.05)
    assert weights.sum() == pytest.approx(1.0)


def test_the_newest_answers_say_most() -> None:
    rates = PassRates()
    rates.learn({0: (4.0, 4)})
    rates.learn({0: (0.0, 4)})
    assert rates.rates(1) == pytest.approx([(2 + 0.5) / (6 + 1)])
    again = PassRates()
    again.restore(rates.state())
    assert (again.passed, again.tried) == (rates.passed, rates.tried)


def test_a_request_comes_back_from_a_checkpoint() -> None:
    chooser = PromptChooser(None, RolloutSection(curriculum="learnability"), 5, 4)  # type: ignore[arg-type]
    chooser.learn({0: (4.0, 4)})
    request = Request(2, (1, 3), 5, 4, chooser.rates.weights(4, 0.25))
    chooser.learn({1: (4.0, 4), 2: (0.0, 4)})  # what comes later changes nothing
    back = chooser.restored({**request.state(), "weights": request.state()["weights"].to(torch.float64)})
    assert (back.number, back.indices, back.seed, back.total) == (2, (1, 3), 5, 4)
    assert [back.more(k, 2, {1, 3}) for k in (1, 2)] == [request.more(k, 2, {1, 3}) for k in (1, 2)]


def test_without_a_curriculum_nothing_is_remembered() -> None:
    chooser = PromptChooser(None, RolloutSection(), 5, 4)  # type: ignore[arg-type]
    chooser.learn({0: (4.0, 4)})
    assert chooser.rates.state() == {"passed": {}, "tried": {}}


def test_outcomes() -> None:
    assert outcomes([2.0, 1.0, 0.5], 1.0) == [1.0, 1.0, 0.0]
    assert outcomes([0.0, 0.25, 1.0], None) == [0.0, 0.25, 1.0]
    with pytest.raises(TrainingError, match=r"rollout\.pass_threshold"):
        outcomes([0.5, 1.5], None)
