"""Policy, reference, critic and reward model in one run: on one base, and each with a model of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from plaudit.config.schema import CriticSection
from plaudit.errors import ConfigError, TrainingError
from plaudit.methods.ppo import PPO
from plaudit.models.adapters import save_adapter
from plaudit.models.fingerprint import base_fingerprint
from plaudit.models.forest_model import RoleSpec
from plaudit.models.heads import ScalarHead
from plaudit.runs.observer import SilentObserver
from plaudit.train.cast import cast_for
from tests.models.test_role_adapters import scored, shake
from tests.online.conftest import Run, metrics_of
from tests.train import runs
from tests.train.runs import Job, Kill
from tests.train.test_cast import policy

LORA = {"lora": {"r": 4}, "rollout__ppo_epochs": 2, "train__learning_rate": 1e-3}


class Plan(SilentObserver):
    """What the run says about itself."""

    def __init__(self) -> None:
        self.rows: dict[str, Any] = {}
        self.texts: list[str] = []

    def on_start(self, plan: Any) -> None:
        self.rows = dict(plan)

    def on_message(self, text: str) -> None:
        self.texts.append(text)


def test_four_roles_on_one_base(train: Run, reward_run: Path) -> None:
    plan = Plan()
    result = train(method="ppo", observers=[plan], reward__rewards=[str(reward_run)], critic__start="reward", **LORA)
    assert plan.rows["policy"].startswith("adapter default on the shared base")
    assert plan.rows["reference"].startswith("the base with the adapter off")
    assert plan.rows["critic"].startswith("adapter critic on the shared base")
    assert plan.rows["reward"].startswith("adapter reward on the shared base")
    lines = metrics_of(result)
    assert abs(lines[0]["value/mean"]) > 0  # it starts as the reward model
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert lines[-1]["critic/grad_norm"] > 0
    saved = safetensors.torch.load_file(result.run_dir / "model" / "adapter_model.safetensors")
    assert saved
    assert not [name for name in saved if "critic" in name or "reward" in name]
    assert list(result.model.peft_config) == ["default"]  # what a program gets back is the policy alone


def test_the_scores_on_the_shared_base_are_the_models_own(train: Run, reward_run: Path, tmp_path: Path) -> None:
    from plaudit.rewards.models.model import RewardModel

    train(method="ppo", reward__rewards=[str(reward_run)], rollout__save=str(tmp_path / "r.jsonl"), **LORA)
    apart = RewardModel.load(reward_run)
    rows = runs.lines(tmp_path / "r.jsonl")[1:]
    scores = apart.score([(row["prompt"], [c["text"] for c in row["completions"]]) for row in rows])
    found = [[c["reward"] for c in row["completions"]] for row in rows]
    assert torch.allclose(torch.tensor(found), torch.tensor(scores), atol=1e-4)


def test_a_critic_of_zeros_starts_at_zero(train: Run) -> None:
    first = metrics_of(train(method="ppo", **LORA))[0]
    assert first["value/mean"] == 0
    assert first["value/explained_variance"] == 0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"policy": "the whole model", "reference": "a model of its own", "critic": "a model of its own"}),
        ({"lora": {"r": 4}, "critic__separate": True}, {"reference": "the base with", "critic": "a model of its own"}),
    ],
)
def test_models_of_their_own(train: Run, reward_run: Path, changes: dict[str, Any], expected: dict[str, str]) -> None:
    plan = Plan()
    if "lora" not in changes:
        changes = {**changes, "critic__start": "reward"}
    lines = metrics_of(train(method="ppo", observers=[plan], reward__rewards=[str(reward_run)], **changes))
    for role, text in expected.items():
        assert plan.rows[role].startswith(text)
    assert lines[-1]["critic/grad_norm"] > 0
    assert any("is a model of its own" in t for t in plan.texts) == ("lora" not in changes)


def test_a_critic_from_another_model(train: Run, tiny_model_dir: Path) -> None:
    plan = Plan()
    train(method="ppo", observers=[plan], critic__path=str(tiny_model_dir), critic__learning_rate=1e-2, **LORA)
    assert plan.rows["critic"].startswith("a model of its own")


def test_a_critic_on_the_base_of_a_continued_adapter_starts_as_the_policy(
    train: Run, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """Its adapter is a copy of the one that `lora.path` names, which the reference keeps."""
    first = policy(tiny_model_dir, {})
    shake(first)
    save_adapter(first.model, tmp_path / "adapter", base_fingerprint(first.model))
    model, head = policy(tiny_model_dir, {"path": str(tmp_path / "adapter")}), ScalarHead(first.width)
    model.add_role("reward", RoleSpec("default", head="scalar"), head)
    as_policy = scored(model, "reward", "value")
    model.remove_role("reward")
    critic = cast_for(PPO(), model, critic=CriticSection()).models["critic"]
    assert critic is model
    model.heads["critic"] = head
    assert torch.equal(scored(model, "critic", "value"), as_policy)

    plan = Plan()
    changes = {**LORA, "lora": {"path": str(tmp_path / "adapter")}, "train__max_steps": 2, "train__epochs": None}
    lines = metrics_of(train(method="ppo", observers=[plan], **changes))
    assert plan.rows["critic"].startswith("adapter critic on the shared base")
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert lines[0]["critic/grad_norm"] > 0


def test_the_critics_rate_is_its_own(train: Run) -> None:
    """A rate of next to nothing leaves the critic where it is, and the policy learns all the same."""
    both = [metrics_of(train(str(rate), method="ppo", critic__learning_rate=rate, **LORA)) for rate in (1e-12, 1e-2)]
    slow, fast = ([line for line in lines if "value/mean" in line] for lines in both)
    assert slow[-1]["value/mean"] == pytest.approx(0, abs=1e-6)
    assert abs(fast[-1]["value/mean"]) > 1e-2
    assert slow[-1]["kl"] != 0


def test_a_reward_model_cannot_be_the_start_where_there_is_none(train: Run) -> None:
    with pytest.raises(TrainingError, match=r"PL405(.|\n)*critic\.start"):
        train(method="ppo", critic__start="reward", **LORA)


def test_a_critic_starts_as_one_reward_model(train: Run, reward_run: Path) -> None:
    """Of several the user says which, before anything is loaded."""
    two = {"reward__rewards": [str(reward_run), f"model:path={reward_run},weight=0.5,name=other"], **LORA}
    names = r"there are 2: model \(\S+\), other \(\S+\)"
    with pytest.raises(TrainingError, match=rf"PL405(.|\n)*{names}(.|\n)*critic\.path") as refused:
        train(method="ppo", critic__start="reward", **two)
    assert str(refused.value).count(str(reward_run)) == 2
    plan = Plan()
    found = metrics_of(train(method="ppo", observers=[plan], critic__path=str(reward_run), train__max_steps=1, **two))
    assert plan.rows["critic"].startswith("a model of its own")
    assert abs(found[0]["value/mean"]) > 0


def test_nothing_is_cached_and_saying_so_is_an_error(train: Run) -> None:
    with pytest.raises(ConfigError, match=r"run\.reference_cache  has no effect"):
        train(method="ppo", run__reference_cache="off")


@pytest.mark.parametrize("method", ["ppo", "grpo"])
def test_a_complete_run_is_told_and_given_again(train: Run, method: str) -> None:
    changes = {**LORA, "rollout__completions_per_prompt": 2}
    first, again = train(method=method, **changes), train(method=method, **changes)
    assert again.steps == first.steps
    assert again.run_dir == first.run_dir


def test_only_the_critic_learns_at_first(train: Run) -> None:
    lines = metrics_of(train(method="ppo", method__value_pretraining=1, rollout__prompts_per_batch=4, **LORA))
    assert lines[0]["grad_norm"] == 0
    assert lines[0]["critic/grad_norm"] > 0
    assert "policy/ratio" not in lines[0]
    kls = [line["kl"] for line in lines if "kl" in line]
    assert kls[1] == pytest.approx(0, abs=1e-4)  # the policy is still the reference
    assert abs(kls[2]) > 1e-6


def test_a_policy_that_would_never_learn_is_refused(train: Run) -> None:
    with pytest.raises(TrainingError, match="the policy would stay as it is") as raised:
        train(method="ppo", method__value_pretraining=3, rollout__prompts_per_batch=4, **LORA)  # of 3 batches
    assert raised.value.where == "method.value_pretraining"


def test_a_critic_like_the_reward_model_needs_its_base(train: Run, reward_run: Path) -> None:
    changes = {"reward__rewards": [str(reward_run)], "critic__start": "reward", "rollout__ahead": 1}
    with pytest.raises(ConfigError, match=r"rollout\.ahead"):
        train(method="ppo", **changes, **LORA)


def test_a_target_kl_leaves_the_rest_of_a_batch_out(train: Run) -> None:
    changes = {
        "rollout__ppo_epochs": 6,
        "rollout__prompts_per_batch": 12,
        "log__every": 1,
        "train__learning_rate": 1e-2,
    }
    lines = metrics_of(train(method="ppo", method__target_kl=1e-5, train__groups_per_step=12, **changes))
    assert lines[0]["policy/approxkl"] == pytest.approx(0, abs=1e-6)
    worked = ["grad_norm" in line for line in lines]
    assert worked[:2] == [True, True]
    assert not any(worked[2:])  # the second step was too far


def test_ptx_pulls_towards_its_texts(train: Run, tmp_path: Path) -> None:
    texts = runs.write_rows(tmp_path / "texts.jsonl", [{"text": f"red round thing {i}"} for i in range(6)])
    ptx = {"data": [{"path": str(texts)}], "coefficient": 5.0, "rows_per_step": 4}
    lines = metrics_of(train(method="ppo", ptx=ptx, train__epochs=4.0, **{**LORA, "train__learning_rate": 5e-3}))
    likelihoods = [line["ptx/logps/mean"] for line in lines]
    assert likelihoods[-1] > likelihoods[0] + 0.3


CASES: dict[str, dict[str, Any]] = {
    "one base": {"lora": {"r": 4}, "critic.start": "reward", "method.kl_controller": "adaptive"},
    "a moving reference": {"lora": {"r": 4}, "method.reference_every": 3, "method.value_pretraining": 1},
}


@pytest.mark.parametrize("case", CASES)
def test_killed_and_resumed(
    case: str, options: Callable[..., dict[str, Any]], reward_run: Path, tmp_path: Path
) -> None:
    changes = {"reward.rewards": [str(reward_run)], "rollout.ppo_epochs": 2, "train.epochs": 2.0, "checkpoint.every": 3}
    jobs = [
        Job("ppo", options(name, **changes, **CASES[case]), tmp_path / f"{name}.json") for name in ("control", "run")
    ]
    runs.completed(jobs[0])
    for kill in (Kill("step", 5), Kill("operation", 17)):
        outcome = runs.run_process(replace(jobs[1], kill=kill))
        assert outcome == {}, outcome.get("traceback", outcome)
    runs.completed(jobs[1])
    states = [runs.state_of(Path(job.options["run.dir"])) for job in jobs]
    for state in states:
        state["summary"].pop("reference_tokens", None)
    assert runs.difference(states[1], states[0]) is None
