"""The five things that can become of a key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from plaudit.migration import values

Fate = Literal["same", "part", "different", "lost", "harmless"]


@dataclass(frozen=True, slots=True)
class Rule:
    """What a key of another tool is here.

    Attributes:
        fate: same = a key of ours means it; part = it means something together with others (`parts/`); different = it
            is done in another way; lost = nothing here does it, and the result changes; harmless = nothing here does
            it, and the result does not change.
        ours: our key, for same; the keys that it goes into, for part (in the docs).
        read: the value that is written, from theirs.
        why: what is done instead, or why it matters.
        off: values that ask for nothing: what they stand for is so here too.
    """

    fate: Fate
    ours: str = ""
    read: Callable[[Any], Any] = values.plain
    why: str = ""
    off: tuple[Any, ...] = (None, False, "")


Table = Mapping[str, Rule]


def to(ours: str, read: Callable[[Any], Any] = values.plain, why: str = "") -> Rule:
    """A key of ours means the same."""
    return Rule("same", ours, read, why, off=(None,))


def part(ours: str) -> Rule:
    """Read by one of `parts/`."""
    return Rule("part", ours)


def different(why: str, off: tuple[Any, ...] = (None, False, "")) -> Rule:
    """Done in another way here."""
    return Rule("different", why=why, off=off)


def lost(why: str, off: tuple[Any, ...] = (None, False, "")) -> Rule:
    """Nothing here does it, and the result changes."""
    return Rule("lost", why=why, off=off)


def harmless(why: str) -> Rule:
    """Nothing here does it, and the result does not change."""
    return Rule("harmless", why=why)
