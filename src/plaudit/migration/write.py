"""Our configuration as YAML, each line with where it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from plaudit.config.schema import RunConfig
from plaudit.migration.draft import Draft, Line
from plaudit.runs import yaml_text

_WIDTH = 40


def yaml_of(draft: Draft) -> str:
    """The file. Sections stand in the order of the schema."""
    title = draft.dialect.title
    head = [f"# From a configuration of {title} ({draft.trainer}): {draft.given.name}"]
    head += [f"# TODO {note}" if "YOUR" in note else f"# {note}" for note in draft.notes]
    body: list[str] = []
    for section in RunConfig.model_fields:
        lines = [line for key, line in draft.lines.items() if key.partition(".")[0] == section]
        if lines:
            body += ["", f"{section}:", *(row for line in lines for row in _rows(line, title))]
    return "\n".join([*head, *body, ""])


def _rows(line: Line, title: str) -> Iterator[str]:
    name = line.key.partition(".")[2]
    comment = _comment(line, name, title)
    if isinstance(line.value, list) and any(isinstance(item, dict) for item in line.value):
        yield f"  {name}:{f'  # {comment}' if comment else ''}"
        yield from (f"    - {_flow(item)}" for item in line.value)
        return
    text = f"  {name}: {_flow(line.value)}"
    yield f"{text:<{_WIDTH}}  # {comment}" if comment else text


def _comment(line: Line, name: str, title: str) -> str:
    """The key that the line comes from, where it has another name, and whether it is a default."""
    said = (name, str(line.value))
    names = [n for n in line.names if n.rpartition(".")[2] not in said] if not line.default else []
    parts = [f"{title}'s default"] if line.default else [" × ".join(names)] if names else []
    return "; ".join([*parts, *([line.note] if line.note else [])])


def _flow(value: Any) -> str:
    """A value on one line; numbers as our reader knows them."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{k}: {_flow(v)}' for k, v in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_flow, value))}]"
    text = yaml_text.dump(value).strip().removesuffix("...").strip()
    if isinstance(value, str) and text == value and any(c in value for c in ",{}[]"):
        return f'"{value}"'  # plain text outside of a list, and not in one
    return text
