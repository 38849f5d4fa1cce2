"""What `plaudit harden` does to a reward model that can be hacked, in the small world of facts.

    python -m benchmarks.hardening --seeds 1 --loops 3

Half of the raters' judgements prefer the longer answer whatever its facts, so the reward model likes length; plain PPO
against it, without a KL penalty, ends in answers that say "surely surely surely". The policies of an early and a late
PPO run harden the reward model. It is then asked about the late policy's answers to prompts that nobody has trained on:
how often does it prefer one that is worse by the facts to the taught model's answer? And PPO runs anew against the
hardened model; its policy is what the next loop hardens with. The program that knows the facts judges.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.arithmetic import train_online
from benchmarks.facts import Answer, pairs, prompts
from benchmarks.facts_model import MAX_NEW_TOKENS, Taught, answers, judge, taught

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
    options = REWARD_MODEL | {"data": str(data)}
    found = _train("reward", world.folder, folder / "reward", seed=seed, **options)
    return found.run_dir, data


def _train(method: str, model: Path, run: Path, **options: Any) -> Any:
    import plaudit

    shared = {"precision": "fp32", "checkpoint": {"every": 10**6}, "output_dir": str(run)}
    return plaudit.train(method, model=str(model), observers=(), **(shared | options))


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


@dataclass(frozen=True)
class Policy:
    """One answer of a policy to each held-out prompt. Rewards are of 3."""

    gold: float
    well_formed: float
    tokens: float


@dataclass(frozen=True)
class Fooled:
    """The reward model's preferences between a policy's and the taught model's answers to held-out prompts.

    Attributes:
        worse_preferred: share of the answers worse by the facts that it prefers.
        better_preferred: share of the better ones that it prefers.
    """

    worse_preferred: float
    better_preferred: float


@dataclass(frozen=True)
class Step:
    """A reward model, and what PPO makes of it.

    Attributes:
        accuracy: on pairs of the taught model's answers to held-out prompts, by the facts.
        late: asked about the answers of the policy that over-optimised the first reward model.
        added, beats_before, beats_after: of the hardening that made it; None for the first one.
        policy: after PPO against it.
    """

    name: str
    accuracy: float
    late: Fooled
    policy: Policy | None = None
    added: int | None = None
    beats_before: float | None = None
    beats_after: float | None = None


def drawn(world: Taught, policy: Any, seed: int) -> list[Answer]:
    """One answer to each held-out prompt."""
    return [one for (one,) in answers(policy.model, policy.tokenizer, list(world.held_out), 1, seed=1000 + seed)]


def policy_of(found: Sequence[Answer]) -> Policy:
    """The means."""
    from benchmarks.facts import well_formed

    return Policy(fmean(a.reward for a in found), fmean(well_formed(a) for a in found), fmean(a.tokens for a in found))


def fooled(world: Taught, reward: Path, found: Sequence[Answer]) -> Fooled:
    """Ask a reward model about a policy's answers, beside the taught model's first ones."""
    from plaudit.rewards.models.model import RewardModel

    old = [a[0] for a in world.held_out.values()]
    items = [(p, [f" {a.text}", f" {b.text}"]) for p, a, b in zip(world.held_out, old, found, strict=True)]
    preferred = [new > before for before, new in RewardModel.load(reward).score(items)]
    gain = [b.reward - a.reward for a, b in zip(old, found, strict=True)]
    worse = [p for p, g in zip(preferred, gain, strict=True) if g < 0]
    better = [p for p, g in zip(preferred, gain, strict=True) if g > 0]
    return Fooled(fmean(worse or [0]), fmean(better or [0]))


def harden(reward: Path, policies: Sequence[Path], folder: Path, **options: Any) -> Any:
    """`plaudit harden` with the length of this world's answers."""
    from plaudit import api

    given: dict[str, Any] = {
        "policies": list(policies),
        "output_dir": folder,
        "max_new_tokens": MAX_NEW_TOKENS,
        "observers": (),
    }
    return api.harden(reward, **(given | options))


def measure(world: Taught, folder: Path, seed: int, loops: int) -> list[Step]:
    """One seed: the reward model as it was, hardened once with the gold reward's help, and loop by loop without it."""
    reward, _ = hackable(world, folder, seed)
    early = optimise(world, reward, folder / "early", seed=seed, batches=EARLY)
    late = optimise(world, reward, folder / "late", seed=seed, batches=LATE)
    hacked = drawn(world, late, seed)
    steps = [Step("as it was", judge(world, reward).accuracy, fooled(world, reward, hacked), policy_of(hacked))]
    _say(seed, steps[-1])
    policies = [early.run_dir, late.run_dir]
    plans: list[tuple[str, dict[str, Any]]] = [(f"loop {k}", {}) for k in range(1, loops + 1)]
    for name, options in [("with gold", {"gold": GOLD}), *plans]:
        place = folder / name.replace(" ", "-")
        done = harden(reward, policies, place, **options)
        if done.reward is None:
            break  # nothing was found, and nothing trained
        again = optimise(world, done.reward, place / "ppo", seed=seed, batches=LATE)
        steps.append(_step(world, name, done, hacked, drawn(world, again, seed)))
        _say(seed, steps[-1])
        if name != "with gold":
            reward, policies = done.reward, [again.run_dir]
    return steps


def _step(world: Taught, name: str, done: Any, hacked: Sequence[Answer], after: Sequence[Answer]) -> Step:
    (entry,) = done.rounds
    return Step(
        name,
        judge(world, done.reward).accuracy,
        fooled(world, done.reward, hacked),
        policy_of(after),
        entry.found.added,
        entry.before.beats_held_out,
        entry.after.beats_held_out,
    )


def _say(seed: int, step: Step) -> None:
    sys.stdout.write(f"seed {seed}: {step}\n")
    sys.stdout.flush()


def main() -> None:
    """Teach once, measure every seed, write the results."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--loops", type=int, default=3, help="hardening, then PPO, then hardening with its policy …")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        world = taught(Path(folder))
        start = policy_of([a[0] for a in world.held_out.values()])
        found = [measure(world, Path(folder) / str(seed), seed, given.loops) for seed in range(given.seeds)]
    content = {"start": asdict(start), "seeds": [[asdict(step) for step in steps] for steps in found]}
    RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
