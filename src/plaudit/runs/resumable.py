"""A JSONL file that is gone on with where it was stopped.

A file beside it says what its lines are. The same command goes on behind the last complete item; another one is
refused, and so is a second process. Nothing is written, and nothing is lost, before the first row is there.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from plaudit.errors import ConfigError, RunError
from plaudit.runs.jsonl import refuse_other_forms, write_atomically

_SUFFIX = ".about.json"


def json_line(row: Mapping[str, Any]) -> str:
    """A row as JSON, which every reader of UTF-8 can read: half a surrogate pair stays an escape."""
    text = json.dumps(row, ensure_ascii=False, default=str)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class ResumableFile:
    """Lines in the order of some items, with the same number of lines for each.

    Args:
        path: where the lines go; it is made, or gone on with.
        about: what decides about the lines, as plain values; equal for the same command.
        holds: what the lines are, for messages ("completions").
        per_item: lines of one item.
        overwrite: begin anew, whatever is there.

    Attributes:
        done: items that are complete already.
        close: lets other processes have the file.

    Raises:
        ConfigError: PL102 when the file holds something else, or promises it by its name, or another process writes it.
    """

    def __init__(
        self, path: Path, about: dict[str, Any], *, holds: str, per_item: int = 1, overwrite: bool = False
    ) -> None:
        refuse_other_forms(path)
        self.path, self.per_item, self.holds = path, per_item, holds
        self._about = path.with_name(path.name + _SUFFIX)
        self._mine = json.loads(json.dumps(about, default=str))
        self._aside = path.with_name(path.name + ".new")
        self._lock()
        self._settle()
        self._fresh = overwrite or not path.exists() or not path.stat().st_size
        self.done = 0
        if not self._fresh:
            self._compare()
            self.done = self._complete_items()

    def _lock(self) -> None:
        """Keep other processes out, for as long as this object lives."""
        with _writing(self.path):
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self.close = weakref.finalize(self, os.close, handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            raise ConfigError(
                "PL102",
                "another process writes the file",
                where=str(self.path),
                mend="wait for it, or name another file",
            ) from error

    def _compare(self) -> None:
        mine = self._mine
        try:
            theirs = json.loads(self._about.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            theirs = None
        if not isinstance(theirs, dict):
            raise ConfigError(
                "PL102",
                "the file is not empty, and nothing says what it holds",
                where=str(self.path),
                mend="name another file, or give --overwrite",
            )
        other = [key for key in mine if theirs.get(key) != mine[key]]
        if other:
            what = ", ".join(f"{key} options" if key == "sampling" else key for key in other)
            raise ConfigError(
                "PL102",
                f"the file holds {self.holds} of other {what}",
                where=str(self.path),
                mend="give the same command to go on, name another file, or give --overwrite",
            )

    def _complete_items(self) -> int:
        """How many items have all their lines; what lies behind them was cut off in the middle and is removed."""
        ends = [0]
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                ends.append(ends[-1] + len(line))
        whole = (len(ends) - 1) // self.per_item
        with self.path.open("r+b") as file:
            file.truncate(ends[whole * self.per_item])
        return whole

    def recount(self) -> int:
        """See again how many items are there, after `close` too; the same as `done` afterwards."""
        if not self.close.alive:
            self._lock()
        if not self._fresh:
            self.done = self._complete_items()
        return self.done

    def rows(self) -> Iterator[dict[str, Any]]:
        """What is there.

        Raises:
            RunError: PL504, a line is no JSON object.
        """
        if self._fresh:
            return
        with self.path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    row = json.loads(line)
                except ValueError:
                    row = None
                if not isinstance(row, dict):
                    raise RunError(
                        "PL504",
                        "the line is no JSON object",
                        where=f"{self.path}:{number}",
                        mend="restore the file, or begin it anew with --overwrite",
                    )
                yield row

    def replace(self, rows: Mapping[int, Mapping[str, Any]]) -> None:
        """Write other rows in place of some that are there, counted from 0, all at once."""
        if not rows:
            return
        with self.path.open(encoding="utf-8") as file:
            lines = file.readlines()
        for number, row in rows.items():
            lines[number] = json_line(row) + "\n"
        with _writing(self.path):
            write_atomically(self._aside, "".join(lines))
            self._settle()

    def _settle(self) -> None:
        """Bring what `replace` has written into the file; copied and not renamed, because the lock is on this one."""
        if self._aside.exists():
            with self.path.open("r+b") as file, self._aside.open("rb") as source:
                file.write(source.read())
                file.truncate()
            self._aside.unlink()

    def write(self, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Append the rows as they come, an item at a time, and pass them on.

        Raises:
            RunError: PL505, the disk is full.
        """
        waiting: list[dict[str, Any]] = []
        with contextlib.ExitStack() as stack:
            file = None
            for row in rows:
                waiting.append(row)
                if len(waiting) < self.per_item:
                    continue
                with _writing(self.path):
                    if file is None:
                        self._begin()
                        file = stack.enter_context(self.path.open("a", encoding="utf-8"))
                    file.write("".join(json_line(r) + "\n" for r in waiting))
                    file.flush()
                yield from waiting
                waiting = []

    def _begin(self) -> None:
        if self._fresh:
            self.path.write_bytes(b"")  # first: an empty file is begun anew, whatever stands beside it
            write_atomically(self._about, json.dumps(self._mine, indent=2) + "\n")
            self._fresh = False


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            "PL505",
            f"cannot write: {error.strerror or error}",
            where=str(path),
            mend="free some space or name another file; the same command goes on",
        ) from error
