"""How much a run computes: prompts, completions, tokens and micro-batches of a step, an epoch and the whole run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from plaudit.config.schema import RunConfig
from plaudit.data.mixing import epoch_size
from plaudit.forest.layout import piece_tokens
from plaudit.methods.base import Method
from plaudit.runs.plan import Fact, InWords
from plaudit.train.parallel import World
from plaudit.train.planning import Packed, needs_last, plan_slots
from plaudit.train.schedule import Schedule
from plaudit.types import PromptGroup

_PACKED_STEPS = 32
"""Steps that are packed to learn how the others will: packing all of a large data set takes a while."""


@dataclass(frozen=True, slots=True)
class Amount:
    """One quantity: per optimiser step (mean), per epoch, and of the whole run."""

    step: float
    epoch: float
    run: float


@dataclass(frozen=True, slots=True)
class Work:
    """The quantities of a run.

    Attributes:
        prompts: groups, the unit of `train.groups_per_step`. A group is a prompt with all its completions.
        completions: what other trainers call sequences: each is a prompt with one answer.
        tokens: packed, so a prompt counts once for all its completions; of a method that samples, at most.
        micro_batches: of all processes; None for a method that samples.
        largest: packed tokens of the largest micro-batch seen; None for a method that samples.
        samples: whether the completions are still to be sampled.
        exact: whether every step was packed; else `tokens` and `micro_batches` are extrapolated from the first steps.
    """

    steps: int
    steps_per_epoch: int
    prompts: Amount
    completions: Amount
    tokens: Amount
    micro_batches: Amount | None
    largest: int | None
    samples: bool
    exact: bool

    @classmethod
    def of(
        cls,
        config: RunConfig,
        method: Method,
        schedule: Schedule,
        groups: Sequence[PromptGroup],
        model: Packed,
        budget: int,
    ) -> Work:
        """The work of a run.

        Args:
            config: with its derived values.
            groups: all training groups.
            budget: packed tokens per micro-batch.
        """
        if config.rollout is not None:
            return cls._sampled(config, schedule, groups)
        steps, per_epoch = schedule.total_steps, schedule.steps_per_epoch
        looked = min(steps, per_epoch, _PACKED_STEPS)
        last = needs_last(method)
        prompts = completions = tokens = slots = largest = 0
        for step in range(looked):
            own = [groups[i] for i in schedule.groups_of(step)]
            prompts += len(own)
            completions += sum(len(group.completions) for group in own)
            numbered = list(enumerate(own))
            found = plan_slots(numbered, model, World(), budget=budget, unit=method.unit, score_last=last)
            sizes = [sum(piece_tokens(p, model.bos_id, last) for p in slot.pieces) for slot in found]
            slots += len(found)
            tokens += sum(sizes)
            largest = max(largest, *sizes, 0)
        in_epoch = epoch_size(schedule.sizes, schedule.weights)
        in_run = _groups_of_run(schedule, in_epoch)

        def amount(counted: int) -> Amount:
            share = counted / prompts if prompts else 0.0
            return Amount(share * in_run / steps, share * in_epoch, share * in_run)

        return cls(
            steps,
            per_epoch,
            amount(prompts),
            amount(completions),
            amount(tokens),
            amount(slots),
            largest,
            samples=False,
            exact=looked >= min(steps, per_epoch),
        )

    @classmethod
    def _sampled(cls, config: RunConfig, schedule: Schedule, groups: Sequence[PromptGroup]) -> Work:
        rollout = config.rollout
        assert rollout is not None
        answers, passes = rollout.completions_per_prompt or 1, rollout.ppo_epochs or 1
        steps = schedule.total_steps
        length = sum(len(g.prompt_ids) for g in groups) / max(1, len(groups)) + answers * rollout.max_new_tokens
        in_epoch = epoch_size(schedule.sizes, schedule.weights)
        in_run = _groups_of_run(schedule, in_epoch)

        def amount(each: float, again: int = 1) -> Amount:
            """`each` for a prompt; a step trains on every prompt of a batch as often as there are passes."""
            return Amount(each * passes * in_run / steps, each * again * in_epoch, each * again * in_run)

        return cls(
            steps,
            schedule.steps_per_epoch,
            amount(1),
            amount(answers),
            amount(length, passes),
            None,
            None,
            samples=True,
            exact=False,
        )

    def rows(self) -> dict[str, InWords]:
        """For the plan: quantity → its numbers, aligned under each other."""
        about = "" if self.exact or self.samples else "≈ "
        most = "at most " if self.samples else ""
        named = {
            "optimiser steps": ("optimiser_steps", Amount(1, self.steps_per_epoch, self.steps), ""),
            "prompts (groups)": ("prompts", self.prompts, ""),
            "completions (sequences)": ("completions", self.completions, ""),
            "packed tokens": ("packed_tokens", self.tokens, most or about),
        }
        if self.micro_batches is not None:
            named["micro-batches"] = ("micro_batches", self.micro_batches, about)
        cells = {
            label: [sign + _number(v) for v in (amount.step, amount.epoch, amount.run)]
            for label, (_, amount, sign) in named.items()
        }
        widths = [max(len(row[i]) for row in cells.values()) for i in range(3)]
        words = ("a step", "an epoch", "in all")
        return {
            label: InWords(
                "   ".join(f"{text:>{width}} {word}" for text, width, word in zip(row, widths, words, strict=True)),
                **_facts(*named[label]),
            )
            for label, row in cells.items()
        }

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        named = {
            "prompts": self.prompts,
            "completions": self.completions,
            "tokens": self.tokens,
            "micro_batches": self.micro_batches,
        }
        found: dict[str, Any] = {"steps": self.steps, "steps_per_epoch": self.steps_per_epoch, "exact": self.exact}
        for name, amount in named.items():
            if amount is not None:
                parts = {"step": amount.step, "epoch": amount.epoch, "run": amount.run}
                found[name] = {key: round(value, 2) for key, value in parts.items()}
        return found


def _facts(name: str, amount: Amount, sign: str) -> dict[str, Fact]:
    """A quantity for programs; a sign says that it is no count."""
    means = {f"{name}_per_epoch": amount.epoch, name: amount.run}
    if name != "optimiser_steps":
        means[f"{name}_per_step"] = amount.step
    rounded: dict[str, Fact] = {key: round(v) if v >= 100 or v == int(v) else round(v, 2) for key, v in means.items()}
    kind = {"≈ ": "estimate", "at most ": "upper bound"}.get(sign)
    return rounded | ({f"{name}_is": kind} if kind else {})


def _number(value: float) -> str:
    """Small means keep a digit: 2.5 micro-batches a step."""
    whole = round(value)
    return f"{whole:,}" if value >= 100 or abs(value - whole) < 0.05 else f"{value:,.1f}"


def _groups_of_run(schedule: Schedule, in_epoch: int) -> int:
    """Groups that all steps see together; those of a rollout batch once, however many steps train on it."""
    epochs, rest = divmod(schedule.total_steps, schedule.steps_per_epoch)
    firsts = range(0, rest, schedule.steps_per_batch)
    return epochs * in_epoch + sum(len(schedule.groups_of(step)) for step in firsts)
