"""What a file of rollouts says of how its answers were sampled: a run that replays it has to mean the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from plaudit.config.problems import Problem
from plaudit.config.tree import Node

SAMPLED = "sampled"
"""The key in the file's first line."""
SAMPLED_WITH = ("prompts_per_batch", "completions_per_prompt", "max_new_tokens")
"""Options of `rollout` that the answers of a file have been made by, and that a training on them depends on: how many
prompts a step has, and how far an answer was from its limit."""


def sampled_with(path: Path) -> dict[str, int]:
    """The options that a file of rollouts was sampled with; empty where it does not say, as older ones do not."""
    try:
        with path.open(encoding="utf-8") as file:
            values = json.loads(file.readline())[SAMPLED]
        return {name: int(values[name]) for name in SAMPLED_WITH}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # what is no such file is refused where it is read


def take_from_replayed(root: Node, problems: list[Problem]) -> dict[str, Any]:
    """Put the options of the file in `rollout.replay` where nobody has given them; other ones are problems.

    Args:
        root: the merged configuration; changed.

    Returns:
        Dotted key → value, for what was taken.
    """
    section = root.value.get("rollout")
    if section is None or not isinstance(section.value, dict):
        return {}
    options = section.value
    replay = options.get("replay")
    if replay is None or not isinstance(replay.value, str):
        return {}
    taken: dict[str, Any] = {}
    for name, value in sampled_with(Path(replay.value).expanduser()).items():
        node = options.get(name)
        if node is None or node.value is None:
            options[name] = Node(value, replay.where)
            taken[f"rollout.{name}"] = value
        elif str(node.value) != str(value):  # what is no number at all is said by the schema
            what = f"is {node.value}, and the answers in {replay.value} were sampled with {value}"
            problems.append(Problem(node.where, f"rollout.{name}", what, "remove it: it is taken from the file"))
    return taken
