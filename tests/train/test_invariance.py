"""The gradient of a step is a property of its groups alone: not of micro-batches, packing, order, path or processes.

Every registered method takes part by being registered; the toys stand for contracts that no built-in method uses yet.
"""

from __future__ import annotations

import pytest
import torch

from tests.train.steps import METHODS, build, gradients, in_default_run, largest_error, streams_of

NAMES = [pytest.param(n, marks=() if in_default_run(n) else pytest.mark.slow) for n in (*METHODS, "toy_ppo_ptx")]
TOLERANCE = 1e-5


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


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("budget", [20, 47, 90])
def test_any_split_into_microbatches(name, lora, budget, reference_gradients):
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


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "options", [{"path": "padded"}, {"checkpointing": True}, {"checkpointing": True, "lora": True}], ids=str
)
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
