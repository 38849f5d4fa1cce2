"""Odds Ratio Preference Optimization (Hong et al. 2024, arXiv 2403.07691).

Objective:
    L = NLL(y_w) − λ log σ(lo(y_w) − lo(y_l)) per pair, with the log-odds lo(y) = log P − log(1 − P) and P = exp(S̄), the
    geometric mean of the answer's token probabilities (Eq. 2 to 7). λ is lam. There is no reference.

When:
    A base model and pairs, without a fine-tuning stage before: the likelihood term is that stage, and the odds ratio a
    small penalty on the other style. The paper uses λ = 0.1 (Mistral), 0.2 (Llama 2) and 0.25 (Phi-2).

Deviations:
    The likelihood is a mean over tokens and covers the prompt by default (nll_over=sequence), as in the authors' code
    and in TRL; the formula of the paper has the answer alone (nll_over=completion). The odds are those of the answer in
    both. The mean is over the whole step; a prompt counts once for all its pairs. Log-odds stay finite: a mean log-prob
    above −10⁻⁶ counts as −10⁻⁶. rewards/* are log-odds.

Elsewhere:
    TRL: ORPOTrainer; its beta is λ, lam here, and no inverse temperature. It logs beta × the mean log-prob as rewards.
    LLaMA-Factory: pref_loss=orpo; pref_beta is lam. Its likelihood term is a mean over each answer's own tokens:
    nll_over=completion with nll_aggregation=sequence-mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from plaudit.methods.base import Role, Scores, TrainOn, View
from plaudit.methods.preference.pairs import NllAggregation, PairMethod, Pairs, SeamConfig
from plaudit.types import PromptGroup

if TYPE_CHECKING:
    from torch import Tensor

_LARGEST = -1e-6
"""Mean log-probs are capped here: closer to 0 they are rounding, and the odds infinite."""


class ORPOConfig(SeamConfig):
    """Options of ORPO."""

    lam: Annotated[float, Field(ge=0)] = 0.1
    """Weight λ of the odds-ratio term; 0 leaves the likelihood term alone."""
    nll_over: Literal["sequence", "completion"] = "sequence"
    """What the likelihood term covers: sequence = prompt and chosen answer (the authors' code), completion = the chosen
    answer alone (the paper's formula)."""
    nll_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the likelihood term."""
    nll_aggregation: NllAggregation = "token-mean"
    """token-mean = over all tokens of the step (the authors' code); sequence-mean = per-token mean of each sequence,
    then over pairs; sequence-sum = summed over the sequence, mean over pairs."""

    @model_validator(mode="after")
    def _something_to_do(self) -> ORPOConfig:
        if self.nll_weight == 0 and self.lam == 0:
            raise ValueError("lam and nll_weight are both 0: there is nothing to train")
        if self.nll_weight == 0 and self.nll_over != type(self).model_fields["nll_over"].default:
            raise ValueError("nll_over has no effect while nll_weight is 0")
        return self


def log1mexp(a: Tensor) -> Tensor:
    """log(1 − e^a) for a < 0, exact near 0 and far from it."""
    import torch

    near = a > -math.log(2)
    # Each branch gets an argument that the other one's slope cannot spoil.
    small, large = torch.where(near, a, -1.0), torch.where(near, -1.0, a)
    return torch.where(near, torch.log(-torch.expm1(small)), torch.log1p(-torch.exp(large)))


def log_odds(mean_logprob: Tensor) -> Tensor:
    """log P − log(1 − P) for P = exp(mean log-prob per token). [n] → [n]"""
    capped = mean_logprob.clamp(max=_LARGEST)
    return capped - log1mexp(capped)  # Eq. 3


def odds_ratio_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Odds-ratio term per pair.

    Args:
        chosen, rejected: [pairs] mean log-prob per token of the answer.

    Returns:
        [pairs] −log σ(lo(y_w) − lo(y_l)).
    """
    from torch.nn.functional import softplus

    return softplus(log_odds(rejected) - log_odds(chosen))  # Eq. 7


def prompt_targets(group: PromptGroup) -> int:
    """Prompt tokens that are targets; the first one has nothing before it."""
    return 0 if group.prompt_mask is None else int(group.prompt_mask[1:].sum())


class ORPO(PairMethod):
    """Fine-tuning and preference in one stage, without a reference."""

    name = "orpo"
    title = "Odds Ratio Preference Optimization"
    paper = "arXiv 2403.07691"
    roles: ClassVar[frozenset[Role]] = frozenset({"policy"})
    elsewhere: ClassVar[Mapping[str, str]] = {
        "beta": "`beta` in TRL's ORPO is the weight λ of the odds-ratio term: method.lam here; ORPO has no β",
        "pref_beta": "`pref_beta` of ORPO is the weight λ of the odds-ratio term: method.lam here",
        "alpha": "`alpha` in the authors' code is the weight λ of the odds-ratio term: method.lam here",
        "disable_prompt_loss": "it is method.nll_over=completion here",
    }
    default_learning_rate: ClassVar = {"lora": 5e-5, "full": 5e-6}
    Config = ORPOConfig
    config: ORPOConfig

    @property
    def train_on(self) -> TrainOn:
        return "sequence" if self._prompt_counts else "completion"

    @property
    def _prompt_counts(self) -> bool:
        return self.config.nll_over == "sequence" and self.config.nll_weight > 0

    def coefficients(self) -> Mapping[str, float]:
        return {**super().coefficients(), "loss": self.config.lam}

    def nll_tokens(self, groups: Sequence[PromptGroup]) -> float:
        prompts = sum(prompt_targets(g) for g in groups) if self._prompt_counts else 0
        return super().nll_tokens(groups) + prompts

    def implicit_rewards(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        return log_odds(pairs.mean_chosen), log_odds(pairs.mean_rejected)

    def pair_loss(self, pairs: Pairs) -> Tensor:
        return odds_ratio_loss(pairs.mean_chosen, pairs.mean_rejected)

    def nll_sum(self, scores: Scores, view: View, weight: Tensor) -> Tensor:
        import torch

        answers = super().nll_sum(scores, view, weight)
        if not self._prompt_counts or scores.prompt_logprobs_M is None:
            return answers
        # A piece's prompt belongs to its first pair: its weight, and its mean.
        prompt_P = torch.segment_reduce(
            scores.prompt_logprobs_M, "sum", lengths=view.prompt_lengths_P, initial=0.0, unsafe=True
        )
        pieces_B, first_B = view.piece_of_C[::2], torch.ones_like(weight, dtype=torch.bool)
        first_B[1:] = pieces_B[1:] != pieces_B[:-1]
        prompt_B = prompt_P[pieces_B] * first_B
        if not self._mean_per_answer:
            return answers - (weight * prompt_B).sum()
        chosen, _ = view.pairs(view.sum_C(scores.logprobs_N))  # type: ignore[arg-type]
        lengths, _ = view.pairs(view.lengths_C)
        tokens_B = lengths + view.prompt_lengths_P[pieces_B] * first_B
        return -(weight * (chosen + prompt_B) / tokens_B.clamp(min=1)).sum()
