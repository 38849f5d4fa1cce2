"""Who plays which role: policy and critic on one base compute what they compute apart, a critic of its own is complete,
and every start is the one that was asked for."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from plaudit.config.schema import CriticSection, LoraSection, ModelConfig, TrainConfig
from plaudit.errors import ModelError, TrainingError
from plaudit.methods import find
from plaudit.methods.base import Batch, Method, Role
from plaudit.methods.ppo import PPO
from plaudit.models.adapters import save_adapter
from plaudit.models.fingerprint import base_fingerprint
from plaudit.models.forest_model import ForestModel, RoleSpec, causal_lm
from plaudit.models.heads import ScalarHead, folded_head
from plaudit.models.load import load_model
from plaudit.models.masters import Masters
from plaudit.models.role_adapters import add_reward_adapter, role_of
from plaudit.train.cast import Cast, cast_for
from plaudit.train.critic_role import ValueStart, critic_loader
from plaudit.train.optimizer import build_optimizer
from plaudit.train.parallel import World
from plaudit.train.roles_line import RoleMemory, role_rows
from plaudit.train.scorer import GroupScorer
from plaudit.train.step import StepRunner, Stream, Totals
from plaudit.types import PromptGroup
from tests.conftest import write_tiny_model
from tests.models.test_role_adapters import reward_parts, scored, shake
from tests.train.steps import largest_error, make_groups
from tests.train.toys import ToyPPO

SHARED, SEPARATE = CriticSection(), CriticSection(separate=True)


def policy(folder: Path, lora: Mapping[str, Any] | None = None, **config: Any) -> ForestModel:
    """A policy at its start; its adapter is fresh unless `lora` names one."""
    section = None if lora is None else LoraSection(**{"r": 4, **lora})
    loaded = load_model(ModelConfig(path=str(folder), **{"precision": "fp32", **config}), section)
    return ForestModel(loaded.model, roles=loaded.roles, bos_id=loaded.tokenizer.bos_token_id)


def tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder))


@torch.no_grad()
def noise(parameters: Mapping[str, torch.nn.Parameter], scale: float = 0.1) -> None:
    for i, (_, p) in enumerate(sorted(parameters.items())):
        p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) * scale)


def rollouts() -> list[PromptGroup]:
    groups = make_groups("prompt", 5)
    for g in groups:
        for c in g.completions:
            c.finish_reason = "stop"
    return groups


def gradients(cast: Cast, method: Method, budget: int = 64) -> dict[str, Tensor]:
    """By name, of one step on one minibatch of a rollout batch."""
    for model in cast.models.values():
        model.train()
    cast.masters.clear_gradients()
    scorer = GroupScorer(cast.models, World(), budget)
    batch = Batch(rollouts())
    batch.per_token["old"] = [[s.logprobs for s in row] for row in scorer("policy", batch.groups)]
    method.prepare_batch(batch, scorer, np.random.default_rng(0))
    StepRunner(cast.models, World(), budget).gradients([Stream(method, batch, [4, 0, 2])], Totals())
    return {n: w.grad.clone() for n, w in cast.masters.weights.items() if w.grad is not None}


# -- offline


@pytest.mark.parametrize("lora", [None, {}], ids=["full", "lora"])
def test_a_method_without_a_critic_gets_none(lora: dict[str, Any] | None, tiny_model_dir: Path) -> None:
    model = policy(tiny_model_dir, lora)
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    cast = cast_for(find("dpo")(), model)
    assert cast.models == {"policy": model, "reference": model}
    assert list(cast.masters.weights) == names
    assert cast.weights == {"policy": cast.masters.weights}
    assert cast.reference == ("computed ahead" if lora is None else "adapter off")
    assert cast_for(find("sft")(), policy(tiny_model_dir, lora)).models.keys() == {"policy"}


def test_a_reward_model_trains_its_own_role(tiny_model_dir: Path) -> None:
    loaded = load_model(ModelConfig(path=str(tiny_model_dir), precision="fp32"), LoraSection(r=2), task="reward")
    cast = cast_for(find("reward")(), ForestModel(loaded.model, roles=loaded.roles))
    assert cast.models.keys() == cast.weights.keys() == {"reward"}
    assert cast.weights["reward"] == cast.masters.weights


def test_the_reference_of_sampled_answers_is_a_frozen_copy_under_full_fine_tuning(tiny_model_dir: Path) -> None:
    cast = cast_for(PPO(PPO.Config(kl_weight=0.1)), policy(tiny_model_dir))
    assert cast.reference == "frozen copy"
    models = {id(cast.models[r]) for r in ("policy", "reference", "critic")}
    assert len(models) == 3
    assert not any(p.requires_grad for p in cast.models["reference"].parameters())
    shake(cast.trained)
    assert (
        float(
            (scored(cast.trained, "policy", "logprob") - scored(cast.models["reference"], "reference", "logprob"))
            .abs()
            .max()
        )
        > 1e-3
    )


# -- the shared base


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("variant", [{}, {"dora": True}, {"rslora": True}, {"modules_to_save": ("norm",)}], ids=str)
@pytest.mark.parametrize("method", [PPO, ToyPPO], ids=lambda m: m.name)
def test_gradients_on_one_base_are_those_of_separate_models(
    method: type[Method], variant: dict[str, Any], checkpointing: bool, tiny_model_dir: Path
) -> None:
    """With all weights moved, so that every gradient is there."""
    made = method()
    model = policy(tiny_model_dir, variant, gradient_checkpointing=checkpointing)
    shared = cast_for(made, model)
    noise(shared.masters.weights)
    assert shared.models["critic"] is shared.models["policy"] is model

    plain = policy(tiny_model_dir, variant)
    apart = ForestModel(copy.deepcopy(plain.model), roles={"critic": plain.roles["policy"]}, bos_id=plain.bos_id)
    head = ScalarHead(model.width, bias=True)
    apart.add_role("critic", RoleSpec("default", head="scalar"), head)
    own = Masters([("", plain), ("critic.", apart)])
    with torch.no_grad():
        for name, weight in own.weights.items():
            weight.copy_(shared.masters.weights[_on_shared(name)])
    models: dict[Role, ForestModel] = {"policy": plain, "reference": plain, "critic": apart}
    separate = Cast(plain, models, own, "adapter off")

    found, expected = gradients(shared, made), gradients(separate, made)
    expected = {_on_shared(n): g for n, g in expected.items()}
    assert found.keys() == shared.masters.weights.keys()
    assert largest_error(found, expected) < 1e-5
    critic = {n for n in found if role_of(n) == "critic" or n.startswith("heads.")}
    assert all(bool(found[n].any()) for n in critic), "and the critic's alone are not lost beside larger ones"
    assert largest_error({n: found[n] for n in critic}, {n: expected[n] for n in critic}) < 1e-5


def _on_shared(name: str) -> str:
    """A name in separate models → the name of the same weight on one base."""
    if not name.startswith("critic."):
        return name
    name = name.removeprefix("critic.")
    return name if name.startswith("heads.") else name.replace(".default", ".critic")


def test_the_policys_weights_keep_their_names(tiny_model_dir: Path) -> None:
    """So that a checkpoint of a run without a critic and one with a critic name them alike."""
    without = cast_for(find("sft")(), policy(tiny_model_dir, {}))
    for section in (SHARED, SEPARATE):
        cast = cast_for(PPO(), policy(tiny_model_dir, {}), critic=section)
        assert list(cast.weights["policy"]) == list(without.masters.weights)
        assert cast.weights["policy"] | cast.weights["critic"] == cast.masters.weights
        assert not cast.weights["policy"].keys() & cast.weights["critic"].keys()


@pytest.mark.parametrize("replaced", [True, False], ids=["replaced", "moved"])
def test_a_moving_reference_follows_the_policy_and_not_the_critic(replaced: bool, tiny_model_dir: Path) -> None:
    class Moving(ToyPPO):
        roles = ToyPPO.roles | {"reference"}
        replaces_reference = replaced

        def reference_mix(self, step: int) -> float:
            return 1.0

    model = policy(tiny_model_dir, {})
    cast = cast_for(Moving(), model)
    assert cast.reference == "moving"
    assert cast.moving is not None
    assert not any("critic" in name or "head" in name for name in cast.moving.state())
    noise(cast.masters.weights)
    cast.moving.move(1.0)
    torch.testing.assert_close(
        scored(cast.models["reference"], "reference", "logprob"), scored(model, "policy", "logprob"), atol=1e-5, rtol=0
    )


# -- a model of its own


@pytest.fixture(scope="module")
def untied_dir(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    import transformers as tf

    folder = tmp_path_factory.mktemp("untied") / "model"
    model: Any = tf.AutoModelForCausalLM.from_pretrained(str(tiny_model_dir), tie_word_embeddings=False)
    model.lm_head.weight.data = model.lm_head.weight.data.flip(0).clone()
    model.save_pretrained(str(folder))
    tokenizer(tiny_model_dir).save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("lora", [None, {}, {"dora": True}], ids=["full", "lora", "dora"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_critic_of_its_own_starts_at_zero_on_the_policys_trunk_and_trains_everything(
    tied: bool, lora: dict[str, Any] | None, checkpointing: bool, tiny_model_dir: Path, untied_dir: Path
) -> None:
    folder = tiny_model_dir if tied else untied_dir
    model = policy(folder, lora, gradient_checkpointing=checkpointing)
    before = scored(model, "policy", "logprob")
    cast = cast_for(PPO(), model, critic=None if lora is None else SEPARATE)
    critic = cast.models["critic"]
    assert critic is not model
    assert critic.path == model.path
    assert torch.equal(scored(critic, "critic", "value"), torch.zeros(10))
    assert any(getattr(m, "gradient_checkpointing", False) for m in critic.model.modules()) == checkpointing
    # The trunk: the base's own bits.
    base = dict(causal_lm(policy(folder).model).named_parameters())
    found = dict(critic.model.named_parameters())
    assert found.keys() == base.keys() - {"lm_head.weight"}
    assert all(torch.equal(found[n], base[n]) for n in found)
    assert gradients(cast, PPO()).keys() == cast.masters.weights.keys(), "nothing is trained that gets no gradient"
    assert sum(w.numel() for w in cast.weights["critic"].values()) == sum(p.numel() for p in found.values()) + 65
    noise(cast.weights["critic"])
    assert torch.equal(scored(model, "policy", "logprob"), before), "nothing is shared"
    assert bool(scored(critic, "critic", "value").any())


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
@pytest.mark.parametrize("variant", [{}, {"target_modules": ("q_proj", "lm_head")}, {"dora": True}], ids=str)
def test_a_separate_critic_of_a_continued_adapter_has_that_adapter_in_its_weights(
    variant: dict[str, Any], tiny_model_dir: Path, tmp_path: Path
) -> None:
    """The policy's trunk at the start is the base with the adapter. An adapter on a tied head must not be merged into
    the embedding."""
    first = policy(tiny_model_dir, variant)
    shake(first)
    save_adapter(first.model, tmp_path / "adapter", base_fingerprint(first.model))
    model = policy(tiny_model_dir, {"path": str(tmp_path / "adapter")})
    cast = cast_for(PPO(), model, critic=SEPARATE)
    head = ScalarHead(model.width)
    cast.models["critic"].heads["critic"] = head
    model.add_role("critic", RoleSpec("default", head="scalar"), head)
    values = scored(model, "critic", "value")
    torch.testing.assert_close(scored(cast.models["critic"], "critic", "value"), values, atol=1e-5, rtol=0)
    assert cast.reference == "frozen adapter"


def test_a_bf16_critic_has_fp32_masters_and_an_fp32_head(tiny_model_dir: Path) -> None:
    cast = cast_for(PPO(), policy(tiny_model_dir, None, precision="bf16"))
    critic = cast.models["critic"]
    assert critic.dtype == torch.bfloat16
    assert critic.heads["critic"].weight.dtype == torch.float32
    assert {w.dtype for w in cast.masters.parameters} == {torch.float32}
    assert gradients(cast, PPO()).keys() == cast.masters.weights.keys()


# -- another model


def test_another_language_model_is_loaded_probed_and_trained(tiny_model_dir: Path, tmp_path: Path) -> None:
    other = write_tiny_model(tmp_path / "other", seed=5)
    config = ModelConfig(path=str(tiny_model_dir), precision="fp32", gradient_checkpointing=True)
    load = critic_loader(config, tokenizer(tiny_model_dir))
    model = policy(tiny_model_dir, {})
    cast = cast_for(PPO(), model, critic=CriticSection(path=str(other)), load_critic=load)
    critic = cast.models["critic"]
    expected = dict(policy(other).model.named_parameters())
    assert all(torch.equal(p, expected[n]) for n, p in critic.model.named_parameters())
    assert torch.equal(scored(critic, "critic", "value"), torch.zeros(10))
    assert critic.path == "forest"
    assert any(getattr(m, "gradient_checkpointing", False) for m in critic.model.modules())
    assert gradients(cast, PPO()).keys() == cast.masters.weights.keys()


def test_a_model_with_other_token_ids_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    other = write_tiny_model(tmp_path / "other")
    wrong = tokenizer(other)
    wrong.add_special_tokens({"additional_special_tokens": ["<new>"]})
    load = critic_loader(ModelConfig(path=str(tiny_model_dir), precision="fp32"), wrong)
    with pytest.raises(ModelError, match="PL306") as caught:
        cast_for(PPO(), policy(tiny_model_dir), critic=CriticSection(path=str(other)), load_critic=load)
    assert "'<new>'" in str(caught.value)


# -- as the reward model


@pytest.mark.parametrize("separate", [False, True], ids=["shared", "separate"])
def test_a_critic_starts_as_the_reward_adapter_on_the_same_base(separate: bool, tiny_model_dir: Path) -> None:
    model = policy(tiny_model_dir, {})
    assert add_reward_adapter(model, *reward_parts(tiny_model_dir)) is None
    rewards = scored(model, "reward", "last")
    start = ValueStart(model, "reward", folded_head(model.heads["reward"].weight, 0.5, 3.0))
    section = CriticSection(start="reward", separate=separate)
    cast = cast_for(PPO(), model, critic=section, start=start)
    critic = cast.models["critic"]
    assert (critic is model) != separate
    torch.testing.assert_close(scored(critic, "critic", "last"), 0.5 * rewards + 3.0, atol=1e-5, rtol=0)
    assert gradients(cast, PPO()).keys() == cast.masters.weights.keys()
    assert not any(role_of(n) == "reward" for n in cast.masters.weights)
    noise(cast.weights["critic"])
    assert torch.equal(scored(model, "reward", "last"), rewards), "the reward model stays"


def test_a_reward_model_of_its_own_cannot_become_an_adapter(tiny_model_dir: Path) -> None:
    loaded = load_model(ModelConfig(path=str(tiny_model_dir), precision="fp32"), task="reward", train=False)
    trunk = ForestModel(loaded.model, roles=loaded.roles)
    start = ValueStart(trunk, None, folded_head(loaded.model.score.weight.detach(), 1.0, 0.0))  # type: ignore[union-attr,arg-type]
    with pytest.raises(TrainingError, match="PL405") as caught:
        cast_for(PPO(), policy(tiny_model_dir, {}), critic=CriticSection(start="reward"), start=start)
    assert "critic.separate=true" in str(caught.value)
    for lora, section in (({}, CriticSection(start="reward", separate=True)), (None, CriticSection(start="reward"))):
        cast = cast_for(PPO(), policy(tiny_model_dir, lora), critic=section, start=start)
        critic = cast.models["critic"]
        torch.testing.assert_close(scored(critic, "critic", "last"), scored(trunk, "reward", "last"), atol=1e-5, rtol=0)
        assert gradients(cast, PPO()).keys() == cast.masters.weights.keys(), "its old head is not trained"
    with pytest.raises(TrainingError, match="PL405"):
        cast_for(PPO(), policy(tiny_model_dir, {}), critic=CriticSection(start="reward"))


# -- what is said


def test_the_plan_says_who_plays_what_at_what_price(tiny_model_dir: Path) -> None:
    model = policy(tiny_model_dir, {})
    assert add_reward_adapter(model, *reward_parts(tiny_model_dir)) is None
    cast = cast_for(PPO(PPO.Config(kl_weight=0.1)), model)
    rows = role_rows(cast, shared_reward=True)
    critic = sum(w.numel() for w in cast.weights["critic"].values())
    assert rows["policy"].startswith("adapter default on the shared base, ")
    assert rows["reference"] == "the base with the adapter off, frozen"
    assert rows["critic"] == f"adapter critic on the shared base with a head of its own, {critic:,} parameters trained"
    assert rows["reward"] == "adapter reward on the shared base with a head of its own, frozen"
    memory = RoleMemory.of(cast)
    base = sum(p.nbytes for p in policy(tiny_model_dir).parameters())
    own = {n: p for n, p in model.named_parameters() if "lora_" in n or n.startswith("heads.")}
    assert memory.base == base, "one base for all of them"
    assert memory.adapters == sum(p.nbytes for p in own.values())
    assert memory.masters == 0
    for w in cast.masters.parameters:
        w.grad = torch.zeros_like(w)
    optimizer = build_optimizer(TrainConfig(), cast.weights, {"policy": 1e-3, "critic": 1e-3})
    optimizer.step()
    moments = sum(t.nbytes for s in optimizer.state.values() for t in s.values() if t.ndim)
    assert memory.training == moments + sum(w.grad.nbytes for w in cast.masters.parameters if w.grad is not None)


def test_separate_models_cost_what_they_hold(tiny_model_dir: Path) -> None:
    cast = cast_for(PPO(PPO.Config(kl_weight=0.1)), policy(tiny_model_dir, None, precision="bf16"))
    rows = role_rows(cast)
    assert rows["policy"].startswith("the whole model, ")
    assert rows["reference"] == "a model of its own, frozen"
    assert rows["critic"].startswith("a model of its own with a head of its own, ")
    memory = RoleMemory.of(cast)
    one = sum(p.nbytes for p in cast.trained.parameters())
    assert memory.base == 3 * one
    assert memory.masters == 2 * 2 * one, "fp32 copies of policy and critic"
    assert "fp32 masters" in rows["memory of the roles"]
