"""What the demo measures on a model, and how two models compare."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
from rule import reward

from plaudit.engines import Sampling
from plaudit.evaluation import (
    Estimate,
    WinRate,
    perplexity,
    preference_accuracy,
    proportion_estimate,
    sequence_kl,
    win_rate,
)
from plaudit.types import Completion, Floats, PromptGroup, Tokens

if TYPE_CHECKING:
    from plaudit.engines import RolloutEngine
    from plaudit.models.load import LoadedModel

MAX_NEW_TOKENS, TEMPERATURE, SEED = 48, 0.7, 11
"""As in make_pairs.py. No top-p or top-k: the KL estimate needs samples of the distribution that is scored."""
EVAL_FRACTION = 0.1
UNTOUCHED = Path(__file__).resolve().parent / "untouched.txt"


@dataclass
class Task:
    """What to train on and what to measure on."""

    data: dict[str, Any]
    """The `data` section of the training."""
    prompts: list[Tokens]
    questions: list[str]
    pairs: list[PromptGroup]
    has_rule: bool
    """Whether the rule is the truth behind the data's labels."""


@dataclass
class Measured:
    """One model on the task. Shapes: Q questions, N = two completions of each held-out pair."""

    answers: list[PromptGroup]
    answer_logprobs_Q: list[float]
    """Summed log-probs of the answers under the model itself, at the sampling temperature."""
    pair_logprobs_N: list[float]
    rewards: list[float] | None
    finished: Estimate
    perplexity: float

    @property
    def mean_reward(self) -> float:
        assert self.rewards is not None
        return float(np.mean(self.rewards))


@dataclass
class Change:
    """From one model to the other."""

    accuracy: Estimate
    wins: WinRate | None
    kl: Estimate


def demo_task(loaded: LoadedModel, folder: Path, questions: int, share: float = 1.0) -> Task:
    """The demo's own data: labels by `rule.reward` with noise.

    Args:
        share: of the pairs; with less than all of them training does not evaluate besides, which saves time too.
    """
    lines = (folder / "heldout_prompts.jsonl").read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    Random(SEED).shuffle(rows)  # the file is sorted by topic
    rows = rows[:questions]
    renderer = _renderer(loaded)
    heldout = str(folder / "heldout_pairs.jsonl")
    return Task(
        data={
            "train": [{"path": str(folder / "pairs.jsonl"), "weight": share}],
            "eval": [] if share < 1 else [{"path": heldout, "limit": 24}],
        },
        prompts=[renderer.prompt_ids(row["prompt"]) for row in rows],
        questions=[row["prompt"][-1]["content"] for row in rows],
        pairs=_read_pairs(loaded, heldout).groups,
        has_rule=True,
    )


def own_task(loaded: LoadedModel, data: str) -> Task:
    """Other people's preferences: the same split by prompt that training makes."""
    _, heldout = _read_pairs(loaded, data).split(EVAL_FRACTION)
    return Task(
        data={"train": data, "eval": [], "eval_fraction": EVAL_FRACTION},
        prompts=[group.prompt_ids for group in heldout.groups],
        questions=[group.prompt_text or str(group.source) for group in heldout.groups],
        pairs=heldout.groups,
        has_rule=False,
    )


def measure(loaded: LoadedModel, task: Task) -> Measured:
    """Answer the held-out prompts, score the held-out pairs and the untouched text."""
    engine = _engine(loaded)
    sampling = Sampling(
        temperature=TEMPERATURE,
        max_new_tokens=MAX_NEW_TOKENS,
        seed=SEED,
        stop_token_ids=_renderer(loaded).stop_token_ids,
    )
    answers = list(engine.generate(task.prompts, 1, sampling))
    rewards = None
    if task.has_rule:
        pairs = zip(task.questions, answers, strict=True)
        rewards = [reward(question, shown(answer), is_finished(answer)) for question, answer in pairs]
    return Measured(
        answers=answers,
        answer_logprobs_Q=_sums(engine.score(answers, TEMPERATURE)),
        pair_logprobs_N=_sums(engine.score(task.pairs)),
        rewards=rewards,
        finished=proportion_estimate(sum(map(is_finished, answers)), len(answers)),
        perplexity=_untouched_perplexity(loaded, engine),
    )


def compare(base: LoadedModel, before: Measured, after: Measured, task: Task) -> Change:
    """Implicit rewards, win rate and KL of the model after against the model before."""
    ratios = np.subtract(after.pair_logprobs_N, before.pair_logprobs_N)
    reference_Q = _sums(_engine(base).score(after.answers, TEMPERATURE))
    wins = None
    if before.rewards is not None and after.rewards is not None:
        wins = win_rate(after.rewards, before.rewards)
    return Change(
        accuracy=preference_accuracy(ratios[0::2] - ratios[1::2]),
        wins=wins,
        kl=sequence_kl(after.answer_logprobs_Q, reference_Q),
    )


def shown(answer: PromptGroup) -> str:
    """The text of the answer."""
    return (answer.completions[0].text or "").strip()


def is_finished(answer: PromptGroup) -> bool:
    """Whether the model ended the answer itself."""
    return answer.completions[0].finish_reason == "stop"


def as_numbers(before: Measured, after: Measured, change: Change) -> dict[str, Any]:
    """Everything measured, for a file."""
    return {
        "preference_accuracy": asdict(change.accuracy),
        "win_rate": None if change.wins is None else asdict(change.wins),
        "kl": asdict(change.kl),
        **{
            name: {
                "mean_reward": None if measured.rewards is None else measured.mean_reward,
                "finished": asdict(measured.finished),
                "perplexity": measured.perplexity,
            }
            for name, measured in (("before", before), ("after", after))
        },
    }


def _untouched_perplexity(loaded: LoadedModel, engine: RolloutEngine) -> float:
    groups = []
    for paragraph in UNTOUCHED.read_text(encoding="utf-8").split("\n\n"):
        ids = np.array(loaded.tokenizer.encode(paragraph.strip()), dtype=np.int32)
        # The first token has nothing before it and is not scored.
        groups.append(PromptGroup(ids[:1], [Completion(ids[1:], np.ones(len(ids) - 1, dtype=np.bool_))]))
    return perplexity(_sums(engine.score(groups)), [len(g.completions[0].token_ids) for g in groups])


def _sums(scores: Sequence[Sequence[Floats]]) -> list[float]:
    return [float(completion.sum(dtype=np.float64)) for group in scores for completion in group]


def _engine(loaded: LoadedModel) -> RolloutEngine:
    from plaudit.engines.open import open_engine

    return open_engine(loaded.model, loaded.tokenizer)[0]


def _renderer(loaded: LoadedModel) -> Any:
    from plaudit.data.render import Renderer

    return Renderer(loaded.tokenizer)


def _read_pairs(loaded: LoadedModel, source: str) -> Any:
    from plaudit.data.prepare import prepare

    return prepare([source], "preference", _renderer(loaded))
