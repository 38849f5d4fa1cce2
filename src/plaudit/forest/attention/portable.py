"""Attention in plain operations: right on every device and for every rule, and not fast."""

from __future__ import annotations

import torch
from torch import Tensor

QUERY_CHUNK = 512  # rows of scores held at a time


def _scores(
    q: Tensor, k: Tensor, scale: float, cap: float | None, mask: Tensor | None, causal: bool, row0: int
) -> tuple[Tensor, Tensor | None]:
    """Scores [Hk, g, Lq, Lk] in fp32 and, with soft-capping, the derivative factor of the cap."""
    heads, group = k.shape[1], q.shape[1] // k.shape[1]
    qs = q[0].unflatten(0, (heads, group)).float()
    scores = torch.matmul(qs, k[0].float().transpose(-1, -2).unsqueeze(1)) * scale
    slope = None
    if cap is not None:
        capped = torch.tanh(scores / cap)
        slope, scores = 1 - capped * capped, capped * cap
    rows = q.shape[2]
    if mask is not None:
        scores = scores + mask[row0 : row0 + rows]
    elif causal:
        later = torch.ones(rows, k.shape[2], dtype=torch.bool, device=q.device).triu_(1 + row0)
        scores = scores.masked_fill(later, -torch.inf)
    return scores, slope


def forward(
    q: Tensor, k: Tensor, v: Tensor, scale: float, cap: float | None, mask: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor]:
    """Attention of one rectangle, whose every row sees something: output [1, H, Lq, Dh], log-sum-exp [1, H, Lq]."""
    outs, lses = [], []
    for row0 in range(0, q.shape[2], QUERY_CHUNK):
        rows = q[:, :, row0 : row0 + QUERY_CHUNK]
        scores, _ = _scores(rows, k, scale, cap, mask, causal, row0)
        lse = torch.logsumexp(scores, -1, keepdim=True)
        weights = torch.exp(scores - lse)
        outs.append(torch.matmul(weights, v[0].float().unsqueeze(1)).flatten(0, 1))
        lses.append(lse.squeeze(-1).flatten(0, 1))
    return torch.cat(outs, 1)[None].to(q.dtype), torch.cat(lses, 1)[None]


def backward(
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
    heads, group = k.shape[1], q.shape[1] // k.shape[1]
    dqs = []
    dk = torch.zeros(k.shape[1:], dtype=torch.float32, device=k.device)
    dv = torch.zeros_like(dk[..., : v.shape[-1]]) if v.shape[-1] != k.shape[-1] else torch.zeros_like(dk)
    kf, vf = k[0].float(), v[0].float()
    for row0 in range(0, q.shape[2], QUERY_CHUNK):
        part = slice(row0, row0 + QUERY_CHUNK)
        scores, slope = _scores(q[:, :, part], k, scale, cap, mask, causal, row0)
        weights = torch.exp(scores - lse[0, :, part].unflatten(0, (heads, group)).unsqueeze(-1))
        g = grad[0, :, part].unflatten(0, (heads, group)).float()
        delta = (g * out[0, :, part].unflatten(0, (heads, group)).float()).sum(-1, keepdim=True)
        dv += torch.einsum("hgqk,hgqd->hkd", weights, g)
        dscores = weights * (torch.einsum("hgqd,hkd->hgqk", g, vf) - delta)
        if slope is not None:
            dscores = dscores * slope
        dqs.append((torch.einsum("hgqk,hkd->hgqd", dscores, kf) * scale).flatten(0, 1))
        dk += torch.einsum("hgqk,hgqd->hkd", dscores, q[0, :, part].unflatten(0, (heads, group)).float()) * scale
    return torch.cat(dqs, 1)[None].to(q.dtype), dk[None].to(k.dtype), dv[None].to(v.dtype)


def attend_part_anywhere(
    q: Tensor, k: Tensor, v: Tensor, scale: float, cap: float | None, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`attend_part` in plain operations. Queries whose keys are all masked get zeros and a log-sum-exp of -inf."""
    scores = torch.matmul(q.float(), k.float().transpose(-1, -2)).mul_(scale)
    if cap is not None:
        scores = torch.tanh(scores.div_(cap)).mul_(cap)
    if mask is not None:
        scores = scores.add_(mask)
    lse = torch.logsumexp(scores, -1, keepdim=True)
    weights = scores.sub_(lse.clamp(min=torch.finfo(lse.dtype).min)).exp_()
    return torch.matmul(weights, v.float()).to(q.dtype), lse.squeeze(-1)


def merge(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Attention to two disjoint sets of keys, from the attention to each: outputs […, Dh] and log-sum-exps […]."""
    merged = torch.logaddexp(lse, other_lse)
    blended = out * torch.exp(lse - merged).unsqueeze(-1) + other * torch.exp(other_lse - merged).unsqueeze(-1)
    return blended.to(out.dtype), merged
