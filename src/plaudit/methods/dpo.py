"""Direct Preference Optimization (Rafailov et al. 2023, arXiv 2305.18290).

Label smoothing is the conservative variant, cDPO (Mitchell 2023, "A note on DPO with noisy preferences", Eq. 3).

Deviations from the paper: AdamW instead of RMSprop; otherwise none. Log-probabilities are summed over the completion,
its end-of-turn token included, and the log-ratio is taken token by token before summing, which avoids the
cancellation of two large sums.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from plaudit.methods.base import Batch, Method, MethodConfig, Role, Scorer, Scores, Sums, View, mean_of
from plaudit.types import PromptGroup

if TYPE_CHECKING:
    from torch import Tensor


class DPOConfig(MethodConfig):
    """Options of DPO."""

    beta: Annotated[float, Field(gt=0)] = 0.1
    """Strength of the KL constraint; smaller lets the policy move further from the reference."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Assumed probability that a label is flipped (cDPO)."""


def dpo_loss(chosen_ratio: Tensor, rejected_ratio: Tensor, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """Loss per pair.

    Args:
        chosen_ratio, rejected_ratio: [pairs] log π(y|x) − log π_ref(y|x), summed over tokens, in nats.
        beta: β of Eq. 7.
        label_smoothing: ε of cDPO; 0 gives DPO.

    Returns:
        [pairs] −(1−ε) log σ(β h) − ε log σ(−β h), with h the difference of the two ratios.
    """
    from torch.nn.functional import softplus

    z = beta * (chosen_ratio - rejected_ratio)
    return (1 - label_smoothing) * softplus(-z) + label_smoothing * softplus(z)  # Eq. 7 of 2305.18290; cDPO Eq. 3


class DPO(Method):
    """Pairs of a chosen and a rejected answer; the reference is the starting state."""

    name = "dpo"
    title = "Direct Preference Optimization"
    paper = "arXiv 2305.18290"
    data_kind = "preference"
    roles: ClassVar[frozenset[Role]] = frozenset({"policy", "reference"})
    unit = "pair"
    at_start: ClassVar[Mapping[str, float]] = {"rewards/chosen": 0.0, "rewards/rejected": 0.0}
    default_learning_rate: ClassVar = {"lora": 5e-5, "full": 1e-6}
    Config = DPOConfig
    config: DPOConfig

    def prepare_batch(self, batch: Batch, score: Scorer, rng: np.random.Generator) -> None:
        scored = score("reference", batch.groups)
        batch.per_token["reference"] = [[c.logprobs for c in group if c.logprobs is not None] for group in scored]

    def weights(self, groups: Sequence[PromptGroup]) -> Mapping[str, float]:
        return {"loss": float(sum(len(g.completions) // 2 for g in groups))}

    def loss(self, role: Role, scores: Scores, view: View) -> Sums:
        assert scores.logprobs_N is not None
        ratio = view.sum_C(scores.logprobs_N - view.columns["reference"])
        chosen, rejected = view.pairs(ratio)
        losses = dpo_loss(chosen, rejected, self.config.beta, self.config.label_smoothing)
        weight, _ = view.pairs(view.weights_C)
        beta, margin = self.config.beta, chosen.detach() - rejected.detach()
        logps = view.pairs(view.sum_C(scores.logprobs_N.detach()))
        return Sums(
            {"loss": (weight * losses).sum()},
            {
                "rewards/chosen": mean_of(beta * chosen),
                "rewards/rejected": mean_of(beta * rejected),
                "rewards/margins": mean_of(beta * margin),
                # A tie counts one half, so the policy that equals its reference scores 0.5 and not 0 or 1.
                "rewards/accuracies": mean_of((margin > 0).float() + 0.5 * (margin == 0).float()),
                "logps/chosen": mean_of(logps[0]),
                "logps/rejected": mean_of(logps[1]),
            },
        )
