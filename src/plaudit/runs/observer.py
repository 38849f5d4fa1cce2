"""What watches a run: the run directory's recorder, the terminal, trackers. The trainer talks to one `Observers`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from plaudit.runs.alerts import Alert
from plaudit.runs.rundir import RunDir

Sample = Mapping[str, Any]
"""A sample shown to people: `prompt` and `completion` as text, and whatever else the method wants to show (chosen,
rejected, reward, …). Samples with the same `prompt` are compared through training."""


class Observer(Protocol):
    """Receives what happens, in order. Values are plain Python numbers and text."""

    def on_start(self, plan: Mapping[str, Any]) -> None:
        """The run begins (or goes on). `plan` is shown as it is: model, data, sizes, steps, learning rate, …"""

    def on_step(self, step: int, total_steps: int, metrics: Mapping[str, float]) -> None:
        """A logged optimiser step; steps count from 1."""

    def on_eval(self, step: int, metrics: Mapping[str, float]) -> None:
        """An evaluation; names carry the ``eval/`` prefix."""

    def on_samples(self, step: int, samples: Sequence[Sample]) -> None:
        """Samples taken at a step."""

    def on_alert(self, alert: Alert) -> None:
        """An alert was raised."""

    def on_message(self, text: str) -> None:
        """A sentence for the user."""

    def on_finish(self, summary: Mapping[str, Any]) -> None:
        """The run is complete."""

    def close(self) -> None:
        """No more calls follow; also called when the run ends by an error or a signal. May be called twice."""


class SilentObserver:
    """Does nothing: a base for observers that care for a few calls only."""

    def on_start(self, plan: Mapping[str, Any]) -> None: ...

    def on_step(self, step: int, total_steps: int, metrics: Mapping[str, float]) -> None: ...

    def on_eval(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def on_samples(self, step: int, samples: Sequence[Sample]) -> None: ...

    def on_alert(self, alert: Alert) -> None: ...

    def on_message(self, text: str) -> None: ...

    def on_finish(self, summary: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class Recorder(SilentObserver):
    """Writes to the run directory: metrics, samples, alerts, and messages as notes in the ledger.

    Put it first: what is shown is then on the disk.
    """

    def __init__(self, run: RunDir) -> None:
        self._run = run

    def on_step(self, step: int, total_steps: int, metrics: Mapping[str, float]) -> None:
        self._run.log_metrics(step, metrics)

    def on_eval(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log_metrics(step, metrics)

    def on_samples(self, step: int, samples: Sequence[Sample]) -> None:
        self._run.log_samples(step, samples)

    def on_alert(self, alert: Alert) -> None:
        self._run.log_alert(alert)

    def on_message(self, text: str) -> None:
        self._run.log_event("note", text=text)


class Observers:
    """Passes every call on to several observers, in their order."""

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        self._observers = list(observers)

    def on_start(self, plan: Mapping[str, Any]) -> None:
        for observer in self._observers:
            observer.on_start(plan)

    def on_step(self, step: int, total_steps: int, metrics: Mapping[str, float]) -> None:
        for observer in self._observers:
            observer.on_step(step, total_steps, metrics)

    def on_eval(self, step: int, metrics: Mapping[str, float]) -> None:
        for observer in self._observers:
            observer.on_eval(step, metrics)

    def on_samples(self, step: int, samples: Sequence[Sample]) -> None:
        for observer in self._observers:
            observer.on_samples(step, samples)

    def on_alert(self, alert: Alert) -> None:
        for observer in self._observers:
            observer.on_alert(alert)

    def on_message(self, text: str) -> None:
        for observer in self._observers:
            observer.on_message(text)

    def on_finish(self, summary: Mapping[str, Any]) -> None:
        for observer in self._observers:
            observer.on_finish(summary)

    def close(self) -> None:
        for observer in self._observers:
            observer.close()
