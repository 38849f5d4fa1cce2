"""REINFORCE++ (Hu et al. 2025, arXiv 2501.03262), plain and with the prompt's mean as a baseline.

Objective:
    L = mean max(−A w, −A clip(w, 1 − ε_low, 1 + ε_high)) over tokens. Plain: A_t = r − β Σ_{i≥t} (log π_old −
    log π_ref)_i, then normalised to mean 0 and standard deviation 1 over all tokens of the rollout batch.
    baseline=group: A = r minus the mean of the answers to the prompt, normalised the same way, and β k2 in the loss.

When:
    One answer to each prompt is enough, without a critic: the normalisation over the whole batch is the baseline, so
    rollout batches should be large. With several answers to each prompt, baseline=group removes how hard a prompt is.

Deviations:
    None that are known. The statistics are those of the rollout batch over all processes.

Elsewhere:
    OpenRLHF: advantage_estimator=reinforce and reinforce_baseline; init_kl_coef is kl_weight.
    verl: adv_estimator=reinforce_plus_plus and reinforce_plus_plus_baseline. TRL and LLaMA-Factory have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from pydantic import model_validator

from plaudit.errors import TrainingError
from plaudit.methods.base import Batch, MethodConfig, Role, Scorer
from plaudit.methods.policy.advantages import Array, reward_to_go, token_rewards
from plaudit.methods.policy.base import NotNegative, PolicyConfig, PolicyMethod, broadcast, targets
from plaudit.methods.policy.kl import Estimator
from plaudit.types import PromptGroup


class ReinforcePPConfig(PolicyConfig):
    """Options of REINFORCE++."""

    kl_weight: NotNegative = 0.01
    """β: in the reward, or with baseline=group in the loss."""
    baseline: Literal["none", "group"] = "none"
    """group = rewards are taken against the mean of the answers to their prompt first; it needs two of them."""

    @model_validator(mode="after")
    def _reinforce_pp_has_effect(self) -> ReinforcePPConfig:
        alone = self.baseline == "group" or self.kl_weight == 0  # no KL beside it in the reward
        if self.reward_scale == "batch" and alone and not self.moves_scaled:
            raise ValueError("reward_scale: batch has no effect: advantages are normalised over the batch anyway")
        return self


class ReinforcePP(PolicyMethod):
    """Advantages normalised over the whole rollout batch."""

    name = "reinforce_pp"
    title = "REINFORCE++"
    paper = "arXiv 2501.03262"
    terms: ClassVar[Mapping[str, Role]] = {"policy": "policy", "entropy": "policy", "kl": "policy"}
    default_learning_rate: ClassVar[Mapping[Literal["lora", "full"], float]] = {"lora": 2e-5, "full": 1e-6}
    Config: ClassVar[type[MethodConfig]] = ReinforcePPConfig
    config: ReinforcePPConfig

    @property
    def estimator(self) -> Estimator:  # type: ignore[override]  # depends on an option here
        """k1 in the reward, k2 in the loss."""
        return "k2" if self.config.baseline == "group" else "k1"

    def coefficients(self) -> Mapping[str, float]:
        """See `Method`."""
        return {**super().coefficients(), "kl": self.config.kl_weight if self.config.baseline == "group" else 0.0}

    def teaches(self, group: PromptGroup) -> bool:
        """See `Method`: without the group's mean an answer is compared with the whole batch."""
        return self.config.baseline == "none" or self.tells_apart(group)

    def prepare_batch(self, batch: Batch, score: Scorer, rng: np.random.Generator) -> None:
        """Advantages of tokens, normalised over the batch.

        Raises:
            TrainingError: PL405, baseline=group with one answer to a prompt, which is its own baseline.
        """
        gaps = self.read_batch(batch, score)
        scores = self.scores(batch)
        rows = (
            self._against_group(batch, scores) if self.config.baseline == "group" else self._plain(batch, scores, gaps)
        )
        self.set_advantages(batch, self.whitened(batch, rows))

    def _plain(self, batch: Batch, scores: list[Array], gaps: list[list[Array]] | None) -> list[list[Array]]:
        beta = self.config.kl_weight
        none = [[np.zeros(targets(c)) for c in g.completions] for g in batch.groups]
        return [
            [reward_to_go(token_rewards(s, beta * k1)) for s, k1 in zip(row, own, strict=True)]
            for row, own in zip(scores, gaps if gaps is not None else none, strict=True)
        ]

    def _against_group(self, batch: Batch, scores: list[Array]) -> list[list[Array]]:
        if any(len(row) < 2 for row in scores):
            raise TrainingError(
                "PL405",
                "baseline=group compares the answers to a prompt, and there is one to each",
                where="rollout.completions_per_prompt",
                mend="set it to 2 or more, or use method.baseline=none",
            )
        return broadcast(batch.groups, [row - row.mean() for row in scores])
