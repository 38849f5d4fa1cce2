"""The kinds of rewards by name."""

from __future__ import annotations

from importlib import import_module

from plaudit.config.keys import closest
from plaudit.errors import ConfigError
from plaudit.rewards.contract import Reward

_PACKAGE = "plaudit.rewards"
KINDS: dict[str, str] = {
    "math": "verifiers.math.reward:MathReward",
    "code": "verifiers.code:CodeReward",
    "json_schema": "verifiers.schema:SchemaReward",
    "exact": "verifiers.exact:ExactReward",
    "choice": "verifiers.choice:ChoiceReward",
    "regex": "verifiers.pattern:RegexReward",
    "format": "verifiers.pattern:FormatReward",
    "length": "verifiers.shape:LengthReward",
    "repetition": "verifiers.shape:RepetitionReward",
    "language": "verifiers.shape:LanguageReward",
    "reasoning_gym": "verifiers.gym:GymReward",
    "model": "trained:ModelReward",
    "judge": "judges.reward:JudgeReward",
    "function": "function:FunctionReward",
}
"""Kind → where its class is; imported when it is asked for."""


def reward_class(kind: str) -> type[Reward]:
    """The class of a kind.

    Raises:
        ConfigError: PL102, there is no such kind.
    """
    where = KINDS.get(kind)
    if where is None:
        near = closest(kind, list(KINDS), 0.5)
        raise ConfigError(
            "PL102",
            f"there is no reward {kind!r}" + (f"; did you mean {near}?" if near else ""),
            mend=f"rewards are: {', '.join(KINDS)}; your own function is module:function or file.py:function",
            where="kind",
        )
    module, _, name = where.partition(":")
    found: type[Reward] = getattr(import_module(f"{_PACKAGE}.{module}"), name)
    assert issubclass(found, Reward)
    return found


def listed() -> dict[str, type[Reward]]:
    """Every kind with its class."""
    return {kind: reward_class(kind) for kind in KINDS}
