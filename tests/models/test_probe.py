"""The parity probe passes every honest model, and finds every mutation.

A mutation that only the packed path suffers from must move the model to the padded path; one that touches both must be
refused.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plaudit.errors import ModelError
from plaudit.models import forest_model
from plaudit.models import probe as probing
from plaudit.models.forest_model import ForestModel, causal_lm, decoder_of
from plaudit.models.positions import PositionRegime
from plaudit.models.probe import native_logprobs, perturbed_adapters, probe, probe_groups
from tests.forest.cases import with_adapters
from tests.zoo import NAMES, ORIGINAL, PADDED_ONLY, VOCABULARY, build


@pytest.mark.parametrize("name", NAMES)
def test_honest_models_pass(name: str) -> None:
    model = ForestModel(build(name))
    found = probe(model)
    assert found.path == model.path == ("padded" if name in PADDED_ONLY else "forest")
    assert found.error <= 1e-5 <= found.tolerance
    assert bool(found.notes) == (name in PADDED_ONLY)
    assert model.training


@pytest.mark.parametrize("name", [n for n in NAMES if n not in PADDED_ONLY])
def test_honest_models_pass_in_bfloat16(name: str) -> None:
    assert probe(ForestModel(build(name, dtype=torch.bfloat16))).path == "forest"


@pytest.mark.parametrize(
    ("name", "dtype", "moved", "path"),
    [
        ("gpt_oss", torch.bfloat16, 8, "forest"),  # of 35
        ("gpt_oss", torch.bfloat16, 9, "padded"),
        ("qwen3_moe", torch.bfloat16, 8, "forest"),
        ("gpt_oss", torch.float32, 1, "padded"),
        ("llama", torch.bfloat16, 1, "padded"),
    ],
)
def test_tokens_that_went_to_other_experts(
    name: str, dtype: torch.dtype, moved: int, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In half precision another order of the same sums sends some tokens to other experts. A mixture that was held to
    all of its tokens was refused as soon as its attention was computed by another kernel."""
    honest = probing._path_results

    def path_results(model: ForestModel, *args: Any) -> dict[Any, Tensor]:
        found, left = honest(model, *args), moved
        for values in found.values() if model.path == "forest" else ():
            values[:left] += 0.5
            left -= min(left, len(values))
        return found

    monkeypatch.setattr(probing, "_path_results", path_results)
    assert probe(ForestModel(build(name, dtype=dtype))).path == path


def test_a_mixture_that_gives_nonsense_for_one_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = probing._path_results

    def path_results(*args: Any) -> dict[Any, Tensor]:
        found = honest(*args)
        next(iter(found.values()))[0] = torch.nan
        return found

    monkeypatch.setattr(probing, "_path_results", path_results)
    with pytest.raises(ModelError):
        probe(ForestModel(build("gpt_oss", dtype=torch.bfloat16)))


def test_soft_capping_is_never_left_to_sdpa() -> None:
    """sdpa drops it in silence, and transformers before 5.21 picks sdpa for Gemma-2 all the same."""
    inner = build("gemma2")
    inner.config._attn_implementation = "sdpa"
    model = ForestModel(inner)
    assert model.native_attention == "eager"
    assert probe(model).path == "forest"
    inner.config.attn_logit_softcapping = None
    inner.config._attn_implementation = "sdpa"
    assert ForestModel(inner).native_attention == "sdpa"


@pytest.mark.parametrize("name", [n for n in NAMES if n not in PADDED_ONLY])
def test_the_padded_path_passes_everywhere(name: str) -> None:
    """Asked for by the user, every model can take it, longrope's second regime included."""
    model = ForestModel(build(name))
    assert probe(model, "padded").path == "padded"


@pytest.mark.parametrize("kind", ["LoRA with lm_head", "DoRA", "modules_to_save"])
def test_adapters_pass_and_are_put_back(kind: str) -> None:
    peft = with_adapters(build("llama"), kind)
    before = {k: p.detach().clone() for k, p in peft.named_parameters()}
    assert probe(ForestModel(peft)).path == "forest"
    assert all(torch.equal(before[k], p) for k, p in peft.named_parameters())


def test_fresh_adapters_are_perturbed() -> None:
    """A fresh LoRA changes nothing; without noise the probe could not see whether it is computed at all."""
    peft = with_adapters(build("llama"), "LoRA with lm_head")
    with torch.no_grad():
        for name, p in peft.named_parameters():
            if "lora_B" in name:
                p.zero_()
    model, groups = ForestModel(peft), probe_groups(VOCABULARY)
    plain = native_logprobs(model, groups)
    with perturbed_adapters(peft):
        moved = native_logprobs(model, groups)
    assert max(float((plain[k] - moved[k]).abs().max()) for k in plain) > 0.01


# -- mutations that only packing suffers from -------------------------------------------------------------------------


def _rotary_counts_rows(model: Any, beyond: int = 0) -> None:
    """RoPE that ignores position_ids and counts the row (from some position on)."""
    rotary = decoder_of(model).rotary_emb
    honest: Callable[..., Any] = rotary.forward

    def forward(x: Tensor, position_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        if int(position_ids.max()) >= beyond:
            position_ids = torch.arange(x.shape[1])[None].expand(x.shape[0], -1)
        return honest(x, position_ids, *args, **kwargs)

    rotary.forward = forward


def _attention_drops_the_layout(model: Any) -> None:
    layer = decoder_of(model).layers[1].self_attn
    honest = layer.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        kwargs.pop("plaudit_layout", None)
        return honest(*args, **kwargs)

    layer.forward = forward


def _attention_of_its_own(model: Any) -> None:
    """One layer never asks the attention interface: it runs plain causal attention over the row."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    layer = decoder_of(model).layers[1].self_attn

    def forward(
        self: Any, hidden_states: Tensor, position_embeddings: Any, attention_mask: Any = None, **_: Any
    ) -> tuple[Tensor, None]:
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        q, k, v = (p(hidden_states).view(shape).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k = apply_rotary_pos_emb(q, k, *position_embeddings)
        out = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.o_proj(out.transpose(1, 2).flatten(2)), None

    layer.forward = types.MethodType(forward, layer)


def _window_in_the_mask_alone(model: Any) -> None:
    """The mask has a window that the layers do not pass on, as some models do."""
    for layer in decoder_of(model).layers:
        honest = layer.self_attn.forward

        def forward(*args: Any, honest: Callable[..., Any] = honest, layer: Any = layer, **kwargs: Any) -> Any:
            kept, layer.self_attn.config.sliding_window = layer.self_attn.config.sliding_window, None
            try:
                return honest(*args, **kwargs)
            finally:
                layer.self_attn.config.sliding_window = kept

        layer.self_attn.forward = forward


def _wide_window_in_the_mask_alone(model: Any) -> None:
    """The same with a window longer than the probe's sequences: no difference shows, only the declaration does."""
    model.config.sliding_window = 128
    _window_in_the_mask_alone(model)


PACKING_ONLY: dict[str, tuple[str, Callable[[Any], None], str]] = {
    "RoPE counts the row": ("llama", _rotary_counts_rows, "differs"),
    "RoPE counts the row beyond the original context": (
        "phi3_longrope",
        lambda model: _rotary_counts_rows(model, ORIGINAL),
        "differs",
    ),
    "attention drops the layout": ("llama", _attention_drops_the_layout, "PL304"),
    "attention of its own": ("llama", _attention_of_its_own, "differs"),
    "window in the mask alone": ("mistral", _window_in_the_mask_alone, "PL304"),
    "wide window in the mask alone": ("mistral", _wide_window_in_the_mask_alone, "PL304"),
}


@pytest.mark.parametrize("mutation", PACKING_ONLY)
def test_a_model_that_cannot_be_packed_is_padded(mutation: str) -> None:
    name, mutate, note = PACKING_ONLY[mutation]
    inner = build(name)
    mutate(inner)
    model = ForestModel(inner)
    found = probe(model)
    assert found.path == model.path == "padded"
    assert len(found.notes) == 1
    assert note in found.notes[0]
    with pytest.raises(ModelError) as caught:
        probe(model, "forest")
    assert caught.value.code == "PL302"


@pytest.mark.parametrize("mutation", ["RoPE counts the row", "attention drops the layout", "attention of its own"])
def test_it_is_seen_in_bfloat16_too(mutation: str) -> None:
    inner = build("llama", dtype=torch.bfloat16)
    PACKING_ONLY[mutation][1](inner)
    assert probe(ForestModel(inner)).path == "padded"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_window_must_reach_the_attention(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own mistake: a plan that forgets the window."""
    from plaudit.forest.attention import Plan

    honest = Plan.__init__
    monkeypatch.setattr(Plan, "__init__", lambda self, forest, window: honest(self, forest, None))
    assert probe(ForestModel(build("mistral", dtype=dtype))).path == "padded"
    assert probe(ForestModel(build("gpt_oss", dtype=dtype))).path == "padded"


def test_regimes_must_not_be_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own mistake: longrope's regimes ignored when packing."""
    monkeypatch.setattr(PositionRegime, "__call__", lambda self, piece, bos_id=None: 0)
    with pytest.raises(ModelError) as caught:
        probe(ForestModel(build("phi3_longrope")))
    assert caught.value.code == "PL302"


# -- mutations that no path survives ----------------------------------------------------------------------------------


def _sees_the_future(model: Any) -> None:
    """A bidirectional model: its sequences know tokens that a prefix does not."""
    decoder_of(model).layers[0].register_forward_hook(lambda module, args, out: out + 0.3 * out.mean(1, keepdim=True))


def _bidirectional_attention(model: Any) -> None:
    for layer in decoder_of(model).layers:
        layer.self_attn.is_causal = False


def _hidden_bias(model: Any) -> None:
    """The model adds a bias after its output head; nothing in the config says so."""
    honest = model.forward
    bias = torch.linspace(-1, 1, VOCABULARY)

    def forward(*args: Any, **kwargs: Any) -> Any:
        output = honest(*args, **kwargs)
        output.logits = output.logits + bias
        return output

    model.forward = forward


def _undeclared_scale(model: Any) -> None:
    honest = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        output = honest(*args, **kwargs)
        output.logits = output.logits * 1.01
        return output

    model.forward = forward


REFUSED: dict[str, Callable[[Any], None]] = {
    "sees the future": _sees_the_future,
    "bidirectional attention": _bidirectional_attention,
    "hidden bias": _hidden_bias,
    "undeclared scale": _undeclared_scale,
}


@pytest.mark.parametrize("mutation", REFUSED)
def test_a_model_that_is_not_what_it_says_is_refused(mutation: str) -> None:
    inner = build("llama")
    REFUSED[mutation](inner)
    with pytest.raises(ModelError) as caught:
        probe(ForestModel(inner))
    assert caught.value.code == "PL302"
    assert "forest path" in str(caught.value)
    assert "padded path" in str(caught.value)


@pytest.mark.parametrize("fresh", [True, False])
def test_an_adapter_on_the_head_that_is_ignored_is_refused(fresh: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mistake this project began with: the head's base weight used from outside, LoRA on it left out."""
    peft = with_adapters(build("llama"), "LoRA with lm_head")
    if fresh:
        with torch.no_grad():
            for name, p in peft.named_parameters():
                if "lora_B" in name:
                    p.zero_()
    honest = forest_model._LmHead.__init__

    def around(self: Any, model: nn.Module) -> None:
        honest(self, model)
        self.module, self.fused = causal_lm(model).lm_head.base_layer, True

    monkeypatch.setattr(forest_model._LmHead, "__init__", around)
    with pytest.raises(ModelError) as caught:
        probe(ForestModel(peft))
    assert caught.value.code == "PL302"
