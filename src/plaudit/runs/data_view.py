"""`data_report.json` as the report shows it: what was read and left out, and why; what was decided; lengths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MAX_ROWS = 8
"""Row numbers shown of those that share a fate."""
_LENGTHS = {"prompt_tokens": "prompt", "completion_tokens": "answer"}
_TOLD = ("rows", "groups", "held_out", "dropped", "duplicates", "files", "meaning", *_LENGTHS)


@dataclass(frozen=True, slots=True)
class Fate:
    """Rows that share a fate.

    Attributes:
        what: dropped, truncated, left out, note, repeated, contradiction.
        rows: the first of their numbers, in words; empty where they are not known.
    """

    what: str
    count: int
    meaning: str
    file: str
    rows: str


@dataclass(frozen=True, slots=True)
class Source:
    """A file of rows."""

    path: str
    rows: int
    groups: int
    shapes: str
    extras: str
    weight: float


@dataclass(frozen=True, slots=True)
class Use:
    """The data for one use.

    Attributes:
        name: train or eval.
        held_out: of the groups, not trained on (data.eval_fraction).
        lengths: (of what, min, median, 95 %, max) in tokens.
        rest: everything else, as it stands in the file.
    """

    name: str
    rows: int
    groups: int
    held_out: int
    dropped: int
    sources: list[Source]
    fates: list[Fate]
    lengths: list[tuple[str, Mapping[str, float]]]
    rest: dict[str, Any]


def data_uses(report: Mapping[str, Any]) -> list[Use] | None:
    """The parts of a report; None where it has another form, and can only be shown as it stands."""
    if not report or not all(isinstance(part, Mapping) and "files" in part for part in report.values()):
        return None
    return [_use(name, part) for name, part in report.items()]


def _use(name: str, part: Mapping[str, Any]) -> Use:
    files = part["files"]
    return Use(
        name,
        part.get("rows", 0),
        part.get("groups", 0),
        part.get("held_out", 0),
        part.get("dropped", 0),
        [_source(file) for file in files],
        [fate for file in files for fate in _fates(file, part.get("meaning") or {})],
        [(_LENGTHS[key], part[key]) for key in _LENGTHS if (part.get(key) or {}).get("max")],
        {key: value for key, value in part.items() if key not in _TOLD and value is not None},
    )


def _source(file: Mapping[str, Any]) -> Source:
    return Source(
        str(file.get("path")),
        file.get("rows", 0),
        file.get("groups", 0),
        ", ".join(file.get("conventions") or {}),
        ", ".join(file.get("extras") or {}),
        file.get("weight", 1.0),
    )


def _fates(file: Mapping[str, Any], meaning: Mapping[str, str]) -> Iterator[Fate]:
    path = str(file.get("path"))
    for what, key in (("dropped", "dropped"), ("truncated", "truncated"), ("note", "notes")):
        for reason, affected in (file.get(key) or {}).items():
            yield _fate(what, affected, meaning.get(reason, reason.replace("_", " ")), path)
    for reason, affected in ((file.get("converted") or {}).get("left_out") or {}).items():
        yield _fate("left out", affected, f"in the conversion: {reason.replace('_', ' ')}", path)
    for what, key, told in (
        ("kept", "duplicates", "they repeat an earlier one"),
        ("kept", "contradictions", "they say the opposite of an earlier one about the same answers"),
    ):
        if (affected := file.get(key) or {}).get("count"):
            yield _fate(what, affected, told, path)


def _fate(what: str, affected: Mapping[str, Any], meaning: str, path: str) -> Fate:
    numbers = sorted(set(affected.get("rows") or []))
    shown = ", ".join(f"{number:,}" for number in numbers[:MAX_ROWS])
    more = ", …" if len(numbers) > MAX_ROWS or affected.get("count", 0) > len(numbers) else ""
    return Fate(what, affected.get("count", 0), meaning, path, shown + more if shown else "")
