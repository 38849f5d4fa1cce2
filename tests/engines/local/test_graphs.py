"""Recorded steps, with a recorder that repeats operations on the very same memory as a CUDA graph does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from plaudit.engines import Sampling
from plaudit.engines.local import LocalEngine
from plaudit.engines.local.graphs import StepGraphs
from plaudit.models.forest_model import ForestModel
from tests import zoo
from tests.engines.tiny import Words

FAMILIES = [n for n in zoo.NAMES if n not in zoo.PADDED_ONLY and n != "phi3_longrope"]
SAMPLING = Sampling(max_new_tokens=40, seed=3, temperature=1.1, stop_token_ids=(5, 6, 7, 8))


class Recorder(TorchDispatchMode):
    """Keeps every operation with its arguments; numbers that the host passed are fixed from then on."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.nonzero.default:  # how many there are decides what the host does next
            raise RuntimeError("the host asks the device")
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    def repeat(self) -> None:
        for func, args, kwargs, out in self.calls:
            given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.untyped_storage().data_ptr() not in given:
                    old.copy_(new)  # fresh memory then; views follow what they are views of


def recorded(work: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    with Recorder() as recorder:
        out = work()
    out.fill_(torch.nan)  # a graph that is recorded has computed nothing yet

    def replay() -> torch.Tensor:
        recorder.repeat()
        return out

    return replay


def engine_of(name: str, capture: Any = recorded) -> LocalEngine:
    model = zoo.build(name).eval()
    model.generation_config.eos_token_id = 2
    engine = LocalEngine(ForestModel(model), Words(), packing=False)
    if capture is not None:
        engine._forward.graphs = StepGraphs(engine._forward._compute, capture)
    return engine


def prompts(lengths: tuple[int, ...] = (12, 3, 30, 9, 1, 60)) -> list[Any]:
    make = zoo.Maker(8)
    return [make.ids(n) for n in lengths]


@pytest.mark.parametrize("name", FAMILIES)
def test_recorded_steps_draw_the_same(name: str) -> None:
    """Through windows that leave the prompts behind, rows that leave, and stores that grow."""
    plain, fast = engine_of(name, None), engine_of(name)
    for engine in (plain, fast):
        object.__setattr__(engine.limits, "first_capacity", 9)
    expected = list(plain.generate(prompts(), 3, SAMPLING))
    found = list(fast.generate(prompts(), 3, SAMPLING))
    for a, b in zip(expected, found, strict=True):
        for p, q in zip(a.completions, b.completions, strict=True):
            assert p.token_ids.tolist() == q.token_ids.tolist()
            np.testing.assert_allclose(p.full_logprobs, q.full_logprobs, atol=2e-5)
    graphs = fast._forward.graphs
    assert graphs is not None
    assert graphs.failure is None
    assert graphs.replayed > 5
    assert graphs._fixed is None, "nothing of a call is held behind it"


def test_rows_that_come_later_are_recorded_with_the_others() -> None:
    plain, fast = engine_of("llama", None), engine_of("llama")
    for engine in (plain, fast):
        object.__setattr__(engine.limits, "max_rows", 5)
    expected = list(plain.generate(prompts(), 4, SAMPLING))
    found = list(fast.generate(prompts(), 4, SAMPLING))
    assert [c.token_ids.tolist() for g in found for c in g.completions] == [
        c.token_ids.tolist() for g in expected for c in g.completions
    ]
    assert fast._forward.graphs is not None
    assert fast._forward.graphs.replayed > 10


def test_a_step_that_cannot_be_recorded_is_computed_as_ever() -> None:
    def failing(work: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    plain, fast = engine_of("llama", None), engine_of("llama", failing)
    expected = list(plain.generate(prompts(), 2, SAMPLING))
    found = list(fast.generate(prompts(), 2, SAMPLING))
    assert [c.token_ids.tolist() for g in found for c in g.completions] == [
        c.token_ids.tolist() for g in expected for c in g.completions
    ]
    assert fast._forward.graphs is not None
    assert fast._forward.graphs.replayed == 0
    assert fast.described == "steps not recorded as CUDA graphs: operation not permitted when stream is capturing"


def test_verification_reaches_the_recorded_steps() -> None:
    """What a graph computes wrongly is found before anything is generated for a user."""
    right = engine_of("llama")
    assert right.verify() < 1e-4
    assert right._forward.graphs is not None
    assert right._forward.graphs.replayed >= 2

    def stale(work: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        out = work()
        return lambda: out

    from plaudit.errors import EngineError

    with pytest.raises(EngineError, match="PL605"):
        engine_of("llama", stale).verify()
