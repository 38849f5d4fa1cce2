"""What the loop knows besides weights and optimiser."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Progress:
    """Goes into every checkpoint."""

    step: int = 0
    """optimiser steps done"""
    best: float | None = None
    best_step: int | None = None
    """0 = the model as it was before the first step"""
    evaluations_without_gain: int = 0
    computed_tokens: int = 0
    """packed tokens of all passes of this process; after a resume the main process holds the sum over all"""
    train_seconds: float = 0.0
    last_metrics: dict[str, float] = field(default_factory=dict)
    """the last log line"""
