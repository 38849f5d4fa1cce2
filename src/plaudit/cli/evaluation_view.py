"""The evaluation of a reward model for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from plaudit.cli.console import Console

if TYPE_CHECKING:
    from plaudit.evaluation.reward_evaluation import RewardEvaluation

_NAME_WIDTH = 24


@contextmanager
def progress() -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr while rows are scored; None where nobody would see it move."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("scoring rows", total=None)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield advance


def print_reward(e: RewardEvaluation) -> None:
    """The whole evaluation: what it stands on, a table of accuracies, and a line for each other measure."""
    console = Console(highlight=False)
    a = e.accuracy
    console.print(f"{e.model} on {', '.join(e.data)}", markup=False, soft_wrap=True)
    facts = f"{e.rows:,} rows, {a.pairs:,} pairs of {a.prompts:,} prompts, {a.ties:,} ties; every {e.weigh} weighs 1"
    if e.dropped:
        facts += f"; {e.dropped:,} rows dropped"
    if e.tied:
        facts += f"; {e.tied:,} pairs of equal rank left out"
    if e.even:
        facts += f"; {e.even:,} pairs with even votes only in the calibration"
    console.print(facts, markup=False, soft_wrap=True)
    for note in e.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    console.print()
    console.print(_accuracies(e))
    if e.rewardbench is not None:
        console.print(_rewardbench(e))
    for line in _measures(e):
        console.print(line, markup=False, soft_wrap=True)
    if e.best_of_n:
        console.print()
        console.print(_best_of_n(e))
    if e.folder is not None:
        from plaudit.evaluation.reward_run import PAGE_NAME, RESULT_NAME, SCORES_NAME

        console.print(f"\n{e.folder / PAGE_NAME}, {RESULT_NAME}, {SCORES_NAME}", markup=False, soft_wrap=True)


def _table(*titles: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for place, title in enumerate(titles):
        table.add_column(title, justify="left" if place == 0 else "right", no_wrap=True)
    return table


def _accuracies(e: RewardEvaluation) -> Table:
    from plaudit.evaluation.clustered import SMALL
    from plaudit.evaluation.reward_accuracy import RewardAccuracy
    from plaudit.evaluation.wording import interval, percent

    table = _table("accuracy", "pairs", "prompts", "ties ½", "95 %", "ties lose")
    few = any(r.prompts < SMALL for r in (e.accuracy, *(s.result for s in e.strata)))

    def add(name: str, r: RewardAccuracy) -> None:
        mark = " *" if r.prompts < SMALL else ""
        shares = percent(r.accuracy.value), interval(r.accuracy), percent(r.strict.value)
        table.add_row(escape(_clipped(name) + mark), f"{r.pairs:,}", f"{r.prompts:,}", *shares)

    add("all pairs", e.accuracy)
    column = None
    for s in e.strata:
        if s.column != column:
            column = s.column
            table.add_row(f"[bold]by {escape(_clipped(column))}[/bold]")
        add(f"  {s.value}", s.result)
    if few:
        table.add_row(f"* fewer than {SMALL} prompts")
    return table


def _clipped(name: str) -> str:
    """The numbers must stay readable at 80 columns; the page and evaluation.json have the whole name."""
    return name if len(name) <= _NAME_WIDTH else name[: _NAME_WIDTH - 1] + "…"


def _rewardbench(e: RewardEvaluation) -> Table:
    from plaudit.evaluation.wording import interval, percent

    assert e.rewardbench is not None
    table = _table("\nRewardBench", "\nrows", "\nscore", "\n95 %")
    for section in e.rewardbench.sections:
        s = section.score
        table.add_row(
            f"  {section.name}", *(("0", "–", "–") if s is None else (f"{s.n:,}", percent(s.value), interval(s)))
        )
    overall = e.rewardbench.overall
    if overall is None:
        table.add_row("  overall", "", "–", "a section has no rows")
    else:
        table.add_row("  overall", f"{overall.n:,}", percent(overall.value), interval(overall))
    return table


def _measures(e: RewardEvaluation) -> list[str]:
    from plaudit.evaluation.wording import interval, length_sentence, number, percent, temperature_sentence

    c, longer = e.calibration, e.length.longer_is_right
    by_chance = "" if c.ece_by_chance is None else f" ({number(c.ece_by_chance)} by chance alone)"
    lines = [
        "",
        f"calibration  error {number(c.ece)}{by_chance}, log loss {number(c.log_loss.value)} (ln 2 knows nothing), "
        f"Brier {number(c.brier.value)}",
        f"             {temperature_sentence(c.temperature)}",
        f"length       longer is right in {percent(longer.value)} ({interval(longer)}); length is in characters",
        f"             {length_sentence(e.length)}",
    ]
    if e.no_curve is not None:
        lines.append(f"best of n    no curve: {e.no_curve}")
    return lines


def _best_of_n(e: RewardEvaluation) -> Table:
    from plaudit.evaluation.wording import number, percent

    table = _table("best of n", "KL", "reward model", "random", "best", "share of the gain", "rows")
    for p in e.best_of_n:
        share = "–" if p.share is None else percent(p.share)
        values = number(p.reward_model.value), number(p.random), number(p.gold)
        table.add_row(str(p.n), f"{p.kl:.3f}", *values, share, f"{p.prompts:,}")
    return table
