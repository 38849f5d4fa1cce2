"""The reward models that are hardened: where they are, how they were trained, and training them again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plaudit.config.objects import MEMORY
from plaudit.config.schema import SourceConfig
from plaudit.errors import ConfigError, RewardError
from plaudit.rewards.models.card import ENSEMBLE_FILE
from plaudit.rewards.models.combine import Combine
from plaudit.runs.observer import Observer
from plaudit.runs.rundir import COMPLETE_NAME, CONFIG_NAME

if TYPE_CHECKING:
    from plaudit.config.load import Resolved


@dataclass(frozen=True, slots=True)
class Member:
    """A reward model.

    Attributes:
        name: of its folder once it is hardened.
        source: where it is now.
        recipe: the config.yaml of its training; None where that is not known.
        base: the base model of an adapter that does not name it.
        reading: how a model from elsewhere reads plain text (`plain_text`, `append_eos`), where an ensemble says it.
    """

    name: str
    source: str
    recipe: Path | None = None
    base: str | None = None
    reading: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Team:
    """All members, the hardened model first.

    Attributes:
        combine, uncertainty_weight: of the ensemble that was given; None where it was a single model.
    """

    members: tuple[Member, ...]
    combine: Combine | None = None
    uncertainty_weight: float = 0.5

    def moved(self, members: Sequence[Member]) -> Team:
        """The same team with its members elsewhere."""
        return replace(self, members=tuple(members))


def find_team(reward: str | Path, *, config: str | Path | None, base: str | None) -> Team:
    """The members of an ensemble, or a single model.

    Args:
        config: how models are trained that do not come from a run.

    Raises:
        ConfigError: PL102, the configuration is not there; RewardError: PL703, the ensemble's file is damaged.
    """
    fallback = None if config is None else Path(config)
    if fallback is not None and not fallback.is_file():
        raise ConfigError("PL102", "there is no such file", where=str(config), mend="name a YAML file")
    file = Path(reward).expanduser() / ENSEMBLE_FILE
    if not file.is_file():
        return Team((Member("reward", str(reward), recipe_of(reward) or fallback, base),))
    try:
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        found = [(str(m["source"]), m["base"], dict(m["reading"])) for m in values["members"]]
        how, weight = values["combine"], float(values["uncertainty_weight"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RewardError(
            "PL703", f"the file is damaged: {error!r}", where=str(file), mend="make the ensemble anew"
        ) from error
    members = []
    for i, (source, its_base, reading) in enumerate(found):
        place = str((file.parent / source).resolve()) if source.startswith(".") else source
        members.append(Member(f"reward-{i}", place, recipe_of(place) or fallback, base or its_base, reading))
    return Team(tuple(members), how, weight)


def recipe_of(source: str | Path) -> Path | None:
    """The config.yaml of the run that a path names or lies in."""
    path = Path(source).expanduser().absolute()
    return next((f for f in (path / CONFIG_NAME, path.parent / CONFIG_NAME) if f.is_file()), None)


def recipe(member: Member, **changes: Any) -> Resolved:
    """The configuration of a member's training, with changes.

    Args:
        changes: sections and keys, as in `plaudit.api.train`.

    Raises:
        ConfigError: PL102, it is not known, or it is not a reward model's; PL100, it does not resolve (any more).
    """
    from plaudit.config.load import resolve

    assert member.recipe is not None
    found = resolve(None, [member.recipe], changes, objects=True)
    if "reward" not in found.method.roles:
        raise ConfigError(
            "PL102",
            f"the configuration trains with {found.method.name}, which makes no reward model",
            where=str(member.recipe),
            mend="give the run of a reward model, or --config with its training",
        )
    if found.run.model.path == MEMORY:
        raise ConfigError(
            "PL102",
            "the reward model was trained from a model in memory, so it cannot be trained again",
            where=str(member.recipe),
            mend="give its training with --config, or stop before it with --find-only",
        )
    return found


def own_sources(member: Member) -> tuple[SourceConfig, ...] | None:
    """The data that a member was trained on; None where that is not known, or was in memory."""
    if member.recipe is None:
        return None
    found = recipe(member).run.data.train
    return None if any(source.path == MEMORY for source in found) else found


def lost_eval(member: Member) -> bool:
    """Whether the run's held-out rows were in memory, and so are gone."""
    return member.recipe is not None and any(s.path == MEMORY for s in recipe(member).run.data.eval)


def _changes(member: Member, sources: Sequence[SourceConfig], more: Sequence[SourceConfig]) -> dict[str, Any]:
    """The sections of a training on `sources` and `more`; what is said about held-out rows stays as it was."""
    rows: dict[str, Any] = {"train": [s.model_dump(mode="json") for s in (*sources, *more)]}
    if not lost_eval(member):
        return {"data": rows}
    return {"data": rows | {"eval": []}, "eval": {"every": None, "best_metric": None, "early_stopping_patience": None}}


def train_member(
    member: Member,
    folder: Path,
    sources: Sequence[SourceConfig],
    more: Sequence[SourceConfig] = (),
    *,
    seed: int | None = None,
    observers: Sequence[Observer] = (),
) -> Member:
    """Train a member again from where it started, or go on with that, or leave it where it is done.

    Args:
        folder: the run directory.
        sources: the original data.
        more: what is added to it.
        seed: instead of the run's own.

    Returns:
        The member, in its new folder.

    Raises:
        ConfigError: see `recipe`; whatever training raises.
    """
    from plaudit.train.running import run_training

    done = replace(member, name=folder.name, source=str(folder), recipe=folder / CONFIG_NAME, base=None, reading={})
    if (folder / COMPLETE_NAME).is_file():
        return done
    changes = _changes(member, sources, more) | {"run": {"dir": str(folder), "if_exists": "resume"}}
    if seed is not None:
        changes["train"] = {"seed": seed}
    run_training(recipe(member, **changes), observers=observers)
    return done
