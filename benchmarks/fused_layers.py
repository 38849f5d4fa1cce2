"""What fused norms, rotary positions and gates gain: `python -m benchmarks.fused_layers --size 35m --repeats 9`.

One process, one thread, fp32: forward and backward of a decoder without a head, the model's own layers and plaudit's
(`plaudit.models.fused`) in turn. Prints the CPU time of both and their ratio, median and range over the repeats.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from benchmarks.workload import ARCHITECTURES


def decoders(size: str) -> tuple[Any, Callable[[bool], None]]:
    """A Qwen3 decoder of a size, and the switch between its own layers (False) and the fused ones (True)."""
    import torch
    from transformers import Qwen3Config, Qwen3Model
    from transformers.models.qwen3 import modeling_qwen3

    from plaudit.models.fused import use_fused

    shape = ARCHITECTURES[size]
    torch.manual_seed(0)
    model = Qwen3Model(
        Qwen3Config(
            vocab_size=1024,
            hidden_size=shape.hidden,
            intermediate_size=shape.intermediate,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            head_dim=shape.hidden // shape.heads,
        )
    )
    file: Any = modeling_qwen3
    plain = file.apply_rotary_pos_emb
    use_fused(model)
    fused = file.apply_rotary_pos_emb
    forwards = {module: vars(module)["forward"] for module in model.modules() if "forward" in vars(module)}

    def switch(to_fused: bool) -> None:
        file.apply_rotary_pos_emb = fused if to_fused else plain
        for module, forward in forwards.items():
            if to_fused:
                module.forward = forward
            else:
                vars(module).pop("forward", None)

    return model, switch


def main() -> None:
    """Print a line."""
    import torch

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=sorted(ARCHITECTURES), default="10m")
    parser.add_argument("--tokens", type=int, default=1024, help="of the one sequence")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, switch = decoders(options.size)
    ids = torch.randint(0, 1024, (1, options.tokens))
    slope = torch.randn(1, options.tokens, ARCHITECTURES[options.size].hidden)

    def seconds(fused: bool) -> float:
        switch(fused)
        model.zero_grad()
        began = time.process_time()
        model(input_ids=ids, use_cache=False)[0].backward(slope)
        return time.process_time() - began

    for fused in (False, True):
        seconds(fused)  # the first pass of each finds its memory
    rounds = [(seconds(False), seconds(True)) for _ in range(options.repeats)]
    ratios = sorted(plain / fused for plain, fused in rounds)
    plain, fused = (median(times) for times in zip(*rounds, strict=True))
    sys.stdout.write(
        f"{options.size}, {options.tokens} tokens, {options.repeats} repeats: {plain * 1e3:.0f} ms of its own layers, "
        f"{fused * 1e3:.0f} ms fused: {median(ratios):.3f} ({ratios[0]:.3f}-{ratios[-1]:.3f})\n"
    )


if __name__ == "__main__":
    main()
