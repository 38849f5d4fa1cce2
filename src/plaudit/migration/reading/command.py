"""Command lines: `trl dpo …`, `accelerate launch dpo.py …`, `llamafactory-cli train x.yaml …`, `axolotl train x.yaml`.

They are read, never run. A shell file may set plain variables before its command.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plaudit.config.tree import parse_text
from plaudit.errors import ConfigError
from plaudit.migration.reading.files import read_file
from plaudit.migration.settings import Given, Setting, Tool
from plaudit.migration.tables.trl import CLASSES

_PROGRAMS: dict[str, Tool] = {
    "trl": "trl",
    "llamafactory-cli": "llama-factory",
    "lmf": "llama-factory",
    "axolotl": "axolotl",
}
_LAUNCHERS = (
    "accelerate",
    "torchrun",
    "python",
    "python3",
    "deepspeed",
    "uv",
    "poetry",
    "nohup",
    "srun",
    "env",
    "exec",
)
_PROCESSES = ("num_processes", "nproc_per_node", "num_gpus")
_SWITCHES = ("multi_gpu", "use_deepspeed", "use_fsdp", "mixed_precision_bf16", "standalone", "m", "module", "no_python")
_ASSIGNMENT = re.compile(r"^\s*(?:export\s+)?([A-Za-z_]\w*)=(\"[^\"$`]*\"|'[^']*'|[^\s\"'$`;|&()]*)\s*(?:#.*)?$")
_VARIABLE = re.compile(r"\$\{?([A-Za-z_]\w*)\}?")
_KEY_VALUE = re.compile(r"^\+*([A-Za-z_][\w.]*)=(.*)$", re.DOTALL)
_CONFIGS = (".yaml", ".yml", ".json")


def read_shell(path: Path) -> Given:
    """The first command of a shell file that starts one of the tools.

    Raises:
        ConfigError: PL104, there is none.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    variables: dict[str, str] = {}
    number = 0
    lines = text.splitlines()
    while number < len(lines):
        start, line = number + 1, lines[number]
        while line.rstrip().endswith("\\") and number + 1 < len(lines):
            number += 1
            line = line.rstrip()[:-1] + " " + lines[number]
        number += 1
        if match := _ASSIGNMENT.match(line):
            variables[match[1]] = match[2].strip("\"'")
            continue
        words = _split(_VARIABLE.sub(lambda m: variables.get(m[1], m[0]), line))
        if words and _starts_a_tool(words):
            return read_command(words, name=f"{path}:{start}", folder=path.parent)
    raise ConfigError(
        "PL104",
        "no command of TRL, LLaMA-Factory or axolotl is in the file",
        where=str(path),
        mend="known are trl, accelerate launch, torchrun, python, llamafactory-cli and axolotl",
    )


def _split(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:  # an open quote: no command that could be read
        return []


def _starts_a_tool(words: Sequence[str]) -> bool:
    """Whether a line runs one of the tools, and does not only name one (`pip install trl`)."""
    rest = [word for word in words if not _ASSIGNMENT.match(word)]
    if rest and Path(rest[0]).name in _PROGRAMS:
        return True
    script = any(word.endswith(".py") or word.startswith(("axolotl.", "trl.", "llamafactory.")) for word in rest)
    behind = {Path(word).name for word in rest[:4]} & set(_PROGRAMS)
    return bool(rest) and Path(rest[0]).name in _LAUNCHERS and (script or bool(behind))


def read_command(words: Sequence[str], *, name: str = "command line", folder: Path = Path()) -> Given:
    """The settings of a command, and of the file that it names.

    Raises:
        ConfigError: PL104, it starts nothing that is known.
    """
    given = Given(name=name, folder=folder)
    rest = _launched(list(words), given)
    if not rest:
        raise ConfigError(
            "PL104", "the command has no arguments", where=name, mend="for example: -- trl dpo --beta 0.1"
        )
    own = _arguments(rest, given)
    given.add(own)
    return given


def _launched(words: list[str], given: Given) -> list[str]:
    """What is behind the launcher and the program; what they say is noted."""
    while words and (("=" in words[0] and not words[0].startswith("-")) or words[0] in _LAUNCHERS[5:]):
        words.pop(0)
    launcher = False
    while words:
        word = words[0]
        program = Path(word).name
        if program in _PROGRAMS:
            given.tool = _PROGRAMS[program]
            return _behind_program(words[1:], given)
        if word.endswith(".py") or word.startswith(("axolotl.", "trl.", "llamafactory.")):
            _script(word, given)
            return words[1:]
        if word.startswith("--") and launcher:
            _launcher_option(words, given)
            continue
        if program in _LAUNCHERS or word in ("launch", "run", "-m", "--"):
            launcher = True
            words.pop(0)
            continue
        if word.startswith("--"):  # arguments alone
            return words
        words.pop(0)
    return words


def _behind_program(words: list[str], given: Given) -> list[str]:
    verb = words[0] if words and not words[0].startswith("-") else ""
    if given.tool == "trl" and verb in CLASSES:
        given.trainer = verb
    return words[1:] if verb and not verb.endswith(_CONFIGS) else words


def _script(word: str, given: Given) -> None:
    stem = Path(word).stem.lower() if word.endswith(".py") else word.rpartition(".")[2].lower()
    if word.startswith("axolotl."):
        given.tool = "axolotl"
    for command in sorted(CLASSES, key=len, reverse=True):
        if re.search(rf"(^|_){command}($|_|\d)", stem):
            given.trainer = "reward" if stem.startswith("reward") else command
            break
    else:
        if stem.startswith("reward"):
            given.trainer = "reward"


def _launcher_option(words: list[str], given: Given) -> None:
    key, equals, value = words.pop(0)[2:].partition("=")
    key = key.replace("-", "_")
    if not equals and key not in _SWITCHES and words and not words[0].startswith("--") and not words[0].endswith(".py"):
        value = words.pop(0)
    if key in _PROCESSES and value.isdigit():
        given.processes = int(value)
    elif key == "config_file" and value.endswith(_CONFIGS) and given.processes is None:
        path = next((path for path in (Path(value), given.folder / value) if path.is_file()), None)
        settings = read_file(path).settings if path is not None else []
        given.processes = next(
            (s.value for s in settings if s.key == "num_processes" and isinstance(s.value, int)), None
        )


def _arguments(words: list[str], given: Given) -> list[Setting]:
    """`--key value`, `--key=value`, `--flag`, `key=value`; a file is read first."""
    found: list[Setting] = []
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if word.startswith("--") and len(word) > 2:
            key, equals, text = word[2:].partition("=")
            key = key.replace("-", "_")
            if key == "trl":  # not an option of any of them
                continue
            values = [text] if equals else _values(waiting)
            if key == "config" and values:
                _add_file(values[0], given)
            else:
                found.append(_setting(key, values, given.name))
        elif (match := _KEY_VALUE.match(word)) and not word.startswith("-"):
            found.append(_setting(match[1], [match[2]], given.name))
        elif word.endswith(_CONFIGS):
            _add_file(word, given)
        elif word in (";", "&&", "||", "|", ">", "2>&1", "&", ">>"):
            break
    return found


def _values(waiting: list[str]) -> list[str]:
    found = []
    while (
        waiting
        and not re.match(r"^--\w", waiting[0])
        and waiting[0] not in (";", "&&", "||", "|", ">", "2>&1", "&", ">>")
    ):
        found.append(waiting.pop(0))
    return found


def _setting(key: str, words: list[str], where: str) -> Setting:
    if not words:
        negated = key.startswith("no_")
        return Setting(key.removeprefix("no_") if negated else key, not negated, f"{where}: --{key}")
    unread = " ".join(words) if any(_VARIABLE.search(word) for word in words) else ""
    value: Any = [_value(word) for word in words] if len(words) > 1 else _value(words[0])
    return Setting(key, None if unread else value, f"{where}: --{key}", unread)


def _value(word: str) -> Any:
    return {"True": True, "False": False, "None": None}.get(word, parse_text(word))


def _add_file(name: str, given: Given) -> None:
    path = Path(name)
    if not path.is_file() and (given.folder / name).is_file():
        path = given.folder / name
    inner = read_file(path)
    given.add([s for s in inner.settings if s.key not in {g.key for g in given.settings}])
    given.folder = path.parent
