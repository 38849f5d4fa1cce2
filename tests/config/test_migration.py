"""Names of other tools: each is explained, and what the explanations name exists."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plaudit.cli import app
from plaudit.config.elsewhere import MOVED, REPLACED
from plaudit.config.keys import all_keys
from plaudit.config.load import resolve
from plaudit.config.origins import LOSS_OPTIONS, NOT_OFFERED, ORIGINS, TRIED, explain_loss, words
from plaudit.errors import ConfigError
from plaudit.methods import available, find

BASE = ["--model", "some/model", "--data", "some/data:train"]
METHODS = available()

TRL_LOSSES = ["sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot"]
TRL_LOSSES += ["aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"]
"""What TRL 1.16's DPOConfig takes."""
FACTORY_LOSSES = ["sigmoid", "hinge", "ipo", "kto_pair", "orpo", "simpo"]
"""What LLaMA-Factory's pref_loss takes."""


def said(method: str, *arguments: str, **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve(method, overrides=options or [*BASE, *arguments])
    assert caught.value.code == "PL100"
    return caught.value.what


def commands(text: str) -> Iterator[list[str]]:
    for command in re.findall(r"`plaudit ([^`]+)`", text):
        yield shlex.split(command)


EXPLANATIONS = {
    **{f"origin {o.tool} {o.trainer} {o.setting}": o.advice() for o in ORIGINS},
    **{f"tried {name}": text for name, text in TRIED.items()},
    **{f"replaced {name}": text for name, text in REPLACED.items()},
    **{f"{m.name} {name}": text for m in METHODS.values() for name, text in m.elsewhere.items()},
}


@pytest.mark.parametrize("text", EXPLANATIONS.values(), ids=EXPLANATIONS)
def test_the_commands_that_explanations_name_exist(text: str) -> None:
    known = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    for name, *arguments in commands(text):
        if name in METHODS:
            reward = ["--reward", "math"] if METHODS[name].is_online() else []
            resolve(name, overrides=[*BASE, *reward, *arguments])
        else:
            assert name in known, f"`plaudit {name}`"


@pytest.mark.parametrize("origin", ORIGINS, ids=lambda o: f"{o.tool} {o.trainer} {o.setting}")
def test_what_other_tools_have_is_here_under_the_names_given(origin: Any) -> None:
    if origin.method is not None:
        config = find(origin.method).Config
        assert set(origin.renamed.values()) <= {*config.model_fields, *all_keys(config)}


@pytest.mark.parametrize("name", MOVED)
def test_moved_options_are_there(name: str) -> None:
    moved = MOVED[name]
    assert moved.option in find(moved.method).Config.model_fields
    assert f"it is method.{moved.option} of `plaudit {moved.method}`" in said("sft", f"--{name}", "1")
    if name != moved.option and name not in find(moved.method).elsewhere:
        assert f"it is method.{moved.option} here" in said(moved.method, f"--{name}", "1")


def test_the_tables_do_not_contradict_each_other() -> None:
    assert not set(MOVED) & set(REPLACED)
    assert not (set(TRIED) | set(NOT_OFFERED)) & set(METHODS), "a method of this name exists"
    assert not set(TRIED) & set(NOT_OFFERED)


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_table_explains_names_that_it_does_not_have(name: str) -> None:
    method = METHODS[name]
    assert not set(method.elsewhere) & set(method.Config.model_fields)
    for theirs, ours in method.elsewhere.items():
        for given in (f"--{theirs}", f"--{theirs.replace('_', '-')}", f"--method.{theirs}"):
            assert ours in said(name, given, "0.3")
        assert ours in said(name, f"method.{theirs}=0.3")
        assert ours in said(name, f"{theirs}=0.3")
        assert ours in said(name, model="m", data="d:t", **{theirs: 0.3})
        for option in re.findall(r"\bmethod\.(\w+)", ours):
            homes = [m for m in METHODS.values() if option in m.Config.model_fields]
            assert method in homes or any(home.name in ours for home in homes), f"{name} has no method.{option}"


@pytest.mark.parametrize("loss", TRL_LOSSES)
def test_every_loss_of_trl_is_named(loss: str) -> None:
    expected = next(o for o in ORIGINS if o.trainer == "DPOTrainer" and o.setting == f"loss_type={loss}")
    for arguments in (["--loss-type", loss], [f"--loss_type={loss}"], [f"method.loss_type={loss}"]):
        assert expected.command in said("tr_dpo", *arguments)


@pytest.mark.parametrize("loss", FACTORY_LOSSES)
def test_every_loss_of_llama_factory_is_named(loss: str) -> None:
    expected = next(o for o in ORIGINS if o.setting == f"pref_loss: {loss}")
    assert expected.command in said("nca", "--pref-loss", loss)


def test_the_loss_of_the_method_itself_is_left_out() -> None:
    assert "that is what `plaudit dpo` computes: leave it out" in said("dpo", "--loss-type", "sigmoid")
    assert "that is what `plaudit hinge` computes" in said("hinge", "--loss-type", "hinge")


def test_the_trainer_of_a_method_decides_what_a_loss_means() -> None:
    assert "`plaudit slic`" in said("cpo", "--loss-type", "hinge")
    assert "`plaudit hinge`" in said("dpo", "--loss-type", "hinge")
    assert "there is no such loss here" in said("cpo", "--loss-type", "ipo")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--loss-type", "sigmoid", "sft"],
        ["--loss-type", "[sigmoid, sft]"],
        ["--loss_type", "sft,sigmoid"],
        ["loss_type=[sigmoid, sft]"],
        ["method.loss_type=['sigmoid','sft']"],
    ],
)
def test_combined_losses(arguments: list[str]) -> None:
    assert "use `plaudit dpo --nll-weight 1 --nll-aggregation token-mean`" in said("dpo", *arguments)


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("loss_type", "grpo", "that is what `plaudit grpo` computes"),
        ("loss_type", "dapo", "use `plaudit dapo`; epsilon is 0.2 on both sides there"),
        ("loss_type", "dr_grpo", "use `plaudit dr_grpo`"),
        ("loss_type", "bnpo", "use `plaudit grpo --aggregation token-mean`"),
        ("loss_type", "cispo", "use `plaudit cispo`; its epsilon_high is ratio_cap here"),
        ("loss_type", "sapo", "there is no such loss here"),
        ("importance_sampling_level", "sequence", "sequence is `plaudit gspo`"),
        ("scale_rewards", "batch", "it is method.std here: sample where it is group, batch where it is batch"),
        ("delta", "4.0", "it is method.dual_clip here"),
    ],
)
def test_what_trls_grpo_trainer_takes(option: str, value: str, expected: str) -> None:
    assert expected in said("grpo", f"--{option}", value)


def test_combinations_in_files_and_python(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("method:\n  loss_type: [sigmoid, bco_pair, sft]\n  loss_weights: [0.8, 0.2, 1]\n")
    text = said("dpo", str(tmp_path / "c.yaml"))
    assert "c.yaml:2  method.loss_type  there is no such key here  (use `plaudit mpo`" in text
    assert "method.loss_weights  there is no such key here  (nll_weight is" in text
    assert "`plaudit mpo`" in said("dpo", model="m", data="d:t", loss_type=["sigmoid", "bco_pair", "sft"])
    assert "losses are combined by nll_weight" in said("dpo", "--loss-type", "hinge", "exo_pair")
    text = said("dpo", "--loss-type", "sigmiod")
    assert "did you mean sigmoid? a loss is a method of its own here; known values of loss_type are alphapo," in text


def test_values_of_a_refused_flag_are_no_further_mistakes(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("train: {epochs: x}\n")
    text = said("dpo", "--loss-weights", "0.8", "0.2", "1.0", str(file), "--loss-type", "hinge", "--beta", "0.2")
    assert len(text.splitlines()) == 4
    assert "neither a configuration file" not in text
    assert f"{file}:1  train.epochs" in text


def test_a_name_that_means_something_else_is_refused() -> None:
    assert "λ" in said("orpo", "--beta", "0.1")
    assert "λ" in said("orpo", "method.beta=0.1")


def test_a_methods_word_stands_before_a_key_of_the_same_name(tmp_path: Path) -> None:
    own = (Path(__file__).parents[2] / "src/plaudit/methods/dpo.py").read_text(encoding="utf-8")
    own = own.replace(
        "    variant_of = None\n", '    variant_of = None\n    elsewhere: ClassVar = {"alpha": "it is method.beta"}\n'
    )
    (tmp_path / "own.py").write_text(own, encoding="utf-8")
    found = said(str(tmp_path / "own.py"), "--alpha", "8")
    assert "(it is method.beta; for lora.alpha write --lora.alpha)" in found
    resolve(str(tmp_path / "own.py"), overrides=[*BASE, "--lora", "--lora.alpha", "8"])


TRIES = {
    **{name: f"use {text}" for name, text in TRIED.items()},
    "orpo-trainer": "use `plaudit orpo`",
    "ORPOTrainer": "use `plaudit orpo`",
    "KTOConfig": "use `plaudit kto`",
    "DPOTrainer": "use `plaudit dpo`",
    "reward-modeling": "use `plaudit reward`",
    "RewardTrainer": "use `plaudit reward`",
    "LD-DPO": "use `plaudit dpo --ld-alpha 0.5`",
    "WPO": "use `plaudit dpo --weighting wpo`",
    "exo_pair": "use `plaudit exo`",
    "sppo_hard": "use `plaudit sppo`",
    "kto_pair": "use `plaudit kto`",
    "sigmoid": "use `plaudit dpo`",
    "tpo": "it is not offered",
    "Lite-PPO": "use `plaudit grpo --std batch --aggregation token-mean`",
    "DrGRPO": "use `plaudit dr_grpo`",
    "PPOTrainer": "use `plaudit ppo`",
    "reinforce++": "use `plaudit reinforce_pp`",
}


@pytest.mark.parametrize("name", TRIES)
def test_names_that_people_try_as_methods(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(None, overrides=[*BASE, "--method", name])
    assert caught.value.code == "PL101"
    assert f"there is no method {name!r}" in caught.value.what
    assert TRIES[name] in str(caught.value.mend)


def test_words() -> None:
    assert words("['sigmoid', \"sft\"]") == words("sigmoid,sft") == words(["sigmoid", "sft"]) == ["sigmoid", "sft"]
    assert words(None) == ["None"]


@pytest.mark.parametrize("option", LOSS_OPTIONS)
def test_a_loss_without_a_value(option: str) -> None:
    assert "a loss is a method of its own here" in explain_loss(option, [], "dpo")
