"""On a GPU: what the local engine draws is what it is scored with, with recorded steps and without.

    python -m benchmarks.gpu_exactness

Every architecture of the tests' exactness matrix, fp32: the greedy output with recorded steps is that without them, and
sampled log-probs are those of the packed forward pass to 1e-4. Ends with status 1 where one is not.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np


def main() -> None:
    """One line for each architecture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    device = parser.parse_args().device
    import torch

    from tests import zoo

    torch.backends.cuda.matmul.allow_tf32 = False
    wrong = 0
    for name in (n for n in zoo.NAMES if n not in zoo.PADDED_ONLY):
        same, gap, how = check(zoo.build(name).eval().to(device))
        fine = same and gap < 1e-4
        wrong += not fine
        sys.stdout.write(f"{'ok   ' if fine else 'WRONG'} {name:16} greedy same: {same}, gap {gap:.1e} nats; {how}\n")
        sys.stdout.flush()
    sys.exit(1 if wrong else 0)


def check(model: Any) -> tuple[bool, float, str]:
    """Whether greedy outputs agree, the largest gap of a log-prob, and what the engine says of itself."""
    from plaudit.engines import Sampling
    from plaudit.engines.local import LocalEngine
    from plaudit.models.forest_model import ForestModel

    model.generation_config.eos_token_id = 2
    forest = ForestModel(model)
    rng = np.random.default_rng(0)
    vocabulary = int(model.get_output_embeddings().weight.shape[0])
    prompts = [rng.integers(3, vocabulary, n).astype(np.int32) for n in (12, 3, 9, 22)]
    fast, plain = (LocalEngine(forest, _NoText(), graphs=graphs) for graphs in (True, False))
    greedy = Sampling(temperature=0, max_new_tokens=40)
    outputs = [
        [c.token_ids.tolist() for g in engine.generate(prompts, 1, greedy) for c in g.completions]
        for engine in (fast, plain)
    ]
    original = forest.regime.original
    new = 40 if original is None else max(original - 22, 1)
    groups = list(fast.generate(prompts, 4, Sampling(max_new_tokens=new, seed=1)))
    own = [c.full_logprobs for g in groups for c in g.completions if c.full_logprobs is not None]
    scored = [s for by_group in fast.score(groups) for s in by_group]
    gap = max(float(np.abs(a - b).max()) for a, b in zip(own, scored, strict=True))
    return outputs[0] == outputs[1], gap, fast.described or "steps not recorded"


class _NoText:
    eos_token_id = 2
    pad_token_id = 0

    def decode(self, ids: Any, **_: Any) -> str:
        return ""


if __name__ == "__main__":
    main()
