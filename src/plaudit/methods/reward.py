"""Reward model from comparisons (Ouyang et al. 2022, arXiv 2203.02155; Bradley–Terry 1952).

Objective:
    L = −1/n · Σ log σ(r_w − r_l) per prompt, over the n pairs of its K ranked answers of which one is better (Eq. 1);
    r is a linear head on the answer's last token. All pairs of a prompt are one element of the batch: shuffled as
    examples of their own they are seen K − 1 times per epoch, and the model over-fits. For two answers L is the
    Bradley–Terry loss. A row's own `preference` p (a vote share, a judge's probability) makes it
    −p log σ(Δ) − (1−p) log σ(−Δ) with Δ = r_w − r_l, and its `margin` m takes Δ − m for Δ (Touvron et al. 2023,
    arXiv 2307.09288, Eq. 2). centre_weight adds η · (r_w + r_l)², the mean over the same pairs (Eisenstein et al. 2023,
    arXiv 2312.09244): only differences are learned otherwise, and the scores' level is free.
    loss = plackett_luce is −Σ_k (r_k − log Σ_{j worse or equal to k} e^{r_j}): the likelihood of the whole order.

When:
    Before reinforcement learning, best-of-N or filtering. One epoch; a second one mostly memorises. Watch the held-out
    rewards/accuracies (people agree with each other in 73 to 77 % of such pairs), and compare the accuracy where the
    better answer is the shorter one. A margin is in units of the score: one that was written in another scale (the
    difference of another model's rewards) rescales the reward in silence. It helped on well-separated pairs in Llama 2
    and was dropped in Llama 3.

Deviations:
    Tied answers make no pair, and n is the number of pairs that are left instead of K(K−1)/2; ties = half keeps them as
    pairs with target ½. A prompt with no pair left adds 0 to the sum and counts in the mean, so that the denominator of
    a step never depends on how its answers were judged. Plackett–Luce has no 1/n (a prompt's order is one observation);
    a tied answer is compared with the worse ones alone. AdamW without the paper's schedule: train.schedule=cosine with
    min_lr_ratio=0.1 is the paper's, train.groups_per_step=64 its batch.

Elsewhere:
    TRL: RewardTrainer; center_rewards_coefficient is centre_weight. It knows pairs only, whose `margin` column is used
    as here. Its pad token may be EOS, and the score is then read at the token before.
    LLaMA-Factory: stage: rm, which has no options of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from plaudit.methods.base import Method, MethodConfig, Role, RowField, Scores, Statistic, Sums, View, mean_of
from plaudit.types import PromptGroup

if TYPE_CHECKING:
    from torch import Tensor

Ties = Literal["drop", "half"]


class RewardConfig(MethodConfig):
    """Options of reward models."""

    loss: Literal["bradley_terry", "plackett_luce"] = "bradley_terry"
    """bradley_terry = all pairs of a prompt; plackett_luce = the likelihood of its whole order."""
    ties: Ties = "drop"
    """drop = tied answers make no pair; half = they are a pair whose answers should score alike (target ½)."""
    margin_scale: Annotated[float, Field(ge=0)] = 1.0
    """Factor on the rows' margins, where they have any; it brings them to the scale of the scores. 0 = ignore them."""
    centre_weight: Annotated[float, Field(ge=0)] = 0.0
    """η: weight of (r_w + r_l)², which draws the scores' level to 0 (the paper uses 0.01)."""

    @model_validator(mode="after")
    def _ties_have_a_meaning(self) -> RewardConfig:
        if self.loss == "plackett_luce" and self.ties == "half":
            raise ValueError("plackett_luce is the likelihood of an order and has no target ½: leave ties=drop")
        return self


def bradley_terry_loss(
    better: Tensor, worse: Tensor, preference: float | Tensor = 1.0, margin: float | Tensor = 0.0
) -> Tensor:
    """Loss per pair.

    Args:
        better, worse: [pairs] scores.
        preference: p, probability that the first is the better one; one or [pairs].
        margin: m, by how much it should be better; one or [pairs].

    Returns:
        [pairs] −p log σ(Δ − m) − (1−p) log σ(m − Δ) with Δ = better − worse.
    """
    from torch.nn.functional import softplus

    z = better - worse - margin
    return preference * softplus(-z) + (1 - preference) * softplus(z)  # Eq. 1 of 2203.02155; m: Eq. 2 of 2307.09288


def centring_loss(better: Tensor, worse: Tensor) -> Tensor:
    """[pairs] (r_w + r_l)² (arXiv 2312.09244, section 2)."""
    return (better + worse) ** 2


def plackett_luce_loss(scores: Tensor, worse: Tensor) -> Tensor:
    """Loss per answer: of being chosen before all that are worse.

    Args:
        scores: [C].
        worse: [C, C] bool, True where the answer of the column is worse than the row's (and of the same prompt).

    Returns:
        [C] log(e^{r_k} + Σ_{j worse} e^{r_j}) − r_k; 0 where nothing is worse. Summed over a prompt's answers without
        ties it is −log of the order's probability (Luce 1959; Plackett 1975).
    """
    import torch

    rivals = worse | torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    return scores.expand(len(scores), -1).masked_fill(~rivals, -torch.inf).logsumexp(1) - scores


def comparisons(group: PromptGroup, ties: Ties) -> list[tuple[int, int, float]]:
    """The pairs that count: (better, worse, probability of that), as indices of the group's completions.

    The row's own preference is about its two answers; a longer ranking has none.
    """
    ranks = []
    for completion in group.completions:
        assert completion.rank is not None, "a ranking's completions have ranks"
        ranks.append(completion.rank)
    found: list[tuple[int, int, float]] = []
    if len(ranks) == 2 and group.preference is not None:
        found = [(0, 1, group.preference)]
    else:
        for i, j in combinations(range(len(ranks)), 2):
            first, second = (i, j) if ranks[i] <= ranks[j] else (j, i)
            found.append((first, second, 0.5 if ranks[i] == ranks[j] else 1.0))
    return [pair for pair in found if pair[2] != 0.5 or ties == "half"]


@dataclass(frozen=True, slots=True)
class _Pairs:
    """The pairs of a view. Every tensor is [E]."""

    better: Tensor
    """place in [C]"""
    worse: Tensor
    preference: Tensor
    margin: Tensor
    share: Tensor
    """weight of the row / number of its pairs"""
    ordered: Tensor
    """whether it takes part in an order of more than two answers"""


class Reward(Method):
    """A score for every answer, learned from rankings or pairs."""

    name = "reward"
    title = "Reward model"
    paper = "arXiv 2203.02155"
    data_kind = "ranking"
    roles: ClassVar[frozenset[Role]] = frozenset({"reward"})
    unit = "group"
    needs_stats: ClassVar[Mapping[Role, frozenset[Statistic]]] = {"reward": frozenset({"last"})}
    terms: ClassVar[Mapping[str, Role]] = {"loss": "reward", "centre": "reward"}
    reads: ClassVar[frozenset[RowField]] = frozenset({"preference", "margin"})
    default_learning_rate: ClassVar = {"lora": 1e-4, "full": 9e-6}
    elsewhere: ClassVar[Mapping[str, str]] = {
        "center_rewards_coefficient": "TRL's center_rewards_coefficient is centre_weight here",
        "beta": "a reward model has no β; the scale of its scores is learned",
        "label_smoothing": "give rows a preference (for example 0.9) instead",
    }
    Config = RewardConfig
    config: RewardConfig

    def __init__(self, config: MethodConfig | None = None) -> None:
        super().__init__(config)
        self._notes: list[str] = []

    def observe(self, groups: Sequence[PromptGroup]) -> None:
        config, notes = self.config, []
        silent = sum(not comparisons(g, config.ties) for g in groups)
        if silent:
            notes.append(f"{silent} of {len(groups)} prompts have no pair of which one is better: they add nothing")
        tied = sum(len(comparisons(g, "half")) - len(comparisons(g, "drop")) for g in groups)
        if tied:
            notes.append(
                f"{tied} pairs are tied: {'left out' if config.ties == 'drop' else 'their target is one half'}"
            )
        margins = [g.margin for g in groups if g.margin and len(g.completions) == 2]
        if margins and config.margin_scale:
            mean = config.margin_scale * sum(margins) / len(margins)
            notes.append(
                f"{len(margins)} rows have a margin ({mean:.2g} on average after margin_scale): the better answer must "
                "win by it, so it has to be in the scale of the scores"
            )
        longer = sum(len(g.completions) > 2 and (bool(g.margin) or g.preference is not None) for g in groups)
        if longer:
            notes.append(f"{longer} rankings of more than two answers have a margin or preference, which is not used")
        self._notes = notes

    def notes(self) -> list[str]:
        return self._notes

    def coefficients(self) -> Mapping[str, float]:
        return {"loss": 1.0, "centre": self.config.centre_weight}

    def weights(self, groups: Sequence[PromptGroup]) -> Mapping[str, float]:
        return dict.fromkeys(self.terms, float(len(groups)))

    def _pairs(self, view: View, device: object) -> _Pairs:
        from plaudit.forest.transfer import to_device

        start, rows, places = 0, [], []
        for group in view.groups:
            found = comparisons(group, self.config.ties)
            two = len(group.completions) == 2
            margin = self.config.margin_scale * (group.margin or 0.0) if two else 0.0
            share = group.completions[0].weight / max(len(found), 1)
            places += [(start + better, start + worse) for better, worse, _ in found]
            rows += [(p, margin if p != 0.5 else 0.0, share, 0.0 if two else 1.0) for _, _, p in found]
            start += len(group.completions)
        assert start == len(view.keys), "a ranking is never split"
        place = to_device(np.array(places, np.int64).reshape(-1, 2), device)
        value = to_device(np.array(rows, np.float32).reshape(-1, 4), device)
        return _Pairs(place[:, 0], place[:, 1], value[:, 0], value[:, 1], value[:, 2], value[:, 3] > 0)

    def loss(self, role: Role, scores: Scores, view: View) -> Sums:
        r = scores.last_C
        assert r is not None
        pairs = self._pairs(view, r.device)
        better, worse = r[pairs.better], r[pairs.worse]
        losses = bradley_terry_loss(better, worse, pairs.preference, pairs.margin)
        if self.config.loss == "plackett_luce":
            # An order of two answers is a pair, with all that a pair's row may say.
            losses = losses.masked_fill(pairs.ordered, 0.0)
        terms = {"loss": (pairs.share * losses).sum()}
        if self.config.loss == "plackett_luce":
            terms["loss"] = terms["loss"] + self._orders(r, pairs, view)
        if self.config.centre_weight:
            terms["centre"] = (pairs.share * centring_loss(better, worse)).sum()
        return Sums(terms, _metrics(r, better, worse, pairs.preference))

    def _orders(self, r: Tensor, pairs: _Pairs, view: View) -> Tensor:
        """Sum of the orders of more than two answers."""
        import torch

        is_worse = torch.zeros(len(r), len(r), dtype=torch.bool, device=r.device)
        is_worse[pairs.better, pairs.worse] = pairs.ordered
        return (view.weights_C * plackett_luce_loss(r, is_worse)).sum()


def _metrics(r: Tensor, better: Tensor, worse: Tensor, preference: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Over the pairs of which one is better; those with target ½ have no winner to get right."""
    decided = (preference != 0.5).float()
    chosen, rejected, count = better.detach().float(), worse.detach().float(), decided.sum()
    margin = chosen - rejected
    by_pair = {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": margin,
        "rewards/accuracies": (margin > 0).float() + 0.5 * (margin == 0).float(),
    }
    found = {name: ((values * decided).sum(), count) for name, values in by_pair.items()}
    return found | {"rewards/mean": mean_of(r)}
