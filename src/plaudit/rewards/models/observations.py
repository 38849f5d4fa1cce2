"""What is worth telling about a reward model after it has scored, in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plaudit.rewards.models.model import RewardModel


def observations(model: RewardModel, *, truncated_before: int = 0) -> list[str]:
    """Conversations that lost tokens, and how far the members of an ensemble were apart.

    Args:
        truncated_before: how many had been cut before what this is about.
    """
    from plaudit.rewards.models.ensemble import Ensemble

    cut = model.truncated - truncated_before
    found = [f"{cut} conversations were too long and lost their oldest tokens"] if cut else []
    if isinstance(model, Ensemble) and (seen := model.observed) is not None:
        found.append(
            f"members disagree {seen.ratio:.3g} times as much as on the reference set; {seen.above_p95:.1%} of the "
            "answers are above its 95th percentile"
        )
    return found
