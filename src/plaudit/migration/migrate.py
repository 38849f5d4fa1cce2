"""From what was read to a configuration of ours that loads."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plaudit.config.load import Resolved, resolve
from plaudit.config.problems import raise_all
from plaudit.errors import ConfigError
from plaudit.migration.draft import Draft, Outcome, Part
from plaudit.migration.parts import computing, data, factory, losses, occasions, policy, rewards, size
from plaudit.migration.recognise import dialect_of, tool_of, trainer_of
from plaudit.migration.settings import TITLES, Given, Tool
from plaudit.migration.write import yaml_of


@dataclass(frozen=True, slots=True)
class Migration:
    """A configuration of ours, and an account of theirs.

    Attributes:
        text: the YAML, with comments.
        resolved: what it says once it is loaded.
        outcomes: what became of each key, in the order of the input.
        notes: what has to be done or known besides.
        placeholders: keys whose value has to be written by hand.
    """

    text: str
    resolved: Resolved
    tool: Tool
    trainer: str
    outcomes: tuple[Outcome, ...]
    notes: tuple[str, ...]
    placeholders: tuple[str, ...]
    processes: int

    def of(self, part: Part) -> list[Outcome]:
        """The keys with this fate."""
        return [outcome for outcome in self.outcomes if outcome.part == part]

    @property
    def lossy(self) -> bool:
        """Whether something that changes the result has no counterpart."""
        return any(outcome.changes for outcome in self.of("missing"))

    def commands(self, file: str) -> list[str]:
        """What to run next."""
        method = self.resolved.method.name
        several = f" --processes {self.processes}" if self.processes > 1 else ""
        return [f"plaudit check {file}", f"plaudit {method} {file}{several}"]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for machines."""

        def entries(part: Part) -> list[dict[str, Any]]:
            found = []
            for o in self.of(part):
                entry = {"key": o.setting.key, "value": o.setting.value, "where": o.setting.where, "text": o.text}
                found.append(entry | ({"changes_result": o.changes, "unknown": o.unknown} if part == "missing" else {}))
            return found

        return {
            "tool": TITLES[self.tool],
            "trainer": self.trainer,
            "method": self.resolved.method.name,
            "taken_over": entries("taken"),
            "different": entries("different"),
            "no_counterpart": entries("missing"),
            "notes": list(self.notes),
            "placeholders": list(self.placeholders),
            "lossy": self.lossy,
            "config": self.resolved.as_dict(),
            "yaml": self.text,
        }


_PLACEHOLDERS: Mapping[str, str] = {
    "model.path": computing.MODEL,
    "data.train": data.DATA,
    "reward.rewards": "YOUR_REWARDS.py",
}


def migrate_settings(given: Given, *, tool: Tool | None, method: str | None, processes: int | None) -> Migration:
    """Turn settings into a configuration of ours.

    Args:
        tool: whose they are; None recognises it.
        method: the other tool's trainer or one of our methods; None finds it out.
        processes: that trained there; None takes what the launcher says, or 1.

    Raises:
        ConfigError: PL104, it cannot be migrated; PL101, there is no such method; PL100, a value does not fit.
    """
    tool = tool or tool_of(given)
    trainer, forced = trainer_of(given, tool, method)
    draft = Draft(given, dialect_of(tool, trainer, given), trainer, processes or given.processes or 1)
    if processes is None and given.processes is None:
        draft.notes.append("one process is assumed, and the size of a step depends on it: --processes says otherwise")
    losses.choose(draft, forced)
    if tool == "llama-factory":
        factory.additions(draft)
    draft.take(
        "stage", "rl", "reward_model" if tool == "axolotl" else "stage", text=f"method.name: {draft.method.name}"
    )
    for part in (
        *(computing.model, data.sources, data.lengths, data.learned, computing.adapter, size.step, size.length),
        *(size.way, size.optimiser, computing.weights, rewards.rewards, occasions.evaluation, occasions.checkpoints),
        *(occasions.log, policy.drop_without_effect),
    ):
        part(draft)
    draft.finish()
    raise_all(draft.problems)
    text = yaml_of(draft)
    return Migration(
        text=text,
        resolved=_loaded(text, draft),
        tool=tool,
        trainer=trainer,
        outcomes=tuple(draft.ordered()),
        notes=tuple(draft.notes),
        placeholders=tuple(key for key, word in _PLACEHOLDERS.items() if word in str(_value(draft, key))),
        processes=draft.processes,
    )


def _value(draft: Draft, key: str) -> Any:
    return draft.lines[key].value if key in draft.lines else ""


def _loaded(text: str, draft: Draft) -> Resolved:
    """The configuration by way of our own loader, so that no file is written that does not load.

    Raises:
        ConfigError: PL104, with the loader's problems, or those of the reader of rewards: theirs was a combination that
            is an error here.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "migrated.yaml"
        file.write_text(text, encoding="utf-8")
        try:
            resolved = resolve(None, [file], files_exist=False)
            if resolved.run.reward is not None:
                rewards.check({"rewards": resolved.run.reward.rewards, "shaping": resolved.run.reward.shaping})
            return resolved
        except ConfigError as error:
            found = re.sub(rf"{re.escape(str(file))}:\d+", "migrated", error.what).removeprefix("the ")
            mend = "mend the values in the input, or leave the keys out"
            raise ConfigError("PL104", f"the migrated {found}", where=draft.given.name, mend=mend) from None
