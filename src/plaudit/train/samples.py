"""What an evaluation shows of held-out rows besides the answers that the model writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from plaudit.methods.base import Scored
from plaudit.train.scorer import GroupScorer
from plaudit.types import PromptGroup


def scored_rows(scorer: GroupScorer, tokenizer: Any, groups: Sequence[PromptGroup]) -> list[dict[str, Any]]:
    """The best and the worst answer of each group with their scores, best first.

    Args:
        scorer: of this process alone; it must know the role "reward".
    """
    rows = []
    for group, scored in zip(groups, scorer("reward", groups), strict=True):
        for k in dict.fromkeys((0, len(group.completions) - 1)):
            answer = group.completions[k]
            text = answer.text or tokenizer.decode(answer.token_ids, skip_special_tokens=True)
            prompt = group.prompt_text or tokenizer.decode(group.prompt_ids)
            score = scored[k].last
            assert score is not None
            rows.append({"prompt": prompt, "completion": text, "rank": answer.rank, "reward": round(score, 4)})
    return rows


def with_pairs(
    rows: Sequence[Mapping[str, Any]], scorer: GroupScorer, tokenizer: Any, groups: Sequence[PromptGroup]
) -> list[dict[str, Any]]:
    """A row for each pair: what the policy answers to its prompt, the pair, and how likely it is to write either.

    "margin" is logps/chosen − logps/rejected in nats, summed over the answers' tokens. What it was at step 0 is the
    reference's.

    Args:
        rows: answers of the policy; of a prompt without room there is none.
        scorer: of this process alone; it must know the role "policy".
        groups: pairs, the chosen answer first.
    """
    answers: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        answers.setdefault(row["prompt"], []).append(row)
    found: list[dict[str, Any]] = []
    for group, scored in zip(groups, scorer("policy", groups), strict=True):
        prompt = tokenizer.decode(group.prompt_ids, skip_special_tokens=False)
        own = answers.get(prompt)
        chosen, rejected = map(_log_prob, scored[:2])
        texts = [c.text or tokenizer.decode(c.token_ids, skip_special_tokens=True) for c in group.completions[:2]]
        found.append(
            {
                **(own.pop(0) if own else {"prompt": prompt}),
                "chosen": texts[0],
                "rejected": texts[1],
                "margin": round(chosen - rejected, 4),
                "logps/chosen": round(chosen, 4),
                "logps/rejected": round(rejected, 4),
            }
        )
    return found + [dict(row) for left in answers.values() for row in left]


def _log_prob(scored: Scored) -> float:
    assert scored.logprobs is not None
    return float(scored.logprobs.sum(dtype=np.float64))
