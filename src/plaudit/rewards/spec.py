"""Rewards as configurations write them: a file with several, or one in a line.

    rewards:
      - kind: format
        at_least: 1          # a gate: an answer below it gets `otherwise`, and nothing else is asked
        otherwise: -1
      - kind: math
      - my_rewards.py:no_apology
    shaping:
      - clip: {low: -1, high: 1}

In a line: `math`, `math:extract=boxed,weight=2`, `my_rewards.py:no_apology`, or the path of a reward model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from plaudit.config.keys import closest
from plaudit.config.problems import Problem
from plaudit.config.tree import Node, parse_text, plain, read_yaml
from plaudit.errors import ConfigError, PlauditError
from plaudit.rewards.cache import Cached
from plaudit.rewards.compose import Composite, Part, Shaper
from plaudit.rewards.contract import Reward, RewardOptions
from plaudit.rewards.registry import KINDS, reward_class
from plaudit.rewards.steps import SHAPINGS


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
        about: what they are, as plain values: equal for two specs that give the same numbers.
    """

    reward: Composite
    config: ScoringConfig
    about: dict[str, Any] = field(default_factory=dict)


def read_specs(given: Sequence[str | Mapping[str, Any]], **scoring: Any) -> RewardSpec:
    """Rewards from texts (see the module), files and mappings, as one.

    Args:
        scoring: keys of `ScoringConfig`; they win over a file's, and None leaves that one.

    Raises:
        ConfigError: PL100 with everything that is wrong; PL102, PL103 from a reward that cannot be made.
    """
    reader = _Reader()
    for each in given:
        reader.take(each)
    reader.scoring |= {key: value for key, value in scoring.items() if value is not None}
    return reader.made()


class _Reader:
    """Collects parts, shapings and problems."""

    def __init__(self) -> None:
        self.entries: list[tuple[dict[str, Any], str]] = []
        self.shaping: list[tuple[Any, str]] = []
        self.scoring: dict[str, Any] = {}
        self.problems: list[Problem] = []

    def take(self, given: str | Mapping[str, Any]) -> None:
        if isinstance(given, Mapping):
            self._mapping(dict(given), "the argument")
        elif given.endswith((".yaml", ".yml")):
            self._file(Path(given).expanduser())
        else:
            self._entry(given, "--reward " + given)

    def _file(self, path: Path) -> None:
        root = read_yaml(path, self.problems)
        values = root.value if isinstance(root.value, dict) else {}
        self._known(values, {"rewards", "shaping", *ScoringConfig.model_fields}, lambda key: values[key].where)
        for name in ("rewards", "shaping"):
            node = values.get(name)
            if node is not None and not isinstance(node.value, list):
                self.problems.append(Problem(node.where, name, "is a list: every entry begins with a dash"))
        for entry in self._list(values, "rewards"):
            self._entry(plain(entry), entry.where)
        if not self._list(values, "rewards") and not self.problems:
            self.problems.append(Problem(str(path), "rewards", "the file names no reward"))
        self.shaping += [(plain(entry), entry.where) for entry in self._list(values, "shaping")]
        self.scoring |= {k: plain(v) for k, v in values.items() if k in ScoringConfig.model_fields}

    def _list(self, values: dict[str, Node], name: str) -> list[Node]:
        node = values.get(name)
        return node.value if node is not None and isinstance(node.value, list) else []

    def _mapping(self, given: dict[str, Any], where: str) -> None:
        if "rewards" not in given:
            self._entry(given, where)
            return
        self._known(given, {"rewards", "shaping", *ScoringConfig.model_fields}, lambda _: where)
        for entry in given["rewards"]:
            self._entry(entry, where)
        self.shaping += [(entry, where) for entry in given.get("shaping", ())]
        self.scoring |= {k: v for k, v in given.items() if k in ScoringConfig.model_fields}

    def _known(self, given: Mapping[str, Any], known: set[str], where: Any) -> None:
        for key in set(given) - known:
            near = closest(key, sorted(known), 0.6)
            hint = f"did you mean {near}?" if near else f"keys are {', '.join(sorted(known))}"
            self.problems.append(Problem(where(key), key, "unknown key", hint))

    def _entry(self, entry: Any, where: str) -> None:
        if isinstance(entry, str):
            entry = self._line(entry, where)
        elif not isinstance(entry, Mapping):
            self.problems.append(Problem(where, "", f"a reward is a name or a mapping, not {type(entry).__name__}"))
            return
        if entry is not None:
            self.entries.append((dict(entry), where))

    def _line(self, text: str, where: str) -> dict[str, Any] | None:
        """A reward in a line; None where it is none (a problem then)."""
        head, _, tail = text.partition(":")
        if head in KINDS:
            return {"kind": head, **self._pairs(tail, where)}
        if text.count(":") >= 1 and not Path(text).exists():
            name, _, options = text.rpartition(":") if "=" in text.rpartition(":")[2] else (text, "", "")
            return {"kind": "function", "function": name, **self._pairs(options, where)}
        if Path(text).expanduser().is_dir():
            return {"kind": "model", "path": text}
        near = closest(head, list(KINDS), 0.6)
        hint = f"did you mean {near}?" if near else "`plaudit rewards` lists the rewards"
        what = "is neither a reward, module:function, a .yaml file, nor the folder of a reward model"
        self.problems.append(Problem(where, "", what, hint))
        return None

    def _pairs(self, text: str, where: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for pair in filter(None, _split(text)):
            key, equals, value = pair.partition("=")
            if not equals:
                self.problems.append(Problem(where, pair, "is not key=value"))
            found[key.strip()] = parse_text(value)
        return found

    def made(self) -> RewardSpec:
        if not self.entries and not self.problems:
            raise ConfigError("PL102", "no reward is given", mend="`plaudit rewards` lists them")
        config = self._validated(ScoringConfig, self.scoring, "the configuration") or ScoringConfig()
        checked = [self._checked(entry, where) for entry, where in self.entries]
        shapers = [self._shaper(entry, where) for entry, where in self.shaping]
        self._raise()
        parts = [self._part(*each, config.cache) for each in checked if each is not None]
        self._names(parts)
        self._raise()
        about = {"rewards": [e for e, _ in self.entries], "shaping": [s for s, _ in self.shaping]}
        return RewardSpec(Composite(parts, [s for s in shapers if s is not None]), config, about)

    def _raise(self) -> None:
        if self.problems:
            lines = "\n".join(f"    {p}" for p in dict.fromkeys(self.problems))
            raise ConfigError(
                "PL100", f"the rewards have errors:\n{lines}", mend="`plaudit rewards show NAME` explains one"
            )

    def _checked(
        self, entry: dict[str, Any], where: str
    ) -> tuple[type[Reward], RewardOptions, PartOptions, str] | None:
        if "function" in entry:
            entry.setdefault("kind", "function")
        try:
            cls = reward_class(str(entry.get("kind", "")))
        except PlauditError as error:
            self.problems.append(Problem(where, "kind", error.what if "kind" in entry else "is missing"))
            return None
        shared = {k: v for k, v in entry.items() if k in PartOptions.model_fields}
        own = {k: v for k, v in entry.items() if k not in (*PartOptions.model_fields, "kind")}
        options = self._validated(cls.Options, own, where, extra=list(PartOptions.model_fields))
        part = self._validated(PartOptions, shared, where)
        return None if options is None or part is None else (cls, options, part, where)

    def _validated(self, cls: type[Any], given: dict[str, Any], where: str, extra: Sequence[str] = ()) -> Any:
        try:
            return cls(**given)
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                key = ".".join(str(p) for p in detail["loc"])
                if detail["type"] == "extra_forbidden":
                    near = closest(key, [*cls.model_fields, *extra], 0.6)
                    known = ", ".join([*cls.model_fields, *extra])
                    self.problems.append(
                        Problem(
                            where, key, "unknown option", f"did you mean {near}?" if near else f"there are: {known}"
                        )
                    )
                elif detail["type"] == "missing":
                    self.problems.append(Problem(where, key, "is required"))
                else:
                    what = str(detail.get("ctx", {}).get("error", detail["msg"]))
                    got = "" if detail["type"] == "value_error" else f", got {detail['input']!r}"
                    self.problems.append(Problem(where, key, what[:1].lower() + what[1:] + got))
            return None

    def _shaper(self, entry: Any, where: str) -> Shaper | None:
        if isinstance(entry, Mapping) and len(entry) == 1:
            [(name, options)] = entry.items()
            cls = SHAPINGS.get(name)
            if cls is not None and isinstance(options, Mapping):
                found = self._validated(cls, dict(options), f"{where}  {name}")
                return None if found is None else found.apply
        what = f"a shaping is one name with its options: one of {', '.join(SHAPINGS)}"
        self.problems.append(Problem(where, "shaping", what, "for example clip: {low: -1, high: 1}"))
        return None

    def _part(self, cls: type[Reward], options: RewardOptions, part: PartOptions, where: str, cache: int) -> Part:
        reward = cls(options)
        if part.name is not None:
            reward.name = part.name
        if cache and reward.pure:
            reward = Cached(reward, cache)
        return Part(reward, part.weight, part.at_least, part.otherwise, part.when)

    def _names(self, parts: Sequence[Part]) -> None:
        names = [p.reward.name for p in parts]
        for name in sorted({n for n in names if names.count(n) > 1}):
            self.problems.append(Problem("rewards", "name", f"two of them are called {name!r}: give them names"))
        if parts and all(p.at_least is not None for p in parts):
            what = "all of them are gates, which add nothing: one without at_least is needed"
            self.problems.append(Problem("rewards", "at_least", what))


def _split(text: str) -> list[str]:
    """The text at its commas, but not at those within brackets or quotes."""
    parts, depth, quote, start = [], 0, "", 0
    for i, c in enumerate(text):
        if quote:
            quote = "" if c == quote else quote
        elif c in "'\"":
            quote = c
        elif c in "[{(":
            depth += 1
        elif c in "]})":
            depth -= 1
        elif c == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return [*parts, text[start:]]
