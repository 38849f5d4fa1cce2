"""Attention rectangle by rectangle: torch's flash kernel on a CPU, plain operations where it cannot be used.

One autograd node covers the whole row, so no per-segment slices reach autograd.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from plaudit.forest.attention import portable
from plaudit.forest.attention.plan import Part, Plan, Rule
from plaudit.forest.attention.portable import attend_part_anywhere, merge


def cpu_flash(q: Tensor, v: Tensor, cap: float | None) -> bool:
    """Whether torch's flash kernel for CPUs takes these queries and values."""
    known = q.dtype in (torch.float32, torch.bfloat16) and q.shape[-1] == v.shape[-1]
    return known and cap is None and q.device.type == "cpu"


def _forward_part(
    q: Tensor, k: Tensor, v: Tensor, scale: float, cap: float | None, mask: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor]:
    """Attention of one rectangle, whose every row sees something: output [1, H, Lq, Dh], log-sum-exp [1, H, Lq]."""
    if cpu_flash(q, v, cap):
        bias = None if mask is None else mask.to(q.dtype)[None, None]
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, causal and mask is None, attn_mask=bias, scale=scale
        )
        return out, lse
    return portable.forward(q, k, v, scale, cap, mask, causal)


def attend_part(
    q: Tensor, k: Tensor, v: Tensor, scale: float, cap: float | None, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Attention of many short queries to stored keys, all of which they see but for the mask. No gradient.

    Args:
        q: [B, Hk, L, Dh], query heads of one key head beside each other in L.
        k, v: [B, Hk, S, Dh]; slices of larger stores will do.
        mask: additive [B, 1, 1, S], or None.

    Returns:
        Output [B, Hk, L, Dh] and log-sum-exp [B, Hk, L], fp32.
    """
    if cpu_flash(q, v, cap):
        bias = None if mask is None else mask.to(q.dtype)
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, False, attn_mask=bias, scale=scale
        )
        return out, lse
    return attend_part_anywhere(q, k, v, scale, cap, mask)


def _backward_part(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
    cap: float | None,
    mask: Tensor | None,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """This rectangle's share of the gradients, given the merged `out` and `lse` of its queries."""
    if cpu_flash(q, v, cap):
        bias = None if mask is None else mask.to(q.dtype)[None, None]
        dq, dk, dv = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, q, k, v, out, lse, 0.0, causal and mask is None, attn_mask=bias, scale=scale
        )
        return dq, dk, dv
    return portable.backward(grad, q, k, v, out, lse, scale, cap, mask, causal)


def forward(
    q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, plan: Plan, scale: float, cap: float | None
) -> tuple[Tensor, Tensor]:
    """Output [1, H, T, Dv] over memory of [1, T, H, Dv], and log-sum-exp [1, H, T], sinks included."""
    heads, length = q.shape[1], q.shape[2]
    out = torch.empty(1, length, heads, v.shape[-1], dtype=q.dtype, device=q.device).transpose(1, 2)
    lse = torch.empty(1, length, heads, dtype=torch.float32, device=q.device).transpose(1, 2)
    for q0, q1, k0, k1, causal in plan.own:
        o, o_lse = _forward_part(q[:, :, q0:q1], k[:, :, k0:k1], v[:, :, k0:k1], scale, cap, None, causal)
        out[:, :, q0:q1], lse[:, :, q0:q1] = o, o_lse
    for (q0, q1, k0, k1, causal), mask in plan.crossings:
        o, o_lse = _forward_part(q[:, :, q0:q1], k[:, :, k0:k1], v[:, :, k0:k1], scale, cap, mask, causal)
        own, own_lse = out[:, :, q0:q1], lse[:, :, q0:q1]
        out[:, :, q0:q1], lse[:, :, q0:q1] = merge(own, own_lse, o, o_lse)
    if sinks is not None:
        with_sink = torch.logaddexp(lse, sinks.float()[None, :, None])
        out.copy_(out * torch.exp(lse - with_sink).unsqueeze(-1))
        lse.copy_(with_sink)
    return out, lse


def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | None,
    out: Tensor,
    lse: Tensor,
    plan: Plan,
    scale: float,
    cap: float | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of q, k, v and sinks; `grad` [1, H, T, Dv], `out` and `lse` are those of `forward`."""
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)

    def part(where: Part, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        q0, q1, k0, k1, causal = where
        rows, cols = (slice(None), slice(None), slice(q0, q1)), (slice(None), slice(None), slice(k0, k1))
        return _backward_part(grad[rows], q[rows], k[cols], v[cols], out[rows], lse[rows], scale, cap, mask, causal)

    # Own rectangles cover every position once, so they may assign; crossings add to both sides.
    for where in plan.own:
        q0, q1 = where[:2]
        dq[:, :, q0:q1], dk[:, :, q0:q1], dv[:, :, q0:q1] = part(where, None)
    for where, mask in plan.crossings:
        q0, q1, k0, k1, _ = where
        a, b, c = part(where, mask)
        dq[:, :, q0:q1] += a
        dk[:, :, k0:k1] += b
        dv[:, :, k0:k1] += c
    dsinks = None
    if sinks is not None:
        mass = torch.exp(sinks.float()[None, :, None] - lse)
        dsinks = -(mass * (grad.float() * out.float()).sum(-1)).sum((0, 2)).to(sinks.dtype)
    return dq, dk, dv, dsinks


class _ForestAttention(torch.autograd.Function):
    """q [1, H, T, Dh], k and v [1, Hk, T, Dh] → [1, T, H, Dh]; `sinks` [H] are extra logits without a value
    (gpt-oss)."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, plan: Plan, scale: float, cap: float | None
    ) -> Tensor:
        out, lse = forward(q, k, v, sinks, plan, scale, cap)
        ctx.save_for_backward(q, k, v, sinks, out, lse)
        ctx.plan, ctx.scale, ctx.cap = plan, scale, cap
        return out.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        q, k, v, sinks, out, lse = ctx.saved_tensors
        found = backward(grads[0].transpose(1, 2), q, k, v, sinks, out, lse, ctx.plan, ctx.scale, ctx.cap)
        return *found, None, None, None


def attend(q: Tensor, k: Tensor, v: Tensor, plan: Plan, rule: Rule) -> Tensor:
    """Attention over the rectangles of a plan: q [1, H, T, Dh], k and v [1, Hk, T, Dh] → [1, T, H, Dh]."""
    out: Tensor = _ForestAttention.apply(q, k, v, rule.sinks, plan, rule.scale, rule.cap)  # type: ignore[no-untyped-call]
    return out
