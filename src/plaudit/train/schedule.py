"""Which groups each optimiser step trains on, and at which steps something else happens. Pure functions of the
configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from plaudit.config.schema import RunConfig
from plaudit.data.mixing import epoch_order, epoch_size


@dataclass(frozen=True)
class Schedule:
    """Steps and their groups. Steps are counted from 0; "after step s" means s steps are done."""

    sizes: tuple[int, ...]
    weights: tuple[float, ...]
    groups_per_step: int
    min_groups: int
    """a step's last groups join the step before it when they are fewer (methods that need several)"""
    total_steps: int
    seed: int
    shuffle: bool
    eval_every: int | None
    """None = no evaluation"""
    checkpoint_every: int
    steps_per_batch: int = 1
    """optimiser steps on the same groups: those on a rollout batch, which is `groups_per_step` prompts then"""

    @classmethod
    def of(
        cls, config: RunConfig, sizes: list[int], weights: list[float], has_eval: bool, min_groups: int = 1
    ) -> Schedule:
        """The schedule of a run."""
        train = config.train
        size, repeats = train.groups_per_step, 1
        if config.rollout is not None:
            assert config.rollout.prompts_per_batch is not None
            size, repeats = config.rollout.prompts_per_batch, updates_per_batch(config)
        per_epoch = len(chunks(epoch_size(sizes, weights), size, min_groups)) * repeats
        if train.epochs is None:
            total = train.max_steps or per_epoch
        else:
            total = max(1, math.ceil(train.epochs * (per_epoch // repeats) - 1e-9)) * repeats
            total = min(total, train.max_steps or total)
        # Between two rollout batches a checkpoint is smallest.
        every = config.checkpoint.every or repeats * max(1, math.ceil(total / 10 / repeats))
        return cls(
            sizes=tuple(sizes),
            weights=tuple(weights),
            groups_per_step=size,
            min_groups=min_groups,
            total_steps=total,
            seed=train.seed,
            shuffle=config.data.shuffle,
            eval_every=(config.eval.every or min(per_epoch, total)) if has_eval else None,
            checkpoint_every=every,
            steps_per_batch=repeats,
        )

    @property
    def steps_per_epoch(self) -> int:
        parts = chunks(epoch_size(self.sizes, self.weights), self.groups_per_step, self.min_groups)
        return len(parts) * self.steps_per_batch

    def groups_of(self, step: int) -> list[int]:
        """Indices of the groups of a step. The last step of an epoch takes what is left: no row is dropped."""
        parts = chunks(epoch_size(self.sizes, self.weights), self.groups_per_step, self.min_groups)
        epoch, within = divmod(step // self.steps_per_batch, len(parts))
        start, end = parts[within]
        return list(_order(self.sizes, self.weights, self.seed, epoch, self.shuffle)[start:end])

    def all_groups(self) -> list[int]:
        """Every group that the run will train on, each once, in order of first use."""
        return list(dict.fromkeys(i for step in range(self.total_steps) for i in self.groups_of(step)))

    def evaluates_after(self, step: int) -> bool:
        return self.eval_every is not None and step > 0 and (step % self.eval_every == 0 or step == self.total_steps)

    def checkpoints_after(self, step: int) -> bool:
        return step % self.checkpoint_every == 0 or step == self.total_steps or self.evaluates_after(step)

    def epoch_at(self, step: int) -> float:
        return step / self.steps_per_epoch


def updates_per_batch(config: RunConfig) -> int:
    """Optimiser steps on each rollout batch: passes × minibatches of `train.groups_per_step` prompts."""
    rollout = config.rollout
    assert rollout is not None
    assert rollout.prompts_per_batch is not None
    assert rollout.ppo_epochs is not None
    return rollout.ppo_epochs * (rollout.prompts_per_batch // config.train.groups_per_step)


@lru_cache(maxsize=4)
def chunks(count: int, size: int, least: int) -> tuple[tuple[int, int], ...]:
    """Cut `count` groups into ranges of `size`; a remainder smaller than `least` joins the range before it."""
    starts = list(range(0, count, size))
    if len(starts) > 1 and count - starts[-1] < least:
        starts.pop()
    return tuple(zip(starts, [*starts[1:], count], strict=True))


@lru_cache(maxsize=2)
def _order(sizes: tuple[int, ...], weights: tuple[float, ...], seed: int, epoch: int, shuffle: bool) -> tuple[int, ...]:
    return tuple(epoch_order(sizes, weights, seed, epoch, shuffle))
