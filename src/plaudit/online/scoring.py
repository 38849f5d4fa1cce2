"""The rewards of sampled answers: configured, and given while the rest of the batch is still being sampled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any

from plaudit.config.schema import RewardSection
from plaudit.errors import DataError, RewardError
from plaudit.rewards.cache import Cached
from plaudit.rewards.contract import Reward, Sample
from plaudit.rewards.scoring import ScoredGroup, Scoring
from plaudit.rewards.spec import RewardSpec, read_specs
from plaudit.types import Completion, PromptGroup

_CHUNKS = 8
"""Parts of a batch that are handed to the reward one by one while the others are sampled."""
_MOST_TASKS = 100
"""Each has several metrics."""
_ALONE = 64
"""Groups that a reward on the policy's own weights is given at once: as many as it takes in one call of its model."""


def read_reward(section: RewardSection) -> RewardSpec | None:
    """The configured rewards; None where there is none (a replay with the file's own).

    Raises:
        ConfigError: PL100 with everything that is wrong; PL102, PL103 from a reward that cannot be made.
    """
    if not section.rewards:
        return None
    options: dict[str, Any] = {
        "retries": section.retries,
        "max_reward_error_fraction": section.max_error_fraction,
        "cache": section.cache,
    }
    shaped = [{"rewards": list(section.rewards), "shaping": list(section.shaping)}]
    spec = read_specs(shaped if section.shaping else list(section.rewards), **options)
    for part in spec.reward.parts:
        if isinstance(part.reward, Cached) and not part.reward.inner.exact:
            part.reward.size = 0
    return spec


def samples_of(group: PromptGroup) -> list[Sample]:
    """The answers of a group as rewards see them, with the columns of the prompt's row; the greedy one is the last."""
    prompt, row = _asked(group)
    answers = [*group.completions, *([group.greedy] if group.greedy else [])]
    return [Sample(prompt, c.text or "", row, len(c.token_ids), c.finish_reason) for c in answers]


def made_up_sample(group: PromptGroup) -> Sample:
    """An answer that nobody has given to a prompt, to see whether a reward can work on its row."""
    prompt, row = _asked(group)
    return Sample(prompt, "?", row, 1, "stop")


def _asked(group: PromptGroup) -> tuple[Any, dict[str, Any]]:
    """A prompt as rewards see it, and the columns of its row."""
    prompt: Any = group.prompt if group.prompt is not None else group.prompt_text or ""
    shown = prompt if isinstance(prompt, str) else [m.for_template() for m in prompt]
    return prompt, {"prompt": shown, **group.extras}


def inner_rewards(spec: RewardSpec) -> list[Reward]:
    """The rewards of a spec without the memory around them."""
    return [part.reward.inner if isinstance(part.reward, Cached) else part.reward for part in spec.reward.parts]


def check_columns(spec: RewardSpec, groups: Sequence[PromptGroup], where: str) -> None:
    """Notice before anything is sampled that a column that a reward reads is in no row: a typo, and no bad row.

    Raises:
        RewardError: PL709.
    """
    have = {name for group in groups for name in group.extras} | {"prompt"}
    for part in spec.reward.parts:
        for column in (*part.when, *part.reward.columns):
            if column not in have:
                raise RewardError(
                    "PL709",
                    f"the reward {part.reward.name} reads the column {column!r}, which no row has",
                    where=where,
                    mend=f"the rows have: {', '.join(sorted(have))}. Name the right one, or add it",
                )


def check_tasks(column: str, groups: Sequence[PromptGroup], where: str) -> None:
    """Notice before anything is sampled that a row has no task, or that the column names none.

    Raises:
        DataError: PL204.
    """
    bare = next((group for group in groups if group.extras.get(column) is None), None)
    if bare is not None:
        have = ", ".join(sorted(bare.extras)) or "none"
        raise DataError(
            "PL204",
            f"a row has no column {column!r}, which names its task",
            where=str(bare.source or where),
            mend=f"its further columns are: {have}. Name the right one in rollout.task_column, or add it to every row",
        )
    tasks = {str(group.extras[column]) for group in groups}
    if len(tasks) > _MOST_TASKS:
        raise DataError(
            "PL204",
            f"the column {column!r} has {len(tasks)} different values: it does not name tasks",
            where=where,
            mend=f"every task has its own metrics; name a column with at most {_MOST_TASKS} values",
        )


class RewardScorer:
    """Scores groups of answers.

    Args:
        spec: the rewards.
        alone: whether the reward computes on the policy's own weights and must not run beside it.
    """

    def __init__(self, spec: RewardSpec, *, alone: bool = False) -> None:
        config = spec.config
        self.spec, self._alone = spec, alone
        self.scoring = Scoring(spec.reward, retries=config.retries, max_error_fraction=config.max_reward_error_fraction)

    def score(
        self, groups: Iterable[PromptGroup], count: int, check: Callable[[], None] | None = None
    ) -> Iterator[tuple[PromptGroup, ScoredGroup]]:
        """Every group with its results, in order, scored while later groups are taken from the iterator.

        Args:
            count: how many groups there will be.
            check: called again and again while results are awaited; what it raises ends the work.

        Raises:
            RewardError: PL706, too many answers have no reward; PlauditError: the reward cannot work here.
        """
        if self._alone:
            for chunk in _chunks(list(groups), _ALONE):
                if check is not None:
                    check()
                yield from _apart(chunk, self.scoring.score(_samples(chunk)))
            return
        size = max(1, count // _CHUNKS)
        stream = self.scoring.stream(_chunks(groups, size), _samples, ahead=2 * _CHUNKS, check=check)
        with closing(stream):
            for chunk, scored in stream:
                yield from _apart(chunk, scored)


def _apart(chunk: Sequence[PromptGroup], scored: Sequence[ScoredGroup]) -> Iterator[tuple[PromptGroup, ScoredGroup]]:
    """The greedy answer's result by itself."""
    for group, found in zip(chunk, scored, strict=True):
        yield group, found if group.greedy is None else ScoredGroup(found.results[:-1], found.results[-1])


def _samples(chunk: Sequence[PromptGroup]) -> list[list[Sample]]:
    return [samples_of(group) for group in chunk]


def _chunks(groups: Iterable[PromptGroup], size: int) -> Iterator[list[PromptGroup]]:
    chunk: list[PromptGroup] = []
    for group in groups:
        chunk.append(group)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def with_rewards(group: PromptGroup, scored: ScoredGroup, tokenizer: Any) -> PromptGroup:
    """Write the values of a usable group into its completions; those of another one stay without.

    Args:
        tokenizer: finds the tokens at which judged steps end.
    """
    if scored.usable:
        for completion, result in zip(group.completions, scored.results, strict=True):
            completion.reward = result.value
            completion.step_rewards = step_rewards(completion, result.steps, tokenizer) if result.steps else None
        if group.greedy is not None and scored.greedy is not None:
            group.greedy.reward = scored.greedy.value
    return group


def step_rewards(
    completion: Completion, steps: Sequence[tuple[int, float]], tokenizer: Any
) -> tuple[tuple[int, float], ...]:
    """(index of the token that ends a step, its reward) from ends in characters. Steps that end at one token are added.

    A step ends at the first token by which its last character has been written; one that ends behind the answer, at
    the answer's last token.
    """
    last = len(completion.token_ids) - 1
    found: dict[int, float] = {}
    for end, reward in steps:
        low, high = 0, last
        while low < high:  # what tokens up to `middle` say only grows
            middle = (low + high) // 2
            if len(tokenizer.decode(completion.token_ids[: middle + 1], skip_special_tokens=True)) >= end:
                high = middle
            else:
                low = middle + 1
        found[low] = found.get(low, 0.0) + reward
    return tuple(sorted(found.items())) if last >= 0 else ()
