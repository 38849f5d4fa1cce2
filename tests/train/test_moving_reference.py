"""A reference that follows the policy moves exactly as asked, in every form of the weights, and survives a kill."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from plaudit.errors import ModelError
from plaudit.forest.layout import Piece, build_forest
from plaudit.models.forest_model import ForestModel, RoleSpec
from plaudit.models.masters import Masters
from plaudit.train.moving_reference import moving_reference
from tests.train import runs
from tests.train.steps import make_groups, tiny_llama


def policy_model(form: str, dtype: torch.dtype = torch.float32, **options: object) -> ForestModel:
    base = tiny_llama().to(dtype)
    if form == "full":
        return ForestModel(base)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], **options)
    model = get_peft_model(base, config, autocast_adapter_dtype=False)
    return ForestModel(model, roles={"policy": RoleSpec("default"), "reference": RoleSpec(None)})


def shake(policy: ForestModel, masters: Masters, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in masters.weights.values():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.05)
    masters.publish()


@torch.no_grad()
def logprobs(model: ForestModel, role: str) -> torch.Tensor:
    groups = make_groups("preference")
    forest = build_forest([Piece(g, i, (0, 1)) for i, g in enumerate(groups)], bos_id=None)
    model.eval()
    with model.role(role) as active:
        return active(forest, role).logprobs_N.clone()


@pytest.mark.parametrize("form", ["full", "lora"])
@pytest.mark.parametrize("replaced_only", [True, False], ids=["hard", "soft"])
def test_it_starts_as_the_policy_and_stays_until_it_is_moved(form, replaced_only):
    policy = policy_model(form)
    masters = Masters([("", policy)])
    shake(policy, masters, 1)  # as after continuing an adapter
    moving = moving_reference(policy, masters.weights, replaced_only=replaced_only)
    start = logprobs(policy, "policy")
    assert torch.allclose(logprobs(moving.model, "reference"), start, atol=2e-5)
    shake(policy, masters, 2)
    assert torch.allclose(logprobs(moving.model, "reference"), start, atol=2e-5)
    assert (logprobs(policy, "policy") - start).abs().max() > 0.01
    moving.move(1.0)
    assert torch.allclose(logprobs(moving.model, "reference"), logprobs(policy, "policy"), atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_soft_move_mixes_the_weights_of_full_fine_tuning(dtype):
    policy = policy_model("full", dtype)
    masters = Masters([("", policy)])
    start = {n: w.detach().clone() for n, w in masters.weights.items()}
    moving = moving_reference(policy, masters.weights, replaced_only=False)
    shake(policy, masters, 3)
    for _ in range(2):
        moving.move(0.3)
    for name, weight in moving.state().items():
        expected = 0.49 * start[name] + 0.51 * masters.weights[name]
        assert torch.allclose(weight, expected, atol=1e-6), name
    parameters = dict(moving.model.named_parameters())
    assert all(p.dtype == dtype and not p.requires_grad for p in parameters.values())


def test_a_soft_move_with_lora_mixes_the_product_and_not_the_factors():
    policy = policy_model("lora")
    masters = Masters([("", policy)])
    shake(policy, masters, 4)
    moving = moving_reference(policy, masters.weights, replaced_only=False)
    layer = policy.model.base_model.model.model.layers[0].self_attn.q_proj
    before = layer.get_delta_weight("default").detach().clone()
    factors = [layer.lora_A["default"].weight.detach().clone(), layer.lora_B["default"].weight.detach().clone()]
    shake(policy, masters, 5)
    moving.move(0.25)
    after = layer.get_delta_weight("default").detach()
    found = moving.state()["model.layers.0.self_attn.q_proj.weight"] - layer.base_layer.weight
    assert torch.allclose(found, 0.75 * before + 0.25 * after, atol=1e-6)
    mixed = [
        0.75 * old + 0.25 * new
        for old, new in zip(factors, (layer.lora_A["default"].weight, layer.lora_B["default"].weight), strict=True)
    ]
    assert (found - layer.scaling["default"] * mixed[1] @ mixed[0]).abs().max() > 1e-4


def test_saved_modules_move_too():
    policy = policy_model("lora", modules_to_save=["lm_head"])
    masters = Masters([("", policy)])
    moving = moving_reference(policy, masters.weights, replaced_only=False)
    shake(policy, masters, 6)
    moving.move(1.0)
    assert torch.allclose(logprobs(moving.model, "reference"), logprobs(policy, "policy"), atol=2e-5)


def test_dora_has_no_delta_to_mix():
    policy = policy_model("lora", use_dora=True)
    with pytest.raises(ModelError, match="DoRA") as caught:
        moving_reference(policy, Masters([("", policy)]).weights, replaced_only=False)
    assert caught.value.code == "PL305"


@pytest.mark.parametrize("form", ["full", "lora"])
@pytest.mark.parametrize("replaced_only", [True, False], ids=["hard", "soft"])
def test_state_brings_it_back_exactly(form, replaced_only):
    policy = policy_model(form)
    masters = Masters([("", policy)])
    moving = moving_reference(policy, masters.weights, replaced_only=replaced_only)
    shake(policy, masters, 7)
    moving.move(0.5 if not replaced_only else 1.0)
    kept, scores = copy.deepcopy(moving.state()), logprobs(moving.model, "reference")
    shake(policy, masters, 8)
    moving.move(1.0)
    assert not torch.equal(logprobs(moving.model, "reference"), scores)
    moving.load(kept)
    assert torch.equal(logprobs(moving.model, "reference"), scores)


def test_the_twin_is_not_trained():
    policy = policy_model("lora")
    before = {n for n, p in policy.named_parameters() if p.requires_grad}
    moving_reference(policy, Masters([("", policy)]).weights, replaced_only=True)
    assert {n for n, p in policy.named_parameters() if p.requires_grad} == before


def test_a_run_moves_its_reference_and_nothing_is_cached(options, tmp_path: Path):
    """Hard at every step with one step between: the first loss after a move is ln 2 again."""
    changes = {"train.max_steps": 4, "train.epochs": 4.0, "checkpoint.every": 4, "data.eval_fraction": 0.0}
    changes |= {"eval.every": None, "method.update": "hard", "method.every": 2}
    result = runs.train_here("tr_dpo", options("tr_dpo", **changes))
    losses = [line["loss"] for line in runs.lines(result.run_dir / "metrics.jsonl")]
    assert losses[0] == pytest.approx(0.6931472, abs=1e-5)
    assert losses[2] == pytest.approx(0.6931472, abs=1e-5)
    assert abs(losses[1] - 0.6931472) > 1e-4
    assert abs(losses[3] - 0.6931472) > 1e-4
    assert not list(tmp_path.glob("*cache/*.sqlite"))


@pytest.mark.parametrize("replaced_only", [True, False], ids=["hard", "soft"])
@pytest.mark.parametrize(
    ("targets", "saved"),
    [
        (["embed_tokens"], None),
        (["lm_head"], None),
        (["lm_head", "embed_tokens", "q_proj"], None),
        (["q_proj"], ["lm_head"]),
    ],
    ids=str,
)
def test_an_adapter_on_one_end_of_a_tied_model_stays_at_that_end(targets, saved, replaced_only):
    """The two ends share a tensor; W + ΔW belongs to the adapted one alone."""
    base = tiny_llama()
    base.config.tie_word_embeddings = True
    base.lm_head.weight = base.model.embed_tokens.weight
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, modules_to_save=saved)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns of merging tied layers; ours is what this tests
        model = get_peft_model(base, config, autocast_adapter_dtype=False)
        policy = ForestModel(model, roles={"policy": RoleSpec("default"), "reference": RoleSpec(None)})
        masters = Masters([("", policy)])
        shake(policy, masters, 1)
        moving = moving_reference(policy, masters.weights, replaced_only=replaced_only)
    start = logprobs(policy, "policy")
    assert torch.allclose(logprobs(moving.model, "reference"), start, atol=5e-5)
    shake(policy, masters, 2)
    assert torch.allclose(logprobs(moving.model, "reference"), start, atol=5e-5)
    moving.move(1.0)
    assert torch.allclose(logprobs(moving.model, "reference"), logprobs(policy, "policy"), atol=5e-5)
    assert (logprobs(policy, "policy") - start).abs().max() > 0.01
