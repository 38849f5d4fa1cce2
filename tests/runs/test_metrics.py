from __future__ import annotations

import math
import re
from typing import get_args

import pytest

from plaudit.runs import metrics
from plaudit.runs.curves import GROUPS
from plaudit.runs.metrics import Group, MetricSpec, format_value, is_better, spec


def test_the_held_out_metric_is_derived() -> None:
    train, held_out = spec("rewards/margins"), spec("eval/rewards/margins")
    assert (held_out.unit, held_out.direction, held_out.group) == (train.unit, train.direction, train.group)
    assert held_out.name == "eval/rewards/margins"
    assert "held-out" in held_out.meaning


def test_patterns_and_unknown_names() -> None:
    assert spec("terms/nll").meaning.startswith("one term of the loss")
    assert spec("terms/nll").name == "terms/nll"
    assert spec("eval/terms/nll").group == "loss"
    unknown = spec("something/else")
    assert (unknown.direction, unknown.meaning, unknown.unit) == ("neutral", "defined by the method", "")


def test_a_method_registers_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_registry", dict(metrics._registry))
    own = MetricSpec("kl/estimate", "nats", "lower", "k3 estimate of the KL to the reference", "other")
    metrics.register(own)
    metrics.register(own)
    assert spec("eval/kl/estimate").direction == "lower"
    with pytest.raises(ValueError, match="already registered"):
        metrics.register(MetricSpec("kl/estimate", "nats", "higher", "another", "other"))
    with pytest.raises(ValueError, match="without 'eval/'"):
        metrics.register(MetricSpec("eval/x", "", "lower", "derived"))


def test_better_follows_the_direction() -> None:
    assert is_better("eval/loss", 0.5, 0.6)
    assert not is_better("eval/loss", 0.6, 0.6)
    assert is_better("rewards/accuracies", 0.7, 0.6)
    assert is_better("eval/loss", 0.5, None)
    assert not is_better("eval/loss", math.nan, None)
    with pytest.raises(ValueError, match="no better direction"):
        is_better("grad_norm", 1.0, 2.0)


def test_docs_table_has_one_row_per_metric() -> None:
    rows = metrics.docs_table().splitlines()
    names = [re.match(r"\| `([^`]+)` \|", row) for row in rows[2:]]
    assert all(names)
    assert len(names) == len(metrics._registry)
    assert all(row.count("|") == 5 for row in rows)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("loss", 0.693147, "0.6931"),
        ("learning_rate", 2e-5, "2.00e-05"),
        ("num_tokens", 6_120_000.0, "6,120,000"),
        ("loss", math.nan, "NaN"),
        ("loss", -math.inf, "−∞"),
        ("loss", 0.0, "0"),
    ],
)
def test_numbers_for_people(name: str, value: float, text: str) -> None:
    assert format_value(name, value) == text


def test_table_order_puts_unknown_last() -> None:
    assert metrics.table_order(["zeta", "rewards/margins", "terms/b", "loss", "terms/a"]) == [
        "loss",
        "terms/a",
        "terms/b",
        "rewards/margins",
        "zeta",
    ]


def test_every_group_has_a_heading_in_the_report() -> None:
    headings = {group for group, _ in GROUPS}
    assert headings == set(get_args(Group))
    assert {s.group for s in metrics._registry.values()} <= headings


@pytest.mark.parametrize(
    ("name", "group", "direction"),
    [
        ("reward", "rewards", "higher"),
        ("rewards/my judge/style/mean", "rewards", "neutral"),
        ("frac_reward_zero_std", "rewards", "lower"),
        ("eval/completions/clipped_ratio", "completions", "lower"),
        ("entropy", "divergence", "neutral"),
        ("value/explained_variance", "value", "higher"),
        ("policy/clipfrac", "policy", "neutral"),
        ("rollout/gap_k3", "rollout", "lower"),
    ],
)
def test_metrics_of_runs_that_sample(name: str, group: str, direction: str) -> None:
    found = spec(name)
    assert (found.name, found.group, found.direction) == (name, group, direction)


def test_parts_of_a_reward_do_not_hide_the_metrics_of_reward_models() -> None:
    assert spec("rewards/mean").meaning.startswith("mean score")
    assert spec("rewards/total/mean").meaning.startswith("one part")
    order = metrics.table_order(["completions/empty", "rewards/b/mean", "reward", "rewards/a/mean", "rewards/mean"])
    assert order == ["rewards/mean", "reward", "rewards/a/mean", "rewards/b/mean", "completions/empty"]
