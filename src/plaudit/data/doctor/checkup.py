"""A data file examined, mended, and examined again."""

from __future__ import annotations

import difflib
import gc
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from plaudit.config.schema import SourceConfig
from plaudit.data.doctor.clean import FIXES, Cleaned, check_outputs, plan, write
from plaudit.data.doctor.examine import diagnose, examine
from plaudit.data.doctor.findings import Diagnosis
from plaudit.data.kinds import KINDS
from plaudit.data.readers import RowSource
from plaudit.errors import ConfigError
from plaudit.types import DataKind


@dataclass(frozen=True, slots=True)
class Checkup:
    """What the doctor found, and did.

    Attributes:
        diagnosis: of the data.
        cleaned: what was written; None without `fix`.
        after: diagnosis of the cleaned copy.
    """

    diagnosis: Diagnosis
    cleaned: Cleaned | None = None
    after: Diagnosis | None = None

    @property
    def failed(self) -> bool:
        """Whether anything fails: in the cleaned copy, where there is one."""
        return (self.after or self.diagnosis).failed

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        found: dict[str, Any] = {"version": 1, "failed": self.failed, **self.diagnosis.model_dump(mode="json")}
        if self.cleaned is not None and self.after is not None:
            found |= {"cleaned": asdict(self.cleaned), "after": self.after.model_dump(mode="json")}
        return found


@contextmanager
def _without_collector() -> Iterator[None]:
    """The collector of cycles would look at the facts of all rows again and again; they have none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_without_collector()
def check_up(
    data: RowSource,
    *,
    against: RowSource | Sequence[str] | None = None,
    fix: str | Path | None = None,
    log: str | Path | None = None,
    overwrite: bool = False,
    keep: Collection[str] = (),
    kind: str | None = None,
    columns: Mapping[str, str] | None = None,
    workers: int | None = None,
) -> Checkup:
    """What `plaudit.doctor` does; see `plaudit.data.interface`."""
    _check(keep, fix, log, overwrite, kind, workers)
    if columns:
        if not isinstance(data, (str, Path)):
            raise ConfigError(
                "PL102",
                "a column map is for files; rows in memory can be renamed",
                where="columns",
                mend="name the columns of the rows as the fields are called",
            )
        data = SourceConfig(path=str(data), columns=dict(columns))
    output = Path(fix) if fix is not None else None
    log_file = Path(log) if log is not None else output.with_suffix(".log.jsonl") if output is not None else None
    if output is not None and log_file is not None:
        check_outputs(data, output, log_file, overwrite=overwrite)
    others = [examine(other, workers=workers) for other in _sources(against)]
    wanted: DataKind | None = kind  # type: ignore[assignment]  # checked above
    examined = examine(data, kind=wanted, workers=workers, mend=output is not None, keep=keep)
    diagnosis = diagnose(examined, others)
    if output is None or log_file is None:
        return Checkup(diagnosis)
    cleaned = write(data, examined, plan(examined, others, keep), output, log_file, keep)
    if not cleaned.rows:
        return Checkup(diagnosis, cleaned, _nothing(diagnosis, str(output)))
    copy = SourceConfig(path=str(output), columns=dict(columns or {}))
    after = diagnose(examine(copy, kind=examined.kind, workers=workers), others)
    return Checkup(diagnosis, cleaned, after)


def _nothing(before: Diagnosis, name: str) -> Diagnosis:
    """Nothing is left: there is no more to find, and training would refuse the file; its `failed` is what it was."""
    return before.model_copy(update={"source": name, "rows": 0, "usable": 0, "prompts": 0})


def _sources(against: RowSource | Sequence[str] | None) -> list[RowSource]:
    if against is None:
        return []
    if isinstance(against, (list, tuple)) and all(isinstance(a, (str, Path)) for a in against):
        return list(against)
    return [against]


def _check(
    keep: Collection[str], fix: object, log: object, overwrite: bool, kind: str | None, workers: int | None
) -> None:
    for name in keep:
        if name not in FIXES:
            near = difflib.get_close_matches(name, FIXES, 1)
            mend = (f"did you mean {near[0]}? " if near else "") + f"mended are: {', '.join(FIXES)}"
            raise ConfigError("PL102", f"{name!r} is no check that --fix mends", where="keep", mend=mend)
    for option, given in (("log", log), ("overwrite", overwrite or None), ("keep", keep or None)):
        if given is not None and fix is None:
            raise ConfigError("PL102", f"{option} has no effect without fix", where=option, mend="add --fix OUT")
    if kind is not None and kind not in KINDS:
        raise ConfigError("PL102", f"{kind!r} is no kind of data", where="kind", mend=f"use one of {', '.join(KINDS)}")
    if workers is not None and workers < 1:
        raise ConfigError(
            "PL102",
            f"workers is {workers}, must be at least 1",
            where="workers",
            mend="leave it out: there are as many as it takes",
        )


__all__ = ["Checkup", "check_up"]
