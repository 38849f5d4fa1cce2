"""All checks of a run: before every training, and alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from plaudit.config.load import Resolved
from plaudit.errors import PlauditError
from plaudit.online.files import check_owner
from plaudit.preflight import resources, rows, settings
from plaudit.preflight.environment import environment
from plaudit.preflight.findings import TOPICS, Checked, Finding
from plaudit.runs.rundir import COMPLETE_NAME, RunDir
from plaudit.train.prepared import Looked, Prepared

Check = Callable[[Prepared], Iterator[Finding]]

_LIGHT: dict[str, Check] = {
    "data": rows.data,
    "held-out data": rows.held_out,
    "lengths": rows.lengths,
    "template": rows.template,
    "end of answers": rows.ends,
    "learning rate": settings.learning_rate,
    "steps": settings.steps,
}
"""Checks that compute next to nothing."""


def before_training(prepared: Prepared) -> Looked:
    """The check that runs by itself: a `Preflight`.

    Raises:
        PlauditError: what would keep the run from its end: memory (PL406), disk (PL505).
    """
    world, config = prepared.world, prepared.config
    full = config.run.check == "full" and not prepared.resumes  # a run that has computed steps has shown that they fit
    rehearsed = resources.rehearse(prepared) if full else None
    found: list[Finding] = []
    plan: dict[str, str] = {}

    def look() -> list[Finding]:
        """On one process: files and rows are the same for all."""
        if not world.is_main:
            return []
        found.extend(environment())
        for check in _LIGHT.values():
            found.extend(check(prepared))
        files = resources.files(prepared)
        found.extend(resources.disk(files, config.checkpoint.keep))
        plan.update(files.row(config.checkpoint.keep))
        return found

    world.together(look)
    if full:
        found += [*resources.memory(rehearsed), *resources.passes(rehearsed)]
        plan |= {"memory": rehearsed.memory} if rehearsed is not None else {}
        plan |= resources.time_row(prepared, rehearsed)
    checked = Checked.of(found, plan)
    warned = [f"check: {f}" for f in checked.findings if f.verdict == "WARN" and f.topic != "learning rate"]
    counts = checked.counts
    for line in [*warned, f"check: {counts['OK']} OK, {counts['WARN']} to look at"]:
        prepared.say(line)
    return Looked(plan, checked.as_dict())


def run_directory(resolved: Resolved) -> Iterator[Finding]:
    """Whether the run directory, and the file of `rollout.save`, can take the run.

    Raises:
        RunError: PL501-PL504.
        ConfigError: PL102, the file is another run's.
    """
    options, rollout = resolved.run.run, resolved.run.rollout
    assert options.dir is not None
    place = Path(options.dir).expanduser().absolute()
    what = RunDir.foresee(place, options.if_exists, resolved.as_dict())
    if rollout is not None and rollout.save is not None:
        check_owner(Path(rollout.save).expanduser(), str(place))
    if what == "new":
        yield Finding("OK", "run directory", f"{options.dir} is new")
    elif (place / COMPLETE_NAME).exists():
        text = f"{options.dir} holds this run already, and it is complete: the same command computes nothing"
        yield Finding("WARN", "run directory", text, "run.if_exists=new, or another run.dir, starts another run")
    else:
        text = f"{options.dir} holds this run already, which the same command goes on with"
        yield Finding("OK", "run directory", text)


class Collector:
    """Findings of checks of which some fail.

    A check that raises an error meant for users has failed; the others are made all the same.
    """

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self._looked: set[str] = set()

    def make(self, topic: str, check: Callable[[], Iterator[Finding]]) -> bool:
        """Make one check.

        Returns:
            Whether it could be made.
        """
        try:
            self.findings += check()
            self._looked.add(topic)
        except PlauditError as error:
            self.findings.append(Finding.of_error(error, topic))
            return False
        return True

    def failed(self, error: PlauditError) -> None:
        """Take up what ended the preparation; the topic is the error's own."""
        self.findings.append(Finding.of_error(error))

    def skipped(self) -> list[str]:
        """Topics that could not be looked at."""
        seen = self._looked | {f.topic for f in self.findings}
        return [topic for topic in TOPICS if topic not in seen]


def look_at(prepared: Prepared, into: Collector) -> dict[str, str]:
    """All checks of a run that is prepared.

    Returns:
        Further rows of the plan.
    """
    config = prepared.config
    plan: dict[str, str] = {}
    for topic, check in _LIGHT.items():
        into.make(topic, lambda check=check: check(prepared))  # type: ignore[misc]
    into.make("model", lambda: _model(prepared))

    rehearsed: resources.Rehearsed | None = None

    def rehearse() -> Iterator[Finding]:
        nonlocal rehearsed
        rehearsed = resources.rehearse(prepared)
        if rehearsed is not None:
            plan["memory"] = rehearsed.memory
        plan.update(resources.time_row(prepared, rehearsed))
        yield from resources.memory(rehearsed)

    def disk() -> Iterator[Finding]:
        files = resources.files(prepared)
        plan.update(files.row(config.checkpoint.keep))
        yield from resources.disk(files, config.checkpoint.keep)

    fits = into.make("memory", rehearse) and into.make("forward and backward", lambda: resources.passes(rehearsed))
    into.make("reward", lambda: rows.reward(prepared))
    if fits or prepared.trainer.schedule.eval_every is None:
        into.make("evaluation", lambda: resources.evaluation(prepared))
    into.make("disk", disk)
    return plan


def _model(prepared: Prepared) -> Iterator[Finding]:
    model = prepared.cast.trained
    total = sum(p.numel() for p in model.parameters())
    trained = sum(w.numel() for w in prepared.cast.masters.parameters)
    precision = f"{str(model.dtype).removeprefix('torch.')} on {model.device.type}"
    text = f"{total:,} parameters, {trained:,} of them trained, {precision}; the {model.path} path agrees with the "
    yield Finding("OK", "model", f"{text}model's own forward to {prepared.parity:.1e} nats")


def configuration(resolved: Resolved) -> Finding:
    """That the configuration is complete; with what was chosen because nobody did."""
    derived = ", ".join(f"{key}={json.dumps(value)}" for key, value in resolved.defaulted.items())
    text = f"{resolved.method.title} ({resolved.method.name}), {resolved.run.model.path}"
    return Finding("OK", "configuration", f"{text}; not given, so: {derived}" if derived else text)
