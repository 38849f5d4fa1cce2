"""The policy as a judge of its own answers (self-rewarding): asked with its weights as they are, without a copy."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

from plaudit.data.render import Renderer
from plaudit.engines.base import RolloutEngine, Sampling, nothing
from plaudit.models.forest_model import ForestModel
from plaudit.types import Floats, PromptGroup, Tokens


class OwnJudge:
    """What a local judge asks: a renderer, an engine that scores, and sampling; all of the policy itself.

    Its forward passes switch the policy's adapters, so nobody may sample or train meanwhile; those who ask take turns.
    Questions have no system prompt of the training data: they are no rows of it.

    Args:
        policy: plays the role "policy"; weights, mode and adapter are left as they are.
        engine: the one that samples the answers.
    """

    def __init__(self, policy: ForestModel, engine: RolloutEngine, tokenizer: Any) -> None:
        self._policy, self._engine = policy, engine
        self._turn = threading.Lock()
        self.renderer = Renderer(tokenizer)

    @property
    def engine(self) -> OwnJudge:
        """What scores: this one, which takes the policy's role for it."""
        return self

    @property
    def positions(self) -> int | None:
        """See `RolloutEngine`."""
        return self._engine.positions

    def score(self, groups: Sequence[PromptGroup]) -> list[list[Floats]]:
        """See `RolloutEngine`."""
        with self._turn, self._policy.role("policy"):
            return self._engine.score(groups)

    def sample(self, prompts: Sequence[Tokens], n: int, sampling: Sampling) -> Iterator[PromptGroup]:
        """n completions per prompt. A signal does not end it: half a batch of reasons would be counted as failures."""
        stops = tuple(dict.fromkeys([*sampling.stop_token_ids, *self.renderer.stop_token_ids]))
        asked = sampling.model_copy(update={"stop_token_ids": stops})
        with self._turn, self._policy.role("policy"):
            self._engine.check = nothing
            return iter(list(self._engine.generate(prompts, n, asked)))
