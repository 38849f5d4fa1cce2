"""Rollouts as plain values: for checkpoints (exact) and for files that people read and that can be trained on again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from plaudit.rewards.contract import Failure, RewardResult
from plaudit.rewards.scoring import ScoredGroup
from plaudit.types import Completion, Floats, PromptGroup


@dataclass(slots=True)
class Rollout:
    """The answers sampled to the prompts of one batch, with their rewards.

    Attributes:
        number: which batch of the run it is, counted from 0.
        groups: one per prompt, in the order of the prompts; completions of usable groups carry their `reward`.
        scored: the results of each group, in the same order.
        seconds: wall time of sampling and scoring.
        indices: which prompt of the run each group answers; empty for a replay.
        metrics: of everything that was sampled for the batch, name → (sum, count).
        passed: prompt → (answers that passed, answers) of everything that was sampled, for a curriculum.
    """

    number: int
    groups: list[PromptGroup]
    scored: list[ScoredGroup]
    seconds: float = 0.0
    indices: list[int] = field(default_factory=list)
    metrics: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    passed: Mapping[int, tuple[float, int]] = field(default_factory=dict)

    def usable(self) -> list[int]:
        """The groups whose completions all have a reward; the others are left out and counted."""
        return [i for i, found in enumerate(self.scored) if found.usable]


def completion_state(completion: Completion) -> dict[str, Any]:
    """Everything that sampling and scoring gave a completion, in types that torch loads without running code."""
    return {
        "token_ids": torch.from_numpy(completion.token_ids),
        "action_mask": torch.from_numpy(completion.action_mask),
        "sampling_logprobs": _tensor(completion.sampling_logprobs),
        "full_logprobs": _tensor(completion.full_logprobs),
        "finish_reason": completion.finish_reason,
        "weight_version": completion.weight_version,
        "reward": completion.reward,
        "text": completion.text,
        "step_rewards": None if completion.step_rewards is None else [list(s) for s in completion.step_rewards],
    }


def completion_of(state: Mapping[str, Any]) -> Completion:
    """What `completion_state` described."""
    return Completion(
        state["token_ids"].numpy(),
        state["action_mask"].numpy(),
        sampling_logprobs=_array(state["sampling_logprobs"]),
        full_logprobs=_array(state["full_logprobs"]),
        finish_reason=state["finish_reason"],
        weight_version=state["weight_version"],
        reward=state["reward"],
        text=state["text"],
        step_rewards=None if state["step_rewards"] is None else tuple((i, r) for i, r in state["step_rewards"]),
    )


def _tensor(values: Floats | None) -> torch.Tensor | None:
    return None if values is None else torch.from_numpy(values)


def _array(values: torch.Tensor | None) -> Floats | None:
    return None if values is None else values.numpy()


def result_state(result: RewardResult) -> dict[str, Any]:
    """A reward with all that belongs to it."""
    return {
        "value": result.value,
        "error": None if result.error is None else [result.error.kind, result.error.message],
        "parts": dict(result.parts),
        "seconds": result.seconds,
        "note": result.note,
        "attempts": result.attempts,
        "steps": [list(step) for step in result.steps],
        "latents": {name: torch.from_numpy(vector) for name, vector in result.latents.items()},
    }


def result_of(state: Mapping[str, Any]) -> RewardResult:
    """What `result_state` described."""
    error = None if state["error"] is None else Failure(*state["error"])
    steps = tuple((end, reward) for end, reward in state["steps"])
    latents = {name: vector.numpy() for name, vector in state.get("latents", {}).items()}
    return RewardResult(
        state["value"], error, state["parts"], state["seconds"], state["note"], state["attempts"], steps, latents
    )


def rollout_state(rollout: Rollout) -> dict[str, Any]:
    """A rollout without its prompts, which the data gives again."""
    return {
        "number": rollout.number,
        "seconds": rollout.seconds,
        "indices": list(rollout.indices),
        "metrics": {name: list(value) for name, value in rollout.metrics.items()},
        "passed": {index: list(value) for index, value in rollout.passed.items()},
        "completions": [[completion_state(c) for c in g.completions] for g in rollout.groups],
        "results": [[result_state(r) for r in found.results] for found in rollout.scored],
        "greedy": [
            None
            if g.greedy is None or found.greedy is None
            else [completion_state(g.greedy), result_state(found.greedy)]
            for g, found in zip(rollout.groups, rollout.scored, strict=True)
        ],
    }


def rollout_of(state: Mapping[str, Any], prompts: Sequence[PromptGroup]) -> Rollout:
    """What `rollout_state` described, on its prompts."""
    groups = [
        replace(
            prompt,
            completions=[completion_of(c) for c in completions],
            greedy=None if greedy is None else completion_of(greedy[0]),
        )
        for prompt, completions, greedy in zip(prompts, state["completions"], state["greedy"], strict=True)
    ]
    scored = [
        ScoredGroup([result_of(r) for r in results], None if greedy is None else result_of(greedy[1]))
        for results, greedy in zip(state["results"], state["greedy"], strict=True)
    ]
    metrics = {name: (total, count) for name, (total, count) in state["metrics"].items()}
    passed = {index: (right, count) for index, (right, count) in state["passed"].items()}
    return Rollout(state["number"], groups, scored, state["seconds"], list(state["indices"]), metrics, passed)


def columns_state(columns: Mapping[str, Sequence[Sequence[Floats]]]) -> dict[str, Any]:
    """Per-token columns of a batch: name → [group][completion] → [targets]."""
    return {name: [[torch.from_numpy(v) for v in row] for row in rows] for name, rows in columns.items()}


def columns_of(state: Mapping[str, Any]) -> dict[str, list[list[Floats]]]:
    """What `columns_state` described."""
    return {name: [[v.numpy() for v in row] for row in rows] for name, rows in state.items()}
