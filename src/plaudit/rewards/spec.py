"""Rewards as configurations write them: a file with several, or one in a line.

    rewards:
      - kind: format
        at_least: 1          # a gate: an answer below it gets `otherwise`, and nothing else is asked
        otherwise: -1
      - kind: math
      - my_rewards.py:no_apology
    shaping:
      - clip: {low: -1, high: 1}

In a line: `math`, `math:extract=boxed,weight=2`, `my_rewards.py:no_apology`, `my_rewards.py:no_apology,weight=2`, or
the path of a reward model.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from plaudit.config.keys import closest, options_of
from plaudit.config.problems import Problem
from plaudit.config.tree import Node, parse_text, plain, read_yaml
from plaudit.errors import ConfigError
from plaudit.rewards.cache import Cached
from plaudit.rewards.compose import TOTAL, Composite, Part
from plaudit.rewards.contract import Reward, RewardOptions
from plaudit.rewards.function import FunctionReward
from plaudit.rewards.registry import KINDS, reward_class
from plaudit.rewards.steps import SHAPINGS, Step

T = TypeVar("T")
_FUNCTION = re.compile(r"(.+?:\w+)[:,]\s*(\w+=.*)", re.DOTALL)
"""A function, and what follows it: my_rewards.py:polite,weight=2"""


class PartOptions(BaseModel):
    """What every reward may say besides its own options."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str | None = Field(None, min_length=1)
    """What logs call it; default is its kind, or the function's name."""
    weight: float = Field(1.0, allow_inf_nan=False)
    """Its value is multiplied by it before it is added."""
    at_least: float | None = Field(None, allow_inf_nan=False)
    """Makes it a gate: an answer with a smaller value gets `otherwise`, and no other reward is asked."""
    otherwise: float = Field(0.0, allow_inf_nan=False)
    """The reward of an answer that does not pass the gate."""
    when: dict[str, Any] = Field(default_factory=dict)
    """Columns of the row and the values that they must have for the reward to apply; a list is any of them."""

    @model_validator(mode="after")
    def _gate_or_part(self) -> PartOptions:
        if self.at_least is None and "otherwise" in self.model_fields_set:
            raise ValueError("otherwise needs at_least, which makes the reward a gate")
        if self.at_least is not None and "weight" in self.model_fields_set:
            raise ValueError("a gate (at_least) is not added, so weight means nothing")
        return self


class ScoringConfig(BaseModel):
    """The keys of a file beside `rewards` and `shaping`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    retries: int = Field(default=2, ge=0)
    """How often a completion is scored again after a failure that may pass."""
    max_reward_error_fraction: float = Field(default=0.05, ge=0, le=1)
    """Scoring stops when a larger share of the latest 1000 completions has no reward (of at least 100)."""
    cache: int = Field(default=100_000, ge=0)
    """Results of each pure reward that are kept and used again; 0 keeps none."""


@dataclass(slots=True)
class RewardSpec:
    """Rewards that have been read and checked.

    Attributes:
        reward: all of them as one.
        config: how failures are treated.
        about: what they are, as plain values.
        steps: the shaping.
    """

    reward: Composite
    config: ScoringConfig
    about: dict[str, Any] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    def identity(self) -> str:
        """A hash that is equal for two specs that give the same numbers: with the content of functions and files."""
        parts = []
        for p in self.reward.parts:
            use = (p.reward.name, p.weight, p.at_least, p.otherwise, sorted(p.when.items()))
            parts.append(f"{use!r} {p.reward.identity()}")
        parts += [step.identity() for step in self.steps]
        return hashlib.blake2b("\n".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


Given = str | Path | Mapping[str, Any] | Reward | Callable[..., Any]
"""A text, a file, plain values, or a reward or function itself."""


def read_specs(given: Sequence[Given], **scoring: Any) -> RewardSpec:
    """Rewards from texts (see the module), files, mappings, functions and `Reward`s, as one.

    Args:
        scoring: keys of `ScoringConfig`; they win over a file's, and None leaves that one.

    Raises:
        ConfigError: PL100 with everything that is wrong; PL102, PL103 from a reward that cannot be made.
    """
    reader = _Reader(several=len(given) > 1)
    for each in given:
        reader.take(each)
    reader.scoring |= {key: (value, "the argument") for key, value in scoring.items() if value is not None}
    return reader.made()


@dataclass(slots=True)
class _Entry:
    """A reward as it was written: its keys, where it stands, and where each key stands."""

    values: dict[str, Any]
    where: str
    lines: dict[str, str] = field(default_factory=dict)

    def at(self, key: str) -> str:
        return self.lines.get(key.partition(".")[0], self.where)


class _Reader:
    """Collects parts, shapings and problems."""

    def __init__(self, *, several: bool) -> None:
        self.several = several
        self.entries: list[_Entry] = []
        self.ready: list[Reward] = []
        self.shaping: list[tuple[Any, str]] = []
        self.scoring: dict[str, tuple[Any, str]] = {}
        self.problems: list[Problem] = []

    def take(self, given: Given) -> None:
        if isinstance(given, Mapping):
            self._mapping(dict(given), "the argument")
        elif isinstance(given, Reward):
            self.ready.append(given)
        elif isinstance(given, (str, Path)):
            text = str(given)
            if text.endswith((".yaml", ".yml")):
                self._file(Path(text))
            else:
                self._entry(text, "--reward " + text[:100])
        elif callable(given):
            name = getattr(given, "__name__", type(given).__name__)
            self.ready.append(FunctionReward.of(given, f"the function {name}"))
        else:
            what = f"a reward is a text, a file, a mapping or a function, not {type(given).__name__}"
            self.problems.append(Problem("the argument", "", what))

    def _file(self, path: Path) -> None:
        root = read_yaml(path, self.problems)
        values = root.value if isinstance(root.value, dict) else {}
        self._known(values, lambda key: values[key].where)
        for name in ("rewards", "shaping"):
            node = values.get(name)
            if node is not None and not isinstance(node.value, list):
                self.problems.append(Problem(node.where, name, "is a list: every entry begins with a dash"))
        for entry in self._list(values, "rewards"):
            inner = entry.value if isinstance(entry.value, dict) else {}
            self._entry(plain(entry), entry.where, {key: node.where for key, node in inner.items()})
        if not self._list(values, "rewards") and not self.problems:
            self.problems.append(Problem(str(path), "rewards", "the file names no reward"))
        shaping = self._list(values, "shaping")
        self.shaping += [(plain(entry), entry.where) for entry in shaping]
        if shaping and self.several:
            what = "it would apply to all rewards that are given: put them all into the file"
            self.problems.append(Problem(shaping[0].where, "shaping", what))
        self.scoring |= {k: (plain(v), v.where) for k, v in values.items() if k in ScoringConfig.model_fields}

    def _list(self, values: dict[str, Node], name: str) -> list[Node]:
        node = values.get(name)
        return node.value if node is not None and isinstance(node.value, list) else []

    def _mapping(self, given: dict[Any, Any], where: str) -> None:
        values = {str(key): value for key, value in given.items()}
        if "rewards" not in values:
            self._entry(values, where)
            return
        self._known(values, lambda _: where)
        for name in ("rewards", "shaping"):
            if not isinstance(values.get(name, []), (list, tuple)):
                self.problems.append(Problem(where, name, f"is a list, not {type(values[name]).__name__}"))
                values[name] = []
        for entry in values["rewards"]:
            self._entry(entry, where)
        self.shaping += [(entry, where) for entry in values.get("shaping", ())]
        self.scoring |= {k: (v, where) for k, v in values.items() if k in ScoringConfig.model_fields}

    def _known(self, given: Mapping[str, Any], where: Callable[[str], str]) -> None:
        known = ["rewards", "shaping", *ScoringConfig.model_fields]
        for key in given:
            if key not in known:
                near = closest(key, known, 0.6)
                hint = f"did you mean {near}?" if near else f"keys are {', '.join(known)}"
                self.problems.append(Problem(where(key), key, "unknown key", hint))

    def _entry(self, entry: Any, where: str, lines: dict[str, str] | None = None) -> None:
        if isinstance(entry, str):
            entry = self._line(entry, where)
        elif callable(entry) or isinstance(entry, Reward):
            self.take(entry)
            return
        elif not isinstance(entry, Mapping):
            self.problems.append(Problem(where, "", f"a reward is a name or a mapping, not {type(entry).__name__}"))
            return
        if entry is not None:
            self.entries.append(_Entry({str(k): v for k, v in entry.items()}, where, lines or {}))

    def _line(self, text: str, where: str) -> dict[str, Any] | None:
        """A reward in a line; None where it is none (a problem then)."""
        head, _, tail = text.partition(":")
        if head in KINDS:
            return {"kind": head, **self._pairs(tail, where, head)}
        if _is_folder(text):
            return {"kind": "model", "path": text}
        if ":" in text:
            given = _FUNCTION.fullmatch(text)
            name, options = (given[1], given[2]) if given is not None else (text, "")
            return {"kind": "function", "function": name, **self._pairs(options, where, "function")}
        near = closest(head, list(KINDS), 0.6)
        hint = f"did you mean {near}?" if near else "`plaudit rewards` lists the rewards"
        what = "is neither a reward, module:function, a .yaml file, nor the folder of a reward model"
        self.problems.append(Problem(where, "", what, hint))
        return None

    def _pairs(self, text: str, where: str, kind: str) -> dict[str, Any]:
        """key=value,key=value. A comma separates only before the next key=, so that patterns may have commas."""
        found: dict[str, Any] = {}
        fields = reward_class(kind).Options.model_fields | PartOptions.model_fields
        for pair in re.split(r",(?=\s*\w+=)", text) if text else []:
            key, equals, value = pair.partition("=")
            key = key.strip()
            if not equals:
                self.problems.append(Problem(where, pair, "is not key=value"))
            elif key in found or key == "kind":
                self.problems.append(
                    Problem(where, key, "is given twice" if key in found else "stands before the colon")
                )
            else:
                is_text = key in fields and str in options_of(fields[key].annotation)
                found[key] = _unquoted(value) if is_text else parse_text(value)
        return found

    def made(self) -> RewardSpec:
        if not self.entries and not self.ready and not self.problems:
            raise ConfigError("PL102", "no reward is given", mend="`plaudit rewards` lists them", where="--reward")
        scoring = _Entry({k: v for k, (v, _) in self.scoring.items()}, "", {k: w for k, (_, w) in self.scoring.items()})
        config = self._validated(ScoringConfig, scoring.values, scoring) or ScoringConfig()
        checked = [self._checked(entry) for entry in self.entries]
        steps = [self._step(entry, where) for entry, where in self.shaping]
        self._raise()
        parts = [self._part(*each, config.cache) for each in checked if each is not None]
        kept = [Part(r) for r in self.ready] + [p for p in parts if p is not None]
        self._names(kept, bool(steps))
        self._raise()
        found = [s for s in steps if s is not None]
        written: list[Any] = [{**e.values} for e in self.entries] + [r.name for r in self.ready]
        about = {"rewards": written, "shaping": [s for s, _ in self.shaping]}
        return RewardSpec(Composite(kept, [s.apply for s in found]), config, about, found)

    def _raise(self) -> None:
        if self.problems:
            lines = "\n".join(f"    {p}" for p in dict.fromkeys(self.problems))
            raise ConfigError(
                "PL100", f"the rewards have errors:\n{lines}", mend="`plaudit rewards show NAME` explains one"
            )

    def _checked(self, entry: _Entry) -> tuple[type[Reward], RewardOptions, PartOptions, _Entry] | None:
        values = entry.values
        if "function" in values:
            values.setdefault("kind", "function")
        if "kind" not in values:
            self.problems.append(Problem(entry.where, "kind", "is missing", f"kinds are {', '.join(KINDS)}"))
            return None
        try:
            cls = reward_class(str(values["kind"]))
        except ConfigError as error:
            self.problems.append(Problem(entry.at("kind"), "kind", error.what))
            return None
        shared = {k: v for k, v in values.items() if k in PartOptions.model_fields}
        own = {k: v for k, v in values.items() if k not in (*PartOptions.model_fields, "kind")}
        options = self._validated(cls.Options, own, entry, extra=list(PartOptions.model_fields))
        part = self._validated(PartOptions, shared, entry)
        return None if options is None or part is None else (cls, options, part, entry)

    def _validated(self, cls: type[Any], given: dict[str, Any], entry: _Entry, extra: Sequence[str] = ()) -> Any:
        try:
            return cls(**given)
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                key = ".".join(str(p) for p in detail["loc"])
                where = entry.at(key)
                if detail["type"] == "extra_forbidden":
                    near = closest(key, [*cls.model_fields, *extra], 0.6)
                    known = ", ".join([*cls.model_fields, *extra])
                    hint = f"did you mean {near}?" if near else f"there are: {known}"
                    self.problems.append(Problem(where, key, "unknown option", hint))
                elif detail["type"] == "missing":
                    self.problems.append(Problem(where, key, "is required"))
                else:
                    what = str(detail.get("ctx", {}).get("error", detail["msg"]))
                    got = "" if detail["type"] == "value_error" else f", got {detail['input']!r}"
                    self.problems.append(Problem(where, key, what[:1].lower() + what[1:] + got))
            return None

    def _step(self, entry: Any, where: str) -> Step | None:
        name: Any = next(iter(entry)) if isinstance(entry, Mapping) and len(entry) == 1 else None
        cls = SHAPINGS.get(str(name))
        if cls is not None and isinstance(entry[name], Mapping):
            options = {str(k): v for k, v in entry[name].items()}
            step: Step | None = self._validated(cls, options, _Entry(options, f"{where}  {name}"))
            self._collected(where, lambda: None if step is None else step.check())
            return step
        near = None if name is None or cls is not None else closest(str(name), list(SHAPINGS), 0.5)
        hint = f"did you mean {near}?" if near else "for example clip: {low: -1, high: 1}"
        what = f"a shaping is one name with its options: one of {', '.join(SHAPINGS)}"
        self.problems.append(Problem(where, "shaping", what, hint))
        return None

    def _part(
        self, cls: type[Reward], options: RewardOptions, part: PartOptions, entry: _Entry, cache: int
    ) -> Part | None:
        reward = self._collected(entry.where, lambda: cls(options))
        if reward is None:
            return None
        if part.name is not None:
            reward.name = part.name
        if cache and reward.pure:
            reward = Cached(reward, cache)
        return Part(reward, part.weight, part.at_least, part.otherwise, part.when)

    def _collected(self, where: str, make: Callable[[], T]) -> T | None:
        """What is made; an error of the configuration becomes one of the problems."""
        try:
            return make()
        except ConfigError as error:
            if error.code != "PL102":
                raise  # a package is missing: that is no matter of a line
            about = f"{error.where}: " if error.where else ""
            self.problems.append(Problem(where, "", f"{about}{error.what}", error.mend or ""))
            return None

    def _names(self, parts: Sequence[Part], shaped: bool) -> None:
        names = [p.reward.name for p in parts]
        for name in sorted({n for n in names if names.count(n) > 1}):
            self.problems.append(Problem("rewards", "name", f"two of them are called {name!r}: give them names"))
        if shaped and TOTAL in names:
            self.problems.append(Problem("rewards", "name", f"{TOTAL!r} is what the sum before shaping is called"))
        if parts and all(p.at_least is not None for p in parts):
            what = "all of them are gates, which add nothing: one without at_least is needed"
            self.problems.append(Problem("rewards", "at_least", what))


def _is_folder(text: str) -> bool:
    try:
        return Path(text).expanduser().is_dir()
    except (OSError, RuntimeError):  # no file name at all
        return False


def _unquoted(value: str) -> str:
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if quoted else value
