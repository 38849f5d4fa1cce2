"""Compare two resolved configurations key by key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from plaudit.runs import jsonl

_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Difference:
    """One key with both of its values."""

    key: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.key}: was {self.old}, now {self.new}"


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as JSON has it (tuples become lists), so that what is written and read back compares equal."""
    value: dict[str, Any] = jsonl.loads(jsonl.dumps(config))
    return value


def flatten(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys with their values. Lists of sections are numbered; other lists, and empty sections, are values."""
    if isinstance(value, Mapping) and (value or not key):
        for name, inner in value.items():
            yield from flatten(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
        for number, inner in enumerate(value):
            yield from flatten(inner, f"{key}.{number}")
    else:
        yield key, value


def flat_beside(config: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    """`flatten`, but a section that another configuration does not have is one entry, not one for each key."""
    for name, value in config.items():
        if isinstance(value, Mapping) and not all(isinstance(other.get(name), Mapping) for other in others):
            yield name, value
        else:
            yield from flatten(value, name)


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], free_keys: Sequence[str]
) -> tuple[list[Difference], list[Difference]]:
    """The keys that differ: those that match one of the patterns `free_keys`, and the others.

    A pattern that begins with "!" takes keys out again.
    """
    held = [pattern[1:] for pattern in free_keys if pattern.startswith("!")]
    before, after = dict(flat_beside(old, [new])), dict(flat_beside(new, [old]))
    free: list[Difference] = []
    others: list[Difference] = []
    for key in dict.fromkeys([*before, *after]):
        a, b = before.get(key, _ABSENT), after.get(key, _ABSENT)
        if _text(a) != _text(b):
            allowed = any(fnmatchcase(key, p) for p in free_keys) and not any(fnmatchcase(key, p) for p in held)
            (free if allowed else others).append(Difference(key, _text(a), _text(b)))
    return free, others


def _text(value: Any) -> str:
    return "(not set)" if value is _ABSENT else jsonl.dumps(value)
