"""What every loss on pairs is tested for: its numbers, its gradients, its extremes, and the way through `loss()`.

A test file fills in the numbers (``class TestIPO(PairOracles)``) and adds what is peculiar to its method.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from plaudit.methods import find
from plaudit.methods.base import Scores, Sums
from plaudit.methods.preference.pairs import PairMethod, Pairs
from plaudit.types import PromptGroup
from tests.methods.views import group, view

Options = Mapping[str, Any]

DPO_VALUES = {0.2: 0.5981388693815918, 1.0: 0.3132616875182229, 0.5: 0.4740769841801067}
"""z → −log σ(z)"""
EXTREMES = [(1e4, 0.0), (-1e4, 0.0), (0.0, 1e4), (0.0, -1e4), (1e4, -1e4), (-1e4, 1e4), (1e4, 1e4), (-1e4, -1e4)]
POINTS = [(0.0, 0.0), (0.3, -0.2), (-0.7, 1.9), (4.0, 2.5), (-3.1, -2.2), (11.0, -6.0)]


def pairs(
    chosen: Tensor,
    rejected: Tensor,
    lengths: tuple[float, float] = (1.0, 1.0),
    preference: float | Tensor = 1.0,
) -> Pairs:
    """Pairs with these log-ratios. [B], [B]"""
    ones = torch.ones_like(chosen.detach())
    return Pairs(
        chosen,
        rejected,
        lengths[0] * ones,
        lengths[1] * ones,
        preference=preference * ones,
        preference_stated=torch.as_tensor(preference) * ones < 1,
        margin=0 * ones,
        reference_chosen=None,
        reference_rejected=None,
    )


def configured(method: type[PairMethod], options: Options) -> PairMethod:
    return method(method.Config(**options))


def at(method: PairMethod, chosen: float, rejected: float, **more: Any) -> tuple[float, float, float]:
    """Loss of one pair in float64 and its slopes in the two log-ratios."""
    w, l = (torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in (chosen, rejected))  # noqa: E741
    loss = method.pair_loss(pairs(w, l, **more))
    loss.sum().backward()  # type: ignore[no-untyped-call]
    assert w.grad is not None
    assert l.grad is not None
    return loss.item(), w.grad.item(), l.grad.item()


def run(
    method: PairMethod, groups: Sequence[PromptGroup], logprobs: Tensor, reference: Tensor, preference: float = 1.0
) -> Sums:
    """`loss` on a view of whole groups with a reference."""
    columns = {"reference": reference}
    if "preference" in method.reads:
        everyone = torch.ones(sum(len(g.completions) for g in groups))
        columns |= {"preference": preference * everyone, "preference_stated": (preference < 1) * everyone}
    return method.loss("policy", Scores(logprobs_N=logprobs), view(groups, columns))


def noise(groups: Sequence[PromptGroup], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Log-probs of policy and reference, float64. [N], [N]"""
    n = sum(int(c.action_mask.sum()) for g in groups for c in g.completions)
    generator = torch.Generator().manual_seed(seed)
    policy, reference = (-3 * torch.rand(n, generator=generator, dtype=torch.float64) for _ in range(2))
    return policy, reference


def ratios(groups: Sequence[PromptGroup], logprobs: Tensor, reference: Tensor) -> list[tuple[float, float]]:
    """(ρ_w, ρ_l) of every pair, added up one by one."""
    found, start = [], 0
    for g in groups:
        sums = []
        for c in g.completions:
            stop = start + int(c.action_mask.sum())
            sums.append(math.fsum((logprobs[start:stop] - reference[start:stop]).tolist()))
            start = stop
        found += list(zip(sums[::2], sums[1::2], strict=True))
    return found


@dataclass(frozen=True)
class Oracle:
    """The numbers of a method."""

    method: type[PairMethod]
    at_reference: tuple[float, float, float]
    """Loss, ∂/∂ρ_w and ∂/∂ρ_l where policy and reference are the same."""
    values: Mapping[tuple[float, float], float]
    """(ρ_w, ρ_l) → loss, computed apart with 40 digits from the paper's formula."""
    options: Options = field(default_factory=lambda: {"beta": 0.1})
    """Of these numbers."""
    rewards: tuple[float, float] = (0.12, -0.08)
    """Implicit rewards where ρ is (1.2, −0.8) and the answers have one token each."""
    cases: Mapping[str, Options] = field(default_factory=dict)
    """Further option sets for gradients and extremes."""
    wrong: Sequence[Options] = ()
    """Option sets that are refused, besides what every pair method refuses."""

    @property
    def configured(self) -> PairMethod:
        return configured(self.method, self.options)

    @property
    def all(self) -> list[PairMethod]:
        """The method with its defaults and with every option set."""
        return [configured(self.method, o) for o in ({}, self.options, *self.cases.values())]


class PairOracles:
    """A test class sets `oracle` and inherits the tests."""

    oracle: ClassVar[Oracle]

    # -- the loss as a function

    def test_at_the_reference(self) -> None:
        found = at(self.oracle.configured, 0.0, 0.0)
        assert found == pytest.approx(self.oracle.at_reference, rel=1e-14, abs=1e-15)

    def test_values(self) -> None:
        method = self.oracle.configured
        assert self.oracle.values
        for (w, l), value in self.oracle.values.items():  # noqa: E741
            assert at(method, w, l)[0] == pytest.approx(value, rel=2e-14, abs=1e-15)

    def test_implicit_rewards(self) -> None:
        ratio = torch.tensor([[1.2], [-0.8]], dtype=torch.float64)
        found = self.oracle.configured.implicit_rewards(pairs(*ratio))
        assert [r.item() for r in found] == pytest.approx(self.oracle.rewards, rel=1e-14)

    def test_gradients_agree_with_differences(self) -> None:
        w, l = (torch.tensor([p[k] for p in POINTS], dtype=torch.float64) for k in (0, 1))  # noqa: E741
        preference = torch.tensor([1.0, 0.9, 0.5, 0.7, 1.0, 0.6], dtype=torch.float64)
        for method in self.oracle.all:
            assert torch.autograd.gradcheck(
                lambda a, b, m=method: m.pair_loss(pairs(a, b, (3.0, 5.0), preference)),
                (w.requires_grad_(), l.requires_grad_()),
            )

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_extremes_stay_finite(self, dtype: torch.dtype) -> None:
        for method in self.oracle.all:
            w, l = (torch.tensor([e[k] for e in EXTREMES], dtype=dtype, requires_grad=True) for k in (0, 1))  # noqa: E741
            loss = method.pair_loss(pairs(w, l, (7.0, 2.0)))
            loss.sum().backward()  # type: ignore[no-untyped-call]
            assert loss.dtype == dtype
            assert w.grad is not None
            assert l.grad is not None
            for tensor in (loss, w.grad, l.grad, *method.implicit_rewards(pairs(w, l, (7.0, 2.0)))):
                assert torch.isfinite(tensor).all(), (method.config, tensor)

    # -- the method

    def test_through_the_view(self) -> None:
        """Sums over tokens, answers' lengths and examples' weights arrive at the function; metrics carry no graph."""
        groups = [group([3, 5], weights=[2.5, 2.5]), group([4, 4]), group([1, 2, 6, 3])]
        logprobs, reference = noise(groups)
        lengths = [(3.0, 5.0), (4.0, 4.0), (1.0, 2.0), (6.0, 3.0)]
        for method in self.oracle.all:
            leaf = logprobs.clone().requires_grad_()
            got = run(method, groups, leaf, reference, preference=0.75)
            wanted, rewards = 0.0, 0.0
            soft = 0.75 if "preference" in method.reads else 1.0
            for k, (w, l) in enumerate(ratios(groups, logprobs, reference)):  # noqa: E741
                one = pairs(*torch.tensor([[w], [l]], dtype=torch.float64), lengths[k], soft)
                wanted += (2.5 if k == 0 else 1.0) * method.pair_loss(one).item()
                rewards += method.implicit_rewards(one)[0].item()
            assert got.terms["loss"].item() == pytest.approx(wanted, rel=1e-6)
            total, count = got.metrics["rewards/chosen"]
            assert (total.item(), count.item()) == (pytest.approx(rewards, rel=1e-5, abs=1e-6), 4.0)
            assert not any(m.requires_grad for metric in got.metrics.values() for m in metric)
            got.terms["loss"].backward()  # type: ignore[no-untyped-call]
            assert leaf.grad is not None
            # Every token of an answer has the same slope.
            for part in leaf.grad.split([3, 5, 4, 4, 1, 2, 6, 3]):
                assert part.tolist() == pytest.approx([part[0].item()] * len(part), rel=1e-12, abs=1e-15)

    def test_policy_equal_to_its_reference(self) -> None:
        groups = [group([3, 5]), group([2, 2])]
        logprobs, _ = noise(groups)
        assert self.oracle.method.at_start == {"rewards/chosen": 0.0, "rewards/rejected": 0.0}
        for method in self.oracle.all:
            got = run(method, groups, logprobs, logprobs.clone())
            for name, expected in self.oracle.method.at_start.items():
                assert got.metrics[name][0].item() == expected
            total, count = got.metrics["rewards/accuracies"]
            assert (total / count).item() == 0.5

    def test_nothing_trained(self) -> None:
        """All masks zero: no margin, no 0/0."""
        g = group([3, 5])
        for c in g.completions:
            c.action_mask[:] = False
        for method in self.oracle.all:
            empty = torch.zeros(0, requires_grad=True)
            loss = run(method, [g], empty, torch.zeros(0)).terms["loss"]
            loss.backward()  # type: ignore[no-untyped-call]
            assert torch.isfinite(loss)
            assert loss.item() == pytest.approx(at(method, 0.0, 0.0)[0], rel=1e-6), "that of two ratios of 0"

    def test_options(self) -> None:
        method = self.oracle.method
        assert find(method.name) is method
        assert method.variant_of == "dpo"
        assert (method.unit, method.scope, method.roles) == ("pair", "group", {"policy", "reference"})
        strength = "beta" if "beta" in method.Config.model_fields else "tau"
        for wrong in ({strength: 0.0}, {strength: -1.0}, {"bta": 0.1}, {"nll_weight": -1.0}, *self.oracle.wrong):
            with pytest.raises(ValidationError):
                method.Config.model_validate(wrong)


def same_as_dpo(method: PairMethod, *, per_unit: float, lengths: tuple[float, float] = (1.0, 1.0)) -> None:
    """The loss at z is −log σ(z), where a log-ratio of `per_unit` is z = 1."""
    for z, value in DPO_VALUES.items():
        assert at(method, z * per_unit, 0.0, lengths=lengths)[0] == pytest.approx(value, abs=1e-15)
        assert at(method, 3.0, 3.0 - z * per_unit, lengths=lengths)[0] == pytest.approx(value, abs=1e-14)
