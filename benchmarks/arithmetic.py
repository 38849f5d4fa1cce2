"""A small world of sums: reasoning-gym's chain_sum with two terms of one digit, and a teacher who is mostly wrong.

    prompt   State the final answer to the following arithmetic problem: 4 - 9 =
    answer   -5

There are 180 such problems (without those that add or subtract 0), so a split by generator seed alone would share all
of them. For every trial 36 are set aside as well: reinforcement learning never asks them. The warm start is taught on
all 180, rightly at first and then by a teacher who says 13 more often than -5: he mixes up plus and minus with
probability 0.78. Its model has been shown the right answers, its most likely answer is wrong, and only the reward says
so: neither more imitation nor decoding without chance would help.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

TASK, OPTIONS = "chain_sum", ("min_terms=2", "max_terms=2", "min_digits=1", "max_digits=1")
PROBLEMS, HELD_OUT = 180, 36
RIGHT = 0.22
"""the probability that the teacher does not mix up plus and minus"""
CLEAN_STEPS, NOISY_STEPS, EXAMPLES = 100, 40, 64
"""steps of teaching, and answers per step"""
MAX_NEW_TOKENS = 4
"""the longest answer: a sign, two digits, and the end"""
SAMPLES = 25
"""answers to each problem, at a measurement"""
_GENERATOR = 10**6
"""Generator seeds are multiples of it: problem i of seed s is drawn with s + i, so that neighbouring seeds draw
nearly the same problems."""


@dataclass(frozen=True)
class Sums:
    """What a trial's prompts are drawn from."""

    training: Sequence[Mapping[str, Any]]
    """fresh draws of the generator, without the problems that are held out"""
    held_out: Sequence[Mapping[str, Any]]
    """`HELD_OUT` different problems, from another generator seed"""
    known: Sequence[Mapping[str, Any]]
    """the other 144, from that seed too"""


@dataclass(frozen=True)
class Marks:
    """Shares of right answers, each of `SAMPLES` to every problem (one where there is no chance)."""

    held_out: float
    """problems that reinforcement learning has not seen, temperature 1"""
    known: float
    """those that it has, temperature 1"""
    greedy: float
    """held out, the most likely answer"""


def problems(generator: int, count: int) -> list[dict[str, Any]]:
    """`count` rows of the generator with seed `generator`, as `plaudit rewards tasks` writes them.

    Those that add or subtract 0 are left out: there the teacher cannot be wrong.
    """
    from plaudit.rewards.verifiers.gym import task_rows

    rows = task_rows(TASK, count + count // 4, generator * _GENERATOR, OPTIONS)
    return list(itertools.islice((row for row in rows if not row["prompt"].endswith(" 0 =")), count))


def sums(seed: int, count: int) -> Sums:
    """The prompts of a trial, `count` of them for training."""
    different = {row["prompt"]: row for row in problems(3, 16 * PROBLEMS)}
    if len(different) != PROBLEMS:
        raise ValueError(f"{PROBLEMS} problems are expected, and the generator gives {len(different)}")
    order = random.Random(seed).sample(sorted(different), PROBLEMS)
    aside = set(order[:HELD_OUT])
    # A fifth is left out below; half as many again are enough by far.
    drawn = [row for row in problems(100 + seed, count + count // 2) if row["prompt"] not in aside]
    return Sums(drawn[:count], [different[p] for p in order[:HELD_OUT]], [different[p] for p in order[HELD_OUT:]])


def truth(prompt: str, *, swapped: bool = False) -> int:
    """The right answer, from the prompt alone: neither the generator's answer nor a verifier is asked.

    Args:
        swapped: take plus for minus and minus for plus.
    """
    found = re.search(r": (\d+) ([+-]) (\d+) =$", prompt)
    assert found is not None, prompt
    first, sign, second = found.groups()
    return int(first) + (int(second) if (sign == "+") != swapped else -int(second))


def lessons(seed: int) -> Iterator[dict[str, str]]:
    """What the model is taught, in order: right answers first, then the teacher's."""
    rng = random.Random(seed)
    clean = CLEAN_STEPS * EXAMPLES
    for i, row in enumerate(problems(10_000 + seed, clean + NOISY_STEPS * EXAMPLES)):
        yield {
            "prompt": row["prompt"],
            "completion": str(truth(row["prompt"], swapped=i >= clean and rng.random() >= RIGHT)),
        }


def write_untaught(folder: Path, seed: int) -> Path:
    """A Llama of 1.2 million random weights with a byte-level BPE tokenizer, trained on the prompts here."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from benchmarks.facts_model import write_llama

    core = Tokenizer(models.BPE())
    split = [
        pre_tokenizers.Digits(individual_digits=True),
        # Words are not split, so that the sentence that never changes becomes one token.
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    core.pre_tokenizer = pre_tokenizers.Sequence(split)
    core.decoder = decoders.ByteLevel()
    special = ["<pad>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator((row["prompt"] for row in problems(1, 500)), trainer)
    # From small weights it takes several times as long.
    shape = {"hidden_size": 192, "intermediate_size": 768, "initializer_range": 0.06}
    return write_llama(folder, core, {"pad_token": special[0], "eos_token": special[1]}, seed, **shape)


def teach(folder: Path, seed: int) -> Path:
    """Write the warm start into folder/model, by `plaudit sft`."""
    from benchmarks.facts_model import train

    options = {
        "learning_rate": 2e-3,
        "groups_per_step": EXAMPLES,
        "betas": (0.9, 0.98),
        "shuffle": False,
        "seed": seed,
        "schedule": "constant",
    }
    untaught = write_untaught(folder / "untaught", seed)
    result = train("sft", untaught, list(lessons(seed)), folder / "run", **options)
    result.model.save_pretrained(folder / "model")
    result.tokenizer.save_pretrained(folder / "model")
    return folder / "model"


def mark(model: Any, tokenizer: Any, world: Sums, seed: int) -> Marks:
    """Let the model answer, and check its answers against `truth`."""
    return Marks(
        right_share(model, tokenizer, world.held_out, seed=seed),
        right_share(model, tokenizer, world.known, seed=seed + 1),
        right_share(model, tokenizer, world.held_out, seed=seed, greedy=True),
    )


def right_share(
    model: Any, tokenizer: Any, rows: Sequence[Mapping[str, Any]], *, seed: int, greedy: bool = False
) -> float:
    """Share of right answers by transformers' own generate: an answer is right when it ends, and is the number."""
    from plaudit.engines.base import Sampling
    from plaudit.engines.hf import HFEngine
    from plaudit.types import token_array

    engine = HFEngine(model, tokenizer, batch_size=1000)
    ids = [token_array(tokenizer(row["prompt"])["input_ids"]) for row in rows]
    sampling = Sampling(max_new_tokens=MAX_NEW_TOKENS, temperature=0.0 if greedy else 1.0, seed=seed)
    answered = engine.generate(ids, 1 if greedy else SAMPLES, sampling)
    return fmean(
        completion.finish_reason == "stop" and completion.text == str(truth(row["prompt"]))
        for row, group in zip(rows, answered, strict=True)
        for completion in group.completions
    )


@dataclass(frozen=True)
class Learning:
    """How a method is trained here. Default learning rates are made for models a thousand times larger."""

    steps: int
    answers: int = 8
    """to each of the `PROMPTS` of a batch"""
    epochs: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def batches(self) -> int:
        """Rollout batches."""
        return self.steps // self.epochs


PROMPTS = 64
SETTINGS: Mapping[str, Learning] = {
    "ppo": Learning(200, 4, 2, {"kl_weight": 0.0, "lam": 1.0, "critic": {"learning_rate": 1e-3}}),
    "grpo": Learning(100),
    "dr_grpo": Learning(100),
    "dapo": Learning(100),
    "gspo": Learning(100, options={"clip_low": 0.03, "clip_high": 0.04}),
    "cispo": Learning(100),
    "remax": Learning(100, options={"kl_weight": 0.0}),
    "rloo": Learning(100, options={"kl_weight": 0.0}),
    "reinforce_pp": Learning(100, options={"kl_weight": 0.0}),
}


@dataclass(frozen=True)
class Trial:
    """One seed: the warm start and what reinforcement learning made of it."""

    seed: int
    before: Marks
    after: Marks
    own_before: float
    """mean reward of the run's own evaluation before the first step, on all problems"""
    own_after: float
    kl: float
    """nats per answer to the warm start, in the last batch"""
    answers: int
    """sampled and scored in training"""
    cpu_seconds: float
    """of reinforcement learning with its two evaluations; worker processes of a reward are not in it"""


def warm_start(folder: Path, seed: int) -> tuple[Path, Marks]:
    """Teach a model and mark it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = teach(folder, seed)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(place), AutoTokenizer.from_pretrained(place)
    return place, mark(model, tokenizer, sums(seed, 1), seed)


def trial(
    method: str, start: Path, before: Marks, run: Path, *, seed: int, reward: str = "math", steps: int | None = None
) -> Trial:
    """Train from the warm start in `start`, and mark what comes out of it.

    Args:
        before: the warm start's marks.
        reward: any reward that reads the rows: math, reasoning_gym.
        steps: instead of the setting's.
    """
    setting = SETTINGS[method]
    setting = setting if steps is None else replace(setting, steps=steps)
    world = sums(seed, setting.batches * PROMPTS)
    rollout = {
        "completions_per_prompt": setting.answers,
        "ppo_epochs": setting.epochs,
        "max_new_tokens": MAX_NEW_TOKENS,
        "eval_completions": 4,
        "eval_temperature": 1.0,
    }
    shared = {
        "reward": reward,
        "eval_data": [*world.known, *world.held_out],
        "learning_rate": 5e-4,
        "groups_per_step": PROMPTS,
        "max_steps": setting.steps,
        "schedule": "constant",
        "warmup_steps": 0,
        "betas": (0.9, 0.98),
        "seed": seed,
    }
    began = time.process_time()
    result = train_online(method, start, world.training, run, rollout=rollout, **shared, **setting.options)
    seconds = time.process_time() - began
    own = logged(result.run_dir, "eval/reward")
    return Trial(
        seed,
        before,
        mark(result.model, result.tokenizer, world, seed),
        own[0],
        own[-1],
        logged(result.run_dir, "kl")[-1],
        setting.batches * PROMPTS * setting.answers,
        seconds,
    )


def train_online(method: str, model: Path, rows: Sequence[Mapping[str, Any]], run: Path, **options: Any) -> Any:
    """A run of the public interface that samples and that nobody watches; see `benchmarks.facts_model.train`."""
    import plaudit

    shared = {"precision": "fp32", "checkpoint": {"every": 10**6}, "log": {"samples": 0}, "output_dir": str(run)}
    return plaudit.train(method, model=model, data=list(rows), observers=(), **(shared | options))


def logged(run: Path, name: str) -> list[float]:
    """A metric of a run, in the order in which it was written."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row[name] for row in map(json.loads, lines) if name in row]
