"""What `plaudit rewards probe` prints."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from plaudit.cli.console import Console
from plaudit.rewards.probe.run import Probed

_TITLES = {
    "right": "right answers must be rewarded",
    "hack": "hacks must not be",
    "useless": "useless rows must not reward anything",
    "property": "and always",
}
_WORDS = {"ok": ("ok", "green"), "weak": ("weak", "yellow"), "bad": ("BAD", "bold red")}


def show_probe(found: Probed) -> None:
    """Print a table of all checks, then how many are not well."""
    console = Console(highlight=False)
    console.print(f"{found.reward}, attacked as a reward of kind {found.family}", markup=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    table.add_column("check")
    table.add_column("value", justify="right")
    table.add_column("", overflow="fold")
    for kind, title in _TITLES.items():
        checks = [c for c in found.checks if c.kind == kind]
        if not checks:
            continue
        table.add_section()
        table.add_row("", Text(title, style="bold"), "", "")
        for check in checks:
            word, style = _WORDS[check.verdict]
            value = "" if check.value is None else f"{check.value:.4g}"
            detail = check.detail if len(check.detail) <= 160 else check.detail[:159] + "…"
            table.add_row(Text(word, style=style), Text(check.name), value, Text(detail))
    console.print(table)
    bad, weak = (sum(c.verdict == v for c in found.checks) for v in ("bad", "weak"))
    console.print(f"{len(found.checks)} checks, {bad} bad, {weak} weak", markup=False)
