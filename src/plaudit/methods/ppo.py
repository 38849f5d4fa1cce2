"""Proximal Policy Optimization with a value function, as in RLHF (Schulman et al. 2017, arXiv 1707.06347; Ziegler et
al. 2019, arXiv 1909.08593; Ouyang et al. 2022, arXiv 2203.02155).

Objective:
    L = mean max(−A w, −A clip(w, 1 − ε_low, 1 + ε_high)) + c_v · ½ mean max((V − G)², (clip(V, V_old ± ε_v) − G)²),
    with w = π_θ / π_old per token. A is the generalised advantage of R_t = −β (log π_old − log π_ref), to which the
    answer's score is added on its last token; G = A + V_old is taken before A is whitened. Means are over the tokens of
    the whole optimiser step.

When:
    A reward model or a verifier is there and the answers are to be learned from token by token. It is the only method
    here with a critic, which shares the policy's base as an adapter (LoRA) or is a model of its own. With several
    answers to each prompt and a short run, `grpo` and `rloo` need less.

Deviations:
    Advantages (and rewards, where whiten_rewards is on) are whitened over the whole rollout batch and all processes;
    lm-human-preferences does it within each minibatch of each process. Policy and critic are two sets of weights, each
    with its learning rate and its clipping of the gradient norm. They share no trained weight, so value_weight hardly
    matters to Adam, and critic.learning_rate is what to turn. The value after the last token is 0 also for an answer
    that was cut: truncation counts as an end, and method.truncated says what it costs. Tokens of observations are no
    targets, and returns and advantages skip them.

Elsewhere:
    TRL: PPOTrainer (removed after 1.12): kl_coef is kl_weight, cliprange is clip_low, cliprange_value is value_clip,
    vf_coef is value_weight, num_ppo_epochs is rollout.ppo_epochs, missing_eos_penalty is truncated=subtract with
    truncated_penalty. The score goes to the last token here, not one behind it.
    LLaMA-Factory: stage=ppo (TRL's old trainer); ppo_target is kl_target, reward_model is reward.rewards.
    OpenRLHF: init_kl_coef is kl_weight, kl_target and kl_horizon are the same. verl: adv_estimator=gae.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from plaudit.methods.base import Batch, MethodConfig, MethodState, Role, Scorer, Scores, Statistic, Sums, View
from plaudit.methods.policy.advantages import Array, adaptive_lambda, gae, token_rewards
from plaudit.methods.policy.base import (
    NotNegative,
    PolicyConfig,
    PolicyMethod,
    Positive,
    flat_rows,
    masked_mean,
    targets,
)
from plaudit.methods.policy.kl import adapted
from plaudit.methods.policy.surrogates import aggregate, clipped_value_loss, denominator
from plaudit.runs.metrics import MetricSpec, register
from plaudit.types import Floats, PromptGroup

Share = Annotated[float, Field(ge=0, le=1)]

register(MetricSpec("value/return", "reward", "neutral", "mean return that the critic learns", "value"))


class PPOConfig(PolicyConfig):
    """Options of PPO."""

    kl_controller: Literal["fixed", "adaptive"] = "fixed"
    """adaptive = after each rollout batch β moves so that the KL comes to kl_target."""
    kl_target: Positive = 6.0
    """Nats per answer (the sum over its tokens), for the adaptive controller."""
    kl_horizon: Positive = 10_000.0
    """Answers over which a controller at its limit moves β by a fifth."""
    gamma: Share = 1.0
    """Discount per token."""
    lam: Share = 0.95
    """λ of the advantages."""
    lam_alpha: Positive | None = None
    """Length-adaptive λ = 1 − 1/(this · length) of the advantages, instead of lam (VAPO: 0.05)."""
    value_lam: Share | None = None
    """λ of the returns that the critic learns; default lam (VAPO and VC-PPO: 1)."""
    whiten_rewards: bool = False
    """Rewards of all tokens to standard deviation 1; their mean stays."""
    whiten_advantages: bool = True
    """Advantages of all tokens to mean 0 and standard deviation 1."""
    value_clip: Positive | None = 0.2
    """A value may leave the one at sampling by this before its gradient stops; null switches it off."""
    value_weight: Positive = 0.1
    """c_v."""
    value_pretraining: Annotated[int, Field(ge=0)] = 0
    """Rollout batches at the start from which only the critic learns, on returns with λ = 1 (VC-PPO, VAPO)."""
    nll_weight: NotNegative = 0.0
    """Weight of the negative log-likelihood of good answers (VAPO: 0.1), mean over their tokens."""
    nll_threshold: float = 0.0
    """An answer is good when its reward is above this."""

    @model_validator(mode="after")
    def _ppo_has_effect(self) -> PPOConfig:
        for name in ("kl_horizon", "kl_target"):
            if self.kl_controller == "fixed" and self.is_changed(name):
                raise ValueError(f"{name} has no effect without kl_controller: adaptive")
        if self.kl_controller == "adaptive" and self.kl_weight == 0:
            raise ValueError("kl_controller: adaptive cannot move a kl_weight of 0: it multiplies")
        if self.lam_alpha is not None and self.is_changed("lam") and self.value_lam is not None:
            raise ValueError("lam has no effect beside lam_alpha and value_lam")
        if self.is_changed("nll_threshold") and self.nll_weight == 0:
            raise ValueError("nll_threshold has no effect without nll_weight")
        return self


class PPOState(MethodState):
    """What goes from batch to batch."""

    kl_weight: float | None = None
    """β in force; None before the first batch"""
    batches: int = 0
    """rollout batches done"""
    kl: float = 0.0
    """nats per answer in the present batch"""
    answers: int = 0
    """of the present batch"""


class PPO(PolicyMethod):
    """PPO-RLHF with a critic."""

    name = "ppo"
    title = "Proximal Policy Optimization"
    paper = "arXiv 1707.06347"
    roles: ClassVar[frozenset[Role]] = frozenset({"policy", "reference", "critic"})
    needs_stats: ClassVar[Mapping[Role, frozenset[Statistic]]] = {
        "policy": frozenset({"logprob", "entropy"}),
        "critic": frozenset({"value"}),
    }
    terms: ClassVar[Mapping[str, Role]] = {"policy": "policy", "entropy": "policy", "nll": "policy", "value": "critic"}
    elsewhere: ClassVar[Mapping[str, str]] = {
        **PolicyMethod.elsewhere,
        "cliprange_value": "it is method.value_clip here",
        "vf_coef": "it is method.value_weight here",
        "value_model_path": "use critic.path, or critic.start=reward",
        "target": "the KL that an adaptive controller aims at is method.kl_target here",
    }
    default_ppo_epochs = 4
    default_learning_rate: ClassVar[Mapping[Literal["lora", "full"], float]] = {"lora": 3e-5, "full": 3e-6}
    Config: ClassVar[type[MethodConfig]] = PPOConfig
    State: ClassVar[type[MethodState]] = PPOState
    config: PPOConfig
    state: PPOState

    def rests(self) -> int:
        """See `Method`."""
        return self.config.value_pretraining

    @property
    def pretraining(self) -> bool:
        """Whether only the critic learns from the present batch."""
        return self.state.batches < self.config.value_pretraining

    @property
    def beta(self) -> float:
        """β in force."""
        return self.config.kl_weight if self.state.kl_weight is None else self.state.kl_weight

    def coefficients(self) -> Mapping[str, float]:
        """See `Method`."""
        config, learns = self.config, 0.0 if self.pretraining else 1.0
        return {
            "policy": learns,
            "entropy": -config.entropy_weight * learns,
            "nll": config.nll_weight * learns,
            "value": config.value_weight,
        }

    def weights(self, groups: Sequence[PromptGroup]) -> Mapping[str, float]:
        """See `Method`. The value term is a mean over tokens whatever the policy's aggregation."""
        counted = [self.counted(g) for g in groups]
        good = [
            [keeps and self.is_good(c.reward) for c, keeps in zip(g.completions, row, strict=True)]
            for g, row in zip(groups, counted, strict=True)
        ]
        return {
            **super().weights(groups),
            "value": denominator(groups, counted, "token-mean", 1),
            "nll": denominator(groups, good, "token-mean", 1),
        }

    def is_good(self, reward: float | None) -> bool:
        """Whether an answer's likelihood is raised."""
        return self.config.nll_weight > 0 and reward is not None and reward > self.config.nll_threshold

    def without_signal(self, batch: Batch) -> frozenset[int]:
        """None: the critic learns from every answer."""
        return frozenset()

    # -- a batch

    def prepare_batch(self, batch: Batch, score: Scorer, rng: np.random.Generator) -> None:
        """Token rewards, values, returns and advantages."""
        config = self.config
        gaps = self.read_batch(batch, score)
        values = [[np.asarray(s.values, dtype=np.float64) for s in row] for row in score("critic", batch.groups)]
        rewards = self.token_rewards(batch, gaps)
        if config.whiten_rewards:
            rewards = self.whitened(batch, rewards, shift_mean=False)
        value_lam = 1.0 if self.pretraining else config.lam if config.value_lam is None else config.value_lam
        gains = _each(rewards, values, lambda r, v: gae(r, v, config.gamma, self.lam_of(len(r))))
        # Returns are taken before anything is whitened: the critic learns rewards, not z-scores.
        returns = _each(rewards, values, lambda r, v: gae(r, v, config.gamma, value_lam) + v)
        if config.whiten_advantages:
            gains = self.whitened(batch, gains)
        self.set_advantages(batch, gains)
        batch.per_token |= {"old_value": _floats(values), "return": _floats(returns)}
        if config.nll_weight > 0:
            batch.per_completion["good"] = [
                np.array(
                    [keeps and self.is_good(c.reward) for c, keeps in zip(g.completions, self.counted(g), strict=True)],
                    dtype=np.float32,
                )
                for g in batch.groups
            ]
        self._note(batch, values, returns)

    def lam_of(self, length: int) -> float:
        """λ of an answer's advantages."""
        config = self.config
        return config.lam if config.lam_alpha is None else adaptive_lambda(length, config.lam_alpha)

    def token_rewards(self, batch: Batch, gaps: list[list[Array]] | None) -> list[list[Array]]:
        """[G][K] → [T] R_t, with the score on the true last token."""
        scores, beta = self.scores(batch), self.beta
        none = [[np.zeros(targets(c)) for c in g.completions] for g in batch.groups]
        return [
            [token_rewards(s, beta * k1) for s, k1 in zip(row, own, strict=True)]
            for row, own in zip(scores, gaps if gaps is not None else none, strict=True)
        ]

    def _note(self, batch: Batch, values: list[list[Array]], returns: list[list[Array]]) -> None:
        v, g = (np.concatenate(list(flat_rows(rows))) for rows in (values, returns))
        spread = float(g.var())
        if spread > 0:
            batch.metrics["value/explained_variance"] = (1.0 - float((g - v).var()) / spread, 1.0)
        batch.record("value/mean", v)
        batch.record("value/return", g)
        batch.metrics["kl_coefficient"] = (self.beta, 1.0)
        total, answers = batch.metrics.get("kl", (0.0, float(sum(len(x.completions) for x in batch.groups))))
        self.state.kl, self.state.answers = total / max(answers, 1.0), int(answers)

    def after_rollout(self) -> None:
        """The controller acts after the steps, so that the new β is for the next batch; while only the critic learns
        the policy is the reference, and β stays."""
        config, state = self.config, self.state
        if config.kl_controller == "adaptive" and not self.pretraining:
            state.kl_weight = adapted(self.beta, state.kl, config.kl_target, state.answers, config.kl_horizon)
        state.batches += 1

    # -- the loss

    def loss(self, role: Role, scores: Scores, view: View) -> Sums:
        """See `Method`."""
        if role == "policy":
            sums = super().loss(role, scores, view)
            if "good" in view.columns:
                assert scores.logprobs_N is not None
                sums.terms["nll"] = -(scores.logprobs_N * view.expand_N(view.columns["good"])).sum()
            return sums
        assert scores.values_N is not None
        columns, kept = view.columns, self.kept_N(view)
        value, cut = clipped_value_loss(
            scores.values_N, columns["old_value"], columns["return"], self.config.value_clip
        )
        return Sums({"value": aggregate(value * kept, view, "token-mean")}, {"value/clipfrac": masked_mean(cut, kept)})


def _each(rewards: list[list[Array]], values: list[list[Array]], work: object) -> list[list[Array]]:
    assert callable(work)
    return [[work(r, v) for r, v in zip(a, b, strict=True)] for a, b in zip(rewards, values, strict=True)]


def _floats(rows: list[list[Array]]) -> list[list[Floats]]:
    return [[v.astype(np.float32) for v in row] for row in rows]
