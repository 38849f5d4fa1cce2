"""Rejection sampling and fine-tuning: RAFT (Dong et al. 2023, arXiv 2304.06767), STaR (Zelikman et al. 2022).

Objective:
    Answers are sampled from the policy and get rewards; some are kept, and the loss is their mean negative log-prob per
    token, over the whole optimiser step. select=best takes the best answer to each prompt (RAFT, best-of-n, Llama 2);
    select=above all that reach `threshold` (STaR, arXiv 2203.14465, with a verifier; ReST, arXiv 2308.08998), and
    select=top the share `share` of all answers of the rollout batch.

When:
    The simplest thing that learns from a reward: only likelihood of answers that the policy gives already, no
    reference, no ratio. A verifier suits it. Nothing holds the policy near its start, so a learned reward is soon
    exploited: few steps, and a look at eval/reward and the samples. It learns nothing from bad answers and sharpens
    quickly: watch completions/distinct. select=top leaves hard prompts out: their best answers lose against those to
    easy ones.

Deviations:
    Log-probs are at the sampling temperature, as everywhere in the online loop. Answers of earlier batches are not kept
    (Llama 2 keeps the best of all iterations). STaR starts each round from the base model and shows right answers to
    problems that were failed; here the policy goes on, and what is failed is left out. ReST raises its threshold from
    pass to pass; here it stays.

Elsewhere:
    TRL: no trainer (BestOfNSampler samples without training). LLaMA-Factory: not offered. OpenRLHF: rejection sampling
    by its scripts (best of n, then SFT). LMFlow: its RAFT is select=top with share=1/n, or select=best.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from plaudit.methods.base import MethodConfig, Role, Scores, Sums, View, mean_of
from plaudit.methods.preference.answers import AnswersConfig, ChoosingMethod
from plaudit.runs.metrics import MetricSpec, register
from plaudit.types import Completion, PromptGroup

register(
    MetricSpec("kept/share", "share", "neutral", "share of the sampled answers that are trained on", "rollout"),
    MetricSpec("kept/none", "share", "lower", "share of the sampled prompts of whose answers none is kept", "rollout"),
    MetricSpec("kept/reward", "", "higher", "mean reward of the answers that are trained on", "rollout"),
)


class RAFTConfig(AnswersConfig):
    """Options of rejection sampling."""

    select: Literal["best", "above", "top"] = "best"
    """best = the best answer to each prompt; above = all that reach threshold; top = the best of the whole rollout
    batch, whatever prompt they answer."""
    threshold: float | None = None
    """Least reward of an answer that is kept; needed by above, and a further condition for best and top."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share of the rollout batch's answers that select=top keeps."""
    aggregation: Literal["token-mean", "sequence-mean"] = "token-mean"
    """token-mean weighs every token of the step alike, sequence-mean every answer alike."""

    @model_validator(mode="after")
    def _select_has_effect(self) -> RAFTConfig:
        if self.select == "above" and self.threshold is None:
            raise ValueError("select: above needs threshold: without one every answer is kept")
        if self.is_changed("share") and self.select != "top":
            raise ValueError("share has no effect without select: top")
        return self


class RAFT(ChoosingMethod):
    """Fine-tuning on the policy's own best answers."""

    name = "raft"
    title = "Rejection sampling fine-tuning (RAFT, best-of-n, STaR)"
    paper = "arXiv 2304.06767"
    default_completions = 8
    elsewhere: ClassVar[Mapping[str, str]] = {
        "top_reward_percentage": "LMFlow's top_reward_percentage is method.share here, with method.select=top",
    }
    default_learning_rate: ClassVar[Mapping[Literal["lora", "full"], float]] = {"lora": 1e-4, "full": 1e-5}
    Config: ClassVar[type[MethodConfig]] = RAFTConfig
    config: RAFTConfig

    # -- which answers are kept

    def choose(self, groups: Sequence[PromptGroup], rng: np.random.Generator) -> list[PromptGroup]:
        """See `Method`: the prompts with kept answers, and these alone."""
        rows = [self._passing(group) for group in groups]
        if self.config.select == "top":
            wanted = max(1, round(self.config.share * sum(len(g.completions) for g in groups)))
            rows = self._top(rows, wanted, rng)
        elif self.config.select == "best":
            rows = [[row[int(np.argmax(self.worths(row)))]] if row else [] for row in rows]
        return [replace(group, completions=row) for group, row in zip(groups, rows, strict=True) if row]

    def _passing(self, group: PromptGroup) -> list[Completion]:
        least = self.config.threshold
        return [c for c in self.eligible(group) if least is None or self.worth(c) >= least]

    def _top(self, rows: Sequence[list[Completion]], count: int, rng: np.random.Generator) -> list[list[Completion]]:
        """The best answers of all rows; which of equal ones is drawn, or prompts in front would win."""
        every = [c for row in rows for c in row]
        drawn = rng.permutation(len(every))
        order = drawn[np.argsort(-self.worths(every)[drawn], kind="stable")]
        kept = {id(every[int(i)]) for i in order[:count]}
        return [[c for c in row if id(c) in kept] for row in rows]

    def teaches(self, group: PromptGroup) -> bool:
        """See `Method`: whether an answer reaches the threshold."""
        return bool(self._passing(group))

    def choice_metrics(
        self, sampled: Sequence[PromptGroup], chosen: Sequence[PromptGroup]
    ) -> Mapping[str, tuple[float, float]]:
        """See `Method`."""
        rewards = [c.reward or 0.0 for group in chosen for c in group.completions]
        return {
            "kept/share": (float(len(rewards)), float(sum(len(g.completions) for g in sampled))),
            "kept/none": (float(len(sampled) - len(chosen)), float(len(sampled))),
            "kept/reward": (float(sum(rewards)), float(len(rewards))),
        }

    # -- the loss

    def weights(self, groups: Sequence[PromptGroup]) -> Mapping[str, float]:
        """See `Method`: trained tokens, or answers."""
        answers = [c for group in groups for c in group.completions]
        if self.config.aggregation == "sequence-mean":
            return {"loss": float(len(answers))}
        return {"loss": float(sum(int(c.action_mask.sum()) for c in answers))}

    def loss(self, role: Role, scores: Scores, view: View) -> Sums:
        """See `Method`."""
        assert scores.logprobs_N is not None
        metrics = {"logps/mean": mean_of(scores.logprobs_N)}
        each = view.sum_C if self.config.aggregation == "token-mean" else view.mean_C
        return Sums({"loss": -(view.weights_C * each(scores.logprobs_N)).sum()}, metrics)

    def derived(self, metrics: Mapping[str, float]) -> Mapping[str, float]:
        """See `Method`."""
        return {"perplexity": math.exp(min(-metrics["logps/mean"], 700.0))} if "logps/mean" in metrics else {}
