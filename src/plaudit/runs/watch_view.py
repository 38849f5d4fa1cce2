"""What `plaudit watch` shows on a terminal: progress, curves, the last sample; alerts and evaluations scroll above."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from plaudit.runs.alerts import Alert
from plaudit.runs.charts import Point
from plaudit.runs.eta import Eta, duration
from plaudit.runs.metrics import EVAL_PREFIX, format_value, spec
from plaudit.runs.observer import Sample, SilentObserver
from plaudit.runs.sparkline import sparkline
from plaudit.runs.terminal import COLOUR, headline_names, sample_lines, short_name

_CURVES = 8
_WIDTH = 40
_SAMPLE_LINES = 8
_UNDRAWN = ("learning_rate", "peak_memory_gb")


class WatchView(SilentObserver):
    """A live picture of a run that another process carries out. Use it in a with statement.

    Args:
        title: what is watched.
        footer: what somebody who watches can do.
        clock: seconds, for the time left.
    """

    def __init__(self, console: Console, title: str, footer: str, clock: Callable[[], float]) -> None:
        self._console, self._title, self._footer, self._clock = console, title, footer, clock
        self._eta = Eta()
        self._curves: dict[str, dict[int, float]] = {}
        self._step, self._total = 0, 0
        self._about = ""
        self._state = ""
        self._sample: tuple[int, Sample] | None = None
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop")

    def __enter__(self) -> WatchView:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._live.stop()

    def show(self, state: str) -> None:
        """Draw everything as it is now.

        Args:
            state: where the run stands, in words.
        """
        self._state = state
        self._live.update(self._picture(), refresh=True)

    def rewind(self, step: int) -> None:
        """Forget what was logged behind a step: the run has gone back to it."""
        for curve in self._curves.values():
            for late in [s for s in curve if s > step]:
                del curve[late]
        if self._sample is not None and self._sample[0] > step:
            self._sample = None
        self._step = step

    # -- what is told

    def on_start(self, plan: Mapping[str, Any]) -> None:
        self._about = "  ".join(str(plan[key]) for key in ("method", "model") if key in plan)

    def on_step(self, step: int, total_steps: int, metrics: Mapping[str, float]) -> None:
        self._eta.update(self._clock(), step)
        self._step, self._total = step, total_steps
        self._add(step, metrics)

    def on_eval(self, step: int, metrics: Mapping[str, float]) -> None:
        self._add(step, metrics)

    def _add(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._curves.setdefault(name, {})[step] = value

    def on_samples(self, step: int, samples: Sequence[Sample]) -> None:
        if samples:
            self._sample = (step, samples[-1])

    def on_alert(self, alert: Alert) -> None:
        told = (f"{alert.level} at step {alert.step}: ", COLOUR.get(alert.level, "")), alert.message
        self._console.print(Text.assemble(*told, f"\n  → {alert.advice}"))

    def on_message(self, text: str) -> None:
        self._console.print(Text(text, style="dim"))

    # -- the picture

    def _picture(self) -> RenderableType:
        head = Text.assemble((self._title, "bold"), f"  {self._about}  " if self._about else "  ", (self._state, "dim"))
        parts: list[RenderableType] = [head, self._progress(), self._sparklines()]
        if self._sample is not None:
            parts.append(self._sample_panel(*self._sample))
        return Group(*parts, Text(self._footer, style="dim"))

    def _progress(self) -> RenderableType:
        if not self._step:
            return Text("no step has been logged yet", style="dim")
        row = Table.grid(padding=(0, 2))
        if not self._total:
            row.add_row(f"step [bold]{self._step}[/]")
            return row
        left = self._eta.seconds_left(self._total)
        row.add_row(
            f"step [bold]{self._step}[/]/{self._total}",
            ProgressBar(total=self._total, completed=self._step, width=32),
            f"{100 * self._step / self._total:.0f} %",
            f"{duration(left)} left" if left is not None and self._step < self._total else "",
        )
        return row

    def _sparklines(self) -> RenderableType:
        wanted = [n for n in headline_names(self._curves) if n not in _UNDRAWN]
        shown = [n for base in wanted for n in (base, EVAL_PREFIX + base) if self._curves.get(n)][:_CURVES]
        shown = shown or [n for n in self._curves if self._curves[n]][:_CURVES]
        width = max(8, min(_WIDTH, self._console.width - 48))
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, justify="right")
        table.add_column(style="dim", no_wrap=True)
        for name in shown:
            points: list[Point] = sorted(self._curves[name].items())
            first, last = (format_value(name, points[i][1]) for i in (0, -1))
            table.add_row(short_name(name), sparkline(points, width), last, f"from {first}{_better(name, points)}")
        return table

    @staticmethod
    def _sample_panel(step: int, sample: Sample) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for name, text in sample_lines(sample)[:_SAMPLE_LINES]:
            table.add_row(escape(name), Text(text[:300], style="bold" if name == "reward" else ""))
        return Panel(table, title=f"sample at step {step}", title_align="left", border_style="dim")


def _better(name: str, points: Sequence[Point]) -> str:
    """Whether the last value is better than the first, in words; nothing where there is no better."""
    direction, (first, last) = spec(name).direction, (points[0][1], points[-1][1])
    if direction == "neutral" or spec(name).group == "speed" or first == last or last != last:
        return ""
    return ", better" if (last > first) == (direction == "higher") else ", worse"
