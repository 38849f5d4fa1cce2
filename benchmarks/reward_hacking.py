"""Reward hacking, made and cured, with a known gold reward: `python -m benchmarks.reward_hacking --seeds 3`.

The small world of facts.py: gold is how many of three facts an answer states rightly. A reward model is trained on
pairs whose rater has a weakness: with probability `BIAS` he takes the longer answer, whatever it says. The reward model
learns both, facts and length, and a policy that is trained against it learns at first what is right, and then what is
long. Each variant is the same PPO with one remedy:

    plain      no KL term
    kl         the KL to the start in the reward
    par        preference as reward (arXiv 2502.18770): the mean probability of beating four answers of the start,
               with the KL weight of the paper (0.005)
    ensemble   three reward models on the same pairs, mean − weight · variance (arXiv 2310.02743)
    length     what the reward model pays for a token, by regression on answers of the start, is taken off
    stop       plain, ended by the alert proxy_up_gold_down

Every run is watched by gold on held-out prompts (watch.gold), and its models are judged at every evaluation. What is
reported: gold at the start, at its best and at the end; the reward model's score; KL; and when the alert came, with the
share of its gain that gold had lost by then. Everything is read from the runs' own logs. A table goes to the terminal,
every number to benchmarks/results/, a figure to docs/reward-hacking.svg with --figure.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.arithmetic import train_online
from benchmarks.facts import pairs, prompts
from benchmarks.facts_model import Taught, judge, taught, train
from benchmarks.hacking_figure import figure
from benchmarks.online_learning import RESULTS, REWARD_MODEL, say

BIAS = 0.25
"""the probability that the rater takes the longer answer"""
DRAWS, PAIRS = 6, 640
STEPS, PASSES, ANSWERS, EVERY = 100, 2, 4, 4
"""optimiser steps; passes over each batch of 64 × 4 answers; steps between evaluations"""
HELD_OUT, SAMPLED = 150, 4
MAX_NEW_TOKENS = 24
VARIANTS = ("plain", "kl", "par", "ensemble", "length", "stop")
KL_WEIGHTS = {"kl": 0.1, "par": 0.005}
"""0 for the others"""
UNCERTAINTY = 0.5
GOLD = "benchmarks.online_learning:facts_reward"


@dataclass(frozen=True)
class Point:
    """An evaluation: means over the held-out prompts, `SAMPLED` answers each."""

    step: int
    kl: float
    """nats per answer, of the batch trained on last"""
    proxy: float
    """the score of the reward model before any shaping; with `ensemble`, of the ensemble"""
    gold: float
    tokens: float


@dataclass(frozen=True)
class Course:
    """One run."""

    variant: str
    seed: int
    points: Sequence[Point]
    alert_step: int | None
    """of proxy_up_gold_down"""
    lost_at_alert: float | None
    """share of gold's gain over the start, at its best, that was lost by then"""
    cpu_seconds: float

    @property
    def best(self) -> Point:
        """Where gold is highest."""
        return max(self.points, key=lambda p: p.gold)


def rater_rows(world: Taught, seed: int) -> list[dict[str, str]]:
    """Pairs as the rater labels them."""
    rng = random.Random(seed)
    rows = []
    for draw in range(DRAWS):
        for prompt, better, worse in pairs(world.pool, 100 * seed + draw, PAIRS):
            first, second = better, worse
            if rng.random() < BIAS and better.tokens != worse.tokens:
                first, second = sorted((better, worse), key=lambda answer: -answer.tokens)
            rows.append({"prompt": prompt, "chosen": f" {first.text}", "rejected": f" {second.text}"})
    return rows


@dataclass(frozen=True)
class Judges:
    """The reward models of a seed, and what they say of the start's own answers."""

    model: Path
    ensemble: Path
    references: Mapping[str, Sequence[float]]
    """prompt → scores of four answers"""
    per_token: float
    """slope of the score on length"""


def judges(world: Taught, folder: Path, seed: int) -> Judges:
    """Train three reward models on the same pairs; the first is the one that is hacked."""
    from plaudit import api
    from plaudit.rewards.models.model import RewardModel
    from plaudit.rewards.shaping import residualise

    rows = rater_rows(world, seed)
    members = [
        train("reward", world.folder, rows, folder / f"reward-{k}", seed=10 * seed + k, **REWARD_MODEL).run_dir
        for k in range(3)
    ]
    say(f"seed {seed}: the reward model orders {judge(world, members[0]).accuracy:.1%} of held-out pairs as gold does")
    few = [{k: row[k] for k in ("prompt", "chosen", "rejected")} for row in rows[:PAIRS]]
    api.ensemble_reward_models(folder / "ensemble", members, few, combine="uwo", uncertainty_weight=UNCERTAINTY)
    asked, _ = prompts()
    answered = {p: (list(world.pool[p]) * 4)[:4] for p in asked if world.pool[p]}
    answered |= {p: list(own)[:4] for p, own in world.held_out.items()}
    scores = RewardModel.load(members[0]).score([(p, [f" {a.text}" for a in own]) for p, own in answered.items()])
    lengths = [float(a.tokens) for own in answered.values() for a in own]
    flat = [s for row in scores for s in row]
    slope, _ = residualise(flat, lengths)
    references = dict(zip(answered, scores, strict=True))
    return Judges(members[0], folder / "ensemble", references, slope)


def course(variant: str, world: Taught, found: Judges, run: Path, seed: int) -> Course:
    """Train one variant, and read its log."""
    from plaudit.train.interrupt import Halted

    asked, held_out = prompts()
    shaping: list[dict[str, Any]] = []
    reward = str(found.ensemble if variant == "ensemble" else found.model)
    if variant == "par":
        shaping = [{"par": {}}]
    elif variant == "length" and found.per_token > 0:
        shaping = [{"length_penalty": {"free": 0, "per_unit": found.per_token}}]
    began = time.process_time()
    with suppress(Halted):  # what `stop` is for
        train_online(
            "ppo",
            world.folder,
            [_row(p, found) for p in asked if p in found.references],
            run,
            eval_data=[_row(p, found) for p in held_out[:HELD_OUT]],
            reward={"rewards": [reward], "shaping": shaping},
            rollout={
                "completions_per_prompt": ANSWERS,
                "ppo_epochs": PASSES,
                "max_new_tokens": MAX_NEW_TOKENS,
                "eval_completions": SAMPLED,
                "eval_temperature": 1.0,
            },
            watch={"gold": GOLD, "stop": ["proxy_up_gold_down"] if variant == "stop" else [], "kl_budget": None},
            eval={"every": EVERY, "best_metric": "eval/gold"},
            log={"samples": 0, "every": PASSES},
            kl_weight=KL_WEIGHTS.get(variant, 0.0),
            critic={"learning_rate": 2e-3},
            truncated="subtract",
            truncated_penalty=1.0 if variant == "par" else 3.0,  # the whole range of that reward
            learning_rate=5e-4,
            schedule="constant",
            groups_per_step=64,
            max_steps=STEPS,
            warmup_steps=0,
            seed=seed,
        )
    return _read(variant, run, seed, time.process_time() - began)


def _row(prompt: str, found: Judges) -> dict[str, Any]:
    return {"prompt": prompt, "reference_scores": list(found.references[prompt])}


def _read(variant: str, run: Path, seed: int, seconds: float) -> Course:
    """The course of a run from metrics.jsonl and alerts.jsonl."""
    points, kl = [], 0.0
    for row in _lines(run / "metrics.jsonl"):
        kl = row.get("kl", kl)
        if "eval/gold" in row:
            [proxy] = [v for name, v in row.items() if name.startswith("eval/rewards/") and name.endswith("/mean")
                       and name.count("/") == 3 and "/total/" not in name]  # fmt: skip
            tokens = row["eval/completions/mean_length"]
            points.append(Point(row["step"], kl, proxy, row["eval/gold"], tokens))
    alerts = [row["step"] for row in _lines(run / "alerts.jsonl") if row["code"] == "proxy_up_gold_down"]
    alert = alerts[0] if alerts else None
    start, best = points[0].gold, max(p.gold for p in points)
    lost = None
    if alert is not None and best > start:
        at = max((p for p in points if p.step <= alert), key=lambda p: p.step)
        lost = (best - at.gold) / (best - start)
    return Course(variant, seed, points, alert, lost, seconds)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def table(found: Sequence[Course]) -> None:
    """Means over the seeds, with the range."""

    def shown(values: Sequence[float], form: str = ".2f") -> str:
        return f"{fmean(values):{form}} ({min(values):{form}}–{max(values):{form}})"

    say("| | gold: start | best | end | its KL: best | end | tokens: end | alert, lost by then |")
    say("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for variant in dict.fromkeys(c.variant for c in found):
        own = [c for c in found if c.variant == variant]
        told = [c for c in own if c.alert_step is not None]
        lost = ", ".join(f"{c.lost_at_alert:.0%}" for c in told if c.lost_at_alert is not None)
        say(
            f"| {variant} | {shown([c.points[0].gold for c in own])} | {shown([c.best.gold for c in own])} | "
            f"{shown([c.points[-1].gold for c in own])} | {shown([c.best.kl for c in own], '.1f')} | "
            f"{shown([c.points[-1].kl for c in own], '.1f')} | {shown([c.points[-1].tokens for c in own], '.1f')} | "
            f"{len(told)} of {len(own)}{f': {lost}' if lost else ''} |"
        )


def main() -> None:
    """All variants, all seeds."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--figure", type=Path, help="an SVG file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: list[Course] = []
    with tempfile.TemporaryDirectory() as folder:
        world = taught(Path(folder))
        for seed in range(args.seeds):
            place = Path(folder) / str(seed)
            models = judges(world, place, seed)
            for variant in args.variants:
                found.append(course(variant, world, models, place / f"run-{variant}", seed))
                last = found[-1]
                say(f"seed {seed}, {variant}: best {last.best}, end {last.points[-1]}, alert {last.alert_step}")
    table(found)
    content: dict[str, Any] = {
        "bias": BIAS,
        "pairs": DRAWS * PAIRS,
        "kl_weights": KL_WEIGHTS,
        "uncertainty_weight": UNCERTAINTY,
        "courses": [asdict(c) for c in found],
    }
    (RESULTS / "reward_hacking.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if args.figure:
        args.figure.write_text(figure(content["courses"]), encoding="utf-8")


if __name__ == "__main__":
    main()
