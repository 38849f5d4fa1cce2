"""Optimiser steps on rollouts: prompts → answers → rewards → old log-probs and advantages → minibatches."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from plaudit.config.schema import RunConfig
from plaudit.methods.base import Batch, Method
from plaudit.online.behaviour import set_old_logprobs
from plaudit.online.files import Replay, RolloutFile
from plaudit.online.latents import LatentWatch
from plaudit.online.records import Rollout, columns_of, columns_state, rollout_of, rollout_state
from plaudit.online.sampling import PolicySampler, share_of
from plaudit.online.scoring import RewardScorer, with_rewards
from plaudit.online.watch import rollout_metrics, sample_rows
from plaudit.rewards.background import in_background
from plaudit.rewards.scoring import ScoredGroup
from plaudit.runs.observer import Observers
from plaudit.train.interrupt import StepAbandoned
from plaudit.train.parallel import World
from plaudit.train.schedule import Schedule
from plaudit.train.scorer import GroupScorer
from plaudit.train.step import Stream, Totals
from plaudit.types import PromptGroup

_PATIENCE = 10.0
"""Seconds that the end of a run waits for a batch that nobody wants any more."""


@dataclass(slots=True)
class RolloutMaker:
    """Makes rollouts: from an engine and rewards, or from a file.

    Args:
        sampler: None for a replay.
        scorer: None where the file's rewards are used.
        world: every process makes its share; all have the whole afterwards.
        stopped: asked between two steps of generation and while rewards are awaited.
    """

    world: World
    sampler: PolicySampler | None
    scorer: RewardScorer | None
    tokenizer: Any
    replay: Replay | None = None
    stopped: Callable[[], bool] = lambda: False
    greedy: bool = False
    """the most likely answer to each prompt is sampled and scored too"""

    def make(self, number: int, prompts: Sequence[PromptGroup], version: int) -> Rollout:
        """Rollout `number`.

        Raises:
            StepAbandoned: after a signal. PlauditError: from engine or reward, on every process. In both cases no
                failure of the batch has been counted: whoever makes it again counts it once.
        """
        before = None if self.scorer is None else self.scorer.scoring.state()
        try:
            return self._made(number, prompts, version)
        except Exception:
            if self.scorer is not None and before is not None:
                self.scorer.scoring.restore(before)
            raise

    def _made(self, number: int, prompts: Sequence[PromptGroup], version: int) -> Rollout:
        start = time.perf_counter()
        if self.replay is not None:
            found = self.replay.rollouts[number]
            pairs = list(zip(found.groups, found.scored, strict=True))
            if self.scorer is not None:
                first, end = share_of(len(pairs), self.world)
                own, scorer = found.groups[first:end], self.scorer
                pairs = self.world.together(lambda: list(scorer.score(own, len(own), self._check)))
        else:
            pairs = self.world.together(lambda: self._share(number, prompts, version))
        groups = [with_rewards(group, scored, self.tokenizer) for group, scored in pairs]
        return Rollout(number, groups, [scored for _, scored in pairs], time.perf_counter() - start)

    def _share(
        self, number: int, prompts: Sequence[PromptGroup], version: int
    ) -> list[tuple[PromptGroup, ScoredGroup]]:
        assert self.sampler is not None
        assert self.scorer is not None
        sampled = self.sampler.rollout(prompts, number, version, self._check)
        if self.greedy:
            best = self.sampler.greedy(prompts, self._check)
            sampled = (replace(group, greedy=own) for group, own in zip(sampled, best, strict=True))
        return list(self.scorer.score(sampled, -(-len(prompts) // self.world.size), self._check))

    def _check(self) -> None:
        if self.stopped():
            raise StepAbandoned


class Watcher(Protocol):
    """Watches a run and goes on watching after an interruption."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to hold: plain values and tensors."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        ...

    def close(self) -> None:
        """No more steps follow."""
        ...


@dataclass(slots=True)
class RolloutSource:
    """The steps of an online run.

    Args:
        method: what is trained; its groups are prompts.
        prompts: all prompts of the run.
        maker: makes rollouts with the policy as it is.
        ahead: makes them with a copy of the policy, one batch ahead; None = never.
        scorer: scores of all roles at the sampling temperature.
        held_out: scores evaluations; what it has counted is kept here too. None = nobody evaluates.
        latents: looks at the vectors that reward models' heads have read; it is one of the watchers.
        watchers: what watches the run and remembers something of it, by name; it is kept and closed here.
        second: gives each step its further streams (PPO-ptx).
    """

    config: RunConfig
    method: Method
    prompts: Sequence[PromptGroup]
    schedule: Schedule
    maker: RolloutMaker
    scorer: GroupScorer
    world: World
    observers: Observers
    exact: bool
    tokenizer: Any
    max_length: int | None = None
    ahead: Ahead | None = None
    held_out: RewardScorer | None = None
    watchers: Mapping[str, Watcher] = field(default_factory=dict)
    latents: LatentWatch | None = None
    second: Callable[[int], list[Stream]] | None = None
    place: str = ""
    """run directory, which the file of `rollout.save` names; `check_owner` was asked before the run"""
    _rollout: Rollout | None = None
    _batch: Batch | None = None
    _ended: bool = False
    _file: RolloutFile | None = None

    @property
    def updates(self) -> int:
        """Optimiser steps on each rollout batch."""
        return self.schedule.steps_per_batch

    # -- the loop's side

    def streams(self, step: int, totals: Totals) -> list[Stream]:
        """See `StepSource`. A new batch is sampled where `step` begins one."""
        number, update = divmod(step, self.updates)
        if update == 0 or self._rollout is None:
            self._begin(number, step, totals)
        found = self._streams(number, step, update)
        idle = {"rollout/idle_steps": (float(not found), 1.0)}
        totals.add_host(idle, self.world, self.scorer.models["policy"].device)
        return found

    def _streams(self, number: int, step: int, update: int) -> list[Stream]:
        if self._ended or self._batch is None:
            return []
        chosen = self._minibatch(number, update)
        if not chosen:
            return []
        assert self.config.rollout is not None
        stream = Stream(self.method, self._batch, chosen, temperature=self.config.rollout.temperature)
        more = self.second(step) if self.second is not None and "policy" in stream.roles() else []
        counted = self.method.weights([group for _, group in stream.groups()])
        if not stream.computed() or not any(value > 0 for value in counted.values()):
            return more  # all answers are equally good, or (truncated=mask) none of them counts
        return [stream, *more]

    def after_step(self, step: int, totals: Totals) -> None:
        """See `StepSource`."""
        if self._batch is not None and not self._ended and self.method.may_end_rollout():
            self._ended = self.method.ends_rollout(totals.read(self.world))
        if (step + 1) % self.updates == 0:
            if self._batch is not None:
                self.method.after_rollout()
            self._rollout, self._batch, self._ended = None, None, False

    def close(self) -> None:
        """See `StepSource`."""
        if self.ahead is not None:
            self.ahead.close()
        if self._file is not None:
            self._file.close()
        if self.maker.scorer is not None:
            self.maker.scorer.spec.reward.close()
        for watcher in self.watchers.values():
            watcher.close()

    # -- a batch

    def _prompts_of(self, number: int) -> list[PromptGroup]:
        return [self.prompts[i] for i in self.schedule.groups_of(number * self.updates)]

    def _begin(self, number: int, step: int, totals: Totals) -> None:
        prompts = self._prompts_of(number)
        if self.ahead is None:
            rollout = self.maker.make(number, prompts, step)
        else:
            last = number + 1 >= -(-self.schedule.total_steps // self.updates)
            following = None if last else (number + 1, self._prompts_of(number + 1))
            rollout = self.ahead.take(number, prompts, step, following)
        if self.latents is not None:
            strange = self.latents.take(rollout)
            totals.add_host(strange, self.world, self.scorer.models["policy"].device)
        self._rollout, self._batch, self._ended = rollout, self._prepared(rollout), False
        self._save(rollout)
        self._tell(rollout, step, totals)

    def _prepared(self, rollout: Rollout) -> Batch | None:
        """The usable groups with everything that the loss reads; None where there is none."""
        options = self.config.rollout
        assert options is not None
        groups = self._chosen(rollout)
        if len(groups) < self.method.min_groups:
            return None
        batch = Batch(groups, max_length=self.max_length)
        if self.method.reads_old:
            set_old_logprobs(
                batch,
                options,
                self.scorer,
                exact=self.exact and self.ahead is None,
                needed=self.method.needs_old,
                single=self.updates == 1,
            )
        rng = np.random.default_rng([self.config.train.seed, 32, rollout.number])
        self.method.prepare_batch(batch, self.scorer, rng)
        return batch

    def _chosen(self, rollout: Rollout) -> list[PromptGroup]:
        """What is trained on of a rollout: the same again after a resume."""
        rng = np.random.default_rng([self.config.train.seed, 34, rollout.number])
        return self.method.choose([rollout.groups[i] for i in rollout.usable()], rng)

    def _minibatch(self, number: int, update: int) -> list[int]:
        """The groups of an update: a new order in every pass, cut into as many parts as there are minibatches."""
        options, batch = self.config.rollout, self._batch
        assert options is not None
        assert options.ppo_epochs is not None
        assert batch is not None
        parts = self.updates // options.ppo_epochs
        epoch, part = divmod(update, parts)
        order = np.random.default_rng([self.config.train.seed, 33, number, epoch]).permutation(len(batch.groups))
        return sorted(int(i) for i in np.array_split(order, parts)[part])

    # -- what is told

    def _tell(self, rollout: Rollout, step: int, totals: Totals) -> None:
        found = dict(rollout_metrics(rollout.groups, rollout.scored))
        found |= self._batch.metrics if self._batch is not None else {}
        found["rollout/seconds"] = (rollout.seconds, 1.0)
        totals.add_host(found, self.world, self.scorer.models["policy"].device)
        options = self.config.rollout
        assert options is not None
        count = -(-self.schedule.total_steps // self.updates)
        every = options.samples_every or max(1, count // 20)
        if self.world.is_main and self.config.log.samples and rollout.number % every == 0:
            rows = sample_rows(rollout.groups, rollout.scored, self.config.log.samples, self.tokenizer)
            # The step that is done: a run that goes on from there samples the batch, and shows it, again.
            self.observers.on_samples(step, rows)
        if self._batch is None:
            usable = len(rollout.usable())
            why = (
                f"{self.method.name} finds nothing to learn from in the answers to its {usable} prompts"
                if usable >= self.method.min_groups
                else "no prompt has rewards for all its answers"
            )
            self.observers.on_message(f"rollout batch {rollout.number}: {why}")

    def _save(self, rollout: Rollout) -> None:
        options = self.config.rollout
        assert options is not None
        if options.save is None or not self.world.is_main:
            return
        if self._file is None:
            self._file = RolloutFile(Path(options.save).expanduser(), self.place, rollout.number)
        self._file.write(rollout)

    # -- checkpoints

    def state(self) -> dict[str, Any] | None:
        """See `StepSource`: a batch that is still trained on, and one that was made ahead."""
        state: dict[str, Any] = {}
        if self.ahead is not None:
            state |= self.ahead.state()  # first: it waits for what is still counting
        state |= {name: scorer.scoring.state() for name, scorer in self._scorers().items()}
        state |= {f"watch/{name}": watcher.state() for name, watcher in self.watchers.items()}
        if self._rollout is not None:
            state |= {"rollout": rollout_state(self._rollout), "ended": self._ended}
            if self._batch is not None:
                state |= {
                    "per_token": columns_state(self._batch.per_token),
                    "per_completion": {
                        name: [torch.from_numpy(np.asarray(v, dtype=np.float32)) for v in rows]
                        for name, rows in self._batch.per_completion.items()
                    },
                }
        return state or None

    def _scorers(self) -> dict[str, RewardScorer]:
        """Whatever counts failures of rewards, by its name in a checkpoint."""
        found = {"scoring": self.maker.scorer, "held_out_scoring": self.held_out}
        return {name: scorer for name, scorer in found.items() if scorer is not None}

    def restore(self, state: Any) -> None:
        """See `StepSource`."""
        if not state:
            return
        for name, scorer in self._scorers().items():
            if name in state:
                scorer.scoring.restore(state[name])
        for name, watcher in self.watchers.items():
            if f"watch/{name}" in state:
                watcher.restore(state[f"watch/{name}"])
        if "rollout" in state:
            self._restore_batch(state)
        if self.ahead is not None:
            self.ahead.restore(state, self._prompts_of)

    def _restore_batch(self, state: Any) -> None:
        number = state["rollout"]["number"]
        prompts = self.maker.replay.rollouts[number].groups if self.maker.replay else self._prompts_of(number)
        self._rollout = rollout_of(state["rollout"], prompts)
        self._ended = state["ended"]
        if "per_token" not in state:
            return
        self._batch = Batch(
            self._chosen(self._rollout),
            per_token=columns_of(state["per_token"]),
            per_completion={name: [v.numpy() for v in rows] for name, rows in state["per_completion"].items()},
            max_length=self.max_length,
        )


class Ahead:
    """Rollouts one batch ahead: sampled by a copy of the policy while the policy is trained on the batch before.

    Args:
        maker: samples with the copy.
        policy, copy: the trained weights of both, by the same names.
    """

    def __init__(self, maker: RolloutMaker, policy: Mapping[str, Tensor], copy: Mapping[str, Tensor]) -> None:
        self._maker, self._policy, self._copy = maker, policy, copy
        self._begun: tuple[int, int] | None = None
        """number of the batch that the copy's weights are for, and the steps that they have seen"""
        self._future: Future[Rollout] | None = None

    def take(
        self,
        number: int,
        prompts: Sequence[PromptGroup],
        version: int,
        following: tuple[int, Sequence[PromptGroup]] | None,
    ) -> Rollout:
        """Rollout `number`; the following one is begun with the policy's present weights.

        Raises:
            StepAbandoned: after a signal. PlauditError: what went wrong while it was made, in the background too.
        """
        if self._begun is None:
            self._follow(number, version)
        assert self._begun is not None
        assert self._begun[0] == number, f"batch {self._begun[0]} was begun, and {number} is asked for"
        found = self._maker.make(number, prompts, self._begun[1]) if self._future is None else self._future.result()
        self._begun = self._future = None
        if following is not None:
            self._follow(following[0], version)
            self._future = in_background("rollouts", self._maker.make, *following, version)
        return found

    def _follow(self, number: int, version: int) -> None:
        self._load(self._policy)
        self._begun = number, version

    @torch.no_grad()
    def _load(self, weights: Mapping[str, Tensor]) -> None:
        for name, weight in self._copy.items():
            weight.copy_(weights[name])

    def state(self) -> dict[str, Any]:
        """The batch that was begun, once it is there. Where a signal or an error ended it, the weights that it is made
        with instead: whoever goes on makes the same batch of them. An error is not raised here, but by `take`."""
        if self._begun is None:
            return {}
        if self._future is not None:
            wait([self._future])
            if self._future.exception() is None:
                return {"ahead": rollout_state(self._future.result())}
        number, version = self._begun
        weights = {name: weight.detach().cpu().clone() for name, weight in self._copy.items()}
        return {"ahead_begun": {"number": number, "version": version, "weights": weights}}

    def restore(self, state: Mapping[str, Any], prompts_of: Callable[[int], Sequence[PromptGroup]]) -> None:
        """Go on from what `state` returned."""
        if "ahead" in state:
            number = state["ahead"]["number"]
            self._future = Future()
            self._future.set_result(rollout_of(state["ahead"], prompts_of(number)))
            self._begun = number, 0
        elif "ahead_begun" in state:
            begun = state["ahead_begun"]
            self._load(begun["weights"])
            self._begun = begun["number"], begun["version"]

    def close(self) -> None:
        """Stop what is still being sampled."""
        self._maker.stopped = lambda: True
        if self._future is not None:
            wait([self._future], timeout=_PATIENCE)
