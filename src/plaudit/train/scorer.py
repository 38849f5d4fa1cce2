"""Scores without gradient for `prepare_batch`: reference and old log-probs, values, rewards. Packed as in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from plaudit.forest.layout import Forest
from plaudit.methods.base import Role, Scored, Scores, Statistic
from plaudit.models.forest_model import ForestModel
from plaudit.train.parallel import World
from plaudit.train.planning import materialise, plan_slots
from plaudit.train.reference import ReferenceCache
from plaudit.types import PromptGroup

_STATS: Mapping[Role, frozenset[Statistic]] = {
    "policy": frozenset({"logprob"}),
    "reference": frozenset({"logprob"}),
    "critic": frozenset({"value"}),
    "reward": frozenset({"last"}),
}

_LATENT: frozenset[Statistic] = frozenset({"latent"})


@dataclass(slots=True)
class GroupScorer:
    """score(role, groups) → [group][completion]; the reference's answers come from the cache where they are known.

    Args:
        models: the model of each role. Without one for "reference", only cached groups can be scored.
        world, tokens_per_microbatch: as for training.
        cache: reference log-probs by token ids, or None.
        temperature: logits are divided by it (of scores that are not cached).
        latents: of the role "reward" also what its head reads, a vector for each completion.
    """

    models: Mapping[Role, ForestModel]
    world: World
    tokens_per_microbatch: int
    cache: ReferenceCache | None = None
    temperature: float = 1.0
    latents: bool = False
    reference_tokens: int = 0
    """packed tokens of reference forwards so far: 0 when everything came from the cache"""

    def __call__(self, role: Role, groups: Sequence[PromptGroup]) -> list[list[Scored]]:
        if role != "reference" or self.cache is None:
            return self._compute(role, groups)
        return self._cached(groups)

    def _cached(self, groups: Sequence[PromptGroup]) -> list[list[Scored]]:
        assert self.cache is not None
        known = self._from_cache(groups)
        unknown = [
            replace(g, completions=[c for c, k in zip(g.completions, row, strict=True) if k is None])
            for g, row in zip(groups, known, strict=True)
        ]
        if any(g.completions for g in unknown):
            fresh = self._compute("reference", unknown)
            if self.world.is_main:
                self.cache.store(unknown, fresh, self.models["policy"].bos_id)
            found = [iter(row) for row in self._from_cache(unknown)]
            known = [[next(new) if k is None else k for k in row] for row, new in zip(known, found, strict=True)]
        return [[k for k in row if k is not None] for row in known]

    def _from_cache(self, groups: Sequence[PromptGroup]) -> list[list[Scored | None]]:
        """The main process's cache answers for all."""
        assert self.cache is not None
        return self.world.from_main(self.cache.find(groups, self.models["policy"].bos_id) if self.world.is_main else [])

    @torch.no_grad()
    def _compute(self, role: Role, groups: Sequence[PromptGroup]) -> list[list[Scored]]:
        assert role in self.models, f"nobody plays {role!r} any more, and the cache does not know every group"
        owner = self.models[role]
        stats = _STATS[role] | (_LATENT if self.latents and role == "reward" else frozenset())
        training = owner.training
        owner.eval()
        computed: list[tuple[Forest, Scores]] = []
        try:
            with owner.role(role) as model:
                slots = plan_slots(
                    [(i, g) for i, g in enumerate(groups) if g.completions],
                    model,
                    self.world,
                    budget=self.tokens_per_microbatch,
                    unit="completion",
                    score_last="last" in stats,
                )
                for slot in slots:
                    forest = materialise(slot, model, "last" in stats)
                    if role == "reference":
                        self.reference_tokens += forest.num_tokens
                    if slot.weight or model.sharded:
                        scores = model(forest, role, stats, self.temperature)
                        if slot.weight:
                            computed.append((forest, scores))
        finally:
            owner.train(training)
        found: dict[tuple[int, int], Scored] = {}
        for forest, scores in computed:  # when all are queued: the first of them waits for the device
            _collect(forest, scores, found)
        for other in self.world.gather(found):
            found |= other
        return [[found[i, k] for k in range(len(g.completions))] for i, g in enumerate(groups)]


def _collect(forest: Forest, scores: Scores, found: dict[tuple[int, int], Scored]) -> None:
    lengths = forest.counts_C
    logprobs = None if scores.logprobs_N is None else scores.logprobs_N.cpu().split(lengths)
    values = None if scores.values_N is None else scores.values_N.cpu().split(lengths)
    last = None if scores.last_C is None else scores.last_C.tolist()
    latents = None if scores.latents_CD is None else scores.latents_CD.cpu().numpy()
    for c, key in enumerate(forest.keys):
        found[key] = Scored(
            logprobs=None if logprobs is None else logprobs[c].numpy(),
            values=None if values is None else values[c].numpy(),
            last=None if last is None else last[c],
            latent=None if latents is None else latents[c],
        )
