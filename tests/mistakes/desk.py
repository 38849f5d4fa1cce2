"""What a newcomer sits at: a folder, a small model, a few files; and a mistake as a row of a table."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Ended, write_jsonl

PAIR = {"prompt": "Which colour is the sky?", "chosen": "It is blue.", "rejected": "I do not know."}
CHAT = [{"role": "user", "content": "Which colour?"}, {"role": "assistant", "content": "It is blue."}]


@dataclass(frozen=True)
class Mistake:
    """A mistake, and what the message about it has to say.

    Attributes:
        name: what the newcomer did.
        code: the error's code.
        command: prepares the desk and gives the arguments of `plaudit`.
        what, where, mend: text that the parts of the message contain.
    """

    name: str
    code: str
    command: Callable[[Desk], Sequence[object]]
    what: str
    where: str
    mend: str


class Desk:
    """The newcomer's folder, which is the working directory.

    Args:
        folder: where everything is.
        model: a small model that works.
        call: runs a command.
        monkeypatch: for machines that are not this one.
    """

    def __init__(self, folder: Path, model: Path, call: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.model, self.call, self.monkeypatch = folder, model, call, monkeypatch
        self._kept: list[Any] = []

    def keep(self, held: Any) -> None:
        """Hold on to a lock or a socket until the newcomer leaves."""
        self._kept.append(held)

    def leave(self) -> None:
        """Let go of everything."""
        for held in self._kept:
            (held.release if hasattr(held, "release") else held.close)()

    def write(self, name: str, content: str | bytes | Iterable[Mapping[str, Any]]) -> str:
        """A file of text, of bytes, or of rows, one JSON object a line."""
        path = self.folder / name
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            write_jsonl(path, [dict(row) for row in content])
        return name

    def pairs(self, *rows: Mapping[str, Any], name: str = "pairs.jsonl") -> str:
        """A file of good pairs, with further rows behind them."""
        good = [{**PAIR, "prompt": f"Which colour is thing {i}?"} for i in range(3)]
        return self.write(name, [*good, *rows])

    def train(self, method: str, data: str | None = None, *options: object, model: object = None) -> list[object]:
        """A training command of one step."""
        small = ("--groups-per-step", 2, "--max-steps", 1, "--output-dir", "run")
        given = ["--data", self.pairs() if data is None else data]
        return [method, "--model", model or self.model, *given, *small, *options]

    def copy_of_model(self, name: str = "copy", *, without: Sequence[str] = (), **changes: Mapping[str, Any]) -> str:
        """A copy of the model's folder.

        Args:
            without: files that it lacks.
            changes: by the name of a JSON file (config, tokenizer_config), keys that have other values; None = no key.
        """
        folder = self.folder / name
        shutil.copytree(self.model, folder)
        for file in without:
            (folder / file).unlink()
        for stem, values in changes.items():
            path = folder / f"{stem}.json"
            merged = {**json.loads(path.read_text(encoding="utf-8")), **values}
            kept = {key: value for key, value in merged.items() if value is not None}
            path.write_text(json.dumps(kept), encoding="utf-8")
        return name

    def files(self) -> dict[str, tuple[int, int]]:
        """Size and time of everything that is there; of the files of a run only that they are."""
        found = {str(p.relative_to(self.folder)): p.stat() for p in self.folder.rglob("*") if p.is_file()}
        return {n: (0, 0) if n.startswith("run") else (s.st_size, s.st_mtime_ns) for n, s in found.items()}


@dataclass(frozen=True)
class Message:
    """What is printed of an error, in parts."""

    code: str
    what: str
    where: str
    mend: str
    page: str

    @classmethod
    def of(cls, text: str) -> Message:
        """The parts of all that was printed to stderr: the message and nothing else."""
        pattern = r"\[(PL\d{3})\] (.+?)\n(?:  where: (.+?)\n)?(?:  mend:  (.+?)\n)?  more:  (\S+)\n"
        match = re.fullmatch(pattern, text, re.DOTALL)
        assert match, f"no message, or something beside it:\n{text}"
        return cls(*(part or "" for part in match.groups()))
