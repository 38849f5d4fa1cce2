"""Alerts of runs that sample answers: the policy's distance, its answers, its rewards, its critic, its sampling.

A rule looks only at metrics that exist, so that a method without a critic or without a reference has no such alert.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from plaudit.runs.alert_history import (
    MIN_POINTS,
    SOON,
    WHEN_EVALUATED,
    Alert,
    AlertSettings,
    History,
    Metrics,
    Rule,
    Verdict,
    per_cent,
    recent,
    recent_above,
)
from plaudit.runs.hacking_alerts import HACKING_RULES

KL_JUMP_FLOOR = 5.0
"""Nats per answer: a smaller rise is what the answers of a batch scatter by. A KL that grows evenly is twice its mean
so far, and one that grows with the square of the steps three times."""
VALUE_WINDOWS = 2
"""Windows that a critic has to learn in: from zeros it explains nothing at first."""
FLAT_WINDOWS = 3
"""Windows behind the first one in which the reward may stand still: warm-up and a first movement are over then."""


def _kl_over_budget(step: int, metrics: Metrics, history: History, settings: AlertSettings) -> Verdict:
    """The KL of the last logged steps is above the budget."""
    kl, budget = recent("kl", metrics, history), settings.kl_budget
    if kl is None or budget is None or not history.online:
        return None
    if kl <= budget:
        return False
    return Alert(
        "warn",
        "kl_over_budget",
        f"kl is {kl:.3g} nats per answer (mean of the last {SOON} logged steps) and the budget {budget:g}: the policy "
        "is far from the reference, where a learned reward is least to be trusted",
        "raise method.kl_weight or lower train.learning_rate; read samples for what the reward pays and people would "
        "not; judge earlier checkpoints by something other than this reward",
        step,
    )


def _kl_jump(step: int, metrics: Metrics, history: History, settings: AlertSettings) -> Verdict:
    """The KL is at least so many times its mean over the steps before, and `KL_JUMP_FLOOR` above it."""
    values, times = history.window("kl").values, settings.kl_jump
    if "kl" not in metrics or times is None or not history.online or len(values) < MIN_POINTS:
        return None
    before, now = sum(values[:-1]) / (len(values) - 1), values[-1]
    if now < times * before or now - before < KL_JUMP_FLOOR:
        return False
    return Alert(
        "warn",
        "kl_jump",
        f"kl has jumped to {now:.3g} nats per answer, from a mean of {before:.3g} over the {len(values) - 1} logged "
        "steps before",
        "lower train.learning_rate or raise method.kl_weight, and set method.target_kl to stop the passes over a batch "
        "early; if it does not come back, go on from an earlier checkpoint",
        step,
    )


def _entropy_collapse(step: int, metrics: Metrics, history: History, settings: AlertSettings) -> Verdict:
    """The window's entropy is below a share of the first logged one."""
    window, share = history.window("entropy"), settings.entropy_share
    if "entropy" not in metrics or share is None or not history.online or not window.full:
        return None
    start = history.first_value["entropy"]
    if window.mean >= share * start:
        return False
    return Alert(
        "warn",
        "entropy_collapse",
        f"entropy is {window.mean:.3g} nats per token (mean of the last {len(window.values)} logged steps), "
        f"{per_cent(window.mean / start)} of the {start:.3g} at the start: the policy hardly tries anything else",
        "raise method.entropy_weight or rollout.temperature, lower train.learning_rate, or hold the policy nearer to "
        "the reference with method.kl_weight; if the reward is as high as it can get, stop here",
        step,
    )


def _length_drift(step: int, metrics: Metrics, history: History, settings: AlertSettings) -> Verdict:
    """The window's mean length is outside of two shares of that of the first window."""
    name = "completions/mean_length"
    window = history.window(name)
    if name not in metrics or not window.full or (settings.shorter is None and settings.longer is None):
        return None
    first = history.first_mean[name]
    low, high = settings.shorter or 0.0, settings.longer or math.inf
    if low * first <= window.mean <= high * first:
        return False
    longer = window.mean > first
    return Alert(
        "warn",
        "length_drift",
        f"answers have become {'longer' if longer else 'shorter'}: {window.mean:.4g} tokens in the mean over the last "
        f"{len(window.values)} logged steps, {first:.4g} in the first",
        (
            "read whether they say more; if the reward pays length, add a length penalty to reward.shaping, or raise "
            "method.kl_weight; rollout.max_new_tokens with method.truncated bounds what is paid"
            if longer
            else "read whether they still answer; if ending early avoids a penalty, look at reward.shaping and "
            "method.truncated, set rollout.min_new_tokens, or raise method.kl_weight"
        ),
        step,
    )


def _policy_step_large(step: int, metrics: Metrics, history: History, settings: AlertSettings) -> Verdict:
    """Clipping holds back too much, or the KL to the sampling policy is too large."""
    both = {"policy/clipfrac": settings.clip_fraction, "policy/approxkl": settings.approx_kl}
    limits = {name: limit for name, limit in both.items() if limit is not None}
    found = {name: value for name in limits if (value := recent(name, metrics, history)) is not None}
    if not found:
        return None
    large = [f"{name} is {value:.3g} (limit {limits[name]:g})" for name, value in found.items() if value > limits[name]]
    if not large:
        return False
    return Alert(
        "warn",
        "policy_step_large",
        f"{' and '.join(large)}, mean of the last {SOON} logged steps: the policy leaves the one that sampled its "
        "answers too fast",
        "lower train.learning_rate, make fewer passes over a batch (rollout.ppo_epochs), or set method.target_kl to "
        "stop them early",
        step,
    )


def _critic_explains_nothing(step: int, metrics: Metrics, history: History, settings: AlertSettings) -> Verdict:
    """The explained variance of the window is at most 0 (or what is set) after the critic's first windows."""
    name, least = "value/explained_variance", settings.explained_variance
    window = history.window(name)
    if name not in metrics or least is None or not window.full:
        return None
    if not _after(VALUE_WINDOWS, name, step, history, settings):
        return None
    if window.mean > least:
        return False
    return Alert(
        "warn",
        "critic_explains_nothing",
        f"{name} is {window.mean:.3g} over the last {len(window.values)} logged steps: the critic predicts returns "
        + ("no better than a constant, and adds its errors to the advantages" if least <= 0 else "too badly"),
        "raise critic.learning_rate, let the critic learn alone at first with method.value_pretraining, or use a "
        "method without a critic (GRPO, RLOO)",
        step,
    )


def _groups_without_signal(step: int, metrics: Metrics, history: History, settings: AlertSettings) -> Verdict:
    """In most groups all answers have the same reward."""
    share = recent_above("frac_reward_zero_std", settings.zero_std_share, metrics, history)
    if share is None or share is False:
        return share
    level = f" (mean reward {metrics['reward']:.3g})" if "reward" in metrics else ""
    return Alert(
        "warn",
        "groups_without_signal",
        f"in {per_cent(share)} of the groups all answers have the same reward{level}, over the last {SOON} logged "
        "steps: comparing them teaches nothing",
        "choose prompts that are neither solved nor out of reach, sample more answers to each "
        "(rollout.completions_per_prompt), raise rollout.temperature, or use a reward with more grades",
        step,
    )


def _batch_not_filled(step: int, metrics: Metrics, history: History, settings: AlertSettings) -> Verdict:
    """Dynamic sampling has run out of rounds or of prompts."""
    share = recent_above("rollout/unfilled", settings.unfilled_share, metrics, history)
    if share is None or share is False:
        return share
    accepted = metrics.get("rollout/acceptance")
    few = "too few" if accepted is None else f"only {per_cent(accepted)} of the"
    return Alert(
        "warn",
        "batch_not_filled",
        f"{per_cent(share)} of a batch is missing after all rounds of dynamic sampling, over the last {SOON} logged "
        f"steps: {few} prompts are answered both well and badly",
        "choose prompts that are neither solved nor out of reach, sample more answers to each "
        "(rollout.completions_per_prompt), allow more rounds (rollout.dynamic_rounds), or use more prompts; the batch "
        "is trained on as it is",
        step,
    )


def _completions_capped(step: int, metrics: Metrics, history: History, settings: AlertSettings) -> Verdict:
    """Most answers reach the length limit."""
    share = recent_above("completions/clipped_ratio", settings.capped_share, metrics, history)
    if share is None or share is False:
        return share
    return Alert(
        "warn",
        "completions_capped",
        f"{per_cent(share)} of the answers were cut off before they ended, over the last {SOON} logged steps: the "
        "reward sees beginnings",
        "raise rollout.max_new_tokens, and decide with method.truncated what a cut answer is worth; if answers do not "
        "end at all, the model does not know the template's end token (train it with sft first, or set rollout.stop)",
        step,
    )


def _reward_errors(step: int, metrics: Metrics, history: History, settings: AlertSettings) -> Verdict:
    """More than a few answers have no reward."""
    share = recent_above("rewards/error_rate", settings.error_share, metrics, history)
    if share is None or share is False:
        return share
    return Alert(
        "warn",
        "reward_errors",
        f"{per_cent(share)} of the answers of the last {SOON} logged steps have no reward, because scoring failed; "
        "their prompts are left out",
        "what is left out may not be left out by chance: see the errors with `plaudit score` on some answers and mend "
        "what scores; past reward.max_error_fraction the run stops",
        step,
    )


def _repeated_text(step: int, metrics: Metrics, history: History, settings: AlertSettings) -> Verdict:
    """Answers repeat themselves: much, or much more than at first."""
    name = "completions/repetition"
    share, window = recent(name, metrics, history), history.window(name)
    limit, rise = settings.repeated_share, settings.repeated_rise
    if share is None or (limit is None and rise is None):
        return None
    first = history.first_mean.get(name)
    risen = first is not None and rise is not None and window.mean > max(2 * first, first + rise)
    if (limit is None or share <= limit) and not risen:
        return False
    start = f", {per_cent(first)} in the first" if first is not None and risen else ""
    value = window.mean if risen else share
    return Alert(
        "warn",
        "repeated_text",
        f"{per_cent(value)} of an answer's 4-grams repeat earlier ones (mean of the last "
        f"{len(window.values) if risen else SOON} logged steps{start})",
        "read samples: a policy that loops has found that the reward pays it, or is breaking down; raise "
        "method.kl_weight, lower train.learning_rate, or punish repetition in the reward; where it looped from the "
        "start, raise rollout.temperature or begin with a model that was trained with sft",
        step,
    )


def _reward_flat(step: int, metrics: Metrics, history: History, settings: AlertSettings) -> Verdict:
    """The window's mean reward is not above that of the first window by more than its standard errors."""
    window, errors = history.window("reward"), settings.flat_errors
    if (
        "reward" not in metrics
        or errors is None
        or not window.full
        or not _after(FLAT_WINDOWS, "reward", step, history, settings)
    ):
        return None
    first = history.first_mean["reward"]
    error = math.hypot(window.standard_error, history.first_error["reward"])
    if window.mean > first + errors * error:
        return False
    return Alert(
        "warn",
        "reward_flat",
        f"the reward does not rise: mean {window.mean:.4g} over the last {len(window.values)} logged steps, "
        f"{first:.4g} in the first",
        "if kl and policy/approxkl are near 0, raise train.learning_rate or lower method.kl_weight; if prompts are too "
        "hard for any answer to earn something, begin with easier ones or raise rollout.completions_per_prompt; check "
        "the reward itself on samples",
        step,
    )


def _held_out_reward_falls(step: int, metrics: Metrics, history: History, settings: AlertSettings) -> Verdict:
    """Newer against older half of the evaluations: the reward falls there and rises in training."""
    held_out, trained = history.window("eval/reward"), history.window(WHEN_EVALUATED)
    errors = settings.held_out_errors
    if "eval/reward" not in metrics or errors is None or not (held_out.full and trained.full):
        return None
    falls = held_out.rise < 0 and -held_out.rise >= errors * held_out.rise_error
    rises = trained.rise > 0 and trained.rise >= errors * trained.rise_error
    if not (falls and rises):
        return False
    return Alert(
        "warn",
        "held_out_reward_falls",
        f"over the last {len(held_out.values)} evaluations eval/reward has fallen by {-held_out.rise:.3g}, and the "
        f"reward in training has risen by {trained.rise:.3g} (newer half against older half): what the policy learns "
        "pays on the training prompts alone",
        "read held-out samples; best/ (chosen by eval.best_metric) may be the better model, and "
        "eval.early_stopping_patience stops in time; use more prompts, lower train.epochs or train.learning_rate, or "
        "raise method.kl_weight",
        step,
    )


def _sampling_gap(step: int, metrics: Metrics, history: History, settings: AlertSettings) -> Verdict:
    """What was sampled and what is scored are different distributions."""
    mean, k3, ess = (recent(f"rollout/{name}", metrics, history) for name in ("gap_mean", "gap_k3", "ess"))
    if mean is None and k3 is None and ess is None:
        return None
    limits, large = settings, []
    if mean is not None and limits.gap_mean is not None and mean > limits.gap_mean:
        large.append(f"they differ by {mean:.3g} nats per token in the mean (limit {limits.gap_mean:g})")
    if k3 is not None and limits.gap_k3 is not None and k3 > limits.gap_k3:
        large.append(f"their KL is {k3:.3g} nats per token (limit {limits.gap_k3:g})")
    if ess is not None and limits.gap_ess is not None and ess < limits.gap_ess:
        large.append(f"the effective sample size is {per_cent(ess)} (limit {per_cent(limits.gap_ess)})")
    if not large:
        return False
    most = f"; the largest gap of a token is {metrics['rollout/gap_max']:.3g}" if "rollout/gap_max" in metrics else ""
    return Alert(
        "warn",
        "sampling_gap",
        f"log-probs as sampled and as scored are not those of one policy: {', '.join(large)}, over the last {SOON} "
        f"logged steps{most}",
        "sample without filters (rollout.top_k, rollout.top_p, rollout.min_p) and from present weights "
        "(rollout.ahead=0), or weight the difference with rollout.correction=token_truncate; if there is neither "
        "filter nor age, model.precision=fp32 shows whether rounding is the cause",
        step,
    )


def _after(windows: int, name: str, step: int, history: History, settings: AlertSettings) -> bool:
    """Whether this many windows have passed since the first full one."""
    return step >= history.first_full_at[name] + windows * settings.alert_after


ONLINE_RULES: Mapping[str, Rule] = {
    "kl_over_budget": _kl_over_budget,
    "kl_jump": _kl_jump,
    "entropy_collapse": _entropy_collapse,
    "length_drift": _length_drift,
    "policy_step_large": _policy_step_large,
    "critic_explains_nothing": _critic_explains_nothing,
    "groups_without_signal": _groups_without_signal,
    "batch_not_filled": _batch_not_filled,
    "completions_capped": _completions_capped,
    "reward_errors": _reward_errors,
    "repeated_text": _repeated_text,
    "reward_flat": _reward_flat,
    "held_out_reward_falls": _held_out_reward_falls,
    "sampling_gap": _sampling_gap,
    **HACKING_RULES,
}
"""By code, in the order in which a step's alerts are raised."""
