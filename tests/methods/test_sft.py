"""SFT: cross-entropy oracles through real scores, both aggregations, denominators, masks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from plaudit.forest.layout import Piece, build_forest
from plaudit.forest.logprob import fused_token_stats
from plaudit.methods import find
from plaudit.methods.base import Scores, Sums, View
from plaudit.methods.sft import SFT, SFTConfig
from plaudit.models.forest_model import ForestModel
from plaudit.types import Completion, PromptGroup
from tests.methods.views import group, view
from tests.zoo import Maker, build

V = 29


def _run(groups: list[PromptGroup], logprobs: Tensor, prompt: Tensor | None = None, **options: Any) -> Sums:
    scores = Scores(logprobs_N=logprobs, prompt_logprobs_M=torch.zeros(0) if prompt is None else prompt)
    return SFT(SFTConfig(**options)).loss("policy", scores, view(groups))


def _mean(groups: list[PromptGroup], logprobs: Tensor, prompt: Tensor | None = None, **options: Any) -> Tensor:
    """The objective as the trainer forms it: Σ over micro-batches / Σ denominators."""
    return _run(groups, logprobs, prompt, **options).terms["loss"] / SFT(SFTConfig(**options)).weights(groups)["loss"]


AGGREGATIONS = ["token-mean", "sequence-mean"]


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_uniform_logits(aggregation: str) -> None:
    """Loss = log V whatever the lengths are."""
    groups = [group([3]), group([7]), group([1])]
    logprobs = fused_token_stats(torch.zeros(11, V), torch.eye(V), torch.arange(11)).logprob
    assert float(_mean(groups, logprobs, aggregation=aggregation)) == pytest.approx(math.log(V), rel=1e-6)


def test_one_hot_logits() -> None:
    """The right logit 30 above the rest: loss < 1e-9 · V."""
    logprobs = fused_token_stats(30 * torch.eye(V)[:11], torch.eye(V), torch.arange(11)).logprob
    assert float(_mean([group([3]), group([7]), group([1])], logprobs)) < 1e-9 * V


def test_logit_gradient() -> None:
    """∂L/∂z = (softmax(z) − one-hot) / N, and it sums to 0 over the vocabulary."""
    torch.manual_seed(0)
    z, targets = torch.randn(11, V, requires_grad=True), torch.randint(0, V, (11,))
    _mean([group([3]), group([7]), group([1])], fused_token_stats(z, torch.eye(V), targets).logprob).backward()
    want = (torch.softmax(z.detach(), -1) - torch.nn.functional.one_hot(targets, V)) / 11
    assert z.grad is not None
    torch.testing.assert_close(z.grad, want, atol=1e-7, rtol=0)
    assert float(z.grad.sum(-1).abs().max()) < 1e-7


def test_token_mean_and_sequence_mean_by_hand() -> None:
    """−log p of 1, 2, 3 | 4: token-mean 10/4, sequence-mean (2 + 4)/2."""
    groups, logprobs = [group([3]), group([1])], -torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert float(_mean(groups, logprobs)) == 2.5
    assert float(_mean(groups, logprobs, aggregation="sequence-mean")) == 3.0


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_equal_lengths_make_the_aggregations_one(aggregation: str) -> None:
    groups, logprobs = [group([4]) for _ in range(3)], -torch.rand(12)
    assert float(_mean(groups, logprobs, aggregation=aggregation)) == pytest.approx(float(-logprobs.mean()), rel=1e-6)


def test_full_sequence_counts_prompt_targets() -> None:
    """Prompt −log p of 6, 8 before an answer of 1: token-mean 15/3; one sequence, so sequence-mean is the same."""
    groups = [group([1], prompt_targets=2)]
    logprobs, prompt = -torch.tensor([1.0]), -torch.tensor([6.0, 8.0])
    assert float(_mean(groups, logprobs, prompt)) == 5.0
    assert float(_mean(groups, logprobs, prompt, aggregation="sequence-mean")) == 5.0


def test_the_first_token_is_no_prompt_target() -> None:
    """A prompt whose whole mask is set has one target less than tokens."""
    assert SFT().weights([group([2], prompt=3, prompt_targets=3)])["loss"] == 4.0


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_example_weights(aggregation: str) -> None:
    """An example of weight 3 is worth three of itself in the sum; the denominator stays that of the masks."""
    groups, logprobs = [group([3]), group([2])], -torch.tensor([1.0, 2.0, 3.0, 4.0, 6.0])
    plain = [float(_run([g], logprobs[a:b], aggregation=aggregation).terms["loss"]) for g, a, b in
             ((groups[0], 0, 3), (groups[1], 3, 5))]  # fmt: skip
    groups[1].completions[0].weight = 3.0
    got = _run(groups, logprobs, aggregation=aggregation)
    assert float(got.terms["loss"]) == pytest.approx(plain[0] + 3 * plain[1])
    total, count = got.metrics["logps/mean"]
    assert (float(total), float(count)) == (-16.0, 5.0), "metrics are of tokens, not of weighted examples"


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 2)), min_size=1, max_size=8), st.integers(0, 8))
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_denominators_and_sums_are_additive(aggregation: str, rows: list[tuple[int, int]], cut: int) -> None:
    """Any split of the step gives the same Σ loss and Σ weights, so the same quotient."""
    groups = [group([n], prompt_targets=m) for n, m in rows]
    generator = torch.Generator().manual_seed(len(rows))
    logprobs = -torch.rand(sum(n for n, _ in rows), generator=generator)
    prompt = -torch.rand(sum(m for _, m in rows), generator=generator)
    method = SFT(SFTConfig.model_validate({"aggregation": aggregation}))
    n, m = sum(n for n, _ in rows[:cut]), sum(m for _, m in rows[:cut])

    def loss(part: list[PromptGroup], a: Tensor, b: Tensor) -> float:
        return float(_run(part, a, b, aggregation=aggregation).terms["loss"]) if part else 0.0

    whole = loss(groups, logprobs, prompt)
    split = loss(groups[:cut], logprobs[:n], prompt[:m]) + loss(groups[cut:], logprobs[n:], prompt[m:])
    assert whole == pytest.approx(split, abs=1e-5)
    assert method.weights(groups)["loss"] == method.weights(groups[:cut])["loss"] + method.weights(groups[cut:])["loss"]


def test_dft_gradient_is_p_times_nll_gradient() -> None:
    """The identity that dynamically weighted SFT rests on, through our head: ∇(−sg(p) log p) = p ∇(−log p)."""
    torch.manual_seed(0)
    z, targets = torch.randn(5, V, requires_grad=True), torch.arange(5)
    logprob = fused_token_stats(z, torch.eye(V), targets).logprob
    (dft,) = torch.autograd.grad(-(logprob.exp().detach() * logprob).sum(), z, retain_graph=True)
    (nll,) = torch.autograd.grad(-logprob.sum(), z)
    torch.testing.assert_close(dft, logprob.exp().detach()[:, None] * nll)


# -- through a model --------------------------------------------------------------------------------------------------


def _model_loss(model: ForestModel, groups: list[PromptGroup]) -> tuple[float, dict[str, Tensor]]:
    forest = build_forest([Piece(g, i, (0,)) for i, g in enumerate(groups)], bos_id=None)
    with model.role("policy"):
        scores = model(forest)
        loss = SFT().loss("policy", scores, view(groups)).terms["loss"] / SFT().weights(groups)["loss"]
        loss.backward()
    grads = {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return float(loss.detach()), grads


def test_untrained_tokens_behind_the_last_target_change_nothing() -> None:
    """Tokens behind the last trained one (what a padded batch calls padding) leave loss and gradients as they are."""
    model, make = ForestModel(build("llama")), Maker(2)
    groups = [make.group(6, [9], holes=[(7, 8)]), make.group(4, [5])]
    before = _model_loss(model, groups)
    groups[0].completions[0].token_ids[7:] = 3
    after = _model_loss(model, groups)
    assert before[0] == after[0]
    assert all(torch.equal(before[1][k], after[1][k]) for k in before[1])


def test_packed_equals_unpacked() -> None:
    """The loss of documents in one row is that of each alone; another document's tokens do not reach it."""
    model, make = ForestModel(build("llama")), Maker(3)
    groups = [make.group(6, [9]), make.group(4, [5]), make.group(8, [3])]
    together = _model_loss(model, groups)[0] * 17
    apart = [_model_loss(model, [g])[0] * n for g, n in zip(groups, (9, 5, 3), strict=True)]
    assert together == pytest.approx(sum(apart), abs=1e-5)
    groups[0].prompt_ids[:] = make.ids(6)
    groups[0].completions[0].token_ids[:] = make.ids(9)
    changed = [_model_loss(model, [g])[0] * n for g, n in zip(groups, (9, 5, 3), strict=True)]
    assert changed[0] != apart[0]
    assert changed[1:] == apart[1:]
    assert _model_loss(model, groups)[0] * 17 == pytest.approx(sum(changed), abs=1e-5)


def test_perplexity_is_derived() -> None:
    assert SFT().derived({"logps/mean": -math.log(7.0)})["perplexity"] == pytest.approx(7.0)


def test_declaration_and_options() -> None:
    assert find("sft") is SFT
    assert SFT().train_on == "assistant"
    assert SFT(SFTConfig(train_on="sequence")).train_on == "sequence"
    for wrong in ({"aggregation": "mean"}, {"train_on": "prompt"}, {"lr": 1}):
        with pytest.raises(ValidationError):
            SFTConfig.model_validate(wrong)


def test_a_weight_counts_for_the_prompt_targets_of_its_row_too():
    """Doubling the weight of a full-sequence row doubles everything that the row adds to the sum."""

    def loss(weight):
        group = PromptGroup(
            np.arange(4, dtype=np.int32),
            [Completion(np.arange(3, dtype=np.int32), np.ones(3, bool), weight=weight)],
            prompt_mask=np.ones(4, bool),
        )
        view = View(
            lengths_C=torch.tensor([3]),
            num_targets=3,
            piece_of_C=torch.tensor([0]),
            prompt_lengths_P=torch.tensor([3]),
            weights_C=torch.tensor([weight]),
            groups=[group],
            keys=[(0, 0)],
            columns={},
        )
        scores = Scores(logprobs_N=torch.full((3,), -1.0), prompt_logprobs_M=torch.full((3,), -2.0))
        return float(SFT().loss("policy", scores, view).terms["loss"])

    assert loss(1.0) == 9.0
    assert loss(2.0) == 18.0
