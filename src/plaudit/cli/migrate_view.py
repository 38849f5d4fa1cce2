"""What `plaudit migrate` says about each key."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

from rich.markup import escape

from plaudit.cli.console import Console
from plaudit.migration.draft import shown
from plaudit.migration.settings import TITLES

if TYPE_CHECKING:
    from plaudit.migration.draft import Outcome
    from plaudit.migration.migrate import Migration

_LONGEST = 44
"""Of a key with its value; what is longer has a line of its own."""


def show(found: Migration, file: str | None) -> None:
    """Three tables on stderr: taken over, different here, no counterpart; then what to run next.

    Args:
        file: that was written; None where the configuration went to stdout.
    """
    console = Console(stderr=True, highlight=False)
    method = found.resolved.method.name
    console.print(f"{TITLES[found.tool]}, {found.trainer} → plaudit {method}", markup=False, soft_wrap=True)
    taken = found.of("taken")
    _table(console, "Taken over", [o for o in taken if not o.idle])
    _names(console, "asks for nothing beyond what is done here", [o for o in taken if o.idle])
    _table(console, "Different here", found.of("different"))
    missing = found.of("missing")
    _table(console, "No counterpart, and the result changes", [o for o in missing if o.changes], style="bold red")
    _table(console, "No counterpart, and the result does not change", [o for o in missing if not o.changes])
    for note in found.notes:
        _say(console, f"! {note}")
    target = file or "CONFIG.yaml"
    console.print()
    if file is None:
        console.print("Write it with -o CONFIG.yaml. ", end="", markup=False)
    if found.placeholders:
        console.print(f"Then write {' and '.join(found.placeholders)} by hand. ", end="", markup=False)
    console.print("Next:", markup=False)
    for command in found.commands(target):
        console.print(f"  {command}", markup=False, soft_wrap=True)


def _table(console: Console, title: str, outcomes: Sequence[Outcome], style: str = "bold") -> None:
    if not outcomes:
        return
    console.print(f"\n[{style}]{escape(title)}[/]")
    left = [_left(outcome) for outcome in outcomes]
    width = min(_LONGEST, max(map(len, left)))
    room = max(30, console.width - width - 6)
    for text, outcome in zip(left, outcomes, strict=True):
        lines = wrap(outcome.text, room, break_on_hyphens=False) or [""]
        if len(text) > width:
            console.print(f"  {text}", markup=False, soft_wrap=True)
            text = ""
        for line in lines:
            console.print(f"  {text:<{width}}  {line}", markup=False, soft_wrap=True)
            text = ""


def _left(outcome: Outcome) -> str:
    value = outcome.setting.unread or shown(outcome.setting.value)
    line = outcome.setting.where.rpartition(":")[2]
    place = f" (line {line})" if outcome.setting.unread and line.isdigit() else ""
    return f"{outcome.setting.key}: {value if len(value) <= 60 else value[:57] + '…'}{place}"


def _names(console: Console, title: str, outcomes: Sequence[Outcome]) -> None:
    if outcomes:
        _say(console, f"{title}: {', '.join(outcome.setting.key for outcome in outcomes)}", indent=2)


def _say(console: Console, text: str, indent: int = 0) -> None:
    margin = " " * indent
    for line in wrap(text, max(40, console.width - 2), initial_indent=margin, subsequent_indent=margin + "  "):
        console.print(line, markup=False, soft_wrap=True)
