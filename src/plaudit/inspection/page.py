"""The page of an inspection: self-contained, in the look of a run's report.

No network, no script: inline style and plain HTML. Every text is escaped by the template engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from plaudit.errors import ConfigError, RunError
from plaudit.inspection.cells import Cell, Mark, shortened, token_text
from plaudit.inspection.results import Inspection
from plaudit.inspection.wording import cut_note, facts, hints, note_rows, packing_lines, row_numbers
from plaudit.runs.jsonl import write_atomically
from plaudit.runs.templating import template_engine

_SHOWN = 1200
"""Tokens of a stretch that the page shows where nothing else is asked for."""
_COLUMN = 4000
"""Characters of a column of a row that is not used."""


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring cells that look the same, or with `tokens` a single one."""

    mark: Mark
    special: bool
    text: str
    ids: str = ""
    left_out: int = 0


def write_page(found: Inspection, path: Path, *, tokens: bool = False, full: bool = False) -> Path:
    """Write the page and return its path.

    Raises:
        ConfigError: PL102, the file cannot be written.
    """
    check_page(path)
    try:
        write_atomically(path, page(found, tokens=tokens, full=full))
    except RunError as error:
        raise _not_written(path, error.what) from error
    return path


def check_page(path: Path) -> None:
    """Before anything is read: a typo in the name of a folder should not cost minutes.

    Raises:
        ConfigError: PL102, there is no such folder, or the name is that of a folder.
    """
    if not path.absolute().parent.is_dir():
        raise _not_written(path, "there is no such folder")
    if path.is_dir():
        raise _not_written(path, "this is a folder")


def _not_written(path: Path, why: str) -> ConfigError:
    return ConfigError(
        "PL102", f"the page cannot be written: {why}", where=str(path),
        mend="name a file in a folder that exists and can be written",
    )  # fmt: skip


def page(found: Inspection, *, tokens: bool = False, full: bool = False) -> str:
    """The page as HTML."""
    engine, style = template_engine("plaudit.inspection", ["inspection.css"])

    def spans(cells: Sequence[Cell]) -> list[Span]:
        return spans_of(cells if full else shortened(cells, _SHOWN), apart=tokens)

    def column(text: str) -> str:
        more = len(text) - _COLUMN
        return text if full or more <= 0 else f"{text[:_COLUMN]} [{more:,} characters more]"

    engine.filters.update(spans=spans, rows=row_numbers, note_rows=note_rows, column=column, cut_note=cut_note)
    return engine.get_template("inspection.html.jinja").render(
        found=found,
        title=f"{found.method.name} · {', '.join(Path(f.path).name for f in found.report.files)}",
        facts=facts(found),
        hints=list(hints(found)),
        packing=list(packing_lines(found)),
        tiles=_tiles(found),
        style=style,
        tokens=tokens,
    )


def spans_of(cells: Sequence[Cell], *, apart: bool = False) -> list[Span]:
    """Cells as spans; letters of Arabic and the like only join within one.

    Args:
        apart: every cell by itself, with its ids.
    """
    if apart:
        return [Span(c.mark, c.special, token_text(c), " ".join(map(str, c.ids)), c.left_out) for c in cells]
    found: list[Span] = []
    for (mark, special, left_out), own in groupby(cells, key=lambda c: (c.mark, c.special, c.left_out)):
        if special or left_out:
            found += [Span(mark, special, c.text, left_out=c.left_out) for c in own]
        else:
            found.append(Span(mark, False, "".join(c.text for c in own)))
    return found


def _tiles(found: Inspection) -> list[tuple[str, str, str, str]]:
    """(label, value, note, style)"""
    used = found.rows - found.dropped
    tiles = [("rows used", f"{used:,}", f"of {found.rows:,}", "" if not found.dropped else "down")]
    ends = found.ends
    if ends.stretches:
        what = "scores read on an end token" if ends.scored else "ends of answers trained"
        good = "up" if found.end_is_learned else "down"
        share, of = f"{100 * ends.count / ends.stretches:.0f} %", f"{ends.count:,} of {ends.stretches:,}"
        tiles.append((what, share, of, good))
    if found.tally.trained:
        share = f"{100 * found.tally.trained / found.tally.tokens:.0f} %"
        tiles.append(("tokens trained", share, f"{found.tally.trained:,} of {found.tally.tokens:,}", ""))
    if found.packing is not None:
        tiles.append(("saved by sharing prompts", f"{found.packing.gain:.2f} ×", "fewer tokens than without", ""))
    if found.sampling is not None:
        tiles.append(("prompts per batch", f"{found.sampling.prompts_per_batch:,}", "answers are sampled", ""))
    return tiles


__all__ = ["Span", "page", "spans_of", "write_page"]
