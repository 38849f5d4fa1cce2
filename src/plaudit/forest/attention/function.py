"""The attention function that transformers calls in every layer, and what it refuses.

It is registered with transformers' `AttentionInterface` under `NAME`; the layout travels as the keyword
`LAYOUT_KEYWORD` through the model's own forward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from plaudit.errors import ModelError
from plaudit.forest.attention import choose, rectangles, varlen
from plaudit.forest.attention.packing import Packing
from plaudit.forest.attention.plan import Layout, Plan, Rule, Segments
from plaudit.forest.layout import Forest

NAME = "plaudit_forest"
LAYOUT_KEYWORD = "plaudit_layout"

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


def attend_segments(q: Tensor, k: Tensor, v: Tensor, forest: Segments, rule: Rule) -> Tensor:
    """Attention over the segments of a forest: q [1, H, T, Dh], k and v [1, Hk, T, Dh] → [1, T, H, Dh]."""
    if q.device.type in choose.CANDIDATES:
        packing = Packing.of(forest, rule.window)
        kernel = choose.kernel_for(choose.Ask.of(q, k, v, rule), packing)
        if kernel is not None:
            return varlen.attend(kernel, q, k, v, packing, rule)
    return rectangles.attend(q, k, v, Plan.of(forest, rule.window), rule)


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
        raise ModelError(
            "PL304",
            "the forest attention was called without a forest",
            where=type(module).__name__,
            mend="call model.set_path('padded') to use it alone",
        )
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
    rule = Rule(scale, sliding_window, softcap, s_aux)
    if isinstance(forest, Forest):
        return attend_segments(query, key, value, forest, rule), None
    layout: Layout = forest
    return layout.attend(query, key, value, rule), None


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
            "PL304",
            "the model adds its own rule to the causal mask",
            mend="use model.attention=padded for this model",
            where="model.attention",
        )
    return None if local_size is None else torch.tensor(local_size)


AttentionInterface.register(NAME, forest_attention)
AttentionMaskInterface.register(NAME, _no_mask)
