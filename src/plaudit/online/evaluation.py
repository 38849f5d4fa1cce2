"""The reward of the policy's answers to held-out prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from plaudit.errors import RewardError
from plaudit.online.gold import GoldWatch
from plaudit.online.sampling import PolicySampler
from plaudit.online.scoring import RewardScorer, with_rewards
from plaudit.online.watch import rollout_metrics, sample_rows
from plaudit.rewards.scoring import ScoredGroup
from plaudit.train.parallel import World
from plaudit.types import PromptGroup

_PART = 2


@dataclass(slots=True)
class HeldOutRewards:
    """Samples answers to held-out prompts and scores them.

    Args:
        prompts: may be empty, when nobody evaluates.
        shown: sample rows of each evaluation.
        threshold, task_column: see `rollout_metrics`.
        gold: scores the answers too; nobody trains on that.

    Attributes:
        rows: those of the last one.
    """

    prompts: Sequence[PromptGroup]
    sampler: PolicySampler | None
    scorer: RewardScorer | None
    world: World
    tokenizer: Any
    shown: int = 3
    threshold: float | None = None
    task_column: str | None = None
    gold: GoldWatch | None = None
    rows: Sequence[Mapping[str, Any]] = field(default_factory=list)

    def measure(self, step: int, *, part: bool = False) -> dict[str, float]:
        """See `plaudit.train.evaluation.Evaluation`.

        Raises:
            RewardError: PL706, before anything is trained, where no answer at all has a reward.
        """
        prompts = self.prompts[:_PART] if part else self.prompts
        pairs = self.world.together(lambda: self._answered(prompts))
        groups = [with_rewards(group, scored, self.tokenizer) for group, scored, _ in pairs]
        scored = [found for _, found, _ in pairs]
        if part or step == 0:
            self._refuse_if_all_failed(scored)
        metrics = rollout_metrics(groups, scored, threshold=self.threshold, task_column=self.task_column)
        # The same prompts in the same places every time: what changes is the policy.
        self.rows = sample_rows(groups[: self.shown], scored[: self.shown], self.shown, self.tokenizer)
        found = {name: total / count for name, (total, count) in metrics.items() if count}
        if self.gold is not None:
            found |= self.gold.metrics(scored, [gold for *_, gold in pairs if gold is not None], part=part)
        return found

    def _refuse_if_all_failed(self, scored: Sequence[ScoredGroup]) -> None:
        failures = [result.error for group in scored for result in group.results]
        if failures and None not in failures:
            raise RewardError(
                "PL706",
                f"none of the {len(failures)} answers to held-out prompts that were scored has a reward; the last one: "
                f"{failures[-1]}",
                where="data.eval",
                mend="mend the rows, or what scores: `plaudit score` shows the failure of every row",
            )

    def _answered(self, prompts: Sequence[PromptGroup]) -> list[tuple[PromptGroup, ScoredGroup, ScoredGroup | None]]:
        assert self.sampler is not None
        assert self.scorer is not None
        count = -(-len(prompts) // self.world.size)
        pairs = list(self.scorer.score(self.sampler.evaluate(prompts), count))
        golden = [None] * len(pairs) if self.gold is None else self.gold.score([group for group, _ in pairs])
        return [(group, scored, gold) for (group, scored), gold in zip(pairs, golden, strict=True)]
