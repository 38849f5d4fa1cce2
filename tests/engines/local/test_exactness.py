"""Every architecture of the exactness matrix: greedy output is transformers' own, log-probs are those of training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from plaudit.engines import Sampling
from plaudit.engines.hf import HFEngine
from plaudit.engines.local import LocalEngine
from plaudit.engines.open import open_engine
from plaudit.errors import EngineError
from plaudit.models.forest_model import ForestModel
from plaudit.models.probe import perturbed_adapters
from plaudit.types import PromptGroup, Tokens
from tests import zoo
from tests.engines.tiny import Words

FAMILIES = [name for name in zoo.NAMES if name not in zoo.PADDED_ONLY]
NEW = 40
"""Windows (7), the original context of the longrope model (24) and every prompt are passed."""


def prompts_of(lengths: tuple[int, ...] = (12, 3, 30, 9, 22, 1)) -> list[Tokens]:
    make = zoo.Maker(3)
    return [make.ids(n) for n in lengths]


def built(name: str, dtype: torch.dtype = torch.float32) -> Any:
    model = zoo.build(name, dtype=dtype).eval()
    model.generation_config.eos_token_id = 2
    return model


def engine_of(name: str, **options: Any) -> LocalEngine:
    return LocalEngine(ForestModel(built(name)), Words(), **options)


def tokens(groups: list[PromptGroup]) -> list[list[int]]:
    return [c.token_ids.tolist() for g in groups for c in g.completions]


def largest_gap(engine: LocalEngine, groups: list[PromptGroup], temperature: float) -> float:
    scored = engine.score(groups, temperature)
    pairs = [(c, s) for g, r in zip(groups, scored, strict=True) for c, s in zip(g.completions, r, strict=True)]
    for completion, _ in pairs:
        np.testing.assert_array_equal(completion.sampling_logprobs, completion.full_logprobs)
    return max(float(np.abs(c.full_logprobs - s).max()) for c, s in pairs)


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_is_transformers_generate_token_for_token(name: str) -> None:
    engine = engine_of(name)
    sampling = Sampling(temperature=0, max_new_tokens=NEW)
    together = tokens(list(engine.generate(prompts_of(), 1, sampling)))
    with engine.model.native() as native:
        theirs = tokens(list(HFEngine(native, Words()).generate(prompts_of(), 1, sampling)))  # type: ignore[arg-type]
    assert together == theirs
    assert len({len(t) for t in together} | {NEW}) > 0
    assert max(map(len, together)) == NEW, "some completion is to pass every limit"


@pytest.mark.parametrize("name", FAMILIES)
def test_sampled_logprobs_are_those_of_the_packed_forward(name: str) -> None:
    engine = engine_of(name)
    new = zoo.ORIGINAL - 22 if name == "phi3_longrope" else NEW
    groups = list(
        engine.generate(prompts_of((12, 3, 9, 22, 1)), 4, Sampling(max_new_tokens=new, temperature=0.7, seed=5))
    )
    assert largest_gap(engine, groups, 0.7) < 1e-5
    # Beyond the original context from the start.
    if name == "phi3_longrope":
        groups = list(engine.generate(prompts_of((25, 31)), 3, Sampling(max_new_tokens=20, seed=5)))
        assert largest_gap(engine, groups, 1.0) < 1e-5


@pytest.mark.parametrize("prompts", [(12, 3, 9, 22, 1), (30, 4, 25), (3, 2)])
def test_transformers_generate_keeps_position_regimes_apart_in_a_batch(prompts: tuple[int, ...]) -> None:
    """One long row would move the whole batch into the other regime; what is sampled there is not the policy."""
    engine = engine_of("phi3_longrope")
    with engine.model.native() as native:
        other = HFEngine(native, Words())  # type: ignore[arg-type]
        groups = list(other.generate(prompts_of(prompts), 3, Sampling(max_new_tokens=NEW, seed=5)))
        theirs = other.score(groups)
    for group, scores, own in zip(groups, theirs, engine.score(groups), strict=True):
        for completion, score, reference in zip(group.completions, scores, own, strict=True):
            np.testing.assert_allclose(score, reference, atol=1e-5)
            if (
                len(group.prompt_ids) + len(completion.token_ids) <= zoo.ORIGINAL
                or len(group.prompt_ids) > zoo.ORIGINAL
            ):
                np.testing.assert_allclose(completion.sampling_logprobs, reference, atol=1e-5)


@pytest.mark.parametrize(("new", "recomputes", "cached"), [(4, False, True), (NEW, False, False), (NEW, True, True)])
def test_transformers_cache_is_used_where_it_keeps_the_context(
    new: int, recomputes: bool, cached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to 5.19 it loses all but the last token where a sequence passes into the other position regime."""
    asked: list[bool] = []
    engine = engine_of("phi3_longrope")
    with engine.model.native() as native:
        other = HFEngine(native, Words())  # type: ignore[arg-type]
        own = native.generate

        def generate(**options: Any) -> Any:
            asked.append(options["generation_config"].use_cache)
            return own(**options)

        monkeypatch.setattr(other, "_recomputes", recomputes)
        monkeypatch.setattr(native, "generate", generate)
        list(other.generate(prompts_of((12,)), 1, Sampling(temperature=0, max_new_tokens=new)))
    assert asked == [cached]


@pytest.mark.parametrize("name", ["llama", "gemma2", "phi3_longrope", "gpt2", "gpt_oss"])
def test_little_memory_changes_the_time_and_nothing_else(name: str) -> None:
    """Rows wait, are put back and go on; prompts are read in again: the same tokens, in the order of the prompts."""
    sampling = Sampling(max_new_tokens=NEW, temperature=0.9, seed=11)
    ample = engine_of(name)
    expected = list(ample.generate(prompts_of(), 3, sampling))
    room = 110
    tight = LocalEngine(ample.model, Words(), cache_gib=ample.limits.bytes_per_token * room / 2**30, max_rows=5)
    tight.limits = replace(tight.limits, first_capacity=4)
    found = list(tight.generate(prompts_of(), 3, sampling))
    assert tokens(found) == tokens(expected)
    for a, b in zip(found, expected, strict=True):
        for mine, theirs in zip(a.completions, b.completions, strict=True):
            np.testing.assert_allclose(mine.full_logprobs, theirs.full_logprobs, atol=1e-5)
    assert tight.limits.tokens == room
    assert tight.counts.peak_tokens <= room
    assert tight.counts.steps > ample.counts.steps
    assert tight.counts.put_back > 0


@pytest.mark.parametrize("target", [["q_proj", "v_proj", "down_proj"], "all-linear", ["lm_head", "q_proj"]], ids=str)
def test_adapters_take_part_unmerged(target: Any) -> None:
    plain = built("llama")
    before = tokens(
        list(LocalEngine(ForestModel(plain), Words()).generate(prompts_of(), 2, Sampling(max_new_tokens=9)))
    )
    adapted = get_peft_model(plain, LoraConfig(r=4, target_modules=target, init_lora_weights=True))
    with perturbed_adapters(adapted):
        for p in (p for n, p in adapted.named_parameters() if "lora_B" in n):
            p.data.mul_(20)
        forest = ForestModel(adapted)
        engine = LocalEngine(forest, Words())
        groups = list(engine.generate(prompts_of(), 2, Sampling(max_new_tokens=9)))
        assert tokens(groups) != before
        assert largest_gap(engine, groups, 1.0) < 5e-5, "adapters this large give log-probs of many nats"
        merged = adapted.merge_and_unload()
        with ForestModel(merged).native() as native:
            greedy = Sampling(temperature=0, max_new_tokens=9)
            by_generate = tokens(list(HFEngine(native, Words()).generate(prompts_of(), 1, greedy)))  # type: ignore[arg-type]
        assert by_generate == tokens(list(LocalEngine(ForestModel(merged), Words()).generate(prompts_of(), 1, greedy)))


def test_roles_generate_with_their_own_adapters() -> None:
    from plaudit.models.forest_model import RoleSpec

    adapted = get_peft_model(built("llama"), LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    with perturbed_adapters(adapted):
        for p in (p for n, p in adapted.named_parameters() if "lora_B" in n):
            p.data.mul_(20)
        forest = ForestModel(adapted, roles={"policy": RoleSpec("default"), "reference": RoleSpec(None)})
        sampling = Sampling(max_new_tokens=9)
        policy = tokens(list(LocalEngine(forest, Words()).generate(prompts_of(), 2, sampling)))
        reference = tokens(list(LocalEngine(forest, Words(), role="reference").generate(prompts_of(), 2, sampling)))
        base = tokens(list(engine_of("llama").generate(prompts_of(), 2, sampling)))
        assert reference == base != policy


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss"])
def test_bf16_stays_within_the_models_own_rounding(name: str) -> None:
    engine = LocalEngine(ForestModel(built(name, torch.bfloat16)), Words())
    groups = list(engine.generate(prompts_of(), 3, Sampling(max_new_tokens=20, seed=2)))
    scored = engine.score(groups)
    gaps = [
        float(np.abs(c.full_logprobs - s).mean())
        for g, r in zip(groups, scored, strict=True)
        for c, s in zip(g.completions, r, strict=True)
        if c.full_logprobs is not None
    ]
    assert max(gaps) < 0.1, gaps


@pytest.mark.parametrize("name", zoo.NAMES)
def test_every_model_gets_an_engine(name: str) -> None:
    engine, note = open_engine(built(name), Words())
    assert isinstance(engine, HFEngine if name in zoo.PADDED_ONLY else LocalEngine)
    assert ("transformers' generate, because" in note) == (name in zoo.PADDED_ONLY)
    (group,) = engine.generate(prompts_of()[:1], 2, Sampling(max_new_tokens=5))
    assert len(group.completions) == 2


def test_an_engine_that_does_not_generate_what_is_scored_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a fault into the attention to prompts: the start-up check finds it, and the other engine is taken."""
    from plaudit.engines.local import layouts

    right = layouts.merge
    monkeypatch.setattr(layouts, "merge", lambda out, lse, other, other_lse: right(out, lse, other, other_lse - 0.05))
    with pytest.raises(EngineError, match="PL605"):
        engine_of("llama").verify()
    engine, note = open_engine(built("llama"), Words())
    assert isinstance(engine, HFEngine)
    assert "differ by" in note


def test_the_padded_path_is_refused() -> None:
    forest = ForestModel(built("mamba"), path="padded")
    with pytest.raises(EngineError, match="PL605"):
        LocalEngine(forest, Words())
