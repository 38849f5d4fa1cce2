"""Command-line arguments and Python keyword arguments as configuration keys.

Every key works as ``section.key=value`` and as ``--section.key value``; a key whose last name is unique works as
``--key value`` too. Names that people know from elsewhere work where they mean the same (`KNOWN_ELSEWHERE`); those that
mean something else are explained instead of guessed (`Foreign`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from plaudit.config import tree
from plaudit.config.elsewhere import KNOWN_ELSEWHERE, Foreign
from plaudit.config.keys import Key, closest, item_model, options_of
from plaudit.config.problems import COMMAND_LINE, Problem
from plaudit.config.tree import Node

SHORT_FLAGS: dict[str, str] = {
    "model": "model.path",
    "method": "method.name",
    "data": "data.train",
    "eval-data": "data.eval",
    "column": "data.columns",
    "reward": "reward.rewards",
    "rollouts": "rollout.replay",
    "save-rollouts": "rollout.save",
    "output-dir": "run.dir",
    "lora-r": "lora.r",
    "lora-alpha": "lora.alpha",
    "lora-dropout": "lora.dropout",
    "lora-target-modules": "lora.target_modules",
    "lora-modules-to-save": "lora.modules_to_save",
}
"""Flag → key, where the key's own last name would not say enough."""

SWITCHES: dict[str, tuple[str, Any, Any]] = {
    "bf16": ("model.precision", "bf16", "fp32"),
    "fp32": ("model.precision", "fp32", "bf16"),
    "lora": ("lora", True, False),
    "use-peft": ("lora", True, False),
}
"""Flag → (key, value when given, value of ``--no-…`` or false)."""

SHORTHANDS: dict[str, str] = {
    "model": "model.path",
    "data": "data.train",
    "method": "method.name",
    "reward": "reward.rewards",
}
"""Sections that may be given as a single value → the key which that sets."""


SECOND = ("reward", "rollout", "critic", "ptx")
"""Sections whose keys have no short flag where another section has a key of that name: --learning-rate is the
policy's."""
LAST = "watch"
"""The same behind all other sections: --stop is rollout.stop."""


@dataclass(slots=True)
class Arguments:
    """What a command line says.

    Attributes:
        files: configuration files, in order.
        overrides: trees in which only the given keys are set, in order.
    """

    files: list[Path] = field(default_factory=list)
    overrides: list[Node] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Flag:
    key: str
    values: tuple[Any, Any] | None = None
    """(given, negated) of a flag that takes no value"""


def same_meaning(name: str, keys: Mapping[str, Key]) -> str | None:
    """What a configuration file says for another tool's option that means the same here, or for a flag."""
    kebab = name.replace("_", "-")
    key = {**SHORT_FLAGS, **KNOWN_ELSEWHERE}.get(kebab)
    if kebab in SWITCHES:
        key, given, _ = SWITCHES[kebab]
        return f"{key}: {str(given).lower()}"
    return key if key in keys else None


def _flag_table(keys: Mapping[str, Key]) -> dict[str, list[_Flag]]:
    table: dict[str, list[_Flag]] = {}
    section_names = {key.section for key in keys.values()}
    taken = {key.leaf for key in keys.values() if key.section not in (*SECOND, LAST)}
    elsewhere = {key.leaf for key in keys.values() if key.section != LAST}
    for key in keys.values():
        flag = _Flag(key.name, (True, False) if options_of(key.annotation) == (bool,) else None)
        table.setdefault(key.name.replace("_", "-"), []).append(flag)
        behind = (key.section in SECOND and key.leaf in taken) or (key.section == LAST and key.leaf in elsewhere)
        if key.leaf not in section_names and key.name != "method.name" and not behind:
            table.setdefault(key.leaf.replace("_", "-"), []).append(flag)
    table.update((name, [_Flag(key)]) for name, key in {**SHORT_FLAGS, **KNOWN_ELSEWHERE}.items() if key in keys)
    table.update((name, [_Flag(key, (yes, no))]) for name, (key, yes, no) in SWITCHES.items())
    return table


def flag_names(key: Key, keys: Mapping[str, Key]) -> list[str]:
    """The flags that set a key, the one to teach first."""
    return ["--" + name for name, flag in _taught(keys) if flag.key == key.name and name not in SWITCHES]


def all_flags(keys: Mapping[str, Key]) -> dict[str, tuple[str, bool]]:
    """Flag → (the key that it sets, whether a value follows); of a key's flags the one to teach comes first."""
    return {"--" + name: (flag.key, flag.values is None) for name, flag in _taught(keys)}


def _taught(keys: Mapping[str, Key]) -> list[tuple[str, _Flag]]:
    found = [(name, flags[0]) for name, flags in _flag_table(keys).items() if len(flags) == 1]
    return sorted(found, key=lambda f: (f[0] not in SHORT_FLAGS, f[0] in KNOWN_ELSEWHERE, "." in f[0]))


def _look_up(
    name: str, value: Any, where: str, keys: Mapping[str, Key], foreign: Foreign, problems: list[Problem]
) -> _Flag | None:
    table = _flag_table(keys)
    flags = table.get(name, [])
    if (own := foreign.explain_own(name)) is not None:
        same = [f"for {f.key} write --{f.key.replace('_', '-')}" for f in flags]
        problems.append(Problem(where, "", "there is no such option here", "; ".join([own, *same])))
        return None
    if len(flags) == 1:
        return flags[0]
    if flags:
        dotted = " or ".join("--" + f.key.replace("_", "-") for f in flags)
        problems.append(Problem(where, "", "the name is not unique", f"write {dotted}"))
    elif (instead := foreign.explain(name, value)) is not None:
        problems.append(Problem(where, "", "there is no such option here", instead))
    else:
        near = closest(name, list(table))
        problems.append(Problem(where, "", "unknown option", f"did you mean --{near}?" if near else ""))
    return None


def typed(text: str, key: Key | None) -> Any:
    """The value that a command-line text stands for: text stays text where the key holds text."""
    value = tree.parse_text(text)
    if key is None:
        return value
    kinds = options_of(key.annotation)
    if "=" in text and isinstance(value, str) and dict[str, str] in kinds:
        return {name.strip(): to.strip() for name, _, to in (part.partition("=") for part in text.split(","))}
    lists = [get_args(k)[0] for k in kinds if get_origin(k) is tuple]
    words = any(item is str or get_origin(item) is Literal for item in lists)
    if words and isinstance(value, str) and "," in value:
        return [part.strip() for part in value.split(",")]
    if words and str not in kinds and not isinstance(value, list):
        return [text]
    if any(_is_number(item) for item in lists) and not isinstance(value, list):
        return [tree.parse_text(part.strip()) for part in text.split(",")]
    if (str in kinds or _holds_sources(key)) and isinstance(value, (bool, int, float)):
        return text
    return value


def _is_number(item: Any) -> bool:
    return item in (int, float) or get_args(item)[:1] in ((int,), (float,))


def _holds_sources(key: Key) -> bool:
    return item_model(key.annotation) is not None


def _is_list(key: Key | None) -> bool:
    return key is not None and any(get_origin(k) is tuple for k in options_of(key.annotation))


_ASSIGNMENT = re.compile(r"^([A-Za-z_][\w-]*(?:\.[\w-]+)*)=(.*)$", re.DOTALL)


def parse_arguments(arguments: Sequence[str], keys: Mapping[str, Key], foreign: Foreign | None = None) -> Arguments:
    """Sort a command line into files, assignments and flags; every mistake becomes a problem, none raises.

    A flag that is given twice adds to a list or a map, and is a mistake for a single value. `foreign` explains
    options of other tools.
    """
    foreign = foreign or Foreign()
    parsed = Arguments()
    given: dict[str, tuple[str, Any]] = {}
    waiting = list(arguments)
    while waiting:
        token = waiting.pop(0)
        if token.startswith("--") and len(token) > 2:
            pair = _read_flag(token, waiting, keys, foreign, parsed.problems)
        elif match := _ASSIGNMENT.match(token):
            name = match[1].replace("-", "_")
            pair = (name, match[0], typed(match[2], keys.get(_full(name))))
        else:
            _add_file(token, parsed)
            continue
        if pair is not None:
            _add(pair, given, keys, parsed)
    _refuse_lora_without_lora(given, parsed.problems)
    parsed.overrides = [tree.nested(key, tree.from_plain(v, where)) for key, (where, v) in given.items()]
    return parsed


def _refuse_lora_without_lora(given: Mapping[str, tuple[str, Any]], problems: list[Problem]) -> None:
    if given.get("lora", ("", True))[1] is not False:
        return
    for key, (where, _) in given.items():
        if key.startswith("lora."):
            problems.append(Problem(where, key, f"has no effect beside {given['lora'][0].partition(': ')[2]}"))


def _full(name: str) -> str:
    return SHORTHANDS.get(name, name)


def _add(
    pair: tuple[str, str, Any], given: dict[str, tuple[str, Any]], keys: Mapping[str, Key], parsed: Arguments
) -> None:
    key, text, value = pair
    key = _full(key)
    where = f"{COMMAND_LINE}: {text}"
    if key not in given:
        given[key] = (where, value)
    elif isinstance(value, dict) and isinstance(given[key][1], dict):
        given[key] = (where, given[key][1] | value)
    elif _is_list(keys.get(key)):
        before = given[key][1]
        both = [v if isinstance(v, list) else [v] for v in (before, value)]
        given[key] = (where, both[0] + both[1])
    elif given[key][1] != value:
        parsed.problems.append(Problem(where, key, f"given twice; first as {given[key][0].partition(': ')[2]}"))


ROW_FILES = (".jsonl", ".parquet", ".csv", ".jsonl.gz", ".json.gz", ".csv.gz")
"""Names of files of rows end so; a .json file may also be a configuration."""
YAML_FILES = (".yaml", ".yml")
_DATA_FILES = (*ROW_FILES, ".gguf")
_CONFIGS = (*YAML_FILES, ".json")


def _add_file(token: str, parsed: Arguments) -> None:
    path = Path(token)
    if path.suffix in _CONFIGS or (path.is_file() and not token.endswith(_DATA_FILES)):
        parsed.files.append(path)
        return
    what = "neither a configuration file, nor key=value, nor a --flag"
    if path.is_dir() or path.suffix == ".gguf":
        hint = f"did you mean --model {token}?"
    elif path.suffix in _DATA_FILES:
        hint = f"did you mean --data {token}?"
    elif token.startswith("-") and token[1:2].isalpha():
        hint = f"did you mean -{token}? options have two dashes"
    else:
        hint = "values of flags come right after them; write lists as [a, b] or a,b"
    parsed.problems.append(Problem(f"{COMMAND_LINE}: {token}", "", what, hint))


def _values(waiting: Sequence[str]) -> list[str]:
    """The words behind an unknown flag that are most likely its values."""
    ends = (i for i, w in enumerate(waiting) if w.startswith("--") or _ASSIGNMENT.match(w) or w.endswith(_CONFIGS))
    return list(waiting[: next(ends, len(waiting))])


def _read_flag(
    token: str, waiting: list[str], keys: Mapping[str, Key], foreign: Foreign, problems: list[Problem]
) -> tuple[str, str, Any] | None:
    name, equals, text = token[2:].partition("=")
    name = name.replace("_", "-")
    negated = name.startswith("no-") and name not in _flag_table(keys)
    words = [text] if equals else _values(waiting)
    known = name.removeprefix("no-") if negated else name
    flag = _look_up(known, words, f"{COMMAND_LINE}: {token}", keys, foreign, problems)
    if flag is None:
        if not equals:
            del waiting[: len(words)]  # one mistake, one message
        return None
    key = keys.get(flag.key)
    if flag.values is not None:
        if not equals and waiting and waiting[0].lower() in ("true", "false") and not negated:
            equals, text = "=", waiting.pop(0)
        if not equals:
            return flag.key, token, flag.values[1 if negated else 0]
        value = tree.parse_text(text)
        return flag.key, f"{token} {text}", flag.values[0 if value else 1] if isinstance(value, bool) else value
    if negated:
        problems.append(Problem(f"{COMMAND_LINE}: {token}", flag.key, "only switches can be negated with --no-"))
        return None
    if not equals:
        if not waiting or (waiting[0].startswith("--") and len(waiting[0]) > 2):
            problems.append(Problem(f"{COMMAND_LINE}: {token}", flag.key, "the flag needs a value"))
            return None
        text = waiting.pop(0)
    return flag.key, f"--{name} {text}", typed(text, key)


def keyword_overrides(
    options: Mapping[str, Any], keys: Mapping[str, Key], foreign: Foreign, problems: list[Problem]
) -> list[Node]:
    """Python keyword arguments as overrides: sections as dicts (``train={…}``), keys as ``learning_rate=…``."""
    nodes = (_keyword(name, value, keys, foreign, problems) for name, value in options.items())
    return [node for node in nodes if node is not None]


def _keyword(name: str, value: Any, keys: Mapping[str, Key], foreign: Foreign, problems: list[Problem]) -> Node | None:
    where = f"argument {name}"
    kebab = name.replace("_", "-")
    if name in {key.section for key in keys.values()}:
        return tree.nested(name, tree.from_plain(value, where))
    if kebab in SWITCHES and isinstance(value, bool):
        key, given, negated = SWITCHES[kebab]
        return tree.nested(key, tree.from_plain(given if value else negated, where))
    before = len(problems)
    flag = _look_up(kebab, value, where, keys, foreign, problems)
    if flag is None:
        problems[before:] = [Problem(p.where, p.key, p.what, _as_argument(p.hint)) for p in problems[before:]]
        return None
    return tree.nested(flag.key, tree.from_plain(value, where))


def _as_argument(hint: str) -> str:
    return re.sub(r"--([\w.-]+)", lambda m: m[1].replace("-", "_"), hint)
