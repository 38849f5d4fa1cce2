"""A run from its directory to its record: what begins it, what ends it, and what is said and written when it ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from plaudit.config.changed import changed_keys
from plaudit.runs.observer import Observer, Observers, Recorder
from plaudit.runs.report import ReportWriter
from plaudit.runs.rundir import CHECKPOINTS_NAME, COMPLETE_NAME, RunDir
from plaudit.runs.sinks import make_sinks
from plaudit.train.interrupt import Halted, Interrupted, leaving_in_order, resume_line
from plaudit.train.out_of_memory import explained
from plaudit.train.parallel import World, start_world
from plaudit.train.prepared import Preflight, Prepared
from plaudit.train.session import AnswerSampler, Session, TrainResult

if TYPE_CHECKING:
    from plaudit.config.load import Resolved


def run_training(
    resolved: Resolved,
    *,
    model: Any = None,
    tokenizer: Any = None,
    rows: Any = None,
    eval_rows: Any = None,
    observers: Sequence[Observer] = (),
    answer_sampler: AnswerSampler | None = None,
    session: type[Session] | None = None,
    preflight: Preflight | None = None,
) -> TrainResult:
    """Run, or resume, the training that `resolved` describes.

    Args:
        resolved: a checked configuration.
        model, tokenizer: a model in memory instead of `model.path`; it is trained in place.
        rows, eval_rows: rows in memory instead of `data.train` and `data.eval`.
        observers: who is told about the run besides its directory.
        answer_sampler: makes the sample rows shown at evaluations.
        session: what carries it out; a method that samples needs one from a layer above.
        preflight: looks at the run before its first step; from a layer above, too.

    Raises:
        PlauditError: whatever is wrong, before the first step where it can be known before.
        Interrupted: after a signal, Halted: after an alert of `watch.stop`; both with the state written.
    """
    config = resolved.run
    world = start_world()
    assert config.run.dir is not None
    if not world.is_main:
        # One process writes; the others work beside it in the directory that it opened.
        observers = ()
    run = RunDir.open(config.run.dir, config.run.if_exists, resolved.as_dict()) if world.is_main else None
    place = world.from_main(str(run.path) if run else "")
    channel = Observers(observers)
    try:
        with leaving_in_order():
            if run and not run.is_closed:  # nothing is added to the record of a complete run
                trackers = make_sinks(config.log.sinks, run.path, config.log.project)
                report = ReportWriter(run.path, lambda: changed_keys(resolved.as_dict()), channel.on_message)
                channel = Observers([Recorder(run), report, *observers, *trackers])
            for note in run.notes if run else []:
                channel.on_message(note)
            if run and run.is_complete:
                channel.on_message(f"the run in {place} is already complete; run.if_exists=new starts another")
            if (halted := world.from_main(run.halted if run else None)) is not None:
                raise Halted(halted["code"], halted["step"], halted["message"])
            carried = (session or Session)(resolved, world, run or _Elsewhere(Path(place)), channel)
            with explained(config):
                return carried.execute(model, tokenizer, rows, eval_rows, answer_sampler, preflight)
    except Halted as stopped:
        if run and run.halted is None:
            said = {"code": stopped.code, "step": stopped.step, "best_step": stopped.best_step}
            run.log_event("stopped", **said, message=stopped.message)
        how = f"to go on all the same, take {stopped.code} out of watch.stop, and"
        line = f"{stopped.message}; {how} {resume_line(place, config.run.if_exists)}"
        raise Halted(stopped.code, stopped.step, line) from None
    except Interrupted as stopped:
        if run and not run.is_closed:
            run.log_event("interrupted", signal=stopped.signum, step=stopped.step)
        line = f"{stopped.message}; {resume_line(place, config.run.if_exists)}"
        raise Interrupted(stopped.signum, line, stopped.step) from None
    except BaseException as error:
        if run:
            run.log_failure(error)
        if isinstance(error, KeyboardInterrupt):  # outside of the steps, or a second one within
            raise KeyboardInterrupt(f"interrupted; {resume_line(place, config.run.if_exists)}") from None
        raise
    finally:
        channel.close()
        if run:
            run.close()


class _Elsewhere:
    """The run directory as a process sees it that does not write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / CHECKPOINTS_NAME

    @property
    def is_complete(self) -> bool:
        return (self.path / COMPLETE_NAME).exists()


@contextmanager
def prepared_only(
    resolved: Resolved, *, answer_sampler: AnswerSampler | None, session: type[Session], observers: Sequence[Observer]
) -> Iterator[Prepared]:
    """A run as it is before its first step, of which nothing stays: it is prepared in a folder of its own, which is
    gone afterwards.

    Raises:
        PlauditError: what a run would raise before its first step, but for what is wrong with its directory.
    """
    config = resolved.run
    with leaving_in_order(), explained(config), TemporaryDirectory(prefix="plaudit-check-") as folder:
        own_files: dict[str, Any] = {"dir": folder}
        if config.run.reference_cache != "off":
            own_files["reference_cache"] = str(Path(folder) / "reference")
        aside = config.model_copy(update={"run": config.run.model_copy(update=own_files)})
        if config.rollout is not None:  # the file belongs to the run that will write it
            aside = aside.model_copy(update={"rollout": config.rollout.model_copy(update={"save": None})})
        with RunDir.open(folder, "resume", aside.model_dump(mode="json")) as run:
            own = session(replace(resolved, run=aside), World(), run, Observers(observers))
            prepared = own.prepare(None, None, None, None, answer_sampler)
            try:
                assert config.run.dir is not None
                yield replace(prepared, path=Path(config.run.dir).expanduser().absolute())
            finally:
                prepared.trainer.source.close()
                prepared.trainer.masters.release()
                own.close()
