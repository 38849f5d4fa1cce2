"""Alerts of reward hacking: exactly at their thresholds, and none where a rule is switched off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import pytest

from plaudit.config.schema import WatchSection
from plaudit.config.watch_checks import SWITCHES
from plaudit.runs.alerts import Alert, AlertRules, AlertSettings
from plaudit.runs.metrics import is_known
from plaudit.runs.online_alerts import ONLINE_RULES
from tests.runs.test_online_alerts import RAISES, codes, run, stream

ON = AlertSettings(alert_after=20, reward_above=0.9)


# (metrics, at which step it is raised first, and words of the message); thresholds are inclusive or not as written
CASES: list[tuple[str, dict[str, Callable[[int], float] | float], int | None, str]] = [
    # Three logged steps, and above, not at, 0.9.
    ("reward_above", {"reward": lambda s: 0.9 if s < 10 else 0.93}, 10, "the reward is 0.91"),
    ("reward_above", {"reward": 0.8999}, None, ""),
    # A single evaluation with 3 errors or more.
    ("proxy_up_gold_down", {"eval__gold_divergence": lambda s: 3.0 if s == 7 else 2.99}, 7, "by 3 standard errors"),
    ("proxy_up_gold_down", {"eval__gold_divergence": 2.999}, None, ""),
    # The mean of three below 0.1: 0.2, 0.2, −0.11 is 0.0967.
    ("gold_correlation", {"eval__gold_correlation": lambda s: 0.2 if s < 9 else -0.11}, 9, "correlate by 0.0967"),
    ("gold_correlation", {"eval__gold_correlation": 0.1}, None, ""),
    # 0.16 in one of three batches is 0.0533.
    ("score_above_range", {"rewards__rm__above_range": lambda s: 0.16 if s == 5 else 0.0}, 5, "5.33 % (mean of"),
    ("score_above_range", {"rewards__rm__above_range": 0.0499}, None, ""),
    # Twice the first value, 0.4: 0.4, 0.4, 1.5 is 0.767, and 0.4, 1.5, 1.5 is 1.133.
    ("members_disagree", {"rewards__both__disagreement": lambda s: 0.4 if s < 9 else 1.5}, 10, "2.83 times the 0.4"),
    ("members_disagree", {"rewards__both__disagreement": lambda s: 0.4 if s < 9 else 0.79}, None, ""),
    ("members_disagree", {"rewards__both__disagreement": lambda s: 0.0 if s < 9 else 0.1}, 9, "was 0 at the start"),
    ("reward_outliers", {"rewards__rm__outliers": lambda s: 0.01 if s < 9 else 0.3}, 9, "10.7 %"),
    ("reward_outliers", {"rewards__rm__outliers": 0.0999}, None, ""),
]


@pytest.mark.parametrize(("code", "metrics", "at", "words"), CASES, ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)])
def test_raised_exactly_at_the_threshold(
    code: str, metrics: dict[str, Callable[[int], float] | float], at: int | None, words: str
) -> None:
    alerts = [a for a in run(stream(40, **metrics), ON) if a.code == code]
    assert codes(alerts) == ([] if at is None else [(at, code)])
    assert all(words in a.message for a in alerts)
    assert all(name.replace("__", "/") in a.message or "reward" in a.message for a in alerts for name in metrics)


def test_every_reward_model_is_watched_and_named() -> None:
    [alert] = run(stream(5, rewards__a__outliers=0.5, rewards__b__outliers=0.01, rewards__c__outliers=0.2), ON)
    assert alert.code == "reward_outliers"
    assert "rewards/a/outliers is 50 %" in alert.message
    assert "rewards/c/outliers is 20 %" in alert.message
    assert "rewards/b" not in alert.message


@pytest.mark.parametrize("code", SWITCHES)
def test_null_switches_a_rule_off(code: str) -> None:
    """Every rule that samples answers has a key (or several) for it, and fires with them."""
    settings = AlertSettings(alert_after=20, reward_above=100.0)
    streamed = stream(150, **RAISES[code])
    assert code in [a.code for a in run(streamed, settings)]
    off = replace(settings, **dict.fromkeys(SWITCHES[code], None))
    assert code not in [a.code for a in run(streamed, off)]


def test_every_rule_of_sampled_answers_has_its_keys_and_the_defaults_are_those_of_the_settings() -> None:
    assert SWITCHES.keys() == ONLINE_RULES.keys()
    keys = {f.name for f in fields(AlertSettings)} & set(WatchSection.model_fields)
    assert {k for keys in SWITCHES.values() for k in keys} | {"chosen_reward_floor", "chosen_logp_drop"} == keys
    assert {k: getattr(WatchSection(), k) for k in keys} == {k: getattr(AlertSettings(), k) for k in keys}


def test_thresholds_move_the_rules() -> None:
    """Each as far as its stream goes: one more or less is no alert any more."""
    moved = AlertSettings(alert_after=20, reward_above=101.0, gold_errors=3.1, gold_correlation=0.09)
    moved = replace(moved, above_range=0.06, disagreement=2.2, outliers=0.12, kl_jump=9.1, entropy_share=0.001)
    moved = replace(moved, longer=2.1, clip_fraction=0.5, explained_variance=-1.1, zero_std_share=1.0, capped_share=1.0)
    moved = replace(moved, error_share=0.02, repeated_rise=0.29, gap_k3=1.0, kl_budget=21.0, held_out_errors=99.0)
    moved = replace(moved, flat_errors=0.0, unfilled_share=0.5)
    for code in ONLINE_RULES:
        found: list[Alert] = run(stream(150, **RAISES[code]), moved)
        assert code not in [a.code for a in found] or code == "reward_flat", code


def test_states_of_reward_models_survive_a_resume() -> None:
    values = stream(40, rewards__rm__disagreement=lambda s: 1.0 if s < 30 else 2.5)
    first, second = AlertRules(ON), AlertRules(ON)
    for step, metrics in values[:25]:
        first.check(step, metrics)
    second.load_state_dict(first.state_dict())
    assert [a.step for step, metrics in values[25:] for a in second.check(step, metrics)] == [32]  # at 31 it is 2.0


@pytest.mark.parametrize(
    "name",
    [
        *("eval/gold", "eval/gold/error_rate", "eval/gold/rm/mean", "eval/gold_correlation", "eval/gold_gap"),
        *("eval/gold_divergence", "eval/gold_divergence_span", "eval/gold/excluded"),
        *("rewards/rm/above_range", "rewards/rm/disagreement", "rewards/rm/outliers"),
    ],
)
def test_the_metrics_are_in_the_table(name: str) -> None:
    assert is_known(name)
