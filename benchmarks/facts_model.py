"""A model that answers in the small world of facts.py, and what became of it: taught, trained, compared.

A model is taught to answer like the teacher. Its own answers, labelled by the reward, are the data for every method; a
method has learned when its model's answers to held-out prompts beat the taught model's. A reward model has learned when
it ranks answers to held-out prompts as the reward does. Nothing is downloaded, one word is one token, and a whole
trial takes seconds on one core.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.facts import RIGHT, WORDS, Answer, pairs, prompts, rankings, reward, rows_of, teacher, well_formed
from benchmarks.workload import EOS, PAD, UNKNOWN
from plaudit.evaluation.best_of_n import best_of_n_curve
from plaudit.evaluation.winrate import WinRate, win_rate
from plaudit.methods import find
from plaudit.types import Completion

CLEAN_STEPS, NOISY_STEPS = 80, 200
EXAMPLES = 32
"""answers per step of teaching"""
PAIRS = 384
"""pairs that a trial trains on, once"""
MAX_NEW_TOKENS = 20
"""the longest answer of the teacher has 15 tokens, its end included"""
CANDIDATES = 8
"""answers to each held-out prompt, for reward models"""


@dataclass(frozen=True)
class Taught:
    """The model that every trial starts from, and its own answers to draw data from and to be compared with."""

    folder: Path
    pool: Mapping[str, Sequence[Answer]]
    """well-formed answers to every training prompt: in these, length says nothing about the reward"""
    held_out: Mapping[str, Sequence[Answer]]
    """`CANDIDATES` answers to each held-out prompt, of any form"""


@dataclass(frozen=True)
class PolicyTrial:
    """A trained policy's answers to the held-out prompts, one each, against the taught model's."""

    win: WinRate
    reward: float
    tokens: float
    """mean length"""
    well_formed: float
    """share of the answers"""

    @property
    def gain(self) -> float:
        """Win rate beyond the ½ of a policy that has learned nothing."""
        return self.win.rate.value - 0.5


@dataclass(frozen=True)
class RewardTrial:
    """A trained reward model's judgement of the taught model's answers to the held-out prompts."""

    accuracy: float
    """share of all pairs of answers to one prompt with different rewards that it orders as the reward does"""
    best_of_n: float
    """gold reward of its choice among `CANDIDATES` answers beyond that of any answer"""
    possible: float
    """the same for a choice by the gold reward"""

    @property
    def gain(self) -> float:
        """Accuracy beyond the ½ of a model that has learned nothing."""
        return self.accuracy - 0.5


Trial = PolicyTrial | RewardTrial


def write_untaught(folder: Path, seed: int = 0) -> Path:
    """A Llama of 85,000 random weights with a word-level tokenizer."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    core = Tokenizer(WordLevel({w: i for i, w in enumerate((PAD, UNKNOWN, EOS, *WORDS))}, unk_token=UNKNOWN))
    core.pre_tokenizer = WhitespaceSplit()
    special = {"pad_token": PAD, "unk_token": UNKNOWN, "eos_token": EOS}
    # From smaller weights it takes far longer to find out that answers copy the prompt.
    return write_llama(folder, core, special, seed, hidden_size=64, intermediate_size=128, initializer_range=0.15)


def write_llama(folder: Path, core: Any, special: Mapping[str, str], seed: int, **shape: Any) -> Path:
    """A Llama of two layers with random weights, and its tokenizer.

    Args:
        core: of the library `tokenizers`.
        special: pad_token, eos_token …
        shape: further options of `LlamaConfig`.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    wrap: Any = PreTrainedTokenizerFast  # untyped upstream
    tokenizer = wrap(tokenizer_object=core, **special)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **shape,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def train(method: str, model: Path, rows: Sequence[Mapping[str, Any]], run: Path, **options: Any) -> Any:
    """A run of the public interface that nobody watches; `options` are keys of the configuration.

    Returns:
        The `TrainResult`.
    """
    import plaudit

    shared = {"precision": "fp32", "reference_cache": "off", "checkpoint": {"every": 10**6}, "output_dir": str(run)}
    return plaudit.train(method, model=model, data=list(rows), observers=(), **(shared | options))


def teach(folder: Path) -> Path:
    """Write a model into folder/model that answers like the teacher."""
    rng = random.Random(1)
    training, _ = prompts()
    # From right answers a model finds out in no time that they copy from the prompt; from noisy ones it takes long.
    lessons = [1.0] * CLEAN_STEPS + [RIGHT] * NOISY_STEPS
    asked = [(rng.choice(training), right) for right in lessons for _ in range(EXAMPLES)]
    rows = [{"prompt": p, "completion": f" {teacher(p, rng, right)}"} for p, right in asked]
    options = {"learning_rate": 6e-3, "groups_per_step": EXAMPLES, "betas": (0.9, 0.98), "shuffle": False}
    result = train("sft", write_untaught(folder / "untaught"), rows, folder / "run", **options)
    result.model.save_pretrained(folder / "model")
    result.tokenizer.save_pretrained(folder / "model")
    return folder / "model"


def taught(folder: Path) -> Taught:
    """Teach a model and let it answer, eight times to every prompt."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = teach(folder)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(place), AutoTokenizer.from_pretrained(place)
    training, held_out = prompts()
    pool = dict(zip(training, answers(model, tokenizer, training, 8, seed=1), strict=True))
    return Taught(
        place,
        {prompt: [a for a in found if well_formed(a)] for prompt, found in pool.items()},
        dict(zip(held_out, answers(model, tokenizer, held_out, CANDIDATES, seed=2), strict=True)),
    )


def answers(model: Any, tokenizer: Any, asked: Sequence[str], n: int, seed: int) -> list[list[Answer]]:
    """n sampled answers to each prompt, judged."""
    from plaudit.engines.base import Sampling
    from plaudit.engines.hf import HFEngine
    from plaudit.types import token_array

    engine = HFEngine(model, tokenizer, batch_size=512)
    ids = [token_array(tokenizer(p)["input_ids"]) for p in asked]
    groups = engine.generate(ids, n, Sampling(max_new_tokens=MAX_NEW_TOKENS, seed=seed))
    return [[_judged(p, c) for c in group.completions] for p, group in zip(asked, groups, strict=True)]


def _judged(prompt: str, completion: Completion) -> Answer:
    text, ended = completion.text or "", completion.finish_reason == "stop"
    return Answer(text, len(completion.token_ids), ended, reward(prompt, text, ended=ended))


def trial(
    method: str, world: Taught, run: Path, *, seed: int, options: Mapping[str, Any], flipped: float = 0.0
) -> Trial:
    """Train on the world's pairs, and measure on the held-out prompts.

    Args:
        seed: of the pairs, the labels, the order and the sampled answers.
        options: keys of the configuration.
        flipped: probability that a pair is labelled the wrong way round.
    """
    found = find(method)
    assert found.data_kind != "prompt"
    if found.data_kind == "ranking":
        assert flipped in (0, 1), "a ranking is right or turned"
        rows = rankings(world.pool, seed, turned=flipped == 1)
    else:
        rows = rows_of(found.data_kind, pairs(world.pool, seed, PAIRS), flipped=flipped, seed=seed)
    result = train(method, world.folder, rows, run, seed=seed, **options)
    if "reward" in found.roles:
        return judge(world, result.run_dir)
    return play(world, result.model, result.tokenizer, seed)


def play(world: Taught, model: Any, tokenizer: Any, seed: int) -> PolicyTrial:
    """One answer to each held-out prompt, against the taught model's first."""
    new = [found for (found,) in answers(model, tokenizer, list(world.held_out), 1, seed=1000 + seed)]
    return PolicyTrial(
        win_rate([a.reward for a in new], [old[0].reward for old in world.held_out.values()]),
        fmean(a.reward for a in new),
        fmean(a.tokens for a in new),
        fmean(well_formed(a) for a in new),
    )


def judge(world: Taught, source: Path) -> RewardTrial:
    """What the reward model in `source` makes of the held-out answers."""
    from plaudit.rewards.models.model import RewardModel

    model = RewardModel.load(source)
    scores = model.score([(prompt, [f" {a.text}" for a in found]) for prompt, found in world.held_out.items()])
    gold = [[a.reward for a in found] for found in world.held_out.values()]
    right = [
        (said[i] > said[j]) + 0.5 * (said[i] == said[j])
        for said, true in zip(scores, gold, strict=True)
        for i in range(CANDIDATES)
        for j in range(CANDIDATES)
        if true[i] > true[j]
    ]
    last = best_of_n_curve(list(zip(scores, gold, strict=True)))[-1]
    return RewardTrial(fmean(right), last.gain.value, last.gold - last.random)
