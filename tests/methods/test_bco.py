"""BCO on single answers: a classifier whose threshold follows the rewards of both classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from plaudit.methods import find
from plaudit.methods.base import Batch, Scored, Scores, Sums
from plaudit.methods.bco import BCO, BCOConfig, bco_loss
from plaudit.methods.preference.reward_shift import ShiftState
from plaudit.types import PromptGroup
from tests.methods.views import group, view

CASES = {"wide": {"beta": 0.5}}
LABELS = [True, True, False, True, False]
LENGTHS = [3, 1, 4, 2, 2]


def feedback(labels: Sequence[bool] = LABELS) -> list[PromptGroup]:
    groups = [group([n]) for n in LENGTHS[: len(labels)]]
    for g, label in zip(groups, labels, strict=True):
        g.completions[0].label = label
    return groups


def _t(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def zeta(x: float) -> float:
    return max(x, 0) + math.log1p(math.exp(-abs(x)))


def run(method: BCO, groups: Sequence[PromptGroup], logprobs: Tensor, reference: Tensor) -> Sums:
    labels = torch.tensor([float(bool(c.label)) for g in groups for c in g.completions], dtype=torch.float64)
    seen = view(groups, {"reference": reference, "desirable": labels})
    return method.loss("policy", Scores(logprobs_N=logprobs), seen)


def noise(n: int = sum(LENGTHS)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    a, b = (-3 * torch.rand(n, generator=generator, dtype=torch.float64) for _ in range(2))
    return a, b


# -- the loss as a function -------------------------------------------------------------------------------------------


def test_at_the_reference() -> None:
    """log 2 for both classes, slope ∓β/2."""
    ratio = _t(0.0, 0.0)
    losses = bco_loss(ratio, torch.tensor([True, False]), 0.1, 0.0)
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert losses.tolist() == pytest.approx([math.log(2)] * 2, abs=1e-16)
    assert ratio.grad is not None
    assert ratio.grad.tolist() == pytest.approx([-0.05, 0.05], abs=1e-17)


def test_values() -> None:
    """The two halves of BCO on pairs: 1.3831250723023947 at (0.3, −0.2), δ = 0.3, β = 0.1."""
    losses = bco_loss(_t(0.3, -0.2), torch.tensor([True, False]), 0.1, 0.3)
    assert losses.sum().item() == pytest.approx(1.3831250723023947, rel=1e-15)
    assert losses[0].item() == pytest.approx(zeta(0.3 - 0.03), abs=1e-15)


@given(st.floats(-60, 60), st.floats(-4, 4), st.floats(0.01, 2))
def test_the_classes_mirror_each_other(ratio: float, delta: float, beta: float) -> None:
    up, down = bco_loss(_t(ratio, ratio), torch.tensor([True, False]), beta, delta).tolist()
    assert down - up == pytest.approx(beta * ratio - delta, abs=5e-8)


def test_unlike_kto_a_wrong_answer_keeps_pulling() -> None:
    ratio = _t(-1e4, 1e4)
    bco_loss(ratio, torch.tensor([True, False]), 0.1, 0.0).sum().backward()  # type: ignore[no-untyped-call]
    assert ratio.grad is not None
    assert ratio.grad.tolist() == [-0.1, 0.1]


def test_gradients_agree_with_differences() -> None:
    desirable = torch.tensor([True, False, True, False])
    assert torch.autograd.gradcheck(lambda r: bco_loss(r, desirable, 0.3, 0.7), (_t(0.0, 1.5, -4.0, 9.0),))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_extremes_stay_finite(dtype: torch.dtype) -> None:
    ratio = torch.tensor([-1e4, 1e4, -1e4, 1e4], dtype=dtype, requires_grad=True)
    losses = bco_loss(ratio, torch.tensor([True, True, False, False]), 1.0, 2.0)
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(losses).all()
    assert torch.isfinite(ratio.grad).all()  # type: ignore[arg-type]


# -- the shift --------------------------------------------------------------------------------------------------------


def test_the_shift_is_the_mean_of_the_classes() -> None:
    """Not of the rows: the larger class does not draw it to itself."""
    method = BCO()
    method.after_step({"rewards/chosen": 3.0, "rewards/rejected": -1.0, "labels/desirable": 0.9})
    assert method.state.delta == pytest.approx(1.0)
    # The desirable rows of a second step, a tenth as many, count a tenth of those of the first.
    method.after_step({"rewards/chosen": 14.0, "rewards/rejected": -1.0, "labels/desirable": 0.1})
    assert method.state.delta == pytest.approx(0.5 * ((0.9 * 3 + 0.1 * 14) - 1.0))


def test_a_class_that_has_not_been_seen() -> None:
    """A step of one class has no mean of the other (not a number), and leaves it alone."""
    method = BCO()
    method.after_step({"rewards/chosen": 3.0, "rewards/rejected": float("nan"), "labels/desirable": 1.0})
    assert method.state.delta == 3.0
    method.after_step({"rewards/chosen": float("nan"), "rewards/rejected": -1.0, "labels/desirable": 0.0})
    assert method.state.delta == 1.0
    assert ShiftState.model_validate_json(method.state.model_dump_json()) == method.state


# -- the method -------------------------------------------------------------------------------------------------------


def test_the_whole_step() -> None:
    groups = feedback()
    groups[2].completions[0].weight = 2.5
    logprobs, reference = noise()
    method = BCO(BCOConfig(beta=0.4))
    method.state = ShiftState(chosen_sum=0.6, chosen_count=1.0)
    got = run(method, groups, logprobs, reference)
    expected, rewards = 0.0, []
    for part, label in zip((logprobs - reference).split(LENGTHS), LABELS, strict=True):
        rewards.append(0.4 * part.sum().item())
        weight = 2.5 if len(rewards) == 3 else 1.0
        expected += weight * zeta(0.6 - rewards[-1] if label else rewards[-1] - 0.6)
    assert got.terms["loss"].item() == pytest.approx(expected, rel=1e-12)
    for name, label in (("chosen", True), ("rejected", False)):
        mine = [r for r, other in zip(rewards, LABELS, strict=True) if other == label]
        total, count = got.metrics[f"rewards/{name}"]
        assert (total.item(), count.item()) == (pytest.approx(sum(mine), rel=1e-5), len(mine))
    assert [x.item() for x in got.metrics["labels/desirable"]] == [3.0, 5.0]
    assert not any(m.requires_grad for pair in got.metrics.values() for m in pair)
    assert method.weights(groups) == {"loss": 5.0}
    assert method.state.delta == 0.6, "only after_step changes it"


@pytest.mark.parametrize("label", [True, False])
def test_one_class_is_finite(label: bool) -> None:
    logprobs, reference = noise()
    logprobs.requires_grad_()
    got = run(BCO(), feedback([label] * 5), logprobs, reference)
    got.terms["loss"].backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(got.terms["loss"])
    assert torch.isfinite(logprobs.grad).all()  # type: ignore[arg-type]


def test_policy_equal_to_its_reference() -> None:
    logprobs, _ = noise()
    got = run(BCO(), feedback(), logprobs, logprobs.clone())
    assert got.terms["loss"].item() == pytest.approx(5 * math.log(2), abs=1e-14)
    for name, expected in BCO.at_start.items():
        assert got.metrics[name][0].item() == expected


def test_prepare_batch_reads_labels_and_reference() -> None:
    batch = Batch(feedback())

    def score(role: Any, groups: Sequence[PromptGroup]) -> list[list[Scored]]:
        assert role == "reference"
        return [[Scored(np.zeros(len(c.token_ids), np.float32)) for c in g.completions] for g in groups]

    BCO().prepare_batch(batch, score, np.random.default_rng(0))
    assert [c.tolist() for c in batch.per_completion["desirable"]] == [[1.0], [1.0], [0.0], [1.0], [0.0]]
    assert [len(g.completions) for g in batch.groups] == [1] * 5


def test_declaration_and_options() -> None:
    assert find("bco") is BCO
    assert (BCO.scope, BCO.data_kind, BCO.fresh_completions) == ("group", "feedback", False)
    for wrong in ({"beta": 0.0}, {"delta": 0.1}, {"min_density_ratio": 0.5}):
        with pytest.raises(ValidationError):
            BCOConfig.model_validate(wrong)


def test_a_step_that_is_not_finite_does_not_stay_in_the_shift() -> None:
    method = BCO()
    method.after_step({"rewards/chosen": 3.0, "rewards/rejected": -1.0, "labels/desirable": 0.5})
    for bad in (float("nan"), float("inf")):
        method.after_step({"rewards/chosen": bad, "rewards/rejected": -1.0, "labels/desirable": 0.5})
        method.after_step({"rewards/chosen": 2.0, "rewards/rejected": bad, "labels/desirable": 0.5})
    assert method.state.delta == 1.0
    assert ShiftState.model_validate_json(method.state.model_dump_json()) == method.state
