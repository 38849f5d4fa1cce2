"""Makes rollouts: answers from an engine or a file, and their rewards; with dynamic sampling until a batch is full."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from plaudit.config.schema import RolloutSection
from plaudit.methods.base import Method
from plaudit.online.files import Replay
from plaudit.online.passes import Totals
from plaudit.online.prompts import Request, outcomes
from plaudit.online.records import Rollout
from plaudit.online.sampling import PolicySampler, share_of
from plaudit.online.scoring import RewardScorer, with_rewards
from plaudit.online.watch import rollout_metrics
from plaudit.rewards.scoring import ScoredGroup
from plaudit.train.interrupt import StepAbandoned
from plaudit.train.parallel import World
from plaudit.types import PromptGroup

Pairs = list[tuple[PromptGroup, ScoredGroup]]


@dataclass(slots=True)
class RolloutMaker:
    """Makes rollouts: from an engine and rewards, or from a file.

    Args:
        world: every process makes its share; all have the whole afterwards.
        options: dynamic sampling, thresholds, tasks.
        method: says whether answers teach something, and whether it wants the greedy one too.
        prompts: all prompts of the run.
        tokenizer: finds where judged steps end.
        sampler: None for a replay.
        scorer: None where the file's rewards are used.
        stopped: asked between two steps of generation and while rewards are awaited.
    """

    world: World
    options: RolloutSection
    method: Method
    prompts: Sequence[PromptGroup]
    tokenizer: Any
    sampler: PolicySampler | None
    scorer: RewardScorer | None
    replay: Replay | None = None
    stopped: Callable[[], bool] = lambda: False

    def make(self, request: Request, version: int) -> Rollout:
        """The rollout of a batch.

        Raises:
            StepAbandoned: after a signal. PlauditError: from engine or reward, on every process. In both cases no
                failure of the batch has been counted: whoever makes it again counts it once.
        """
        before = None if self.scorer is None else self.scorer.scoring.state()
        try:
            return self._made(request, version)
        except Exception:
            if self.scorer is not None and before is not None:
                self.scorer.scoring.restore(before)
            raise

    def _made(self, request: Request, version: int) -> Rollout:
        start = time.perf_counter()
        if self.replay is not None:
            pairs = self._replayed(self.replay.rollouts[request.number])
            metrics = self._metrics(pairs)
            indices: list[int] = []
            passed: dict[int, tuple[float, int]] = {}
        else:
            sampling = _Batch(self, request, version)
            kept = sampling.fill()
            pairs, indices = [(group, scored) for _, group, scored in kept], [i for i, *_ in kept]
            metrics = self._metrics([(group, scored) for _, group, scored in sampling.every]) | sampling.metrics()
            passed = self._passed(sampling.every)
        groups, scored = [group for group, _ in pairs], [found for _, found in pairs]
        return Rollout(request.number, groups, scored, time.perf_counter() - start, indices, metrics, passed)

    def _metrics(self, pairs: Pairs) -> Totals:
        groups, scored = [group for group, _ in pairs], [found for _, found in pairs]
        options = self.options
        return rollout_metrics(groups, scored, threshold=options.pass_threshold, task_column=options.task_column)

    def _replayed(self, found: Rollout) -> Pairs:
        pairs = list(zip(found.groups, found.scored, strict=True))
        if self.scorer is not None:
            first, end = share_of(len(pairs), self.world)
            own, scorer = found.groups[first:end], self.scorer
            pairs = self.world.together(lambda: list(scorer.score(own, len(own), self.check)))
        return [(with_rewards(group, scored, self.tokenizer), scored) for group, scored in pairs]

    def sampled(self, request: Request, indices: Sequence[int], attempt: int, version: int) -> Pairs:
        """Answers to some prompts with their rewards, on every process."""
        pairs = self.world.together(lambda: self._share(request.number, indices, attempt, version))
        return [(with_rewards(group, scored, self.tokenizer), scored) for group, scored in pairs]

    def _share(self, number: int, indices: Sequence[int], attempt: int, version: int) -> Pairs:
        assert self.sampler is not None
        assert self.scorer is not None
        prompts = [self.prompts[i] for i in indices]
        answered = self.sampler.rollout(prompts, number, version, self.check, attempt)
        if self.method.needs_greedy:
            best = self.sampler.greedy(prompts, self.check)
            answered = (replace(group, greedy=own) for group, own in zip(answered, best, strict=True))
        return list(self.scorer.score(answered, -(-len(prompts) // self.world.size), self.check))

    def check(self) -> None:
        """Raise StepAbandoned after a signal."""
        if self.stopped():
            raise StepAbandoned

    def _passed(self, every: Sequence[tuple[int, PromptGroup, ScoredGroup]]) -> dict[int, tuple[float, int]]:
        if self.options.curriculum == "none":
            return {}
        return {
            index: (sum(outcomes(scored.values, self.options.pass_threshold)), len(scored.values))
            for index, _, scored in every
            if scored.usable
        }


@dataclass(slots=True)
class _Batch:
    """One batch while it is sampled.

    Attributes:
        every: (prompt, group, results) of all that was sampled, in order.
        kept: those that are trained on.
    """

    maker: RolloutMaker
    request: Request
    version: int
    every: list[tuple[int, PromptGroup, ScoredGroup]] = field(default_factory=list)
    kept: list[tuple[int, PromptGroup, ScoredGroup]] = field(default_factory=list)
    rounds: int = 0

    def fill(self) -> list[tuple[int, PromptGroup, ScoredGroup]]:
        """Sample the batch's prompts; with dynamic sampling also others in the place of those that teach nothing,
        until there are as many as were asked for. What teaches something is never given back: a round that brings more
        than was missing makes the batch larger."""
        self._sample(self.request.indices)
        options = self.maker.options
        if not options.dynamic_sampling:
            return self.kept
        while self.missing > 0 and self.rounds <= options.dynamic_rounds:
            # By the share that has taught something so far, and never more at once than the batch itself.
            share = max(1, len(self.kept)) / len(self.every)
            count = min(len(self.request.indices), math.ceil(self.missing / share))
            more = self.request.more(self.rounds, count, {index for index, *_ in self.every})
            if not more:
                break
            self._sample(more)
        return self.kept

    @property
    def missing(self) -> int:
        """Prompts that the batch lacks."""
        return len(self.request.indices) - len(self.kept)

    def _sample(self, indices: Sequence[int]) -> None:
        maker = self.maker
        pairs = maker.sampled(self.request, indices, self.rounds, self.version)
        found = [(index, *pair) for index, pair in zip(indices, pairs, strict=True)]
        self.every += found
        # Where nothing is replaced a group without a value stays, and is left out later and counted.
        dynamic = maker.options.dynamic_sampling
        self.kept += [e for e in found if not dynamic or (e[2].usable and maker.method.teaches(e[1]))]
        self.rounds += 1

    def metrics(self) -> Totals:
        """How much had to be sampled."""
        if not self.maker.options.dynamic_sampling:
            return {}
        return {
            "rollout/acceptance": (float(len(self.kept)), float(len(self.every))),
            "rollout/rounds": (float(self.rounds), 1.0),
            "rollout/unfilled": (float(max(0, self.missing)), float(len(self.request.indices))),
        }
