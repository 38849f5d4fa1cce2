"""Floating-point operations of matrix products and attention, counted where they are dispatched: torch alone.

What is counted is what is computed: recomputation in a backward pass counts, and causal attention counts the half that
its kernel does. Counting slows a run down, so it is done in a run of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.measure import Recorder


def attention_flops(query: tuple[int, ...], key: tuple[int, ...], causal: bool, products: int) -> int:
    """Operations of `products` matrix products of attention's size.

    Args:
        query, key: [batch, heads, length, head size].
        causal: a square of which the upper triangle is left out.
    """
    batch, heads, length, size = query
    pairs = length * (length + 1) // 2 if causal else length * key[2]
    return 2 * products * batch * heads * pairs * size


@contextmanager
def counting(recorder: Recorder, *, wanted: bool = True) -> Iterator[None]:
    """Let the recorder's marks hold what was computed inside."""
    if not wanted:
        yield
        return
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    aten: Any = torch.ops.aten

    def forward(query: Any, key: Any, value: Any, dropout: float = 0.0, causal: bool = False, **_: Any) -> int:
        return attention_flops(tuple(query.shape), tuple(key.shape), causal, 2)

    def backward(
        grad: Any, query: Any, key: Any, value: Any, out: Any, lse: Any, dropout: float, causal: bool, **_: Any
    ) -> int:
        # The scores again, then the slopes of values, weights, queries and keys.
        return attention_flops(tuple(query.shape), tuple(key.shape), causal, 5)

    for formula in (forward, backward):
        setattr(formula, "_get_raw", True)  # noqa: B010  # torch then gives tensors, not shapes
    formulas = {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        recorder.count_flops = counter.get_total_flops
        yield
