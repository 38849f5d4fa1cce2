"""The section `watch`: short forms, what has no effect, and codes that nothing raises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plaudit.config.load import resolve
from plaudit.errors import ConfigError

HELD_OUT = {"data": {"train": [{"path": "y.jsonl"}], "eval_fraction": 0.1}}


def of(name: str, **more: Any) -> Any:
    given: dict[str, Any] = {"model": "x", "data": "y.jsonl"}
    if name in ("ppo", "rloo", "grpo"):
        given["reward"] = {"rewards": ["math"]}
    return resolve(name, (), given | more, files_exist=False)


def test_short_forms_are_those_of_the_reward() -> None:
    written = [
        of("rloo", watch={"gold": gold}, **HELD_OUT).run.watch.gold for gold in ("math", ["math"], {"rewards": "math"})
    ]
    assert written[0] == written[1] == written[2]
    assert of("rloo", watch={"stop": "kl_jump"}).run.watch.stop == ("kl_jump",)


def test_flags() -> None:
    arguments = ["--model", "x", "--data", "y.jsonl", "--reward", "math", "--kl-budget", "5", "--gold", "math"]
    arguments += ["--eval-fraction", "0.1", "--stop", "END", "--watch.stop", "kl_over_budget,kl_jump"]
    arguments += ["--kl-grid", "1,2.5", "--betas", "0.9,0.95"]
    run = resolve("rloo", overrides=arguments, files_exist=False).run
    assert run.checkpoint.kl_grid == (1.0, 2.5)
    assert run.train.betas == (0.9, 0.95)
    one = resolve("rloo", overrides=[*arguments[:-4], "--kl-grid", "3"], files_exist=False).run
    assert one.checkpoint.kl_grid == (3.0,)
    assert (run.watch.kl_budget, run.watch.gold.rewards) == (5.0, ("math",))
    assert run.rollout.stop == ("END",)
    assert run.watch.stop == ("kl_over_budget", "kl_jump")


@pytest.mark.parametrize(
    "watch",
    [
        {"kl_budget": None, "stop": ["reward_above", "proxy_up_gold_down"], "reward_above": 0.9, "gold": "math"},
        {"shorter": None, "longer": 3.0, "stop": ["length_drift"], "outliers": None},
    ],
)
def test_the_written_configuration_resolves_to_itself(watch: dict[str, Any], tmp_path: Path) -> None:
    first = of("ppo", watch=watch, checkpoint={"kl_grid": [1, 2.5]}, **HELD_OUT)
    (tmp_path / "config.yaml").write_text(first.as_yaml())
    again = resolve(None, [tmp_path / "config.yaml"], files_exist=False)
    assert again.run == first.run


def test_methods_that_sample_nothing_may_stop_and_move_their_own_thresholds(tmp_path: Path) -> None:
    watch = {"stop": ["margins_flat", "chosen_logp_falling"], "chosen_reward_floor": -3.0, "chosen_logp_drop": 50.0}
    found = of("dpo", watch=watch)
    assert found.run.watch.chosen_logp_drop == 50
    (tmp_path / "config.yaml").write_text(found.as_yaml())
    assert resolve(None, [tmp_path / "config.yaml"], files_exist=False).run == found.run


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("dpo", {"watch": {"kl_budget": 5.0}}, "watch.kl_budget  has no effect with dpo, which samples no answers"),
        ("dpo", {"watch": {"gold": "math"}}, "watch.gold  has no effect with dpo"),
        ("dpo", {"watch": {"stop": ["kl_over_budget"]}}, "kl_over_budget is no alert of dpo"),
        ("dpo", {"checkpoint": {"kl_grid": [1.0]}}, "checkpoint.kl_grid  has no effect with dpo"),
        ("sft", {"watch": {"chosen_reward_floor": -2.0}}, "watch.chosen_reward_floor  has no effect with sft"),
        ("reward", {"watch": {"chosen_logp_drop": 9.0}}, "watch.chosen_logp_drop  has no effect with reward"),
        ("rloo", {"watch": {"chosen_logp_drop": 9.0}}, "watch.chosen_logp_drop  has no effect with rloo"),
        ("rloo", {"watch": {"stop": ["kl_over_buget"]}}, "is the code of no alert  (did you mean kl_over_budget?)"),
        ("rloo", {"watch": {"stop": ["margins_flat"]}}, "margins_flat is no alert of rloo"),
        ("rloo", {"watch": {"stop": ["kl_jump", "kl_jump"]}}, "a code is given twice"),
        ("rloo", {"watch": {"stop": ["reward_above"]}}, "reward_above is never raised: watch.reward_above is null"),
        (
            "rloo",
            {"watch": {"stop": ["length_drift"], "shorter": None, "longer": None}},
            "watch.shorter and watch.longer are null",
        ),
        ("rloo", {"watch": {"stop": ["held_out_reward_falls"]}}, "there is no held-out data"),
        ("rloo", {"watch": {"held_out_errors": 2.0}}, "watch.held_out_errors  has no effect without held-out data"),
        ("grpo", {"watch": {"stop": ["critic_explains_nothing"]}}, "grpo has no critic"),
        ("rloo", {"watch": {"stop": ["always_clipped"]}, "train": {"max_grad_norm": None}}, "max_grad_norm is null"),
        (
            "grpo",
            {"watch": {"stop": ["kl_jump"]}, "method": {"kl_weight": 0.0, "watch_kl": False}},
            "no KL to the reference is measured",
        ),
        (
            "grpo",
            {"checkpoint": {"kl_grid": [1.0]}, "method": {"kl_weight": 0.0, "watch_kl": False}},
            "checkpoint.kl_grid  has no effect with grpo and these options",
        ),
        ("rloo", {"watch": {"outliers": None, "outlier_answers": 300}}, "has no effect where watch.outliers is null"),
        ("rloo", {"watch": {"kl_buget": 3}}, "did you mean watch.kl_budget?"),
        ("rloo", {"watch": {"kl_jump": 1.0}}, "must be greater than 1"),
    ],
)
def test_what_cannot_be_meant(method: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        of(method, **options)
    assert words in str(refused.value)
