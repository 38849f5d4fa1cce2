"""Rollouts one batch ahead of the training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from typing import Any

import torch
from torch import Tensor

from plaudit.online.maker import RolloutMaker
from plaudit.online.prompts import PromptChooser, Request
from plaudit.online.records import Rollout, rollout_state
from plaudit.rewards.background import in_background

_PATIENCE = 10.0
"""Seconds that the end of a run waits for a batch that nobody wants any more."""


class Ahead:
    """Rollouts one batch ahead: sampled by a copy of the policy while the policy is trained on the batch before.

    Args:
        maker: samples with the copy.
        policy, copy: the trained weights of both, by the same names.
    """

    def __init__(self, maker: RolloutMaker, policy: Mapping[str, Tensor], copy: Mapping[str, Tensor]) -> None:
        self._maker, self._policy, self._copy = maker, policy, copy
        self._begun: tuple[Request, int] | None = None
        """the batch that the copy's weights are for, and the steps that they have seen"""
        self._future: Future[Rollout] | None = None

    def take(self, number: int, request: Callable[[int], Request], version: int, last: bool) -> Rollout:
        """Rollout `number`; the following one is begun with the policy's present weights, unless this is the last.

        Args:
            request: the prompts of a batch that has not been begun.

        Raises:
            StepAbandoned: after a signal. PlauditError: what went wrong while it was made, in the background too.
        """
        if self._begun is None:
            self._follow(request(number), version)
        assert self._begun is not None
        begun, seen = self._begun
        assert begun.number == number, f"batch {begun.number} was begun, and {number} is asked for"
        found = self._maker.make(begun, seen) if self._future is None else self._future.result()
        self._begun = self._future = None
        if not last:
            following = request(number + 1)
            self._follow(following, version)
            self._future = in_background("rollouts", self._maker.make, following, version)
        return found

    def _follow(self, request: Request, version: int) -> None:
        self._load(self._policy)
        self._begun = request, version

    @torch.no_grad()
    def _load(self, weights: Mapping[str, Tensor]) -> None:
        for name, weight in self._copy.items():
            weight.copy_(weights[name])

    def state(self) -> dict[str, Any]:
        """The batch that was begun, once it is there. Where a signal or an error ended it, the weights that it is made
        with instead: whoever goes on makes the same batch of them. An error is not raised here, but by `take`."""
        if self._begun is None:
            return {}
        request, version = self._begun
        if self._future is not None:
            wait([self._future])
            if self._future.exception() is None:
                return {"ahead": {"request": request.state(), "rollout": rollout_state(self._future.result())}}
        weights = {name: weight.detach().cpu().clone() for name, weight in self._copy.items()}
        return {"ahead_begun": {"request": request.state(), "version": version, "weights": weights}}

    def restore(
        self, state: Mapping[str, Any], chooser: PromptChooser, rollout_of: Callable[[Mapping[str, Any]], Rollout]
    ) -> None:
        """Go on from what `state` returned."""
        if "ahead" in state:
            done = state["ahead"]
            self._future = Future()
            self._future.set_result(rollout_of(done["rollout"]))
            self._begun = chooser.restored(done["request"]), 0
        elif "ahead_begun" in state:
            begun = state["ahead_begun"]
            self._load(begun["weights"])
            self._begun = chooser.restored(begun["request"]), begun["version"]

    def close(self) -> None:
        """Stop what is still being sampled."""
        self._maker.stopped = lambda: True
        if self._future is not None:
            wait([self._future], timeout=_PATIENCE)
