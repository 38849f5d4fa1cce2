"""Final answers of mathematics: found in the text, made comparable, and compared with a reference."""

from __future__ import annotations

from plaudit.rewards.verifiers.math.reward import MathOptions, MathReward

__all__ = ["MathOptions", "MathReward"]
