"""Options of the watch that nothing would read: rules of other methods, rules that are switched off, unknown codes."""

from __future__ import annotations

from collections.abc import Iterator

from plaudit.config.checks import Finding, changed
from plaudit.config.keys import closest
from plaudit.config.schema import RunConfig, WatchSection
from plaudit.methods.base import Method
from plaudit.runs.alerts import RULES
from plaudit.runs.online_alerts import ONLINE_RULES

_CHOSEN = ("chosen_reward_floor", "chosen_logp_drop")
_GOLD = ("gold_errors", "gold_correlation")
_OFFLINE_ONLY = ("margins_flat", "chosen_logp_falling", "loss_not_falling")
"""Rules on metrics that no method logs which samples its answers."""
SWITCHES: dict[str, tuple[str, ...]] = {
    "kl_over_budget": ("kl_budget",),
    "kl_jump": ("kl_jump",),
    "entropy_collapse": ("entropy_share",),
    "length_drift": ("shorter", "longer"),
    "policy_step_large": ("clip_fraction", "approx_kl"),
    "critic_explains_nothing": ("explained_variance",),
    "groups_without_signal": ("zero_std_share",),
    "batch_not_filled": ("unfilled_share",),
    "completions_capped": ("capped_share",),
    "reward_errors": ("error_share",),
    "repeated_text": ("repeated_share", "repeated_rise"),
    "reward_flat": ("flat_errors",),
    "held_out_reward_falls": ("held_out_errors",),
    "sampling_gap": ("gap_mean", "gap_k3", "gap_ess"),
    "reward_above": ("reward_above",),
    "proxy_up_gold_down": ("gold_errors",),
    "gold_correlation": ("gold_correlation",),
    "score_above_range": ("above_range",),
    "members_disagree": ("disagreement",),
    "reward_outliers": ("outliers",),
}
"""Code of a rule → the keys that it reads; where all of them are null it is off."""


def watch_findings(run: RunConfig, method: type[Method]) -> Iterator[Finding]:
    """Every key of the watch, and every code in `watch.stop`, that has no effect in this run."""
    watch, online = run.watch, method.is_online()
    held_out = bool(run.data.eval or run.data.eval_fraction)
    if not online:
        for name in WatchSection.model_fields:
            if name not in ("stop", *_CHOSEN) and changed(watch, name):
                what = f"has no effect with {method.name}, which samples no answers"
                yield f"watch.{name}", what, "`plaudit methods` lists the methods whose data is prompts"
    if online or method.data_kind == "completion" or "policy" not in method.roles:
        for name in _CHOSEN:
            if changed(watch, name):
                yield f"watch.{name}", f"has no effect with {method.name}, which has no chosen answers", "remove it"
    if online:
        yield from _gold(watch, held_out)
        if not held_out and changed(watch, "held_out_errors"):
            hint = "add data.eval or data.eval_fraction"
            yield "watch.held_out_errors", "has no effect without held-out data", hint
        if watch.outliers is None and changed(watch, "outlier_answers"):
            yield "watch.outlier_answers", "has no effect where watch.outliers is null", "remove one of the two"
    yield from _grid(run, method)
    yield from _stop(run, method, held_out)


def _gold(watch: WatchSection, held_out: bool) -> Iterator[Finding]:
    if watch.gold is None:
        for name in _GOLD:
            if changed(watch, name):
                yield f"watch.{name}", "has no effect without watch.gold", "add watch.gold, or remove it"
        return
    if not watch.gold.rewards:
        hint = "for example watch.gold=PATH of a larger reward model, or {kind: judge, …}"
        yield "watch.gold.rewards", "is required: nothing says what is gold", hint
    if not held_out:
        hint = "add data.eval or data.eval_fraction: gold is asked about held-out answers"
        yield "watch.gold", "has no effect without held-out data", hint


def no_kl(run: RunConfig, method: type[Method]) -> bool:
    """Whether the method's options leave out the KL to the reference."""
    return not method.is_online() or (run.method.get("watch_kl") is False and not run.method.get("kl_weight"))


def _grid(run: RunConfig, method: type[Method]) -> Iterator[Finding]:
    if run.checkpoint.kl_grid and no_kl(run, method):
        what = f"has no effect with {method.name} and these options: no KL to the reference is measured"
        yield "checkpoint.kl_grid", what, "leave out method.watch_kl=false" if method.is_online() else "remove it"


def _stop(run: RunConfig, method: type[Method], held_out: bool) -> Iterator[Finding]:
    watch, online = run.watch, method.is_online()
    fitting = [c for c in RULES if (c not in _OFFLINE_ONLY if online else c not in ONLINE_RULES)]
    if len(set(watch.stop)) < len(watch.stop):
        yield "watch.stop", "a code is given twice", ""
    for code in dict.fromkeys(watch.stop):
        if code not in fitting:
            near = closest(code, fitting, 0.6)
            what = f"{code!r} is the code of no alert" if code not in RULES else f"{code} is no alert of {method.name}"
            yield "watch.stop", what, f"did you mean {near}?" if near else f"there are {', '.join(fitting)}"
        elif reason := _never(code, run, method, held_out):
            yield "watch.stop", f"{code} is never raised: {reason}", "remove the code, or see to that"


def _never(code: str, run: RunConfig, method: type[Method], held_out: bool) -> str | None:
    """Why an alert cannot come up in this run, or None."""
    switches = SWITCHES.get(code, ())
    if switches and all(getattr(run.watch, name) is None for name in switches):
        return f"{' and '.join(f'watch.{name}' for name in switches)} {'is' if len(switches) == 1 else 'are'} null"
    if code in ("proxy_up_gold_down", "gold_correlation") and run.watch.gold is None:
        return "there is no watch.gold"
    if code == "held_out_reward_falls" and not held_out:
        return "there is no held-out data"
    if code == "critic_explains_nothing" and "critic" not in method.roles:
        return f"{method.name} has no critic"
    if code.startswith("kl_") and no_kl(run, method):
        return "no KL to the reference is measured"
    if code == "always_clipped" and run.train.max_grad_norm is None:
        return "train.max_grad_norm is null"
    return None
