"""Alerts that the reward is being won and not what it stands for: too much of it, a gold reward that falls, answers
that the reward model does not know.

Sources: Gao et al. 2022 (arXiv 2210.10760) for gold against proxy; Coste et al. 2023 (2310.02743) for the members'
disagreement; Miao et al. 2024 (InfoRM, 2402.09345) for answers that are outliers to the reward model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase

from plaudit.runs.alert_history import (
    SOON,
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

_LOOK = "read the answers with the highest rewards (samples.jsonl, rollout.save)"


def _reward_above(step: int, metrics: Metrics, history: History, settings: AlertSettings) -> Verdict:
    """The mean reward of the last logged steps is above an absolute threshold."""
    limit = settings.reward_above
    reward = recent_above("reward", limit, metrics, history)
    if reward is None or reward is False:
        return reward
    return Alert(
        "warn",
        "reward_above",
        f"the reward is {reward:.4g} (mean of the last {SOON} logged steps) and watch.reward_above {limit:g}: a "
        "learned reward that is nearly all won has little left to tell good from better",
        f"{_LOOK} and judge by something else than this reward; stop here, or go on with a reward model that has seen "
        "such answers",
        step,
    )


def _proxy_up_gold_down(step: int, metrics: Metrics, history: History, settings: AlertSettings) -> Verdict:
    """Over some window of evaluations the reward has risen and gold has fallen, prompt by prompt."""
    name, limit = "eval/gold_divergence", settings.gold_errors
    if name not in metrics or limit is None:
        return None
    errors = metrics[name]
    if errors < limit:
        return False
    span = round(metrics.get("eval/gold_divergence_span", 0))
    levels = ", ".join(f"{n} is {metrics[n]:.4g}" for n in ("eval/reward", "eval/gold") if n in metrics)
    return Alert(
        "warn",
        "proxy_up_gold_down",
        f"over the last {span} evaluations the held-out reward has risen and gold has fallen (newer half against older "
        f"half), each by {errors:.3g} standard errors or more; {levels}: the policy is learning what the reward gets "
        "wrong",
        "stop here and take the model that gold likes best: best/ with eval.best_metric=eval/gold, or one of "
        "checkpoint.kl_grid; then raise method.kl_weight, bound the reward (reward.shaping: par), or train the reward "
        "model on such answers",
        step,
    )


def _gold_correlation(step: int, metrics: Metrics, history: History, settings: AlertSettings) -> Verdict:
    """Reward and gold hardly agree about the answers of the last evaluations."""
    found, limit = recent("eval/gold_correlation", metrics, history), settings.gold_correlation
    if found is None or limit is None:
        return None
    if found >= limit:
        return False
    return Alert(
        "warn",
        "gold_correlation",
        f"over the held-out answers reward and gold correlate by {found:.3g} (mean of the last {SOON} evaluations, "
        f"limit {limit:g}): a higher reward no longer means a better answer",
        f"{_LOOK}; where it was so from the start, the reward or gold is not what you think; where it has fallen, an "
        "earlier model is the better one (best/ with eval.best_metric=eval/gold)",
        step,
    )


Judge = Callable[[str, float, History, AlertSettings], str | None]
"""(metric, mean of its last values, …) → what is wrong, None where nothing is."""


def _of_each(pattern: str, code: str, key: str, judge: Judge, advice: str) -> Rule:
    """A rule about every reward model: the first of which something is wrong is named, the others behind it."""

    def rule(step: int, metrics: Metrics, history: History, settings: AlertSettings) -> Verdict:
        names = [name for name in sorted(metrics) if fnmatchcase(name, pattern)]
        values = {name: value for name in names if (value := recent(name, metrics, history)) is not None}
        if not values or getattr(settings, key) is None:
            return None
        wrong = [said for name, value in values.items() if (said := judge(name, value, history, settings))]
        return Alert("warn", code, "; ".join(wrong), advice, step) if wrong else False

    return rule


def _above_range(name: str, share: float, history: History, settings: AlertSettings) -> str | None:
    assert settings.above_range is not None
    if share <= settings.above_range:
        return None
    return (
        f"{name} is {per_cent(share)} (mean of the last {SOON} logged steps, limit {per_cent(settings.above_range)}): "
        "the reward model scores these answers higher than any that it was measured on"
    )


def _disagreement(name: str, now: float, history: History, settings: AlertSettings) -> str | None:
    assert settings.disagreement is not None
    start = history.first_value[name]
    if now <= settings.disagreement * start:
        return None
    return (
        f"{name} is {now:.3g} (mean of the last {SOON} logged steps), {now / start:.3g} times the {start:.3g} at the "
        "start"
        if start > 0
        else f"{name} is {now:.3g} and was 0 at the start"
    ) + ": the members of the ensemble no longer agree about the answers"


def _outliers(name: str, share: float, history: History, settings: AlertSettings) -> str | None:
    assert settings.outliers is not None
    if share <= settings.outliers:
        return None
    return (
        f"{name} is {per_cent(share)} (mean of the last {SOON} logged steps, limit {per_cent(settings.outliers)}, 1 % "
        "is expected): these answers lie where the reward model has seen none of the reference policy's"
    )


HACKING_RULES: Mapping[str, Rule] = {
    "reward_above": _reward_above,
    "proxy_up_gold_down": _proxy_up_gold_down,
    "gold_correlation": _gold_correlation,
    "score_above_range": _of_each(
        "rewards/*/above_range",
        "score_above_range",
        "above_range",
        _above_range,
        f"{_LOOK}: scores out there are extrapolated; raise method.kl_weight, bound the reward (reward.shaping: par or "
        "clip), or label some of these answers and train the reward model on them",
    ),
    "members_disagree": _of_each(
        "rewards/*/disagreement",
        "members_disagree",
        "disagreement",
        _disagreement,
        "combine the members by min or uwo (`plaudit reward-model ensemble --combine`), raise method.kl_weight, or "
        "train the members on answers like these",
    ),
    "reward_outliers": _of_each(
        "rewards/*/outliers",
        "reward_outliers",
        "outliers",
        _outliers,
        f"{_LOOK}; raise method.kl_weight, take an earlier model, or train the reward model on answers of this policy",
    ),
}
"""By code, in the order in which a step's alerts are raised."""
