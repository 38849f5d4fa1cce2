"""LoRA as PEFT has it: scales, targets, what is saved, and that a saved adapter computes what was trained."""

from __future__ import annotations

import json

import pytest
import torch
import transformers as tf

from plaudit.config.schema import LoraSection, ModelConfig
from plaudit.errors import ModelError
from plaudit.models.adapters import save_adapter
from plaudit.models.fingerprint import base_fingerprint
from plaudit.models.forest_model import ForestModel
from plaudit.models.load import load_model

IDS = torch.tensor([[1, 17, 140, 8, 33, 2, 9]])


def load(path, lora, **more):
    return load_model(ModelConfig(path=str(path), **{"precision": "fp32", **more}), lora)


def shake(model):
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=generator) * 0.05)


def logprobs(model):
    model.eval()
    with torch.no_grad():
        return torch.log_softmax(model(input_ids=IDS).logits.float(), -1)


def adapted(model):
    return {n for n, m in model.named_modules() if hasattr(m, "lora_A")}


@pytest.mark.parametrize(
    ("options", "scaling"),
    [
        ({"r": 4}, 2.0),
        ({"r": 4, "alpha": 6.0}, 1.5),
        ({"r": 16, "alpha": 8.0, "rslora": True}, 2.0),
        ({"r": 4, "rslora": True}, 4.0),
        ({"r": 4, "dora": True, "alpha": 4.0}, 1.0),
    ],
    ids=str,
)
def test_the_scale_is_alpha_over_r_or_over_its_root(options, scaling, tiny_model_dir):
    loaded = load(tiny_model_dir, LoraSection(**options))
    scales = {m.scaling["default"] for m in loaded.model.modules() if hasattr(m, "lora_A")}
    assert scales == {scaling}
    assert any("lora_magnitude_vector" in n for n, _ in loaded.model.named_parameters()) == options.get("dora", False)


def test_all_linear_leaves_the_head_out(tiny_model_dir):
    names = {n.rsplit(".", 1)[-1] for n in adapted(load(tiny_model_dir, LoraSection()).model)}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_a_list_of_targets_and_modules_to_save(tiny_model_dir):
    model = load(tiny_model_dir, LoraSection(target_modules=("q_proj", "v_proj"), modules_to_save=("norm",))).model
    assert {n.rsplit(".", 1)[-1] for n in adapted(model)} == {"q_proj", "v_proj"}
    trained = {n for n, p in model.named_parameters() if p.requires_grad and "lora_" not in n}
    assert len(trained) == 1
    assert next(iter(trained)).endswith("norm.modules_to_save.default.weight")


@pytest.mark.parametrize("field", ["target_modules", "modules_to_save"])
def test_a_wrong_name_is_refused_with_the_names_there_are(field, tiny_model_dir):
    with pytest.raises(ModelError, match="PL306") as caught:
        load(tiny_model_dir, LoraSection(**{field: ("q_prjo",)}))
    text = str(caught.value)
    assert "q_prjo" in text
    assert "q_proj" in text
    assert f"lora.{field}" in text


def test_a_wrong_pattern_is_refused(tiny_model_dir):
    with pytest.raises(ModelError, match="PL306"):
        load(tiny_model_dir, LoraSection(target_modules=r".*\.q_prjo"))


CASES = {
    "plain": {},
    "rslora": {"rslora": True},
    "dora": {"dora": True},
    "head": {"target_modules": ("q_proj", "lm_head")},
    "saved": {"target_modules": ("q_proj",), "modules_to_save": ("norm",)},
}


@pytest.mark.parametrize("case", CASES)
def test_a_saved_adapter_is_the_one_in_memory(case, tiny_model_dir, tmp_path):
    from peft import PeftModel

    if case == "head":
        untied = tf.AutoModelForCausalLM.from_pretrained(str(tiny_model_dir), tie_word_embeddings=False)
        untied.lm_head.weight.data = untied.lm_head.weight.data.clone()
        untied.save_pretrained(str(tmp_path / "base"))
        tf.AutoTokenizer.from_pretrained(str(tiny_model_dir)).save_pretrained(str(tmp_path / "base"))
        base_path = tmp_path / "base"
    else:
        base_path = tiny_model_dir
    loaded = load(base_path, LoraSection(r=4, **CASES[case]))
    base = base_fingerprint(loaded.model)
    start = logprobs(loaded.model)
    shake(loaded.model)
    moved = logprobs(loaded.model)
    assert float((moved - start).abs().max()) > 1e-3
    save_adapter(loaded.model, tmp_path / "adapter", base)
    assert json.loads((tmp_path / "adapter" / "plaudit.json").read_text())["base_fingerprint"] == base
    plain = tf.AutoModelForCausalLM.from_pretrained(str(base_path))
    again = PeftModel.from_pretrained(plain, str(tmp_path / "adapter"))
    torch.testing.assert_close(logprobs(again), moved, atol=1e-5, rtol=0)


def test_a_continued_adapter_starts_equal_to_its_frozen_twin(tiny_model_dir, tmp_path):
    first = load(tiny_model_dir, LoraSection(r=4, dropout=0.2))
    shake(first.model)
    save_adapter(first.model, tmp_path / "adapter", base_fingerprint(first.model))
    loaded = load(tiny_model_dir, LoraSection(path=str(tmp_path / "adapter")))
    policy = ForestModel(loaded.model, roles=loaded.roles)
    trained = {n for n, p in loaded.model.named_parameters() if p.requires_grad}
    assert trained
    assert all(".default" in n for n in trained)
    with policy.native() as model:
        found = {}
        for role in ("policy", "reference"):
            with policy.role(role):
                found[role] = logprobs(model)
        assert torch.equal(found["policy"], found["reference"])
        torch.testing.assert_close(found["policy"], logprobs(first.model), atol=1e-5, rtol=0)
        shake(loaded.model)
        with policy.role("reference"):
            assert torch.equal(logprobs(model), found["reference"])
        assert {n for n, p in loaded.model.named_parameters() if p.requires_grad} == trained


def test_the_adapter_of_another_base_is_refused(tiny_model_dir, tmp_path):
    first = load(tiny_model_dir, LoraSection(r=4))
    save_adapter(first.model, tmp_path / "adapter", base_fingerprint(first.model))
    other = tf.AutoModelForCausalLM.from_pretrained(str(tiny_model_dir))
    with torch.no_grad():
        other.model.norm.weight[3] += 0.5
    other.save_pretrained(str(tmp_path / "other"))
    tf.AutoTokenizer.from_pretrained(str(tiny_model_dir)).save_pretrained(str(tmp_path / "other"))
    with pytest.raises(ModelError, match="PL306") as caught:
        load(tmp_path / "other", LoraSection(path=str(tmp_path / "adapter")))
    assert "another base" in str(caught.value)


def test_a_folder_without_an_adapter_is_refused(tiny_model_dir, tmp_path):
    with pytest.raises(ModelError, match="PL306"):
        load(tiny_model_dir, LoraSection(path=str(tmp_path)))


def test_a_model_that_already_carries_an_adapter_is_refused(tiny_model_dir):
    from plaudit.models.load import prepare_model

    loaded = load(tiny_model_dir, LoraSection(r=2))
    for model in (loaded.model, loaded.model.get_base_model()):
        with pytest.raises(ModelError, match="PL306"):
            prepare_model(model, loaded.tokenizer, ModelConfig(path="<memory>"), LoraSection(r=2))
