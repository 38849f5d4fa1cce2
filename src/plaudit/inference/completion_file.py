"""Completions in a file, and how generating goes on where it was stopped.

The file is JSONL, n lines per prompt in the order of the prompts. A file beside it says what the lines are: the
weights, the prompts and the sampling. The same command goes on behind the last complete prompt; another one is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from plaudit.engines.base import Sampling
from plaudit.errors import ConfigError
from plaudit.runs.jsonl import write_atomically
from plaudit.types import Tokens

_SUFFIX = ".about.json"


class CompletionFile:
    """One file of completions.

    Args:
        path: where the lines go; it is made, or gone on with.
        prompts: all prompts.
        n: completions per prompt.
        sampling: how they are drawn.
        weights: checksum of the model.
        overwrite: begin anew, whatever is there.

    Attributes:
        done: prompts that are complete already.

    Raises:
        ConfigError: PL102 when the file holds something else, or cannot be written.
    """

    def __init__(
        self,
        path: Path,
        prompts: Sequence[Tokens],
        n: int,
        sampling: Sampling,
        weights: str,
        *,
        overwrite: bool = False,
    ) -> None:
        self.path, self.n, self.prompts = path, n, len(prompts)
        self._about = path.with_name(path.name + _SUFFIX)
        digest = hashlib.blake2b(digest_size=16)
        for prompt in prompts:
            digest.update(f"{len(prompt)}:".encode() + prompt.astype("int64").tobytes())
        mine = {"weights": weights, "prompts": digest.hexdigest(), "n": n, "sampling": sampling.model_dump(mode="json")}
        self.done = 0
        if not overwrite and path.exists() and path.stat().st_size:
            self._compare(mine)
            self.done = self._complete_prompts()
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
            what = "sampling options" if other == ["sampling"] else ", ".join(other)
            raise ConfigError(
                "PL102",
                f"the file holds completions of other {what}",
                where=str(self.path),
                mend="give the same model, prompts and options to go on, name another file, or give --overwrite",
            )

    def _complete_prompts(self) -> int:
        """How many prompts have all their lines; what lies behind them was cut off in the middle and is removed."""
        ends = [0]
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                ends.append(ends[-1] + len(line))
        whole = (len(ends) - 1) // self.n
        with self.path.open("r+b") as file:
            file.truncate(ends[whole * self.n])
        return whole

    def write(self, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Append the rows as they come, a prompt at a time, and pass them on."""
        waiting: list[dict[str, Any]] = []
        with self.path.open("a", encoding="utf-8") as file:
            for row in rows:
                waiting.append(row)
                if len(waiting) == self.n:
                    file.write("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in waiting))
                    file.flush()
                    yield from waiting
                    waiting = []
