"""How fast this machine multiplies fp32 matrices of a model's own shapes: what a step can be held against.

Worker: `python -m benchmarks.matmul_peak JOB`, with the threads of the other workers. For every linear layer three
products are timed, as training has them: forward, slope of the inputs, slope of the weights. The best of several
repeats counts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.measure import read_job, write_result

ROWS = 4096
"""Token positions of a product."""
REPEATS = 5

Product = tuple[int, int, int]
"""(rows, inner length, columns)"""


def products(shapes: Mapping[tuple[int, int], int]) -> dict[Product, int]:
    """The products of linear layers of (inputs, outputs) → how many there are."""
    found: dict[Product, int] = {}
    for (inputs, outputs), count in shapes.items():
        for product in ((ROWS, inputs, outputs), (ROWS, outputs, inputs), (outputs, ROWS, inputs)):
            found[product] = found.get(product, 0) + count
    return found


def flops(product: Product) -> int:
    """Floating-point operations of a product."""
    return 2 * product[0] * product[1] * product[2]


def peak_rate(counts: Mapping[Product, int], seconds: Mapping[Product, float]) -> float:
    """Operations per second of all layers together, each product at its own best time."""
    return sum(flops(p) * n for p, n in counts.items()) / sum(seconds[p] * n for p, n in counts.items())


def best_of(rounds: Sequence[Mapping[Product, float]]) -> dict[Product, float]:
    """The shortest time of every product over several measurements."""
    return {p: min(r[p] for r in rounds) for p in rounds[0]}


def measure(product: Product) -> float:
    """Seconds of one product, the best of the repeats. On one thread CPU seconds: other programs do not count."""
    import torch

    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    m, k, n = product
    a, b = torch.randn(m, k), torch.randn(k, n)
    out = torch.empty(m, n)
    times = []
    for _ in range(REPEATS + 1):  # the first one also loads and packs
        start = clock()
        torch.mm(a, b, out=out)
        times.append(clock() - start)
    return min(times[1:])


def main() -> None:
    """Options: products, a list of (rows, inner length, columns)."""
    job: dict[str, Any] = read_job()
    write_result(job, {"seconds": [measure(tuple(p)) for p in job["options"]["products"]]})


if __name__ == "__main__":
    main()
