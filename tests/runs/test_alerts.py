from __future__ import annotations

import json
import math
import random

import pytest

from plaudit.config.load import resolve
from plaudit.methods import find
from plaudit.runs.alerts import FULL_LEARNING_RATES, LORA_LEARNING_RATES, Alert, AlertRules, AlertSettings
from plaudit.train.announce import alert_settings

Stream = list[tuple[int, dict[str, float]]]


def run(settings: AlertSettings, stream: Stream) -> list[Alert]:
    rules = AlertRules(settings)
    return [alert for step, metrics in stream for alert in rules.check(step, metrics)]


def codes(alerts: list[Alert]) -> list[tuple[int, str]]:
    return [(a.step, a.code) for a in alerts]


def healthy(steps: int = 200, seed: int = 0) -> Stream:
    """A DPO run as it should be: margins grow from 0, the chosen reward stays near 0."""
    rng = random.Random(seed)
    return [
        (
            s,
            {
                "loss": 0.693 * math.exp(-s / 100) + rng.gauss(0, 0.02),
                "grad_norm": 0.4 + rng.random(),
                "rewards/chosen": 0.002 * s + rng.gauss(0, 0.05),
                "rewards/margins": 0.01 * s + rng.gauss(0, 0.05),
            },
        )
        for s in range(1, steps + 1)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_a_healthy_run_raises_nothing(seed: int) -> None:
    settings = AlertSettings(max_grad_norm=1.0, learning_rate=1e-4, watch_loss=True)
    assert AlertRules(settings).at_start() == []
    assert run(settings, healthy(seed=seed)) == []


def test_not_finite_is_an_error_once_and_again_after_it_was_gone() -> None:
    stream: Stream = [(s, {"loss": math.nan if s in (3, 4, 30) else 1.0}) for s in range(1, 40)]
    alerts = run(AlertSettings(alert_after=10), stream)
    assert codes(alerts) == [(3, "not_finite"), (30, "not_finite")]
    assert alerts[0].level == "error"
    assert "loss = nan" in alerts[0].message
    assert "learning rate" in alerts[0].advice


def test_a_short_pause_does_not_re_arm() -> None:
    stream: Stream = [(s, {"grad_norm": math.inf if s in (3, 8, 13) else 1.0}) for s in range(1, 20)]
    assert codes(run(AlertSettings(alert_after=10), stream)) == [(3, "not_finite")]


def test_a_metric_besides_loss_and_gradient_is_a_warning() -> None:
    assert run(AlertSettings(), [(1, {"perplexity": math.inf})])[0].level == "warn"
    assert run(AlertSettings(), [(1, {"eval/loss": math.inf})])[0].level == "error"


@pytest.mark.parametrize("size", [0.0, 1e-4, 0.05])
def test_flat_margins(size: float) -> None:
    rng = random.Random(1)
    stream: Stream = [(s, {"rewards/margins": rng.choice((-1, 1)) * size}) for s in range(1, 60)]
    alerts = run(AlertSettings(alert_after=20), stream)
    assert codes(alerts)[0] == (20, "margins_flat")
    assert len(alerts) == 1


def test_flat_margins_wait_for_enough_logged_steps() -> None:
    stream: Stream = [(s, {"rewards/margins": 0.0}) for s in range(50, 500, 50)]
    assert codes(run(AlertSettings(alert_after=20), stream)) == [(250, "margins_flat")]


def test_small_but_steady_margins_are_a_signal() -> None:
    stream: Stream = [(s, {"rewards/margins": 0.004 + 0.001 * (s % 3)}) for s in range(1, 60)]
    assert run(AlertSettings(alert_after=20), stream) == []


def falling(steps: int, *, margins_rise: bool = True) -> Stream:
    sign = 1 if margins_rise else -1
    return [
        (s, {"rewards/chosen": -0.02 * s, "rewards/margins": 3 + sign * 0.01 * s, "loss": 0.5})
        for s in range(1, steps + 1)
    ]


def test_chosen_falling_while_margins_rise() -> None:
    alerts = run(AlertSettings(alert_after=20, chosen_reward_floor=-1.0), falling(200))
    assert [a.code for a in alerts] == ["chosen_logp_falling"]
    # The mean of twenty steps of −0.02 s is first below −1 when their middle, s − 9.5, is above 50.
    assert alerts[0].step == 60
    assert "NLL" in alerts[0].advice
    assert "beta" in alerts[0].advice


def test_chosen_falling_needs_rising_margins_and_a_fall() -> None:
    assert run(AlertSettings(), falling(200, margins_rise=False)) == []
    steady: Stream = [(s, {"rewards/chosen": -3.0, "rewards/margins": 1 + 0.01 * s}) for s in range(1, 100)]
    assert run(AlertSettings(), steady) == []


def test_chosen_falling_without_rewards_uses_the_log_prob() -> None:
    stream: Stream = [(s, {"logps/chosen": -200 - 0.5 * s, "rewards/margins": 1 + 0.01 * s}) for s in range(1, 100)]
    alerts = run(AlertSettings(alert_after=20, chosen_logp_drop=20.0), stream)
    assert codes(alerts) == [(61, "chosen_logp_falling")]


def test_always_clipped_needs_every_step() -> None:
    clipped: Stream = [(s, {"grad_norm": 3.0}) for s in range(1, 50)]
    alerts = run(AlertSettings(alert_after=20, max_grad_norm=1.0), clipped)
    assert codes(alerts) == [(20, "always_clipped")]
    assert alerts[0].level == "info"
    once: Stream = [(s, {"grad_norm": 0.9 if s % 15 == 0 else 3.0}) for s in range(1, 50)]
    assert run(AlertSettings(alert_after=20, max_grad_norm=1.0), once) == []
    assert run(AlertSettings(alert_after=20, max_grad_norm=None), clipped) == []


def test_loss_not_falling_only_where_it_is_watched() -> None:
    rng = random.Random(3)
    flat: Stream = [(s, {"loss": 2.0 + 0.05 * (-1) ** s}) for s in range(1, 100)]
    assert codes(run(AlertSettings(watch_loss=True), flat)) == [(40, "loss_not_falling")]
    assert run(AlertSettings(watch_loss=False), flat) == []
    down: Stream = [(s, {"loss": 2.0 - 0.01 * s + rng.gauss(0, 0.05)}) for s in range(1, 100)]
    assert run(AlertSettings(watch_loss=True), down) == []


@pytest.mark.parametrize(
    ("rate", "limits", "side"),
    [
        (2e-3, LORA_LEARNING_RATES, "above"),
        (1e-6, LORA_LEARNING_RATES, "below"),
        (1e-3, LORA_LEARNING_RATES, None),
        (2e-4, FULL_LEARNING_RATES, "above"),
        (5e-7, FULL_LEARNING_RATES, None),
    ],
)
def test_learning_rate(rate: float, limits: tuple[float, float], side: str | None) -> None:
    alerts = AlertRules(AlertSettings(learning_rate=rate, learning_rate_range=limits)).at_start()
    if side is None:
        assert alerts == []
    else:
        assert [a.code for a in alerts] == ["learning_rate_unusual"]
        assert side in alerts[0].message


@pytest.mark.parametrize("cut", [1, 7, 19, 20, 45, 61, 120])
def test_resumed_rules_raise_what_uninterrupted_ones_do(cut: int) -> None:
    settings = AlertSettings(alert_after=20, max_grad_norm=1.0, watch_loss=True)
    stream = [
        (s, {**m, "grad_norm": 2.0 if s < 50 or s > 90 else 0.5, "rewards/margins": 0.0 if s < 40 else 1.0 + 0.01 * s})
        for s, m in falling(180)
    ]
    whole = run(settings, stream)
    assert {a.code for a in whole} == {"margins_flat", "always_clipped", "chosen_logp_falling", "loss_not_falling"}
    first = AlertRules(settings)
    alerts = [a for step, metrics in stream[:cut] for a in first.check(step, metrics)]
    second = AlertRules(settings)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    alerts += [a for step, metrics in stream[cut:] for a in second.check(step, metrics)]
    assert alerts == whole


def test_a_reward_models_scores_may_fall() -> None:
    """They have no zero: only their differences are trained."""
    assert run(AlertSettings(alert_after=20, watch_chosen=False), falling(200)) == []
    for name, watched in (("reward", False), ("dpo", True)):
        found = resolve(name, (), {"model": "m", "data": "d.jsonl"}, files_exist=False)
        assert alert_settings(found.run, find(name)(found.method_config)).watch_chosen == watched
