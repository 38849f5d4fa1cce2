"""What every engine promises, against the model's own plain forward, one unpadded sequence at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from plaudit.engines import RolloutEngine, Sampling
from plaudit.engines.base import weights_checksum
from plaudit.engines.hf import HFEngine
from plaudit.engines.local import LocalEngine
from plaudit.errors import EngineError
from plaudit.models.forest_model import ForestModel
from plaudit.types import Completion, PromptGroup, Tokens, token_array
from tests.engines.tiny import END, VOCAB, tiny_llama

Build = Callable[..., RolloutEngine]


def hf(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, rows: int = 32) -> RolloutEngine:
    return HFEngine(model, tokenizer, batch_size=rows)


def local(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, rows: int = 32) -> RolloutEngine:
    return LocalEngine(ForestModel(model), tokenizer, max_rows=rows)


@pytest.fixture(params=[hf, local], ids=["hf", "local"])
def build(request: pytest.FixtureRequest) -> Build:
    """An engine for at most `rows` completions at a time."""
    chosen: Build = request.param
    return chosen


PROMPTS = [token_array(p) for p in ([0, 5, 9, 3], [0, 7], [0, 11, 12, 13, 14, 15, 16, 17, 18], [0, 30, 31])]


def plain_logits(model: LlamaForCausalLM, prompt: Tokens, completion: Tokens) -> torch.Tensor:
    """[L, V] the logits that predict each completion token."""
    ids = torch.from_numpy(np.concatenate([prompt, completion]).astype(np.int64))[None]
    plain = LlamaForCausalLM(deepcopy(model.config))
    plain.load_state_dict(model.state_dict())
    plain.to(model.dtype).set_attn_implementation("eager")
    plain.eval()
    with torch.no_grad():
        logits: torch.Tensor = plain(input_ids=ids).logits[0, len(prompt) - 1 : -1]
    return logits.float()


def pick(logprobs: torch.Tensor, completion: Tokens) -> np.ndarray[Any, Any]:
    targets = torch.from_numpy(completion.astype(np.int64))
    return logprobs.gather(1, targets[:, None]).squeeze(1).numpy()


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, None, 1.0), (0.7, None, 1.0), (1.3, 5, 1.0), (0.8, 12, 0.6)]
)
def test_sampling_logprobs_are_those_of_the_sampled_distribution(
    build: Build,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    temperature: float,
    top_k: int | None,
    top_p: float,
) -> None:
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, max_new_tokens=12, seed=3)
    for group in build(model, tokenizer, 5).generate(PROMPTS, 3, sampling):
        for completion in group.completions:
            logits = plain_logits(model, group.prompt_ids, completion.token_ids) / temperature
            if top_k is not None:
                logits[logits < logits.topk(top_k).values[:, -1:]] = -torch.inf
            if top_p < 1:
                values, order = logits.sort(descending=True)
                cumulative = values.softmax(-1).cumsum(-1) - values.softmax(-1)
                outside = torch.zeros_like(logits, dtype=torch.bool).scatter(1, order, cumulative >= top_p)
                logits[outside] = -torch.inf
            expected = pick(logits.log_softmax(-1), completion.token_ids)
            assert completion.sampling_logprobs is not None
            np.testing.assert_allclose(completion.sampling_logprobs, expected, atol=1e-5)


def test_token_frequencies_follow_the_tempered_softmax(
    build: Build, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = build(model, tokenizer, 2000)
    (group,) = engine.generate(PROMPTS[:1], 4000, Sampling(temperature=2.0, max_new_tokens=1, seed=1))
    drawn = np.bincount([c.token_ids[0] for c in group.completions], minlength=VOCAB) / 4000
    expected = (plain_logits(model, PROMPTS[0], token_array([2]))[0] / 2.0).softmax(-1).numpy()
    assert np.abs(drawn - expected).max() < 4 * np.sqrt(0.25 / 4000)


def test_scoring_probe_matches_the_plain_forward(
    build: Build, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = build(model, tokenizer, 3)
    groups = list(engine.generate(PROMPTS, 2, Sampling(max_new_tokens=10, seed=5)))
    for group, scored in zip(groups, engine.score(groups, temperature=0.7), strict=True):
        for completion, logprobs in zip(group.completions, scored, strict=True):
            logits = plain_logits(model, group.prompt_ids, completion.token_ids) / 0.7
            np.testing.assert_allclose(logprobs, pick(logits.log_softmax(-1), completion.token_ids), atol=1e-5)


def test_padding_does_not_change_greedy_answers(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    sampling = Sampling(temperature=0, max_new_tokens=8)
    together = list(HFEngine(model, tokenizer, batch_size=4).generate(PROMPTS, 1, sampling))
    for prompt, group in zip(PROMPTS, together, strict=True):
        (alone,) = HFEngine(model, tokenizer).generate([prompt], 1, sampling)
        assert group.completions[0].token_ids.tolist() == alone.completions[0].token_ids.tolist()
        assert group.completions[0].sampling_logprobs is None
        by_argmax = plain_logits(model, prompt, group.completions[0].token_ids).argmax(-1)
        assert by_argmax.tolist() == group.completions[0].token_ids.tolist()


def test_groups_come_in_the_order_of_the_prompts(
    build: Build, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    groups = list(build(model, tokenizer, 3).generate(PROMPTS, 4, Sampling(max_new_tokens=4)))
    assert [g.prompt_ids.tolist() for g in groups] == [p.tolist() for p in PROMPTS]
    assert [len(g.completions) for g in groups] == [4] * 4
    assert groups[0].prompt_text is not None


def test_end_token_is_kept_and_named(build: Build, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    sampling = Sampling(temperature=3.0, max_new_tokens=20, stop_token_ids=(4, 6), seed=2)
    groups = build(model, tokenizer).generate(PROMPTS, 16, sampling)
    completions = [c for g in groups for c in g.completions]
    stopped = [c for c in completions if c.finish_reason == "stop"]
    assert {int(c.token_ids[-1]) for c in stopped} == {END, 4, 6}
    for c in completions:
        assert not np.isin(c.token_ids[:-1], (END, 4, 6)).any()
        assert c.action_mask.all()
        if c.finish_reason == "length":
            assert len(c.token_ids) == 20


def test_seed_decides_and_global_state_is_left_alone(
    build: Build, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    def draw(seed: int) -> list[list[int]]:
        groups = build(model, tokenizer, 3).generate(PROMPTS, 2, Sampling(max_new_tokens=6, seed=seed))
        return [c.token_ids.tolist() for g in groups for c in g.completions]

    torch.manual_seed(123)
    before = torch.get_rng_state()
    first = draw(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert draw(1) == first
    assert draw(2) != first


def test_training_mode_is_restored_module_by_module(
    build: Build, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    model.train()
    model.model.layers[0].eval()
    before = [m.training for m in model.modules()]
    seen = []
    model.model.layers[1].register_forward_hook(
        lambda module, *_: seen.append((module.training, torch.is_grad_enabled()))
    )
    list(build(model, tokenizer).generate(PROMPTS, 1, Sampling(max_new_tokens=2)))
    assert set(seen) == {(False, False)}
    assert [m.training for m in model.modules()] == before


def test_generation_context_is_entered_for_sampling_and_scoring(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    model.config._attn_implementation = "eager"
    seen: list[str] = []

    @contextmanager
    def native() -> Iterator[None]:
        model.config._attn_implementation = "sdpa"
        yield
        model.config._attn_implementation = "eager"

    model.model.layers[0].register_forward_hook(lambda *_: seen.append(str(model.config._attn_implementation)))
    engine = HFEngine(model, tokenizer, generation_context=native)
    engine.score(list(engine.generate(PROMPTS[:1], 1, Sampling(max_new_tokens=3))))
    assert set(seen) == {"sdpa"}
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize("tied", [True, False])
def test_sync_takes_over_weights_and_proves_it(build: Build, tokenizer: PreTrainedTokenizerFast, tied: bool) -> None:
    trainer, served = tiny_llama(1, tied=tied), tiny_llama(2, tied=tied).to(torch.bfloat16)
    engine: RolloutEngine = build(served, tokenizer)
    weights = dict(trainer.named_parameters())
    assert engine.sync(None, 0) != weights_checksum(weights, torch.bfloat16)
    assert engine.sync(weights, 7) == weights_checksum(weights, torch.bfloat16)
    (group,) = engine.generate(PROMPTS[:1], 1, Sampling(temperature=0, max_new_tokens=4))
    assert group.completions[0].weight_version == 7
    trainer.to(torch.bfloat16)
    expected = plain_logits(trainer, PROMPTS[0], group.completions[0].token_ids).argmax(-1)
    assert expected.tolist() == group.completions[0].token_ids.tolist()


def test_checksum_sees_one_changed_bit_and_a_swapped_name() -> None:
    weights = {"a": torch.zeros(3), "b": torch.ones(3)}
    changed = {"a": torch.tensor([0.0, 0.0, -0.0]), "b": torch.ones(3)}
    swapped = {"b": torch.zeros(3), "a": torch.ones(3)}
    assert len({weights_checksum(w) for w in (weights, changed, swapped)}) == 3
    assert weights_checksum(weights) == weights_checksum(dict(reversed(weights.items())))


def test_sync_refuses_weights_of_another_model(
    build: Build, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = build(model, tokenizer)
    weights = dict(model.named_parameters())
    for bad in (
        {k: v for k, v in weights.items() if "norm" not in k},
        weights | {"extra.weight": torch.zeros(1)},
        weights | {"model.norm.weight": torch.zeros(5)},
    ):
        with pytest.raises(EngineError, match="PL603"):
            engine.sync(bad, 1)


def test_prompts_that_cannot_be_generated_from_are_refused_at_the_call(
    build: Build, tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = build(tiny_llama(positions=16), tokenizer)
    with pytest.raises(EngineError, match=r"PL602(.|\n)*prompt 1"):
        engine.generate([PROMPTS[1], PROMPTS[2]], 1, Sampling(max_new_tokens=8))
    with pytest.raises(EngineError, match=r"PL602(.|\n)*empty"):
        engine.generate([token_array([])], 1, Sampling(max_new_tokens=8))


def test_scoring_refuses_what_it_cannot_score(
    build: Build, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    long = token_array([0] * 65)
    group = PromptGroup(long, [Completion(token_array([2]), np.ones(1, dtype=np.bool_))])
    with pytest.raises(EngineError, match="PL602"):
        build(model, tokenizer).score([group])


def test_nan_weights_are_an_error_and_not_an_answer(
    build: Build, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    with torch.no_grad():
        model.model.norm.weight[0] = torch.nan
    with pytest.raises(EngineError, match="PL601"):
        list(build(model, tokenizer).generate(PROMPTS, 1, Sampling(max_new_tokens=2)))


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -1},
        {"temperature": 1e-9},
        {"repetition_penalty": 1e-9},
        {"top_p": 0},
        {"top_k": 0},
        {"max_new_tokens": 0},
        {"topp": 0.9},
    ],
    ids=str,
)
def test_sampling_refuses_impossible_and_unknown_options(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Sampling(**bad)


def test_generate_refuses_what_it_does_not_have(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(EngineError, match=r"PL604.* has no stop[\s\S]*leave it out"):
        list(hf(model, tokenizer).generate(PROMPTS, 1, Sampling(max_new_tokens=4, stop=("a",))))
