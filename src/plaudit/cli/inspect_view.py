"""What `plaudit inspect` prints: in colours on a terminal, with brackets elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.padding import Padding
from rich.text import Text

from plaudit.cli.console import Console
from plaudit.inspection.cells import CLOSE, OPEN, SCORE, SPECIAL_CLOSE, SPECIAL_OPEN, Cell, shortened, token_text
from plaudit.inspection.examples import Branch, Example
from plaudit.inspection.histogram import Histogram
from plaudit.inspection.results import DroppedRow, Inspection
from plaudit.inspection.wording import cut_note, facts, hints, note_rows, packing_lines, row_numbers

_SHOWN = 160
"""Tokens of a stretch that are shown where nothing else is asked for."""
_COLUMN = 400
"""Characters of a column of a row that is not used."""
_BAR = 40
_STYLES = {"trained": "bold green", "masked": "dim", "scored": "bold black on yellow"}
_SPECIAL = {"trained": "bold magenta", "masked": "magenta", "scored": "bold black on yellow"}


def show(found: Inspection, *, tokens: bool = False, full: bool = False, console: Console | None = None) -> None:
    """Print an inspection.

    Args:
        tokens: every token in a line of its own, with its id.
        full: long stretches are not shortened.
    """
    _Printer(console or Console(highlight=False), tokens, full).all(found)


class _Printer:
    def __init__(self, console: Console, tokens: bool, full: bool) -> None:
        self.console, self.tokens, self.full = console, tokens, full
        self.plain = console.color_system is None or console.no_color

    def line(self, text: str | Text = "", style: str = "") -> None:
        """A line as it is: not wrapped where a program reads it."""
        shown = Text(text, style=style) if isinstance(text, str) else text
        self.console.print(shown, soft_wrap=not self.console.is_terminal)

    def heading(self, text: str) -> None:
        self.line()
        self.line(text, "bold")

    def all(self, found: Inspection) -> None:
        if found.problem is not None:
            self.line(f"TRAINING STOPS with these options: [{found.problem.code}] {_first_line(found)}", "bold red")
        for name, value in facts(found):
            self.line(f"{name + ':':<9} {value}")
        self.end(found)
        for hint in hints(found):
            self.line(f"hint: {hint}", "yellow")
        self.drops(found)
        self.notes(found)
        self.heading("lengths in tokens")
        for histogram in found.histograms:
            self.histogram(histogram)
        self.heading("steps and packing")
        for text in packing_lines(found):
            self.line(f"  {text}")
        if found.examples:
            self.heading("examples")
            self.line(self.legend(found))
        for example in found.examples:
            self.example(example)
        if found.dropped_rows:
            self.heading("rows that are not used")
        for row in found.dropped_rows:
            self.dropped(row)
        if found.problem is not None:
            self.line()
            self.line("training with these options stops with this error:", "bold red")
            self.console.file.flush()  # what follows goes to the other stream

    # -- figures

    def end(self, found: Inspection) -> None:
        if found.end_line is not None:
            mark, style = ("", "green") if found.end_is_learned else ("WARNING: ", "bold red")
            self.line(f"{mark}{found.end_line}", style)
        if found.unended is not None:
            self.line(f"  {found.unended}", "red")

    def drops(self, found: Inspection) -> None:
        if not found.drops:
            return
        self.heading(f"not used: {found.dropped:,} of {found.rows:,} rows")
        for drop in found.drops:
            self.line(f"  {len(drop.rows):>6,}  {drop.meaning}  ({drop.file}: {row_numbers(drop.rows)})", "red")
        if not found.dropped_rows:
            self.line("          --dropped shows them", "dim")

    def notes(self, found: Inspection) -> None:
        if not (found.notes or found.said):
            return
        self.heading("what was decided on the way")
        several = len(found.files) > 1
        for note in found.notes:
            rows = f" ({where})" if (where := note_rows(note)) else ""
            self.line(f"  {note.affected.count:>6,}  {note.file + ': ' if several else ''}{note.text}{rows}")
        for text in found.said:
            self.line(f"          {text}")

    def histogram(self, h: Histogram) -> None:
        n = h.lengths
        self.line(f"  {h.name}: min {n.min:,}, median {n.median:,.0f}, 95 % {n.p95:,.0f}, max {n.max:,}")
        most, width = max(b.count for b in h.bins), max(len(b.label) for b in h.bins)
        marked = False
        for b in h.bins:
            if b.over and not marked:
                self.line(f"    {'':>{width}}  -- max_length {h.limit:,} --", "bold red")
                marked = True
            full = round(_BAR * b.count / most)
            bar = "█" * (full or bool(b.count))
            self.line(f"    {b.label:>{width}} {b.count:>7,} {bar}".rstrip(), "red" if b.over else "")
        if h.limit is not None and not marked:
            self.line(f"    {'':>{width}}  -- max_length {h.limit:,}: none is longer --", "dim")

    # -- examples

    def legend(self, found: Inspection) -> Text:
        scored = found.ends.scored
        if self.plain:
            parts = [f"{SPECIAL_OPEN}special token{SPECIAL_CLOSE}", "⏎ line end"]
            if scored:
                parts = [f"the score is read on the token before {SCORE}", *parts]
            elif found.tally.trained:
                parts = [f"{OPEN}trained{CLOSE}", "the rest is masked", *parts]
            return Text("  " + ", ".join(parts))
        text = Text("  ")
        if scored:
            text.append("score is read here", _STYLES["scored"]).append("  ")
        elif found.tally.trained:
            text.append("trained", _STYLES["trained"]).append(" ")
            text.append("special, trained", _SPECIAL["trained"]).append("  ")
        text.append("masked", _STYLES["masked"]).append(" ").append("special, masked", _SPECIAL["masked"])
        return text.append("  ⏎ line end", "dim")

    def example(self, e: Example) -> None:
        self.line()
        held = " (held out)" if e.held_out else ""
        shared = f" ({e.without_sharing:,} without sharing the prompt)" if e.without_sharing != e.unique else ""
        self.line(f"{e.name}{held}{f': {e.unique:,} tokens computed{shared}' if e.branches else ''}", "bold cyan")
        for remark in e.remarks:
            self.line(f"  {remark}", "yellow")
        trained = f", {e.prompt_trained:,} trained" if e.prompt_trained else ""
        self.line(f"  prompt: {e.prompt_tokens:,} tokens{trained}", "underline")
        self.cells(e.prompt)
        for branch in e.branches:
            self.branch(branch)
        if not e.branches:
            self.line("  the answer is sampled from here", "underline")

    def branch(self, b: Branch) -> None:
        read = f"{b.trained:,} trained" if b.trained else "none trained"
        scored = any(cell.mark == "scored" for cell in b.cells)
        what = "its score is read" if scored else read
        self.line(f"  {b.label}: {b.tokens:,} tokens, {what}", "underline")
        self.cells(b.cells)
        if (note := cut_note(b)) is not None:
            self.line(f"  {note}", "bold red")

    def cells(self, cells: Sequence[Cell]) -> None:
        shown = list(cells) if self.full else shortened(cells, _SHOWN)
        if self.tokens:
            for text in _token_lines(shown):
                self.line(text)
            return
        text = Text("\n").join(self.text(shown).split("\n"))
        if self.console.is_terminal:
            self.console.print(Padding(text, (0, 0, 0, 4)))
            return
        for line in text.plain.split("\n"):
            self.line(f"    {line}")

    def text(self, cells: Sequence[Cell]) -> Text:
        """The cells in one text: in colours, or with brackets around what is trained."""
        text = Text(overflow="fold")
        for mark, stretch in groupby(cells, key=lambda cell: cell.mark):
            own = list(stretch)
            if self.plain:
                inner = "".join(map(_bare, own))
                if mark == "trained":
                    # A bracket that stands alone at the start of a line is hard to read.
                    tail = "\n" if inner.endswith("\n") else ""
                    inner = f"{OPEN}{inner.removesuffix(tail)}{CLOSE}{tail}"
                text.append(inner + (SCORE if mark == "scored" else ""))
                continue
            for special, run in groupby(own, key=lambda cell: cell.special):
                # In one go: letters of Arabic do not join over a change of colours.
                text.append("".join(map(_words, run)), (_SPECIAL if special else _STYLES)[mark])
        return text

    def dropped(self, row: DroppedRow) -> None:
        self.line()
        self.line(f"{row.where}: {row.detail}", "bold red")
        for name, value in row.columns.items():
            whole = self.full or len(value) <= _COLUMN
            cut = value if whole else f"{value[:_COLUMN]} [{len(value) - _COLUMN:,} characters more]"
            inner = cut.replace("\n", "\n    ")
            self.line(f"  {name}: {inner}")


def _words(cell: Cell) -> str:
    return f" [{cell.left_out:,} more tokens] " if cell.left_out else cell.text


def _bare(cell: Cell) -> str:
    return f"{SPECIAL_OPEN}{cell.text}{SPECIAL_CLOSE}" if cell.special else _words(cell)


def _token_lines(cells: Sequence[Cell]) -> Iterator[Text]:
    """One line for each token: place, id, what the loss does with it, text. Tokens that are one character together are
    in one line."""
    at = 0
    for cell in cells:
        if cell.left_out:
            yield Text(f"        {_words(cell).strip()}", style="dim")
        else:
            what = {"trained": "trained", "scored": "score", "masked": "masked"}[cell.mark]
            line = Text(f"    {at:>6} {' '.join(map(str, cell.ids)):>8}  {what:<8} ")
            line.append(token_text(cell), (_SPECIAL if cell.special else _STYLES)[cell.mark])
            yield line.append("  special" if cell.special else "", "dim")
        at += cell.count


def _first_line(found: Inspection) -> str:
    return "" if found.problem is None else found.problem.what.splitlines()[0]


__all__ = ["show"]
