"""A run whose model, rows and loop are there, before anything of it is computed: what a check before it looks at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plaudit.config.schema import RunConfig
from plaudit.methods.base import Method
from plaudit.train.cast import Cast
from plaudit.train.intake import Intake
from plaudit.train.loop import Trainer
from plaudit.train.parallel import World
from plaudit.train.token_budget import Demand, Settling, TokenBudget
from plaudit.train.work import Work

if TYPE_CHECKING:
    from plaudit.config.load import Resolved


TRIED_PROMPTS = 2
"""Prompts whose rows the rewards are tried on."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """See the module.

    Attributes:
        resolved: as the user gave it.
        config: with a number for `train.tokens_per_microbatch`.
        path: where the run writes.
        resumes: whether the run goes on behind a checkpoint.
        parity: largest difference of the log-probs of the packed path and the model's own, in nats.
        demand: the largest optimiser step that there can be.
        described: further rows of the plan, of what only some runs have.
    """

    resolved: Resolved
    config: RunConfig
    method: Method
    world: World
    path: Path
    resumes: bool
    parity: float
    tokenizer: Any
    intake: Intake
    cast: Cast
    budget: TokenBudget
    settling: Settling
    demand: Callable[[], Demand]
    work: Work
    trainer: Trainer
    described: Mapping[str, Any]
    say: Callable[[str], None]
    """takes lines for the log"""
    try_rewards: Callable[[], Sequence[tuple[str, str]]] | None = None
    """scores a made-up answer to each of a few training prompts: the failures, as kind and message; None: no rewards"""


@dataclass(frozen=True, slots=True)
class Looked:
    """What a check has found that does not keep the run from starting.

    Attributes:
        rows: further rows of the plan.
        record: for check.json.
    """

    rows: Mapping[str, str]
    record: Mapping[str, Any]


Preflight = Callable[[Prepared], Looked]
"""Looks at a run, on every process together, and raises what keeps it from starting."""
