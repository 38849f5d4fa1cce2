"""The sampler against transformers' processors and against the probabilities themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from plaudit.engines import Sampling
from plaudit.engines.local import sampler
from plaudit.engines.local.sampler import Drawn, Rules, draw
from plaudit.engines.local.uniforms import completion_key, uniforms
from plaudit.types import token_array

OPTIONS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.7},
    {"top_k": 7},
    {"top_p": 0.8},
    {"min_p": 0.05},
    {"repetition_penalty": 1.3},
    {"temperature": 1.4, "top_k": 40, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 0.8},
    {"temperature": 2.5, "top_p": 0.97},
]


def logits_of(rows: int, vocabulary: int, seed: int = 0, spread: float = 2.0) -> Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * spread


def by_transformers(logits: Tensor, seen: Tensor, options: dict[str, Any]) -> Tensor:
    """Log-probs after transformers' own processors, in its order."""
    made: list[Any] = []
    if "repetition_penalty" in options:
        made.append(RepetitionPenaltyLogitsProcessor(options["repetition_penalty"]))
    if "temperature" in options:
        made.append(TemperatureLogitsWarper(options["temperature"]))
    if "top_k" in options:
        made.append(TopKLogitsWarper(options["top_k"]))
    if "top_p" in options:
        made.append(TopPLogitsWarper(options["top_p"]))
    if "min_p" in options:
        made.append(MinPLogitsWarper(options["min_p"]))
    return LogitsProcessorList(made)(seen, logits.clone()).log_softmax(-1)  # type: ignore[no-any-return]


def drawn_at(logits: Tensor, options: list[dict[str, Any]], uniform: Tensor, seen: Tensor) -> Drawn:
    rules = Rules.of([Sampling(**o) for o in options], logits.shape[1], logits.device)
    return draw(logits.clone(), rules, uniform, seen_RL=seen)


@pytest.mark.parametrize("vocabulary", [97, 256, 1500])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_logprobs_are_those_of_transformers_processors(options: dict[str, Any], vocabulary: int) -> None:
    rows = 200
    logits, seen = logits_of(rows, vocabulary), torch.randint(0, vocabulary, (rows, 9))
    uniform = torch.rand(rows, dtype=torch.float64)
    found = drawn_at(logits, [options] * rows, uniform, seen)
    expected = by_transformers(logits, seen, options).gather(1, found.tokens_R[:, None]).squeeze(1)
    assert torch.isfinite(expected).all(), "a token was drawn that transformers would have filtered out"
    torch.testing.assert_close(found.sampling_R, expected, atol=2e-5, rtol=0)
    whole = (logits / options.get("temperature", 1.0)).log_softmax(-1)
    torch.testing.assert_close(found.full_R, whole.gather(1, found.tokens_R[:, None]).squeeze(1), atol=2e-5, rtol=0)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_chi_square(options: dict[str, Any]) -> None:
    """Frequencies of 40 000 draws from one distribution, cells of at least ten expected draws."""
    draws, vocabulary = 40_000, 60
    logits, seen = logits_of(1, vocabulary, seed=4), torch.tensor([[3, 5, 8]])
    uniform = torch.from_numpy(uniforms(np.full(draws, 77, np.uint64), np.arange(draws, dtype=np.uint64)))
    found = drawn_at(logits.expand(draws, -1), [options] * draws, uniform, seen.expand(draws, -1))
    counts = torch.bincount(found.tokens_R, minlength=vocabulary).double()
    expected = by_transformers(logits, seen, options)[0].exp().double() * draws
    assert counts[expected == 0].sum() == 0
    common = expected >= 10
    rest = [(counts[~common].sum(), expected[~common].sum())]
    cells = [*zip(counts[common], expected[common], strict=True), *(r for r in rest if r[1] > 0)]
    statistic = sum(float((c - e) ** 2 / e) for c, e in cells)
    freedom = len(cells) - 1
    # Wilson–Hilferty: the cube root of χ²/df is nearly normal. Four standard deviations.
    z = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / np.sqrt(2 / (9 * freedom))
    assert abs(z) < 4, (statistic, freedom)


def test_rows_keep_to_their_own_rules() -> None:
    """All options in one batch, and greedy rows among them: the same as each alone."""
    vocabulary, rows = 700, len(OPTIONS) + 1
    logits, seen = logits_of(rows, vocabulary), torch.randint(0, vocabulary, (rows, 9))
    uniform = torch.rand(rows, dtype=torch.float64)
    options = [*OPTIONS, {"temperature": 0}]
    together = drawn_at(logits, options, uniform, seen)
    for i, own in enumerate(options):
        alone = drawn_at(logits[i : i + 1], [own], uniform[i : i + 1], seen[i : i + 1])
        assert alone.tokens_R[0] == together.tokens_R[i], own
        torch.testing.assert_close(alone.full_R[0], together.full_R[i], atol=1e-5, rtol=0)
        if own != {"temperature": 0}:
            torch.testing.assert_close(alone.sampling_R[0], together.sampling_R[i], atol=1e-5, rtol=0)
    assert together.tokens_R[-1] == logits[-1].argmax()


def test_greedy_takes_the_most_likely_after_the_penalty() -> None:
    logits = torch.tensor([[1.0, 4.0, 3.9, -5.0]])
    found = drawn_at(
        logits, [{"temperature": 0, "repetition_penalty": 1.1}], torch.tensor([0.5]).double(), torch.tensor([[1]])
    )
    assert found.tokens_R.tolist() == [2]
    assert found.full_R.item() == pytest.approx(logits.log_softmax(-1)[0, 2].item(), abs=1e-6)


def test_forbidden_tokens_are_never_drawn() -> None:
    logits = logits_of(500, 30)
    forbidden = torch.zeros(500, 30, dtype=torch.bool)
    forbidden[:, [2, 9, 17]] = True
    for options in ({}, {"top_p": 0.9}, {"temperature": 0}, {"min_p": 0.1}):
        rules = Rules.of([Sampling(**options)] * 500, 30, logits.device)
        found = draw(logits.clone(), rules, torch.rand(500, dtype=torch.float64), forbidden_RV=forbidden)
        assert not torch.isin(found.tokens_R, torch.tensor([2, 9, 17])).any(), options


@pytest.mark.parametrize("uniform", [0.0, 1 - 2.0**-53])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_ends_of_the_unit_interval(options: dict[str, Any], uniform: float) -> None:
    """Never a token without probability, also where the head and the tail of the vocabulary have none."""
    logits = logits_of(64, 1000, spread=3)
    logits[:, :300] = -torch.inf
    logits[:, -300:] = -torch.inf
    seen = torch.full((64, 1), 500)
    found = drawn_at(logits, [options] * 64, torch.full((64,), uniform, dtype=torch.float64), seen)
    assert torch.isfinite(found.sampling_R).all()
    assert ((found.tokens_R >= 300) & (found.tokens_R < 700)).all()


def test_a_top_p_set_larger_than_the_candidates_is_found_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "_CANDIDATES", 8)
    logits, seen = logits_of(300, 400, spread=0.1), torch.zeros(300, 1, dtype=torch.long)
    uniform = torch.rand(300, dtype=torch.float64)
    found = drawn_at(logits, [{"top_p": 0.5}] * 300, uniform, seen)
    expected = by_transformers(logits, seen, {"top_p": 0.5}).gather(1, found.tokens_R[:, None]).squeeze(1)
    torch.testing.assert_close(found.sampling_R, expected, atol=2e-5, rtol=0)
    rank = (logits > logits.gather(1, found.tokens_R[:, None])).sum(-1)
    assert rank.max() > 100, "draws reach far beyond the candidates"


def test_numbers_belong_to_keys_and_are_uniform() -> None:
    keys = np.array([completion_key(0, token_array([1, 2, 3]), 0, k) for k in range(2000)], dtype=np.uint64)
    assert len(set(keys.tolist())) == 2000
    index = np.arange(2000, dtype=np.uint64)
    by_key, by_index = uniforms(keys, np.zeros_like(keys)), uniforms(np.full_like(keys, keys[0]), index)
    for values in (by_key, by_index):
        assert 0 <= values.min() < 0.01
        assert 0.99 < values.max() < 1
        cells = np.bincount((values * 20).astype(int), minlength=20)
        assert ((cells - 100) ** 2 / 100).sum() < 50  # χ² with 19 degrees of freedom: beyond 0.9999
        assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 0.09
    assert uniforms(keys[::-1], index)[::-1][5] == uniforms(keys[5:6], index[-6:-5])[0]
    # SplitMix64 of the state 0: the published first outputs.
    first = uniforms(np.zeros(3, np.uint64), np.arange(3, dtype=np.uint64)) * 2.0**53
    assert first.astype(np.uint64).tolist() == [
        x >> 11 for x in (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F)
    ]


@pytest.mark.parametrize(
    "other", [(1, [1, 2], 0, 0), (0, [1, 3], 0, 0), (0, [1, 2], 1, 0), (0, [1, 2], 0, 1), (0, [1], 0, 0)]
)
def test_the_key_depends_on_everything_that_names_a_completion(other: tuple[int, list[int], int, int]) -> None:
    seed, prompt, occurrence, sample = other
    assert completion_key(seed, token_array(prompt), occurrence, sample) != completion_key(0, token_array([1, 2]), 0, 0)
