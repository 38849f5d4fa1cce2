"""Bugs that other trainers have had, put back on purpose: the invariance checks must see each of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plaudit.forest.attention import Plan, function
from plaudit.methods.aot import AOT
from plaudit.methods.base import Sums
from plaudit.methods.dpo import DPO
from plaudit.methods.kto import KTO
from plaudit.methods.sft import SFT
from plaudit.train import planning, step
from plaudit.train.step import Stream
from tests.train.steps import build, gradients, largest_error, make_groups, prepare, streams_of


def gradient_of(method, kind, budget, **options):
    setup = build(**options)
    batch = prepare(setup, method, make_groups(kind))
    return gradients(setup, [Stream(method, batch, range(len(batch.groups)))], budget=budget)[0]


def test_a_mean_per_microbatch(monkeypatch):
    """The mean of micro-batch means weighs short micro-batches too much (TRL #2617)."""

    class MeanOfMeans(SFT):
        name = "mean_of_means"

        def weights(self, groups):
            return {"loss": 1.0}

        def loss(self, role, scores, view):
            return Sums({"loss": -scores.logprobs_N.mean() / 3})

    whole, split = (gradient_of(MeanOfMeans(), "completion", budget) for budget in (100_000, 30))
    assert largest_error(split, whole) > 1e-2


class AOTOfAMicrobatch(AOT):
    """Sorts what a micro-batch has."""

    scope = "group"
    name = "aot_of_a_microbatch"


class KTOOfAMicrobatch(KTO):
    """Its reference point is a mean over a micro-batch, and of the answers to its own prompts."""

    name = "kto_of_a_microbatch"

    def loss(self, role, scores, view):
        ratio = view.sum_C(scores.logprobs_N - view.columns["reference"]).detach()
        view.columns = {**view.columns, "baseline": ratio.mean().clamp(min=0).expand_as(ratio)}
        return super().loss(role, scores, view)


@pytest.mark.parametrize(
    ("method", "wrong", "kind"),
    [(AOT, AOTOfAMicrobatch, "preference"), (KTO, KTOOfAMicrobatch, "feedback")],
    ids=["aot", "kto"],
)
def test_batch_statistics_per_microbatch(method, wrong, kind):
    """A sort or a baseline over a micro-batch is another loss than over the step."""
    config = method.Config(beta=0.5)
    right = gradient_of(method(config), kind, 60)
    assert largest_error(gradient_of(wrong(config), kind, 60), right) > 1e-2


def test_packed_rows_that_see_each_other(monkeypatch):
    """Causal attention over the whole row lets one completion read another."""
    whole = gradient_of(DPO(), "preference", 100_000, path="padded")

    class OneRow(Plan):
        def __init__(self, forest, window):
            self.own, self.crossings = [(0, forest.num_tokens, 0, forest.num_tokens, True)], []

    monkeypatch.setattr(function, "Plan", OneRow)
    assert largest_error(gradient_of(DPO(), "preference", 100_000), whole) > 1e-2


def test_positions_that_do_not_restart(monkeypatch):
    whole = gradient_of(DPO(), "preference", 100_000, path="padded")
    build_forest = planning.build_forest

    def running_positions(*args, **kwargs):
        forest = build_forest(*args, **kwargs)
        forest.position_ids_T = torch.arange(forest.num_tokens) % 64
        return forest

    monkeypatch.setattr(planning, "build_forest", running_positions)
    assert largest_error(gradient_of(DPO(), "preference", 100_000), whole) > 1e-2


def test_adapters_switched_before_one_joint_backward(monkeypatch):
    """Under gradient checkpointing the recomputation uses whatever adapter is active at backward time."""
    expected, _ = gradients(setup := build(lora=True, checkpointing=True), streams_of(setup, "toy_ppo"), budget=100_000)
    setup = build(lora=True, checkpointing=True)
    stream = streams_of(setup, "toy_ppo")[0]
    for module in setup.trained:
        module.train()
    setup.masters.clear_gradients()
    runner = step.StepRunner(setup.models, step.World(), 100_000)
    factors = runner._factors(stream)
    losses = []
    for role in ("policy", "critic"):
        with setup.models[role].role(role) as model:
            for slot in runner._slots(stream, role):
                forest = planning.materialise(slot, model, False)
                scores = runner._forward(role, forest, stream)
                sums = stream.method.loss(role, scores, planning.forest_view(forest, stream.batch))
                losses.append(step._weighted(sums, factors))
    torch.stack(losses).sum().backward()
    found = {n: w.grad for n, w in setup.masters.weights.items() if w.grad is not None}
    wrong = max(float((found.get(n, torch.zeros_like(g)) - g).abs().max()) for n, g in expected.items())
    assert wrong / max(float(g.abs().max()) for g in expected.values()) > 1e-2


def test_reference_that_moves_with_the_policy():
    """A reference that is the policy itself gives margin 0 for ever."""
    setup = build()
    method, groups = DPO(), make_groups("preference")
    right = prepare(setup, method, groups)
    setup.models["policy"].roles["reference"] = setup.models["policy"].roles["policy"]
    setup.models["reference"] = setup.models["policy"]
    wrong = prepare(setup, method, groups)
    gap = [
        np.abs(a - b).max()
        for x, y in zip(right.per_token["reference"], wrong.per_token["reference"], strict=True)
        for a, b in zip(x, y, strict=True)
    ]
    assert max(gap) > 1e-2
    _, metrics = gradients(setup, [Stream(method, wrong, range(len(groups)))], budget=60)
    assert metrics["rewards/margins"] == pytest.approx(0, abs=1e-5)
