"""Rewards for Python programs: what `plaudit.api` offers and `plaudit score` calls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plaudit.errors import ConfigError

if TYPE_CHECKING:
    from plaudit.rewards.scored_file import ScoredFile


def score(
    data: Any,
    rewards: Any,
    *,
    output: str | Path | None = None,
    overwrite: bool = False,
    retries: int | None = None,
    max_reward_error_fraction: float | None = None,
    invalid: str = "error",
    on_progress: Callable[[int, int], None] | None = None,
) -> ScoredFile:
    """Score the answers in rows with any reward.

    Args:
        data: path or paths, a list of rows, or a `datasets.Dataset`: rows with `prompt` and `completion`, pairs,
            rankings, lists of answers, feedback or demonstrations.
        rewards: a reward or several, which are added: "math", "math:extract=boxed,weight=2", "module:function",
            "file.py:function", the folder of a reward model, a .yaml file, a mapping with `kind`, a function, or a
            `Reward`; see docs/rewards.md.
        output: a .jsonl file that the rows are written to as well; the same call goes on where an earlier one was
            stopped.
        overwrite: begin `output` anew.
        retries: how often an answer is scored again after a failure; None = 2, or what a file says.
        max_reward_error_fraction: share of the latest answers without a score past which scoring stops; None = 0.05,
            or what a file says.
        invalid: "error", or "drop" for rows that cannot be used.
        on_progress: told (rows done, all rows).

    Returns:
        The rows with score (or chosen_score and rejected_score, scores, judge_scores), score_parts, score_note and
        score_error, scored while they are iterated over. Its `summary` has what the command prints.

    Raises:
        PlauditError: PL100, PL102, PL103 for the rewards, PL2xx for the rows, PL7xx from scoring.
    """
    from plaudit.rewards.scored_file import score_sources
    from plaudit.rewards.spec import read_specs

    if invalid not in ("error", "drop"):
        raise ConfigError("PL102", f"invalid is {invalid!r}", mend="use error or drop", where="invalid")
    given = list(rewards) if isinstance(rewards, (list, tuple)) else [rewards]
    spec = read_specs(given, retries=retries, max_reward_error_fraction=max_reward_error_fraction)
    return score_sources(
        spec,
        data,
        output=None if output is None else Path(output),
        overwrite=overwrite,
        invalid=invalid,  # type: ignore[arg-type]  # checked above
        on_progress=on_progress,
    )
