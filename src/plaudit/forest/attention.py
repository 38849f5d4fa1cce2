"""Attention over a forest without copying a prompt's keys to its branches.

A branch token attends to its prompt and to its own branch. The two parts are computed apart and merged by their
log-sum-exp, the way ring attention merges blocks (Liu et al. 2023, arXiv 2310.01889, §3). The backward pass calls each
part's kernel with the *merged* output and log-sum-exp, which yields exactly that part's share of the gradient. One autograd
node per layer covers the whole row, so no per-segment slices reach autograd, and memory follows unique tokens.

It is registered with transformers' `AttentionInterface` under `NAME`; the layout travels as the keyword `LAYOUT_KEYWORD`
through the model's own forward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from plaudit.errors import ModelError
from plaudit.forest.layout import Forest

NAME = "plaudit_forest"
LAYOUT_KEYWORD = "plaudit_layout"

_QUERY_CHUNK = 512  # rows of scores the portable kernel holds at a time
_IGNORED = frozenset(
    # What transformers passes along that does not change the result of a causal forward without cache.
    "position_ids use_cache output_attentions output_hidden_states output_router_logits return_dict cache_position "
    "past_key_values position_embeddings logits_to_keep is_causal".split()
)

Part = tuple[int, int, int, int, bool]
"""(query start, query end, key start, key end, causal): one rectangle of the attention pattern."""


def _cpu_flash(q: Tensor, cap: float | None) -> bool:
    return q.device.type == "cpu" and cap is None and q.dtype in (torch.float32, torch.bfloat16)


def _visible(part: Part, positions: Tensor, window: int | None) -> Tensor | None:
    """Additive mask [Lq, Lk] for a rectangle, or None where the kernel's own causal flag is enough."""
    q0, q1, k0, k1, causal = part
    if window is None:
        return None
    distance = positions[q0:q1, None] - positions[None, k0:k1]
    hidden = distance >= window
    if not bool(hidden.any()):
        return None
    if causal:
        hidden = hidden | (distance < 0)
    return torch.zeros(hidden.shape, dtype=torch.float32, device=positions.device).masked_fill_(hidden, -torch.inf)


class _Plan:
    """The rectangles of a forest with their masks, made once per forest and sliding window."""

    def __init__(self, forest: Forest, window: int | None) -> None:
        self.prompts: list[tuple[Part, Tensor | None]] = []
        self.branches: list[tuple[Part, Tensor | None]] = []
        self.crossings: list[tuple[Part, Tensor | None]] = []
        positions = forest.position_ids_T
        for tree in forest.trees:
            p0, p1 = tree.prompt
            if p1 > p0:
                part = (p0, p1, p0, p1, True)
                self.prompts.append((part, _visible(part, positions, window)))
            for b0, b1 in tree.branches:
                if b1 > b0:
                    part = (b0, b1, b0, b1, True)
                    self.branches.append((part, _visible(part, positions, window)))
            first, end = tree.branches[0][0], tree.branches[-1][1]
            if p1 > p0 and end > first:
                part = (first, end, p0, p1, False)
                self.crossings.append((part, _visible(part, positions, window)))

    @classmethod
    def of(cls, forest: Forest, window: int | None) -> _Plan:
        key = ("attention", window)
        if key not in forest.cache:
            forest.cache[key] = cls(forest, window)
        plan = forest.cache[key]
        assert isinstance(plan, cls)
        return plan


def _portable_scores(
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


def _forward_part(
    q: Tensor, k: Tensor, v: Tensor, scale: float, cap: float | None, mask: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor]:
    """Attention of one rectangle: output [1, H, Lq, Dh] and log-sum-exp [1, H, Lq] (−inf where nothing is visible)."""
    if _cpu_flash(q, cap):
        bias = None if mask is None else mask.to(q.dtype)[None, None]
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, causal and mask is None, attn_mask=bias, scale=scale
        )
        if mask is not None:  # rows that see nothing come back as NaN or as a mean, depending on the kernel's version
            blind = torch.isneginf(mask).all(-1)
            out = out.masked_fill(blind[None, None, :, None], 0.0)
            lse = lse.masked_fill(blind[None, None], -torch.inf)
        return out, lse
    outs, lses = [], []
    for row0 in range(0, q.shape[2], _QUERY_CHUNK):
        rows = q[:, :, row0 : row0 + _QUERY_CHUNK]
        scores, _ = _portable_scores(rows, k, scale, cap, mask, causal, row0)
        lse = torch.logsumexp(scores, -1, keepdim=True)
        weights = torch.exp(scores - lse.masked_fill(torch.isneginf(lse), 0.0))
        outs.append(torch.matmul(weights, v[0].float().unsqueeze(1)).flatten(0, 1))
        lses.append(lse.squeeze(-1).flatten(0, 1))
    return torch.cat(outs, 1)[None].to(q.dtype), torch.cat(lses, 1)[None]


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
    if _cpu_flash(q, cap):
        bias = None if mask is None else mask.to(q.dtype)[None, None]
        dq, dk, dv = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, q, k, v, out, lse, 0.0, causal and mask is None, attn_mask=bias, scale=scale
        )
        return dq, dk, dv
    heads, group = k.shape[1], q.shape[1] // k.shape[1]
    dqs = []
    dk = torch.zeros(k.shape[1:], dtype=torch.float32, device=k.device)
    dv = torch.zeros_like(dk[..., : v.shape[-1]]) if v.shape[-1] != k.shape[-1] else torch.zeros_like(dk)
    kf, vf = k[0].float(), v[0].float()
    for row0 in range(0, q.shape[2], _QUERY_CHUNK):
        part = slice(row0, row0 + _QUERY_CHUNK)
        scores, slope = _portable_scores(q[:, :, part], k, scale, cap, mask, causal, row0)
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


class _ForestAttention(torch.autograd.Function):
    """q [1, H, T, Dh], k and v [1, Hk, T, Dh] → [1, T, H, Dh]; `sinks` [H] are extra logits without a value (gpt-oss)."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, plan: _Plan, scale: float, cap: float | None
    ) -> Tensor:
        heads, length = q.shape[1], q.shape[2]
        out = torch.empty(1, length, heads, v.shape[-1], dtype=q.dtype, device=q.device).transpose(1, 2)
        lse = torch.empty(1, length, heads, dtype=torch.float32, device=q.device).transpose(1, 2)
        for (q0, q1, k0, k1, causal), mask in (*plan.prompts, *plan.branches):
            o, l = _forward_part(q[:, :, q0:q1], k[:, :, k0:k1], v[:, :, k0:k1], scale, cap, mask, causal)
            out[:, :, q0:q1], lse[:, :, q0:q1] = o, l
        for (q0, q1, k0, k1, causal), mask in plan.crossings:
            o, l = _forward_part(q[:, :, q0:q1], k[:, :, k0:k1], v[:, :, k0:k1], scale, cap, mask, causal)
            own, own_lse = out[:, :, q0:q1], lse[:, :, q0:q1]
            merged = torch.logaddexp(own_lse, l)
            blended = own * torch.exp(own_lse - merged).unsqueeze(-1) + o * torch.exp(l - merged).unsqueeze(-1)
            out[:, :, q0:q1], lse[:, :, q0:q1] = blended.to(out.dtype), merged
        if sinks is not None:
            with_sink = torch.logaddexp(lse, sinks.float()[None, :, None])
            out.copy_(out * torch.exp(lse - with_sink).unsqueeze(-1))
            lse.copy_(with_sink)
        ctx.save_for_backward(q, k, v, out, lse, sinks)
        ctx.plan, ctx.scale, ctx.cap = plan, scale, cap
        return out.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        q, k, v, out, lse, sinks = ctx.saved_tensors
        grad = grads[0].transpose(1, 2)
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)

        def part(where: Part, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
            q0, q1, k0, k1, causal = where
            rows, cols = (slice(None), slice(None), slice(q0, q1)), (slice(None), slice(None), slice(k0, k1))
            return _backward_part(
                grad[rows], q[rows], k[cols], v[cols], out[rows], lse[rows], ctx.scale, ctx.cap, mask, causal
            )

        # Prompt and branch rectangles cover every position once, so they may assign; crossings add to both sides.
        for where, mask in (*ctx.plan.prompts, *ctx.plan.branches):
            q0, q1 = where[:2]
            dq[:, :, q0:q1], dk[:, :, q0:q1], dv[:, :, q0:q1] = part(where, mask)
        for where, mask in ctx.plan.crossings:
            q0, q1, k0, k1, _ = where
            a, b, c = part(where, mask)
            dq[:, :, q0:q1] += a
            dk[:, :, k0:k1] += b
            dv[:, :, k0:k1] += c
        dsinks = None
        if sinks is not None:
            mass = torch.exp(sinks.float()[None, :, None] - lse)
            dsinks = -(mass * (grad.float() * out.float()).sum(-1)).sum((0, 2)).to(sinks.dtype)
        return dq, dk, dv, dsinks, None, None, None


def forest_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls in every layer.

    Raises:
        ModelError: PL304 for a keyword whose effect is not known here, PL305 for attention dropout.
    """
    forest = kwargs.pop(LAYOUT_KEYWORD, None)
    if forest is None:
        raise ModelError("PL304", "the forest attention was called without a forest", where=type(module).__name__)
    if dropout:
        raise ModelError(
            "PL305", f"attention dropout is {dropout}", where=type(module).__name__, mend="set it to 0 in the model config"
        )
    unknown = sorted(k for k, given in kwargs.items() if k not in _IGNORED and given is not None)
    if kwargs.get("is_causal") is False or getattr(module, "is_causal", True) is False:
        unknown.append("is_causal=False")
    if attention_mask is not None:
        unknown.append("attention_mask")
    if unknown:
        raise ModelError(
            "PL304",
            f"the model passes attention options that the forest does not know: {', '.join(unknown)}",
            where=type(module).__name__,
            mend="use model.attention=padded for this model",
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    out = _ForestAttention.apply(query, key, value, s_aux, _Plan.of(forest, sliding_window), scale, softcap)  # type: ignore[no-untyped-call]
    return out, None


def _no_mask(*_: Any, **__: Any) -> None:
    """The layout replaces the mask."""


AttentionInterface.register(NAME, forest_attention)
AttentionMaskInterface.register(NAME, _no_mask)
