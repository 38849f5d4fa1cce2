"""The cleaned copy of a file, and the log of every row that was removed or changed.

The checks remove rows in turn, each among the rows that those before it have left, as `mend` leaves them: a row that
repeats another one only once its prompt is cut off is a duplicate too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plaudit.config.schema import SourceConfig
from plaudit.data.columns import Columns
from plaudit.data.conventions import Row
from plaudit.data.doctor.copies import copy, json_line
from plaudit.data.doctor.entries import entry
from plaudit.data.doctor.examine import Examined
from plaudit.data.doctor.facts import Facts
from plaudit.data.doctor.judgements import losing
from plaudit.data.doctor.mend import EDITS, Mender
from plaudit.data.doctor.overlap import overlap
from plaudit.data.doctor.repeats import duplicates, near_duplicates
from plaudit.data.doctor.rowwise import CHECK_OF
from plaudit.data.encodings import is_packed
from plaudit.data.readers import RowSource, open_rows
from plaudit.errors import ConfigError
from plaudit.runs.jsonl import refuse_other_forms

INSIDE = ("special_tokens", "replacement_characters")
"""Faults inside a text that cannot be mended: the row goes."""
FIXES = tuple(
    dict.fromkeys(
        [
            *CHECK_OF.values(), *INSIDE, "eval_overlap", "eval_near_overlap", "contradictions", "duplicates",
            "near_duplicates", *EDITS,
        ]
    )
)  # fmt: skip
"""Checks that `--fix` does something about."""


@dataclass(frozen=True, slots=True)
class Removal:
    """Why a row goes."""

    check: str
    reason: str
    like: int | None = None
    """The row that it repeats or that contradicts it, in the same file (of the evaluation data for overlaps)."""


@dataclass(slots=True)
class Plan:
    """What becomes of the rows; all others are copied.

    Attributes:
        removed: row → why.
        changed: row → places that change, by check.
    """

    removed: dict[int, Removal] = field(default_factory=dict)
    changed: dict[int, dict[str, int]] = field(default_factory=dict)

    def log(self) -> Iterator[dict[str, Any]]:
        """One line for each row that is removed, and one for each row that is changed, in the order of the rows."""
        for row in sorted({*self.removed, *self.changed}):
            if row in self.removed:
                gone = self.removed[row]
                line: dict[str, Any] = {"row": row, "action": "removed", "check": gone.check, "reason": gone.reason}
                yield line if gone.like is None else line | {"like_row": gone.like}
            else:
                yield {"row": row, "action": "changed", "checks": self.changed[row]}


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What was written.

    Attributes:
        output, log: the files.
        rows: in the copy.
        removed, changed: rows by check; a changed row counts for each check.
    """

    output: str
    log: str
    rows: int
    removed: dict[str, int]
    changed: dict[str, int]


def plan(examined: Examined, against: Sequence[Examined] = (), keep: Collection[str] = ()) -> Plan:
    """What has to be done to a file, each check in its turn and on the rows that are left.

    Args:
        examined: with `mend`.
        against: evaluation data.
        keep: checks that nothing is done about.
    """
    found = Plan(changed={f.row: f.edits for f in examined.facts if f.edits})
    left = [_Row(f.row, f.after, f) for f in examined.facts]
    left = _take(found, left, {r.row: why for r in left if (why := _unusable(r)) is not None and why.check not in keep})
    # A row that stays although training refuses it takes no part in comparisons.
    usable = [r.after for r in left if r.after.problem is None]
    for other in against:
        gone = overlap(usable, other.usable)
        for check, rows in (
            ("eval_overlap", gone.exact),
            ("eval_near_overlap", {r: o for r, (o, _) in gone.near.items()}),
        ):
            if check not in keep:
                reason = f"its prompt is {'' if check == 'eval_overlap' else 'nearly '}that of a row of {other.name}"
                usable = _drop(found, usable, {row: Removal(check, reason, like) for row, like in rows.items()})
    if "contradictions" not in keep:
        what = {row: Removal("contradictions", _outvoted(rows), rows[0]) for row, rows in losing(usable).items()}
        usable = _drop(found, usable, what)
    if "duplicates" not in keep:
        again = duplicates(usable).items()
        usable = _drop(found, usable, {r: Removal("duplicates", "repeats an earlier row", e) for r, e in again})
    while "near_duplicates" not in keep:
        near = near_duplicates(usable)
        if not near:
            break
        usable = _drop(found, usable, {
            row: Removal("near_duplicates", f"resembles an earlier row (similarity {likeness:.2f})", earlier)
            for row, (earlier, likeness) in near.items()
        })  # fmt: skip
    found.changed = {row: edits for row, edits in found.changed.items() if row not in found.removed}
    return found


@dataclass(frozen=True, slots=True)
class _Row:
    row: int
    after: Facts
    before: Facts


def _unusable(row: _Row) -> Removal | None:
    if row.after.problem is not None:
        reason, detail = row.after.problem
        if row.before.problem is None:
            what = "it only repeats its prompt" if "prompt_leak" in row.before.edits else detail
            detail = f"{what} (seen once {', '.join(row.before.edits)} was mended)"
        return Removal(CHECK_OF[reason], detail)
    for check in INSIDE:
        if check in row.after.flags:
            return Removal(check, f"cannot be mended: {row.after.flags[check]}")
    return None


def _outvoted(rows: Sequence[int]) -> str:
    return f"contradicted by {len(rows)} row{'s' if len(rows) > 1 else ''}"


def _take(found: Plan, rows: list[_Row], gone: dict[int, Removal]) -> list[_Row]:
    found.removed |= gone
    return [r for r in rows if r.row not in gone]


def _drop(found: Plan, rows: list[Facts], gone: dict[int, Removal]) -> list[Facts]:
    found.removed |= gone
    return [f for f in rows if f.row not in gone]


# ---------------------------------------------------------------- files


def path_of(source: RowSource) -> Path | None:
    """The file of a source; None for folders, hub ids and rows in memory."""
    name = source.path if isinstance(source, SourceConfig) else source
    return Path(name) if isinstance(name, (str, Path)) and Path(name).is_file() else None


def check_outputs(source: RowSource, output: Path, log: Path, *, overwrite: bool) -> None:
    """Before anything is read.

    Raises:
        ConfigError: PL102, a file exists (and `overwrite` is not set), is the input, has another form than the input
            (the log: than JSONL), or its folder is not there.
    """
    refuse_other_forms(log)
    file = path_of(source)
    wanted = file.suffix.lower() if file is not None else ".jsonl"
    for path in (output, log):
        problem, mend = None, ""
        if file is not None and path.exists() and path.samefile(file):
            problem, mend = "that is the input, which is never overwritten", "name another file"
        elif path.exists() and not overwrite:
            problem, mend = "the file exists already", "name another file, or add --overwrite"
        elif not path.absolute().parent.is_dir():
            problem, mend = "there is no such folder", f"make {path.parent}"
        elif file is not None and is_packed(file):
            problem, mend = "of a packed file no copy is written", f"unpack it first: gunzip -k {file}"
        elif path == output and path.suffix.lower() != wanted:
            problem, mend = "the copy has the form of the input", f"name it {path.with_suffix(wanted).name}"
        if problem is not None:
            raise ConfigError("PL102", problem, where=str(path), mend=mend)
    if output.absolute() == log.absolute():
        raise ConfigError("PL102", "the copy and its log are the same file", where=str(log), mend="name another log")


def write(source: RowSource, examined: Examined, done: Plan, output: Path, log: Path, keep: Collection[str]) -> Cleaned:
    """Write the copy and its log; each file appears when it is complete.

    Args:
        source: what was examined.
        done: what to do.
        keep: as for `plan`.

    Raises:
        ConfigError: PL102, a file cannot be written.
    """
    columns = Columns(examined.kind, open_rows(source).columns, has_template=True, file=examined.name)

    def mended(row: Row) -> Row:
        return Mender(entry(columns.records(dict(row))), keep).row(row)

    part = output.with_name(output.name + ".part")
    try:
        rows = copy(source, path_of(source), part, done.removed.keys(), done.changed.keys(), mended)
        part.replace(output)
        part = log.with_name(log.name + ".part")
        with part.open("wb") as stream:
            stream.writelines(map(json_line, done.log()))
        part.replace(log)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ConfigError(
            "PL102",
            f"the file cannot be written: {error.strerror}",
            where=str(part),
            mend="name another file (--fix), or permit writing",
        ) from error
    removed = Counter(r.check for r in done.removed.values())
    changed = Counter(check for edits in done.changed.values() for check in edits)
    return Cleaned(str(output), str(log), rows, dict(removed.most_common()), dict(changed.most_common()))
