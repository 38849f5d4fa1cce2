"""The table and the histogram that `plaudit score` ends with."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from plaudit.cli.console import Console
from plaudit.rewards.summary import Summary

_WIDTH = 40


def show(summary: Summary, *, err: bool = False) -> None:
    """Print a summary."""
    console = Console(stderr=err, highlight=False)
    if summary.total:
        console.print(_table(summary))
        console.print(_bars(summary))
    else:
        console.print("no answer has a score", markup=False)
    for note in summary.notes:
        console.print(note, markup=False)


def _table(summary: Summary) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("reward")
    for name in ("answers", "mean", "std", "min", "max"):
        table.add_column(name, justify="right")
    for line in summary.lines:
        numbers = (f"{n:.4g}" for n in (line.mean, line.std, line.least, line.most))
        table.add_row(Text(line.name), str(line.count), *numbers)
    return table


def _bars(summary: Summary) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(justify="right")
    table.add_column(justify="right")
    table.add_column()
    most = max(n for _, n in summary.histogram)
    for name, n in summary.histogram:
        full = round(_WIDTH * n / most)
        table.add_row(name, str(n), "█" * (full or bool(n)))
    return table
