"""What `plaudit harden` found and changed, for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from plaudit.cli.console import Console

if TYPE_CHECKING:
    from plaudit.recipes.harden.report import Found, Hardened, State

_COUNTS = (
    ("sampled", "answers"),
    ("truncated", "  cut at the length limit"),
    ("empty", "  empty"),
    ("repeated", "  given before"),
    ("chosen", "  a chosen answer"),
    ("rejected", "  a rejected answer"),
    ("low", "  not above the bar"),
    ("usual", "  disagreement as usual"),
    ("adversarial", "  adversarial by the scores"),
    ("right", "    good, says the gold reward"),
    ("unknown", "    the gold reward has no value"),
    ("over_limit", "    more than --per-prompt"),
    ("held_out", "    held out, to measure on"),
    ("added", "    pairs to train on"),
)
_MEANS = (
    ("mean_score", "mean score of the candidates"),
    ("mean_z", "mean z of the candidates"),
    ("mean_gold", "mean gold value"),
)


def show(done: Hardened) -> None:
    """Print everything."""
    console = Console(highlight=False)
    for entry in done.rounds:
        for line in _about(entry.found):
            console.print(line, markup=False, soft_wrap=True)
        console.print(_found(entry.found))
        if entry.before is not None and entry.after is not None:
            console.print(_states(done, entry.before, entry.after))
    for note in done.notes:
        console.print(note, markup=False, soft_wrap=True)
    for warning in done.warnings:
        console.print(f"warning: {warning}", markup=False, soft_wrap=True)
    for file in done.adversarial:
        console.print(f"pairs: {file}", markup=False, soft_wrap=True)
    if done.reward is not None:
        console.print(f"hardened reward model: {done.reward}", markup=False, soft_wrap=True)


def _about(found: Found) -> list[str]:
    named = [f"  policy {number}: {p.policy}" for number, p in enumerate(found.policies, start=1)]
    return [
        f"round {found.round}: {found.prompts:,} prompts, {found.held_out_prompts:,} of them held out",
        *named,
        f"  {found.reference:,} answers of the data: disagreement {found.reference_mean:.3g} ± "
        f"{found.reference_std:.3g}; chosen ones score {found.chosen_score:.2f} on average",
    ]


def _found(found: Found) -> Table:
    """A column for each policy."""
    table = _table("", *(f"policy {number}" for number in range(1, len(found.policies) + 1)))
    for name, label in _COUNTS:
        values = [getattr(p, name) for p in found.policies]
        if any(values) or name in ("sampled", "adversarial", "added"):
            table.add_row(label, *(f"{v:,}" for v in values))
    for name, label in _MEANS:
        values = [getattr(p, name) for p in found.policies]
        if any(v is not None for v in values):
            table.add_row(label, *("–" if v is None else f"{v:.2f}" for v in values))
    return table


def _table(*titles: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for place, title in enumerate(titles):
        table.add_column(title, justify="left" if place == 0 else "right", no_wrap=True)
    return table


def _states(done: Hardened, before: State, after: State) -> Table:
    seen = "held out" if done.pairs_held_out else "trained on"
    table = _table("", "before", "after")
    for label, name, form in (
        (f"accuracy on the data's pairs ({done.pairs:,}, {seen})", "accuracy", ".1%"),
        ("adversarial answers above the chosen one, held out", "beats_held_out", ".1%"),
        ("the same, trained on", "beats_trained", ".1%"),
        ("disagreement on them ÷ on the data's answers", "disagreement", ".2f"),
    ):
        values = [getattr(before, name), getattr(after, name)]
        table.add_row(label, *("–" if v is None else f"{v:{form}}" for v in values))
    return table
