"""RAFT: which answers are kept, and that the loss is their mean negative log-prob."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from plaudit.methods.base import Scores
from plaudit.methods.raft import RAFT, RAFTConfig
from plaudit.methods.sft import SFT, SFTConfig
from plaudit.runs.metrics import is_known
from tests.methods.choices import rewards_of, rng, sampled
from tests.methods.views import view

CASES = {
    "top, by answers": {"select": "top", "share": 0.4, "aggregation": "sequence-mean"},
}


def of(**options) -> RAFT:
    return RAFT(RAFTConfig(**options))


ROWS = [[0.2, 0.9, 0.4], [0.5, 0.5, 0.1], [0.0, -1.0, -2.0]]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, [[0.9], [0.5], [0.0]]),
        ({"threshold": 0.3}, [[0.9], [0.5]]),
        ({"select": "above", "threshold": 0.4}, [[0.9, 0.4], [0.5, 0.5]]),
        ({"select": "above", "threshold": 1.0}, []),
        ({"select": "top", "share": 0.34}, [[0.9], [0.5, 0.5]]),
        ({"select": "top", "share": 0.01}, [[0.9]]),
        ({"select": "top", "share": 0.9, "threshold": 0.45}, [[0.9], [0.5, 0.5]]),
    ],
    ids=str,
)
def test_what_is_kept(options, kept) -> None:
    groups = [sampled(row) for row in ROWS]
    assert rewards_of(of(**options).choose(groups, rng())) == kept
    assert rewards_of(groups) == ROWS


def test_the_first_of_equal_answers_is_the_best() -> None:
    groups = [sampled([0.5, 1.0, 1.0])]
    [chosen] = of().choose(groups, rng())
    assert chosen.completions[0] is groups[0].completions[1]


def test_which_of_equal_answers_are_the_top_is_drawn() -> None:
    """Not those of the prompts in front; and drawn again alike."""
    groups = [sampled([1.0, 0.0]) for _ in range(40)]
    method = of(select="top", share=0.25)
    number = {id(g.completions[0]): i for i, g in enumerate(groups)}
    places = []
    for seed in range(30):
        kept = [method.choose(groups, np.random.default_rng(seed)) for _ in range(2)]
        which, again = ([number[id(c)] for g in found for c in g.completions] for found in kept)
        assert which == again
        assert len(which) == 20
        places += which
    assert abs(float(np.mean(places)) - 19.5) < 2


def test_answers_that_were_cut() -> None:
    groups = [sampled([0.5, 0.9], cut=[1])]
    assert rewards_of(of(truncated="mask").choose(groups, rng())) == [[0.5]]
    assert rewards_of(of(truncated="subtract").choose(groups, rng())) == [[0.5]]
    assert rewards_of(of().choose(groups, rng())) == [[0.9]]
    assert of(truncated="mask").choose([sampled([0.9], cut=[0])], rng()) == []


def test_what_the_log_says() -> None:
    groups = [sampled(row) for row in ROWS]
    method = of(select="above", threshold=0.4)
    metrics = method.choice_metrics(groups, method.choose(groups, rng()))
    assert metrics["kept/share"] == (4.0, 9.0)
    assert metrics["kept/none"] == (1.0, 3.0)
    assert metrics["kept/reward"] == pytest.approx((2.3, 4.0))
    assert all(is_known(name) for name in metrics)
    assert method.choice_metrics(groups, [])["kept/none"] == (3.0, 3.0)
    assert [method.teaches(g) for g in groups] == [True, True, False]
    assert all(of().teaches(g) for g in groups)


@pytest.mark.parametrize("aggregation", ["token-mean", "sequence-mean"])
def test_the_loss_is_that_of_demonstrations(aggregation) -> None:
    method = of(select="above", threshold=0.4, aggregation=aggregation)
    chosen = method.choose([sampled(row) for row in ROWS], rng())
    n = sum(len(c.token_ids) for g in chosen for c in g.completions)
    logprobs = -torch.rand(n, generator=torch.Generator().manual_seed(2))
    found = method.loss("policy", Scores(logprobs_N=logprobs), view(chosen))
    total = -logprobs.double()
    lengths = [len(c.token_ids) for g in chosen for c in g.completions]
    assert lengths == [3, 4, 2, 3]
    parts = torch.split(total, lengths)
    by_hand = total.mean() if aggregation == "token-mean" else torch.stack([p.mean() for p in parts]).mean()
    assert float(found.terms["loss"]) / method.weights(chosen)["loss"] == pytest.approx(float(by_hand), rel=1e-6)
    # SFT on the same answers says the same.
    sft = SFT(SFTConfig(train_on="completion", aggregation=aggregation))
    scores = Scores(logprobs_N=logprobs, prompt_logprobs_M=torch.zeros(0))
    ones = [g.__class__(g.prompt_ids, [c]) for g in chosen for c in g.completions]
    theirs = sft.loss("policy", scores, view(ones))
    assert float(theirs.terms["loss"]) == pytest.approx(float(found.terms["loss"]), rel=1e-6)
    assert sft.weights(ones) == method.weights(chosen)
    assert method.derived({"logps/mean": -1.0}) == {"perplexity": pytest.approx(math.e)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"select": "above"}, "select: above needs threshold"),
        ({"share": 0.1}, "share has no effect without select: top"),
        ({"truncated_penalty": 2.0}, "truncated_penalty has no effect without truncated: subtract"),
        ({"select": "top", "share": 1.0}, "less than 1"),
    ],
)
def test_options_without_effect_are_refused(options, message) -> None:
    with pytest.raises(ValidationError, match=message):
        RAFTConfig(**options)
