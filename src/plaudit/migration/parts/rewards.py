"""Reward functions and models → reward.rewards."""

from __future__ import annotations

import re
from typing import Any

from plaudit.migration.draft import Draft, shown
from plaudit.migration.values import names, numbers, plain, text

REWARD = "YOUR_REWARDS.py:reward"
"""Stands for a reward that the input does not name."""
_TRL = {"accuracy_reward": "math", "reasoning_accuracy_reward": "math", "think_format_reward": "format"}
_OVERLONG = re.compile(r"get_soft_overlong_punishment(?:\((\d+), (\d+)\))?")
"""TRL's own, with (longest answer, tokens over which it rises) where a script says them."""
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
    found += [_function(draft, str(name)) for name, match in zip(functions, shaped, strict=True) if match is None]
    _weights(draft, found, rewarded)
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


def _function(draft: Draft, name: str) -> dict[str, Any]:
    if name in _TRL:
        draft.notes.append(
            f"{name} is the reward `{_TRL[name]}` here, with rules of its own: `plaudit rewards show {_TRL[name]}`"
        )
        return {"kind": _TRL[name]}
    if name.startswith(":"):  # defined in the script itself, which would train if it were imported
        draft.notes.append(f"{name[1:]} is defined in the script: move it to a file of its own, YOUR_REWARDS.py")
        return {"kind": "function", "function": f"YOUR_REWARDS.py{name}"}
    if "/" in name or "." not in name:
        return {"kind": "model", "path": name}
    module, _, function = name.rpartition(".")
    return {"kind": "function", "function": f"{module}:{function}"}


def _line(reward: dict[str, Any]) -> Any:
    """A reward without options as one word."""
    if set(reward) == {"kind"}:
        return reward["kind"]
    return reward["function"] if set(reward) == {"kind", "function"} else reward
