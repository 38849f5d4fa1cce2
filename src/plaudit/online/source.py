"""Optimiser steps on rollouts: prompts → answers → rewards → old log-probs and advantages → minibatches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from plaudit.config.replayed import SAMPLED_WITH
from plaudit.config.schema import RunConfig
from plaudit.methods.base import Batch, Method
from plaudit.online.ahead import Ahead
from plaudit.online.behaviour import set_old_logprobs
from plaudit.online.files import RolloutFile
from plaudit.online.latents import LatentWatch
from plaudit.online.maker import RolloutMaker
from plaudit.online.prompts import PromptChooser
from plaudit.online.records import Rollout, columns_of, columns_state, rollout_of, rollout_state
from plaudit.online.scoring import RewardScorer
from plaudit.online.watch import sample_rows
from plaudit.runs.observer import Observers
from plaudit.train.parallel import World
from plaudit.train.schedule import Schedule
from plaudit.train.scorer import GroupScorer
from plaudit.train.step import Stream, Totals
from plaudit.types import PromptGroup


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
        chooser: says which prompts a batch has.
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
    chooser: PromptChooser
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

    def _begin(self, number: int, step: int, totals: Totals) -> None:
        if self.ahead is None:
            rollout = self.maker.make(self.chooser.request(number), step)
        else:
            last = number + 1 >= -(-self.schedule.total_steps // self.updates)
            rollout = self.ahead.take(number, self.chooser.request, step, last)
        self.chooser.learn(rollout.passed)
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
        batch = Batch(groups, max_length=self.max_length, sampled=_usable(rollout))
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
        return self.method.choose(_usable(rollout), rng)

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
        found = dict(rollout.metrics)
        found |= self._batch.metrics if self._batch is not None else {}
        found |= self.method.choice_metrics(_usable(rollout), self._batch.groups if self._batch is not None else [])
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
            self._file = RolloutFile(
                Path(options.save).expanduser(),
                self.place,
                rollout.number,
                {name: getattr(options, name) for name in SAMPLED_WITH},
            )
        self._file.write(rollout)

    # -- checkpoints

    def state(self) -> dict[str, Any] | None:
        """See `StepSource`: a batch that is still trained on, and one that was made ahead."""
        state: dict[str, Any] = {}
        if self.ahead is not None:
            state |= self.ahead.state()  # first: it waits for what is still counting
        state["pass_rates"] = self.chooser.rates.state()
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
        return state

    def _scorers(self) -> dict[str, RewardScorer]:
        """Whatever counts failures of rewards, by its name in a checkpoint."""
        found = {"scoring": self.maker.scorer, "held_out_scoring": self.held_out}
        return {name: scorer for name, scorer in found.items() if scorer is not None}

    def restore(self, state: Any) -> None:
        """See `StepSource`."""
        self.chooser.rates.restore(state["pass_rates"])
        for name, scorer in self._scorers().items():
            if name in state:
                scorer.scoring.restore(state[name])
        for name, watcher in self.watchers.items():
            if f"watch/{name}" in state:
                watcher.restore(state[f"watch/{name}"])
        if "rollout" in state:
            self._restore_batch(state)
        if self.ahead is not None:
            self.ahead.restore(state, self.chooser, self._rollout_of)

    def _rollout_of(self, state: Mapping[str, Any]) -> Rollout:
        replay, prompts = self.maker.replay, self.maker.prompts
        of = replay.rollouts[state["number"]].groups if replay else [prompts[i] for i in state["indices"]]
        return rollout_of(state, of)

    def _restore_batch(self, state: Any) -> None:
        self._rollout = self._rollout_of(state["rollout"])
        self._ended = state["ended"]
        if "per_token" not in state:
            return
        self._batch = Batch(
            self._chosen(self._rollout),
            per_token=columns_of(state["per_token"]),
            per_completion={name: [v.numpy() for v in rows] for name, rows in state["per_completion"].items()},
            max_length=self.max_length,
        )


def _usable(rollout: Rollout) -> list[PromptGroup]:
    """The groups whose answers all have a reward."""
    return [rollout.groups[i] for i in rollout.usable()]
