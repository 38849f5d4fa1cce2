"""Configurations of methods that sample: what a run writes down is that run, and combinations that cannot be meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plaudit.config.load import resolve
from plaudit.errors import ConfigError
from plaudit.methods import available
from plaudit.methods.policy.base import PolicyMethod

ONLINE = [name for name, method in available().items() if method.is_online()]
OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "a term": {"method": {"kl_weight": 0.1, "entropy_weight": 0.01}, "rollout": {"completions_per_prompt": 4}},
    "an adapter": {"lora": {"r": 4}, "method": {"truncated": "mask"}, "rollout": {"ahead": 1}},
}


def of(name: str, **more: Any) -> Any:
    given = {"model": "x", "data": "y.jsonl", "reward": {"rewards": ["math"]}}
    return resolve(name, (), given | more, files_exist=False)


WRITTEN = [(m, o) for m in ONLINE for o in OPTIONS if o != "a term" or issubclass(available()[m], PolicyMethod)]


@pytest.mark.parametrize(("method", "options"), WRITTEN)
def test_the_written_configuration_resolves_to_itself(method: str, options: str, tmp_path: Path) -> None:
    """Every option is named there, those without effect too."""
    first = of(method, **OPTIONS[options])
    (tmp_path / "config.yaml").write_text(first.as_yaml())
    again = resolve(None, [tmp_path / "config.yaml"], files_exist=False)
    assert again.as_dict() == first.as_dict()
    assert again.run == first.run


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("ppo", {"kl_target": 5.0}, "kl_target has no effect without kl_controller"),
        ("ppo", {"kl_horizon": 5.0}, "kl_horizon has no effect without kl_controller"),
        ("ppo", {"nll_threshold": 5.0}, "nll_threshold has no effect without nll_weight"),
        ("ppo", {"lam": 0.9, "lam_alpha": 0.05, "value_lam": 1.0}, "lam has no effect beside lam_alpha"),
        ("ppo", {"truncated_reward": 0.0}, "truncated_reward has no effect without truncated: replace"),
        ("rloo", {"truncated_penalty": 2.0}, "truncated_penalty has no effect without truncated: subtract"),
        ("rloo", {"aggregation": "token-mean"}, "aggregation has no effect without entropy_weight"),
        ("grpo", {"kl_estimator": "k2"}, "kl_estimator has no effect without kl_weight"),
        ("grpo", {"reward_scale": "batch"}, "reward_scale: batch has no effect beside std"),
        ("ppo", {"watch_kl": False}, "watch_kl: false has no effect where kl_weight"),
        ("online_dpo", {"loss": "hinge", "label_smoothing": 0.1}, "label_smoothing has no effect with loss: hinge"),
        ("online_dpo", {"pairs": 3}, "pairs  is 3, and 4 answers to each prompt make 2 pairs"),
        ("rso", {"accepted": 16}, "accepted  is 16 of 16 answers to each prompt"),
        ("raft", {"select": "above"}, "select: above needs threshold"),
        ("raft", {"share": 0.1}, "share has no effect without select: top"),
        ("reinforce_pp", {"baseline": "group"}, "completions_per_prompt  is 1, and method.baseline=group"),
        ("dapo", {"overlong_penalty": 0.5}, "overlong_penalty has no effect without overlong_buffer"),
        ("dapo", {"overlong_buffer": 512}, "method.overlong_buffer  is 512, more than the 256 tokens"),
        ("gspo", {"aggregation": "token-mean"}, "aggregation has no effect without entropy_weight or kl_weight"),
        ("remax", {"aggregation": "token-mean"}, "aggregation has no effect without entropy_weight"),
        ("cispo", {"std": "batch", "reward_scale": "batch"}, "reward_scale: batch has no effect beside std"),
        (
            "dr_grpo",
            {"supervision": "process", "truncated": "subtract"},
            "truncated: subtract has no effect with superv",
        ),
        (
            "grpo",
            {"off_policy_mask": 0.1},
            "method.off_policy_mask  has no effect where each rollout batch gets one step",
        ),
    ],
)
def test_options_without_effect(method: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        of(method, method=options)
    assert message in str(refused.value)


def test_an_answers_staleness_is_masked_where_there_is_any() -> None:
    options = {"off_policy_mask": 0.1}
    of("grpo", method=options, rollout={"ppo_epochs": 2})
    of("grpo", method=options, rollout={"ahead": 1, "old_logprobs": "engine"})
    with pytest.raises(ConfigError, match=r"method\.off_policy_mask  has no effect"):
        of("grpo", method=options, rollout={"ahead": 1})
