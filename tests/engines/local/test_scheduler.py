"""Admission, ends, interruption: what an engine does with many completions at once."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from plaudit.engines import Sampling
from plaudit.engines.local import LocalEngine
from plaudit.engines.local.cohort import bucket_lengths
from plaudit.engines.local.jobs import History, Job
from plaudit.engines.open import open_engine
from plaudit.errors import ConfigError, EngineError
from plaudit.models.forest_model import ForestModel
from plaudit.types import PromptGroup, token_array
from tests import zoo
from tests.engines.tiny import Words

LENGTHS = (12, 3, 30, 9, 22, 1, 60, 5, 5, 41)


def prompts() -> list[Any]:
    make = zoo.Maker(8)
    return [make.ids(n) for n in LENGTHS]


def engine_of(name: str = "llama", **options: Any) -> LocalEngine:
    model = zoo.build(name).eval()
    model.generation_config.eos_token_id = 2
    return LocalEngine(ForestModel(model), Words(), **options)


def by_prompt(groups: list[PromptGroup]) -> dict[tuple[int, ...], list[list[int]]]:
    return {tuple(g.prompt_ids.tolist()): [c.token_ids.tolist() for c in g.completions] for g in groups}


SAMPLING = Sampling(max_new_tokens=30, temperature=1.2, seed=4, stop_token_ids=tuple(range(5, 9)))


def test_a_completion_is_the_same_in_any_company_and_order() -> None:
    engine = engine_of()
    everything = by_prompt(list(engine.generate(prompts(), 4, SAMPLING)))
    assert len({len(t) for ts in everything.values() for t in ts}) > 5, "lengths are to be ragged"
    backwards = by_prompt(list(engine.generate(prompts()[::-1], 4, SAMPLING)))
    assert backwards == everything
    for prompt in prompts():
        assert (
            by_prompt(list(engine.generate([prompt], 4, SAMPLING)))[tuple(prompt.tolist())]
            == everything[tuple(prompt.tolist())]
        )
    few = by_prompt(list(engine.generate(prompts(), 2, SAMPLING)))
    assert few == {p: t[:2] for p, t in everything.items()}
    assert (
        by_prompt(list(LocalEngine(engine.model, Words(), max_rows=3).generate(prompts(), 4, SAMPLING))) == everything
    )
    other_seed = by_prompt(list(engine.generate(prompts(), 4, SAMPLING.model_copy(update={"seed": 5}))))
    assert all(other_seed[p] != t for p, t in everything.items())


def test_a_repeated_prompt_has_completions_of_its_own() -> None:
    prompt = prompts()[0]
    first, second = engine_of().generate([prompt, prompt], 3, SAMPLING)
    drawn = [c.token_ids.tolist() for g in (first, second) for c in g.completions]
    assert len({tuple(t) for t in drawn}) == 6


def test_groups_come_in_order_and_as_soon_as_they_are_ready() -> None:
    engine = engine_of(max_rows=4)
    stream = engine.generate(prompts(), 2, SAMPLING)
    first = next(stream)
    assert first.prompt_ids.tolist() == prompts()[0].tolist()
    steps = engine.counts.steps
    assert [g.prompt_ids.tolist() for g in stream] == [p.tolist() for p in prompts()[1:]]
    assert steps < engine.counts.steps / 2


def test_the_unordered_stream_gives_what_is_done_first() -> None:
    engine = engine_of()
    jobs = [
        Job(p, 1, SAMPLING.model_copy(update={"max_new_tokens": 30 - 2 * i}), number=i) for i, p in enumerate(prompts())
    ]
    order = [job.number for job in engine.run(jobs)]
    assert sorted(order) == list(range(len(LENGTHS)))
    assert order != sorted(order)


def test_a_prompt_is_read_in_once_for_all_its_completions() -> None:
    engine = engine_of()
    list(engine.generate(prompts(), 8, SAMPLING))
    assert engine.counts.prompt_tokens == sum(LENGTHS)
    assert engine.counts.generated_tokens <= engine.counts.computed_rows + 8 * len(LENGTHS)
    # Rows that are done are computed along for a while, an eighth of a cohort at most.
    assert engine.counts.computed_rows < 1.25 * engine.counts.generated_tokens


def test_the_cache_stays_within_its_budget_in_bytes() -> None:
    """Counted on the tensors themselves after every step, not on the scheduler's own books."""
    ample = engine_of("gemma3")
    budget = 130 * ample.limits.bytes_per_token
    engine = LocalEngine(ample.model, Words(), cache_gib=budget / 2**30)
    engine.limits = replace(engine.limits, first_capacity=4)
    scheduler = engine.scheduler()
    for job in engine.jobs(prompts(), 3, SAMPLING):
        scheduler.submit(job)
    most = 0
    while scheduler.busy:
        scheduler.step()
        tensors = [
            t for c in scheduler._cohorts for store in (c.suffixes, *c.buckets) for t in (*store._keys, *store._values)
        ]
        most = max(most, sum(t.untyped_storage().nbytes() for t in tensors))
    assert 0.5 * budget < most <= budget
    assert scheduler.counts.put_back > 0, "rows were to be put back"


def test_a_row_that_can_never_fit_is_refused_at_the_call() -> None:
    ample = engine_of()
    engine = LocalEngine(ample.model, Words(), cache_gib=60 * ample.limits.bytes_per_token / 2**30)
    with pytest.raises(EngineError, match=r"PL602(.|\n)*prompt 6(.|\n)*cache_gib"):
        list(engine.generate(prompts(), 1, SAMPLING))


def test_dynamic_scaling_beyond_the_original_context_is_refused() -> None:
    import transformers as tf

    config = zoo.CONFIGS["llama"]()
    config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    config.max_position_embeddings = 32
    torch.manual_seed(0)
    engine = LocalEngine(ForestModel(tf.LlamaForCausalLM(config)), Words())
    with pytest.raises(EngineError, match="PL602"):
        engine.generate([zoo.Maker(1).ids(20)], 1, Sampling(max_new_tokens=20))
    (group,) = engine.generate([zoo.Maker(1).ids(20)], 1, Sampling(max_new_tokens=10))
    assert len(group.completions[0].token_ids) <= 10


def test_stop_texts_end_a_completion_and_are_cut_from_its_text() -> None:
    engine = engine_of()
    plain = next(iter(engine.generate(prompts()[:1], 1, Sampling(max_new_tokens=30, seed=3)))).completions[0]
    words = [f"w{t}" for t in plain.token_ids.tolist()]
    # A text that spans two tokens and ends inside the second.
    stop = f"{words[9]} {words[10][:-1]}"
    sampling = Sampling(max_new_tokens=30, seed=3, stop=("never", stop))
    found = next(iter(engine.generate(prompts()[:1], 1, sampling))).completions[0]
    assert found.token_ids.tolist() == plain.token_ids.tolist()[:11]
    assert found.finish_reason == "stop"
    assert found.text == " ".join(words[:9]) + " "
    np.testing.assert_array_equal(found.full_logprobs, plain.full_logprobs[:11])  # type: ignore[index]


def test_a_stop_text_counts_behind_the_least_length_only() -> None:
    engine = engine_of()
    options = Sampling(max_new_tokens=30, seed=3, min_new_tokens=12)
    plain = next(iter(engine.generate(prompts()[:1], 1, options))).completions[0]
    words = [f"w{t}" for t in plain.token_ids.tolist()]
    early, late = words[4] + " ", words[20]
    sampling = options.model_copy(update={"stop": (early, late)})
    found = next(iter(engine.generate(prompts()[:1], 1, sampling))).completions[0]
    expected = " ".join(words)
    start = len(" ".join(words[:12]))
    ends = [at for stop in (early, late) if (at := expected.find(stop, start)) >= 0]
    assert found.text == expected[: min(ends)]
    assert early in found.text, "it stands before the least length"
    assert found.finish_reason == "stop"
    assert 12 < len(found.token_ids) < 30
    pieces: list[str] = []
    engine.stream(prompts()[0], sampling, pieces.append)
    assert "".join(pieces) == found.text


def test_stop_tokens_wait_for_the_least_length() -> None:
    sampling = SAMPLING.model_copy(update={"min_new_tokens": 12})
    engine = engine_of()
    groups = list(engine.generate(prompts(), 4, sampling))
    completions = [c for g in groups for c in g.completions]
    assert min(len(c.token_ids) for c in completions) >= 12
    assert any(c.finish_reason == "stop" and len(c.token_ids) < 30 for c in completions)
    for c in completions:
        assert not np.isin(c.token_ids[:11], [2, 5, 6, 7, 8]).any()
        # What was sampled had lost the stop tokens; the whole softmax has them.
        assert (c.sampling_logprobs[:11] >= c.full_logprobs[:11]).all()  # type: ignore[index]


def test_tokens_are_told_at_once_and_a_job_can_be_cancelled() -> None:
    engine = engine_of()
    scheduler = engine.scheduler()
    heard: list[tuple[int, int, int]] = []

    def listen(sample: int, index: int, history: History) -> None:
        heard.append((sample, index, history.tokens[index]))
        if len(heard) == 7:
            scheduler.cancel(streamed)

    options = Sampling(max_new_tokens=20, seed=1)
    streamed = Job(prompts()[0], 2, options, on_token=listen)
    other = Job(prompts()[1], 2, options, number=1)
    scheduler.submit(streamed)
    scheduler.submit(other)
    done = [job for _ in range(60) if scheduler.busy for job in scheduler.step()]
    assert done == [other]
    assert not scheduler.busy
    assert not streamed.done
    whole = next(iter(engine.generate([prompts()[0]], 2, options)))
    for sample, index, token in heard:
        assert whole.completions[sample].token_ids[index] == token
    assert len(heard) in (7, 8), "at most the other row of the same step"


def test_closing_the_stream_ends_the_work() -> None:
    engine = engine_of(max_rows=2)
    stream = engine.generate(prompts(), 1, SAMPLING)
    assert len(list(islice(stream, 2))) == 2
    steps = engine.counts.steps
    del stream
    assert engine.counts.steps == steps
    assert len(list(engine.generate(prompts()[:1], 1, SAMPLING))) == 1


def test_training_between_two_groups_is_possible_and_leaves_the_mode_alone() -> None:
    engine = engine_of(max_rows=2)
    model = engine.model
    model.train()
    stream = engine.generate(prompts(), 1, SAMPLING)
    next(stream)
    assert model.training
    assert all(m.training for m in model.modules())
    with model.role("policy"), torch.enable_grad():
        from plaudit.forest.layout import Piece, build_forest

        group = zoo.Maker(2).group(5, [4])
        scores = model(build_forest([Piece(group, 0, (0,))], bos_id=None))
        scores.logprobs_N.sum().backward()
    assert model.model.lm_head.weight.grad is not None  # type: ignore[union-attr]
    assert len(list(stream)) == len(LENGTHS) - 1


def test_the_version_of_the_weights_is_on_every_completion() -> None:
    engine = engine_of()
    engine.sync(None, 12)
    assert {c.weight_version for g in engine.generate(prompts(), 2, SAMPLING) for c in g.completions} == {12}


def test_new_weights_in_the_middle_are_an_error_and_not_a_mixture() -> None:
    engine = engine_of(max_rows=2)
    engine.sync(None, 1)
    stream = engine.generate(prompts(), 1, SAMPLING)
    next(stream)
    engine.sync(None, 2)
    with pytest.raises(EngineError, match=r"PL606.*version 1 to 2"):
        list(stream)
    assert {c.weight_version for g in engine.generate(prompts(), 1, SAMPLING) for c in g.completions} == {2}


@pytest.mark.parametrize("amount", [0.0, -1.0, float("inf"), float("nan")])
def test_an_amount_of_memory_that_is_none_is_refused(amount: float) -> None:
    for make in (engine_of, lambda **more: open_engine(zoo.build("llama"), Words(), **more)):
        with pytest.raises(ConfigError, match=r"PL102.*cache_gib"):
            make(cache_gib=amount)


def test_a_budget_too_small_for_the_check_is_still_the_users() -> None:
    """The engine is compared with the scores in a cache of its own: little memory does not make it another engine."""
    bytes_per_token = engine_of().limits.bytes_per_token
    engine, _ = open_engine(zoo.build("llama"), Words(), cache_gib=5 * bytes_per_token / 2**30)
    assert isinstance(engine, LocalEngine)
    with pytest.raises(EngineError, match=r"PL602(.|\n)*cache_gib"):
        engine.generate(prompts()[:1], 1, SAMPLING)


def test_rows_of_several_cohorts_meet_the_head_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cohorts of a few rows each, as a server has them: one product with the head for all of a step's rows."""
    engine = engine_of()
    scheduler = engine.scheduler()
    heights: list[int] = []
    original = engine._forward.logits
    monkeypatch.setattr(engine._forward, "logits", lambda hidden: (heights.append(len(hidden)), original(hidden))[1])
    jobs = engine.jobs(prompts()[:5], 1, Sampling(max_new_tokens=20, min_new_tokens=20, seed=1, temperature=0))
    for job in jobs:  # one after the other, each in a cohort of its own
        scheduler.submit(job)
        scheduler.step()
    assert len(scheduler._cohorts) == 5
    heights.clear()
    scheduler.step()
    assert heights == [5]
    while scheduler.busy:
        scheduler.step()
    alone = list(
        engine.generate(prompts()[:5], 1, Sampling(max_new_tokens=20, min_new_tokens=20, seed=1, temperature=0))
    )
    assert [j.completions[0].token_ids.tolist() for j in jobs] == [g.completions[0].token_ids.tolist() for g in alone]


def test_a_large_budget_is_not_taken_at_once() -> None:
    engine = engine_of(cache_gib=64.0)
    list(engine.generate(prompts()[:2], 2, Sampling(max_new_tokens=100)))
    assert engine.counts.peak_tokens <= 2 * 12 + 4 * 128


def test_prompts_of_similar_length_share_a_bucket() -> None:
    assert bucket_lengths([100, 90, 71, 60, 30, 29, 2, 1]) == [(0, 3), (3, 6), (6, 8)]
    assert bucket_lengths([7]) == [(0, 1)]
    assert bucket_lengths([1000, 701, 699]) == [(0, 2), (2, 3)]


def test_a_prompt_as_long_as_the_model_is_read_in_by_itself() -> None:
    engine = engine_of(prefill_tokens=16)
    wide = by_prompt(list(engine_of().generate(prompts(), 2, SAMPLING)))
    assert by_prompt(list(engine.generate(prompts(), 2, SAMPLING))) == wide
    (group,) = engine.generate([token_array(zoo.Maker(1).ids(255))], 1, Sampling(max_new_tokens=1))
    assert len(group.completions[0].token_ids) == 1
