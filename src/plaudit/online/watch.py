"""What a rollout batch says about itself: metrics of rewards and answers, and the answers that people are shown.

All of it is computed on the host from what sampling and scoring returned. Names are TRL's where TRL has one; the table
in `plaudit.runs.metrics` says what each is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from plaudit.methods.policy.advantages import all_equal
from plaudit.online.passes import Totals, pass_metrics
from plaudit.rewards.contract import RewardResult
from plaudit.rewards.scoring import ScoredGroup
from plaudit.rewards.trained import OF_A_MODEL
from plaudit.types import Completion, PromptGroup, Tokens


def rollout_metrics(
    groups: Sequence[PromptGroup],
    scored: Sequence[ScoredGroup],
    *,
    threshold: float | None = None,
    task_column: str | None = None,
) -> Totals:
    """The metrics of a batch: G groups of K completions each; K may differ.

    Rewards are those of usable groups, which is what is trained on; lengths and texts are those of every answer. A
    maximum or a standard deviation is a sum with the count 1. What counts nothing is left out.

    Args:
        scored: the results of each group, in the same order.
        threshold: an answer is right from this reward on; see `pass_metrics`.
        task_column: of the row, which names its task: rewards, passes and lengths of each task then stand apart.
    """
    assert len(groups) == len(scored)
    answers = [c for group in groups for c in group.completions]
    found = _rewards(scored) | _failures(scored) | _lengths(answers) | _texts(answers)
    found |= pass_metrics([group.values for group in scored if group.usable], threshold)
    if task_column is not None:
        found |= _by_task(groups, scored, threshold, task_column)
    return {name: (float(total), float(count)) for name, (total, count) in found.items() if count}


_OF_A_TASK = ("reward", "frac_reward_zero_std", "rewards/error_rate", "completions/mean_length")


def _by_task(
    groups: Sequence[PromptGroup], scored: Sequence[ScoredGroup], threshold: float | None, column: str
) -> Totals:
    found: Totals = {}
    names = [str(group.extras[column]) for group in groups]
    for task in sorted(set(names)):
        which = [i for i, name in enumerate(names) if name == task]
        own = rollout_metrics([groups[i] for i in which], [scored[i] for i in which], threshold=threshold)
        kept = [name for name in own if name in _OF_A_TASK or name.startswith(("avg@", "pass@"))]
        found |= {f"tasks/{task}/{name}": own[name] for name in kept}
        found[f"tasks/{task}/share"] = (float(len(which)), float(len(groups)))
    return found


def _rewards(scored: Sequence[ScoredGroup]) -> Totals:
    usable = [group for group in scored if group.usable and group.results]
    rows = [np.asarray(group.values, dtype=np.float64) for group in usable]
    every = np.concatenate(rows) if rows else np.zeros(0)
    several = [row for row in rows if len(row) > 1]
    found = {"reward": (float(every.sum()), float(len(every)))}
    if several:
        found["reward_std"] = (sum(float(row.std(ddof=1)) for row in several), len(several))
        found["frac_reward_zero_std"] = (sum(all_equal(row) for row in several), len(several))
    elif len(every) > 1:
        found["reward_std"] = (float(every.std(ddof=1)), 1)
    for result in (r for group in usable for r in group.results):
        for name, value in result.parts.items():
            metric = f"rewards/{name}" if _is_watched(name) else f"rewards/{name}/mean"
            total, count = found.get(metric, (0.0, 0.0))
            found[metric] = (total + value, count + 1)
    return found


def _is_watched(part: str) -> bool:
    """Whether a part is no reward, but what a run watches beside a reward model's score."""
    reward, _, last = part.rpartition("/")
    return bool(reward) and last in OF_A_MODEL


def _failures(scored: Sequence[ScoredGroup]) -> Totals:
    results = [r for group in scored for r in group.results]
    return {
        "rewards/error_rate": (sum(r.error is not None for r in results), len(results)),
        "rewards/retried": (sum(r.attempts > 1 for r in results), len(results)),
        "rewards/excluded": (sum(not group.usable for group in scored), len(scored)),
    }


def _lengths(answers: Sequence[Completion]) -> Totals:
    lengths = [len(c.token_ids) for c in answers]
    ended = [len(c.token_ids) for c in answers if c.finish_reason == "stop"]
    return {
        "completions/mean_length": (sum(lengths), len(lengths)),
        "completions/max_length": (max(lengths, default=0), min(1, len(lengths))),
        "completions/mean_terminated_length": (sum(ended), len(ended)),
        "completions/clipped_ratio": (sum(c.finish_reason == "length" for c in answers), len(answers)),
        "completions/empty": (sum(_is_empty(c) for c in answers), len(answers)),
    }


def _is_empty(answer: Completion) -> bool:
    """Whether there is no token before the end token, which is the last one of an answer that has ended."""
    return len(answer.token_ids) - (answer.finish_reason == "stop") <= 0


def _texts(answers: Sequence[Completion]) -> Totals:
    """seq-rep-4 of each answer (Welleck et al. 2019, arXiv:1908.04319) and distinct-2 of the batch (Li et al. 2016,
    arXiv:1510.03055), per bigram.

    Distinct-2 is taken over the batch and not within a group: it is there for one answer to each prompt as well, and
    falls both where the answers to one prompt become alike and where every prompt gets the same phrases.
    """
    pairs = [_bigrams(c.token_ids) for c in answers]
    repeated = [_repeated(own) for own in pairs if len(own) > 2]
    every = np.concatenate(pairs) if pairs else np.zeros(0, dtype=np.int64)
    return {
        "completions/repetition": (sum(repeated), len(repeated)),
        "completions/distinct": (len(np.unique(every)), len(every)),
    }


def _bigrams(tokens: Tokens) -> npt.NDArray[np.int64]:
    """[max(L − 1, 0)] one number for each pair of neighbours, equal for equal pairs only."""
    wide = tokens.astype(np.int64)
    return (wide[:-1] << 32) | wide[1:]


def _repeated(bigrams: npt.NDArray[np.int64]) -> float:
    """1 − different 4-grams / 4-grams of an answer of at least 4 tokens, from its bigrams: a 4-gram is two of them."""
    _, places = np.unique(bigrams, return_inverse=True)
    fours = (places[:-2] << 32) | places[2:]
    return 1.0 - len(np.unique(fours)) / len(fours)


# -- what people are shown


@dataclass(frozen=True, slots=True)
class _Answer:
    group: int
    completion: int
    result: RewardResult


def sample_rows(
    groups: Sequence[PromptGroup], scored: Sequence[ScoredGroup], k: int, tokenizer: Any
) -> list[dict[str, Any]]:
    """k answers of a batch: the best, the worst and between them evenly by rank, of different prompts while there are
    any. One alone is the middle one. Answers without a reward are shown where there are too few others.

    Rows are in the order of the prompts where every prompt has one (the same held-out prompts stay in their places),
    and best first otherwise.

    Args:
        k: rows wanted; there may be fewer answers.
        tokenizer: decodes what has no text of its own; special tokens are left out of completions.

    Returns:
        Per row prompt, completion, reward (None with an `error`), `parts` where they say more than the reward, `note`
        where the reward gave one, `tokens` and `finish_reason`.
    """
    answers = [
        _Answer(g, i, result) for g, group in enumerate(scored) for i, result in enumerate(group.results)
    ]  # in the order of the batch, which decides between equals
    valued = [a for a in answers if a.result.value is not None]
    ranked = sorted(valued, key=lambda a: -(a.result.value or 0.0))
    chosen = _spread(ranked, k)
    chosen += [a for a in answers if a.result.value is None][: max(0, k - len(chosen))]
    if len({a.group for a in chosen}) == len(groups):
        chosen.sort(key=lambda a: (a.group, a.completion))
    return [_row(groups[a.group], a, tokenizer) for a in chosen]


def _spread(ranked: Sequence[_Answer], k: int) -> list[_Answer]:
    """At most k of the ranked answers in their order: both ends first, then what lies evenly between them."""
    last = len(ranked) - 1
    places = [last / 2] if k == 1 else [last * i / (k - 1) for i in range(k)]
    ends_first = sorted(places, key=lambda p: (min(p, last - p) > 0, p))
    taken: list[int] = []
    prompts: set[int] = set()
    for place in ends_first[: len(ranked)]:
        free = (i for i in range(len(ranked)) if i not in taken)
        nearest = min(free, key=lambda i: (ranked[i].group in prompts, abs(i - place), i))
        taken.append(nearest)
        prompts.add(ranked[nearest].group)
    return [ranked[i] for i in sorted(taken)]


def _row(group: PromptGroup, answer: _Answer, tokenizer: Any) -> dict[str, Any]:
    completion, result = group.completions[answer.completion], answer.result
    text = completion.text
    row: dict[str, Any] = {
        "prompt": group.prompt_text or tokenizer.decode(group.prompt_ids),
        "completion": tokenizer.decode(completion.token_ids, skip_special_tokens=True) if text is None else text,
        "reward": result.value,
    }
    parts = {name: value for name, value in result.parts.items() if not _is_watched(name) or value}
    if parts and list(parts.values()) != [result.value]:
        row["parts"] = parts
    if result.note:
        row["note"] = result.note
    if result.error is not None:
        row["error"] = str(result.error)
    return row | {"tokens": len(completion.token_ids), "finish_reason": completion.finish_reason}
