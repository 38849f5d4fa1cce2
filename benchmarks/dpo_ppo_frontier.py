"""What does the distance from the start buy? DPO and PPO from the same pairs, judged by a known gold reward.

    python -m benchmarks.dpo_ppo_frontier --seeds 3
    python -m benchmarks.dpo_ppo_frontier --seeds 3 --draws 1

The small world of facts.py. A seed draws pairs of the taught model's own answers, labelled by the gold reward. DPO
trains on them; a reward model trains on them too, and PPO trains against it. Each is run with several strengths of its
KL term, and every policy answers the same held-out prompts: gold reward, KL to the start, and the reward model's score.
PPO samples 64 × 4 answers for each of its batches on top of the pairs, and costs more: CPU seconds are in the table. A
table goes to the terminal, every number to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.facts import pairs, rows_of
from benchmarks.facts_model import Taught, judge, play, taught, train
from benchmarks.online_learning import GOLD, RESULTS, REWARD_MODEL, kl_to_start, online_facts, proxy_mean, say

PAIRS = 640
"""prompts that pairs are drawn for"""
BETAS = (1.0, 0.3, 0.1, 0.03, 0.01)
KL_WEIGHTS = (1.0, 0.3, 0.1, 0.03, 0.0)
DPO_OPTIONS: Mapping[str, Any] = {"learning_rate": 1e-3, "groups_per_step": 64, "epochs": 1.0}


@dataclass(frozen=True)
class Point:
    """One policy. Gold reward and score are means over the held-out prompts, one answer each."""

    method: str
    strength: float
    """β of DPO, kl_weight of PPO"""
    seed: int
    gold: float
    gold_before: float
    kl: float
    """nats per answer"""
    proxy: float
    """of the reward model that PPO had"""
    well_formed: float
    cpu_seconds: float
    """of DPO; of the reward model and PPO"""


def points(world: Taught, folder: Path, seed: int, draws: int) -> list[Point]:
    """All policies of a seed, from `draws` pairs of each of `PAIRS` prompts."""
    drawn = [pairs(world.pool, 100 * seed + draw, PAIRS) for draw in range(draws)]
    rows = rows_of("preference", [pair for found in drawn for pair in found])
    began = time.process_time()
    model = train("reward", world.folder, rows, folder / "reward", seed=seed, **REWARD_MODEL).run_dir
    shared = time.process_time() - began
    say(f"seed {seed}: the reward model orders {judge(world, model).accuracy:.1%} of held-out pairs rightly")
    found = []
    for beta in BETAS:
        began = time.process_time()
        result = train("dpo", world.folder, rows, folder / f"dpo-{beta}", seed=seed, beta=beta, **DPO_OPTIONS)
        found.append(_point("dpo", beta, seed, world, result, model, time.process_time() - began))
    for weight in KL_WEIGHTS:
        began = time.process_time()
        options = {**GOLD["ppo"].options, "kl_weight": weight}
        run = folder / f"ppo-{weight}"
        result = online_facts("ppo", world, run, seed=seed, reward=str(model), options=options)
        found.append(_point("ppo", weight, seed, world, result, model, shared + time.process_time() - began))
    return found


def _point(method: str, strength: float, seed: int, world: Taught, result: Any, model: Path, seconds: float) -> Point:
    after = play(world, result.model, result.tokenizer, seed)
    before = fmean(found[0].reward for found in world.held_out.values())
    kl = kl_to_start(world, result, seed).value
    proxy = proxy_mean(world, model, result, seed)
    point = Point(method, strength, seed, after.reward, before, kl, proxy, after.well_formed, seconds)
    say(f"seed {seed}: {point}")
    return point


def table(found: Sequence[Point]) -> None:
    """Means over the seeds with the range."""
    say("| method | strength | KL, nats | gold, of 3 | reward model's score | well-formed | CPU s |")
    say("| --- | --- | --- | --- | --- | --- | --- |")
    for method in ("dpo", "ppo"):
        for strength in BETAS if method == "dpo" else KL_WEIGHTS:
            own = [p for p in found if (p.method, p.strength) == (method, strength)]
            gold, kl = [p.gold for p in own], [p.kl for p in own]
            say(
                f"| {method} | {strength:g} | {fmean(kl):.2f} ({min(kl):.2f}–{max(kl):.2f}) | "
                f"{fmean(gold):.2f} ({min(gold):.2f}–{max(gold):.2f}) | {fmean(p.proxy for p in own):.2f} | "
                f"{fmean(p.well_formed for p in own):.0%} | {fmean(p.cpu_seconds for p in own):.0f} |"
            )
    say(f"before: gold {fmean(p.gold_before for p in found):.2f}")


def main() -> None:
    """All seeds."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--draws", type=int, default=12, help=f"pairs of each of {PAIRS} prompts (default: 12)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: list[Point] = []
    with tempfile.TemporaryDirectory() as folder:
        world = taught(Path(folder))
        for seed in range(args.seeds):
            found += points(world, Path(folder) / str(seed), seed, args.draws)
    table(found)
    content = {
        "pairs": PAIRS * args.draws,
        "dpo": dict(DPO_OPTIONS),
        "ppo": asdict(GOLD["ppo"]),
        "points": [asdict(p) for p in found],
    }
    (RESULTS / f"dpo_ppo_frontier-{PAIRS * args.draws}.json").write_text(
        json.dumps(content, indent=1) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
