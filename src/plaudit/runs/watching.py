"""Watch a run from another terminal until it ends: pictures on a terminal, a line for each logged step elsewhere."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console

from plaudit.runs.alerts import Alert
from plaudit.runs.follow import Follower, News
from plaudit.runs.jsonl import Line
from plaudit.runs.metrics import EVAL_PREFIX
from plaudit.runs.observer import Observer
from plaudit.runs.overview import command_of
from plaudit.runs.plan import from_json
from plaudit.runs.state import RunState
from plaudit.runs.summary import total_steps
from plaudit.runs.terminal import PlainTerminal
from plaudit.runs.watch_view import WatchView

_LOOK = 0.5
"""Seconds between two looks."""


class _Clock:
    """Time for the estimate of what is left: that of the log for what was logged before, and real time from then on."""

    def __init__(self) -> None:
        self._of_log = 0.0
        self._live_since: float | None = None

    def __call__(self) -> float:
        return self._of_log + (0.0 if self._live_since is None else time.monotonic() - self._live_since)

    def logged(self, seconds: float) -> None:
        """So long a logged step has taken; counts until `live`."""
        if self._live_since is None:
            self._of_log += seconds

    @property
    def is_live(self) -> bool:
        """Whether what is told has just happened."""
        return self._live_since is not None

    def live(self) -> None:
        """From now on what is told has just happened."""
        if self._live_since is None:
            self._live_since = time.monotonic()


class Watch:
    """One run that is watched.

    Args:
        path: the run directory; it need not be there yet.
        stream: where to; a terminal gets a picture, anything else lines.
        wait: stay when the run has ended without being finished, until somebody goes on with it.
        look: seconds between two looks.
    """

    def __init__(self, path: Path, stream: TextIO, *, wait: bool = False, look: float = _LOOK) -> None:
        self.path, self._stream, self._wait, self._pause = path, stream, wait, look
        self._clock = _Clock()
        self._total = 0
        self._step = 0
        self._said: object = None
        console = Console(file=stream, highlight=False)
        self._view: WatchView | None = None
        self._observer: Observer
        if console.is_terminal and not console.is_dumb_terminal:
            footer = f"Ctrl-C leaves the run alone; plaudit runs stop {shlex.quote(str(path))} stops it"
            self._view = WatchView(console, path.absolute().name, footer, self._clock)
            self._observer = self._view
        else:
            self._observer = PlainTerminal(stream, self._clock)

    def follow(self, on_look: Callable[[News], None] = lambda news: None) -> RunState:
        """Show the run until it ends, and return how.

        Args:
            on_look: called behind every look.

        Raises:
            RunError: PL504, a file of the run is damaged.
        """
        follower = Follower(self.path)
        with self._view or nullcontext():
            try:
                while True:
                    news = follower.look()
                    self._tell(news)
                    on_look(news)
                    if news.ended and news.state is not None and not self._waits_for(news.state):
                        self._observer.on_message(self._last_word(news.state))
                        return news.state
                    time.sleep(self._pause)
            finally:
                follower.close()

    def _waits_for(self, state: RunState) -> bool:
        return self._wait and state.phase != "finished"

    # -- telling

    def _tell(self, news: News) -> None:
        self._once(news)
        if news.plan is not None:
            self._total = int(news.plan.get("total_steps") or 0)
            self._observer.on_start(from_json(news.plan))
        elif not self._total and news.state is not None:
            self._total = total_steps(self.path, {}) or 0
        for event in news.events:
            self._event(event)
        if news.rewound is not None:
            self._step = news.rewound
            if self._view is not None:
                self._view.rewind(news.rewound)
            self._observer.on_message(f"the run has gone back to step {news.rewound} and goes on from there")
        for kind, line in news.lines:
            self._line(kind, line)
        if news.state is not None:
            self._clock.live()
        if self._view is not None:
            self._view.show("not there yet" if news.state is None else news.state.words)

    def _once(self, news: News) -> None:
        """What is said when it begins to be so, and not at every look."""
        waiting: object = "no run" if news.state is None else news.state if news.ended and self._wait else None
        if waiting == self._said:
            return
        self._said = waiting
        if news.state is None:
            self._observer.on_message(f"waiting for a run in {self.path}; Ctrl-C ends the waiting")
        elif waiting is not None and news.state.phase != "finished":
            self._observer.on_message(f"{news.state.words}; waiting for somebody to go on with it")

    def _event(self, event: Line) -> None:
        kind = event.get("event")
        if kind == "note" and (self._view is None or self._clock.is_live):  # a picture does not need the past
            self._observer.on_message(str(event.get("text", "")))
        elif kind == "resumed":
            self._observer.on_message("a process goes on with the run")

    def _line(self, kind: str, line: Line) -> None:
        values: dict[str, Any] = dict(line)
        step = int(values.pop("step", 0))
        if kind == "samples":
            self._observer.on_samples(step, [values])
        elif kind == "alerts":
            known = {name: values.get(name, "") for name in ("level", "code", "message", "advice")}
            self._observer.on_alert(Alert(step=step, **known))
        elif any(name.startswith(EVAL_PREFIX) for name in values):
            self._observer.on_eval(step, values)
        else:
            self._clock.logged((step - self._step) * float(values.get("step_seconds", 0.0)))
            self._step = step
            self._observer.on_step(step, self._total, values)

    def _last_word(self, state: RunState) -> str:
        words = state.words
        if state.phase == "finished":
            return f"{words}; plaudit runs show {shlex.quote(str(self.path))} has its numbers"
        command = command_of(self.path)
        mended = "once that is mended " if state.phase == "failed" else ""
        return f"{words}; {mended}the same command goes on with it" + (f":\n  {command}" if command else "")
