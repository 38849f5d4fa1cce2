"""The gradient of a step is a property of its groups alone: not of micro-batches, packing, order, path or processes.

Every registered method takes part by being registered; the toys stand for contracts that no built-in method uses yet.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from tests.train.runs import CORE
from tests.train.steps import METHODS, build, gradients, in_default_run, largest_error, streams_of

ALL = (*METHODS, "toy_ppo_ptx")
NAMES = [pytest.param(n, marks=() if in_default_run(n) else pytest.mark.slow) for n in ALL]
TOLERANCE = 1e-5
BUDGETS = (20, 47, 90)
OPTIONS: tuple[dict[str, Any], ...] = (
    {"path": "padded"},
    {"checkpointing": True},
    {"checkpointing": True, "lora": True},
)
EVERYWHERE = {*CORE, "ppo", "grpo", "toy_ppo_ptx"}
"""Each a kind of machinery: these go through every cell in the default run."""


def splits() -> list[Any]:
    """(name, budget, lora): a method has one budget without and another one with LoRA in the default run."""
    found = []
    for number, name in enumerate(ALL):
        shown = {(BUDGETS[number % 3], False), (BUDGETS[(number + 1) % 3], True)}
        for cell in itertools.product(BUDGETS, (False, True)):
            default = in_default_run(name) and (name in EVERYWHERE or cell in shown)
            found.append(pytest.param(name, *cell, marks=() if default else pytest.mark.slow))
    return found


def paths() -> list[Any]:
    """(name, options): in the default run every method is padded, and recomputed with or without LoRA."""
    found = []
    for number, name in enumerate(ALL):
        for option in OPTIONS:
            default = in_default_run(name) and (name in EVERYWHERE or option in (OPTIONS[0], OPTIONS[1 + number % 2]))
            found.append(pytest.param(name, option, marks=() if default else pytest.mark.slow, id=f"{name}-{option}"))
    return found


@pytest.fixture(scope="module")
def reference_gradients():
    """Gradients of every method with the whole step in one micro-batch."""
    cache = {}

    def of(name: str, lora: bool):
        if (name, lora) not in cache:
            setup = build(lora=lora)
            cache[name, lora] = gradients(setup, streams_of(setup, name), budget=100_000)
        return cache[name, lora]

    return of


@pytest.mark.parametrize(("name", "budget", "lora"), splits())
def test_any_split_into_microbatches(name, budget, lora, reference_gradients):
    expected, expected_metrics = reference_gradients(name, lora)
    setup = build(lora=lora)
    found, metrics = gradients(setup, streams_of(setup, name), budget=budget)
    assert largest_error(found, expected) < TOLERANCE
    assert metrics == pytest.approx(expected_metrics, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_any_order_inside_the_step(name, reference_gradients):
    expected, _ = reference_gradients(name, False)
    setup = build()
    streams = streams_of(setup, name)
    for stream in streams:
        stream.indices = list(reversed(stream.indices))
    found, _ = gradients(setup, streams, budget=47)
    assert largest_error(found, expected) < TOLERANCE


@pytest.mark.parametrize(("name", "options"), paths())
def test_packed_padded_and_recomputed(name, options, reference_gradients):
    expected, _ = reference_gradients(name, options.get("lora", False))
    setup = build(**options)
    found, _ = gradients(setup, streams_of(setup, name), budget=47)
    assert largest_error(found, expected) < TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_bf16_accumulates_in_fp32(name):
    """bf16 forwards depend on their shapes; what must not be lost is the sum over micro-batches."""
    setup = build(bf16=True)
    one, _ = gradients(setup, streams_of(setup, name), budget=100_000)
    many, _ = gradients(setup, streams_of(setup, name), budget=20)
    assert all(g.dtype == torch.float32 for g in many.values())
    difference = (
        torch.cat([(one[n] - many[n]).flatten() for n in one]).norm()
        / torch.cat([g.flatten() for g in one.values()]).norm()
    )
    assert float(difference) < 0.03


@pytest.mark.parametrize("name", NAMES)
def test_every_trained_role_gets_gradients_of_its_own_terms_only(name, reference_gradients):
    """The policy's terms never reach the critic, and no gradient of anything reaches another role's model."""
    found, _ = reference_gradients(name, False)
    assert {n.split(".")[0] for n in found} == set(METHODS[name.removesuffix("_ptx")]().terms.values())
    assert all(torch.isfinite(g).all() for g in found.values())
