"""CPO: DPO with a uniform reference beside the likelihood of the chosen answers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plaudit.methods import find
from plaudit.methods.cpo import CPO, CPOConfig
from tests.methods.free_oracles import FreeOracle, FreeOracles, run, spread
from tests.methods.pair_oracles import at, configured, same_as_dpo
from tests.methods.views import group

CASES = {
    "paper": {"nll_aggregation": "sequence-sum", "nll_weight": 0.1},
    "alone": {"nll_weight": 0.0},
    "mean": {"nll_aggregation": "sequence-mean"},
}


class TestCPO(FreeOracles):
    oracle = FreeOracle(
        method=CPO,
        values=[({"beta": 0.1}, (0.22041740991845094, 3.6756591002967287, 0.7057253035255249))],
        cases={"wide": {"beta": 3.0}},
        wrong=[{"beta": 0.0}, {"cpo_alpha": 1.0}, {"nll_weight": 0.0, "nll_aggregation": "sequence-mean"}],
    )


def test_known_values() -> None:
    same_as_dpo(configured(CPO, {"beta": 0.1}), per_unit=10.0)


@given(st.floats(-50, 0), st.floats(-50, 0))
def test_dpo_with_a_uniform_reference(w: float, l: float) -> None:  # noqa: E741
    """A reference that gives both answers the same probability drops out."""
    dpo = configured(find("dpo"), {"beta": 0.3})  # type: ignore[arg-type]
    assert at(configured(CPO, {"beta": 0.3}), w, l) == pytest.approx(at(dpo, w + 7.0, l + 7.0), abs=1e-12)


@pytest.mark.parametrize(
    ("aggregation", "denominator", "total"),
    [("token-mean", 11.0, 46.5), ("sequence-sum", 2.0, 46.5), ("sequence-mean", 2.0, 6.0 / 3 + 40.5 / 8)],
)
def test_likelihood_of_the_chosen_answers(aggregation: str, denominator: float, total: float) -> None:
    groups = [group([3, 5]), group([8, 2])]
    method = configured(CPO, {"nll_aggregation": aggregation})
    sums = run(method, groups, spread(groups, [-6.0, -20.0, -40.5, -3.5]))
    assert sums.terms["nll"].item() == pytest.approx(total, rel=1e-7)
    assert method.weights(groups) == {"loss": 2.0, "nll": denominator}
    assert method.coefficients() == {"loss": 1.0, "nll": 1.0}


def test_the_likelihood_is_part_of_it_by_default() -> None:
    assert (CPOConfig().nll_weight, CPOConfig().nll_aggregation) == (1.0, "token-mean")
    groups = [group([3, 5])]
    sums = run(configured(CPO, {"nll_weight": 0.0}), groups, spread(groups, [-6.0, -20.0]))
    assert set(sums.terms) == {"loss"}


def test_rejected_answers_have_no_likelihood_term() -> None:
    groups = [group([3, 5])]
    logprobs = spread(groups, [-6.0, -20.0])
    run(CPO(), groups, logprobs).terms["nll"].backward()  # type: ignore[no-untyped-call]
    assert logprobs.grad is not None
    assert torch.equal(logprobs.grad, torch.tensor([-1.0] * 3 + [0.0] * 5, dtype=torch.float64))
