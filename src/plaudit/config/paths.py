"""Paths that lead nowhere."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

_WILDCARDS = "*?["


def meant(name: str) -> str:
    """What to do about a path that leads nowhere: what is there under a similar name, or where the path ends."""
    path = Path(name)
    if any(sign in name for sign in _WILDCARDS):
        return "wildcards are not expanded here: name the files one by one"
    if (near := similar(name)) is not None:
        return f"did you mean {near}?"
    if path.is_absolute():
        return f"the last folder that exists is {next(p for p in path.parents if p.is_dir())}"
    return "relative paths count from the working directory"


def similar(name: str) -> str | None:
    """The path beside `name` whose name is most like it; None where there is none."""
    path = Path(name)
    try:
        there = [p for p in path.parent.iterdir() if p.suffix == path.suffix or p.stem == path.stem]
    except OSError:
        return None
    near = get_close_matches(path.name, [p.name for p in there], 1)
    return str(path.parent / near[0]) if near else None
