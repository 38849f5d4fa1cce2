"""The configuration as text: tables for the docs and the terminal."""

from __future__ import annotations

from plaudit.config.elsewhere import KNOWN_ELSEWHERE, MOVED, REPLACED
from plaudit.config.flags import SHORT_FLAGS, SWITCHES, flag_names
from plaudit.config.keys import Key, all_keys, describe, sections, source_keys
from plaudit.methods import Method
from plaudit.methods.base import MethodConfig


def shown_default(key: Key) -> str:
    """A key's default as YAML writes it."""
    if key.required:
        return "required"
    value = key.default
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(map(str, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {inner}" for name, inner in value.items()) + "}"
    return str(value)


def shown_type(key: Key) -> str:
    """A key's type and limits in words."""
    return describe(key.annotation) + (f", {key.constraint}" if key.constraint else "")


def method_keys(method: type[Method]) -> list[Key]:
    """The method's own options."""
    return [key for key in all_keys(method.Config).values() if key.section == "method" and key.name != "method.name"]


def key_table(keys: list[Key]) -> list[str]:
    """Keys as a Markdown table."""
    rows = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for key in keys:
        cells = (f"`{key.name}`", shown_type(key), f"`{shown_default(key)}`", " ".join(key.doc.split()))
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return rows


def configuration_page() -> str:
    """docs/configuration.md."""
    keys = all_keys(MethodConfig)
    lines = [_CONFIGURATION_HEAD]
    for section, model in sections(MethodConfig).items():
        if section == "method":
            lines += ["", "## method", "", "The method and its options: see [methods](methods/index.md).", ""]
            lines += key_table([keys["method.name"]])
            continue
        lines += ["", f"## {section}", "", " ".join((model.__doc__ or "").split()), ""]
        lines += key_table([key for key in keys.values() if key.section == section])
        if section == "data":
            lines += ["", "Each entry of `data.train` and `data.eval` is a path, or a section of these keys:", ""]
            lines += key_table(source_keys())
    return "\n".join([*lines, "", *_flag_section(keys)]) + "\n"


def _flag_section(keys: dict[str, Key]) -> list[str]:
    lines = ["## Short flags", "", "| flag | key |", "| --- | --- |"]
    lines += [f"| `--{name}` | `{key}` |" for name, key in {**SHORT_FLAGS, **KNOWN_ELSEWHERE}.items()]
    lines += [f"| `--{name}` | `{key}: {str(yes).lower()}` |" for name, (key, yes, _) in SWITCHES.items()]
    lines += ["", "Names of other tools that mean something else here are refused with an explanation:", ""]
    lines += ["| name | instead |", "| --- | --- |"]
    lines += [f"| `{name}` | {instead} |" for name, instead in REPLACED.items()]
    lines += ["", "Those of losses, where a method does not say something of its own:", ""]
    lines += ["| name | here |", "| --- | --- |"]
    for name, moved in MOVED.items():
        if name != moved.option:
            note = f"; {moved.note}" if moved.note else ""
            lines.append(f"| `{name}` | `{moved.option}`, as in [{moved.method}](methods/{moved.method}.md){note} |")
    return [
        *lines,
        "",
        "`loss_type` and `pref_loss`: see [methods](methods/index.md#coming-from-trl-or-llama-factory).",
    ]


def option_rows(method: type[Method]) -> list[tuple[str, str, str, str]]:
    """(shortest flag, type, default, meaning) of every key, the method's own first: for the terminal."""
    keys = all_keys(method.Config)
    own = method_keys(method)
    others = [key for key in keys.values() if key.section != "method"]
    return [(flag_names(k, keys)[0], shown_type(k), shown_default(k), k.doc) for k in [*own, *others]]


_CONFIGURATION_HEAD = """# Configuration

<!-- Written by `python scripts/write_docs.py` from the schema; a test fails when it is not current. -->

Every key can be given in a YAML file, as `section.key=value` after it, or as a flag: `--section.key value`, or just
`--key value` where the last name is unique. Later ones win: files in their order, then the command line. Unknown keys,
wrong types and combinations without effect are errors, all reported at once with file and line.

`model: PATH`, `data: PATH` (or a list of them), `method: NAME` and `lora: true` are short forms. Numbers like `1e-5`
are numbers, and only `true` and `false` are booleans. On the command line a list is `[a, b]`, `a,b`, or the flag given
twice; a switch is `--gradient-checkpointing` or `--no-gradient-checkpointing`. Relative paths count from the working
directory.

`plaudit init DATA` writes a starter configuration for a file of rows. `plaudit config show [METHOD] FILE` prints the
resolved one, `plaudit config schema` a JSON schema with which editors complete and check it: [init](init.md)."""

__all__ = [
    "configuration_page",
    "key_table",
    "method_keys",
    "option_rows",
    "shown_default",
    "shown_type",
]
