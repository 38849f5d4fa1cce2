"""Norms, rotary positions and gates: the same bits forward, the same gradients, and only where that is so."""

from __future__ import annotations

import copy
import io
import sys
from collections.abc import Iterator
from typing import Any

import peft
import pytest
import torch
import transformers as tf
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from plaudit.models import fused
from plaudit.models.fused import gated_down, rms_norm, rotate, use_fused
from tests import zoo


@pytest.fixture
def untouched() -> Iterator[None]:
    """The rotary functions of transformers' files as they were, before and after."""
    replaced = {
        name: file.apply_rotary_pos_emb
        for name, file in list(sys.modules.items())
        if isinstance(getattr(file, "apply_rotary_pos_emb", None), fused._Rotary)
    }
    for name, ours in replaced.items():
        sys.modules[name].apply_rotary_pos_emb = ours.original  # type: ignore[attr-defined]
    yield
    for name, ours in replaced.items():
        sys.modules[name].apply_rotary_pos_emb = ours  # type: ignore[attr-defined]


def _gradients(model: nn.Module, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    logits: Tensor = model(input_ids=ids).logits
    (logits * torch.randn(logits.shape, generator=torch.Generator().manual_seed(4))).sum().backward()
    return logits.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", zoo.NAMES)
def test_a_model_gives_the_same_bits_and_gradients(name: str, untouched: None) -> None:
    model = zoo.build(name)
    ids = torch.randint(3, zoo.VOCABULARY, (2, 19), generator=torch.Generator().manual_seed(2))
    logits, wanted = _gradients(model, ids)
    use_fused(model)
    again, found = _gradients(model, ids)
    assert torch.equal(again, logits)
    assert found.keys() == wanted.keys()
    for key, gradient in found.items():
        assert float((gradient - wanted[key]).abs().max()) <= 1e-5 * max(1.0, float(wanted[key].abs().max())), key


@pytest.mark.parametrize(
    ("name", "norms", "gates"),
    [("llama", 5, 2), ("qwen3", 9, 2), ("qwen3_moe", 9, 0), ("gemma2", 0, 0), ("cohere", 0, 2)],
)
def test_what_is_replaced(name: str, norms: int, gates: int) -> None:
    """Two layers: two norms in each and one at the end, Qwen3 has them for queries and keys too. Gemma's multiplies by
    1 + w and its gate is no SiLU, Cohere has layer norms and pairs neighbours."""
    model = zoo.build(name)
    changed = use_fused(model)
    replaced = [type(m).__name__ for m in model.modules() if "forward" in vars(m)]
    assert sum(r.endswith("RMSNorm") for r in replaced) == norms
    assert sum(r.endswith("MLP") for r in replaced) == gates
    assert len(replaced) == norms + gates
    rotary = isinstance(getattr(sys.modules[type(model).__module__], "apply_rotary_pos_emb", None), fused._Rotary)
    assert changed == norms + gates + rotary
    assert rotary == (name != "cohere")
    assert use_fused(model) == int(rotary)  # done already


def test_gradients_of_the_formulas() -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, weight = draw(2, 3, 8).requires_grad_(), draw(8).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: rms_norm(a, b, 1e-6), (x, weight))
    for frozen in (x, weight):
        frozen.requires_grad_(False)
        assert torch.autograd.gradcheck(lambda a, b: rms_norm(a, b, 1e-6), (x, weight))
        frozen.requires_grad_()
    angles = draw(1, 5, 4).repeat(1, 1, 2)
    heads = draw(2, 5, 3, 8).transpose(1, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: rotate(a, angles.cos(), angles.sin()), (heads,))
    gate, up, down = (draw(2, 3, 6).requires_grad_(), draw(2, 3, 6).requires_grad_(), draw(4, 6).requires_grad_())
    assert torch.autograd.gradcheck(gated_down, (gate, up, down))
    for frozen in (gate, up, down):
        frozen.requires_grad_(False)
        assert torch.autograd.gradcheck(gated_down, (gate, up, down))
        frozen.requires_grad_()


def test_a_forward_gives_the_same_bits() -> None:
    norm = LlamaRMSNorm(24)
    x = torch.randn(3, 7, 24, generator=torch.Generator().manual_seed(1))
    assert torch.equal(rms_norm(x, norm.weight.detach(), norm.variance_epsilon), norm(x))
    angles = torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(1)).repeat(1, 1, 2)
    heads = x.view(3, 7, 3, 8).transpose(1, 2)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    plain = heads * cos + torch.cat((-heads[..., 4:], heads[..., :4]), -1) * sin
    turned = rotate(heads, angles.cos(), angles.sin())
    assert torch.equal(turned, plain)
    assert turned.stride() == heads.stride()


def test_only_wanted_gradients_are_there() -> None:
    x, weight = torch.randn(4, 8, requires_grad=True), torch.ones(8)
    rms_norm(x, weight, 1e-6).sum().backward()
    assert x.grad is not None
    weight.requires_grad_()
    rms_norm(x.detach(), weight, 1e-6).sum().backward()
    assert weight.grad is not None
    assert not rms_norm(x.detach(), weight.detach(), 1e-6).requires_grad


class _Kept:
    """Counts the entries that autograd keeps, of tensors that are not parameters."""

    def __init__(self, model: nn.Module) -> None:
        self.parameters = {p.data_ptr() for p in model.parameters()}
        self.entries: dict[int, int] = {}

    def pack(self, tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in self.parameters:
            self.entries[tensor.data_ptr()] = tensor.numel()
        return tensor


@pytest.mark.parametrize("kind", ["plain", "adapter", "hook", "packed"])
def test_only_a_plain_layer_behind_the_gate_is_gone_around(kind: str) -> None:
    """The gate's product and its SiLU are not kept; what else a layer does is done."""
    model: Any = zoo.build("llama")
    layers = [layer.mlp for layer in model.model.layers]
    called: list[str] = []
    if kind == "adapter":
        config = peft.LoraConfig(r=2, target_modules=["down_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
        model = peft.get_peft_model(model, config)
    for mlp in layers:
        if kind == "hook":
            mlp.down_proj.register_forward_hook(lambda *_: called.append("hook"))
        if kind == "packed":
            plain = mlp.down_proj.forward
            mlp.down_proj.forward = lambda x, plain=plain: (called.append("packed"), plain(x))[1]
    ids = torch.randint(3, zoo.VOCABULARY, (2, 19), generator=torch.Generator().manual_seed(2))
    sizes = []
    for fuse in (False, True):
        if fuse:
            for module in model.modules():
                if type(module).__name__ == "LlamaMLP":
                    use_fused(module)
        kept = _Kept(model)
        with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda t: t):
            logits = model(input_ids=ids).logits
        sizes.append((logits.detach(), sum(kept.entries.values()), len(called)))
    (before, entries, calls), (after, fewer, both) = sizes
    assert torch.equal(before, after)
    assert both == 2 * calls
    width = layers[0].gate_proj.out_features
    assert entries - fewer == (2 * len(layers) * 2 * 19 * width if kind == "plain" else 0)


def test_other_precisions_go_the_models_own_way() -> None:
    model = zoo.build("llama", dtype=torch.bfloat16)
    ids = torch.randint(3, zoo.VOCABULARY, (1, 9), generator=torch.Generator().manual_seed(2))
    plain = model(input_ids=ids).logits
    use_fused(model)
    assert torch.equal(model(input_ids=ids).logits, plain)


@pytest.mark.parametrize("options", [{"unsqueeze_dim": 2}, {}], ids=["other heads first", "half of a head"])
def test_what_the_rotary_is_not_made_for_goes_to_the_original(options: dict[str, int]) -> None:
    calls: list[Any] = []

    def original(*args: Any, **more: Any) -> tuple[str, str]:
        calls.append(more)
        return "q", "k"

    q, angles = torch.randn(1, 2, 3, 8), torch.randn(1, 3, 8 if options else 4)
    assert fused._Rotary(original)(q, q, angles, angles, **options) == ("q", "k")  # type: ignore[arg-type]
    assert calls == [options]


def test_a_norm_that_wants_other_arguments_is_left_alone() -> None:
    class GatedRMSNorm(LlamaRMSNorm):
        def forward(self, hidden_states: Tensor, gate: Tensor) -> Tensor:
            return super().forward(hidden_states) * gate

    class Doubling(LlamaRMSNorm):
        def forward(self, hidden_states: Tensor) -> Tensor:
            return 2 * super().forward(hidden_states)

    Doubling.__name__ = "DoublingRMSNorm"
    assert use_fused(nn.Sequential(GatedRMSNorm(8), Doubling(8))) == 0
    assert use_fused(nn.Sequential(LlamaRMSNorm(8))) == 2  # and the rotary function of its file


def test_copies_and_saved_models_compute_with_their_own_weights() -> None:
    norm: Any = nn.Sequential(LlamaRMSNorm(8))
    use_fused(norm)
    twin = copy.deepcopy(norm)
    with torch.no_grad():
        twin[0].weight.fill_(3.0)
    x = torch.randn(2, 8)
    assert torch.equal(twin(x), norm(x) * 3)
    file = io.BytesIO()
    torch.save(twin, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), twin(x))
    assert norm.state_dict().keys() == {"0.weight"}


def test_trying_moves_no_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first model of a process is tried and the second is not; both runs must draw the same."""
    model = zoo.build("llama")
    monkeypatch.setattr(fused, "_verdicts", {})
    before = torch.get_rng_state()
    assert use_fused(model)
    assert fused._verdicts
    assert torch.equal(torch.get_rng_state(), before)


def test_recomputed_activations() -> None:
    """Gradient checkpointing runs a layer again, and must find the same tensors kept."""
    ids = torch.randint(3, zoo.VOCABULARY, (2, 11), generator=torch.Generator().manual_seed(2))
    model: tf.PreTrainedModel = zoo.build("qwen3")
    use_fused(model)
    logits, wanted = _gradients(model, ids)
    enable: Any = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    again, found = _gradients(model, ids)
    assert torch.equal(again, logits)
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
