"""Alerts with advice, computed from nothing but the stream of logged metrics.

Each cause has one rule. A rule sees one logged step at a time and answers with an `Alert` (the cause is present), False
(it is absent) or None (it cannot tell yet). An alert is raised when its cause appears, and again only after the cause
has been absent for `alert_after` steps.

Rules over time use the last logged steps: as many as span `alert_after` steps, and at least `MIN_POINTS`. Those of runs
that sample answers are in `plaudit.runs.online_alerts`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from plaudit.runs.alert_history import (
    FULL_LEARNING_RATES,
    LORA_LEARNING_RATES,
    Alert,
    AlertSettings,
    History,
    Metrics,
    Rule,
    Verdict,
    recent,
)
from plaudit.runs.online_alerts import ONLINE_RULES

FLAT_MARGIN = 1e-3
"""Margins below this change the implied preference probability by less than 0.0003."""


def _not_finite(step: int, metrics: Metrics, history: History, settings: AlertSettings) -> Verdict:
    """Any metric is not a number or infinite."""
    bad = sorted(name for name, value in metrics.items() if not math.isfinite(value))
    if not bad:
        return False
    fatal = any(name.removeprefix("eval/") in ("loss", "grad_norm") for name in bad)
    return Alert(
        "error" if fatal else "warn",
        "not_finite",
        f"not finite: {', '.join(f'{name} = {metrics[name]}' for name in bad)}",
        "lower the learning rate, lengthen the warm-up, train in fp32 once to see whether precision is the cause, and "
        "look at the rows of this step; parameters after such a step are not to be trusted",
        step,
    )


def _margins_flat(step: int, metrics: Metrics, history: History, settings: AlertSettings) -> Verdict:
    """The mean margin of the window is below `FLAT_MARGIN`, or within two standard errors of 0."""
    window = history.window("rewards/margins")
    if "rewards/margins" not in metrics or not window.full:
        return None
    mean = abs(window.mean)
    if mean > FLAT_MARGIN and mean > 2 * window.standard_error:
        return False
    return Alert(
        "warn",
        "margins_flat",
        f"rewards/margins cannot be told from 0 (mean {window.mean:.2g} over the last {len(window.values)} logged "
        "steps): the policy does not yet separate chosen from rejected",
        "if the warm-up is over: raise the learning rate or beta, check that chosen and rejected differ in what they "
        "should (data report, samples), and that labels are not random",
        step,
    )


def _chosen_falling(step: int, metrics: Metrics, history: History, settings: AlertSettings) -> Verdict:
    """The chosen log-prob is below its threshold and falls while the margin rises, newer against older half."""
    margins = history.window("rewards/margins")
    name = "rewards/chosen" if "rewards/chosen" in metrics else "logps/chosen"
    window = history.window(name)
    if not settings.watch_chosen or name not in metrics or "rewards/margins" not in metrics:
        return None
    if not (window.full and margins.full):
        return None
    on_rewards = name == "rewards/chosen"
    limit = settings.chosen_reward_floor if on_rewards else settings.chosen_logp_drop
    if limit is None:
        return None
    low = window.mean < (limit if on_rewards else history.first_mean[name] - limit)
    floor = f"below {limit:g}" if on_rewards else f"{limit:g} nats below its start"
    if not (low and window.rise < 0 and margins.rise > 0):
        return False
    return Alert(
        "warn",
        "chosen_logp_falling",
        f"{name} is {floor} (mean {window.mean:.3g}) and still falling while margins rise: the policy also unlearns "
        "the chosen answers",
        "normal in DPO within limits; if samples degrade: add an NLL term on the chosen answers, lower the learning "
        "rate, or raise beta",
        step,
    )


def _always_clipped(step: int, metrics: Metrics, history: History, settings: AlertSettings) -> Verdict:
    """Every gradient of the window was above the clipping norm."""
    window = history.window("grad_norm")
    if settings.max_grad_norm is None or "grad_norm" not in metrics or not window.full:
        return None
    if min(window.values) <= settings.max_grad_norm:
        return False
    median = sorted(window.values)[len(window.values) // 2]
    return Alert(
        "info",
        "always_clipped",
        f"every gradient of the last {len(window.values)} logged steps was clipped (median norm {median:.3g}, limit "
        f"{settings.max_grad_norm:g}): the limit now sets the size of the step",
        f"raise train.max_grad_norm above {median:.2g} if training is stable, or lower the learning rate if it is not",
        step,
    )


def _loss_not_falling(step: int, metrics: Metrics, history: History, settings: AlertSettings) -> Verdict:
    """The window's mean loss is not below that of the first window by more than one standard error."""
    window = history.window("loss")
    if not settings.watch_loss or "loss" not in metrics or not window.full:
        return None
    if step < history.first_full_at["loss"] + settings.alert_after:
        return None  # the windows would overlap
    first = history.first_mean["loss"]
    error = math.hypot(window.standard_error, history.first_error["loss"])
    if window.mean < first - error:
        return False
    return Alert(
        "warn",
        "loss_not_falling",
        f"the loss does not fall: mean {window.mean:.4g} over the last {len(window.values)} logged steps, "
        f"{first:.4g} in the first",
        "raise the learning rate if it is at the low end, check the mask view (which tokens are trained), and whether "
        "the model already knows the data",
        step,
    )


RULES: Mapping[str, Rule] = {
    "not_finite": _not_finite,
    "margins_flat": _margins_flat,
    "chosen_logp_falling": _chosen_falling,
    "always_clipped": _always_clipped,
    "loss_not_falling": _loss_not_falling,
    **ONLINE_RULES,
}


class AlertRules:
    """All rules over one run. The same stream of metrics gives the same alerts; the state goes into the checkpoint."""

    def __init__(self, settings: AlertSettings) -> None:
        self._settings = settings
        self._history = History(settings.alert_after)
        self._absent_since: dict[str, int | None] = {}
        """For each raised cause: the step since which it has been absent, None while present."""

    def at_start(self, step: int = 0) -> list[Alert]:
        """Alerts about the settings alone: a learning rate outside its usual range."""
        rate, (low, high) = self._settings.learning_rate, self._settings.learning_rate_range
        if rate is None or low <= rate <= high:
            return []
        side, other = ("above", "lower") if rate > high else ("below", "raise")
        return [
            Alert(
                "warn",
                "learning_rate_unusual",
                f"learning rate {rate:.2g} is {side} the usual range {low:g} to {high:g} for this kind of training",
                f"{other} train.learning_rate unless this is what you mean"
                + ("; too high a rate destroys the model before the loss shows it" if rate > high else ""),
                step,
            )
        ]

    def recent(self, name: str, metrics: Metrics) -> float | None:
        """Mean of the last three logged values of a metric that a checked step had; None where there are fewer."""
        return recent(name, metrics, self._history)

    def check(self, step: int, metrics: Metrics) -> list[Alert]:
        """The alerts that a logged step raises. Metrics of evaluations may be passed the same way."""
        self._history.add(step, metrics)
        raised: list[Alert] = []
        for code, rule in RULES.items():
            verdict = rule(step, metrics, self._history, self._settings)
            if isinstance(verdict, Alert):
                if code not in self._absent_since:
                    raised.append(verdict)
                self._absent_since[code] = None
            elif verdict is False and code in self._absent_since:
                since = self._absent_since[code]
                if since is None:
                    self._absent_since[code] = step
                elif step - since >= self._settings.alert_after:
                    del self._absent_since[code]
        return raised

    def state_dict(self) -> dict[str, Any]:
        """Plain values (JSON) from which `load_state_dict` goes on exactly."""
        history = self._history
        return {
            "points": {name: [list(p) for p in points] for name, points in history.points.items()},
            "first_value": dict(history.first_value),
            "first_mean": dict(history.first_mean),
            "first_error": dict(history.first_error),
            "first_full_at": dict(history.first_full_at),
            "absent_since": dict(self._absent_since),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        history = self._history
        kept = {name: [list(p) for p in points] for name, points in state["points"].items() if history.watches(name)}
        history.points = {**{name: [] for name in history.WATCHED}, **kept}
        history.first_value = dict(state.get("first_value", {}))
        history.first_mean = dict(state["first_mean"])
        history.first_error = dict(state["first_error"])
        history.first_full_at = dict(state["first_full_at"])
        self._absent_since = dict(state["absent_since"])


__all__ = ["FULL_LEARNING_RATES", "LORA_LEARNING_RATES", "RULES", "Alert", "AlertRules", "AlertSettings"]
