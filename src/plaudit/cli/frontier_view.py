"""A frontier for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from plaudit.cli.console import Console

if TYPE_CHECKING:
    from plaudit.evaluation.frontier.results import Frontier, PolicyPoint

_NAME_WIDTH = 22


@contextmanager
def progress() -> Iterator[tuple[Callable[[int, int], None] | None, Callable[[str], None]]]:
    """(a bar on stderr while answers are sampled, None where nobody would see it move; what is said beside it)"""
    console = Console(stderr=True, highlight=False)

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    if not console.is_terminal:
        yield None, say
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("answers", total=None)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield advance, say


def print_frontier(found: Frontier) -> None:
    """Tables of all curves, the laws, what is lost, and the notes."""
    from plaudit.evaluation.frontier.words import fit_sentence, interval_note, loss_sentences
    from plaudit.evaluation.wording import number

    console = Console(highlight=False)

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    start = found.start
    measured = f"{start.prompts:,} prompts; " if start.prompts else ""
    say(f"{measured}reference {found.about['reference']}: proxy {number(start.proxy)}, gold {number(start.gold)}")
    for note in found.notes:
        say(f"note: {note}")
    for curve, points in found.curves().items():
        console.print()
        console.print(_policy(curve, points))
    if found.best_of:
        console.print()
        console.print(_best_of(found))
    console.print()
    width = max((len(fit.curve) for fit in found.fits), default=0)
    for fit in found.fits:
        say(f"{fit.curve:<{width}} {fit.reward:<6} {fit_sentence(fit)}")
    for sentence in loss_sentences(found):
        say(sentence)
    say(interval_note(found))
    both = " KL of the policy and of best-of-n buy different gains: do not compare the two." if found.best_of else ""
    say(f"Gains are over the reference.{both}")
    if found.folder is not None:
        from plaudit.evaluation.frontier.run import PAGE_NAME, RESULT_NAME

        say(f"\n{found.folder / PAGE_NAME}, {RESULT_NAME}")


def _table(*titles: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for place, title in enumerate(titles):
        table.add_column(title, justify="left" if place == 0 else "right", no_wrap=True)
    return table


def _short(name: str) -> str:
    """Its end: that says which step it is."""
    return escape(name if len(name) <= _NAME_WIDTH else "…" + name[1 - _NAME_WIDTH :])


def _policy(curve: str, points: Sequence[PolicyPoint]) -> Table:
    from plaudit.evaluation.frontier.words import spread, value

    table = _table(_short(curve), "KL", "proxy", "", "gold", "", "gap", "corr.")
    for p in points:
        gains = value(p.proxy), spread(p.proxy), value(p.gold), spread(p.gold)
        table.add_row(_short(p.name), value(p.kl), *gains, value(p.gap), value(p.correlation))
    return table


def _best_of(found: Frontier) -> Table:
    from plaudit.evaluation.frontier.words import spread, value
    from plaudit.evaluation.wording import number

    table = _table("best of n", "KL", "bound", "proxy", "", "gold", "")
    for p in found.best_of:
        gains = value(p.proxy), spread(p.proxy), value(p.gold), spread(p.gold)
        table.add_row(str(p.n), value(p.kl), number(p.bound), *gains)
    return table
