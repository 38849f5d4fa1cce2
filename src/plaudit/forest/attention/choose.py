"""Which variable-length kernel a layer uses: the first one that can, and that was seen to be right here.

The first time that a process meets a combination of device, precision, head sizes, window and soft cap, each candidate
computes a small forest forward and backward, and is held against the plain operations on the same numbers. The verdict
holds for the process. A kernel that fails or raises is passed over, with a note that the parity probe shows; where none
is left, the plain operations do the work: slower, never wrong. What this cannot survive is a kernel that breaks the
device's context (an illegal memory access): the process ends then, with CUDA's own error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
import torch.nn.attention
from torch import Tensor

from plaudit.forest.attention import rectangles, varlen
from plaudit.forest.attention.kernels import AtenEfficient, AtenFlash, FlashPackage
from plaudit.forest.attention.packing import Packing
from plaudit.forest.attention.plan import Plan, Rule
from plaudit.forest.attention.varlen import Kernel
from plaudit.forest.layout import Tree

TOLERANCE = {torch.float32: 2e-4, torch.float16: 5e-3, torch.bfloat16: 2.5e-2}
"""Largest admitted error of outputs and gradients: the root of the mean square error relative to that of the right
values, and a third of the largest error relative to the largest right value. A kernel that shows one key too many or
too few to a query is ten times above it or more; fp32 allows for products in TF32's threefold form."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a layer needs; equal ones share a verdict."""

    device: torch.device
    capability: tuple[int, int]
    dtype: torch.dtype
    group: int
    """query heads of a key head"""
    width: int
    """entries of a query or key"""
    value_width: int
    windowed: bool
    cap: float | None
    flash: str | None
    """another implementation that was activated behind PyTorch's flash attention"""

    @classmethod
    def of(cls, q: Tensor, k: Tensor, v: Tensor, rule: Rule) -> Ask:
        """q [1, H, T, Dh], k and v [1, Hk, T, Dh]."""
        device = q.device
        capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
        # PyTorch before 2.11 has one implementation.
        active = getattr(torch.nn.attention, "current_flash_attention_impl", None)
        return cls(
            device,
            capability,
            q.dtype,
            q.shape[1] // k.shape[1],
            q.shape[-1],
            v.shape[-1],
            rule.window is not None,
            rule.cap,
            active() if active else None,
        )


class Candidate(Kernel, Protocol):
    """A kernel that says beforehand what it cannot do."""

    def refuses(self, ask: Ask) -> str | None:
        """Why it cannot be used, or None."""
        ...


CANDIDATES: dict[str, Sequence[Candidate]] = {"cuda": (AtenFlash(), FlashPackage(), AtenEfficient())}
"""by type of device, best first; a type that is not here goes rectangle by rectangle"""

_verdicts: dict[Ask, tuple[Sequence[Candidate], Candidate | None]] = {}
_notes: dict[str, None] = {}


def kernel_for(ask: Ask, packing: Packing) -> Candidate | None:
    """The kernel for a layer and a forest, or None for the plain operations.

    Where no sequence of the forest reaches the layer's window, a kernel without windows will do.
    """
    found = _verdict(ask)
    return _verdict(replace(ask, windowed=False)) if ask.windowed and packing.window is None else found


def _verdict(ask: Ask) -> Candidate | None:
    candidates = CANDIDATES[ask.device.type]
    if ask not in _verdicts or _verdicts[ask][0] is not candidates:
        _verdicts[ask] = candidates, _first_right(ask, candidates)
    return _verdicts[ask][1]


def kernel_notes() -> tuple[str, ...]:
    """What was found about kernels in this process, each said once."""
    return tuple(_notes)


def _first_right(ask: Ask, candidates: Sequence[Candidate]) -> Candidate | None:
    passed: list[str] = []
    for kernel in candidates:
        reason = kernel.refuses(ask)
        if reason is None:
            reason = fault(kernel, ask)
            if reason is None:
                _notes["; ".join([f"attention{_about(ask)} uses {kernel.name}", *passed])] = None
                return kernel
            passed.append(f"{kernel.name} {reason}")
        else:
            passed.append(f"{kernel.name} cannot: {reason}")
    _notes["; ".join([f"attention{_about(ask)} uses plain operations, which are slow", *passed])] = None
    return None


def _about(ask: Ask) -> str:
    rules = [*(["a sliding window"] if ask.windowed else []), *([] if ask.cap is None else ["soft-capping"])]
    return f" with {' and '.join(rules)}" if rules else ""


# -- the comparison ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Trial:
    """A small forest without a model: what packings and plans read of one."""

    trees: list[Tree]
    token_ids_T: Tensor
    cache: dict[Any, Any] = field(default_factory=dict)


_SHAPES = ((150, (40, 3, 170)), (0, (5,)), (97, (130, 1)), (260, (20, 33, 64, 7)), (3, ()))
"""prompt and branches of each tree: shorter and longer than the tiles of any kernel, with single tokens, a tree without
a crossing between two with one, and a lone prompt at the end"""
_WINDOWS = (3, 50, 145)


def trial(device: torch.device) -> _Trial:
    """The forest of the comparison."""
    trees, at = [], 0
    for prompt, branches in _SHAPES:
        start, end = at, at + prompt
        spans, at = [], end
        for length in branches:
            spans.append((at, at + length))
            at += length
        trees.append(Tree((start, end), tuple(spans) or ((end, end),)))
    return _Trial(trees, torch.zeros(at, dtype=torch.int64, device=device))


def fault(kernel: Kernel, ask: Ask) -> str | None:
    """What is wrong with a kernel for these layers, in words; None = it agrees with the plain operations.

    Raises:
        OutOfMemoryError: it says nothing about the kernel.
    """
    try:
        worst = max(_error(kernel, ask, window) for window in (_WINDOWS if ask.windowed else (None,)))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a kernel of some version raises, there is another one
        said = (str(error).splitlines() or ["no message"])[0]
        return f"failed with {type(error).__name__}: {said[:160]}"
    limit = TOLERANCE[ask.dtype]
    return None if worst <= limit else f"is wrong by {worst:.1e} (limit {limit:.1e})"


@torch.no_grad()
def _error(kernel: Kernel, ask: Ask, window: int | None) -> float:
    """The larger of both measures of `TOLERANCE`, over the output and the gradients of q, k, v and sinks.

    Nothing of it reaches autograd: the layer that asks may run under activation checkpointing, which counts what a
    forward saves.
    """
    generator = torch.Generator().manual_seed(20230717)  # of its own: the run's random state stays as it is
    here, host = trial(ask.device), trial(torch.device("cpu"))
    total, heads = len(host.token_ids_T), 2 * ask.group

    def draw(*shape: int) -> Tensor:
        return (torch.randn(shape, generator=generator) * 1.5).to(ask.dtype)

    # As layers give them: [1, H, T, Dh] over memory of [T, H, Dh].
    shapes = (heads, ask.width), (2, ask.width), (2, ask.value_width), (heads, ask.value_width)
    q, k, v, grad = (draw(1, total, *shape).transpose(1, 2) for shape in shapes)
    sinks = draw(heads)
    scale = ask.width**-0.5

    def there(x: Tensor) -> Tensor:
        return varlen.by_token(x.to(ask.device))

    at = there(q), there(k), there(v)
    packing, own_sinks = Packing.of(here, window), sinks.to(ask.device)
    out, lse = varlen.forward(kernel, *at, packing, Rule(scale, window, ask.cap, own_sinks))
    found = varlen.backward(kernel, there(grad), *at, out, lse, own_sinks, packing, scale, ask.cap)

    # The right values are those of the same numbers in fp32, on the host: a device may multiply in TF32.
    plan, wide = Plan.of(host, window), (q.float(), k.float(), v.float(), sinks.float())
    right, right_lse = rectangles.forward(*wide, plan, scale, ask.cap)
    gradients = rectangles.backward(grad.float(), *wide, right, right_lse, plan, scale, ask.cap)

    errors = []
    for a, b in zip((out, *found), (right, *gradients), strict=True):
        assert a is not None
        assert b is not None
        want = varlen.by_token(b) if b.ndim == 4 else b
        gap = (a.float().cpu() - want).abs()
        errors += [gap.square().mean().sqrt() / want.square().mean().sqrt(), gap.max() / want.abs().max() / 3]
    # A NaN must not pass for small.
    return float(torch.stack(errors).nan_to_num(nan=torch.inf).max())
