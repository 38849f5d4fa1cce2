"""Element-wise parts of a transformers decoder on a CPU: RMSNorm, rotary positions, the gate of a feed-forward layer.

Written with PyTorch's operations one after the other, as transformers has them, each pass brings whole activations from
memory and back, and keeps most of them for the backward pass. Here passes work in place, and the backward passes have
their own formulas. The gate's product is not kept but made again: of the widest activations of a layer two are left in
place of four.

A forward gives the same bits as the module it replaces, which is tried before anything is replaced; gradients agree up
to rounding. Off the CPU, and in other precisions than fp32, the model's own code runs. Nothing is added to a model's
parameters or state, and what is replaced stays so: a backward pass that recomputes activations must find what the
forward pass has used.
"""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Callable
from types import MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_ROTARY = "apply_rotary_pos_emb"
"""What transformers calls its function in the file of every model that has it."""

_verdicts: dict[tuple[object, ...], bool] = {}
_lock = threading.Lock()


def use_fused(model: nn.Module) -> int:
    """Let a model on a CPU compute its norms, rotary positions and gates by the functions below, where that gives the
    same bits.

    Args:
        model: a transformers model, or a wrapper of one. Its modules are left in place; their `forward` is another.

    Returns:
        How many modules compute otherwise now, the rotary function of a model's file counted as one.
    """
    changed = 0
    files: set[str] = set()
    for module in model.modules():
        files.add(type(module).__module__)
        if "forward" in vars(module):
            continue
        for belongs, forward in ((_is_rms_norm, _rms_norm_forward), (_is_gated, _gated_forward)):
            if belongs(module):
                module.forward = MethodType(forward, module)
                changed += 1
    for name in sorted(files):
        if name.startswith("transformers.models."):
            changed += _replace_rotary(sys.modules[name])
    return changed


def _on_cpu(*tensors: Tensor) -> bool:
    return (
        all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors) and not torch.compiler.is_compiling()
    )


# -- RMSNorm


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """y = w · x / √(mean(x²) + ε) over the last dimension (Zhang & Sennrich 2019, eq. 4).

    Args:
        x: [..., D] fp32 on a CPU.
        weight: [D] fp32.

    Returns:
        The same shape as `x`.
    """
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        normed: Tensor = _RmsNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
        return normed
    return _normed(x, weight, eps)[0]


def _normed(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The norm, and 1 / √(mean(x²) + ε) of each row: [..., D], [N, 1]."""
    rows = x.reshape(-1, x.shape[-1])
    out = rows * rows
    scale = out.mean(-1, keepdim=True).add_(eps).rsqrt_()
    torch.mul(rows, scale, out=out)
    return out.mul_(weight).view(x.shape), scale


class _RmsNorm(torch.autograd.Function):
    """With s = 1 / √(mean(x²) + ε): dx = s·w·g − x · s³ · mean(w·g·x), dw = Σ s·g·x.

    These are the slopes of a layer norm whose mean is taken to be 0, which PyTorch has as one kernel, but for
    s·mean(w·g): the kernel takes it away as the share of the mean, and here it is given back.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        out, scale = _normed(x, weight, eps)
        ctx.save_for_backward(x, weight, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight, scale = ctx.saved_tensors
        width = x.shape[-1]
        rows, grads = x.reshape(-1, width), grad.reshape(-1, width)
        needs_x, needs_weight, _ = ctx.needs_input_grad
        dx, dweight, _ = torch.ops.aten.native_layer_norm_backward(
            grads, rows, [width], torch.zeros_like(scale), scale, weight, None, [needs_x, needs_weight, False]
        )
        if needs_x:
            dx = dx.add_(torch.mv(grads, weight)[:, None].mul_(scale).div_(width)).view(x.shape)
        return dx, dweight, None


def _rms_norm_forward(self: Any, hidden_states: Tensor) -> Tensor:
    if _on_cpu(hidden_states, self.weight):
        return rms_norm(hidden_states, self.weight, _epsilon(self))
    return type(self).forward(self, hidden_states)  # type: ignore[no-any-return]


# Pickled by name as a bound method, and then found again as the forward of the class.
_rms_norm_forward.__name__ = "forward"


def _epsilon(module: Any) -> float:
    return float(getattr(module, "variance_epsilon", getattr(module, "eps", 0.0)))


def _once(key: tuple[object, ...], trial: Callable[[], bool]) -> bool:
    """The verdict of a trial, which is made once in a process."""
    with _lock:
        if key not in _verdicts:
            _verdicts[key] = trial()
        return _verdicts[key]


def _is_rms_norm(module: nn.Module) -> bool:
    """Whether a module computes `rms_norm`, to the bit: tried once for every class, width and ε."""
    if not type(module).__name__.endswith("RMSNorm"):
        return False
    weight = getattr(module, "weight", None)
    if not isinstance(weight, nn.Parameter) or weight.ndim != 1 or len(list(module.parameters())) != 1:
        return False
    width = weight.shape[0]
    return _once((type(module), width, _epsilon(module)), lambda: _gives_the_same(module, width))


@torch.no_grad()
def _gives_the_same(module: nn.Module, width: int) -> bool:
    drawn = torch.Generator().manual_seed(0)
    x = torch.randn(1, 5, width, generator=drawn)
    weight = torch.rand(width, generator=drawn) + 0.5
    try:
        expected = torch.func.functional_call(module, {"weight": weight}, (x,))
    except (TypeError, RuntimeError):  # it wants other arguments
        return False
    return isinstance(expected, Tensor) and torch.equal(expected, rms_norm(x, weight, _epsilon(module)))


# -- the gate of a feed-forward layer


def gated_down(gate: Tensor, up: Tensor, weight: Tensor) -> Tensor:
    """y = (silu(gate) · up) Wᵀ (SwiGLU, Shazeer 2020, eq. 6, from its two products on), keeping only gate and up.

    Args:
        gate, up: [..., I] fp32 on a CPU.
        weight: [D, I] fp32.

    Returns:
        [..., D]
    """
    if torch.is_grad_enabled() and (gate.requires_grad or up.requires_grad or weight.requires_grad):
        down: Tensor = _GatedDown.apply(gate, up, weight)  # type: ignore[no-untyped-call]
        return down
    return nn.functional.linear(_gated(gate, up), weight)


def _gated(gate: Tensor, up: Tensor) -> Tensor:
    return nn.functional.silu(gate).mul_(up)


class _GatedDown(torch.autograd.Function):
    """The product of the gate is made again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up, weight)
        return nn.functional.linear(_gated(gate, up), weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        gate, up, weight = ctx.saved_tensors
        needs_gate, needs_up, needs_weight = ctx.needs_input_grad
        dgate = dup = dweight = None
        opened = nn.functional.silu(gate)
        if needs_weight:
            product = (opened * up).reshape(-1, up.shape[-1])
            dweight = grad.reshape(-1, grad.shape[-1]).T @ product
            del product
        if needs_gate or needs_up:
            inner = grad @ weight
            if needs_up:
                dup = opened.mul_(inner)
            if needs_gate:
                dgate = torch.ops.aten.silu_backward(inner.mul_(up), gate)
        return dgate, dup, dweight


def _gated_forward(self: Any, x: Tensor) -> Tensor:
    # Adapters, quantisation and packed copies have a product of their own in its place.
    if _on_cpu(x) and _is_plain(self.down_proj) and _on_cpu(self.down_proj.weight):
        return gated_down(self.gate_proj(x), self.up_proj(x), self.down_proj.weight)
    return type(self).forward(self, x)  # type: ignore[no-any-return]


_gated_forward.__name__ = "forward"


def _is_plain(linear: nn.Module) -> bool:
    """Whether nothing but y = x Wᵀ happens when a module is called."""
    return (
        type(linear) is nn.Linear
        and linear.bias is None
        and "forward" not in vars(linear)
        and not (linear._forward_hooks or linear._forward_pre_hooks)
        and not (linear._backward_hooks or linear._backward_pre_hooks)
    )


_GATED = frozenset({"gate_proj", "up_proj", "down_proj", "act_fn"})


def _is_gated(module: nn.Module) -> bool:
    """Whether a module is three linear layers around SiLU as in `gated_down`, to the bit: tried once for a class."""
    parts = dict(module.named_children())
    if parts.keys() != _GATED or type(parts["act_fn"]).__name__ not in ("SiLU", "SiLUActivation"):
        return False
    return _once((type(module), "gated"), lambda: _gates_the_same(module))


@torch.no_grad()
def _gates_the_same(module: nn.Module) -> bool:
    drawn = torch.Generator().manual_seed(0)
    sizes = {"gate_proj": (4, 6), "up_proj": (4, 6), "down_proj": (6, 4)}
    # Without weights at first: to draw them would move the random numbers of the run.
    layers = {name: nn.Linear(inputs, outputs, bias=False, device="meta") for name, (inputs, outputs) in sizes.items()}
    for layer in layers.values():
        layer.weight = nn.Parameter(torch.randn(layer.weight.shape, generator=drawn))
    alike = copy.copy(module)  # the class's own forward with small layers
    alike._modules = {**module._modules, **layers}
    x = torch.randn(1, 5, 4, generator=drawn)
    try:
        expected = type(module).forward(alike, x)
    except (TypeError, RuntimeError, AttributeError):  # it wants other arguments
        return False
    found = gated_down(layers["gate_proj"](x), layers["up_proj"](x), layers["down_proj"].weight)
    return isinstance(expected, Tensor) and torch.equal(expected, found)


# -- rotary positions


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021, eq. 34) with the two halves of a head as the pairs: (x₁c − x₂s, x₂c + x₁s).

    Args:
        x: [B, H, T, D] fp32 on a CPU.
        cos, sin: [B or 1, T, D], without gradient.

    Returns:
        The same shape and memory order as `x`.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        turned: Tensor = _Rotation.apply(x, cos, sin)  # type: ignore[no-untyped-call]
        return turned
    return _turned(x, cos, sin, back=False)


def _turned(x: Tensor, cos: Tensor, sin: Tensor, *, back: bool) -> Tensor:
    """The rotation, or the one back, which is its slope."""
    half = x.shape[-1] // 2
    c, s = cos[:, None], sin[:, None]
    out = x * c
    if back:  # each half goes where it came from, times the sines of where it went
        out[..., :half].addcmul_(x[..., half:], s[..., half:])
        out[..., half:].addcmul_(x[..., :half], s[..., :half], value=-1)
    else:  # the product apart from the sum, for the model's own bits
        out[..., :half].sub_(x[..., half:] * s[..., :half])
        out[..., half:].add_(x[..., :half] * s[..., half:])
    return out


class _Rotation(torch.autograd.Function):
    """A rotation; its slope is the rotation back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, back=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(grad, cos, sin, back=True), None, None


class _Rotary:
    """Stands in for the function of a model's file; what it is not made for goes to the original."""

    def __init__(self, original: Callable[..., tuple[Tensor, Tensor]]) -> None:
        self.original = original

    def __call__(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *args: Any, **options: Any) -> Any:
        if (
            args
            or options
            or not _on_cpu(q, k, cos, sin)
            or cos.requires_grad
            or not (q.ndim == k.ndim == 4 and cos.ndim == 3)
            or not (q.shape[-1] == k.shape[-1] == cos.shape[-1] and q.shape[2] == k.shape[2] == cos.shape[1])
        ):
            return self.original(q, k, cos, sin, *args, **options)
        return rotate(q, cos, sin), rotate(k, cos, sin)


def _replace_rotary(file: ModuleType) -> int:
    """1 if the rotary function of a model's file is ours now or already, 0 if it has none or computes otherwise."""
    with _lock:
        original = getattr(file, _ROTARY, None)
        if isinstance(original, _Rotary):
            return 1
        if original is None or not _turns_the_same(original):
            return 0
        setattr(file, _ROTARY, _Rotary(original))
        return 1


@torch.no_grad()
def _turns_the_same(original: Callable[..., Any]) -> bool:
    drawn = torch.Generator().manual_seed(0)
    q, k = torch.randn(1, 4, 3, 8, generator=drawn), torch.randn(1, 2, 3, 8, generator=drawn)
    angles = torch.randn(1, 3, 4, generator=drawn).repeat(1, 1, 2)
    cos, sin = angles.cos(), angles.sin()
    try:
        expected = original(q, k, cos, sin)
    except (TypeError, ValueError, RuntimeError):  # it wants other arguments
        return False
    return all(torch.equal(a, rotate(b, cos, sin)) for a, b in zip(expected, (q, k), strict=True))
