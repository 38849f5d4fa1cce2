"""Which keys a starter configuration has, with which values, and why. Pure functions of what was seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from plaudit.config.keys import all_keys
from plaudit.config.load import model_name, resolve
from plaudit.config.schema import RolloutSection, TrainConfig
from plaudit.data.lengths import Overlong, length
from plaudit.starter.fits import Fit
from plaudit.starter.machine import FULL_SHARE, Machine
from plaudit.starter.rows import WORDS, Looked
from plaudit.starter.sizes import MOST_UNUSABLE, Sizes
from plaudit.train.schedule import Schedule

MAIN = ("beta", "tau", "lam", "delta", "kl_weight", "select", "train_on", "loss")
"""Options that a newcomer turns first; of a method's own the first that it has."""
_LARGEST_STEP, _LARGEST_SAMPLED_STEP = 32, 8
_STEPS = 10
"""Fewest steps of an epoch, where groups_per_step can see to it."""
_FEW_PROMPTS = 64
"""With fewer there is nothing to hold out: a share of them may well be none."""
_ROUND = 64
_GIB = 1024**3
_SMALL = 2000
"""Groups below which one epoch is not much."""
_DROPPED = 0.02
"""Share of over-long rows that may go; more are cut, so that they do not change what the data is."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of the file and the comment above it."""

    key: str
    """dotted"""
    value: Any
    why: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user has said."""

    model: str | None = None
    lora: bool | None = None
    reward: tuple[str, ...] = ()
    why_reward: str = "as asked for"


def settings_for(looked: Looked, fit: Fit, sizes: Sizes, machine: Machine | None, wanted: Wanted) -> list[Setting]:
    """All of them, in no order. They resolve to a configuration (with the model named)."""
    adapter, why_adapter = _adapter(machine, wanted.lora)
    held_out = list(_held_out(sizes))
    found = [
        *_model(machine, wanted.model),
        *_method(fit),
        *_data(looked, fit, sizes),
        *held_out,
        *_lengths(fit, sizes, machine),
        *(
            [Setting("lora.r", 16, f"{why_adapter} r is the rank: 8 to 64; more learns more and forgets more.")]
            * adapter
        ),
        *_train(fit, sizes, adapter, why_adapter),
        *_sampling(fit, wanted),
        Setting(
            "run.dir",
            f"runs/{fit.method.name}-{model_name(wanted.model or looked.path.rpartition('.')[0])}",
            "Everything about the run lies there. The same command goes on where it stopped; another name begins anew.",
        ),
    ]
    return [*found, *_rhythm(fit, sizes, found, bool(held_out))]


def values_of(settings: list[Setting]) -> dict[str, dict[str, Any]]:
    """Section → key → value."""
    found: dict[str, dict[str, Any]] = {}
    for setting in settings:
        section, _, key = setting.key.partition(".")
        found.setdefault(section, {})[key] = setting.value
    return found


def _model(machine: Machine | None, model: str | None) -> Iterator[Setting]:
    if model is not None and machine is not None:
        size = f"{machine.parameters:,} parameters" if machine.parameters else "a tokenizer"
        room = f", up to {machine.positions:,} tokens" if machine.positions else ""
        yield Setting("model.path", model, f"{size}{room}. A folder, a hub id or a .gguf file.")
    yield Setting(
        "model.gradient_checkpointing",
        False,
        "true: much less memory for about a third more time, where a run does not fit.",
    )


def _method(fit: Fit) -> Iterator[Setting]:
    yield Setting("method.name", fit.name, f"{fit.method.title}. `plaudit methods {fit.name}` explains it.")
    keys = all_keys(fit.method.Config)
    for key in (keys.get(f"method.{name}") for name in MAIN):
        if key is not None and key.default is not None:
            yield Setting(key.name, key.default, " ".join(key.doc.split()))
            return


def _data(looked: Looked, fit: Fit, sizes: Sizes) -> Iterator[Setting]:
    columns = dict(fit.reading.columns)
    why = (
        f"{sizes.rows:,} rows of {WORDS[looked.kind]} ({', '.join(sizes.shapes)}), {sizes.prompts:,} different prompts."
    )
    if columns:
        why += " columns says which of the file's columns is which field."
    yield Setting("data.train", {"path": looked.path, "columns": columns} if columns else looked.path, why)
    if sizes.converted is not None:
        made = (
            f"{sizes.converted.records_in:,} rows became {sizes.converted.records_out:,} {fit.method.data_kind} groups"
        )
        left = "".join(f"; {line.strip()}" for line in sizes.converted.lines()[1:])
        yield Setting(
            "data.convert", fit.convert, f"{fit.name} learns from {WORDS[fit.method.data_kind]}: {made}{left}."
        )
    beside = sizes.held_out
    unusable = sizes.unusable + (beside.unusable if beside is not None and not beside.leaks else 0)
    if unusable:
        why = f"{unusable:,} rows have no content or signal: `plaudit doctor {looked.path}`. error stops at them."
        yield Setting("data.invalid", "drop", why)


def _held_out(sizes: Sizes) -> Iterator[Setting]:
    beside = sizes.held_out
    if beside is not None and not beside.leaks:
        shared = f"{beside.shared:,} of them are trained on too" if beside.shared else "none of them is trained on"
        why = f"Lies beside the training file: {beside.rows:,} rows, {beside.prompts:,} different prompts, {shared}."
        yield Setting("data.eval", beside.path, why)
        return
    share = _eval_fraction(sizes)
    if share:
        why = (
            f"About {round(share * sizes.prompts):,} of the {sizes.prompts:,} prompts are held out, whole, and looked "
            "at while training. With a file of your own: data.eval."
        )
        yield Setting("data.eval_fraction", share, why)


def _eval_fraction(sizes: Sizes) -> float:
    """About a tenth of few prompts, 200 of many; 0 where none, or too few, would be held out."""
    if sizes.prompts < _FEW_PROMPTS:
        return 0.0
    share = 0.1 if sizes.prompts < 1000 else 0.05 if sizes.prompts < 10_000 else 0.01
    return 0.0 if sizes.holds_out(share) == 0 else share


def _lengths(fit: Fit, sizes: Sizes, machine: Machine | None) -> Iterator[Setting]:
    total, many = sizes.total, f"{len(sizes.totals):,}" + (" that were looked at" if sizes.sampled else "")
    what = "prompts" if fit.method.is_online() else "groups"
    spread = (
        f"half of the {many} {what} have up to {total.median:.0f}, 95 % up to {total.p95:.0f}, the longest has "
        f"{total.max:,}"
    )
    if machine is None:
        why = f"What happens to rows longer than the model allows, or than data.max_length. In characters {spread}."
        yield Setting("data.overlong", "error", why)
        return
    if fit.method.is_online():
        new = _new_tokens(sizes, machine)
        why = f"Longest answer in tokens; {spread}. Raise it where answers are cut off."
        yield Setting("rollout.max_new_tokens", new, why)
        limit = None if machine.positions is None else machine.positions - new
    else:
        limit = _max_length(sizes, machine.positions)
        over = sizes.over(limit)
        why = f"Most tokens of prompt and answer: {spread}. {over:,} are longer ({over / len(sizes.totals):.1%})."
        if limit == machine.positions:
            why += " More does not fit into the model's positions."
        yield Setting("data.max_length", limit, why)
    yield Setting("data.overlong", *_overlong(sizes, limit, online=fit.method.is_online()))


def _max_length(sizes: Sizes, positions: int | None) -> int:
    """The longest row, held-out ones with it; where that is far beyond the others, what 99 % have. Never more than the
    model allows."""
    totals = [length(group) for groups in sizes.files for group in groups]
    usual = float(np.percentile(totals, 99))
    wanted = max(totals) if max(totals) <= 2 * usual else usual
    rounded = _ROUND * int(-(-wanted // _ROUND))
    return rounded if positions is None else min(rounded, positions)


def _new_tokens(sizes: Sizes, machine: Machine) -> int:
    """The default, or the power of two that the longest prompt leaves room for; a quarter of the positions at least."""
    usual: int = RolloutSection().max_new_tokens
    if machine.positions is None or machine.positions - sizes.prompt.max >= usual:
        return usual
    room = max(machine.positions - sizes.prompt.max, machine.positions // 4, 1)
    return min(usual, _power_of_two(room))


def _overlong(sizes: Sizes, limit: int | None, *, online: bool) -> tuple[Overlong, str]:
    """The policy that keeps nearly all rows, the one that changes them least first, and why."""
    lost: dict[Overlong, float] = {"drop": 0.0 if limit is None else sizes.lost(limit, "drop")}
    if lost["drop"] == 0 and not sizes.sampled:
        return "error", "No row is longer. drop leaves longer ones out, truncate_prompt cuts their oldest tokens."
    if lost["drop"] <= _DROPPED or limit is None:
        return "drop", "Longer rows are left out and counted. truncate_prompt cuts their oldest tokens instead."
    cuts: tuple[Overlong, ...] = ("truncate_prompt",) if online else ("truncate_prompt", "truncate_completion")
    lost = {policy: sizes.lost(limit, policy) for policy in cuts}
    policy = next((policy for policy in cuts if lost[policy] <= _DROPPED), min(cuts, key=lambda cut: lost[cut]))
    if policy == "truncate_prompt":
        why = "Longer rows lose the oldest tokens of their prompts, and are counted. drop leaves them out."
    else:
        why = "Answers alone are too long: longer rows lose the end of their answers, and do not learn to end there."
    if lost[policy] > MOST_UNUSABLE:
        why += (
            f" {lost[policy]:.1%} of the rows do not fit even so, and a run stops at more than data.max_drop_fraction "
            f"({MOST_UNUSABLE:g}): take a model with more positions, or shorter rows."
        )
    return policy, why


def _adapter(machine: Machine | None, asked: bool | None) -> tuple[bool, str]:
    """Whether to train an adapter, and why."""
    if machine is None or machine.full is None or machine.free is None:
        if asked is not None:
            return asked, "LoRA, as asked for." if asked else "Full fine-tuning, as asked for."
        return True, "LoRA, which fits on most machines; without this section all weights are trained."
    need = f"all {machine.parameters:,} weights with Adam take {_size(machine.full)}"
    have = f"{_size(machine.free)} are free"
    if asked is not None:
        return asked, f"{'LoRA' if asked else 'Full fine-tuning'}, as asked for: {need}, and {have}."
    if machine.fits_in_full:
        return False, f"Full fine-tuning: {need}, and {have}; --lora trains an adapter instead."
    return True, f"LoRA: {need}, more than {FULL_SHARE:.0%} of what is free ({_size(machine.free)})."


def _size(count: int) -> str:
    """Bytes in words."""
    return f"{count / _GIB:.1f} GiB" if count >= _GIB else f"{count / 1024**2:.1f} MiB"


def _train(fit: Fit, sizes: Sizes, adapter: bool, why_adapter: str) -> Iterator[Setting]:
    rates = fit.method.default_learning_rate
    here: Literal["lora", "full"] = "lora" if adapter else "full"
    other = f"{rates['full']:g} in full" if adapter else f"{rates['lora']:g} with LoRA"
    why = "" if adapter else f"{why_adapter} "
    why += (
        f"The usual one of {fit.name} {'with LoRA' if adapter else 'in full'} ({other}). Lower it where the loss jumps."
    )
    yield Setting("train.learning_rate", rates[here], why)
    step = groups_per_step(fit, sizes.groups)
    about = "about " if sizes.sampled else ""
    what = "prompts, each with its sampled answers" if fit.method.is_online() else "groups: a prompt with its answers"
    why = f"Of {about}{sizes.groups:,} {what}. All are {-(-sizes.groups // step):,} such steps. More is steadier."
    yield Setting("train.groups_per_step", step, why)
    budget = TrainConfig.model_fields["tokens_per_microbatch"].default
    why = "The memory dial; results do not depend on it. auto measures what fits before the first step."
    yield Setting("train.tokens_per_microbatch", budget, why)
    yield Setting("train.epochs", *_epochs(fit, sizes.groups))
    yield Setting("train.seed", TrainConfig.model_fields["seed"].default, "Another seed shows how much is chance.")


def groups_per_step(fit: Fit, groups: int) -> int:
    """A power of two that gives an epoch at least ten steps where that leaves four groups to each."""
    largest = _LARGEST_SAMPLED_STEP if fit.method.is_online() else _LARGEST_STEP
    least = min(max(4, fit.method.min_groups), groups)
    return max(least, min(largest, _power_of_two(max(groups // _STEPS, 1))))


def _power_of_two(most: int) -> int:
    """The largest one up to `most`."""
    return 1 << (most.bit_length() - 1)


def _epochs(fit: Fit, groups: int) -> tuple[int, str]:
    kind = fit.method.data_kind
    if kind == "completion":
        few = groups < 2 * _SMALL
        return (3, "Few demonstrations are seen three times; 1 for many.") if few else (1, "1 to 3; eval/loss says.")
    if kind == "ranking":
        return 1, "Reward models learn the rows by heart from the second epoch on."
    if kind == "prompt":
        return 1, "Each prompt once; more for as long as the reward rises."
    if groups < _SMALL:
        return 2, "Few rows are seen twice; 1 where eval/loss rises."
    return 1, "One is usual: the loss of a second is mostly memory."


def _sampling(fit: Fit, wanted: Wanted) -> Iterator[Setting]:
    if not fit.method.is_online():
        return
    why = f"What answers are scored with: {wanted.why_reward}. `plaudit rewards` lists what there is."
    yield Setting("reward.rewards", list(wanted.reward), why)
    count = max(fit.method.default_completions, fit.method.min_completions)
    yield Setting("rollout.completions_per_prompt", count, "Answers to each prompt. More is steadier and slower.")
    why = "Of sampling, and of every log-prob in the loss: 1 is the model as it is."
    yield Setting("rollout.temperature", RolloutSection().temperature, why)


def _rhythm(fit: Fit, sizes: Sizes, found: list[Setting], evaluates: bool) -> Iterator[Setting]:
    """How often something happens, from the steps that the run will have."""
    values = values_of(found)
    values.setdefault("model", {}).setdefault("path", "model")
    run = resolve(fit.name, overrides=values, files_exist=False).run
    share = values["data"].get("eval_fraction", 0.0)
    held_out = sizes.holds_out(share) if share else 0
    trained = sizes.groups - (round(share * sizes.groups) if held_out is None else held_out)
    schedule = Schedule.of(run, [trained], [1.0], evaluates, fit.method.min_groups)
    about = "" if held_out is not None and not sizes.sampled else "about "
    if evaluates:
        every = max(1, schedule.total_steps // 4)
        why = f"Steps between evaluations, of {about}{schedule.total_steps:,}. The best state is kept in best/."
        yield Setting("eval.every", every, why)
    why = f"Steps between checkpoints, of {about}{schedule.total_steps:,}. One is written at the end and on Ctrl-C too."
    yield Setting("checkpoint.every", schedule.checkpoint_every, why)
    yield Setting("checkpoint.keep", run.checkpoint.keep, "So many of the last ones stay, and the best besides.")


__all__ = ["MAIN", "Setting", "Wanted", "groups_per_step", "settings_for", "values_of"]
