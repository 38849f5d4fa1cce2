"""Alerts of runs that sample answers: at which step each is raised, worked out by hand, and where none is."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from plaudit.config.schema import RunConfig
from plaudit.methods import available
from plaudit.runs.alerts import RULES, Alert, AlertRules, AlertSettings
from plaudit.runs.metrics import is_known
from plaudit.runs.online_alerts import ONLINE_RULES
from plaudit.runs.rundir import RunDir

Stream = list[tuple[int, dict[str, float]]]
SETTINGS = AlertSettings(alert_after=20, reward_above=100.0)
"""The defaults, and a threshold where there is none by default."""


def run(stream: Stream, settings: AlertSettings | None = None) -> list[Alert]:
    rules = AlertRules(settings or SETTINGS)
    return [alert for step, metrics in stream for alert in rules.check(step, metrics)]


def codes(alerts: list[Alert]) -> list[tuple[int, str]]:
    return [(a.step, a.code) for a in alerts]


def stream(steps: int = 60, every: int = 1, **values: Callable[[int], float] | float) -> Stream:
    """Logged steps with a reward that rises; names have __ for /."""

    def value(of: Callable[[int], float] | float, step: int) -> float:
        return of(step) if callable(of) else of

    names: dict[str, Callable[[int], float] | float] = {"reward": lambda s: 0.01 * s}
    names |= {name.replace("__", "/"): of for name, of in values.items()}
    return [(s, {name: value(of, s) for name, of in names.items()}) for s in range(1, steps + 1, every)]


def healthy(steps: int = 300, seed: int = 0) -> Stream:
    """A run as it should be: the reward rises, KL grows slowly, entropy halves, answers become a quarter longer."""
    rng = random.Random(seed)
    noise = rng.gauss
    return [
        (
            s,
            {
                "loss": noise(0, 0.01),
                "grad_norm": 0.5 + rng.random(),
                "reward": 0.2 + 0.6 * s / steps + noise(0, 0.05),
                "kl": max(0.0, 10 * s / steps + noise(0, 0.5)),
                "entropy": 0.6 * (1 - 0.5 * s / steps) + noise(0, 0.01),
                "policy/approxkl": 0.004 + abs(noise(0, 0.002)),
                "policy/clipfrac": 0.05 + abs(noise(0, 0.02)),
                "value/explained_variance": min(0.7, s / 40) - 0.2 + noise(0, 0.02),
                "frac_reward_zero_std": 0.3 + noise(0, 0.1),
                "rewards/error_rate": 0.0,
                "completions/mean_length": 100 * (1 + 0.25 * s / steps) + noise(0, 3),
                "completions/clipped_ratio": 0.1 + abs(noise(0, 0.05)),
                "completions/repetition": 0.05 + abs(noise(0, 0.01)),
                "rollout/gap_mean": 0.008,
                "rollout/gap_max": 0.6,
                "rollout/gap_k3": 0.0005,
                "rollout/ess": 0.97,
            },
        )
        for s in range(1, steps + 1)
    ]


@pytest.mark.parametrize("seed", range(8))
def test_a_healthy_run_raises_nothing(seed: int) -> None:
    assert run(healthy(seed=seed), AlertSettings(max_grad_norm=1.0, learning_rate=1e-5)) == []


# -- the policy's distance


def test_kl_over_budget_is_judged_from_three_logged_steps() -> None:
    # Mean of s − 2, s − 1, s is s − 1: above 20 at 22.
    alerts = run(stream(kl=lambda s: float(s)))
    assert codes(alerts) == [(22, "kl_over_budget")]
    assert "21 nats" in alerts[0].message
    assert "budget 20" in alerts[0].message
    assert "method.kl_weight" in alerts[0].advice


def test_the_kl_budget_is_a_setting() -> None:
    assert codes(run(stream(kl=lambda s: float(s)), AlertSettings(kl_budget=50.0))) == [(52, "kl_over_budget")]
    assert run(stream(kl=lambda s: float(s)), AlertSettings(kl_budget=None)) == []
    assert run(stream(kl=20.0)) == []


def test_kl_that_jumps() -> None:
    # 1, 1, 1, …, then 8: 8 ≥ 4 · 1 and 8 − 1 ≥ 5.
    alerts = run(stream(kl=lambda s: 8.0 if s == 30 else 1.0))
    assert codes(alerts) == [(30, "kl_jump")]
    assert "jumped to 8" in alerts[0].message
    assert "mean of 1 over the 19 logged steps" in alerts[0].message
    assert "method.target_kl" in alerts[0].advice


def test_kl_does_not_jump_by_little_or_by_a_small_share() -> None:
    assert run(stream(kl=lambda s: 5.9 if s == 30 else 1.0)) == []  # a rise of 4.9
    assert run(stream(kl=lambda s: 19.9 if s == 30 else 5.0)) == []  # 3.98 times
    assert codes(run(stream(kl=lambda s: 20.0 if s == 30 else 5.0))) == [(30, "kl_jump")]
    assert codes(run(stream(kl=lambda s: 5.1 if s == 30 else -0.2))) == [(30, "kl_jump")]  # k1 may be negative


def test_even_growth_of_kl_is_no_jump() -> None:
    settings = AlertSettings(kl_budget=None)
    assert run(stream(200, kl=lambda s: 3.0 * s), settings) == []
    assert run(stream(200, kl=lambda s: 0.02 * s * s), settings) == []
    assert run(stream(kl=lambda s: 100.0 if s == 4 else 0.0), settings) == []  # too few points to say


# -- entropy and answers


def test_entropy_collapse_is_measured_from_the_first_step() -> None:
    # 1 for 10 steps, then 0.1: the mean of 20 steps is 1 − 0.045 n at n collapsed ones, all 20 of the last at step 30.
    # Below 0.25 first at n = 17: (3 + 1.7) / 20 = 0.235.
    alerts = run(stream(entropy=lambda s: 1.0 if s <= 10 else 0.1))
    assert codes(alerts) == [(27, "entropy_collapse")]
    assert "23.5 % of the 1 at the start" in alerts[0].message
    assert {"method.entropy_weight", "rollout.temperature", "train.learning_rate"} <= keys(alerts[0].advice)


def test_entropy_that_halves_is_learning() -> None:
    assert run(stream(200, entropy=lambda s: 1.0 if s <= 20 else 0.25)) == []


@pytest.mark.parametrize(("after", "word", "key"), [(160.0, "longer", "max_new"), (40.0, "shorter", "min_new")])
def test_length_drift(after: float, word: str, key: str) -> None:
    alerts = run(stream(100, completions__mean_length=lambda s: 100.0 if s <= 40 else after))
    # Of 20 values n are new: 100 + 3 n > 150 first at n = 17; 100 − 3 n < 50 first at n = 17 too.
    assert codes(alerts) == [(57, "length_drift")]
    assert word in alerts[0].message
    assert f"rollout.{key}_tokens" in alerts[0].advice


def test_length_within_half_as_much_again_is_no_drift() -> None:
    assert run(stream(100, completions__mean_length=lambda s: 100.0 if s <= 40 else 150.0)) == []
    assert run(stream(100, completions__mean_length=lambda s: 100.0 if s <= 40 else 50.0)) == []


def test_capped_answers_are_told_after_three_batches() -> None:
    alerts = run(stream(every=4, completions__clipped_ratio=0.97))
    assert codes(alerts) == [(9, "completions_capped")]
    assert "97 %" in alerts[0].message
    assert {"rollout.max_new_tokens", "method.truncated"} <= keys(alerts[0].advice)
    assert run(stream(completions__clipped_ratio=0.5)) == []


def test_repeated_text() -> None:
    alerts = run(stream(completions__repetition=0.6))
    assert codes(alerts) == [(3, "repeated_text")]
    assert "60 %" in alerts[0].message
    assert run(stream(completions__repetition=0.5)) == []


def test_repetition_that_rises() -> None:
    # 0.05 in the first window, later 0.25: at n new ones of 20 the mean is 0.05 + 0.01 n > 0.15 first at 11.
    alerts = run(stream(80, completions__repetition=lambda s: 0.05 if s <= 30 else 0.25))
    assert codes(alerts) == [(41, "repeated_text")]
    assert "16 % of an answer's 4-grams" in alerts[0].message
    assert "5 % in the first" in alerts[0].message
    # From 0.2 it must double, and a rise of 0.09 is no rise.
    assert run(stream(80, completions__repetition=lambda s: 0.2 if s <= 30 else 0.4)) == []
    assert run(stream(80, completions__repetition=lambda s: 0.01 if s <= 30 else 0.1)) == []


# -- the update


def test_a_large_policy_step_names_what_is_large() -> None:
    alerts = run(stream(policy__clipfrac=0.31, policy__approxkl=0.02))
    assert codes(alerts) == [(3, "policy_step_large")]
    assert "policy/clipfrac is 0.31 (limit 0.3)" in alerts[0].message
    assert "approxkl" not in alerts[0].message
    assert {"train.learning_rate", "method.target_kl", "rollout.ppo_epochs"} <= keys(alerts[0].advice)
    both = run(stream(policy__clipfrac=0.4, policy__approxkl=0.5))
    assert "clipfrac is 0.4 (limit 0.3) and policy/approxkl is 0.5 (limit 0.1)" in both[0].message
    assert codes(run(stream(policy__approxkl=0.11))) == [(3, "policy_step_large")]  # a method without clipping
    assert run(stream(policy__clipfrac=0.299, policy__approxkl=0.099)) == []


def test_a_critic_has_two_windows_to_learn_in() -> None:
    # The first full window ends at 20; two more make 60.
    alerts = run(stream(100, value__explained_variance=-0.1))
    assert codes(alerts) == [(60, "critic_explains_nothing")]
    assert {"critic.learning_rate", "method.value_pretraining"} <= keys(alerts[0].advice)
    assert codes(run(stream(100, value__explained_variance=0.0))) == [(60, "critic_explains_nothing")]
    assert run(stream(100, value__explained_variance=lambda s: -1.0 if s < 40 else 0.2)) == []


# -- rewards


def test_groups_without_signal() -> None:
    alerts = run(stream(frac_reward_zero_std=lambda s: 0.9 if s > 10 else 0.5))
    # Two of three: 0.767; three of three: 0.9.
    assert codes(alerts) == [(13, "groups_without_signal")]
    assert "90 % of the groups" in alerts[0].message
    assert "mean reward 0.13" in alerts[0].message
    assert {"rollout.completions_per_prompt", "rollout.temperature"} <= keys(alerts[0].advice)
    assert run(stream(frac_reward_zero_std=0.799)) == []


def test_batch_not_filled() -> None:
    # 0, 0, 0.3: a tenth of three batches is allowed.
    assert run(stream(rollout__unfilled=lambda s: 0.3 if s == 5 else 0.0)) == []
    alerts = run(stream(rollout__unfilled=lambda s: 0.31 if s == 5 else 0.0))
    assert codes(alerts) == [(5, "batch_not_filled")]
    assert "10.3 % of a batch is missing" in alerts[0].message
    assert "rollout.dynamic_rounds" in alerts[0].advice


def test_reward_errors() -> None:
    # 4 of 100 in one batch are 1.33 % of three.
    alerts = run(stream(rewards__error_rate=lambda s: 0.04 if s == 5 else 0.0))
    assert codes(alerts) == [(5, "reward_errors")]
    assert "1.33 %" in alerts[0].message
    assert "reward.max_error_fraction" in alerts[0].advice
    assert run(stream(rewards__error_rate=lambda s: 0.03 if s == 5 else 0.0)) == []


def flat(s: int) -> dict[str, float]:
    return {"reward": 0.5 + 0.05 * (-1) ** s}


def test_reward_flat_after_three_more_windows() -> None:
    alerts = run([(s, flat(s)) for s in range(1, 120)])
    assert codes(alerts) == [(80, "reward_flat")]
    assert "mean 0.5 over the last 20 logged steps, 0.5 in the first" in alerts[0].message
    assert {"train.learning_rate", "method.kl_weight", "rollout.completions_per_prompt"} <= keys(alerts[0].advice)


def test_a_reward_that_rises_slowly_is_not_flat() -> None:
    # The standard error of a window of ±0.05 is 0.05 · √(20 / 19) / √20 = 0.01147; of two windows 0.01622.
    assert run([(s, {"reward": flat(s)["reward"] + (0.0163 if s > 20 else 0)}) for s in range(1, 120)]) == []
    told = run([(s, {"reward": flat(s)["reward"] + (0.0162 if s > 20 else 0)}) for s in range(1, 120)])
    assert codes(told) == [(80, "reward_flat")]


def test_a_reward_that_comes_back_to_its_start_is_flat() -> None:
    alerts = run([(s, {"reward": 0.5 if s <= 30 else 0.9 if s <= 150 else 0.4}) for s in range(1, 200)])
    # Of 20 values n are 0.4, the mean is 0.9 − 0.025 n and the squared standard error 0.25 n (20 − n) / 20 / 19 / 20.
    # n = 13: 0.575 > 0.5 + 0.0547, so it is still above; n = 14: 0.55 < 0.5 + 0.0526.
    assert codes(alerts) == [(164, "reward_flat")]


# -- evaluations


def evaluated(
    held_out: Callable[[int], float], trained: Callable[[int], float] = lambda s: 0.01 * s, every: int = 10
) -> Stream:
    """A reward at every step, and behind every tenth an evaluation, as the loop passes them."""
    found: Stream = []
    for s in range(1, 121):
        found.append((s, {"reward": trained(s)}))
        if s % every == 0:
            found.append((s, {"eval/reward": held_out(s)}))
    return found


def test_a_held_out_reward_that_falls_while_the_other_rises() -> None:
    # The sixth evaluation is the first to be judged: 0.4, 0.5, 0.6 against 0.1, 0.2, 0.3 below 1.
    alerts = run(evaluated(lambda s: 1.0 - 0.01 * s))
    assert codes(alerts) == [(60, "held_out_reward_falls")]
    # In training: means up to the last 20 steps, 0.055 0.105 0.205 0.305 0.405 0.505.
    assert (
        "over the last 6 evaluations eval/reward has fallen by 0.3, and the reward in training has risen by 0.283"
        in (alerts[0].message)
    )
    assert "method.kl_weight" in alerts[0].advice


def test_it_is_told_after_a_peak() -> None:
    # At 110: 0.7, 0.7, 0.6 against 0.6, 0.5, 0.4; the fall is 0.167, the errors 0.033 and 0.058, together 0.067.
    # At 120: 0.7, 0.6, 0.6 against 0.5, 0.4, 0.3; the fall is 0.233, three errors are 0.2.
    values = {50: 0.6, 60: 0.7, 70: 0.7, 80: 0.6, 90: 0.6, 100: 0.5, 110: 0.4, 120: 0.3}
    alerts = run(evaluated(lambda s: values.get(s, 0.01 * s)))
    assert codes(alerts) == [(120, "held_out_reward_falls")]


@pytest.mark.parametrize(
    ("held_out", "trained"),
    [
        (lambda s: 0.01 * s, lambda s: 0.01 * s),
        (lambda s: -0.01 * s, lambda s: -0.01 * s),
        (lambda s: -0.01 * s, lambda s: 1.0 + 0.1 * (-1) ** s),  # a reward that stands still is another cause
        (lambda s: 0.5 + 0.1 * (-1) ** (s // 10), lambda s: 0.01 * s),
        (lambda s: 0.5 - 0.0005 * s + 0.05 * (-1) ** (s // 10), lambda s: 0.01 * s),  # within what it scatters by
        (lambda s: 0.5, lambda s: 0.01 * s),
    ],
    ids=["both rise", "both fall", "no rise", "scatter", "little", "constant"],
)
def test_held_out_rewards_that_are_no_sign(held_out: Callable[[int], float], trained: Callable[[int], float]) -> None:
    assert "held_out_reward_falls" not in [a.code for a in run(evaluated(held_out, trained))]


def test_an_evaluation_that_is_done_again_tells_its_alerts_again(tmp_path: Path) -> None:
    """The checkpoint of a step is written before its evaluation: a resumed run must not tell it twice."""
    with RunDir.open(tmp_path / "run", "resume", {}) as record:
        for alert in run(evaluated(lambda s: 1.0 - 0.01 * s)):
            record.log_alert(alert)
        record.log_alert(Alert("warn", "repeated_text", "m", "a", 60))  # of the step itself
        record.truncate_after(60, evaluated=False)
        kept = [json.loads(line)["code"] for line in (record.path / "alerts.jsonl").read_text().splitlines()]
    assert kept == ["repeated_text"]


def test_five_evaluations_are_too_few() -> None:
    assert run(evaluated(lambda s: 1.0 - 0.01 * s, every=22)) == []


# -- sampling


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({"rollout__gap_mean": 0.06}, "differ by 0.06 nats per token in the mean (limit 0.05)"),
        ({"rollout__gap_k3": 0.02}, "KL is 0.02 nats per token (limit 0.01)"),
        ({"rollout__ess": 0.4}, "effective sample size is 40 % (limit 50 %)"),
        ({"rollout__gap_mean": 0.2, "rollout__gap_max": 7.25}, "the largest gap of a token is 7.25"),
    ],
)
def test_sampling_gap(metrics: dict[str, float], words: str) -> None:
    alerts = run(stream(**metrics))
    assert codes(alerts) == [(3, "sampling_gap")]
    assert words in alerts[0].message
    assert "rollout.correction=token_truncate" in alerts[0].advice


def test_a_small_gap_is_rounding() -> None:
    assert run(stream(rollout__gap_mean=0.049, rollout__gap_k3=0.009, rollout__ess=0.501, rollout__gap_max=9.0)) == []


# -- the mechanism

RAISES: dict[str, dict[str, Callable[[int], float] | float]] = {
    "kl_over_budget": {"kl": 21.0},
    "kl_jump": {"kl": lambda s: 9.0 if s % 20 == 0 else 1.0},
    "entropy_collapse": {"entropy": lambda s: 1.0 if s < 5 else 0.01},
    "length_drift": {"completions__mean_length": lambda s: 10.0 if s < 30 else 20.0},
    "policy_step_large": {"policy__clipfrac": 0.5},
    "critic_explains_nothing": {"value__explained_variance": -1.0},
    "groups_without_signal": {"frac_reward_zero_std": 1.0},
    "batch_not_filled": {"rollout__unfilled": 0.5},
    "completions_capped": {"completions__clipped_ratio": 1.0},
    "reward_errors": {"rewards__error_rate": 0.02},
    "repeated_text": {"completions__repetition": lambda s: 0.02 if s < 30 else 0.3},
    "reward_flat": {"reward": lambda s: 1.0 if s <= 100 else 0.9 + 0.001 * s},
    "held_out_reward_falls": {"eval__reward": lambda s: -0.01 * s},
    "sampling_gap": {"rollout__gap_k3": 1.0},
    "reward_above": {"reward": 101.0},
    "proxy_up_gold_down": {"eval__gold_divergence": 3.0, "eval__gold_divergence_span": 4.0},
    "gold_correlation": {"eval__gold_correlation": 0.09},
    "score_above_range": {"rewards__rm__above_range": 0.06},
    "members_disagree": {"rewards__rm__disagreement": lambda s: 1.0 if s < 30 else 2.1},
    "reward_outliers": {"rewards__rm__outliers": 0.11},
}


CALM = {
    "reward": 5.0,
    "kl": 1.0,
    "entropy": 1.0,
    "policy/clipfrac": 0.0,
    "value/explained_variance": 0.9,
    "frac_reward_zero_std": 0.0,
    "rollout/unfilled": 0.0,
    "rewards/error_rate": 0.0,
    "completions/mean_length": 10.0,
    "completions/clipped_ratio": 0.0,
    "completions/repetition": 0.02,
    "rollout/gap_k3": 0.0,
    "eval/reward": 5.0,
    "eval/gold_divergence": 0.0,
    "eval/gold_divergence_span": 4.0,
    "eval/gold_correlation": 0.5,
    "rewards/rm/above_range": 0.0,
    "rewards/rm/disagreement": 1.0,
    "rewards/rm/outliers": 0.01,
}
"""What raises none of them."""


def test_there_is_a_case_for_every_rule() -> None:
    assert RAISES.keys() == ONLINE_RULES.keys()
    assert ONLINE_RULES.keys() < RULES.keys()


@pytest.mark.parametrize("code", ONLINE_RULES)
def test_each_is_raised_once_while_its_cause_lasts(code: str) -> None:
    alerts = run(stream(150, **RAISES[code]))
    assert [a.code for a in alerts if a.code == code or code != "reward_above"] == [code]  # 101 for ever is flat too
    assert alerts[0].level == "warn"


@pytest.mark.parametrize("code", ONLINE_RULES)
def test_each_is_raised_again_after_its_cause_was_gone(code: str) -> None:
    if code == "kl_jump":  # present for single steps
        alerts = run(stream(100, kl=lambda s: 9.0 if s in (20, 60) else 1.0))
        assert codes(alerts) == [(20, code), (60, code)]
        return
    bad = stream(150, **RAISES[code])
    pause = [(s, {name: CALM[name] for name in bad[0][1]}) for s in range(151, 231)]
    again = [(s + 230, metrics) for s, metrics in bad[60:]]
    assert [a.code for a in run(bad + pause + again) if a.code == code] == [code, code]


@pytest.mark.parametrize("cut", [1, 2, 3, 19, 20, 45, 61, 100])
def test_resumed_rules_raise_what_uninterrupted_ones_do(cut: int) -> None:
    values = {name: of for one in RAISES.values() for name, of in one.items() if name != "kl"}
    values["reward"] = lambda s: 1.0 if s <= 100 else 0.9 + 0.001 * s if s <= 140 else 101.0
    whole_stream = stream(150, **values, kl=lambda s: 30.0 if s > 50 else 1.0)
    whole = run(whole_stream)
    assert {a.code for a in whole} == ONLINE_RULES.keys()
    first = AlertRules(SETTINGS)
    alerts = [a for step, metrics in whole_stream[:cut] for a in first.check(step, metrics)]
    second = AlertRules(SETTINGS)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    alerts += [a for step, metrics in whole_stream[cut:] for a in second.check(step, metrics)]
    assert alerts == whole


def test_a_state_of_before_these_rules_still_loads() -> None:
    rules = AlertRules(AlertSettings())
    old = rules.state_dict()
    del old["first_value"]
    old["points"] = {"loss": [[1, 0.5]]}
    rules.load_state_dict(old)
    assert rules.check(2, {"loss": 0.4, "reward": 1.0, "entropy": 0.5}) == []


def test_runs_that_sample_nothing_have_none_of_these() -> None:
    """KTO logs a "kl" and SFT may log an entropy: neither means here what it means there."""
    offline = [(s, {"loss": 1.0, "kl": 500.0 * s, "entropy": 1.0 / s}) for s in range(1, 200)]
    assert run(offline) == []


def test_a_missing_metric_is_no_cause() -> None:
    """A reward without critic, reference and clipping; every other step logs no rollout."""
    rising = [(s, {"reward": 0.01 * s} if s % 2 else {"loss": 0.0}) for s in range(1, 200)]
    assert run(rising) == []


def keys(text: str) -> set[str]:
    return set(re.findall(r"\b(?:rollout|reward|critic|train|method|model)\.[a-z_]+", text))


def _method_keys() -> set[str]:
    """The options of all methods that sample."""
    return {key for method in available().values() if method.is_online() for key in method.Config.model_fields}


@pytest.mark.parametrize("code", ONLINE_RULES)
def test_advice_names_keys_that_exist(code: str) -> None:
    found = run(stream(150, **RAISES[code]))
    if code == "length_drift":
        found += run(stream(150, completions__mean_length=lambda s: 10.0 if s < 30 else 2.0))
    assert found
    for key in {key for alert in found for key in keys(alert.advice)}:
        section, leaf = key.split(".")
        assert leaf in (_method_keys() if section == "method" else _fields(section)), key


def _fields(section: str) -> set[str]:
    annotation = RunConfig.model_fields[section].annotation
    models = [annotation, *getattr(annotation, "__args__", ())]
    return {name for model in models for name in getattr(model, "model_fields", {})}


def test_the_watched_metrics_are_in_the_table() -> None:
    names = {name.replace("__", "/") for one in RAISES.values() for name in one} - {"kl"}
    assert all(is_known(name) for name in names)
