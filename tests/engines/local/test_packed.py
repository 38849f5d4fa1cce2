"""Packed copies of the weights: the same numbers, never old ones, and nothing left behind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from plaudit.engines import Sampling
from plaudit.engines.local import LocalEngine, packed
from plaudit.engines.local.packed import PackedLinears, packs, pays
from plaudit.engines.open import open_engine
from plaudit.models.forest_model import ForestModel
from plaudit.models.probe import perturbed_adapters
from tests import zoo
from tests.engines.tiny import Words

DTYPES = [torch.float32, torch.bfloat16]
SAMPLING = Sampling(max_new_tokens=12, seed=3)


@pytest.fixture(autouse=True)
def every_layer_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layers of the models here are too small to gain on every processor."""
    monkeypatch.setattr(packed, "pays", lambda _: True)
    if not packs(torch.float32):
        pytest.skip("PyTorch has no packed product here")


def engine_of(model: Any, **options: Any) -> LocalEngine:
    model.generation_config.eos_token_id = 2
    return LocalEngine(ForestModel(model), Words(), **options)


def prompts() -> list[Any]:
    make = zoo.Maker(5)
    return [make.ids(n) for n in (9, 4, 17)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_the_product_is_that_of_the_layer(dtype: torch.dtype, bias: bool) -> None:
    if not packs(dtype):
        pytest.skip(f"this processor has no packed product in {dtype}")
    layer = nn.Linear(130, 77, bias=bias, dtype=dtype)
    held = PackedLinears(layer)
    x = torch.randn(3, 5, 130, dtype=dtype)
    with torch.no_grad():
        expected = layer(x)
        held.hold()
        assert held.nbytes == layer.weight.nbytes == held.wanted_bytes
        with held.in_place():
            assert layer.forward is not nn.Linear.forward.__get__(layer)
            found = layer(x)
            assert layer(x[0, 0]).shape == (77,)
        held.release()
    assert found.dtype == dtype
    eps = torch.finfo(dtype).eps
    assert float((found - expected).abs().max()) <= 4 * eps * float(expected.abs().max())
    assert "forward" not in layer.__dict__
    assert held.nbytes == 0


def test_the_last_thread_to_leave_tidies_up() -> None:
    layer = nn.Linear(1024, 1024)
    held = PackedLinears(layer)
    held.hold()
    first, second = held.in_place(), held.in_place()
    first.__enter__()
    second.__enter__()
    held.hold()  # a third that begins meanwhile
    assert held.nbytes == layer.weight.nbytes
    first.__exit__(None, None, None)
    assert "forward" in layer.__dict__
    second.__exit__(None, None, None)
    assert "forward" not in layer.__dict__


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "gpt_oss"])
def test_an_engine_draws_the_same_with_and_without(name: str) -> None:
    model = zoo.build(name).eval()
    plain = list(engine_of(model, packing=False).generate(prompts(), 4, SAMPLING))
    engine = engine_of(model)
    used: list[int] = []
    inner = engine._forward.hidden
    engine._forward.hidden = lambda layout: (used.append(engine._packed.nbytes), inner(layout))[1]  # type: ignore[method-assign, union-attr, func-returns-value]
    found = list(engine.generate(prompts(), 4, SAMPLING))
    assert (min(used) > 0) == any(type(m) is nn.Linear for m in model.modules())
    for a, b in zip(plain, found, strict=True):
        for p, q in zip(a.completions, b.completions, strict=True):
            assert p.token_ids.tolist() == q.token_ids.tolist()
            np.testing.assert_allclose(p.full_logprobs, q.full_logprobs, atol=1e-5)
    assert engine._packed is not None
    assert engine._packed.nbytes == 0
    assert all("forward" not in m.__dict__ for m in model.modules() if isinstance(m, nn.Linear))


def test_weights_that_change_between_calls_are_seen() -> None:
    """Through `.data` too, which no counter of PyTorch notices; with the copies held all the time."""
    model = zoo.build("llama").eval()
    engine = engine_of(model)
    with engine.holding(8):
        before = list(engine.generate(prompts(), 4, SAMPLING))
        for parameter in model.parameters():
            parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        after = list(engine.generate(prompts(), 4, SAMPLING))
    fresh = list(engine_of(model, packing=False).generate(prompts(), 4, SAMPLING))
    tokens = [[c.token_ids.tolist() for g in groups for c in g.completions] for groups in (before, after, fresh)]
    assert tokens[0] != tokens[1] == tokens[2]


def test_copies_are_used_again_while_somebody_holds_them() -> None:
    model = zoo.build("llama")
    held = PackedLinears(model)
    held.hold()
    first = dict(held._copies)
    held.hold()
    assert all(held._copies[m] is copy for m, copy in first.items())
    held.release()
    assert held.nbytes > 0
    held.release()
    assert held.nbytes == 0


def test_new_weights_are_never_taken_for_the_old_ones() -> None:
    """Not even those that differ where nobody looks, while somebody else still holds the copies."""
    model = zoo.build("llama").eval()
    engine = engine_of(model)
    layer = model.model.layers[0].mlp.up_proj
    x = torch.ones(1, layer.in_features)
    with engine.holding(8), torch.no_grad():
        layer.weight.data.reshape(-1)[1] += 100.0
        engine.sync(None, 1)
        with engine.holding(8), engine._packed.in_place():  # type: ignore[union-attr]
            assert layer(x)[0, 0] == pytest.approx(float(layer.weight[0].sum()), abs=1e-3)


def test_adapters_run_on_packed_base_layers() -> None:
    adapted = get_peft_model(zoo.build("llama").eval(), LoraConfig(r=4, target_modules="all-linear"))
    with perturbed_adapters(adapted):
        for p in (p for n, p in adapted.named_parameters() if "lora_B" in n):
            p.data.mul_(20)
        engine = LocalEngine(ForestModel(adapted), Words())
        groups = list(engine.generate(prompts(), 4, SAMPLING))
        scored = engine.score(groups)
    for group, scores in zip(groups, scored, strict=True):
        for completion, score in zip(group.completions, scores, strict=True):
            np.testing.assert_allclose(completion.full_logprobs, score, atol=5e-5)


def test_layers_of_other_owners_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + 1

    taken = nn.Linear(8, 8)
    taken.forward = lambda x: x  # type: ignore[method-assign]
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
    model = nn.ModuleList([Own(8, 8), taken, normed, nn.Linear(8, 8, dtype=torch.float64)])
    held = PackedLinears(model)
    held.hold()
    assert held.nbytes == 0
    x = torch.ones(1, 8)
    with held.in_place():
        assert taken(x) is x
    assert taken(x) is x


def test_no_copies_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.build("llama").eval()
    held = PackedLinears(model)
    monkeypatch.setattr(packed, "free_bytes", lambda: 2 * held.wanted_bytes - 2)
    held.hold()
    assert held.nbytes == 0
    with held.in_place():
        pass
    held.release()
    monkeypatch.setattr(packed, "free_bytes", lambda: 2 * held.wanted_bytes)
    held.hold()
    assert held.nbytes == held.wanted_bytes > 0


def test_few_rows_are_not_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(zoo.build("llama").eval())
    assert engine._packed is not None
    with engine.holding(1):
        assert engine._packed.nbytes == 0
    with engine.holding(8):
        assert engine._packed.nbytes > 0


def test_a_wrong_product_is_found_and_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.build("llama").eval()
    model.generation_config.eos_token_id = 2
    engine, note = open_engine(model, Words())
    assert isinstance(engine, LocalEngine)
    assert "packed while it works" in note
    make = packed._packed

    def wrong(module: nn.Linear) -> Any:
        call = make(module)
        return lambda x: call(x) * 1.5

    monkeypatch.setattr(packed, "_packed", wrong)
    packs.cache_clear()
    try:
        assert not packs(torch.float32)
    finally:
        packs.cache_clear()
    monkeypatch.setattr(packed, "packs", lambda _: True)
    engine, note = open_engine(model, Words())
    assert isinstance(engine, LocalEngine)
    assert engine._packed is None
    assert "packed" not in note


def test_what_gains_depends_on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = torch.zeros(8, 8), torch.zeros(1024, 1024)
    monkeypatch.setattr(packed, "_tuned_for_this_processor", lambda: True)
    assert [pays(w) for w in (small, large, small.bfloat16())] == [False, True, True]
    monkeypatch.setattr(packed, "_tuned_for_this_processor", lambda: False)
    assert [pays(w) for w in (small, large, small.bfloat16())] == [True, True, True]
