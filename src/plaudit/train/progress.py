"""What the loop knows besides weights and optimiser."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


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
    kl_highest: float | None = None
    """highest smoothed KL so far, where a grid of it is watched"""
    crossed: dict[str, Any] | None = None
    """values of the grid that this step has passed and whose model is still to be kept"""
    kept: list[dict[str, Any]] = field(default_factory=list)
    """models of the grid"""
    stopping: dict[str, Any] | None = None
    """the alert of `watch.stop` that is to end the run after this step"""
