"""What each part of DAPO gives, one after the other, on sums with a verifier: `python -m benchmarks.dapo_ablation`.

The world of sums of arithmetic.py: a warm start whose most likely answer is wrong, and a verifier. Every variant gets
the same number of rollout batches of the same size, each trained on in several minibatches and passes, so that ratios
leave 1 and clipping acts. Parts are added as in table 1 of the paper (arXiv 2503.14476): GRPO; + clip-higher; + the
mean over tokens; + dynamic sampling. The two parts about overlong answers are left out: an answer here has at most four
tokens. Dynamic sampling samples more answers for the same number of batches: a column counts them, and `grpo, longer`
is GRPO with as many answers as dynamic sampling has used. A table goes to the terminal, every number to
benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks import arithmetic
from benchmarks.arithmetic import MAX_NEW_TOKENS, PROMPTS, Marks, logged, mark, sums, train_online, warm_start
from benchmarks.online_learning import RESULTS, say, shown

BATCHES, ANSWERS, MINIBATCHES, PASSES = 30, 8, 4, 2
OFF: Mapping[str, Any] = {"clip_high": 0.2, "aggregation": "seq-mean-token-mean"}
VARIANTS: Mapping[str, tuple[Mapping[str, Any], bool]] = {
    "grpo": (OFF, False),
    "+ clip-higher": ({**OFF, "clip_high": 0.28}, False),
    "+ token-level loss": ({"clip_high": 0.28, "aggregation": "token-mean"}, False),
    "+ dynamic sampling": ({"clip_high": 0.28, "aggregation": "token-mean"}, True),
}
"""name → (options of `dapo`, whether prompts that teach nothing are replaced)"""
LONGER = "grpo, longer"


@dataclass(frozen=True)
class Trial:
    """One variant, one seed."""

    variant: str
    seed: int
    before: Marks
    after: Marks
    batches: int
    answers: int
    """sampled and scored in training"""
    entropy: float
    """nats per token, in the last batch"""
    clipped: float
    """share of tokens that clipping holds back, mean over the run"""
    cpu_seconds: float


def trial(variant: str, start: Path, before: Marks, run: Path, *, seed: int, batches: int = BATCHES) -> Trial:
    """Train one variant from the warm start."""
    options, dynamic = VARIANTS["grpo" if variant == LONGER else variant]
    world = sums(seed, batches * PROMPTS)
    began = time.process_time()
    result = train_online(
        "dapo",
        start,
        world.training,
        run,
        reward="math",
        rollout={
            "prompts_per_batch": PROMPTS,
            "completions_per_prompt": ANSWERS,
            "ppo_epochs": PASSES,
            "max_new_tokens": MAX_NEW_TOKENS,
            "dynamic_sampling": dynamic,
        },
        groups_per_step=PROMPTS // MINIBATCHES,
        max_steps=batches * PASSES * MINIBATCHES,
        learning_rate=5e-4,
        schedule="constant",
        warmup_steps=0,
        seed=seed,
        **options,
    )
    seconds = time.process_time() - began
    shares = logged(result.run_dir, "rollout/acceptance") if dynamic else []
    kept = [PROMPTS * (1 - unfilled) for unfilled in logged(result.run_dir, "rollout/unfilled")] if dynamic else []
    prompts = sum(k / s for k, s in zip(kept, shares, strict=True) if s) if dynamic else batches * PROMPTS
    return Trial(
        variant,
        seed,
        before,
        mark(result.model, result.tokenizer, world, seed),
        batches,
        round(prompts) * ANSWERS,
        logged(result.run_dir, "entropy")[-1],
        fmean(logged(result.run_dir, "policy/clipfrac")),
        seconds,
    )


def table(found: Sequence[Trial], seeds: int) -> None:
    """Means over the seeds."""
    say(f"| {seeds} seeds | known problems | problems never asked | entropy | clipped | answers | CPU s |")
    say("| --- | --- | --- | --- | --- | --- | --- |")
    for variant in dict.fromkeys(t.variant for t in found):
        own = [t for t in found if t.variant == variant]
        say(
            f"| {variant} | {shown([t.after.known for t in own])} | {shown([t.after.held_out for t in own])} | "
            f"{fmean(t.entropy for t in own):.3f} | {fmean(t.clipped for t in own):.1%} | "
            f"{fmean(t.answers for t in own):,.0f} | {fmean(t.cpu_seconds for t in own):.0f} |"
        )
    starts = [t.before for t in found if t.variant == "grpo"]
    say(f"before: {shown([m.known for m in starts])}, never asked {shown([m.held_out for m in starts])}")


def main() -> None:
    """All variants, all seeds."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: list[Trial] = []
    for seed in range(args.seeds):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            start, before = warm_start(place, seed)
            for variant in VARIANTS:
                found.append(trial(variant, start, before, place / variant, seed=seed))
                say(f"{found[-1]}")
            more = math.ceil(found[-1].answers / (PROMPTS * ANSWERS))
            found.append(trial(LONGER, start, before, place / LONGER, seed=seed, batches=more))
            say(f"{found[-1]}")
    table(found, args.seeds)
    content = {
        "batches": BATCHES,
        "prompts": PROMPTS,
        "answers": ANSWERS,
        "minibatches": MINIBATCHES,
        "passes": PASSES,
        "max_new_tokens": arithmetic.MAX_NEW_TOKENS,
        "trials": [asdict(t) for t in found],
    }
    (RESULTS / "dapo_ablation.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
