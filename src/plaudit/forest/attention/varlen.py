"""The attention of a whole row by a variable-length kernel: at most three launches, merged by their log-sum-exp.

Shapes: q [Q, H, Dh], k and v [K, Hk, Dh], outputs [Q, H, Dv], log-sum-exps [H, Q] in fp32.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from plaudit.forest.attention.packing import Corner, Launch, Packing
from plaudit.forest.attention.plan import Rule
from plaudit.forest.attention.portable import merge

Gradients = tuple[Tensor, Tensor, Tensor]


class Kernel(Protocol):
    """A kernel over segments. What it writes for blind queries and unseen keys is never read."""

    name: str

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, launch: Launch, scale: float, cap: float | None
    ) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp."""
        ...

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
        """Gradients of q, k and v, given `out` and `lse` over all keys of each query, not over these alone."""
        ...


def forward(kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, packing: Packing, rule: Rule) -> tuple[Tensor, Tensor]:
    """Output [T, H, Dv] and log-sum-exp [H, T] over everything that each token sees, sinks included."""
    scale, cap = rule.scale, rule.cap
    out, lse = kernel.forward(q, k, v, packing.own, scale, cap)
    if packing.crossing is not None:
        launch = packing.crossing
        rows, keys = launch.queries, launch.keys
        o, o_lse = kernel.forward(q[rows], k[keys], v[keys], launch, scale, cap)
        if launch.blind_Q is not None:
            o = o.masked_fill(launch.blind_Q[:, None, None], 0)
            o_lse = o_lse.masked_fill(launch.blind_Q, -torch.inf)
        merged, merged_lse = merge(out[rows], lse[:, rows].T, o, o_lse.T)
        out[rows], lse[:, rows] = merged, merged_lse.T
    if packing.corner is not None:
        corner = packing.corner
        gathered = q[corner.rows_Q].masked_fill_(corner.filling_Q[:, None, None], 0)
        o, o_lse = kernel.forward(gathered, k[corner.keys_K], v[corner.keys_K], corner.launch, scale, cap)
        into, real = corner.into_R, corner.real_R
        merged, merged_lse = merge(out[into], lse[:, into].T, o[real], o_lse[:, real].T)
        out.index_copy_(0, into, merged)
        lse.index_copy_(1, into, merged_lse.T)
    if rule.sinks is not None:
        with_sink = torch.logaddexp(lse, rule.sinks.float()[:, None])
        out = (out * torch.exp(lse - with_sink).T.unsqueeze(-1)).to(out.dtype)
        lse = with_sink
    return out, lse


def backward(
    kernel: Kernel,
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    sinks: Tensor | None,
    packing: Packing,
    scale: float,
    cap: float | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of q, k, v and sinks; `out` and `lse` are those of `forward`."""
    dq, dk, dv = kernel.backward(grad, q, k, v, out, lse, packing.own, scale, cap)
    if packing.crossing is not None:
        launch = packing.crossing
        rows, keys = launch.queries, launch.keys
        a, b, c = kernel.backward(
            grad[rows], q[rows], k[keys], v[keys], out[rows], lse[:, rows].contiguous(), launch, scale, cap
        )
        # Not multiplied by a mask: what a kernel leaves there may be NaN.
        if launch.blind_Q is not None:
            a = a.masked_fill(launch.blind_Q[:, None, None], 0)
        if launch.unseen_K is not None:
            b, c = (x.masked_fill(launch.unseen_K[:, None, None], 0) for x in (b, c))
        dq[rows] += a
        dk[keys] += b
        dv[keys] += c
    if packing.corner is not None:
        corner = packing.corner
        a, b, c = _backward_corner(kernel, grad, q, k, v, out, lse, corner, scale, cap)
        dq.index_add_(0, corner.into_R, a[corner.real_R])
        # Several branches add to one key: in fp32, because so many roundings would show.
        dk = dk.float().index_add_(0, corner.keys_K, b.float()).to(k.dtype)
        dv = dv.float().index_add_(0, corner.keys_K, c.float()).to(v.dtype)
    dsinks = None
    if sinks is not None:
        mass = torch.exp(sinks.float()[:, None] - lse)
        dsinks = -(mass * (grad.float() * out.float()).sum(-1).T).sum(1).to(sinks.dtype)
    return dq, dk, dv, dsinks


def _backward_corner(
    kernel: Kernel,
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    corner: Corner,
    scale: float,
    cap: float | None,
) -> Gradients:
    """Filling rows have a query, a gradient and a log-sum-exp of zero: finite, and nothing comes of them."""
    filling, rows = corner.filling_Q, corner.rows_Q
    wide = filling[:, None, None]
    return kernel.backward(
        grad[rows].masked_fill_(wide, 0),
        q[rows].masked_fill_(wide, 0),
        k[corner.keys_K],
        v[corner.keys_K],
        out[rows].masked_fill_(wide, 0),
        lse[:, rows].masked_fill_(filling, 0),
        corner.launch,
        scale,
        cap,
    )


def by_token(x: Tensor) -> Tensor:
    """[1, H, T, Dh] as [T, H, Dh]."""
    return x[0].transpose(0, 1)


class _PackedAttention(torch.autograd.Function):
    """q [1, H, T, Dh], k and v [1, Hk, T, Dh] → [1, T, H, Dv]; `sinks` [H] or None."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        sinks: Tensor | None,
        kernel: Kernel,
        packing: Packing,
        scale: float,
        cap: float | None,
    ) -> Tensor:
        rule = Rule(scale, packing.window, cap, sinks)
        out, lse = forward(kernel, by_token(q), by_token(k), by_token(v), packing, rule)
        ctx.save_for_backward(q, k, v, out, lse, sinks)
        ctx.kernel, ctx.packing, ctx.scale, ctx.cap = kernel, packing, scale, cap
        return out[None]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        q, k, v, out, lse, sinks = ctx.saved_tensors
        rows = by_token(q), by_token(k), by_token(v)
        dq, dk, dv, dsinks = backward(ctx.kernel, grads[0][0], *rows, out, lse, sinks, ctx.packing, ctx.scale, ctx.cap)
        return *(x.transpose(0, 1)[None] for x in (dq, dk, dv)), dsinks, None, None, None, None


def attend(kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, packing: Packing, rule: Rule) -> Tensor:
    """Attention of a row: q [1, H, T, Dh], k and v [1, Hk, T, Dh] → [1, T, H, Dv]."""
    out: Tensor = _PackedAttention.apply(q, k, v, rule.sinks, kernel, packing, rule.scale, rule.cap)  # type: ignore[no-untyped-call]
    return out
