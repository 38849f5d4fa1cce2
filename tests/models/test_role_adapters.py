"""Critic and reward adapters on the policy's base: what they compute, what they leave alone, how they go again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor

from plaudit.config.schema import LoraSection, ModelConfig
from plaudit.errors import ModelError
from plaudit.forest.layout import Piece, build_forest
from plaudit.methods.base import Role
from plaudit.models.adapters import save_adapter
from plaudit.models.fingerprint import base_fingerprint, scoring_fingerprint, trunk_base_fingerprint
from plaudit.models.forest_model import ForestModel, RoleSpec
from plaudit.models.heads import ScalarHead, folded_head, value_head
from plaudit.models.load import load_model
from plaudit.models.masters import Masters
from plaudit.models.role_adapters import add_critic_adapter, add_reward_adapter, drop_role_adapters, role_of
from plaudit.train.export import merged_copy
from tests.models.rewards import group

GROUPS = [group([1, 17, 40, 8], [[33, 9, 2], [5, 2]]), group([1, 7], [[20, 21, 22, 23, 2]])]

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"rslora": True},
    "dora": {"dora": True},
    "few": {"target_modules": ("q_proj", "v_proj")},
    "saved": {"target_modules": ("q_proj",), "modules_to_save": ("norm",)},
    "head": {"target_modules": ("q_proj", "lm_head")},
    "head_saved": {"target_modules": ("q_proj",), "modules_to_save": ("lm_head",)},
    "pattern": {"target_modules": r".*(q_proj|lm_head)"},
}


@pytest.fixture(scope="session")
def untied_dir(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """The tiny model with an output head of its own."""
    folder = tmp_path_factory.mktemp("untied") / "model"
    model: Any = tf.AutoModelForCausalLM.from_pretrained(str(tiny_model_dir), tie_word_embeddings=False)
    model.lm_head.weight.data = model.lm_head.weight.data.flip(0).clone()
    model.save_pretrained(str(folder))
    tf.AutoTokenizer.from_pretrained(str(tiny_model_dir)).save_pretrained(str(folder))
    return folder


def policy(folder: Path, precision: str = "fp32", *, added: tuple[str, ...] = (), **lora: Any) -> ForestModel:
    """A policy whose adapter has been trained a little."""
    config = ModelConfig(path=str(folder), precision=precision, added_tokens=added)
    loaded = load_model(config, LoraSection(r=4, **lora))
    shake(loaded.model)
    return ForestModel(loaded.model, roles=loaded.roles, bos_id=loaded.tokenizer.bos_token_id)


@torch.no_grad()
def shake(model: torch.nn.Module, seed: int = 7) -> None:
    """Move everything trained."""
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        if p.requires_grad:
            p.add_((torch.randn(p.shape, generator=generator) * 0.05).to(p.dtype))


def scored(model: ForestModel, role: Role, stat: str) -> Tensor:
    """One statistic of GROUPS, without gradient."""
    pieces = [Piece(g, i, tuple(range(len(g.completions)))) for i, g in enumerate(GROUPS)]
    forest = build_forest(pieces, bos_id=model.bos_id, score_last=True)
    model.eval()
    with torch.no_grad(), model.role(role):
        scores = model(forest, role, frozenset({stat}))
    found = {"logprob": scores.logprobs_N, "value": scores.values_N, "last": scores.last_C}[stat]
    assert found is not None
    return found


def reward_parts(folder: Path, **lora: Any) -> tuple[Any, dict[str, Tensor], ScalarHead]:
    """Configuration, weights and head of a reward model with LoRA, as `plaudit reward` trains one."""
    from peft import get_peft_model_state_dict

    options = LoraSection(r=3, alpha=5.0, **lora)
    loaded = load_model(ModelConfig(path=str(folder), precision="fp32"), options, task="reward")
    shake(loaded.model, seed=11)
    model: Any = loaded.model
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    head = ScalarHead(64)
    head.weight.data.copy_(weights.pop("base_model.model.score.weight"))
    return model.peft_config["default"], {n: w.detach().clone() for n, w in weights.items()}, head


def add_both(model: ForestModel, folder: Path) -> None:
    """A critic, and a reward model that adapts more layers than the policy may do."""
    add_critic_adapter(model, value_head(model.width))
    assert add_reward_adapter(model, *reward_parts(folder)) is None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_policy_computes_the_same_bits_beside_other_adapters(
    variant: str, precision: str, untied_dir: Path
) -> None:
    model = policy(untied_dir, precision, **VARIANTS[variant])
    roles: tuple[Role, ...] = ("policy", "reference")
    before = [scored(model, r, "logprob") for r in roles]
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    add_both(model, untied_dir)
    assert all(torch.equal(scored(model, r, "logprob"), b) for r, b in zip(roles, before, strict=True))
    assert not torch.equal(*before)
    for role in model.roles:
        with model.role(role):
            pass
        found = {n for n, p in model.named_parameters() if p.requires_grad and not n.startswith("heads.")}
        assert {n for n in found if role_of(n) is None} == trained
        assert {role_of(n) for n in found} == {None, "critic"}
    assert not model.heads["reward"].weight.requires_grad
    dtypes = {p.dtype for n, p in model.named_parameters() if role_of(n)}
    assert dtypes == {model.dtype}, "adapters compute in the model's precision, on fp32 masters"


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_fresh_critic_says_zero_and_reads_the_base(variant: str, untied_dir: Path) -> None:
    model = policy(untied_dir, **VARIANTS[variant])
    add_critic_adapter(model, value_head(model.width))
    assert torch.equal(scored(model, "critic", "value"), torch.zeros(10))
    head = ScalarHead(model.width)
    plain = load_model(ModelConfig(path=str(untied_dir), precision="fp32"), train=False)
    base = ForestModel(plain.model, roles={"critic": RoleSpec(head="scalar")}, bos_id=model.bos_id)
    base.heads["critic"] = model.heads["critic"] = head
    torch.testing.assert_close(scored(model, "critic", "value"), scored(base, "critic", "value"), atol=1e-5, rtol=0)


ON_THE_HEAD = {"head", "head_saved", "pattern"}
COMBINATIONS = [
    (variant, tied, added)
    for variant in VARIANTS
    for tied in (True, False)
    for added in ((), ("<tool>", "</tool>"))
    # A tied head is the embedding; added tokens with LoRA on the head are refused by PEFT.
    if not (variant in ON_THE_HEAD and (tied or (added and variant != "head_saved")))
]


@pytest.mark.parametrize(("variant", "tied", "added"), COMBINATIONS, ids=str)
def test_every_weight_of_the_critic_gets_a_gradient(
    variant: str, tied: bool, added: tuple[str, ...], untied_dir: Path, tiny_model_dir: Path
) -> None:
    """A weight on the output head never would, and the run would be refused (PL403)."""
    model = policy(tiny_model_dir if tied else untied_dir, added=added, **VARIANTS[variant])
    add_critic_adapter(model, value_head(model.width))
    masters = Masters([("", model)])
    critic = {n for n in masters.weights if role_of(n) == "critic"} | {"heads.critic.weight", "heads.critic.bias"}
    assert len(critic) > 2
    assert not any("lm_head" in n for n in critic)
    pieces = [Piece(g, i, tuple(range(len(g.completions)))) for i, g in enumerate(GROUPS)]
    with model.role("critic"):
        values = model(build_forest(pieces, bos_id=1), "critic", frozenset({"value"})).values_N
        assert values is not None
        values.sum().backward()
    assert critic == {n for n, w in masters.weights.items() if w.grad is not None}


@pytest.mark.parametrize("variant", ["plain", "dora", "few", "saved", "head"])
def test_what_is_saved_is_the_policys_adapter_alone(variant: str, untied_dir: Path, tmp_path: Path) -> None:
    model = policy(untied_dir, **VARIANTS[variant])
    save_adapter(model.model, tmp_path / "before", "base")
    add_both(model, untied_dir)
    save_adapter(model.model, tmp_path / "after", "base")
    assert sorted(p.name for p in (tmp_path / "after").rglob("*")) == sorted(
        p.name for p in (tmp_path / "before").rglob("*")
    )
    before, after = (load_file(tmp_path / n / "adapter_model.safetensors") for n in ("before", "after"))
    assert before.keys() == after.keys()
    assert all(torch.equal(after[n], w) for n, w in before.items())
    configs = [json.loads((tmp_path / n / "adapter_config.json").read_text()) for n in ("before", "after")]
    for config in configs:
        config["target_modules"] = sorted(config["target_modules"])  # a set
    assert configs[0] == configs[1]
    plain: Any = tf.AutoModelForCausalLM.from_pretrained(str(untied_dir))
    again = ForestModel(PeftModel.from_pretrained(plain, str(tmp_path / "after")), bos_id=1)
    torch.testing.assert_close(
        scored(again, "policy", "logprob"), scored(model, "policy", "logprob"), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_fingerprints_do_not_see_the_other_roles(variant: str, untied_dir: Path) -> None:
    model = policy(untied_dir, **VARIANTS[variant])

    def all_of_them() -> list[str]:
        inner = model.model
        scores = [scoring_fingerprint(inner, adapters=a) for a in (False, True)]
        return [base_fingerprint(inner), trunk_base_fingerprint(inner), *scores]

    before = all_of_them()
    add_both(model, untied_dir)
    shake(model.model)  # everything trained, so the policy too
    after = all_of_them()
    assert after[:3] == before[:3]
    assert after[3] != before[3], "the policy's own adapter is part of it"
    drop_role_adapters(model)
    assert all_of_them() == after


def test_the_base_of_a_reward_model_is_recognised(tiny_model_dir: Path, untied_dir: Path) -> None:
    """An output head of its own is no part of what a reward model starts from."""
    for folder in (tiny_model_dir, untied_dir):
        classifier = load_model(ModelConfig(path=str(folder), precision="fp32"), train=False, task="reward")
        assert trunk_base_fingerprint(policy(folder).model) == base_fingerprint(classifier.model)
    assert trunk_base_fingerprint(policy(untied_dir).model) != base_fingerprint(policy(untied_dir).model)


@pytest.mark.parametrize("variant", VARIANTS)
def test_dropped_adapters_leave_the_model_as_it_was(variant: str, untied_dir: Path) -> None:
    model = policy(untied_dir, **VARIANTS[variant])
    names = [(n, p.requires_grad) for n, p in model.named_parameters()]
    before = {r: scored(model, r, "logprob") for r in ("policy", "reference")}
    types = {n: type(m) for n, m in model.named_modules()}
    add_both(model, untied_dir)
    drop_role_adapters(model)
    assert [(n, p.requires_grad) for n, p in model.named_parameters()] == names
    assert {n: type(m) for n, m in model.named_modules()} == types
    assert set(model.roles) == {"policy", "reference"}
    assert all(torch.equal(scored(model, r, "logprob"), b) for r, b in before.items())  # type: ignore[arg-type]
    assert list(model.model.peft_config) == ["default"]  # type: ignore[arg-type]
    drop_role_adapters(model)


@pytest.mark.parametrize("variant", ["plain", "dora", "few", "saved"])
def test_a_merge_beside_other_adapters_merges_the_policys(variant: str, untied_dir: Path) -> None:
    model = policy(untied_dir, **VARIANTS[variant])
    before = dict(merged_copy(model.model, torch.float32).named_parameters())
    add_both(model, untied_dir)
    after = dict(merged_copy(model.model, torch.float32).named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(after[n], p) for n, p in before.items())


def test_a_copy_of_the_reward_adapter_starts_equal_to_it_and_moves_alone(untied_dir: Path) -> None:
    model = policy(untied_dir, modules_to_save=("norm",))
    config, weights, head = reward_parts(untied_dir, modules_to_save=("norm",), rslora=True)
    assert add_reward_adapter(model, config, weights, head) is None
    rewards = scored(model, "reward", "last")
    add_critic_adapter(model, folded_head(head.weight, 2.0, -0.25), like="reward")
    torch.testing.assert_close(scored(model, "critic", "last"), 2.0 * rewards - 0.25, atol=1e-6, rtol=1e-6)
    assert float(rewards.std()) > 1e-3
    shake(model)
    assert torch.equal(scored(model, "reward", "last"), rewards)


def test_dropout_does_not_come_with_a_copied_configuration(untied_dir: Path) -> None:
    model = policy(untied_dir, dropout=0.3)
    add_both(model, untied_dir)
    rates = {
        name: {
            getattr(m.lora_dropout[name], "p", 0.0) for m in model.modules() if name in getattr(m, "lora_dropout", {})
        }
        for name in ("default", "critic", "reward")
    }
    assert rates == {"default": {0.3}, "critic": {0.0}, "reward": {0.0}}


def test_weights_that_do_not_make_the_adapter_are_refused_and_leave_nothing(untied_dir: Path) -> None:
    model = policy(untied_dir, target_modules=("q_proj",))
    names = [n for n, _ in model.named_parameters()]
    config, weights, head = reward_parts(untied_dir)
    gone = next(n for n in weights if "up_proj" in n)
    reason = add_reward_adapter(model, config, {n: w for n, w in weights.items() if n != gone}, head)
    assert reason is not None
    assert gone in reason
    assert [n for n, _ in model.named_parameters()] == names
    config.bias = "all"
    model.model.peft_config["default"].bias = "all"  # type: ignore[arg-type]
    assert "PEFT refuses" in (add_reward_adapter(model, config, weights, head) or "")


def test_an_adapter_on_the_output_head_alone_is_none_for_a_critic(untied_dir: Path) -> None:
    model = policy(untied_dir, target_modules=("lm_head",))
    with pytest.raises(ModelError, match="PL306") as caught:
        add_critic_adapter(model, value_head(model.width))
    assert "critic.separate" in str(caught.value)
    assert list(model.model.peft_config) == ["default"]  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_masters_of_policy_and_critic_come_back_exactly(precision: str, untied_dir: Path) -> None:
    def made() -> tuple[ForestModel, Masters]:
        model = policy(untied_dir, precision)
        add_critic_adapter(model, value_head(model.width))
        return model, Masters([("", model)])

    (first, saved), (second, restored) = made(), made()
    with torch.no_grad():
        for i, w in enumerate(saved.weights.values()):
            w.add_(torch.randn(w.shape, generator=torch.Generator().manual_seed(i)) * 1e-2)
    saved.publish()
    assert {"heads.critic.weight", "heads.critic.bias"} < saved.weights.keys()
    restored.load({n: w.clone() for n, w in saved.state().items()})
    for role, stat in (("policy", "logprob"), ("critic", "value")):
        assert torch.equal(scored(first, role, stat), scored(second, role, stat))  # type: ignore[arg-type]
    assert bool(scored(first, "critic", "value").any())
