"""What somebody has chosen in a resolved configuration: the keys whose values are not what the defaults give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticUndefined

from plaudit.config.keys import Key, all_keys, source_keys
from plaudit.config.load import resolve
from plaudit.errors import ConfigError
from plaudit.methods import available
from plaudit.methods.base import MethodConfig
from plaudit.runs.config_diff import flatten, plain

_DECIDING = (
    "model.path", "data.train", "data.eval", "data.eval_fraction", "lora.r", "lora.path", "reward.rewards",
    "train.groups_per_step", "train.max_steps", "train.epochs", "rollout.prompts_per_batch", "rollout.ppo_epochs",
    "rollout.replay",
)  # fmt: skip
"""Keys that the defaults of others follow from."""
_NAMING = ("method.name", "model.path", "data.train.N.path", "run.dir")
"""Keys that say what the run is about, and are no choice within it."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A key with its value and what it would have been; `default` is None where there is no default."""

    key: str
    value: Any
    default: Any = None
    has_default: bool = True


def changed_keys(config: Mapping[str, Any]) -> list[Changed]:
    """The keys of a run's config.yaml that differ from the defaults, derived ones included, in their order.

    The options of a method of the user's own are all listed: its file is not run for this.
    """
    name = str((config.get("method") or {}).get("name"))
    known = name in available()
    keys = all_keys(available()[name].Config if known else MethodConfig)
    keys |= {key.name: key for key in source_keys()}
    usual = dict(flatten(_usual(name, config))) if known else {}
    found: list[Changed] = []
    for key, value in flatten(config):
        if key.startswith("lora.") and not any(c.key.partition(".")[0] == "lora" for c in found):
            found.append(Changed("lora", True))  # an adapter at all: all of its options may be the usual ones
        general = _general(key)
        if general in _NAMING:
            continue
        entry = keys.get(general)
        derived = usual
        if key in _DECIDING and known:
            derived = dict(flatten(_usual(name, config, without=key)))
        default = derived[key] if key in derived and key == general else _default(entry)
        if default is PydanticUndefined:
            found.append(Changed(key, value, has_default=False))
        elif default != value:
            found.append(Changed(key, value, default))
    return found


def _usual(name: str, config: Mapping[str, Any], without: str = "") -> dict[str, Any]:
    """The configuration that only what other defaults follow from would have given; empty where it would be refused.

    Args:
        without: one of these that was not given.
    """
    given: dict[str, Any] = {}
    for key in (k for k in _DECIDING if k != without):
        section, _, leaf = key.partition(".")
        value = (config.get(section) or {}).get(leaf)
        if value is not None and value != []:
            given.setdefault(section, {})[leaf] = value
    if config.get("lora") is not None:
        given.setdefault("lora", {})
    try:
        return plain(resolve(name, overrides=given, objects=True, files_exist=False).as_dict())
    except ConfigError:
        return {}


def _general(key: str) -> str:
    """data.train.0.path → data.train.N.path"""
    parts = key.split(".")
    if parts[:2] in (["data", "train"], ["data", "eval"]) and len(parts) > 3:
        return ".".join(["data", "train", "N", *parts[3:]])
    return key


def _default(key: Key | None) -> Any:
    if key is None or key.required:
        return PydanticUndefined
    return plain({"value": key.default})["value"]
