"""Which curve shows what an alert is about."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from plaudit.runs.curves import Curves
from plaudit.runs.metrics import EVAL_PREFIX

CURVES_OF: Mapping[str, tuple[str, ...]] = {
    "learning_rate_unusual": ("learning_rate",),
    "margins_flat": ("rewards/margins",),
    "chosen_logp_falling": ("rewards/chosen", "logps/chosen"),
    "always_clipped": ("grad_norm",),
    "loss_not_falling": ("loss",),
    "kl_over_budget": ("kl",),
    "kl_jump": ("kl",),
    "entropy_collapse": ("entropy",),
    "length_drift": ("completions/mean_length",),
    "policy_step_large": ("policy/approxkl", "policy/clipfrac"),
    "critic_explains_nothing": ("value/explained_variance",),
    "groups_without_signal": ("frac_reward_zero_std",),
    "batch_not_filled": ("rollout/unfilled",),
    "completions_capped": ("completions/clipped_ratio",),
    "reward_errors": ("rewards/error_rate",),
    "repeated_text": ("completions/repetition",),
    "reward_flat": ("reward",),
    "held_out_reward_falls": ("reward",),
    "sampling_gap": ("rollout/gap_mean", "rollout/gap_k3", "rollout/ess"),
    "reward_above": ("reward",),
    "proxy_up_gold_down": ("gold", "reward"),
    "gold_correlation": ("gold_correlation",),
    "score_above_range": ("rewards/*/above_range",),
    "members_disagree": ("rewards/*/disagreement",),
    "reward_outliers": ("rewards/*/outliers",),
}
"""Code → names or patterns of metrics, the most telling first. Of "not_finite" the values tell, of "early_stopping"
the configuration."""


def curves_of(alert: Mapping[str, Any], curves: Curves, config: Mapping[str, Any]) -> list[str]:
    """The metrics (without the eval prefix) whose curves an alert is to be marked on; empty where none was logged."""
    code, step = alert.get("code"), alert.get("step")
    logged = list(dict.fromkeys(name.removeprefix(EVAL_PREFIX) for name in curves))
    if code == "not_finite":
        bad = [n for n, points in curves.items() if any(s == step and not math.isfinite(v) for s, v in points)]
        return list(dict.fromkeys(name.removeprefix(EVAL_PREFIX) for name in bad))
    if code == "early_stopping":
        best = (config.get("eval") or {}).get("best_metric")
        patterns: tuple[str, ...] = (str(best).removeprefix(EVAL_PREFIX),)
    else:
        patterns = CURVES_OF.get(str(code), ())
    return [name for pattern in patterns for name in logged if fnmatchcase(name, pattern)]
