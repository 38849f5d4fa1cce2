"""Runs for the terminal: the list, one run on a page, several side by side, what pruning removes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from plaudit.cli.console import Console
from plaudit.errors import ConfigError
from plaudit.runs.eta import duration
from plaudit.runs.metrics import format_bytes, format_value
from plaudit.runs.terminal import short_name

if TYPE_CHECKING:
    from plaudit.config.changed import Changed
    from plaudit.runs.comparison import Comparison
    from plaudit.runs.overview import Overview
    from plaudit.runs.pruning import Pruned
    from plaudit.runs.summary import RunSummary

_ROOMY = 130
"""Columns from which the list has room for model and start."""
_PIPE = 240
"""Columns of a pipe: nothing is folded there."""
_PHASES = {"running": "cyan", "finished": "green", "stopped": "yellow", "failed": "red"}
_UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_KEYS: dict[str, Callable[[RunSummary], Any]] = {
    "name": lambda run: run.name,
    "method": lambda run: run.method,
    "model": lambda run: run.model,
    "state": lambda run: run.state.phase,
    "step": lambda run: run.step,
    "loss": lambda run: run.loss,
    "metric": lambda run: run.metric_value,
    "started": lambda run: run.started,
    "duration": lambda run: run.seconds,
    "size": lambda run: run.bytes,
}
_LARGEST_FIRST = ("started", "duration", "size", "step", "metric")


def sorted_runs(runs: Sequence[RunSummary], by: str, reverse: bool) -> list[RunSummary]:
    """Runs in the order of a column: numbers and times largest first, names and losses smallest first; what has no
    value comes last.

    Raises:
        ConfigError: PL102, there is no such column.
    """
    if by not in _KEYS:
        raise ConfigError("PL102", f"there is no column {by!r}", where="--sort", mend=f"one of {', '.join(_KEYS)}")
    key = _KEYS[by]
    there = [run for run in runs if key(run) is not None]
    without = [run for run in runs if key(run) is None]
    return [*sorted(there, key=key, reverse=(by in _LARGEST_FIRST) != reverse), *without]


def seconds_of(age: str) -> float:
    """12h, 7d, 2w or 30m in seconds.

    Raises:
        ConfigError: PL102, it is none of these.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([mhdw])", age.strip())
    if match is None:
        raise ConfigError("PL102", f"{age!r} is no age", where="--older-than", mend="as in 12h, 7d or 2w")
    return float(match[1]) * _UNITS[match[2]]


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_PIPE)


def _table(*titles: str, right: Sequence[str] = (), fold: Sequence[str] = ()) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in titles:
        table.add_column(
            title, justify="right" if title in right else "left", no_wrap=title not in fold, overflow="fold"
        )
    return table


def print_runs(runs: Sequence[RunSummary], folder: Path) -> None:
    """A line for each run, and below them why those ended that did not finish."""
    console = _console()
    if not runs:
        console.print(f"there are no runs in {folder.absolute()} or below", markup=False, soft_wrap=True)
        return
    roomy = console.width >= _ROOMY
    titles = ["run", "method", *(["model"] if roomy else []), "state", "step", "loss", "metric"]
    titles += [*(["started"] if roomy else []), "took", "size"]
    table = _table(*titles, right=("step", "loss", "took", "size"), fold=("run", "model", "metric"))
    for run in runs:
        loss = "–" if run.loss is None else format_value("loss", run.loss)
        metric = "–"
        if run.metric is not None and run.metric_value is not None:
            metric = f"{short_name(run.metric)} {format_value(run.metric, run.metric_value)}"
        started = run.started.astimezone().strftime("%Y-%m-%d %H:%M") if run.started else "–"
        cells = [escape(run.name), escape(_method(run.method)), *([escape(_model(run.model))] if roomy else [])]
        cells += [_phase(run.state.phase), _steps(run), loss, escape(metric)]
        table.add_row(*cells, *([started] if roomy else []), duration(run.seconds), format_bytes(run.bytes))
    console.print(table)
    told = [run for run in runs if run.state.reason]
    if told:
        console.print()
    for run in told:
        console.print(f"{run.name}: {run.state.phase}, {run.state.reason}", markup=False, soft_wrap=True)


def _phase(phase: str) -> str:
    return f"[{_PHASES[phase]}]{phase}[/]"


def _method(name: str) -> str:
    """A method of the user's own by the name of its file."""
    return Path(name).name if name.endswith(".py") else name


def _model(path: str) -> str:
    return path if len(path) <= 32 else "…" + path[-31:]


def _steps(run: RunSummary) -> str:
    if run.step is None:
        return "–"
    return f"{run.step:,}/{run.total_steps:,}" if run.total_steps else f"{run.step:,}"


# -- one run


def print_overview(found: Overview, changed: Sequence[Changed]) -> None:
    """A run on a page."""
    console = _console()
    run = found.summary
    console.print(Text.assemble((run.name, "bold"), f"  {run.method} on {run.model}"), soft_wrap=True)
    reason = f", {run.state.reason}" if run.state.reason else ""
    facts = [("state", f"{run.state.phase}{reason}"), ("step", _steps(run)), ("took", duration(run.seconds))]
    if run.started:
        facts.insert(2, ("started", run.started.astimezone().strftime("%Y-%m-%d %H:%M:%S")))
    facts += [("size", format_bytes(run.bytes)), ("directory", str(run.path.absolute()))]
    console.print(_pairs(facts))
    _section(console, "chosen (everything else is a default)", _choices(changed))
    _section(console, "data", [escape(line) for line in found.data])
    if found.metrics:
        table = _table("metric", "first", "best", "at step", "last", "unit", right=("first", "best", "at step", "last"))
        for row in found.metrics:
            at = "" if row.best_step is None else f"{row.best_step:,}"
            table.add_row(escape(row.name), row.first, row.best, at, row.last, row.unit)
        _section(console, "metrics", table)
    _section(console, "alerts", [_alert(alert) for alert in found.alerts])
    _section(console, "checkpoints", _checkpoints(found))
    places = [(f"{folder.name}/", f"{format_bytes(count)}  {folder}") for folder, count in found.models]
    places += [("report", str(found.report))] if found.report else []
    _section(console, "what it has left", _pairs(places) if places else [])
    _section(console, "how to go on", _pairs(found.go_on) if found.go_on else [])


def _section(console: Console, title: str, content: RenderableType | Sequence[str]) -> None:
    if not content:
        return
    console.print(f"\n{title}", style="bold", markup=False)
    lines: Sequence[Any] = content if isinstance(content, (list, tuple)) else [content]
    for line in lines:
        console.print(Padding(line, (0, 0, 0, 2), expand=False), soft_wrap=isinstance(line, str))


def _pairs(rows: Sequence[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 3))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(escape(name), escape(text))
    return table


def _choices(changed: Sequence[Changed]) -> RenderableType | list[str]:
    from plaudit.runs import jsonl

    def shown(value: Any) -> str:
        return value if isinstance(value, str) else jsonl.dumps(value)

    if not changed:
        return []
    table = Table.grid(padding=(0, 3))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(style="dim", overflow="fold")
    for one in changed:
        default = f"default {shown(one.default)}" if one.has_default else ""
        table.add_row(escape(one.key), escape(shown(one.value)), escape(default))
    return table


def _alert(alert: dict[str, Any]) -> str:
    text = f"{alert.get('level')} at step {alert.get('step')}: {alert.get('message')}\n  → {alert.get('advice')}"
    return escape(text)


def _checkpoints(found: Overview) -> RenderableType | list[str]:
    if not found.checkpoints:
        return []
    table = _table("step", "size", "folder", "", right=("step", "size"))
    for stored in found.checkpoints:
        about = "best evaluation" if stored.step == found.best_step else ""
        about += (", last" if about else "last") if stored is found.checkpoints[-1] else ""
        table.add_row(f"{stored.step:,}", format_bytes(stored.bytes), escape(stored.path.name), about)
    return table


# -- several


def print_comparison(found: Comparison) -> None:
    """Differences of configuration and last values, a column for each run."""
    console = _console()
    for run in found.runs:
        console.print(Text.assemble((run.label, "bold"), f"  {run.about}"), soft_wrap=True)
    for note in found.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    labels = [run.label for run in found.runs]
    if found.differences:
        table = _table("\nconfiguration", *(f"\n{label}" for label in labels), fold=[f"\n{label}" for label in labels])
        for row in found.differences:
            table.add_row(escape(row.key), *map(escape, row.values))
        console.print(table)
    else:
        console.print("\nthe configurations are the same")
    if not found.metrics:
        console.print("\nnone of them has logged anything")
        return
    heads = [f"\n{label}" for label in labels]
    table = _table("\nlast value", *heads, "\nbetter", right=heads, fold=heads)
    for metric in found.metrics:
        texts = [f"[bold green]{t} *[/]" if i in metric.best else f"{t}  " for i, t in enumerate(metric.texts)]
        direction = "" if metric.direction == "neutral" else metric.direction
        table.add_row(escape(metric.name), *texts, direction)
    console.print(table)
    if any(metric.best for metric in found.metrics):
        console.print("* the best of them")


# -- pruning and stopping


def print_pruned(found: Sequence[Pruned], deleted: bool) -> None:
    """What goes, what stays and why, and how many bytes."""
    console = _console()
    for run in found:
        console.print(str(run.path), style="bold", markup=False, soft_wrap=True)
        if run.skipped:
            console.print(f"  left alone: {run.skipped}", markup=False, soft_wrap=True)
            continue
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(overflow="fold")
        for stored in run.going:
            table.add_row("  deleted" if deleted else "  goes", format_bytes(stored.bytes), escape(stored.path.name))
        for folder, count in run.leftovers:
            what = f"{escape(folder.name)} (left by a process that was killed)"
            table.add_row("  deleted" if deleted else "  goes", format_bytes(count), what)
        for stored, reason in run.staying:
            table.add_row("  stays", format_bytes(stored.bytes), f"{escape(stored.path.name)}: {reason}")
        console.print(table if table.row_count else "  no checkpoints")
    count = sum(len(run.going) + len(run.leftovers) for run in found)
    total = sum(run.bytes for run in found)
    plural = "" if count == 1 else "s"
    if not count:
        console.print("nothing to delete")
    elif deleted:
        console.print(f"deleted {count} folder{plural}, {format_bytes(total)}")
    else:
        console.print(f"{count} folder{plural}, {format_bytes(total)} would go; nothing is changed yet: --yes deletes")


def stop_and_wait(path: Path, wait: float | None) -> int:
    """Ask a run to stop, say so, and wait; the exit status: 0 where it has ended, 1 where it has not in that time."""
    from plaudit.api import stop_run
    from plaudit.runs.overview import command_of

    console = Console(highlight=False)

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    def asked(pid: int) -> None:
        say(f"asked process {pid} to stop; it ends its step and writes a checkpoint (Ctrl-C ends the waiting alone)")

    state = stop_run(path, seconds=wait, on_asked=asked)
    if state.phase == "running":
        say(f"it is still at it after {wait:g} s; a second time it stops at once, without a checkpoint of this step")
        return 1
    say(state.words)
    command = command_of(path) if state.phase != "finished" else None
    if command is not None:
        say(f"the same command goes on with it:\n  {command}")
    return 0
