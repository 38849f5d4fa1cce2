"""What the terminal shows: a live progress display on a terminal, plain `key=value` lines everywhere else."""

from __future__ import annotations

import atexit
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from plaudit.runs.alerts import Alert
from plaudit.runs.eta import Eta, duration
from plaudit.runs.metrics import EVAL_PREFIX, format_value, is_known
from plaudit.runs.observer import Observer, Sample, SilentObserver
from plaudit.runs.plan import facts_of

HEADLINE = (
    "loss",
    "rewards/margins",
    "rewards/accuracies",
    "perplexity",
    "grad_norm",
    "learning_rate",
    "tokens_per_second",
    "peak_memory_gb",
)
"""The metrics of the live line; all others are in the run directory. Without any of them, all are shown."""

ONLINE_HEADLINE = (
    "reward",
    "kl",
    "entropy",
    "completions/mean_length",
    "completions/clipped_ratio",
    "value/explained_variance",
    "grad_norm",
    "tokens_per_second",
    "peak_memory_gb",
)
"""The same where answers are sampled: the loss is near 0 whether anything is learned or not."""

_SHORT = {
    "completions/mean_length": "length",
    "completions/clipped_ratio": "cut",
    "value/explained_variance": "explained",
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
    "grad_norm": "grad",
    "learning_rate": "lr",
    "tokens_per_second": "tokens/s",
    "peak_memory_gb": "peak GB",
}
COLOUR = {"info": "cyan", "warn": "yellow", "error": "bold red"}
_SAMPLE_LENGTH = 600
_PLAIN_SAMPLE_LENGTH = 300


def headline_names(names: Iterable[str]) -> tuple[str, ...]:
    """The headline of a run by the names of its metrics; only a run that samples has a policy to be updated, or answers
    of its own."""
    bases = (name.removeprefix(EVAL_PREFIX) for name in names)
    online = any(base == "reward" or base.startswith(("policy/", "completions/")) for base in bases)
    return ONLINE_HEADLINE if online else HEADLINE


def headline(metrics: Mapping[str, float]) -> dict[str, float]:
    chosen = {name: metrics[name] for name in headline_names(metrics) if name in metrics}
    return chosen or dict(metrics)


def short_name(name: str) -> str:
    """A metric's name where there is little room: rewards/margins is margin."""
    held_out = "eval " if name.startswith(EVAL_PREFIX) else ""
    base = name.removeprefix(EVAL_PREFIX)
    return held_out + _SHORT.get(base, base)


def evaluated(metrics: Mapping[str, float]) -> dict[str, float]:
    """All of an evaluation; of sampled answers the headline, the parts of the reward where there are several, and where
    they are there the shares of right answers and gold."""
    if headline_names(metrics) is HEADLINE:
        return dict(metrics)
    parts = [name for name in metrics if fnmatchcase(name, f"{EVAL_PREFIX}rewards/*/mean")]
    right = [
        name
        for name in metrics
        if fnmatchcase(name, f"{EVAL_PREFIX}avg@*") or fnmatchcase(name, f"{EVAL_PREFIX}pass@*")
    ]
    shown = [EVAL_PREFIX + base for base in ONLINE_HEADLINE]
    shown[1:1] = [*(parts if len(parts) > 1 else []), *right, f"{EVAL_PREFIX}gold"]
    return {name: metrics[name] for name in shown if name in metrics}


def _worth_reading(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Of the end of a run: its facts and the headline's metrics; report.html has all of them."""
    headline = headline_names(summary)
    return {
        name: value
        for name, value in summary.items()
        if value is not None and (name.removeprefix(EVAL_PREFIX) in headline or not is_known(name))
    }


def _cut(text: object, length: int) -> str:
    whole = str(text)
    return whole if len(whole) <= length else f"{whole[:length]}… (+{len(whole) - length} characters)"


def _flat(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in plan.items():
        if isinstance(value, Mapping):
            rows += [(f"{key}.{inner}", text) for inner, text in _flat(value)]
        elif isinstance(value, (list, tuple)):
            rows.append((str(key), ", ".join(str(v) for v in value) or "none"))
        elif isinstance(value, float):
            rows.append((str(key), f"{value:.6g}"))
        else:
            rows.append((str(key), str(value)))
    return rows


def _plain(value: object) -> str:
    """A value of a plain line: JSON, with numbers as far as anybody reads them."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{json.dumps(str(k), ensure_ascii=False)}:{_plain(v)}" for k, v in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False, default=str)


class PlainTerminal(SilentObserver):
    """One line per event, no control characters. A line is a word and `key=value` pairs; texts are JSON strings.

    step=20 total=100 loss=0.6712 rewards/margins=0.0441 eta=1m20s
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._eta = Eta()

    def _line(self, word: str, **pairs: object) -> None:
        parts = [word] if word else []
        parts += [f"{k}={_plain(v)}" for k, v in pairs.items()]
        self._stream.write(" ".join(parts) + "\n")
        self._stream.flush()

    @staticmethod
    def _numbers(metrics: Mapping[str, float]) -> str:
        return " ".join(f"{name}={value:.6g}" for name, value in metrics.items())

    def on_start(self, plan: Mapping[str, Any]) -> None:
        for label, value in plan.items():
            self._line("plan", **facts_of(label, value))

    def on_step(self, step: int, total_steps: int, metrics: Mapping[str, float]) -> None:
        self._eta.update(self._clock(), step)
        left = self._eta.seconds_left(total_steps) if total_steps else None
        eta = "" if left is None else f" eta={duration(left)}"
        of = f" total={total_steps}" if total_steps else ""  # whoever watches an older run may not know
        self._line(f"step={step}{of} {self._numbers(headline(metrics))}{eta}")

    def on_eval(self, step: int, metrics: Mapping[str, float]) -> None:
        self._line(f"eval step={step} {self._numbers(evaluated(metrics))}")

    def on_samples(self, step: int, samples: Sequence[Sample]) -> None:
        for sample in samples:
            texts = {k: _cut(v, _PLAIN_SAMPLE_LENGTH) if isinstance(v, str) else v for k, v in sample.items()}
            self._line(f"sample step={step}", **texts)

    def on_alert(self, alert: Alert) -> None:
        self._line(
            f"alert level={alert.level} code={alert.code} step={alert.step}",
            message=alert.message,
            advice=alert.advice,
        )

    def on_message(self, text: str) -> None:
        self._line("note", text=text)

    def on_finish(self, summary: Mapping[str, Any]) -> None:
        for name, value in _worth_reading(summary).items():
            self._line("summary", **{name: value})


def sample_lines(sample: Sample) -> list[tuple[str, str]]:
    """Label and text of what a sample shows: its texts, its reward with what it was made of, and the rest in a line."""
    lines: list[tuple[str, str]] = []
    rest: list[str] = []
    for name, value in sample.items():
        if name == "parts":
            continue
        if name == "reward":
            parts = sample.get("parts")
            own = "none" if value is None else _short(value)
            lines.append((name, f"{own}   ({_short(parts)})" if parts else own))
        elif isinstance(value, str) and name != "finish_reason":
            # A model may write an escape sequence, and must not command the terminal with it.
            text = value.strip("\n").replace("\x1b", "␛")
            lines.append((name, _cut(text, _SAMPLE_LENGTH) or "(empty)"))
        elif value is not None:
            rest.append(f"{name.replace('_', ' ')} {_short(value)}")
    return [*lines, ("", "   ".join(rest))] if rest else lines


def _short(value: Any) -> str:
    """A number, or several with their names, for people."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_short(inner)}" for name, inner in value.items())
    return format_value("", value) if isinstance(value, float) else _cut(value, _SAMPLE_LENGTH)


class RichTerminal(SilentObserver):
    """A live display: progress with time left, current metrics; evaluations, samples and alerts scroll above it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._eta = Eta()
        self._live: Live | None = None
        self._latest: dict[str, float] = {}
        # An exception or Ctrl-C that nobody turns into close() must not leave the terminal without a cursor.
        atexit.register(self.close)

    def on_start(self, plan: Mapping[str, Any]) -> None:
        table = Table.grid(padding=(0, 3))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for key, text in _flat(plan):
            table.add_row(escape(key), escape(text))
        self._console.print(Panel(table, title="Plan", title_align="left", border_style="dim", expand=False))

    def on_step(self, step: int, total_steps: int, metrics: Mapping[str, float]) -> None:
        self._eta.update(time.monotonic(), step)
        # The rewards of a batch are logged with its first step: they stay until the next ones are there.
        self._latest |= metrics
        view = Group(self._progress(step, total_steps), self._numbers(headline(self._latest)))
        if self._live is None:
            self._live = Live(view, console=self._console, refresh_per_second=4, transient=True)
            self._live.start()
        else:
            self._live.update(view)

    def _progress(self, step: int, total_steps: int) -> Table:
        left = self._eta.seconds_left(total_steps)
        row = Table.grid(padding=(0, 2))
        row.add_row(
            f"step [bold]{step}[/]/{total_steps}",
            ProgressBar(total=total_steps, completed=step, width=32),
            f"{100 * step / total_steps:.0f} %" if total_steps else "",
            f"{duration(left)} left" if left is not None else "time left: after the next step",
        )
        return row

    @staticmethod
    def _numbers(metrics: Mapping[str, float]) -> Text:
        text = Text()
        for name, value in metrics.items():
            text.append(f"{_SHORT.get(name, name)} ", style="dim")
            text.append(format_value(name, value), style="bold red" if value != value else "bold")
            text.append("   ")
        return text

    def on_eval(self, step: int, metrics: Mapping[str, float]) -> None:
        self._console.print(Text.assemble((f"eval at step {step}  ", "green"), self._numbers(evaluated(metrics))))

    def on_samples(self, step: int, samples: Sequence[Sample]) -> None:
        if not samples:
            return
        shown: list[Text | Panel] = [Text(f"Samples at step {step}", style="italic")]
        for sample in samples:
            table = Table.grid(padding=(0, 2))
            table.add_column(style="dim", no_wrap=True)
            table.add_column(overflow="fold")
            for name, text in sample_lines(sample):
                table.add_row(escape(name), Text(text, style="bold" if name == "reward" else ""))
            shown.append(Panel(table, border_style="dim"))
        self._console.print(Group(*shown))

    def on_alert(self, alert: Alert) -> None:
        colour = COLOUR[alert.level]
        self._console.print(
            Text.assemble((f"{alert.level} at step {alert.step}: ", colour), alert.message, f"\n  → {alert.advice}")
        )

    def on_message(self, text: str) -> None:
        self._console.print(Text(text))

    def on_finish(self, summary: Mapping[str, Any]) -> None:
        self.close()
        table = Table.grid(padding=(0, 3))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for key, text in _flat(_worth_reading(summary)):
            table.add_row(escape(key), escape(text))
        self._console.print(Panel(table, title="Done", title_align="left", border_style="green", expand=False))

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        atexit.unregister(self.close)


def terminal(stream: TextIO | None = None) -> Observer:
    """The observer that suits the stream (default: standard output): live on a terminal, plain lines elsewhere."""
    stream = stream or sys.stdout
    console = Console(file=stream)
    return RichTerminal(console) if console.is_terminal and not console.is_dumb_terminal else PlainTerminal(stream)
