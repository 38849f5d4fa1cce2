"""Reward functions and models → reward.rewards."""

from __future__ import annotations

from typing import Any

from plaudit.migration.draft import Draft, shown
from plaudit.migration.values import names, numbers, plain, text

REWARD = "YOUR_REWARDS.py:reward"
"""Stands for a reward that the input does not name."""
_TRL = {"accuracy_reward": "math", "reasoning_accuracy_reward": "math", "think_format_reward": "format"}
_OVERLONG = "get_soft_overlong_punishment"
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
    if _OVERLONG in functions and "reward.shaping" not in draft.lines:
        steps = [{"soft_overlong": {"longest": 1280, "cache": 256}}]
        draft.write("reward.shaping", steps, note="get_soft_overlong_punishment, with TRL's numbers")
    found += [_function(draft, str(name)) for name in functions if name != _OVERLONG]
    _weights(draft, found, len(functions))
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


def _weights(draft: Draft, found: list[dict[str, Any]], functions: int) -> None:
    weights = draft.get("reward_weights", numbers) or []
    if weights and len(weights) == len(found):
        for reward, weight in zip(found, weights, strict=True):
            if weight != 1:
                reward["weight"] = weight
        draft.take("reward_weights", text="reward.rewards: the weight of each")
    elif weights:
        draft.miss("reward_weights", text=f"{len(weights)} weights, and {len(found)} rewards here of {functions} there")


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
