"""The output head on a GPU: ours against Liger's fused linear cross entropy and cut cross-entropy, where installed.

    pip install liger-kernel cut-cross-entropy      # contenders; plaudit does not depend on them
    python -m benchmarks.gpu_head

Forward and backward of the summed log-probs of N targets, bf16, with a trained head (full) and with a frozen one
(LoRA): milliseconds, peak memory over the inputs, and the largest error of the gradient of the hidden states against
fp32, relative to its largest entry.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

SIZES = ((896, 151_936), (2048, 151_936), (4096, 151_936))


def contenders() -> dict[str, Callable[[Any, Any, Any], Any]]:
    """(hidden [N, D], weight [V, D], targets [N]) → summed negative log-prob."""
    from plaudit.forest.logprob import fused_token_stats

    found: dict[str, Callable[[Any, Any, Any], Any]] = {
        "ours": lambda h, w, y: -fused_token_stats(h, w, y).logprob.sum()
    }
    if find_spec("liger_kernel") is not None:
        liger = import_module("liger_kernel.transformers").LigerFusedLinearCrossEntropyLoss(reduction="sum")
        found["Liger"] = lambda h, w, y: liger(w, h, y)
    if find_spec("cut_cross_entropy") is not None:
        linear_cross_entropy = import_module("cut_cross_entropy").linear_cross_entropy
        found["cut cross-entropy"] = lambda h, w, y: linear_cross_entropy(h, w, y, reduction="sum")
    return found


def main() -> None:
    """A line for each size, tuning and contender."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--targets", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one tiny size: a check of the script")
    given = parser.parse_args()
    import torch

    if given.quick:
        given.targets, given.repeats = 64, 1
    for width, vocabulary in ((32, 500),) if given.quick else SIZES:
        torch.manual_seed(0)
        kind: Any = {"device": given.device, "dtype": torch.bfloat16}
        hidden = torch.randn(given.targets, width, **kind)
        weight = torch.randn(vocabulary, width, **kind) * width**-0.5
        targets = torch.randint(0, vocabulary, (given.targets,), device=given.device)
        right = exact(hidden, weight, targets)
        for trained in (True, False):
            for name, call in contenders().items():
                tuning = "full" if trained else "frozen head"
                try:
                    ms, peak, error = measured(call, hidden, weight, targets, right, trained, given.repeats)
                    text = f"{ms:8.2f} ms, peak +{peak / 2**20:7.0f} MiB, gradient error {error:.1e}"
                except Exception as problem:  # a contender that does not run here is a result
                    text = f"does not run: {str(problem).splitlines()[0]}"
                sys.stdout.write(f"{width:5} × {vocabulary}, {given.targets} targets, {tuning:11} {name:18} {text}\n")
                sys.stdout.flush()


def exact(hidden: Any, weight: Any, targets: Any) -> Any:
    """The gradient of the hidden states in fp32, 256 targets at a time."""
    import torch

    parts = []
    wide = weight.float()
    for start in range(0, len(hidden), 256):
        h = hidden[start : start + 256].float().requires_grad_()
        loss = torch.nn.functional.cross_entropy(h @ wide.T, targets[start : start + 256], reduction="sum")
        parts.append(torch.autograd.grad(loss, h)[0])
    return torch.cat(parts)


def measured(
    call: Callable[..., Any], hidden: Any, weight: Any, targets: Any, right: Any, trained: bool, repeats: int
) -> tuple[float, int, float]:
    """Milliseconds (median), peak bytes over the inputs, error of the hidden states' gradient."""
    import time

    import torch

    gpu = hidden.device.type == "cuda"
    h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_(trained)

    def once() -> float:
        h.grad = w.grad = None
        if gpu:
            torch.cuda.synchronize()
        start = time.perf_counter()
        call(h, w, targets).backward()
        if gpu:
            torch.cuda.synchronize()
        return 1000 * (time.perf_counter() - start)

    once()
    before = torch.cuda.memory_allocated() if gpu else 0
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    ms = statistics.median(once() for _ in range(repeats))
    peak = torch.cuda.max_memory_allocated() - before if gpu else 0
    assert h.grad is not None
    return ms, peak, float((h.grad.float() - right).abs().max() / right.abs().max())


if __name__ == "__main__":
    main()
