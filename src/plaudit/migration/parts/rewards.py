"""Reward functions and models → reward.rewards."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from plaudit.migration.draft import Draft, shown
from plaudit.migration.tables.trl import TRL_REWARDS
from plaudit.migration.values import names, numbers, plain, text
from plaudit.rewards.registry import KINDS

REWARD = "YOUR_REWARDS.py:reward"
"""Stands for a reward that the input does not name."""
_OVERLONG = re.compile(r"get_soft_overlong_punishment(?:\((\d+), (\d+)\))?")
"""TRL's own, with (longest answer, tokens over which it rises) where a script says them."""
_TOTAL = "total"
"""What a run calls the sum of its rewards before shaping."""
_MODELS = ("reward_model_name_or_path", "reward_model_path", "reward_model")


def rewards(draft: Draft) -> None:
    """What sampled answers are scored with; other methods have no reward."""
    if not draft.method.is_online():
        return
    found: list[dict[str, Any]] = []
    for name in _MODELS:
        path = draft.get(name, text)
        if path is not None:
            found.append({"kind": "model", "path": path})
            draft.take(name, text=f"reward.rewards: {path}")
    functions = draft.get("reward_funcs", plain)
    functions = functions if isinstance(functions, list) else names(functions) if functions else []
    shaped = [_OVERLONG.fullmatch(str(name)) for name in functions]
    punishment = next((match for match in shaped if match), None)
    if punishment is not None and "reward.shaping" not in draft.lines:
        longest, cache = (
            int(number or default) for number, default in zip(punishment.groups(), (1280, 256), strict=True)
        )
        said = "" if punishment[1] else ", with TRL's numbers"
        steps = [{"soft_overlong": {"longest": longest, "cache": cache}}]
        draft.write("reward.shaping", steps, note=f"get_soft_overlong_punishment{said}")
    rewarded = [True] * len(found) + [match is None for match in shaped]
    theirs = [name for name, match in zip(functions, shaped, strict=True) if match is None]
    words = [reward["path"] for reward in found] + [str(name) for name in theirs]
    found += [_function(draft, name) for name in theirs]
    _weights(draft, found, rewarded)
    _names(found, words)
    if draft.get("reward_model_type", text) == "api":
        draft.miss("reward_model_type", text="a reward behind an address is a function of yours, or a judge")
    else:
        draft.idle("reward_model_type", text="found out from its folder")
    lines = [_line(reward) for reward in found]
    if not lines:
        lines = [REWARD]
        draft.notes.append(f"reward.rewards is {REWARD}: name what scores the answers there (`plaudit rewards`)")
    draft.take("reward_funcs", text=f"reward.rewards: {shown(lines)}")
    draft.write("reward.rewards", lines)


def _weights(draft: Draft, found: list[dict[str, Any]], rewarded: list[bool]) -> None:
    """The weights.

    Args:
        rewarded: of each of theirs, whether it is a reward here, and not a step of reward.shaping.
    """
    weights = draft.get("reward_weights", numbers) or []
    if not weights:
        return
    if len(weights) != len(rewarded):
        text_ = f"{len(weights)} weights, and {len(rewarded)} rewards there"
        draft.miss("reward_weights", text=text_)
        return
    own = [weight for weight, is_reward in zip(weights, rewarded, strict=True) if is_reward]
    for reward, weight in zip(found, own, strict=True):
        if weight != 1:
            reward["weight"] = weight
    draft.take("reward_weights", text="reward.rewards: the weight of each")
    if any(weight != 1 for weight, is_reward in zip(weights, rewarded, strict=True) if not is_reward):
        draft.miss("reward_weights", text="reward.rewards: the weight of each; reward.shaping has none")


def _names(found: Sequence[dict[str, Any]], said: Sequence[str]) -> None:
    """Give names to those that would be called the same: logs could not tell them apart, and no run takes them.

    Args:
        said: what each is called there.
    """
    called = [_called(reward) for reward in found]
    taken = {*called, _TOTAL}
    for reward, name, theirs in zip(found, called, said, strict=True):
        if called.count(name) == 1 and name != _TOTAL:
            continue
        place = reward.get("path") or reward.get("function") or theirs
        words = [word for word in re.split(r"[^\w.-]+", place.replace(".py:", ":")) if word.strip(".")] or [name]
        if "function" in reward:
            words = [word for part in words for word in part.split(".")]
        wider = ["_".join(words[-n:]) for n in range(1, len(words) + 1)]
        counted = (f"{wider[-1]}_{n}" for n in range(2, len(found) + 3))
        reward["name"] = next(each for each in (*wider, *counted) if each not in taken)
        taken.add(reward["name"])


def _called(reward: Mapping[str, Any]) -> str:
    """What logs call a reward that has no name."""
    return str(reward["function"]).rpartition(":")[2].rpartition(".")[2] if "function" in reward else reward["kind"]


def check(section: Mapping[str, Any]) -> None:
    """Put a section `reward` through the reader of rewards, as a run would, but import nothing of anybody's.

    Raises:
        ConfigError: PL100, with everything that is wrong.
    """
    from plaudit.rewards.spec import read_specs

    rewards = [_stand_in(entry) for entry in section.get("rewards", ())]
    read_specs([{"rewards": rewards, "shaping": list(section.get("shaping", ()))}])


def _stand_in(entry: Any) -> Any:
    """The reward, or where it is a function or a model, which may not be there yet, another with all else it says."""
    if isinstance(entry, str) and ":" in entry and entry.partition(":")[0] not in KINDS:
        entry = {"kind": "function", "function": entry}
    if not isinstance(entry, Mapping) or entry.get("kind") not in ("function", "model"):
        return entry
    rest = {key: value for key, value in entry.items() if key not in ("kind", "function", "path")}
    return {"kind": "format", "name": _called(entry), **rest}


def _function(draft: Draft, name: Any) -> dict[str, Any]:
    """One of reward_funcs: as a script's reader has it already, or as files and commands write it."""
    if isinstance(name, Mapping):
        return dict(name)
    name = str(name)
    if name in TRL_REWARDS:
        kind = TRL_REWARDS[name]
        draft.notes.append(f"{name} is the reward `{kind}` here, with rules of its own: `plaudit rewards show {kind}`")
        return {"kind": kind}
    if name.startswith(":"):  # defined in the script itself, which would train if it were imported
        draft.notes.append(f"{name[1:]} is defined in the script: move it to a file of its own, YOUR_REWARDS.py")
        return {"kind": "function", "function": f"YOUR_REWARDS.py{name}"}
    if "/" not in name and "." not in name:
        draft.notes.append(f"{name} is taken for the folder of a reward model: a function would be MODULE:{name}")
    if "/" in name or "." not in name:
        return {"kind": "model", "path": name}
    module, _, function = name.rpartition(".")
    return {"kind": "function", "function": f"{module}:{function}"}


def _line(reward: dict[str, Any]) -> Any:
    """A reward without options as one word, unless the word would be read as another kind of reward."""
    if set(reward) == {"kind"}:
        return reward["kind"]
    one_word = set(reward) == {"kind", "function"} and reward["function"].partition(":")[0] not in KINDS
    return reward["function"] if one_word else reward
