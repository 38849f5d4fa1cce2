"""From logits to tokens and their log-probs.

Tokens are drawn by inverse cumulative distribution from one uniform number per row: a single pass over the
vocabulary, where drawing an exponential or Gumbel variate per entry was measured to cost more than a quarter of the
whole generation of a small model.

Shapes: R rows, V vocabulary, K kept candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from plaudit.engines.base import Sampling
from plaudit.engines.local.jobs import Report

_BLOCK = 256  # entries of the vocabulary that are summed together before the cumulative sum
_CANDIDATES = 512  # the most likely tokens that top_p looks at first; rows that need more are sorted whole


@dataclass(frozen=True, slots=True)
class Rules:
    """The sampling options of R rows as tensors; None where no row uses the option."""

    temperature_R: Tensor
    """1 for greedy rows"""
    greedy_R: Tensor | None
    top_k_R: Tensor | None
    """V for rows without a limit"""
    top_p_R: Tensor | None
    min_p_R: Tensor | None
    penalty_R: Tensor | None
    tempered: bool
    """whether any temperature is not 1"""
    all_greedy: bool
    all_ranked: bool
    """whether every row has top_k or top_p. Known on the host, so that no step waits for the device to ask; rows that
    are taken out keep the answers of all."""
    candidates: int
    """the most likely tokens that are looked at first"""

    @classmethod
    def of(cls, samplings: Sequence[Sampling], vocabulary: int, device: torch.device) -> Rules:
        """One entry per row."""

        def column(values: list[float], neutral: float, dtype: torch.dtype = torch.float32) -> Tensor | None:
            if all(v == neutral for v in values):
                return None
            return torch.tensor(values, dtype=dtype, device=device)

        temperatures = [s.temperature or 1.0 for s in samplings]
        greedy = [s.temperature == 0 for s in samplings]
        return cls(
            temperature_R=torch.tensor(temperatures, device=device),
            greedy_R=torch.tensor(greedy, device=device) if any(greedy) else None,
            top_k_R=column([min(s.top_k or vocabulary, vocabulary) for s in samplings], vocabulary, torch.long),
            top_p_R=column([s.top_p for s in samplings], 1.0),
            min_p_R=column([s.min_p for s in samplings], 0.0),
            penalty_R=column([s.repetition_penalty for s in samplings], 1.0),
            tempered=any(t != 1 for t in temperatures),
            all_greedy=all(greedy),
            all_ranked=all(s.top_p < 1 or (s.top_k or vocabulary) < vocabulary for s in samplings),
            candidates=min(vocabulary, max([_CANDIDATES, *(s.top_k for s in samplings if s.top_k is not None)])),
        )

    def rows(self, index: Tensor | slice) -> Rules:
        """The rules of some of the rows."""

        def part(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[index]

        return replace(
            self,
            temperature_R=self.temperature_R[index],
            greedy_R=part(self.greedy_R),
            top_k_R=part(self.top_k_R),
            top_p_R=part(self.top_p_R),
            min_p_R=part(self.min_p_R),
            penalty_R=part(self.penalty_R),
        )


@dataclass(frozen=True, slots=True)
class Drawn:
    """What was drawn for R rows."""

    tokens_R: Tensor
    """[R] int64"""
    sampling_R: Tensor
    """[R] log-prob under the distribution that was sampled, nats"""
    full_R: Tensor
    """[R] log-prob under the whole softmax at the same temperature, without penalty and filters, nats"""


@dataclass(frozen=True, slots=True)
class Likely:
    """What the logits of R rows say by themselves, kept from before a draw changes them."""

    logits_RV: Tensor
    lse_R: Tensor

    @classmethod
    def of(cls, logits_RV: Tensor) -> Likely:
        """Takes a copy."""
        return cls(logits_RV.clone(), torch.logsumexp(logits_RV, -1))

    def reports(self, tokens_R: Tensor, count: int) -> list[Report]:
        """Each row's token with the `count` most likely ones."""
        own = _pick(self.logits_RV, tokens_R) - self.lse_R
        top = torch.topk(self.logits_RV, min(count, self.logits_RV.shape[1]))
        values = (top.values - self.lse_R[:, None]).tolist()
        return [Report(*found) for found in zip(own.tolist(), top.indices.tolist(), values, strict=True)]


def draw(
    logits_RV: Tensor,
    rules: Rules,
    uniform_R: Tensor,
    *,
    seen_RL: Tensor | None = None,
    forbidden_RV: Tensor | None = None,
) -> Drawn:
    """Draw one token per row.

    Args:
        logits_RV: fp32, as the model's head gives them; overwritten.
        uniform_R: fp64 in [0, 1).
        seen_RL: token ids that occurred so far, padded with any of them; needed where a row has a penalty.
        forbidden_RV: tokens that must not be drawn now (stop tokens before the minimum length).

    Returns:
        Tokens and their log-probs. A row whose logits are NaN gives NaN log-probs.
    """
    logits = logits_RV.div_(rules.temperature_R[:, None]) if rules.tempered else logits_RV
    changed = rules.penalty_R is not None or forbidden_RV is not None
    # Greedy rows and rows with filters need the log-sum-exp alone; plain rows get it from their draw.
    filtered = rules.top_k_R is not None or rules.top_p_R is not None
    if not changed and not filtered and rules.min_p_R is None and not rules.all_greedy:
        return _draw_plain(logits, rules, uniform_R)
    full_lse_R = torch.logsumexp(logits, -1)
    processed = logits
    if changed:
        processed = logits.clone()
        if rules.penalty_R is not None:
            assert seen_RL is not None
            _penalise(processed, seen_RL, rules.penalty_R)
        if forbidden_RV is not None:
            processed.masked_fill_(forbidden_RV, -torch.inf)
    if rules.all_greedy:
        best = processed.max(-1)
        return Drawn(best.indices, torch.zeros_like(full_lse_R), _pick(logits, best.indices) - full_lse_R)
    found = _draw_by_kind(processed, rules, uniform_R) if filtered else _draw_above(processed, rules, uniform_R)
    return Drawn(found.tokens_R, found.sampling_R, _pick(logits, found.tokens_R) - full_lse_R)


def _pick(values_RV: Tensor, tokens_R: Tensor) -> Tensor:
    return values_RV.gather(1, tokens_R[:, None]).squeeze(1)


def _penalise(logits_RV: Tensor, seen_RL: Tensor, penalty_R: Tensor) -> None:
    """In place; it commutes with the division by the temperature, which keeps signs."""
    scores = logits_RV.gather(1, seen_RL)
    factor = penalty_R[:, None]
    logits_RV.scatter_(1, seen_RL, torch.where(scores < 0, scores * factor, scores / factor))


def _greedy_instead(tokens_R: Tensor, logits_RV: Tensor, rules: Rules) -> Tensor:
    return tokens_R if rules.greedy_R is None else torch.where(rules.greedy_R, logits_RV.argmax(-1), tokens_R)


def _draw_plain(logits_RV: Tensor, rules: Rules, uniform_R: Tensor) -> Drawn:
    """Softmax sampling; the two log-probs are the same. Finds the block of the vocabulary first, then the token."""
    rows, vocabulary = logits_RV.shape
    blocks = -(-vocabulary // _BLOCK)
    top_R1 = logits_RV.amax(-1, keepdim=True)
    mass = logits_RV.new_zeros(rows, blocks * _BLOCK)
    torch.sub(logits_RV, top_R1, out=mass[:, :vocabulary])
    mass[:, :vocabulary].exp_()
    by_block = mass.view(rows, blocks, _BLOCK)
    ends = by_block.sum(-1).double().cumsum(-1)
    total = ends[:, -1:]
    wanted = uniform_R[:, None] * total
    block = torch.searchsorted(ends, wanted, right=True).clamp_(max=blocks - 1)
    before = torch.where(block > 0, ends.gather(1, (block - 1).clamp(min=0)), 0.0)
    inside = by_block.gather(1, block[:, :, None].expand(-1, -1, _BLOCK)).squeeze(1)
    at = _position(inside, wanted - before)
    tokens = _greedy_instead(block.squeeze(1) * _BLOCK + at, logits_RV, rules)
    logprob = _pick(logits_RV, tokens) - top_R1.squeeze(1) - total.squeeze(1).log().float()
    return Drawn(tokens, logprob, logprob)


def _position(mass_RK: Tensor, wanted_R1: Tensor) -> Tensor:
    """First entry at which the cumulative mass exceeds what is wanted: [R]. Entries without mass are never taken."""
    ends = mass_RK.double().cumsum(-1)
    at = torch.searchsorted(ends, wanted_R1, right=True).squeeze(1)
    # Rounding can leave `wanted` at the very end of the mass: then the last entry that has any.
    index = torch.arange(mass_RK.shape[1], device=mass_RK.device)
    last = torch.where(mass_RK > 0, index, 0).amax(-1)
    return torch.minimum(at, last)


def _draw_by_kind(logits_RV: Tensor, rules: Rules, uniform_R: Tensor) -> Drawn:
    """Rows with top_k or top_p in order of likelihood, the others in that of the vocabulary: which one a row takes must
    not depend on the rows beside it, or the same number would draw another token."""
    if rules.all_ranked:
        return _draw_filtered(logits_RV, rules, uniform_R)
    ranked_R = torch.zeros_like(uniform_R, dtype=torch.bool)
    if rules.top_k_R is not None:
        ranked_R |= rules.top_k_R < logits_RV.shape[1]
    if rules.top_p_R is not None:
        ranked_R |= rules.top_p_R < 1
    tokens_R, sampling_R = torch.empty_like(uniform_R, dtype=torch.long), torch.empty_like(logits_RV[:, 0])
    for index, way in (
        (ranked_R.nonzero().squeeze(1), _draw_filtered),
        ((~ranked_R).nonzero().squeeze(1), _draw_above),
    ):
        if not len(index):
            continue
        part = way(logits_RV[index], rules.rows(index), uniform_R[index])
        tokens_R[index], sampling_R[index] = part.tokens_R, part.sampling_R
    return Drawn(tokens_R, sampling_R, torch.empty_like(sampling_R))


def _draw_above(logits_RV: Tensor, rules: Rules, uniform_R: Tensor) -> Drawn:
    """Every token of the vocabulary is a candidate, less those below min_p."""
    if rules.min_p_R is not None:
        floor = logits_RV.amax(-1, keepdim=True) + rules.min_p_R.log()[:, None]
        logits_RV = logits_RV.masked_fill(logits_RV < floor, -torch.inf)
    return _draw_plain(logits_RV, rules, uniform_R)


def _draw_filtered(logits_RV: Tensor, rules: Rules, uniform_R: Tensor) -> Drawn:
    """top_k, top_p and min_p on the candidates in order of likelihood."""
    vocabulary, needed = logits_RV.shape[1], rules.candidates
    lse_R = torch.logsumexp(logits_RV, -1)
    enough_R, found = _draw_among(logits_RV, lse_R, needed, rules, uniform_R)
    if needed < vocabulary and not bool(enough_R.all()):
        # Rows whose top_p set is larger than the candidates: sorted whole.
        rest = (~enough_R).nonzero().squeeze(1)
        _, whole = _draw_among(logits_RV[rest], lse_R[rest], vocabulary, rules.rows(rest), uniform_R[rest])
        found.tokens_R[rest], found.sampling_R[rest] = whole.tokens_R, whole.sampling_R
    return found


def _draw_among(logits_RV: Tensor, lse_R: Tensor, count: int, rules: Rules, uniform_R: Tensor) -> tuple[Tensor, Drawn]:
    """Draw among the `count` most likely tokens; False in the first result where that may be too few."""
    vocabulary = logits_RV.shape[1]
    top = torch.topk(logits_RV, count)
    mass_RK = torch.exp((top.values - lse_R[:, None]).double())
    complete_R = torch.full_like(lse_R, count >= vocabulary, dtype=torch.bool)
    if rules.greedy_R is not None:
        complete_R = complete_R | rules.greedy_R
    if rules.top_k_R is not None:
        rank = torch.arange(count, device=mass_RK.device)
        mass_RK = mass_RK.masked_fill(rank >= rules.top_k_R[:, None], 0.0)
        complete_R = complete_R | (rules.top_k_R <= count)
    if rules.top_p_R is not None:
        whole_R1 = torch.where(complete_R, mass_RK.sum(-1), 1.0)[:, None]
        before = (mass_RK.cumsum(-1) - mass_RK) / whole_R1
        limit_R1 = rules.top_p_R.double()[:, None]
        complete_R = complete_R | (mass_RK.sum(-1) >= rules.top_p_R.double()) & (rules.top_p_R < 1)
        mass_RK = torch.where((before < limit_R1) | (limit_R1 >= 1), mass_RK, 0.0)
    if rules.min_p_R is not None:
        mass_RK = torch.where(mass_RK < mass_RK[:, :1] * rules.min_p_R.double()[:, None], 0.0, mass_RK)
    total_R1 = mass_RK.sum(-1, keepdim=True)
    at = _position(mass_RK, uniform_R[:, None] * total_R1)
    if rules.greedy_R is not None:
        at = torch.where(rules.greedy_R, 0, at)
    tokens = top.indices.gather(1, at[:, None]).squeeze(1)
    kept = mass_RK.gather(1, at[:, None]).log().squeeze(1) - total_R1.log().squeeze(1)
    return complete_R, Drawn(tokens, kept.float(), torch.empty_like(lse_R))
