"""What bf16 costs on this processor."""

from __future__ import annotations

import time

import torch

_SIZE = 512
_SLOW = 0.8


def bf16_speed_on_cpu(repeats: int = 3) -> float:
    """Speed of a bf16 matrix product on the CPU as a multiple of the fp32 one; takes about 20 ms.

    Measured, because what a processor says that it can do and what PyTorch makes of it are two things: with AMX or
    AVX-512 BF16 it is 2 and more, with AVX2 it is an eighth.
    """
    best: list[float] = []
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.ones(_SIZE // 4, _SIZE, dtype=dtype)
        b = torch.ones(_SIZE, _SIZE, dtype=dtype)
        torch.nn.functional.linear(a, b)
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            torch.nn.functional.linear(a, b)
            times.append(time.perf_counter() - start)
        best.append(min(times))
    return best[0] / best[1]


def bf16_note() -> str | None:
    """A sentence for the log when bf16 was asked for and slows this machine down; None otherwise."""
    speed = bf16_speed_on_cpu()
    if speed >= _SLOW:
        return None
    return f"bf16 runs at {speed:.2f} times the speed of fp32 on this processor: model.precision=fp32 is faster"
