"""What `plaudit harden` does to a reward model that can be hacked, in the small world of facts.

    python -m benchmarks.hardening --seeds 3

Half of the raters' judgements prefer the longer answer whatever its facts, so the reward model likes length; plain PPO
against it ends in answers that say "surely surely surely". The policies of two PPO runs, an early and a late one, are
what the reward model is hardened with; then PPO runs anew from the same start against the reward model before and after,
and the program that knows the facts judges both on held-out prompts. Without `--gold` nobody but the reward models has
looked at what was found.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.arithmetic import train_online
from benchmarks.facts import Answer, pairs, prompts
from benchmarks.facts_model import MAX_NEW_TOKENS, Taught

RESULTS = Path(__file__).parent / "results" / "hardening.json"
REWARD_MODEL = {"learning_rate": 3e-3, "groups_per_step": 64, "epochs": 3.0}
DRAWS, PAIRS, LENGTH = 2, 640, 0.5
"""pairs per draw; share of the judgements that go by length"""
EARLY, LATE = 10, 50
"""batches of PPO after which a policy answers"""
GOLD = "benchmarks.online_learning:facts_reward"


def rated(world: Taught, seed: int) -> list[dict[str, Any]]:
    """Pairs of which a share is judged by length instead of facts; of equally long answers the facts decide."""
    rng = random.Random(seed)
    rows = []
    for draw in range(DRAWS):
        for prompt, better, worse in pairs(world.pool, 100 * seed + draw, PAIRS):
            first, second = _by_length(better, worse) if rng.random() < LENGTH else (better, worse)
            rows.append({"prompt": prompt, "chosen": f" {first.text}", "rejected": f" {second.text}"})
    return rows


def _by_length(better: Answer, worse: Answer) -> tuple[Answer, Answer]:
    return (worse, better) if worse.tokens > better.tokens else (better, worse)


def write_rows(rows: Sequence[Mapping[str, Any]], file: Path) -> Path:
    """The rows as JSONL."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def hackable(world: Taught, folder: Path, seed: int) -> tuple[Path, Path]:
    """(run of the reward model, its pairs)."""
    folder.mkdir(parents=True, exist_ok=True)
    data = write_rows(rated(world, seed), folder / "pairs.jsonl")
    import plaudit

    shared = {"precision": "fp32", "checkpoint": {"every": 10**6}, "output_dir": str(folder / "reward")}
    found = plaudit.train(
        "reward", model=str(world.folder), data=str(data), seed=seed, observers=(), **(shared | REWARD_MODEL)
    )
    return found.run_dir, data


def optimise(world: Taught, reward: Path, run: Path, *, seed: int, batches: int) -> Any:
    """Plain PPO against a reward model, without a KL penalty."""
    rollout = {"completions_per_prompt": 4, "ppo_epochs": 2, "max_new_tokens": MAX_NEW_TOKENS}
    options = {
        "kl_weight": 0.0,
        "critic": {"learning_rate": 2e-3},
        "truncated": "subtract",
        "truncated_penalty": 3.0,
        "learning_rate": 1e-3,
        "groups_per_step": 64,
        "max_steps": 2 * batches,
        "warmup_steps": 0,
        "seed": seed,
    }
    asked = [{"prompt": prompt} for prompt in prompts()[0]]
    return train_online("ppo", world.folder, asked, run, reward=str(reward), rollout=rollout, **options)
