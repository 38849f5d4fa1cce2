"""One pass over a file, then the checks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from plaudit.config.schema import SourceConfig
from plaudit.data.columns import Columns
from plaudit.data.doctor import balance, judgements, languages, lengths, overlap, repeats, rowwise
from plaudit.data.doctor.facts import Facts
from plaudit.data.doctor.findings import Diagnosis, Finding, Skipped
from plaudit.data.doctor.workers import Task, look
from plaudit.data.kinds import HEAD, kind_of
from plaudit.data.readers import RowSource, need_rows, open_rows
from plaudit.types import DataKind


@dataclass(frozen=True, slots=True)
class Examined:
    """The facts of a source.

    Attributes:
        name: of the source, for messages.
        kind: what its rows are.
        shapes: recognised row shapes.
        facts: of each row, in the order of the source.
    """

    name: str
    kind: DataKind
    shapes: dict[str, int]
    facts: list[Facts]

    @property
    def usable(self) -> list[Facts]:
        """Facts of the rows that training would take."""
        return [f for f in self.facts if f.problem is None]


def examine(
    source: RowSource,
    *,
    kind: DataKind | None = None,
    columns: Mapping[str, str] | None = None,
    workers: int | None = None,
    mend: bool = False,
    keep: Collection[str] = (),
) -> Examined:
    """Read a source once.

    Args:
        source: path or hub id, list of dicts, or `datasets.Dataset`.
        kind: what the rows are; None recognises it by the columns of the first 100.
        columns: map from our field names to the source's column names.
        workers: processes; None is one per core where there are many rows.
        mend: find out too what `clean` needs to know.
        keep: checks that are not mended.

    Raises:
        DataError: PL201-PL203, PL209, PL210 reading; PL207 there are no rows.
    """
    if columns:
        source = SourceConfig(path=str(source), columns=dict(columns))
    stream = open_rows(source)
    head = list(islice(stream.rows, HEAD))
    need_rows(head, stream.name)
    kind = kind or kind_of(head, stream.columns, stream.name)
    Columns(kind, stream.columns, has_template=True, file=stream.name).check(head)
    task = Task(kind, stream.columns, stream.name, mend, tuple(keep))
    looked = look(chain(head, stream.rows), task, workers)
    return Examined(stream.name, kind, dict(looked.shapes.most_common()), looked.facts)


def diagnose(examined: Examined, against: Sequence[Examined] = ()) -> Diagnosis:
    """All checks on what was read.

    Args:
        examined: the data.
        against: evaluation data that must not be in it.
    """
    usable = examined.usable
    made: list[Finding | Skipped] = [
        *rowwise.unusable(examined.facts),
        *judgements.check(usable),
        *repeats.check(usable),
        *(finding for other in against for finding in overlap.check(usable, other.usable, Path(other.name).name)),
        lengths.check(usable),
        *balance.check(usable),
        *rowwise.flagged(usable),
        *rowwise.system_prompts(usable),
        *rowwise.private(usable),
        *languages.check(usable),
    ]
    skipped = [m for m in made if isinstance(m, Skipped)]
    if not against:
        why = "no evaluation data was given (--against)"
        skipped.append(Skipped(check="eval_overlap", title="overlap with evaluation data", why=why))
    return Diagnosis(
        source=examined.name,
        kind=examined.kind,
        shapes=examined.shapes,
        rows=len(examined.facts),
        usable=len(usable),
        prompts=len({f.prompt for f in usable if f.prompt_loose}),
        findings=[m for m in made if isinstance(m, Finding)],
        skipped=skipped,
    )
