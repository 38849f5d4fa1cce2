"""`plaudit.check`: imports nothing heavy until it is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plaudit.errors import PlauditError

if TYPE_CHECKING:
    from plaudit.preflight.findings import Checked


def check(
    method: str | None,
    *,
    model: str | Path | Mapping[str, Any] | None = None,
    data: Any = None,
    eval_data: Any = None,
    config: str | Path | Sequence[str | Path] | None = None,
    on_topic: Callable[[str], None] | None = None,
    **options: Any,
) -> Checked:
    """Look at everything that can be known about a run before its first step. Nothing is trained, and nothing stays.

    Args:
        method: name of a method, or the path of a Python file; None takes it from `config`.
        model, data, eval_data: as for `train`, but by path or hub id.
        config: one or more YAML files; the arguments win over them.
        on_topic: told what is looked at next.
        options: any key of the configuration, as for `train`.

    Returns:
        The findings. What training would raise is a finding with verdict FAIL, and is not raised.
    """
    given = dict(options)
    for key, value in (("model", model), ("data", data), ("eval_data", eval_data)):
        if value is not None:
            given[key] = str(value) if isinstance(value, Path) else value
    files = [Path(f) for f in ([config] if isinstance(config, (str, Path)) else config or [])]
    return _check(method, files, given, on_topic or (lambda topic: None))


def check_from_arguments(
    method: str | None, arguments: Sequence[str], on_topic: Callable[[str], None] = lambda topic: None
) -> Checked:
    """`check` with a command line's arguments: files, key=value and flags."""
    return _check(method, [], arguments, on_topic)


def _check(
    method: str | None,
    files: Sequence[Path],
    overrides: Sequence[str] | Mapping[str, Any],
    on_topic: Callable[[str], None],
) -> Checked:
    from plaudit.config.load import resolve
    from plaudit.config.packages import need_training_packages
    from plaudit.preflight.findings import Checked, Finding

    try:
        on_topic("configuration")
        resolved = resolve(method, files, overrides)
    except PlauditError as error:
        return Checked.of([Finding.of_error(error, "configuration")], {}, _others("configuration"))
    try:
        need_training_packages()
    except PlauditError as error:
        return Checked.of([Finding.of_error(error, "environment")], {}, _others("environment"))
    from plaudit.inference.sampling import PolicyAnswers
    from plaudit.online.session import OnlineSession
    from plaudit.preflight.environment import environment, trackers
    from plaudit.preflight.run import Collector, configuration, look_at, run_directory
    from plaudit.runs.observer import SilentObserver
    from plaudit.train.announce import plan_of
    from plaudit.train.running import prepared_only
    from plaudit.train.session import Session

    found = Collector()
    found.findings.append(configuration(resolved))
    on_topic("environment")
    found.make("environment", environment)
    found.make("environment", lambda: trackers(resolved))
    found.make("run directory", lambda: run_directory(resolved))
    session = OnlineSession if resolved.method.is_online() else Session
    plan: dict[str, Any] = {}
    try:
        on_topic("data and model")
        with prepared_only(
            resolved, answer_sampler=PolicyAnswers(), session=session, observers=[SilentObserver()]
        ) as prepared:
            plan = plan_of(prepared)
            on_topic("forward and backward, evaluation")
            plan |= look_at(prepared, found)
    except PlauditError as error:
        found.failed(error)
    return Checked.of(found.findings, plan, found.skipped())


def _others(topic: str) -> list[str]:
    from plaudit.preflight.findings import TOPICS

    return [other for other in TOPICS if other != topic]
