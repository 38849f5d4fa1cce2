"""What `plaudit doctor` prints."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING

from rich.markup import escape

from plaudit.cli.console import Console
from plaudit.data.doctor.findings import VERDICTS, percent

if TYPE_CHECKING:
    from plaudit.data.doctor.checkup import Checkup
    from plaudit.data.doctor.clean import Cleaned
    from plaudit.data.doctor.findings import Diagnosis, Finding

_STYLES = {"FAIL": "bold red", "WARN": "yellow", "OK": "green"}
_INDENT = 6
_NO_COUNT = ("length_bias", "label_balance", "position_balance")
"""Checks whose number is in their sentence, and is no count of bad rows."""
_TOLD = (*_NO_COUNT, "script_mix", "language_mix", "system_prompts")
"""Checks that say something where all is well, too."""


def show(found: Checkup) -> None:
    """Print the diagnosis: what fails, what warns, what is well in a line; then what was mended."""
    console = Console(highlight=False)
    _head(console, found.diagnosis)
    for verdict in VERDICTS[:2]:
        for finding in found.diagnosis.of(verdict):
            _finding(console, finding)
    _rest(console, found.diagnosis)
    if found.cleaned is not None and found.after is not None:
        _cleaned(console, found.cleaned, found.diagnosis, found.after)
    elif any(f.fixed for f in (*found.diagnosis.of("FAIL"), *found.diagnosis.of("WARN"))):
        console.print("\n--fix OUT writes a cleaned copy with a log of every row.", soft_wrap=True)


def _head(console: Console, diagnosis: Diagnosis) -> None:
    shapes = ", ".join(diagnosis.shapes) or "no usable rows"
    lines = f"{diagnosis.source}: {diagnosis.rows:,} rows of {diagnosis.kind} data ({shapes})"
    if diagnosis.prompts:
        lines += f", {diagnosis.prompts:,} different prompts"
    console.print(lines, markup=False, soft_wrap=True)
    if diagnosis.usable < diagnosis.rows:
        refused = diagnosis.rows - diagnosis.usable
        text = f"Training refuses {refused:,} of the rows; the checks of texts are on the other {diagnosis.usable:,}."
        console.print(text, markup=False, soft_wrap=True)


def _finding(console: Console, finding: Finding) -> None:
    style = _STYLES[finding.verdict]
    number = "" if finding.check in _NO_COUNT else f"   {_rows(finding)}"
    console.print(
        f"\n[{style}]{finding.verdict}[/]  [bold]{escape(finding.title)}[/]{number}   [dim]{finding.check}[/]"
    )
    _say(console, finding.detail)
    for example in finding.examples:
        rows = f"row{'s' if len(example.rows) > 1 else ''} {', '.join(map(str, example.rows))}"
        _say(console, f"{rows}: {example.text}")
    _say(console, f"→ {finding.mend}")


def _say(console: Console, text: str) -> None:
    for line in wrap(text, console.width - _INDENT):
        console.print(" " * _INDENT + line, markup=False, soft_wrap=True)


def _rest(console: Console, diagnosis: Diagnosis) -> None:
    fine = diagnosis.of("OK")
    told = [f for f in fine if f.count or f.check in _TOLD]
    if fine:
        console.print("\n[green]OK[/]")
        _say(console, f"none: {', '.join(f.title for f in fine if f not in told) or '–'}")
    for finding in told:
        number = "" if finding.check in _NO_COUNT else f"{_rows(finding)}; "
        _say(console, f"{finding.title}: {number}{finding.detail}")
    if diagnosis.skipped:
        console.print("\nnot looked at")
        for skipped in diagnosis.skipped:
            _say(console, f"{skipped.title}: {skipped.why}")
    counts = ", ".join(f"{len(diagnosis.of(v))} {v}" for v in VERDICTS)
    console.print(f"\n{counts}")


def _rows(finding: Finding) -> str:
    if not finding.count:
        return "none"
    return f"{finding.count:,} row{'s' if finding.count > 1 else ''}, {percent(finding.share)}"


def _cleaned(console: Console, cleaned: Cleaned, before: Diagnosis, after: Diagnosis) -> None:
    removed = before.rows - cleaned.rows
    console.print(f"\nwrote {cleaned.output}: {cleaned.rows:,} rows, {removed:,} removed", markup=False, soft_wrap=True)
    for word, counts in (("removed", cleaned.removed), ("changed", cleaned.changed)):
        for check, count in counts.items():
            _say(console, f"{word} {count:,}: {check}")
    if cleaned.removed or cleaned.changed:
        console.print(f"every one of them is in {cleaned.log}", markup=False, soft_wrap=True)
    left = [f"{f.verdict} {f.title}" for v in VERDICTS[:2] for f in after.of(v)]
    console.print(
        f"the copy, examined again: {', '.join(left) or 'nothing to complain about'}", markup=False, soft_wrap=True
    )
