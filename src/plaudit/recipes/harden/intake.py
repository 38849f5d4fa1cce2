"""What `harden` is given, checked and read before anything is computed."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plaudit.config.objects import MEMORY
from plaudit.config.schema import SourceConfig
from plaudit.data.convert_file import json_lines
from plaudit.data.readers import read
from plaudit.data.recordset import read_records
from plaudit.errors import ConfigError
from plaudit.recipes.harden.cases import Cases, Place, comparisons_of
from plaudit.recipes.harden.members import Member, Team, own_sources, recipe
from plaudit.recipes.harden.options import Options
from plaudit.recipes.harden.scores import items_digest
from plaudit.rewards.models.accuracy import Ranked
from plaudit.runs import ledger
from plaudit.runs.jsonl import write_atomically
from plaudit.runs.rundir import read_json

ABOUT, ROWS = "harden.json", "data.jsonl"


@dataclass(frozen=True, slots=True)
class Given:
    """What `harden` is given, besides its options."""

    reward: str
    policies: tuple[str, ...]
    output: Path
    data: Any = None
    eval_data: Any = None
    second: str | None = None
    config: str | None = None
    base: str | None = None

    def about(self) -> dict[str, Any]:
        """What decides about the files."""
        return {
            "reward": self.reward,
            "policies": list(self.policies),
            "second": self.second,
            "config": self.config,
            "base": self.base,
        }


def check_output(output: Path) -> None:
    """Made, empty, or begun by an earlier call."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        begun = (output / ABOUT).exists()
        foreign = not begun and any(not f.name.startswith(".") and f.name != ROWS for f in output.iterdir())
    except OSError as error:
        raise ConfigError(
            "PL102",
            f"the output folder cannot be made: {error.strerror}",
            where=str(output),
            mend="name another folder",
        ) from error
    if foreign:
        raise ConfigError(
            "PL102", "the folder holds something else", where=str(output), mend="name a folder that is new or empty"
        )


def check_team(team: Team, given: Given, options: Options) -> None:
    """Refuse what could not be ended.

    Raises:
        ConfigError: PL102, a training is needed that is not known, or a second model that has no effect; PL100.
    """
    first = team.members[0]
    if len(team.members) > 1 and given.second is not None:
        raise ConfigError(
            "PL102", "the reward model is an ensemble: its members disagree, and a second model has no effect",
            where="second", mend="leave --second out",
        )  # fmt: skip
    missing = [m.source for m in team.members if m.recipe is None]
    if missing and not options.find_only:
        raise ConfigError(
            "PL102",
            "it is not known how the reward model was trained, so it cannot be trained again",
            where=", ".join(missing),
            mend="give its run instead of its folder, or its training with --config, or stop before it with "
            "--find-only",
        )
    if len(team.members) == 1 and given.second is None and first.recipe is None:
        raise ConfigError(
            "PL102",
            "a single reward model has nobody to disagree with, and it is not known how to train a second one",
            where=first.source,
            mend="give another model with --second, or its training with --config",
        )
    for member in team.members:
        if member.recipe is not None and not (options.find_only and given.second is not None):
            recipe(member)


def data_sources(given: Given, team: Team) -> tuple[SourceConfig, ...]:
    """The pairs, as files: rows in memory are written down."""
    if given.data is None:
        found = own_sources(team.members[0])
        if found is None:
            raise ConfigError(
                "PL102",
                "it is not known which pairs the reward model was trained on",
                where=team.members[0].source,
                mend="name them with --data",
            )
        return found
    return _as_files(given.data, given.output / ROWS)


def _as_files(data: Any, file: Path) -> tuple[SourceConfig, ...]:
    if isinstance(data, (str, Path, SourceConfig)):
        data = [data]
    if isinstance(data, (list, tuple)) and data and all(isinstance(d, (str, Path, SourceConfig)) for d in data):
        return tuple(d if isinstance(d, SourceConfig) else SourceConfig(path=str(d)) for d in data)
    text = "".join(json_lines(row for _, row in read(data).rows))
    if file.exists() and file.read_text(encoding="utf-8") != text:
        raise ConfigError("PL102", "the folder holds other rows", where=str(file), mend="name another folder")
    write_atomically(file, text)
    return (SourceConfig(path=str(file)),)


def held_out_rows(first: Member, sources: Sequence[SourceConfig]) -> set[Place]:
    """Rows that the run holds out of its own data, as training finds them."""
    if first.recipe is None or not recipe(first).run.data.eval_fraction:
        return set()
    from plaudit.data.prepare import prepare
    from plaudit.data.render import Renderer
    from plaudit.data.splits import split_by_prompt
    from plaudit.models.load import load_outline

    run = recipe(first).run
    renderer = Renderer(load_outline(run.model).tokenizer, None, run.data.system_prompt)
    groups = prepare(list(sources), "ranking", renderer, invalid=run.data.invalid, max_drop_fraction=1.0).groups
    held_out = [groups[i].source for i in split_by_prompt(groups, run.data.eval_fraction)[1]]
    return {(s.file, s.row) for s in held_out if s is not None}


def measured_pairs(
    given: Given, first: Member, sources: Sequence[SourceConfig], own: Collection[Place], options: Options
) -> tuple[Ranked, bool]:
    """The comparisons that accuracy is measured on, and whether neither training has seen them."""
    evaluated: Any = given.eval_data
    if evaluated is None and first.recipe is not None:
        evaluated = [s for s in recipe(first).run.data.eval if s.path != MEMORY]
    if evaluated:
        found = read_records(evaluated, "ranking", has_template=True, invalid=options.invalid)
        return comparisons_of(found), True
    found = read_records(list(sources), "ranking", has_template=True, invalid=options.invalid)
    return comparisons_of(found, own or None), bool(own)


def check_about(given: Given, options: Options, cases: Cases) -> None:
    """Compare with what an earlier call has begun in the folder."""
    items = [(c.prompt, [*c.chosen, *c.rejected]) for c in cases.cases]
    sides = "".join(str(int(c.held_out)) for c in cases.cases)
    about = {**given.about(), **options.about(), "data": items_digest(items), "sides": sides}
    mine = json.loads(json.dumps(about))
    file = given.output / ABOUT
    theirs = read_json(file)
    if theirs is not None:
        other = [key for key in mine if theirs.get(key) != mine[key]]
        if other:
            raise ConfigError(
                "PL102",
                f"the folder holds the hardening of another command: other {', '.join(other)}",
                where=str(given.output),
                mend="give the same command to go on, or name another folder",
            )
    write_atomically(file, json.dumps(mine, indent=2) + "\n")
    event = "started" if theirs is None else "resumed"
    ledger.append_event(given.output / ledger.LEDGER_NAME, event, {"find_only": options.find_only})
