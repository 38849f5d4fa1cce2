"""Attention over a forest without copying a prompt's keys to its branches.

A branch token attends to its prompt and to its own branch. The two parts are computed apart and merged by their
log-sum-exp, the way ring attention merges blocks (Liu et al. 2023, arXiv 2310.01889, §3). The backward pass calls each
part's kernel with the *merged* output and log-sum-exp, which yields exactly that part's share of the gradient. One
autograd node per layer covers the whole row, so no per-segment slices reach autograd, and memory follows unique tokens.

It is registered with transformers' `AttentionInterface` under `NAME`; the layout travels as the keyword
`LAYOUT_KEYWORD` through the model's own forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from plaudit.errors import ModelError
from plaudit.forest.layout import Forest, Tree

NAME = "plaudit_forest"
LAYOUT_KEYWORD = "plaudit_layout"

_QUERY_CHUNK = 512  # rows of scores the portable kernel holds at a time
_IGNORED = frozenset(
    # What transformers passes along that does not change the result of a causal forward without cache.
    [
        "position_ids",
        "use_cache",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "return_dict",
        "cache_position",
        "past_key_values",
        "position_embeddings",
        "logits_to_keep",
        "is_causal",
    ]
)

Part = tuple[int, int, int, int, bool]
"""(query start, query end, key start, key end, causal): one rectangle of the attention pattern."""


class Segments(Protocol):
    """What a plan reads of a forest."""

    token_ids_T: Tensor
    trees: list[Tree]
    cache: dict[Any, Any]


@dataclass(frozen=True, slots=True)
class Rule:
    """What a layer asks of attention besides queries, keys and values."""

    scale: float
    """scores are multiplied by it"""
    window: int | None = None
    """a token sees so many tokens, itself included; None = all before it"""
    cap: float | None = None
    """scores are soft-capped here (Gemma-2)"""
    sinks: Tensor | None = None
    """[H] extra logits without a value (gpt-oss)"""


class Layout(Protocol):
    """What travels under `LAYOUT_KEYWORD` besides a forest: it attends by itself (generation with stored keys)."""

    token_ids_T: Tensor
    position_ids_T: Tensor

    def attend(self, q: Tensor, k: Tensor, v: Tensor, rule: Rule) -> Tensor:
        """q [1, H, T, Dh], k and v [1, Hk, T, Dh] → [1, T, H, Dh]."""
        ...


def _cpu_flash(q: Tensor, cap: float | None) -> bool:
    return q.device.type == "cpu" and cap is None and q.dtype in (torch.float32, torch.bfloat16)


class Plan:
    """The rectangles of a forest with their masks, made once per forest and sliding window.

    `own` rectangles are causal, need no mask and cover every position once. `crossings` look back: from branches to
    their prompt and, under a window, from each window-sized block of a segment to the block before it. A row i behind a
    boundary sees the key c before it when i + c < window, so every mask is a corner of one [window − 1, window − 1]
    table: neither masks nor work grow with the square of a segment's length, and masks do not grow with the number of
    branches.
    """

    def __init__(self, forest: Segments, window: int | None) -> None:
        self.own: list[Part] = []
        self.crossings: list[tuple[Part, Tensor | None]] = []
        self.window = window
        segments = [s for tree in forest.trees for s in (tree.prompt, *tree.branches)]
        self._longest = max((end - start for start, end in segments), default=0)
        self._device = forest.token_ids_T.device
        self._table: Tensor | None = None
        for start, end in segments:
            self._add_segment(start, end)
        for tree in forest.trees:
            (p0, p1), branches = tree.prompt, tree.branches
            first, end = branches[0][0], branches[-1][1]
            if p1 == p0 or end == first:
                continue
            if window is None or p1 - p0 + max(b1 - b0 for b0, b1 in branches) <= window:
                self.crossings.append(((first, end, p0, p1, False), None))
                continue
            for b0, b1 in branches:
                self._add_crossing(b0, b1, p0, p1)

    def _add_segment(self, start: int, end: int) -> None:
        block = self.window or max(end - start, 1)
        for at in range(start, end, block):
            self.own.append((at, min(at + block, end), at, min(at + block, end), True))
            if at > start:
                self._add_crossing(at, min(at + block, end), start, at)

    def _add_crossing(self, q0: int, q1: int, k0: int, k1: int) -> None:
        """Queries from q0 on look back to keys before k1, their direct predecessors in the sequence."""
        assert self.window is not None
        rows, keys = min(q1 - q0, self.window - 1), min(k1 - k0, self.window - 1)
        if rows and keys:
            self.crossings.append(((q0, q0 + rows, k1 - keys, k1, False), self._mask(rows, keys, self.window)))

    def _mask(self, rows: int, keys: int, window: int) -> Tensor | None:
        """Additive mask [rows, keys] for a crossing, or None where all is visible."""
        if rows - 1 + keys < window:
            return None
        if self._table is None:
            index = torch.arange(min(window - 1, self._longest), device=self._device)
            hidden = index[:, None] + (len(index) - index)[None] >= window
            self._table = torch.zeros(hidden.shape, device=self._device).masked_fill_(hidden, -torch.inf)
        return self._table[:rows, len(self._table) - keys :]

    @classmethod
    def of(cls, forest: Segments, window: int | None) -> Plan:
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
    """Attention of one rectangle, whose every row sees something: output [1, H, Lq, Dh], log-sum-exp [1, H, Lq]."""
    if _cpu_flash(q, cap):
        bias = None if mask is None else mask.to(q.dtype)[None, None]
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, causal and mask is None, attn_mask=bias, scale=scale
        )
        return out, lse
    outs, lses = [], []
    for row0 in range(0, q.shape[2], _QUERY_CHUNK):
        rows = q[:, :, row0 : row0 + _QUERY_CHUNK]
        scores, _ = _portable_scores(rows, k, scale, cap, mask, causal, row0)
        lse = torch.logsumexp(scores, -1, keepdim=True)
        weights = torch.exp(scores - lse)
        outs.append(torch.matmul(weights, v[0].float().unsqueeze(1)).flatten(0, 1))
        lses.append(lse.squeeze(-1).flatten(0, 1))
    return torch.cat(outs, 1)[None].to(q.dtype), torch.cat(lses, 1)[None]


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
    if _cpu_flash(q, cap):
        bias = None if mask is None else mask.to(q.dtype)
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, False, attn_mask=bias, scale=scale
        )
        return out, lse
    return attend_part_anywhere(q, k, v, scale, cap, mask)


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
    """q [1, H, T, Dh], k and v [1, Hk, T, Dh] → [1, T, H, Dh]; `sinks` [H] are extra logits without a value
    (gpt-oss)."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, plan: Plan, scale: float, cap: float | None
    ) -> Tensor:
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

        # Own rectangles cover every position once, so they may assign; crossings add to both sides.
        for where in ctx.plan.own:
            q0, q1 = where[:2]
            dq[:, :, q0:q1], dk[:, :, q0:q1], dv[:, :, q0:q1] = part(where, None)
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


def attend_segments(
    q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, plan: Plan, scale: float, cap: float | None
) -> Tensor:
    """Attention over the segments of a plan: q [1, H, T, Dh], k and v [1, Hk, T, Dh] → [1, T, H, Dh]."""
    out: Tensor = _ForestAttention.apply(q, k, v, sinks, plan, scale, cap)  # type: ignore[no-untyped-call]
    return out


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
            "PL305",
            f"attention dropout is {dropout}",
            where=type(module).__name__,
            mend="set it to 0 in the model config",
        )
    unknown = sorted(k for k, given in kwargs.items() if k not in _IGNORED and given is not None)
    if kwargs.get("is_causal") is False or getattr(module, "is_causal", True) is False:
        unknown.append("is_causal=False")
    if attention_mask is not None:
        # What `_no_mask` left: the mask's local window, which the layer must have passed on as well.
        if attention_mask.ndim:
            unknown.append("attention_mask")
        elif int(attention_mask) != (sliding_window or 0):
            unknown.append(f"a local mask of {int(attention_mask)} tokens that is not the layer's sliding_window")
    if unknown:
        raise ModelError(
            "PL304",
            f"the model passes attention options that the forest does not know: {', '.join(unknown)}",
            where=type(module).__name__,
            mend="use model.attention=padded for this model",
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    if isinstance(forest, Forest):
        return attend_segments(query, key, value, s_aux, Plan.of(forest, sliding_window), scale, softcap), None
    layout: Layout = forest
    return layout.attend(query, key, value, Rule(scale, sliding_window, softcap, s_aux)), None


def _no_mask(*_: Any, local_size: int | None = None, use_vmap: bool = False, **__: Any) -> Tensor | None:
    """The layout replaces the mask.

    A mask with a local window (sliding or chunked) comes back as a 0-dimensional tensor of that size. Some models say
    their window in the mask alone, where it would be lost in silence; the attention function holds the two against each
    other.

    Raises:
        ModelError: PL304 for a mask with a rule of the model's own on top of the causal one.
    """
    if use_vmap:
        raise ModelError(
            "PL304", "the model adds its own rule to the causal mask", mend="use model.attention=padded for this model"
        )
    return None if local_size is None else torch.tensor(local_size)


AttentionInterface.register(NAME, forest_attention)
AttentionMaskInterface.register(NAME, _no_mask)
