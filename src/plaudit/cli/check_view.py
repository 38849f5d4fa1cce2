"""What `plaudit check` prints."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import wrap
from typing import Any

from plaudit.cli.console import Console
from plaudit.preflight.findings import TOPICS, Checked, Finding

_STYLES = {"FAIL": "bold red", "WARN": "yellow", "OK": "green"}
_TOPIC_WIDTH = max(len(topic) for topic in TOPICS)
_INDENT = 4 + 2 + _TOPIC_WIDTH + 2


def show(found: Checked) -> None:
    """Print the findings in their order, what was not looked at, and the plan."""
    console = Console(highlight=False)
    for finding in found.findings:
        _finding(console, finding)
    if found.skipped and found.counts["FAIL"]:
        console.print(f"\nnot looked at because of that: {', '.join(found.skipped)}", style="dim", soft_wrap=True)
    if found.plan:
        console.print("\nPlan", style="bold")
        _plan(console, found.plan)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in found.counts.items())
    console.print(f"\n{counts}")


def _finding(console: Console, finding: Finding) -> None:
    where = f" ({finding.where})" if finding.where and "\n" not in finding.where else ""
    code = f"[{finding.code}] " if finding.code else ""
    lines: list[str] = []
    for part in f"{code}{finding.text}{where}".splitlines():
        lines += wrap(part, max(30, console.width - _INDENT)) or [""]
    mends = wrap(f"→ {finding.mend}", max(30, console.width - _INDENT)) if finding.mend else []
    console.print(f"[{_STYLES[finding.verdict]}]{finding.verdict:<4}[/]  {finding.topic:<{_TOPIC_WIDTH}}  ", end="")
    for i, line in enumerate([*lines, *mends]):
        console.print(" " * _INDENT * (i > 0) + line, markup=False, soft_wrap=True)


def _plan(console: Console, plan: Mapping[str, Any]) -> None:
    width = max(len(key) for key in plan)
    for key, value in plan.items():
        console.print(f"  {key:<{width}}  {value}", markup=False, soft_wrap=True)
