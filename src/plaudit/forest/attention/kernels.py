"""Variable-length kernels for CUDA. None is trusted: `choose` compares each with plain operations before it is used.

Each says what it cannot do at all (`refuses`); what it does wrongly on some device, the comparison finds. Dropout is 0
everywhere, so the random state that the kernels hand from forward to backward means nothing.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from plaudit.forest.attention.packing import Launch
from plaudit.forest.attention.varlen import Gradients

if TYPE_CHECKING:
    from plaudit.forest.attention.choose import Ask

_HALF = (torch.float16, torch.bfloat16)
_BYTES = 16  # what the kernels load at once


def _readable(x: Tensor) -> Tensor:
    """The tensor, or a copy where its memory is not laid out as the kernels read it."""
    at_once = x.stride(-1) == 1 and all(
        n * x.element_size() % _BYTES == 0 for n in (x.storage_offset(), *x.stride()[:-1])
    )
    return x if at_once else x.contiguous()


def _longest(launch: Launch) -> int:
    """At most so many queries in a segment. For 1 FlashAttention takes a short cut in which every segment must have
    exactly one query; ours may have none."""
    return max(launch.max_q, 2)


def _check_rows(lse: Tensor, q: Tensor) -> Tensor:
    """Older kernels keep log-sum-exps in one row per segment, which would be read wrongly."""
    if lse.shape != (q.shape[1], q.shape[0]):
        raise RuntimeError(f"log-sum-exp of shape {tuple(lse.shape)} for queries of shape {tuple(q.shape)}")
    return lse


def _refused_by_flash(ask: Ask) -> str | None:
    if ask.dtype not in _HALF:
        return "it has no fp32"
    if ask.width != ask.value_width:
        return "keys and values differ in width"
    if ask.width % 8 or ask.width > 256:
        return f"it takes heads of 8, 16, … 256 entries, not of {ask.width}"
    if ask.capability < (8, 0):
        return "it needs a device of compute capability 8.0"
    return None


class AtenFlash:
    """FlashAttention-2 as it is in PyTorch (Dao 2023, arXiv 2307.08691): grouped heads and windows, no soft-capping.

    Args:
        ops: where the operations come from.
    """

    name = "PyTorch's flash attention"

    def __init__(self, ops: Any = torch.ops.aten) -> None:
        self.ops = ops

    def refuses(self, ask: Ask) -> str | None:
        """Why it cannot be used, or None."""
        return "it has no soft-capping" if ask.cap is not None else _refused_by_flash(ask)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, launch: Launch, scale: float, cap: float | None
    ) -> tuple[Tensor, Tensor]:
        """See `Kernel`."""
        left, right = launch.window
        out, lse, *_ = self.ops._flash_attention_forward(
            *(_readable(x) for x in (q, k, v)),
            launch.cu_q,
            launch.cu_k,
            _longest(launch),
            launch.max_k,
            0.0,
            launch.causal,
            False,
            scale=scale,
            window_size_left=left,
            window_size_right=right,
        )
        return out, _check_rows(lse, q)

    def backward(
        self,
        grad: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        launch: Launch,
        scale: float,
        cap: float | None,
    ) -> Gradients:
        """See `Kernel`."""
        left, right = launch.window
        dq, dk, dv = self.ops._flash_attention_backward(
            grad,
            *(_readable(x) for x in (q, k, v)),
            out,
            lse,
            launch.cu_q,
            launch.cu_k,
            _longest(launch),
            launch.max_k,
            0.0,
            launch.causal,
            torch.zeros(2, dtype=torch.uint64, device=q.device),
            torch.zeros((), dtype=torch.uint64, device=q.device),
            scale=scale,
            window_size_left=left,
            window_size_right=right,
        )
        return dq, dk, dv


class FlashPackage:
    """The package flash-attn (2.7 or newer), where it is installed: soft-capping too.

    Args:
        interface: its module `flash_attn.flash_attn_interface`; None = imported when it is needed.
    """

    name = "the package flash-attn"

    def __init__(self, interface: Any = None) -> None:
        self._interface = interface

    @property
    def interface(self) -> Any:
        if self._interface is None:
            self._interface = import_module("flash_attn.flash_attn_interface")
        return self._interface

    def refuses(self, ask: Ask) -> str | None:
        """Why it cannot be used, or None."""
        if self._interface is None and find_spec("flash_attn") is None:
            return "it is not installed"
        return _refused_by_flash(ask)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, launch: Launch, scale: float, cap: float | None
    ) -> tuple[Tensor, Tensor]:
        """See `Kernel`."""
        out, lse, *_ = self.interface._flash_attn_varlen_forward(
            *(_readable(x) for x in (q, k, v)), **self._about(launch, scale, cap), return_softmax=False
        )
        return out, _check_rows(lse, q)

    def backward(
        self,
        grad: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        launch: Launch,
        scale: float,
        cap: float | None,
    ) -> Gradients:
        """See `Kernel`."""
        q, k, v = (_readable(x) for x in (q, k, v))
        dq, dk, dv = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
        self.interface._flash_attn_varlen_backward(
            grad.contiguous(),
            q,
            k,
            v,
            out.contiguous(),
            lse,
            dq,
            dk,
            dv,
            **self._about(launch, scale, cap),
            deterministic=torch.are_deterministic_algorithms_enabled(),
        )
        return dq, dk, dv

    @staticmethod
    def _about(launch: Launch, scale: float, cap: float | None) -> dict[str, Any]:
        return {
            "cu_seqlens_q": launch.cu_q,
            "cu_seqlens_k": launch.cu_k,
            "max_seqlen_q": _longest(launch),
            "max_seqlen_k": launch.max_k,
            "dropout_p": 0.0,
            "softmax_scale": scale,
            "causal": launch.causal,
            "window_size_left": launch.window[0],
            "window_size_right": launch.window[1],
            "softcap": cap or 0.0,
            "alibi_slopes": None,
        }


_CAUSAL = 1  # custom_mask_type: 0 = none, 1 = causal from the top left
_ROUND = 32  # log-sum-exps of a segment are padded to a multiple of it


class AtenEfficient:
    """PyTorch's memory-efficient attention (xFormers; Rabe & Staats 2021, arXiv 2112.05682): fp32 too, on any device.

    It knows no grouped heads. The query heads of a group are launched one after the other against the same keys, so a
    layer takes as many launches as a group has heads, and no key is copied. Its log-sum-exps are a table with a row for
    each segment and head.

    Args:
        ops: where the operations come from.
    """

    name = "PyTorch's memory-efficient attention"

    def __init__(self, ops: Any = torch.ops.aten) -> None:
        self.ops = ops

    def refuses(self, ask: Ask) -> str | None:
        """Why it cannot be used, or None."""
        if ask.cap is not None:
            return "it has no soft-capping"
        if ask.windowed:
            return "its windows do not cover what lies between a prompt's end and a branch"
        if ask.dtype not in (torch.float32, *_HALF):
            return f"it has no {ask.dtype}"
        if ask.dtype == torch.bfloat16 and ask.capability < (8, 0):
            return "it has no bf16 below compute capability 8.0"
        return None

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, launch: Launch, scale: float, cap: float | None
    ) -> tuple[Tensor, Tensor]:
        """See `Kernel`."""
        group = q.shape[1] // k.shape[1]
        k, v = _readable(k), _readable(v)
        out = torch.empty(*q.shape[:2], v.shape[-1], dtype=q.dtype, device=q.device)
        lse = torch.empty(q.shape[1], q.shape[0], dtype=torch.float32, device=q.device)
        for head in range(group):
            o, table, *_ = self.ops._efficient_attention_forward(
                _readable(q[:, head::group])[None],
                k[None],
                v[None],
                None,
                launch.cu_q,
                launch.cu_k,
                launch.max_q,
                launch.max_k,
                0.0,
                _CAUSAL if launch.causal else 0,
                True,
                scale=scale,
            )
            out[:, head::group] = o[0]
            segments, heads, width = table.shape
            flat = table.transpose(0, 1).reshape(heads, segments * width)
            lse[head::group] = flat.index_select(1, launch.places(width))
        return out, lse

    def backward(
        self,
        grad: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        launch: Launch,
        scale: float,
        cap: float | None,
    ) -> Gradients:
        """See `Kernel`."""
        heads, segments = k.shape[1], len(launch.lengths_q)
        group = q.shape[1] // heads
        k, v = _readable(k), _readable(v)
        width = -(-launch.max_q // _ROUND) * _ROUND
        seed = torch.zeros((), dtype=torch.int64, device=q.device)
        dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        dk: Tensor | None = None
        dv: Tensor | None = None
        for head in range(group):
            flat = torch.full((heads, segments * width), torch.inf, dtype=torch.float32, device=q.device)
            flat.index_copy_(1, launch.places(width), lse[head::group])
            a, b, c, _ = self.ops._efficient_attention_backward(
                grad[:, head::group].contiguous()[None],
                _readable(q[:, head::group])[None],
                k[None],
                v[None],
                None,
                out[:, head::group].contiguous()[None],
                launch.cu_q,
                launch.cu_k,
                launch.max_q,
                launch.max_k,
                flat.view(heads, segments, width).transpose(0, 1).contiguous(),
                0.0,
                seed,
                seed,
                _CAUSAL if launch.causal else 0,
                False,
                scale=scale,
            )
            dq[:, head::group] = a[0]
            # In fp32, as kernels with grouped heads do.
            dk = b[0].float() if dk is None else dk.add_(b[0])
            dv = c[0].float() if dv is None else dv.add_(c[0])
        assert dk is not None
        assert dv is not None
        return dq, dk.to(k.dtype), dv.to(v.dtype)
