"""Over-long groups: the `overlong` policies, one decision per group, nothing silent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from plaudit.types import Completion, PromptGroup, Tokens

Overlong = Literal["error", "drop", "truncate_prompt", "truncate_completion"]


@dataclass(frozen=True, slots=True)
class Fitted:
    """What became of a group. `group` is None when it is dropped (or an error), for the reason given."""

    group: PromptGroup | None
    reason: str | None = None
    detail: str = ""
    prompt_cut: int = 0
    """Tokens taken from the start of the prompt."""
    completions_cut: int = 0
    """Completions that lost their end, and with it their end-of-turn token."""


def length(group: PromptGroup) -> int:
    """Tokens of the longest sequence: the prompt with its longest completion."""
    return len(group.prompt_ids) + max((len(c.token_ids) for c in group.completions), default=0)


def fit(group: PromptGroup, max_length: int, policy: Overlong, bos_id: int | None) -> Fitted:
    """Apply the policy to a group.

    truncate_prompt takes the oldest prompt tokens (a leading BOS stays), once for all completions, and never touches a
    completion. truncate_completion takes the end of each completion that is too long. A group that would keep no prompt
    token, no trained token in a completion, or a pair that would become identical is dropped.

    Args:
        max_length: most tokens of prompt + completion.
    """
    total = length(group)
    if total <= max_length:
        return Fitted(group)
    prompt = len(group.prompt_ids)
    detail = f"prompt {prompt} + completion {total - prompt} = {total} tokens, max_length is {max_length}"
    if policy == "truncate_prompt":
        return _cut_prompt(group, total - max_length, detail, bos_id)
    if policy == "truncate_completion":
        return _cut_completions(group, max_length - prompt, detail)
    return Fitted(None, "overlong", detail)


def _cut_prompt(group: PromptGroup, excess: int, detail: str, bos_id: int | None) -> Fitted:
    ids = group.prompt_ids
    kept_bos = int(len(ids) > 0 and bos_id is not None and int(ids[0]) == bos_id)
    if len(ids) - kept_bos - excess < 1:
        return Fitted(None, "completion_overlong", f"{detail}: no prompt would be left")
    keep: Tokens = np.concatenate([ids[:kept_bos], ids[kept_bos + excess :]])
    mask = group.prompt_mask
    group.prompt_mask = None
    group.prompt_ids = keep
    if mask is not None:
        group.prompt_mask = np.concatenate([mask[:kept_bos], mask[kept_bos + excess :]])
    return Fitted(group, prompt_cut=excess)


def _cut_completions(group: PromptGroup, room: int, detail: str) -> Fitted:
    if room < 1:
        return Fitted(None, "prompt_overlong", f"{detail}: the prompt leaves no room for a completion")
    cut = 0
    for completion in group.completions:
        if len(completion.token_ids) > room:
            completion.token_ids = completion.token_ids[:room]
            completion.action_mask = completion.action_mask[:room]
            completion.finish_reason = "length"
            cut += 1
        if not completion.action_mask.any():
            return Fitted(None, "nothing_trained", f"{detail}: no trained token would be left")
    if is_identical(group.completions):
        return Fitted(None, "identical_after_cut", f"{detail}: the answers would be the same")
    return Fitted(group, completions_cut=cut)


def is_identical(completions: list[Completion]) -> bool:
    """Whether there are several completions and all have the same tokens."""
    return len(completions) > 1 and all(np.array_equal(completions[0].token_ids, c.token_ids) for c in completions[1:])
