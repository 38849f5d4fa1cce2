"""What a hardening is asked to do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, get_args

from plaudit.data.book import Invalid
from plaudit.engines.base import Sampling
from plaudit.errors import ConfigError
from plaudit.recipes.harden.selection import Criterion, Divergence, Z
from plaudit.rewards.models.conversations import Overlong


@dataclass(frozen=True, slots=True)
class Options:
    """See `plaudit.recipes.interface.harden`."""

    n: int
    sampling: Sampling
    max_prompts: int | None = None
    criterion: Criterion | None = None
    quantile: float | None = None
    divergence: Divergence = "std"
    z: float = Z
    per_prompt: int = 1
    keep_truncated: bool = False
    gold: tuple[Any, ...] = ()
    weight: float = 1.0
    held_out: float = 0.2
    rounds: int = 1
    find_only: bool = False
    system: str | None = None
    precision: str = "auto"
    tokens: int = 8192
    overlong: Overlong = "error"
    invalid: Invalid = "error"

    def check(self) -> None:
        """Refuse what makes no sense, all at once.

        Raises:
            ConfigError: PL102.
        """
        wrong = [what for what, ok in self._conditions() if not ok]
        if wrong:
            raise ConfigError("PL102", "; ".join(wrong), where="plaudit harden", mend="see plaudit harden --help")

    def _conditions(self) -> list[tuple[str, bool]]:
        criteria, divergences = get_args(Criterion), get_args(Divergence)
        return [
            ("n is at least 1", self.n >= 1),
            ("max_prompts is at least 1", self.max_prompts is None or self.max_prompts >= 1),
            (f"score is one of {', '.join(criteria)}", self.criterion in (None, *criteria)),
            (f"disagreement is one of {', '.join(divergences)}", self.divergence in divergences),
            ("quantile lies between 0 and 1", self.quantile is None or 0 <= self.quantile <= 1),
            ("z is a number, or -inf", not math.isnan(self.z) and self.z != math.inf),
            (
                "z is -inf, which takes every answer that scores high for an adversarial one: that needs gold, which "
                "tells good answers from others",
                self.z != -math.inf or bool(self.gold),
            ),
            ("per_prompt is at least 1", self.per_prompt >= 1),
            ("weight is positive", self.weight > 0 and math.isfinite(self.weight)),
            ("held_out is at least 0 and below 1", 0 <= self.held_out < 1),
            ("rounds is at least 1", self.rounds >= 1),
            ("tokens is at least 1", self.tokens >= 1),
            ("overlong is error or truncate", self.overlong in ("error", "truncate")),
            ("invalid is error or drop", self.invalid in ("error", "drop")),
            ("temperature is above 0: answers are sampled", self.sampling.temperature > 0),
        ]

    def about(self) -> dict[str, Any]:
        """What decides about the files, as plain values; `find_only` decides only where it stops."""
        names = (
            *("n", "max_prompts", "criterion", "quantile", "divergence", "per_prompt", "keep_truncated"),
            *("weight", "held_out", "rounds", "system", "precision", "tokens", "overlong", "invalid"),
        )
        found: dict[str, Any] = {name: getattr(self, name) for name in names}
        gold = [g if isinstance(g, str) else getattr(g, "__name__", repr(g)) for g in self.gold]
        return found | {"z": str(self.z), "gold": gold, "sampling": self.sampling.model_dump(mode="json")}
