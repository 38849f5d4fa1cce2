"""What may follow on a command line, for the completion of shells: commands, options, and values that are choices.

A training command's options are the keys of the configuration, which no declaration of the command names; so this reads
both, the declarations and the keys. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from plaudit.cli.detach import DETACH, DETACH_MEANING
from plaudit.cli.launch import OPTIONS
from plaudit.cli.registry import listed

if TYPE_CHECKING:
    from plaudit.config.keys import Key

Candidate = tuple[str, str]
"""(text, what it means)"""


def _methods() -> dict[str, str]:
    return {name: method.title for name, method in listed().items()}


def _rewards() -> dict[str, str]:
    from plaudit.rewards.registry import KINDS

    return dict.fromkeys(KINDS, "")


def _among(*values: str) -> Callable[[], dict[str, str]]:
    return lambda: dict.fromkeys(values, "")


_KINDS = ("preference", "feedback", "ranking", "completion", "prompt")
VALUES: dict[str, Callable[[], dict[str, str]]] = {
    "--method": _methods,
    "--reward": _rewards,
    "--gold": _rewards,
    "--proxy": _rewards,
    "--to": _among("feedback", "preference", "ranking"),
    "--from": _among("feedback", "preference", "ranking"),
    "--kind": _among(*_KINDS),
    "--invalid": _among("error", "drop"),
    "--overlong": _among("error", "truncate"),
    "--precision": _among("auto", "fp32", "bf16"),
    "--weigh": _among("pair", "prompt"),
    "--combine": _among("mean", "min", "uwo"),
    "--disagreement": _among("std", "difference"),
}
"""Option of a command → its values, where the declaration has them in words only."""
ARGUMENTS: dict[str, Callable[[], dict[str, str]]] = {
    "methods": _methods,
    "config show": _methods,
    "config schema": _methods,
    "rewards show": _rewards,
    "rewards probe": _rewards,
    "completion": _among("bash", "zsh", "fish"),
}
"""Command → the values of its first argument."""
_KEYED = ("train", "inspect", "config show")
"""Commands besides those of the methods that take any key of the configuration."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where on the command line the word stands."""

    name: str
    command: Any
    behind: list[str]
    """words between the command and the one that is asked about"""


def candidates(program: Any, words: Sequence[str]) -> list[Candidate]:
    """What the last word may become; nothing where that is a file, or anything.

    Args:
        program: the group of all commands.
        words: what is typed behind the program's name; the last one may be empty.
    """
    *before, word = words or [""]
    place = _place(program, before)
    keys, flags = _configuration(place)
    flag, equals, _ = word.partition("=")
    if equals:
        found = _values(place, flag, keys, flags) or _key_values(keys.get(flag))
        return _starting(word, ((f"{flag}={value}", meaning) for value, meaning in found.items()))
    previous = before[-1] if before else ""
    if _takes_value(place, previous, flags):
        return _starting(word, _values(place, previous, keys, flags).items())
    if word.startswith("-"):
        return _starting(word, _options(place, word, keys, flags))
    if hasattr(place.command, "commands"):
        shown = ((n, c.get_short_help_str()) for n, c in place.command.commands.items())
        return _starting(word, shown)
    if not place.behind and place.name in ARGUMENTS:
        return _starting(word, ARGUMENTS[place.name]().items())
    if word[:1].isalpha():
        return _starting(word, ((f"{name}=", key.doc) for name, key in keys.items()))
    return []


def _starting(word: str, found: Any) -> list[Candidate]:
    """Those that begin with the word, each meaning cut to its first sentence."""
    return [(text, " ".join(meaning.split()).partition(". ")[0]) for text, meaning in found if text.startswith(word)]


def _place(program: Any, before: Sequence[str]) -> _Place:
    """Follow the names of commands; options in between are passed over."""
    command, path, behind = program, list[str](), list[str]()
    for word in before:
        if (inner := getattr(command, "commands", {}).get(word)) is not None:
            command, behind = inner, []
            path.append(word)
        else:
            behind.append(word)
    return _Place(" ".join(path), command, behind)


def _configuration(place: _Place) -> tuple[dict[str, Key], dict[str, tuple[str, bool]]]:
    """(keys, flags) of the configuration, with the options of the method that the line names; none for a command that
    takes no configuration."""
    if place.name not in listed() and place.name not in _KEYED:
        return {}, {}
    from plaudit.config.flags import all_flags
    from plaudit.config.keys import all_keys
    from plaudit.methods import find
    from plaudit.methods.base import MethodConfig

    names = [place.name, *(_said(place.behind)), *place.behind[:1]]
    named = next((name for name in names if name in listed()), None)
    keys = all_keys(MethodConfig if named is None else find(named).Config)
    return keys, all_flags(keys)


def _said(words: Sequence[str]) -> Iterator[str]:
    """Values of --method."""
    for flag, value in pairwise(words):
        if flag == "--method":
            yield value
    yield from (word.partition("=")[2] for word in words if word.startswith(("--method=", "method=")))


def _declared(place: _Place) -> Iterator[tuple[str, Any]]:
    """(name, option) of what the command declares itself."""
    for option in place.command.params:
        for name in (*option.opts, *option.secondary_opts):
            if name.startswith("-") and not getattr(option, "hidden", False):
                yield name, option


def _takes_value(place: _Place, word: str, flags: Mapping[str, tuple[str, bool]]) -> bool:
    own = dict(_declared(place)).get(word)
    if own is not None:
        return not own.is_flag
    return word in OPTIONS or flags.get(_as_flag(word), ("", False))[1]


def _as_flag(word: str) -> str:
    return word.replace("_", "-")


def _values(place: _Place, flag: str, keys: Mapping[str, Key], flags: Mapping[str, tuple[str, bool]]) -> dict[str, str]:
    own = dict(_declared(place)).get(flag)
    if own is None and _as_flag(flag) in flags:
        return _key_values(keys.get(flags[_as_flag(flag)][0]))
    if own is None or flag not in VALUES:
        return {}
    return VALUES[flag]()


def _key_values(key: Key | None) -> dict[str, str]:
    """The choices that a key has."""
    if key is None:
        return {}
    if key.name == "method.name":
        return _methods()
    if key.name in ("reward.rewards", "watch.gold"):
        return _rewards()
    from plaudit.config.keys import options_of

    found: dict[str, str] = {}
    for option in options_of(key.annotation):
        inner = get_args(option)[0] if get_origin(option) is tuple else option
        if get_origin(inner) is Literal:
            found |= {str(value): "" for value in get_args(inner)}
        if inner is bool:
            found |= {"true": "", "false": ""}
    return found


def _options(
    place: _Place, word: str, keys: Mapping[str, Key], flags: Mapping[str, tuple[str, bool]]
) -> Iterator[Candidate]:
    own = dict(_declared(place))
    yield from ((name, getattr(option, "help", None) or "") for name, option in own.items())
    if not keys:
        if "--help" not in own:
            yield "--help", "Show what the command does."
        return
    if place.name != "inspect" and place.name != "config show":
        yield from [*OPTIONS.items(), (DETACH, DETACH_MEANING), ("--help", "All options.")]
    docs = {"lora": "Train a LoRA adapter."} | {name: key.doc for name, key in keys.items()}
    taught: set[str] = set()
    matching = [(name, key) for name, (key, _) in flags.items() if name.startswith(word) and name not in own]
    for name, key in matching:
        if key not in taught:  # one name of each key is enough, the best one that fits what was typed
            taught.add(key)
            yield name, docs.get(key, "")


__all__ = ["ARGUMENTS", "VALUES", "candidates"]
