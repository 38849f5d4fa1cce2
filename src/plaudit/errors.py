"""One exception tree for everything a user can run into.

    PlauditError
     ├─ ConfigError       PL1xx  the configuration, flags and options
     ├─ DataError         PL2xx  files, rows, columns, templates
     ├─ ModelError        PL3xx  loading, architecture, adapters, parity
     ├─ TrainingError     PL4xx  the loop: NaN, no signal, optimiser
     ├─ RunError          PL5xx  run directory, checkpoints, resume
     ├─ EngineError       PL6xx  generation
     ├─ RewardError       PL7xx  rewards: models, verifiers, judges, the sandbox
     └─ EvaluationError   PL8xx  evaluation

A message always answers three questions: what happened, where (file:line, row id or config key), and how to mend
it. ``assert`` is for programmers; these are for users, and the command line prints them without a traceback.
"""

from __future__ import annotations

from typing import Any, ClassVar

FINISHED, CRASHED, USER_ERROR, HALTED, SIGNALLED = 0, 1, 2, 3, 128
"""What a command ends with: its end, an error of the program, a mistake of the user, an alert in watch.stop, and a
signal, whose number is added."""

CODES: dict[str, str] = {
    # -- PL1xx configuration
    "PL100": "the configuration has errors",
    "PL101": "there is no such method",
    "PL102": "an argument of a command is wrong",
    "PL103": "a package is missing or too old",
    "PL104": "a configuration of another tool cannot be migrated",
    # -- PL2xx data
    "PL200": "the data has errors",
    "PL201": "a data source cannot be read",
    "PL202": "a row cannot be parsed",
    "PL203": "the columns are not understood",
    "PL204": "rows without content or signal",
    "PL205": "rows longer than max_length",
    "PL206": "too many rows would be dropped",
    "PL207": "no rows are left",
    "PL208": "the chat template cannot be used",
    "PL209": "the data source is of a kind that is not supported",
    "PL210": "the hub cannot be reached",
    "PL211": "feedback with one label only",
    "PL212": "a data option has no meaning here",
    # -- PL3xx model
    "PL301": "the model cannot be loaded",
    "PL302": "the model fails the parity probe",
    "PL303": "the architecture is not supported",
    "PL304": "an attention option is not understood",
    "PL305": "dropout is not allowed here",
    "PL306": "an adapter does not fit the model",
    "PL307": "a sequence is longer than the model allows",
    "PL308": "there is no token to pad with",
    "PL309": "the tokenizer does not fit the model",
    # -- PL4xx training
    "PL401": "there is nothing to train on",
    "PL402": "the loss or a gradient is not finite",
    "PL403": "a trainable parameter received no gradient",
    "PL404": "a start-of-run invariant does not hold",
    "PL405": "an option is not available here",
    "PL406": "a micro-batch does not fit in memory",
    "PL407": "the processes of a run do not find each other",
    # -- PL5xx run directory and checkpoints
    "PL501": "the run directory cannot be used",
    "PL502": "the run cannot be resumed",
    "PL503": "the run is being written by another process",
    "PL504": "a file of the run directory is damaged",
    "PL505": "the run directory cannot be written",
    "PL506": "a tracker cannot be used",
    "PL507": "the run cannot be reached from here",
    # -- PL6xx generation
    "PL601": "generation failed",
    "PL602": "a prompt cannot be generated from",
    "PL603": "weights do not fit the engine",
    "PL604": "the engine does not have an option",
    "PL605": "the engine cannot run the model",
    "PL606": "the weights changed while completions were generated",
    # -- PL7xx rewards
    "PL701": "the model is not a reward model",
    "PL702": "the scores cannot be normalised",
    "PL703": "the ensemble cannot be used",
    "PL704": "the reward models cannot be averaged",
    "PL705": "an answer cannot be scored",
    "PL706": "too many answers have no reward",
    "PL707": "the sandbox cannot be used",
    "PL708": "the judge cannot be used",
    "PL709": "no row has what a reward reads",
    # -- PL8xx evaluation
    "PL801": "there is nothing to evaluate",
    "PL802": "a score is not a finite number",
    "PL803": "the output folder holds something else",
    "PL804": "no model to measure is found",
    "PL805": "the models do not read the same tokens",
    "PL806": "the run has not logged what is needed",
}
"""Every code with its title; `docs/errors.md` has a section for each (a test compares the two)."""


class PlauditError(Exception):
    """Base of all errors meant for users.

    Args:
        code: a key of `CODES`.
        what: what happened, in one sentence.
        where: file:line, row id, config key or module name.
        mend: what to do about it.
    """

    family: ClassVar[str] = "PL"

    def __init__(self, code: str, what: str, *, where: str | None = None, mend: str | None = None) -> None:
        assert code in CODES, code
        assert code.startswith(self.family), code
        self.code, self.what, self.where, self.mend = code, what, where, mend
        lines = [f"[{code}] {what}"]
        if where:
            lines.append(f"  where: {where}")
        if mend:
            lines.append(f"  mend:  {mend}")
        super().__init__("\n".join(lines))

    @property
    def page(self) -> str:
        """Where the documents say more about it."""
        return f"docs/errors.md#{self.code.lower()}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors travel between processes whole."""
        return type(self)._of, (self.code, self.what, self.where, self.mend)

    @classmethod
    def _of(cls, code: str, what: str, where: str | None, mend: str | None) -> PlauditError:
        return cls(code, what, where=where, mend=mend)


class ConfigError(PlauditError):
    """A key, value or combination of options is wrong."""

    family = "PL1"


class DataError(PlauditError):
    """A file, row, column or chat template is wrong."""

    family = "PL2"


class ModelError(PlauditError):
    """A model or adapter cannot be loaded, is not supported or does not behave as its own forward does."""

    family = "PL3"


class TrainingError(PlauditError):
    """Training cannot go on: no data, a value that is not finite, a broken invariant."""

    family = "PL4"


class RunError(PlauditError):
    """The run directory or a checkpoint cannot be used."""

    family = "PL5"


class EngineError(PlauditError):
    """Generation failed."""

    family = "PL6"


class RewardError(PlauditError):
    """A reward cannot be used, or gives too few values."""

    family = "PL7"


class EvaluationError(PlauditError):
    """Scores or rows cannot be evaluated."""

    family = "PL8"
