"""What is refused and by which name, what loading changes and counts, and that the saved is the trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf

from plaudit.config.schema import LoraSection, ModelConfig
from plaudit.errors import ModelError
from plaudit.models.adapters import save_adapter
from plaudit.models.fingerprint import base_fingerprint
from plaudit.models.forest_model import ForestModel
from plaudit.models.load import load_model, prepare_model
from plaudit.train.export import save_model

SMALL: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
NEW = ("<tool>", "</tool>")


def write_model(folder: Path, tokenizer_from: Path, config: Any) -> Path:
    torch.manual_seed(3)
    tf.AutoModelForCausalLM.from_config(config).save_pretrained(str(folder))
    tf.AutoTokenizer.from_pretrained(str(tokenizer_from)).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny_model_dir) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    configs = {
        "untied": tf.LlamaConfig(**SMALL, tie_word_embeddings=False),
        "tied": tf.LlamaConfig(**SMALL, tie_word_embeddings=True),
        "padded_vocabulary": tf.LlamaConfig(**{**SMALL, "vocab_size": 320}, tie_word_embeddings=False),
    }
    return {name: write_model(folder / name, tiny_model_dir, config) for name, config in configs.items()}


def options(path: Path, **more: Any) -> ModelConfig:
    return ModelConfig(path=str(path), **{"precision": "fp32", **more})


IDS = torch.tensor([[1, 17, 140, 8, 33, 2, 9]])


def logprobs(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return torch.log_softmax(model(input_ids=ids).logits.float(), -1)


# -- what is refused


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"model_type": "t5", "is_encoder_decoder": True}, "t5 is an encoder-decoder"),
        ({"model_type": "bart", "is_encoder_decoder": True}, "bart is an encoder-decoder"),
        (
            {
                "model_type": "llava",
                "vision_config": {"model_type": "clip_vision_model"},
                "text_config": {"model_type": "llama"},
            },
            "llava is a multimodal",
        ),
        ({"model_type": "qwen2_audio"}, "qwen2_audio is a multimodal"),
        ({"model_type": "llama", "quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised (gptq)"),
        (
            {"model_type": "llama", "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
            "quantised (bitsandbytes)",
        ),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_out_of_scope_is_refused_by_name(config, name, tmp_path, tiny_model_dir):
    """Before any weight is read: there are none here."""
    tf.AutoTokenizer.from_pretrained(str(tiny_model_dir)).save_pretrained(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="PL303") as caught:
        load_model(options(tmp_path))
    assert name in str(caught.value)


def test_a_folder_that_is_not_there():
    with pytest.raises(ModelError, match="PL301") as caught:
        load_model(options(Path("/not/here")))
    assert "/not/here" in str(caught.value)


def test_a_folder_without_weights(tmp_path, models):
    for file in models["tied"].iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ModelError, match="PL301"):
        load_model(options(tmp_path))


def test_a_damaged_weight_file(tmp_path, models):
    for file in models["tied"].iterdir():
        data = file.read_bytes()
        (tmp_path / file.name).write_bytes(data[:200] if file.suffix == ".safetensors" else data)
    with pytest.raises(ModelError, match="PL301"):
        load_model(options(tmp_path))


def test_missing_weights_are_never_made_up(tmp_path, models):
    """transformers would initialise the output head at random and print a warning."""
    tf.AutoModel.from_pretrained(str(models["untied"])).save_pretrained(str(tmp_path))
    config = json.loads((models["untied"] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    tf.AutoTokenizer.from_pretrained(str(models["untied"])).save_pretrained(str(tmp_path))
    with pytest.raises(ModelError, match="PL301") as caught:
        load_model(options(tmp_path))
    assert "lm_head.weight" in str(caught.value)


def test_a_chat_template_file_that_is_not_there(models):
    with pytest.raises(ModelError, match="PL301"):
        load_model(options(models["tied"], chat_template="/not/here.jinja"))


def test_a_chat_template_replaces_the_tokenizers_own_also_for_a_model_in_memory(models, tmp_path):
    template = tmp_path / "mine.jinja"
    template.write_text("{{ 'mine' }}")
    plain = load_model(options(models["tied"]))
    assert plain.tokenizer.chat_template != "{{ 'mine' }}"
    assert load_model(options(models["tied"], chat_template=str(template))).tokenizer.chat_template == "{{ 'mine' }}"
    again = prepare_model(plain.model, plain.tokenizer, options(Path("<memory>"), chat_template=str(template)))
    assert again.tokenizer.chat_template == "{{ 'mine' }}"


# -- what is changed on loading


def test_dropout_of_gpt2_is_silenced_and_counted(tmp_path, tiny_model_dir):
    config = tf.GPT2Config(
        vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2
    )
    assert config.attn_pdrop == config.resid_pdrop == config.embd_pdrop == 0.1
    loaded = load_model(options(write_model(tmp_path / "gpt2", tiny_model_dir, config)))
    # The embedding's, and in each of two layers: attention, its output, the MLP's output.
    assert "dropout of the model set to 0 in 7 places" in loaded.notes
    loaded.model.train()
    first, second = (loaded.model(input_ids=IDS).logits for _ in range(2))
    assert torch.equal(first, second)


def test_soft_capping_is_not_left_to_sdpa(tmp_path, tiny_model_dir):
    """Sampling goes to the plain model, without a `ForestModel` around it."""
    config = tf.Gemma2Config(**SMALL, head_dim=8, query_pre_attn_scalar=8, attn_logit_softcapping=0.1)
    loaded = load_model(options(write_model(tmp_path / "capped", tiny_model_dir, config)))
    assert loaded.model.config._attn_implementation == "eager"
    model = tf.AutoModelForCausalLM.from_pretrained(str(tmp_path / "capped"))
    model.config._attn_implementation = "sdpa"  # what transformers before 5.21 picks
    again = prepare_model(model, loaded.tokenizer, options(Path("<memory>")))
    assert any("soft-capping" in note for note in again.notes)
    assert torch.equal(logprobs(again.model), logprobs(loaded.model))


def test_attention_dropout_of_llama_is_silenced(tmp_path, tiny_model_dir):
    config = tf.LlamaConfig(**SMALL, attention_dropout=0.3)
    loaded = load_model(options(write_model(tmp_path / "dropping", tiny_model_dir, config)))
    assert "dropout of the model set to 0 in 2 places" in loaded.notes
    loaded.model.train()
    first, second = (loaded.model(input_ids=IDS).logits for _ in range(2))
    assert torch.equal(first, second)


def test_bf16_keeps_rope_frequencies_in_fp32(models):
    exact = load_model(options(models["tied"]))
    loaded = load_model(options(models["tied"], precision="bf16"))
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}
    buffers = dict(loaded.model.named_buffers())
    frequencies = {name: b for name, b in buffers.items() if "inv_freq" in name}
    assert frequencies
    for name, value in frequencies.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, dict(exact.model.named_buffers())[name])


# -- what is saved


def shake(model: torch.nn.Module, scale: float = 0.05) -> None:
    """Move everything that is trained, as training would."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=generator) * scale)


@pytest.mark.parametrize("name", ["tied", "untied"])
@pytest.mark.parametrize("tokens", [(), NEW], ids=["", "added tokens"])
def test_a_saved_full_model_is_the_one_in_memory(name, tokens, models, tmp_path):
    loaded = load_model(options(models[name], added_tokens=tokens))
    shake(loaded.model)
    policy = ForestModel(loaded.model, roles=loaded.roles)
    save_model(policy, loaded.tokenizer, tmp_path / "model", base_fingerprint(loaded.model))
    plain = tf.AutoModelForCausalLM.from_pretrained(str(tmp_path / "model"))
    tokenizer = tf.AutoTokenizer.from_pretrained(str(tmp_path / "model"))
    ids = torch.tensor([[1, 17, *tokenizer.convert_tokens_to_ids(list(tokens)), 9]])
    with policy.native() as model:
        torch.testing.assert_close(logprobs(plain, ids), logprobs(model, ids), atol=1e-5, rtol=0)
    assert tokenizer.chat_template == loaded.tokenizer.chat_template
    assert len(tokenizer) == len(loaded.tokenizer)


@pytest.mark.parametrize("name", ["tied", "untied", "padded_vocabulary"])
def test_added_tokens_start_at_the_mean(name, models):
    loaded = load_model(options(models[name], added_tokens=NEW))
    old = tf.AutoModelForCausalLM.from_pretrained(str(models[name]))
    known = len(tf.AutoTokenizer.from_pretrained(str(models[name])))
    ids = loaded.tokenizer.convert_tokens_to_ids(list(NEW))
    assert ids == [known, known + 1]
    for of in ("get_input_embeddings", "get_output_embeddings"):
        before, after = getattr(old, of)().weight, getattr(loaded.model, of)().weight
        torch.testing.assert_close(after[ids], before[:known].mean(0).expand(2, -1), atol=1e-7, rtol=1e-5)
        assert torch.equal(after[:known], before[:known])
    assert any("2 tokens added" in note for note in loaded.notes)
    assert loaded.tokenizer("a<tool>b</tool>").input_ids[1:].count(ids[0]) == 1
    again = load_model(options(models[name], added_tokens=NEW))
    assert base_fingerprint(again.model) == base_fingerprint(loaded.model)


def test_added_tokens_of_a_model_in_memory(models):
    plain = load_model(options(models["untied"]))
    loaded = prepare_model(plain.model, plain.tokenizer, options(Path("<memory>"), added_tokens=NEW))
    ids = loaded.tokenizer.convert_tokens_to_ids(list(NEW))
    assert None not in ids
    assert loaded.model.get_input_embeddings().weight.shape[0] == max(ids) + 1
    again = prepare_model(loaded.model, loaded.tokenizer, options(Path("<memory>"), added_tokens=NEW))
    assert any("0 tokens added (2 were there already)" in note for note in again.notes)


@pytest.mark.parametrize("name", ["tied", "untied", "padded_vocabulary"])
def test_with_lora_only_the_new_rows_are_trained_saved_and_reloadable(name, models, tmp_path):
    from peft import PeftModel

    loaded = load_model(options(models[name], added_tokens=NEW), LoraSection(r=4))
    base = base_fingerprint(loaded.model)
    ids = loaded.tokenizer.convert_tokens_to_ids(list(NEW))
    trained = {n: p for n, p in loaded.model.named_parameters() if p.requires_grad}
    rows = {n: p for n, p in trained.items() if "lora_" not in n}
    assert len(rows) == (1 if name == "tied" else 2)
    assert all(p.shape == (2, SMALL["hidden_size"]) for p in rows.values())
    # Every trained parameter gets a gradient, the rows of the output head too.
    batch = torch.tensor([[1, ids[0], 17, ids[1], 9]])
    loaded.model(input_ids=batch, labels=batch).loss.backward()
    assert not [n for n, p in trained.items() if p.grad is None]
    assert all(bool((p.grad != 0).any()) for p in rows.values())
    shake(loaded.model)
    assert base_fingerprint(loaded.model) == base, "the base did not move"
    save_adapter(loaded.model, tmp_path / "adapter", base)
    stored = (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size
    assert stored < 150_000, "rows were saved, not the whole embedding"

    plain = tf.AutoModelForCausalLM.from_pretrained(str(models[name]))
    if len(loaded.tokenizer) > plain.get_input_embeddings().weight.shape[0]:
        plain.resize_token_embeddings(len(loaded.tokenizer), mean_resizing=False)
    again = PeftModel.from_pretrained(plain, str(tmp_path / "adapter"))
    torch.testing.assert_close(logprobs(again, batch), logprobs(loaded.model, batch), atol=1e-5, rtol=0)


@pytest.mark.parametrize("tied", ["tied", "untied"])
def test_a_base_has_one_fingerprint_whatever_is_around_it(tied, models):
    plain = base_fingerprint(load_model(options(models[tied])).model)
    assert base_fingerprint(load_model(options(models[tied], precision="bf16")).model) == plain
    assert base_fingerprint(load_model(options(models[tied]), LoraSection(r=2)).model) == plain
    everything = LoraSection(r=2, target_modules=("q_proj", "lm_head"), modules_to_save=("embed_tokens",))
    assert base_fingerprint(load_model(options(models["untied"]), everything).model) == base_fingerprint(
        load_model(options(models["untied"])).model
    )
    other = {"tied": "untied", "untied": "tied"}[tied]
    assert base_fingerprint(load_model(options(models[other])).model) != plain
