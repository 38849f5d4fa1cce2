"""Our configuration while it is made, and what became of each setting of theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from plaudit.config.keys import Key, all_keys, closest
from plaudit.config.problems import Problem
from plaudit.methods import find
from plaudit.methods.base import Method
from plaudit.migration import values
from plaudit.migration.rules import Rule, Table
from plaudit.migration.settings import TITLES, Given, Setting, Tool

T = TypeVar("T")
Part = Literal["taken", "different", "missing"]


@dataclass(frozen=True, slots=True)
class Line:
    """One key of ours.

    Attributes:
        names: of theirs that it comes from.
        default: whether it is their default, which nobody wrote down.
        note: what a reader of the file has to know.
    """

    key: str
    value: Any
    names: tuple[str, ...] = ()
    default: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one setting.

    Attributes:
        part: taken over; done differently; or without a counterpart.
        text: our key and value; what is done instead and why; or why it matters.
        idle: for a setting that is taken over, whether it asks for nothing, so that no key is written for it.
        changes: for a setting without a counterpart, whether the result of training depends on it.
        unknown: it is no key of the other tool.
    """

    setting: Setting
    part: Part
    text: str
    idle: bool = False
    changes: bool = False
    unknown: bool = False


@dataclass(frozen=True, slots=True)
class Dialect:
    """A tool as far as its keys go.

    Attributes:
        table: its keys, under the names of TRL where they mean the same.
        names: its own name → that of TRL.
        defaults: what it does where nothing is said, as far as the result depends on it.
    """

    tool: Tool
    table: Table
    names: Mapping[str, str]
    defaults: Mapping[str, Any]

    @property
    def title(self) -> str:
        return TITLES[self.tool]


@dataclass(slots=True)
class Draft:
    """The state of a migration. Settings are asked for by TRL's names.

    Attributes:
        trainer: the other tool's word for the method, as TRL's command has it.
        processes: that train, for the size of a step.
        lines: what has been written, by our key.
        outcomes: what became of each setting, by their key.
        notes: what has to be said besides.
        problems: values that cannot be read.
    """

    given: Given
    dialect: Dialect
    trainer: str
    processes: int = 1
    method: type[Method] = field(init=False)
    keys: Mapping[str, Key] = field(init=False)
    lines: dict[str, Line] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    _settings: dict[str, list[Setting]] = field(init=False)
    _asked: set[str] = field(default_factory=set)
    """names that a part of the migration has asked for"""

    def __post_init__(self) -> None:
        self._settings = {}
        for setting in self.given.settings:
            name = self.dialect.names.get(setting.key, setting.key)
            self._settings.setdefault(name, []).append(setting)

    # -- what is given

    def settings(self, *names: str) -> list[Setting]:
        """Those that are given, of these names."""
        return [setting for name in names for setting in self._settings.get(name, [])]

    def says(self, name: str) -> bool:
        """Whether somebody wrote it down."""
        return name in self._settings

    def unread(self, *names: str) -> bool:
        """Whether one of them is given by something that only running the script would tell."""
        return any(setting.unread for setting in self.settings(*names))

    def get(self, name: str, read: Callable[[Any], T], default: Any = None) -> T | Any:
        """The value, or their default where there is none; None where there is neither, or it cannot be read.

        Null stands for the default, but for a limit of lengths. A value that does not fit is a problem.
        """
        self._asked.add(name)
        found = self.settings(name)
        if found and (found[-1].unread or (name in _UNLIMITED and values.plain(found[-1].value) is None)):
            return None
        if not found or values.plain(found[-1].value) is None:
            value = self.dialect.defaults.get(name, default)
            return None if value is None else read(value)
        try:
            return read(found[-1].value)
        except ValueError as error:
            self.problems.append(Problem(found[-1].where, found[-1].key, str(error)))
            return None

    # -- what becomes of it

    def choose(self, name: str) -> None:
        """Take a method of ours."""
        self.method = find(name)
        self.keys = all_keys(self.method.Config)
        self.lines["method.name"] = Line("method.name", name)

    def has(self, key: str) -> bool:
        """Whether the method has this key; only methods that sample answers have those of sampling."""
        return key in self.keys and (self.method.is_online() or key.partition(".")[0] not in ("rollout", "reward"))

    def write(self, key: str, value: Any, *names: str, note: str = "") -> None:
        """Set a key of ours, from settings of these names.

        What is only their default, and ours too, is not written.
        """
        found = self.settings(*names)
        default = bool(names) and not found
        if default and key in self.keys and self.keys[key].default == value and not note:
            return
        self.lines[key] = Line(key, value, tuple(s.key for s in found) or names, default, note)
        for setting in found:
            self.note(setting, "taken", f"{key}: {shown(value)}")

    def copy(self, key: str, name: str, read: Callable[[Any], Any]) -> None:
        """Set a key of ours to the value of a setting, or to their default; nothing where there is neither."""
        value = self.get(name, read)
        if value is not None:
            self.write(key, value, name)

    def take(self, *names: str, text: str) -> None:
        """They are part of what other settings write."""
        for setting in self.settings(*names):
            self.note(setting, "taken", text)

    def idle(self, *names: str, text: str) -> None:
        """They ask for nothing that would have to be written."""
        for setting in self.settings(*names):
            self.note(setting, "taken", text, idle=True)

    def differ(self, *names: str, text: str) -> None:
        """They are done in another way."""
        for setting in self.settings(*names):
            self.note(setting, "different", text)

    def miss(self, *names: str, text: str, changes: bool = True) -> None:
        """They have no counterpart."""
        for setting in self.settings(*names):
            self.note(setting, "missing", text, changes=changes)

    def note(self, setting: Setting, part: Part, text: str, **more: bool) -> None:
        """What becomes of one setting; the last word counts.

        Args:
            more: idle, changes, unknown, as in `Outcome`.
        """
        if setting.unread:
            part = "missing"
            text = f"could not be read without running the script: {setting.unread}"
            rule = self.dialect.table.get(self.dialect.names.get(setting.key, setting.key))
            more = {"changes": rule is None or not _harmless(rule)}
        self.outcomes[setting.key] = Outcome(setting, part, text, **more)

    # -- the keys that stand for themselves

    def finish(self) -> None:
        """What the table says of every setting that no part of the migration has spoken of."""
        for name, rule in self.dialect.table.items():
            if rule.fate == "same" and not self.unread(name) and self.has(rule.ours):
                value = self.get(name, rule.read)
                if value is not None:
                    self.write(rule.ours, value, name)
        for setting in self.given.settings:
            if setting.key not in self.outcomes:
                self._by_table(setting)
            if setting.unread and self.outcomes[setting.key].changes:
                self.notes.append(f"{setting.key} could not be read ({setting.where}): what stands for it here is ours")

    def _by_table(self, setting: Setting) -> None:
        rule = self.dialect.table.get(self.dialect.names.get(setting.key, setting.key))
        if rule is None:
            known = {*self.dialect.table, *self.dialect.names} - set(self.dialect.names.values())
            near = closest(setting.key, sorted(known or self.dialect.table))
            guess = f"; did you mean {near}?" if near else ""
            text = f"{self.dialect.title} has no such key{guess}"
            self.note(setting, "missing", text, changes=True, unknown=True)
        elif values.plain(setting.value) in rule.off or setting.value in ([], {}):
            self.note(setting, "taken", "asks for nothing; so it is here too", idle=True)
        elif rule.fate == "different":
            self.note(setting, "different", rule.why)
        elif rule.fate == "lost":
            self.note(setting, "missing", rule.why, changes=True)
        elif rule.fate == "harmless":
            self.note(setting, "missing", rule.why)
        elif self.dialect.names.get(setting.key, setting.key) in self._asked:
            self.note(setting, "missing", f"{self.method.name} has nothing like it here", changes=not _harmless(rule))
        else:
            self.note(setting, "taken", f"has no effect on {self.method.name} there either", idle=True)

    def ordered(self) -> Sequence[Outcome]:
        """Every setting's outcome, in the order in which they were given."""
        return [self.outcomes[setting.key] for setting in self.given.settings]


_UNLIMITED = ("max_length", "max_seq_length")
"""Keys whose null is a value."""
_BESIDE = ("run.", "log.", "checkpoint.", "eval.", "model.gradient_checkpointing", "train.sharding")
"""Keys of ours that do not change what is trained."""


def _harmless(rule: Rule) -> bool:
    return rule.fate == "harmless" or rule.ours.startswith(_BESIDE)


def shown(value: Any) -> str:
    """A value on one line, as in YAML."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{k}: {shown(v)}' for k, v in value.items())}}}"
    return f"{value:g}" if isinstance(value, float) else str(value)
