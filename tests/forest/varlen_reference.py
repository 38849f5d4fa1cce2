"""What a variable-length attention kernel does, in plain operations; and the interfaces of the real ones around it.

`Reference` is the definition. `FakeAten` and `FakePackage` have the operations of PyTorch and of flash-attn as CUDA has
them: the arguments are bound to the real schemas, log-sum-exps have the shape that the kernels give them, and what a
kernel leaves unwritten is NaN.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from plaudit.forest.attention.packing import Launch


def _mask(rows: int, keys: int, causal: bool, window: tuple[int, int]) -> Tensor:
    """[rows, keys] what is visible; the ends lie on the diagonal."""
    offset = torch.arange(keys)[None] - torch.arange(rows)[:, None] - (keys - rows)
    left, right = window
    seen = torch.ones(rows, keys, dtype=torch.bool)
    if causal:
        seen &= offset <= 0
    if left >= 0:
        seen &= offset >= -left
    if right >= 0:
        seen &= offset <= right
    return seen


def _scores(q: Tensor, k: Tensor, seen: Tensor, scale: float, cap: float | None) -> tuple[Tensor, Tensor]:
    """[H, rows, keys] scores and the soft cap's slope."""
    keys = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    scores = torch.einsum("qhd,khd->hqk", q.float(), keys.float()) * scale
    slope = torch.ones_like(scores)
    if cap is not None:
        bent = torch.tanh(scores / cap)
        scores, slope = bent * cap, 1 - bent * bent
    return scores.masked_fill(~seen, -torch.inf), slope


def varlen_forward(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, causal: bool, scale: float,
    window: tuple[int, int] = (-1, -1), cap: float | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """q [Q, H, Dh], k and v [K, Hk, Dh] → output [Q, H, Dv], log-sum-exp [H, Q]; NaN for queries without a key."""
    _check(q, k, cu_q, cu_k, max_q, max_k)
    out = torch.full((*q.shape[:2], v.shape[-1]), torch.nan, dtype=q.dtype)
    lse = torch.full((q.shape[1], q.shape[0]), torch.nan)
    for q0, q1, k0, k1 in _segments(cu_q, cu_k):
        if q1 == q0 or k1 == k0:
            continue
        scores, _ = _scores(q[q0:q1], k[k0:k1], _mask(q1 - q0, k1 - k0, causal, window), scale, cap)
        values = v[k0:k1].repeat_interleave(q.shape[1] // k.shape[1], 1).float()
        lse[:, q0:q1] = torch.logsumexp(scores, -1)
        out[q0:q1] = torch.einsum("hqk,khd->qhd", torch.softmax(scores, -1), values).to(q.dtype)
    return out, lse


def varlen_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int,
    max_k: int, causal: bool, scale: float, window: tuple[int, int] = (-1, -1), cap: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k, v from the output and log-sum-exp over all keys; NaN where a segment has the one or the other
    side alone."""
    _check(q, k, cu_q, cu_k, max_q, max_k)
    group = q.shape[1] // k.shape[1]
    dq, dk, dv = (torch.full(x.shape, torch.nan) for x in (q, k, v))
    for q0, q1, k0, k1 in _segments(cu_q, cu_k):
        if q1 == q0 or k1 == k0:
            continue
        scores, slope = _scores(q[q0:q1], k[k0:k1], _mask(q1 - q0, k1 - k0, causal, window), scale, cap)
        weights = torch.exp(scores - lse[:, q0:q1, None])
        g = grad[q0:q1].float()
        keys, values = (x[k0:k1].repeat_interleave(group, 1).float() for x in (k, v))
        delta = (g * out[q0:q1].float()).sum(-1).T
        dscores = weights * (torch.einsum("qhd,khd->hqk", g, values) - delta[..., None]) * slope * scale
        dq[q0:q1] = torch.einsum("hqk,khd->qhd", dscores, keys)
        dk[k0:k1] = torch.einsum("hqk,qhd->khd", dscores, q[q0:q1].float()).unflatten(1, (-1, group)).sum(2)
        dv[k0:k1] = torch.einsum("hqk,qhd->khd", weights, g).unflatten(1, (-1, group)).sum(2)
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)


def _segments(cu_q: Tensor, cu_k: Tensor) -> list[tuple[int, int, int, int]]:
    a, b = cu_q.tolist(), cu_k.tolist()
    return list(zip(a, a[1:], b, b[1:], strict=False))


def _check(q: Tensor, k: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int) -> None:
    assert cu_q.dtype == cu_k.dtype == torch.int32
    assert len(cu_q) == len(cu_k)
    assert cu_q[-1] == len(q)
    assert cu_k[-1] == len(k)
    assert type(max_q) is type(max_k) is int
    assert max_q >= int(cu_q.diff().max())
    assert max_k >= int(cu_k.diff().max())
    assert int(cu_q.diff().min()) >= 0
    assert int(cu_k.diff().min()) >= 0


class Reference:
    """The definition as a kernel. Counts its launches."""

    name = "the reference"

    def __init__(self) -> None:
        self.launches = 0
        self.keys = 0
        """keys over all launches of forward"""

    def refuses(self, ask: Any) -> str | None:
        return None

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, launch: Launch, scale: float, cap: float | None
    ) -> tuple[Tensor, Tensor]:
        self.launches += 1
        self.keys += len(k)
        assert (launch.max_q, launch.max_k) == (int(launch.cu_q.diff().max()), int(launch.cu_k.diff().max()))
        return varlen_forward(
            q, k, v, launch.cu_q, launch.cu_k, launch.max_q, launch.max_k, launch.causal, scale, launch.window, cap
        )

    def backward(
        self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, launch: Launch, scale: float,
        cap: float | None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        self.launches += 1
        segments = launch.cu_q, launch.cu_k, launch.max_q, launch.max_k
        return varlen_backward(grad, q, k, v, out, lse, *segments, launch.causal, scale, launch.window, cap)


def _bound(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name, after the operation's real schema; unknown, missing or ill-typed ones are errors."""
    schema = operation.default._schema
    assert len(args) <= len(schema.arguments)
    found = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    found |= {a.name: value for a, value in zip(schema.arguments, args, strict=False)}
    names = {a.name for a in schema.arguments}
    assert kwargs.keys() <= names
    assert not {a.name for a, _ in zip(schema.arguments, args, strict=False)} & kwargs.keys()
    found |= kwargs
    assert found.keys() == names, names - found.keys()
    assert not any(a.kwarg_only for a, _ in zip(schema.arguments, args, strict=False))
    for argument in schema.arguments:
        value, kind = found[argument.name], str(argument.type)
        if kind in ("Tensor", "int", "SymInt", "float", "bool"):
            wanted = {"Tensor": Tensor, "SymInt": int, "int": int, "float": float, "bool": bool}[kind]
            assert type(value) is wanted or (wanted is Tensor and isinstance(value, Tensor)), (argument.name, value)
    return found


def _as_loaded(*tensors: Tensor) -> None:
    for x in tensors:
        assert x.stride(-1) == 1


class FakeAten:
    """`torch.ops.aten` as far as attention goes, with CUDA's conventions."""

    @staticmethod
    def _flash_attention_forward(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
        a = SimpleNamespace(**_bound(torch.ops.aten._flash_attention_forward, args, kwargs))
        assert (a.dropout_p, a.return_debug_mask) == (0.0, False)
        _as_loaded(a.query, a.key, a.value)
        assert a.max_q > 1, "the short cut for single queries"
        out, lse = varlen_forward(
            a.query, a.key, a.value, a.cum_seq_q, a.cum_seq_k, a.max_q, a.max_k, a.is_causal, a.scale,
            (a.window_size_left, a.window_size_right),
        )  # fmt: skip
        # Queries without a key: zeros, and plus infinity.
        return out.nan_to_num(0.0), lse.nan_to_num(torch.inf), None, None, None

    @staticmethod
    def _flash_attention_backward(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
        a = SimpleNamespace(**_bound(torch.ops.aten._flash_attention_backward, args, kwargs))
        assert a.dropout_p == 0.0
        _as_loaded(a.query, a.key, a.value)
        assert a.logsumexp.is_contiguous()
        return varlen_backward(
            a.grad_out, a.query, a.key, a.value, a.out, a.logsumexp, a.cum_seq_q, a.cum_seq_k, a.max_q, a.max_k,
            a.is_causal, a.scale, (a.window_size_left, a.window_size_right),
        )  # fmt: skip

    @staticmethod
    def _efficient_attention_forward(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
        a = SimpleNamespace(**_bound(torch.ops.aten._efficient_attention_forward, args, kwargs))
        assert a.query.shape[2] == a.key.shape[2] == a.value.shape[2], "no grouped heads"
        assert a.query.shape[0] == 1
        assert a.compute_log_sumexp
        assert a.bias is a.window_size is a.seqlen_k is None
        _as_loaded(a.query, a.key, a.value)
        out, lse = varlen_forward(
            a.query[0], a.key[0], a.value[0], a.cu_seqlens_q, a.cu_seqlens_k, a.max_seqlen_q, a.max_seqlen_k,
            a.custom_mask_type == 1, a.scale,
        )  # fmt: skip
        width = math.ceil(a.max_seqlen_q / 32) * 32
        table = torch.full((len(a.cu_seqlens_q) - 1, a.query.shape[2], width), torch.inf)
        for number, (q0, q1, _, _) in enumerate(_segments(a.cu_seqlens_q, a.cu_seqlens_k)):
            table[number, :, : q1 - q0] = lse[:, q0:q1]
        return out[None], table, None, None, a.max_seqlen_q, a.max_seqlen_k

    @staticmethod
    def _efficient_attention_backward(*args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        a = SimpleNamespace(**_bound(torch.ops.aten._efficient_attention_backward, args, kwargs))
        assert a.query.shape[2] == a.key.shape[2] == a.value.shape[2], "no grouped heads"
        assert a.out.is_contiguous()
        assert a.bias is a.window_size is None
        width = math.ceil(a.max_seqlen_q / 32) * 32
        assert a.logsumexp.shape == (len(a.cu_seqlens_q) - 1, a.query.shape[2], width)
        assert a.logsumexp.is_contiguous()
        lse = torch.full((a.query.shape[2], a.query.shape[1]), torch.nan)
        for number, (q0, q1, _, _) in enumerate(_segments(a.cu_seqlens_q, a.cu_seqlens_k)):
            lse[:, q0:q1] = a.logsumexp[number, :, : q1 - q0]
            assert bool((a.logsumexp[number, :, q1 - q0 :] == torch.inf).all()), "filling of the kernel's own"
        found = varlen_backward(
            a.grad_out_[0], a.query[0], a.key[0], a.value[0], a.out[0], lse, a.cu_seqlens_q, a.cu_seqlens_k,
            a.max_seqlen_q, a.max_seqlen_k, a.custom_mask_type == 1, a.scale,
        )  # fmt: skip
        return *(x[None] for x in found), torch.empty(())


class FakePackage:
    """`flash_attn.flash_attn_interface` of flash-attn 2.8, by its signatures."""

    @staticmethod
    def _flash_attn_varlen_forward(
        q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int,
        max_seqlen_k: int, dropout_p: float, softmax_scale: float, causal: bool, window_size_left: int = -1,
        window_size_right: int = -1, softcap: float = 0.0, alibi_slopes: Tensor | None = None,
        return_softmax: bool = False, block_table: Tensor | None = None, leftpad_k: Tensor | None = None,
        seqused_k: Tensor | None = None, zero_tensors: bool = False,
    ) -> tuple[Any, ...]:  # fmt: skip
        assert (dropout_p, return_softmax, alibi_slopes) == (0.0, False, None)
        assert max_seqlen_q > 1, "the short cut for single queries"
        out, lse = varlen_forward(
            q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal, softmax_scale,
            (window_size_left, window_size_right), softcap or None,
        )  # fmt: skip
        return out.nan_to_num(0.0), lse.nan_to_num(torch.inf), None, None

    @staticmethod
    def _flash_attn_varlen_backward(
        dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, softmax_lse: Tensor, dq: Tensor, dk: Tensor,
        dv: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int, max_seqlen_k: int, dropout_p: float,
        softmax_scale: float, causal: bool, window_size_left: int, window_size_right: int, softcap: float,
        alibi_slopes: Tensor | None, deterministic: bool, rng_state: Tensor | None = None, zero_tensors: bool = False,
    ) -> Tensor:  # fmt: skip
        found = varlen_backward(
            dout, q, k, v, out, softmax_lse, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal,
            softmax_scale, (window_size_left, window_size_right), softcap or None,
        )  # fmt: skip
        for target, value in zip((dq, dk, dv), found, strict=True):
            target.copy_(value)
        return softmax_lse
