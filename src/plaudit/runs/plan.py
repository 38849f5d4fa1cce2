"""The plan that a run shows before its first step: label → value, for people and for programs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Fact = int | float | str | bool | None


class InWords(str):
    """A value of the plan as people read it, with the facts that it tells.

    Args:
        text: the words.
        facts: name in snake_case → value; times in seconds, sizes in bytes.
    """

    facts: dict[str, Fact]

    def __new__(cls, text: str, **facts: Fact) -> InWords:
        words = super().__new__(cls, text)
        words.facts = facts
        return words


def facts_of(label: str, value: Any) -> dict[str, Any]:
    """A row of the plan for programs: a value that is not in words is its own fact, named by its label."""
    if isinstance(value, InWords):
        return dict(value.facts)
    if isinstance(value, Mapping):
        return {
            f"{snake(label)}.{name}": fact
            for key, inner in value.items()
            for name, fact in facts_of(key, inner).items()
        }
    return {snake(label): list(value) if isinstance(value, (list, tuple)) else value}


def as_json(plan: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The plan for a file: the rows as they are shown ("plan"), and the facts of those in words ("facts")."""
    shown = {label: value if isinstance(value, (int, float)) else str(value) for label, value in plan.items()}
    return {"plan": shown, "facts": {k: v.facts for k, v in plan.items() if isinstance(v, InWords)}}


def from_json(known: Mapping[str, Any]) -> dict[str, Any]:
    """The plan that `as_json` wrote; one of an earlier version has no facts."""
    facts = known.get("facts") or {}
    return {
        label: InWords(value, **facts[label]) if label in facts else value
        for label, value in (known.get("plan") or {}).items()
    }


def snake(label: str) -> str:
    """A label as a name: tokens per micro-batch → tokens_per_micro_batch."""
    return re.sub(r"[^a-z0-9]+", "_", label.lower()).strip("_")
