"""What another tool's configuration says, key by key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

Tool = Literal["trl", "llama-factory", "axolotl"]
TOOLS: tuple[Tool, ...] = get_args(Tool)
TITLES: dict[Tool, str] = {"trl": "TRL", "llama-factory": "LLaMA-Factory", "axolotl": "axolotl"}


@dataclass(frozen=True, slots=True)
class Setting:
    """One key with its value.

    Attributes:
        key: as it is written there; that of a section inside another is dotted.
        where: file:line, or the command line.
        unread: source text of a value that only running the script would tell; `value` is None then.
    """

    key: str
    value: Any
    where: str
    unread: str = ""


@dataclass(slots=True)
class Given:
    """Everything that was read.

    Attributes:
        settings: in their order; a key is in it once.
        name: of the file or command, for messages.
        folder: relative names of files may count from here.
        tool: where the input says it: a command, the classes of a script.
        trainer: the other tool's word for the method (`dpo`, `online_dpo`), where the input says it.
        processes: that a launcher starts; None where nothing says it.
        script: whether it is a program of somebody's own: the tool's command line has no say then.
    """

    settings: list[Setting] = field(default_factory=list)
    name: str = ""
    folder: Path = field(default_factory=Path)
    tool: Tool | None = None
    trainer: str | None = None
    processes: int | None = None
    script: bool = False

    def add(self, settings: Sequence[Setting]) -> None:
        """Later ones win: the command line over the file that it names."""
        for setting in settings:
            self.settings = [s for s in self.settings if s.key != setting.key]
            self.settings.append(setting)
