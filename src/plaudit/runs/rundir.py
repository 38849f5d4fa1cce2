"""The run directory: the record of a run and the only thing that anything else has to read.

config.yaml        the resolved configuration
environment.json   what the run ran on
data_report.json   what the data reader kept, dropped and truncated
token_budget.json  tokens per micro-batch, where they were measured (train.tokens_per_microbatch: auto), and why
metrics.jsonl      one line per logged step: {"step": 10, "loss": 0.61, "eval/loss": …}
samples.jsonl      one line per sample: {"step": 10, "prompt": …, "completion": …}
alerts.jsonl       one line per alert
check.json         what the check before the first step has found (run.check)
plan.json          the plan as it was shown, its numbers ("facts"), and the number of steps ("total_steps")
console.log        what a run that was started with --detach has said
ledger.jsonl       started, resumed, checkpoint, kept, interrupted, stopped, failed, completed, pruned: a hash chain
report.html        written by `runs.report`
checkpoints/       written by the trainer
kl_grid.json       models kept where the KL passed a value of checkpoint.kl_grid, with their numbers
COMPLETE           the summary; exists when the run is complete
"""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import yaml

from plaudit.errors import PlauditError, RunError
from plaudit.runs import environment, jsonl, ledger, yaml_text
from plaudit.runs.alert_history import EVALUATION_ALERTS
from plaudit.runs.alerts import Alert
from plaudit.runs.config_diff import Difference, differences, plain
from plaudit.runs.lock import LOCK_NAME, RunLock, is_locked, written_elsewhere
from plaudit.runs.plan import as_json

IfExists = Literal["resume", "fail", "new"]

CONFIG_NAME = "config.yaml"
ENVIRONMENT_NAME = "environment.json"
DATA_REPORT_NAME = "data_report.json"
TOKEN_BUDGET_NAME = "token_budget.json"
METRICS_NAME = "metrics.jsonl"
SAMPLES_NAME = "samples.jsonl"
ALERTS_NAME = "alerts.jsonl"
REPORT_NAME = "report.html"
PLAN_NAME = "plan.json"
CHECK_NAME = "check.json"
CONSOLE_NAME = "console.log"
CHECKPOINTS_NAME = "checkpoints"
MODEL_FOLDER = "model"
"""What was trained: an adapter, or the whole model. `BEST_FOLDER` has the same form."""
COMPLETE_NAME = "COMPLETE"
BEST_FOLDER = "best"
"""The model of the best evaluation."""
KL_GRID_NAME = "kl_grid.json"
KL_FOLDER = "kl-"
"""Beginning of the name of a folder with a model of the KL grid; behind it the value. Its form is that of `model`."""

FREE_KEYS = (
    "log.*", "checkpoint.*", "run.*", "train.sharding",
    "watch", "watch.*", "!watch.gold", "!watch.gold.*", "!watch.outlier_*",
)  # fmt: skip
"""Configuration keys that may change when a run is resumed: they do not touch what is computed. ("!": but not these.)
"""


def content_of(path: Path) -> Literal["free", "run", "foreign"]:
    """Whether a place is a run directory, could become one, or holds something else."""
    if (path / CONFIG_NAME).exists():
        return "run"
    if not path.exists():
        return "free"
    if not path.is_dir():
        return "foreign"
    # A kill before config.yaml was in place leaves only these behind, and a detached start makes its log first.
    own = (LOCK_NAME, CONSOLE_NAME)
    left = [p.name for p in path.iterdir() if p.name not in own and not p.name.endswith(".tmp")]
    return "foreign" if left else "free"


def _has_progress(path: Path) -> bool:
    """Whether anything of a run was computed. Before that, a mended command may differ: there is nothing to fit to."""
    metrics, kept = path / METRICS_NAME, path / CHECKPOINTS_NAME
    steps = metrics.exists() and metrics.stat().st_size > 0
    return (path / COMPLETE_NAME).exists() or steps or (kept.is_dir() and any(kept.iterdir()))


def _candidates(first: Path) -> Iterator[Path]:
    """<path>, <path>-2, <path>-3, …"""
    yield first
    yield from (first.with_name(f"{first.name}-{number}") for number in count(2))


class RunDir:
    """An open run directory, locked for this process. Use `open`, and `close` (or a with statement).

    Attributes:
        path: the directory, absolute.
        resumed: whether it already held a run.
        notes: what was repaired or differs since the last start, in sentences to show to the user.
        halted: the event by which an alert ended the run, where `watch.stop` still holds its code: nothing is computed.
    """

    def __init__(self, path: Path, lock: RunLock) -> None:
        self.path = path
        self.resumed = False
        self.notes: list[str] = []
        self.halted: dict[str, Any] | None = None
        self._lock = lock

    @classmethod
    def open(
        cls,
        path: str | Path,
        if_exists: IfExists,
        config: Mapping[str, Any],
        *,
        free_keys: Sequence[str] = FREE_KEYS,
    ) -> RunDir:
        """Open a run directory for writing.

        Args:
            path: the directory; missing parents are made.
            if_exists: what to do when it already holds a run: ``resume`` it, ``fail``, or use a ``new`` directory
                <path>-2, <path>-3, …
            config: the resolved configuration, plain values only.
            free_keys: patterns of dotted keys that may differ on resume.

        Raises:
            RunError: PL501, it holds something else, or a run and if_exists is ``fail``; PL502, its configuration
                differs; PL503, another process writes it; PL504, a file is damaged; PL505, it cannot be written.
        """
        first = Path(path).expanduser().absolute()
        run = cls._open_new(first) if if_exists == "new" else cls._open_at(first, may_resume=if_exists == "resume")
        try:
            if run.resumed:
                run._resume(plain(config), free_keys)
            else:
                run._start(plain(config))
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def foresee(cls, path: str | Path, if_exists: IfExists, config: Mapping[str, Any]) -> Literal["new", "resume"]:
        """What `open` would do, without doing it.

        Raises:
            RunError: PL501-PL504 as `open`.
        """
        place = Path(path).expanduser().absolute()
        if if_exists == "new" or cls._refuse(place, may_resume=if_exists == "resume") == "free":
            return "new"
        if is_locked(place):
            raise written_elsewhere(place)
        _, refused = differences(read_config(place), plain(config), FREE_KEYS)
        if refused and _has_progress(place):
            raise _cannot_resume(place, refused)
        return "resume"

    @classmethod
    def claim(cls, path: str | Path, if_exists: IfExists) -> Path:
        """Make, or find, the directory in which another process is about to `open` the run that is asked for.

        With ``new`` that is a directory which nobody else is given.

        Raises:
            RunError: as `open`, without a look at the configuration.
        """
        first = Path(path).expanduser().absolute()
        if if_exists != "new":
            cls._refuse(first, may_resume=if_exists == "resume")
            with jsonl.writing(first):
                first.mkdir(parents=True, exist_ok=True)
            RunLock(first).release()
            return first
        for candidate in _candidates(first):
            with jsonl.writing(candidate):
                try:
                    candidate.mkdir(parents=True)
                except FileExistsError:
                    continue
                (candidate / CONSOLE_NAME).touch()  # by this others see that it is taken
            return candidate
        raise AssertionError("there is always another number")

    @classmethod
    def _open_at(cls, path: Path, *, may_resume: bool) -> RunDir:
        cls._refuse(path, may_resume)
        with jsonl.writing(path):
            path.mkdir(parents=True, exist_ok=True)
        run = cls(path, RunLock(path))
        try:
            run.resumed = cls._refuse(path, may_resume) == "run"  # again: another process may have been faster
        except RunError:
            run.close()
            raise
        return run

    @staticmethod
    def _refuse(path: Path, may_resume: bool) -> str:
        with jsonl.writing(path):
            state = content_of(path)
        if state == "foreign":
            raise RunError(
                "PL501",
                "the directory is not empty and holds no run" if path.is_dir() else "this is no directory",
                where=str(path),
                mend="choose another directory with run.dir=…",
            )
        if state == "run" and not may_resume:
            raise RunError(
                "PL501",
                "the directory already holds a run, and run.if_exists is fail",
                where=str(path),
                mend="run.if_exists=resume goes on with it, run.if_exists=new uses a directory beside it",
            )
        return state

    @classmethod
    def _open_new(cls, first: Path) -> RunDir:
        for candidate in _candidates(first):
            with jsonl.writing(candidate):
                state = content_of(candidate)
            if state != "free" or (candidate / CONSOLE_NAME).exists():  # the second: `claim` has given it to somebody
                continue
            try:
                return cls._open_at(candidate, may_resume=False)
            except RunError as error:
                if error.code not in ("PL501", "PL503"):
                    raise
        raise AssertionError("there is always another number")

    def _start(self, config: dict[str, Any]) -> None:
        with jsonl.writing(self.checkpoints):
            self.checkpoints.mkdir(exist_ok=True)
        now = environment.collect()
        jsonl.write_atomically(self.path / ENVIRONMENT_NAME, jsonl.dumps(now, indent=2) + "\n")
        self._write_config(config)
        self.log_event("started", versions=now["packages"], config_sha256=_config_hash(config))

    def _resume(self, config: dict[str, Any], free_keys: Sequence[str]) -> None:
        changed, refused = differences(read_config(self.path), config, free_keys)
        if refused and _has_progress(self.path):
            raise _cannot_resume(self.path, refused)
        changed += refused
        with jsonl.writing(self.checkpoints):
            self.checkpoints.mkdir(exist_ok=True)
        for name in (METRICS_NAME, SAMPLES_NAME, ALERTS_NAME, ledger.LEDGER_NAME):
            note = jsonl.repair(self.path / name)
            if note:
                self.notes.append(note)
        if self.is_complete:
            return  # nothing will be computed: the record stays as it is
        last = ledger.last_event(self.path / ledger.LEDGER_NAME)
        if last.get("event") == "stopped" and last.get("code") in (config.get("watch") or {}).get("stop", ()):
            self.halted = last
            return  # as before
        now = environment.collect()
        old = read_json(self.path / ENVIRONMENT_NAME) or {}
        moved = environment.differences(old, now)
        self.notes += [f"{c} since the run was started; results may differ in the last digits" for c in moved]
        self.notes += [f"configuration changed: {c}" for c in changed]
        jsonl.write_atomically(self.path / ENVIRONMENT_NAME, jsonl.dumps(now, indent=2) + "\n")
        if changed:
            self._write_config(config)
        self.log_event("resumed", versions=now["packages"], config_sha256=_config_hash(config), notes=list(self.notes))

    def _write_config(self, config: dict[str, Any]) -> None:
        text = yaml_text.dump(config)
        jsonl.write_atomically(self.path / CONFIG_NAME, text)

    # -- what the trainer writes

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / CHECKPOINTS_NAME

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append the metrics of a step. Values are plain numbers; not-a-number is kept."""
        assert "step" not in metrics
        self._append(METRICS_NAME, {"step": step, **{name: float(value) for name, value in metrics.items()}})

    def log_samples(self, step: int, samples: Iterable[Mapping[str, Any]]) -> None:
        """Append samples; the report shows those with the same `prompt` side by side through training."""
        for sample in samples:
            assert "step" not in sample
            self._append(SAMPLES_NAME, {"step": step, **sample})

    def log_alert(self, alert: Alert) -> None:
        """Append an alert."""
        self._append(ALERTS_NAME, asdict(alert))

    def log_event(self, event: str, **details: Any) -> None:
        """Append an event (checkpoint, interrupted, …) to the ledger, durably."""
        ledger.append_event(self.path / ledger.LEDGER_NAME, event, details)

    def log_failure(self, error: BaseException) -> None:
        """Let the ledger say which error, or Ctrl-C outside of the steps, has ended the run."""
        if self.is_closed:
            return
        with suppress(RunError):  # the disk may be what has failed
            if isinstance(error, KeyboardInterrupt):
                self.log_event("interrupted", signal=int(signal.SIGINT), step=0)
            elif isinstance(error, PlauditError):
                self.log_event("failed", code=error.code, what=error.what)
            else:
                self.log_event("failed", code=None, what=f"{type(error).__name__}: {error}".rstrip(": "))

    def write_data_report(self, report: Mapping[str, Any]) -> None:
        """Write what the data reader kept, dropped and truncated."""
        jsonl.write_atomically(self.path / DATA_REPORT_NAME, jsonl.dumps(report, indent=2) + "\n")

    def write_plan(self, plan: Mapping[str, Any], total_steps: int) -> None:
        """Write the plan that is shown at the start."""
        known = {"total_steps": total_steps, **as_json(plan)}
        jsonl.write_atomically(self.path / PLAN_NAME, jsonl.dumps(known, indent=2) + "\n")

    def write_check(self, found: Mapping[str, Any]) -> None:
        """Write what the check before the first step has found."""
        jsonl.write_atomically(self.path / CHECK_NAME, jsonl.dumps(found, indent=2) + "\n")

    def write_token_budget(self, facts: Mapping[str, Any]) -> None:
        """Write what was chosen for train.tokens_per_microbatch: auto ("tokens"), and why."""
        jsonl.write_atomically(self.path / TOKEN_BUDGET_NAME, jsonl.dumps(facts, indent=2) + "\n")

    def token_budget(self) -> dict[str, Any] | None:
        """What `write_token_budget` wrote; None where nothing was computed with it, and another start may choose anew.

        Raises:
            RunError: PL504, the file is damaged, or gone although there are checkpoints that fit to no other number.
        """
        if not _has_progress(self.path):
            return None
        found = read_json(self.path / TOKEN_BUDGET_NAME)
        if found is None or not isinstance(found.get("tokens"), int):
            raise RunError(
                "PL504",
                "nothing says which tokens per micro-batch the run was started with",
                where=str(self.path / TOKEN_BUDGET_NAME),
                mend="restore the file from a copy, or start another run (run.if_exists=new, or run.dir=…)",
            )
        return found

    def add_environment(self, facts: Mapping[str, Any]) -> None:
        """Add facts that only the trainer knows (device, precision, processes) to environment.json."""
        old = read_json(self.path / ENVIRONMENT_NAME) or {}
        jsonl.write_atomically(self.path / ENVIRONMENT_NAME, jsonl.dumps({**old, **facts}, indent=2) + "\n")

    def truncate_after(self, step: int, *, evaluated: bool = True) -> int:
        """Remove the metrics, samples and alerts of later steps, which the resumed run will write again.

        Args:
            step: the step of the checkpoint; -1 removes everything (resume before the first checkpoint).
            evaluated: False when the checkpoint was written before the evaluation of its own step: what that
                evaluation wrote is removed too.

        Returns:
            How many lines were removed.
        """

        def stays(line: jsonl.Line) -> bool:
            return bool(line["step"] < step or (line["step"] == step and evaluated))

        def stays_metrics(line: jsonl.Line) -> bool:
            is_eval = any(name.startswith("eval/") for name in line)
            return bool(line["step"] < step or (line["step"] == step and (evaluated or not is_eval)))

        def stays_alerts(line: jsonl.Line) -> bool:
            if line["step"] == step and not evaluated and line["code"] in EVALUATION_ALERTS:
                return False  # the verdict of that evaluation
            return bool(line["step"] <= step)

        return (
            jsonl.keep_lines(self.path / METRICS_NAME, stays_metrics)
            + jsonl.keep_lines(self.path / SAMPLES_NAME, stays)
            + jsonl.keep_lines(self.path / ALERTS_NAME, stays_alerts)
        )

    def mark_complete(self, summary: Mapping[str, Any]) -> None:
        """Record the end: an event in the ledger, then COMPLETE with the summary and that event's hash."""
        head = ledger.append_event(self.path / ledger.LEDGER_NAME, "completed", {"summary": summary})
        text = jsonl.dumps({"summary": summary, "ledger_head": head}, indent=2)
        jsonl.write_atomically(self.path / COMPLETE_NAME, text + "\n")

    @property
    def is_complete(self) -> bool:
        """Whether the run has come to its end."""
        return (self.path / COMPLETE_NAME).exists()

    @property
    def is_closed(self) -> bool:
        """Whether nothing is computed any more, so that the record is left alone: complete, or ended by watch.stop."""
        return self.is_complete or self.halted is not None

    @property
    def summary(self) -> dict[str, Any]:
        """The summary given to `mark_complete`; empty while the run is not complete."""
        complete = read_json(self.path / COMPLETE_NAME) or {}
        return dict(complete.get("summary", {}))

    def _append(self, name: str, line: Mapping[str, Any]) -> None:
        jsonl.append_line(self.path / name, jsonl.dumps(line))

    def close(self) -> None:
        """Give the lock back. The directory can still be read."""
        self._lock.release()

    def __enter__(self) -> RunDir:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object of the run directory; None when there is no such file.

    Raises:
        RunError: PL504, the file is damaged.
    """
    if not path.exists():
        return None
    try:
        value = jsonl.loads(path.read_bytes())
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise RunError("PL504", "the file is not a JSON object", where=str(path), mend="restore it from a copy")
    return value


def read_config(path: Path) -> dict[str, Any]:
    """The resolved configuration of a run directory.

    Raises:
        RunError: PL501, there is no run; PL504, its configuration is damaged.
    """
    file = path / CONFIG_NAME
    if not file.exists():
        what = "the directory holds no run" if path.is_dir() else "there is no such run directory"
        mend = "give the directory that the training command printed; `plaudit runs list` shows those in runs/"
        if (usual := Path("runs") / path).is_dir() and usual != path:  # the last part of what `runs list` shows
            mend = f"did you mean {usual}?"
        raise RunError("PL501", what, where=str(path), mend=mend)
    try:
        config = yaml_text.load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        config = None
    if not isinstance(config, dict):
        raise RunError("PL504", "config.yaml is damaged", where=str(file), mend="restore it from a copy")
    return config


def _config_hash(config: Mapping[str, Any]) -> str:
    return hashlib.sha256(jsonl.dumps(config).encode("utf-8", errors="backslashreplace")).hexdigest()


def _cannot_resume(path: Path, refused: Sequence[Difference]) -> RunError:
    return RunError(
        "PL502",
        "the configuration differs from the one this run was started with:\n" + "\n".join(f"    {d}" for d in refused),
        where=str(path / CONFIG_NAME),
        mend="give the old values to go on with this run, or start another one (run.if_exists=new, or run.dir=…)",
    )
