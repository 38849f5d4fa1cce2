"""The seams that every method on pairs has: LD-DPO's token weight, WPO's pair weight, the likelihood term."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from plaudit.methods import available, find
from plaudit.methods.base import Scores, Sums, View
from plaudit.methods.dpo import DPO, DPOConfig
from plaudit.methods.preference.pairs import beyond_shorter, wpo_weight
from plaudit.types import PromptGroup
from tests.methods.pair_oracles import noise
from tests.methods.views import group, view

GROUPS = [group([3, 5]), group([4, 2]), group([1, 1])]
LENGTHS = [3, 5, 4, 2, 1, 1]


def _view(groups: list[PromptGroup], reference: Tensor) -> View:
    return view(groups, {"reference": reference})


def _run(logprobs: Tensor, reference: Tensor, log_sum_p2: Tensor | None = None, **options: Any) -> Sums:
    scores = Scores(logprobs_N=logprobs, log_sum_p2_N=log_sum_p2)
    return DPO(DPOConfig(**options)).loss("policy", scores, _view(GROUPS, reference))


def _dpo(z: float) -> float:
    return math.log1p(math.exp(-z))


# -- token weight


def test_targets_beyond_the_shorter_answer() -> None:
    marks = beyond_shorter(view([group([3, 5]), group([4, 2]), group([0, 2]), group([1, 3, 2, 2])]))
    pairs = [[0, 0, 0], [0, 0, 0, 1, 1], [0, 0, 1, 1], [0, 0], [], [1, 1], [0], [0, 1, 1], [0, 0], [0, 0]]
    assert marks.int().tolist() == [mark for answer in pairs for mark in answer]


def test_ld_at_one_is_dpo_and_at_zero_cuts() -> None:
    logprobs, reference = noise(GROUPS)
    plain = _run(logprobs, reference).terms["loss"]
    assert torch.equal(_run(logprobs, reference, ld_alpha=1.0).terms["loss"], plain)
    kept = ~beyond_shorter(view(GROUPS))
    cut = [group([3, 3]), group([2, 2]), group([1, 1])]
    scores = Scores(logprobs_N=logprobs[kept])
    want = DPO().loss("policy", scores, _view(cut, reference[kept])).terms["loss"]
    torch.testing.assert_close(_run(logprobs, reference, ld_alpha=0.0).terms["loss"], want, rtol=1e-12, atol=0)
    assert abs(float(want - plain)) > 1e-3


def test_ld_scales_the_slopes_of_the_tail() -> None:
    logprobs, reference = noise(GROUPS)
    logprobs.requires_grad_()
    _run(logprobs, reference, ld_alpha=0.4).terms["loss"].backward()  # type: ignore[no-untyped-call]
    assert logprobs.grad is not None
    rejected = logprobs.grad[3:8]
    assert rejected.tolist() == pytest.approx([rejected[0].item() * w for w in (1, 1, 1, 0.4, 0.4)], rel=1e-7)


# -- pair weight


def test_wpo_weight() -> None:
    """exp(mean(log π − log Σπ²)) of both answers, multiplied, at most 1, without a gradient."""
    two = view([group([2, 1]), group([1, 1])])
    logprobs = torch.log(torch.tensor([0.5, 0.2, 0.25, 0.9, 0.9], dtype=torch.float64)).requires_grad_()
    log_sum_p2 = torch.log(torch.tensor([0.5, 0.4, 0.5, 0.6, 0.6], dtype=torch.float64))
    weight = wpo_weight(logprobs, log_sum_p2, two)
    assert weight.tolist() == pytest.approx([math.sqrt(1 * 0.5) * 0.5, 1.0], rel=1e-14)
    assert not weight.requires_grad


def test_wpo_multiplies_the_loss_of_each_pair() -> None:
    logprobs, reference = noise(GROUPS)
    log_sum_p2 = -torch.linspace(0.1, 2, len(logprobs), dtype=torch.float64)
    got = _run(logprobs, reference, log_sum_p2, weighting="wpo", beta=0.5)
    rho = [float(part.sum()) for part in (logprobs - reference).split(LENGTHS)]
    weights = wpo_weight(logprobs, log_sum_p2, view(GROUPS)).tolist()
    want = sum(w * _dpo(0.5 * (a - b)) for w, a, b in zip(weights, rho[::2], rho[1::2], strict=True))
    assert got.terms["loss"].item() == pytest.approx(want, rel=1e-12)
    total, count = got.metrics["weights/wpo"]
    assert (total.item(), count.item()) == (pytest.approx(sum(weights), rel=1e-6), 3.0)
    assert min(weights) < 0.9


def test_wpo_with_a_uniform_policy_is_dpo() -> None:
    """Every token as likely as log Σπ² says: all weights are 1."""
    uniform = torch.full((sum(LENGTHS),), -math.log(7), dtype=torch.float64)
    _, reference = noise(GROUPS)
    got = _run(uniform, reference, uniform.clone(), weighting="wpo")
    torch.testing.assert_close(got.terms["loss"], _run(uniform, reference).terms["loss"], rtol=1e-12, atol=0)


def test_the_statistic_is_asked_for_only_where_it_is_needed() -> None:
    assert DPO().stats() == {"policy": {"logprob"}}
    assert DPO(DPOConfig(weighting="wpo")).stats() == {"policy": {"logprob", "log_sum_p2"}}


# -- the likelihood term


@pytest.mark.parametrize("aggregation", ["sequence-mean", "token-mean", "sequence-sum"])
def test_likelihood_of_the_chosen_answers(aggregation: str) -> None:
    """Chosen answers of 3, 4 and 1 tokens; sum over denominator is what the objective adds, times its weight."""
    logprobs, reference = noise(GROUPS)
    options = {"nll_weight": 0.7, "nll_aggregation": aggregation}
    got, method = _run(logprobs, reference, **options), DPO(DPOConfig.model_validate(options))
    chosen = [-part for part in logprobs.split(LENGTHS)[::2]]
    want = {
        "sequence-mean": sum(float(c.mean()) for c in chosen) / 3,
        "token-mean": sum(float(c.sum()) for c in chosen) / 8,
        "sequence-sum": sum(float(c.sum()) for c in chosen) / 3,
    }[aggregation]
    assert float(got.terms["nll"]) / method.weights(GROUPS)["nll"] == pytest.approx(want, rel=1e-12)
    assert method.coefficients() == {"loss": 1.0, "nll": 0.7}
    assert method.weights(GROUPS)["loss"] == 3


def test_likelihood_at_the_reference() -> None:
    """log 2 + α NLL, with the slope −β/2 − α/n_w in each token of the chosen answer."""
    pair = [group([4, 2])]
    logprobs, _ = noise(pair)
    leaf = logprobs.clone().requires_grad_()
    method = DPO(DPOConfig(beta=0.1, nll_weight=0.7))
    terms = method.loss("policy", Scores(logprobs_N=leaf), _view(pair, logprobs)).terms
    total = terms["loss"] + method.coefficients()["nll"] * terms["nll"]
    assert total.item() == pytest.approx(math.log(2) - 0.7 * float(logprobs[:4].mean()), rel=1e-12)
    total.backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    assert leaf.grad.tolist() == pytest.approx([-0.05 - 0.7 / 4] * 4 + [0.05] * 2, rel=1e-12)


def test_without_weight_there_is_no_term() -> None:
    logprobs, reference = noise(GROUPS)
    assert set(_run(logprobs, reference).terms) == {"loss"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"nll_aggregation": "token-mean"},
        {"nll_weight": -0.1},
        {"ld_alpha": 1.1},
        {"ld_alpha": -0.1},
        {"weighting": "wpo2"},
    ],
    ids=str,
)
def test_bad_options(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DPOConfig.model_validate(wrong)


@pytest.mark.parametrize("ld_alpha", [1.0, 0.5, 0.0])
@pytest.mark.parametrize(("chosen", "rejected"), [(10, 5), (5, 10), (7, 7)])
@pytest.mark.parametrize(
    ("method", "options"),
    [("simpo", {}), ("dpo_norm", {}), ("orpo", {}), ("alphapo", {}), ("ipo", {"normalisation": "mean"})],
)
def test_length_is_no_signal_where_every_token_is_equally_likely(
    method: str, options: dict[str, Any], chosen: int, rejected: int, ld_alpha: float
) -> None:
    """A loss of means has a margin of 0 then, whatever LD-DPO's factor is: it is there to take length out."""
    chosen_method = find(method)
    made = chosen_method(chosen_method.Config.model_validate({**options, "ld_alpha": ld_alpha}))
    g = group([chosen, rejected])
    logprobs = torch.full((chosen + rejected,), -1.3)
    columns = {"reference": torch.full_like(logprobs, -0.9)} if "reference" in made.roles else {}
    got = made.loss("policy", Scores(logprobs_N=logprobs), view([g], columns))
    assert got.metrics["rewards/margins"][0].item() == pytest.approx(0.0, abs=1e-5)


def test_a_resolved_configuration_may_name_its_defaults() -> None:
    """Every method with a likelihood term, switched off: its own default aggregation is no mistake, another one is."""
    for name, method in available().items():
        fields = method.Config.model_fields
        if not {"nll_weight", "nll_aggregation"} <= fields.keys():
            continue
        default = fields["nll_aggregation"].default
        config = method.Config.model_validate({"nll_weight": 0.0})
        assert method.Config.model_validate(config.model_dump()) == config, name
        other = next(a for a in ("token-mean", "sequence-mean", "sequence-sum") if a != default)
        with pytest.raises(ValidationError, match="has no effect"):
            method.Config.model_validate({"nll_weight": 0.0, "nll_aggregation": other})
