"""What somebody has chosen in a configuration, told from what the defaults make of it."""

from __future__ import annotations

from typing import Any

import pytest

from plaudit.config.changed import changed_keys
from plaudit.config.load import resolve


def changes(method: str, *arguments: str) -> dict[str, Any]:
    config = resolve(method, overrides=["--model", "m", "--data", "d:t", *arguments], files_exist=False).as_dict()
    return {c.key: c.value for c in changed_keys(config)}


@pytest.mark.parametrize("method", ["dpo", "sft", "kto", "reward"])
def test_what_is_derived_is_no_choice(method: str) -> None:
    assert changes(method) == {}


def test_derived_values_of_an_online_method() -> None:
    """Batch, log lines and the rest of the loop follow from the method and the groups per step."""
    assert changes("grpo", "--reward", "math", "--groups-per-step", "4") == {
        "train.groups_per_step": 4,
        "reward.rewards": ["math"],
    }


def test_choices_are_found_with_their_defaults() -> None:
    arguments = ["--lora-r", "4", "--beta", "0.3", "--epochs", "2", "--eval-fraction", "0.2", "--output-dir", "x"]
    assert changes("dpo", *arguments) == {
        "method.beta": 0.3,
        "data.eval_fraction": 0.2,
        "lora": True,
        "lora.r": 4,
        "train.epochs": 2.0,
    }
    config = resolve("dpo", overrides=["--model", "m", "--data", "d:t", "--beta", "0.3"], files_exist=False).as_dict()
    (beta,) = [c for c in changed_keys(config) if c.key == "method.beta"]
    assert (beta.value, beta.default, beta.has_default) == (0.3, 0.1, True)


@pytest.mark.parametrize("arguments", [["--lora", "true"], ["--lora-r", "16"]])
def test_an_adapter_with_the_usual_options_is_a_choice(arguments: list[str]) -> None:
    assert changes("dpo", *arguments) == {"lora": True}


def test_options_of_a_source_are_choices() -> None:
    config = resolve(
        "dpo", overrides={"model": "m", "data": {"train": [{"path": "d:t", "weight": 2.0}]}}, files_exist=False
    ).as_dict()
    assert [(c.key, c.value, c.default) for c in changed_keys(config)] == [("data.train.0.weight", 2.0, 1.0)]


def test_a_rate_that_is_the_usual_one_is_no_choice_and_another_is() -> None:
    assert changes("dpo", "--learning-rate", "1e-6") == {}
    assert changes("dpo", "--learning-rate", "2e-6") == {"train.learning_rate": 2e-6}


def test_a_method_of_the_users_own_is_not_run() -> None:
    config = {"method": {"name": "own.py", "strictness": 3}, "train": {"epochs": 1.0, "seed": 7}}
    assert {c.key: c.value for c in changed_keys(config)} == {
        "method.strictness": 3,
        "train.epochs": 1.0,
        "train.seed": 7,
    }
