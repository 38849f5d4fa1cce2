"""A JSONL file that is gone on with where it was stopped.

A file beside it says what its lines are. The same command goes on behind the last complete item; another one is
refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from plaudit.errors import ConfigError
from plaudit.runs.jsonl import write_atomically

_SUFFIX = ".about.json"


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

    Raises:
        ConfigError: PL102 when the file holds something else.
    """

    def __init__(
        self, path: Path, about: dict[str, Any], *, holds: str, per_item: int = 1, overwrite: bool = False
    ) -> None:
        self.path, self.per_item, self.holds = path, per_item, holds
        self._about = path.with_name(path.name + _SUFFIX)
        mine = json.loads(json.dumps(about, default=str))
        self.done = 0
        if not overwrite and path.exists() and path.stat().st_size:
            self._compare(mine)
            self.done = self._complete_items()
        else:
            path.write_bytes(b"")
            write_atomically(self._about, json.dumps(mine, indent=2) + "\n")

    def _compare(self, mine: dict[str, Any]) -> None:
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

    def write(self, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Append the rows as they come, an item at a time, and pass them on."""
        waiting: list[dict[str, Any]] = []
        with self.path.open("a", encoding="utf-8") as file:
            for row in rows:
                waiting.append(row)
                if len(waiting) == self.per_item:
                    file.write("".join(json.dumps(r, ensure_ascii=False, default=str) + "\n" for r in waiting))
                    file.flush()
                    yield from waiting
                    waiting = []
