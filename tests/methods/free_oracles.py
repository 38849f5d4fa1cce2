"""What every loss on pairs without a reference is tested for: its numbers, gradients, extremes, the way through
`loss()`, and that no reference is looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from plaudit.methods import find
from plaudit.methods.base import Batch, Scores, Sums
from plaudit.methods.preference.pairs import PairMethod
from plaudit.types import PromptGroup
from tests.methods.pair_oracles import Options, at, configured, pairs
from tests.methods.views import group, view

POINTS = [(-0.7, -1.9), (-4.0, -2.5), (-3.1, -2.2), (-11.0, -6.0), (-0.4, -20.0)]
"""(S_w, S_l), away from kinks"""
EXTREMES = [(-1e4, -1.0), (-1.0, -1e4), (-1e4, -1e4), (0.0, -1e4), (-1e4, 0.0), (0.0, 0.0), (-1e-30, -5.0)]
LENGTHS = [(3, 5), (8, 2), (1, 1)]
SUMS = [(-6.0, -20.0), (-40.0, -3.5), (-0.5, -0.25)]


@dataclass(frozen=True)
class FreeOracle:
    """The numbers of a method: `values` are those of `SUMS` with `LENGTHS`, computed apart with 50 digits from the
    paper's formula, for each option set."""

    method: type[PairMethod]
    values: Sequence[tuple[Options, tuple[float, float, float]]]
    cases: Mapping[str, Options] = field(default_factory=dict)
    wrong: Sequence[Options] = ()

    @property
    def all(self) -> list[PairMethod]:
        return [configured(self.method, o) for o in ({}, *(o for o, _ in self.values), *self.cases.values())]


def spread(groups: Sequence[PromptGroup], sums: Sequence[float], seed: int = 0) -> Tensor:
    """Uneven log-probs of the answers' tokens with the given sums, float64. [N]"""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for total, c in zip(sums, (c for g in groups for c in g.completions), strict=True):
        share = torch.rand(int(c.action_mask.sum()), generator=generator, dtype=torch.float64) + 0.1
        parts.append(total * share / share.sum())
    return torch.cat(parts).requires_grad_()


def run(method: PairMethod, groups: Sequence[PromptGroup], logprobs: Tensor, prompts: Tensor | None = None) -> Sums:
    """`loss` on a view of whole groups."""
    return method.loss("policy", Scores(logprobs_N=logprobs, prompt_logprobs_M=prompts), view(groups))


class FreeOracles:
    """A test class sets `oracle` and inherits the tests."""

    oracle: ClassVar[FreeOracle]

    def test_values(self) -> None:
        assert self.oracle.values
        for options, values in self.oracle.values:
            method = configured(self.oracle.method, options)
            for (w, l), lengths, value in zip(SUMS, LENGTHS, values, strict=True):  # noqa: E741
                found, _, _ = at(method, w, l, lengths=tuple(float(n) for n in lengths))
                assert found == pytest.approx(value, rel=3e-14, abs=1e-15)

    def test_gradients_agree_with_differences(self) -> None:
        for method in self.oracle.all:
            w, l = (torch.tensor([p[k] for p in POINTS], dtype=torch.float64) for k in (0, 1))  # noqa: E741
            assert torch.autograd.gradcheck(
                lambda a, b, m=method: m.pair_loss(pairs(a, b, (3.0, 5.0))), (w.requires_grad_(), l.requires_grad_())
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
            assert torch.isfinite((w.grad**2).sum()), "the gradient's norm overflows"

    def test_through_the_view(self) -> None:
        """Sums over tokens, answers' lengths and examples' weights arrive at the function; every token of an answer has
        the same slope; metrics carry no graph."""
        groups = [group(LENGTHS[0], weights=[2.5, 2.5]), group(LENGTHS[1]), group(LENGTHS[2])]
        for options, values in self.oracle.values:
            method = configured(self.oracle.method, options)
            logprobs = spread(groups, [s for pair in SUMS for s in pair])
            got = run(method, groups, logprobs, torch.zeros(0, dtype=torch.float64))
            assert got.terms["loss"].item() == pytest.approx(2.5 * values[0] + values[1] + values[2], rel=1e-6)
            rewards = 0.0
            for (w, l), (a, b) in zip(SUMS, LENGTHS, strict=True):  # noqa: E741
                one = pairs(*torch.tensor([[w], [l]], dtype=torch.float64), (float(a), float(b)))
                rewards += method.implicit_rewards(one)[0].item()
            total, count = got.metrics["rewards/chosen"]
            assert (total.item(), count.item()) == (pytest.approx(rewards, rel=1e-5), 3.0)
            assert got.metrics["logps/chosen"][0].item() == pytest.approx(sum(w for w, _ in SUMS), rel=1e-6)
            assert not any(m.requires_grad for metric in got.metrics.values() for m in metric)
            got.terms["loss"].backward()  # type: ignore[no-untyped-call]
            assert logprobs.grad is not None
            for part in logprobs.grad.split([n for pair in LENGTHS for n in pair]):
                assert part.tolist() == pytest.approx([part[0].item()] * len(part), rel=1e-12, abs=1e-15)

    def test_better_means_likelier(self) -> None:
        """The loss never rises with the chosen answer's log-prob and never falls with the rejected one's."""
        for method in self.oracle.all:
            for w, l in POINTS:  # noqa: E741
                _, chosen, rejected = at(method, w, l, lengths=(3.0, 5.0))
                assert chosen <= 0 <= rejected

    def test_nothing_trained(self) -> None:
        """All masks zero: no 0/0."""
        g = group([3, 5])
        for c in g.completions:
            c.action_mask[:] = False
        for method in self.oracle.all:
            empty = torch.zeros(0, requires_grad=True)
            sums = run(method, [g], empty, torch.zeros(0))
            sum(sums.terms.values()).backward()  # type: ignore[union-attr, no-untyped-call]
            assert all(torch.isfinite(t) for t in sums.terms.values())

    def test_no_reference(self) -> None:
        """Nobody is asked for one, so it cannot change anything."""

        def refuse(role: Any, groups: Any) -> Any:
            raise AssertionError(role)

        method = self.oracle.method()
        assert method.roles == {"policy"}
        batch = Batch([group([3, 5])])
        method.prepare_batch(batch, refuse, np.random.default_rng(0))
        assert not batch.per_token

    def test_options(self) -> None:
        method = self.oracle.method
        assert find(method.name) is method
        assert (method.unit, method.scope, method.data_kind) == ("pair", "group", "preference")
        assert method.at_start == {}
        for wrong in ({"bta": 0.1}, {"nll_weight": -1.0}, {"ld_alpha": 2.0}, *self.oracle.wrong):
            with pytest.raises(ValidationError):
                method.Config.model_validate(wrong)
