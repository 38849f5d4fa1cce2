"""Answers of the policy to the prompts of a batch, from whichever engine its model runs on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from plaudit.config.schema import RolloutSection
from plaudit.engines.base import RolloutEngine, Sampling, nothing
from plaudit.engines.hf import HFEngine
from plaudit.engines.local.engine import LocalEngine
from plaudit.engines.open import open_engine
from plaudit.models.forest_model import ForestModel
from plaudit.train.parallel import World
from plaudit.types import Completion, PromptGroup


def share_of(count: int, world: World) -> tuple[int, int]:
    """The range of a batch's prompts that this process samples; the ranges of all processes make up the whole."""
    return count * world.rank // world.size, count * (world.rank + 1) // world.size


def seed_of(seed: int, number: int, attempt: int = 0) -> int:
    """The seed of a batch's draws: another one for every batch and round, the same after a resume."""
    further = [attempt] if attempt else []
    return int(np.random.SeedSequence([seed, 31, number, *further]).generate_state(1)[0])


class PolicySampler:
    """Samples with the policy as it is at the moment.

    Args:
        policy: plays the role "policy"; weights, mode and adapter are left as they are.
        stop_token_ids: of the chat template, besides the model's own.
        seed: of the run.

    Attributes:
        note: which engine it is and why, for the log.
        exact: whether the log-probs that it returns are those that a forward pass of the trainer gives, to rounding.
    """

    def __init__(
        self,
        policy: ForestModel,
        tokenizer: Any,
        options: RolloutSection,
        *,
        stop_token_ids: Sequence[int],
        seed: int,
        world: World,
    ) -> None:
        self._policy, self._options, self._seed, self._world = policy, options, seed, world
        self.engine, self.note = _engine(policy, tokenizer, options)
        # A token that is computed alone, in bf16, and the same token in a row differ by the rounding of the model.
        self.exact = isinstance(self.engine, LocalEngine) and policy.dtype == torch.float32
        self._sampling = Sampling(
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            min_p=options.min_p,
            max_new_tokens=options.max_new_tokens,
            min_new_tokens=options.min_new_tokens,
            stop=options.stop,
            stop_token_ids=tuple(stop_token_ids),
        )

    def rollout(
        self,
        prompts: Sequence[PromptGroup],
        number: int,
        version: int,
        check: Callable[[], None] = nothing,
        attempt: int = 0,
    ) -> Iterator[PromptGroup]:
        """This process's share of a batch: its prompts with their answers, in order, each as soon as it is ready.

        Args:
            number: of the batch.
            version: optimiser steps that the weights have seen.
            check: called before every forward pass; what it raises ends the work.
            attempt: further rounds of sampling of the same batch draw apart from the first.
        """
        n = self._options.completions_per_prompt
        assert n is not None
        self.engine.weight_version = version
        seed = seed_of(self._seed, number, attempt)
        return self._sample(prompts, n, self._sampling.model_copy(update={"seed": seed}), check)

    def greedy(self, prompts: Sequence[PromptGroup], check: Callable[[], None] = nothing) -> list[Completion]:
        """The most likely answer to each prompt of this process's share; at every token only, as greedy search is."""
        sampling = self._sampling.model_copy(update={"temperature": 0.0, "top_k": None, "top_p": 1.0, "min_p": 0.0})
        return [group.completions[0] for group in self._sample(prompts, 1, sampling, check)]

    def evaluate(self, prompts: Sequence[PromptGroup]) -> Iterator[PromptGroup]:
        """This process's share of held-out prompts, answered as at every evaluation."""
        options = self._options
        changes: dict[str, Any] = {"temperature": options.eval_temperature, "seed": seed_of(self._seed, -1 % 2**32)}
        if options.eval_temperature == 0:
            changes |= {"top_k": None, "top_p": 1.0, "min_p": 0.0}
        return self._sample(prompts, options.eval_completions, self._sampling.model_copy(update=changes))

    def _sample(
        self, prompts: Sequence[PromptGroup], n: int, sampling: Sampling, check: Callable[[], None] = nothing
    ) -> Iterator[PromptGroup]:
        first, end = share_of(len(prompts), self._world)
        if first == end:
            return
        self.engine.check = check
        with self._policy.role("policy"):
            # Those before the share are named too: equal prompts of a batch draw apart by their order in it.
            answered = self.engine.generate([p.prompt_ids for p in prompts[:end]], n, sampling, first=first)
            for prompt, answer in zip(prompts[first:end], answered, strict=True):
                yield replace(prompt, completions=answer.completions, prompt_text=answer.prompt_text)


def _engine(policy: ForestModel, tokenizer: Any, options: RolloutSection) -> tuple[RolloutEngine, str]:
    if options.engine == "generate":
        rows = options.max_rows or 32
        model: Any = policy.model
        engine = HFEngine(model, tokenizer, batch_size=rows, generation_context=policy.native)
        return engine, "transformers' generate, as asked for"
    return open_engine(policy, tokenizer, cache_gib=options.cache_gib, max_rows=options.max_rows)
