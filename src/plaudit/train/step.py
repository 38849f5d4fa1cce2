"""One optimiser step: gradients of Σ_streams coefficient · Σ_terms coefficient · (sum of the term / its denominator).

The trainer owns the denominators: they are summed over the whole step and all processes before the first backward, so
any split into micro-batches, any packing and any number of processes gives the same gradient. Losses with batch
statistics (scope "step") take two passes: the scores of the whole step without gradient, the loss and its gradient
with respect to the scores, then one backward per micro-batch with that gradient. Each role is its own forward and
backward inside its context.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import cast

import numpy as np
import torch
from torch import Tensor

from plaudit.errors import TrainingError
from plaudit.forest.layout import Forest
from plaudit.forest.transfer import to_device
from plaudit.methods.base import Batch, Method, Role, Scores, Statistic, Sums
from plaudit.models.forest_model import ForestModel
from plaudit.train.parallel import World
from plaudit.train.planning import Slot, forest_view, materialise, needs_last, plan_slots, view_of
from plaudit.types import PromptGroup

_SCORE_FIELDS: Mapping[Statistic, str] = {
    "logprob": "logprobs_N",
    "entropy": "entropy_N",
    "log_sum_p2": "log_sum_p2_N",
    "value": "values_N",
    "last": "last_C",
}


@dataclass(slots=True)
class Stream:
    """A method, the part of its batch that this step trains on, and the stream's factor in the objective."""

    method: Method
    batch: Batch
    indices: Sequence[int]
    """groups of the batch that belong to this step (a minibatch of a rollout batch, or all of an offline one)"""
    coefficient: float = 1.0
    prefix: str = ""
    """put before the stream's metric names when a step mixes streams"""
    temperature: float = 1.0
    """logits are divided by it: that of sampling, where completions were sampled"""

    def groups(self) -> list[tuple[int, PromptGroup]]:
        """All groups of the step: what its denominators count."""
        return [(i, self.batch.groups[i]) for i in self.indices]

    def computed(self) -> list[tuple[int, PromptGroup]]:
        """The groups that can change a gradient."""
        idle = self.method.without_signal(self.batch)
        return [(i, group) for i, group in self.groups() if i not in idle]

    def roles(self) -> list[Role]:
        """The roles whose terms have a factor; nothing of another one has to be computed."""
        coefficients = self.method.coefficients()
        return list(dict.fromkeys(role for term, role in self.method.terms.items() if coefficients[term] != 0))


class Totals:
    """(sum, count) of every metric on the device, until somebody reads them."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}

    def add(self, name: str, total: Tensor, count: Tensor) -> None:
        if name in self.sums:
            self.sums[name] = self.sums[name] + total
            self.counts[name] = self.counts[name] + count
        else:
            self.sums[name], self.counts[name] = total, count

    def add_host(self, values: Mapping[str, tuple[float, float]], world: World, device: torch.device) -> None:
        """Add what every process knows the same of, name → (sum, count): it is counted once."""
        share = 1.0 if world.is_main else 0.0
        for name, pair in values.items():
            # Filled there: a copy from the host would wait for the device.
            total, count = (torch.full((), x * share, dtype=torch.float32, device=device) for x in pair)
            self.add(name, total, count)

    def merge(self, other: Totals) -> None:
        """Add everything that another holds."""
        for name in other.sums:
            self.add(name, other.sums[name], other.counts[name])

    def read(self, world: World) -> dict[str, float]:
        """Means over everything added, over all processes. This is the one device-to-host transfer.

        What counted nothing (the rewards of a class that no answer has) has no mean and is left out: a NaN would look
        like a run that broke down.
        """
        names = sorted(self.sums)
        sums = world.sum_values({n: self.sums[n] for n in names})
        counts = world.sum_values({n: self.counts[n] for n in names})
        if not names:
            return {}
        both = torch.stack([*(sums[n].float() for n in names), *(counts[n].float() for n in names)]).tolist()
        return {n: s / c for n, s, c in zip(names, both[: len(names)], both[len(names) :], strict=True) if c}


@dataclass(slots=True)
class StepRunner:
    """Computes the gradients of optimiser steps.

    Args:
        models: the model of each role; roles may share one.
        world: the processes.
        tokens_per_microbatch: packed tokens per forward.
    """

    models: Mapping[Role, ForestModel]
    world: World
    tokens_per_microbatch: int
    computed_tokens: int = 0
    """packed tokens computed so far by this process, every pass counted"""

    def gradients(self, streams: Sequence[Stream], totals: Totals) -> None:
        """Add this step's gradients to the parameters, and its metrics to `totals`."""
        loss: Tensor | None = None
        for stream in streams:
            own = self._stream(stream, totals, backward=True)
            loss = own if loss is None else loss + own
        assert loss is not None
        # Every process holds its own share of the loss; the count of one process is one step.
        totals.add("loss", loss, torch.full((), 1.0 / self.world.size, device=loss.device))

    @torch.no_grad()
    def evaluate(self, stream: Stream, totals: Totals) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Sums of the terms (this process's share) and their denominators, without gradient."""
        sums: dict[str, Tensor] = {}
        self._stream(stream, totals, backward=False, collect=sums)
        return sums, self._denominators(stream)

    def _denominators(self, stream: Stream) -> dict[str, float]:
        return dict(stream.method.weights([g for _, g in stream.groups()]))

    def _stream(
        self, stream: Stream, totals: Totals, *, backward: bool, collect: dict[str, Tensor] | None = None
    ) -> Tensor:
        factors = self._factors(stream)
        loss = torch.zeros((), device=next(iter(self.models.values())).device)
        for role in stream.roles():
            work = self._role_by_group if stream.method.scope == "group" else self._role_by_step
            loss = loss + work(stream, role, factors, totals, backward, collect)
        return loss

    def _factors(self, stream: Stream) -> dict[str, float]:
        """What each term's sum is multiplied by: stream coefficient · term coefficient / denominator."""
        denominators, coefficients = self._denominators(stream), stream.method.coefficients()
        empty = [name for name in stream.method.terms if denominators[name] <= 0]
        if len(empty) == len(stream.method.terms):
            raise TrainingError(
                "PL401",
                f"the step has nothing to divide by: {', '.join(empty)} count no token, pair or completion",
                where=f"method {stream.method.name}",
                mend="check that the data has trained tokens (action masks) and labels",
            )
        return {
            name: stream.coefficient * coefficients[name] / denominators[name] if denominators[name] > 0 else 0.0
            for name in stream.method.terms
        }

    def _forward(self, role: Role, forest: Forest, stream: Stream) -> Scores:
        self.computed_tokens += forest.num_tokens
        stats = stream.method.stats().get(role, frozenset())
        return cast(Scores, self.models[role](forest, role, stats, stream.temperature))

    def _slots(self, stream: Stream, role: Role) -> list[Slot]:
        return plan_slots(
            stream.computed(),
            self.models[role],
            self.world,
            budget=self.tokens_per_microbatch,
            unit=stream.method.unit,
            score_last=needs_last(stream.method),
        )

    def _role_by_group(
        self,
        stream: Stream,
        role: Role,
        factors: Mapping[str, float],
        totals: Totals,
        backward: bool,
        collect: dict[str, Tensor] | None,
    ) -> Tensor:
        loss_so_far: Tensor | None = None
        with self.models[role].role(role) as model:
            for slot in self._slots(stream, role):
                forest = materialise(slot, model, needs_last(stream.method))
                scores = self._forward(role, forest, stream)
                sums = stream.method.loss(role, scores, forest_view(forest, stream.batch))
                loss = _weighted(sums, factors) * slot.weight
                if backward:
                    loss.backward()
                (_record if slot.weight else _record_empty)(sums, stream.prefix, totals, collect)
                loss_so_far = loss.detach() if loss_so_far is None else loss_so_far + loss.detach()
        # Without a micro-batch there was no group that could change a gradient.
        return torch.zeros((), device=self.models[role].device) if loss_so_far is None else loss_so_far

    def _role_by_step(
        self,
        stream: Stream,
        role: Role,
        factors: Mapping[str, float],
        totals: Totals,
        backward: bool,
        collect: dict[str, Tensor] | None,
    ) -> Tensor:
        step = self._scores_of_step(stream, role)
        with torch.enable_grad():
            leaves = step.require_gradients()
            sums = stream.method.loss(role, step.scores, view_of(*step.layout, stream.batch))
            loss = _weighted(sums, factors)
        # Every process computes the whole step's loss; its share is counted once.
        share = loss.detach() / self.world.size
        (_record if self.world.is_main else _record_empty)(sums, stream.prefix, totals, collect)
        if not backward:
            return share
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
        by_field = {name: g for name, g in zip(step.fields, gradients, strict=True) if g is not None}
        with self.models[role].role(role) as model:
            for slot in self._slots(stream, role):
                forest = materialise(slot, model, needs_last(stream.method))
                scores = self._forward(role, forest, stream)
                surrogate = step.project(forest, scores, by_field) * slot.weight
                surrogate.backward()
        return share

    @torch.no_grad()
    def _scores_of_step(self, stream: Stream, role: Role) -> _StepScores:
        """First pass: every score of the step, on every process."""
        rows: dict[tuple[int, int], dict[str, Tensor]] = {}
        prompts: dict[int, Tensor] = {}
        with self.models[role].role(role) as model:
            for slot in self._slots(stream, role):
                forest = materialise(slot, model, needs_last(stream.method))
                scores = self._forward(role, forest, stream)
                if slot.weight:
                    # Pickled device tensors would be put back on the sender's device, one context per pair of them.
                    _split_scores(forest, _on_host(scores) if self.world.size > 1 else scores, rows, prompts)
        for others_rows, others_prompts in self.world.gather((rows, prompts)):
            rows |= others_rows
            prompts |= others_prompts
        groups = dict(stream.groups())
        return _StepScores.join(rows, prompts, groups, self.models[role].device)


def _weighted(sums: Sums, factors: Mapping[str, float]) -> Tensor:
    parts = [factors[name] * value for name, value in sums.terms.items()]
    return torch.stack(parts).sum() if len(parts) > 1 else parts[0]


def _record(sums: Sums, prefix: str, totals: Totals, collect: dict[str, Tensor] | None) -> None:
    for name, (total, count) in sums.metrics.items():
        totals.add(prefix + name, total, count)
    if collect is not None:
        for name, value in sums.terms.items():
            collect[name] = collect.get(name, torch.zeros((), device=value.device)) + value.detach()


def _record_empty(sums: Sums, prefix: str, totals: Totals, collect: dict[str, Tensor] | None) -> None:
    """The same names with zeros, so that all processes reduce the same metrics."""
    for name, (total, count) in sums.metrics.items():
        totals.add(prefix + name, torch.zeros_like(total), torch.zeros_like(count))
    if collect is not None:
        for name, value in sums.terms.items():
            collect[name] = collect.get(name, torch.zeros((), device=value.device)) + torch.zeros_like(value)


def _on_host(scores: Scores) -> Scores:
    return Scores(**{f.name: None if (v := getattr(scores, f.name)) is None else v.cpu() for f in fields(scores)})


def _split_scores(
    forest: Forest, scores: Scores, rows: dict[tuple[int, int], dict[str, Tensor]], prompts: dict[int, Tensor]
) -> None:
    lengths = forest.counts_C
    for name in _SCORE_FIELDS.values():
        values = getattr(scores, name)
        if values is None:
            continue
        parts = values.split(1) if name == "last_C" else values.split(lengths)
        for key, part in zip(forest.keys, parts, strict=True):
            rows.setdefault(key, {})[name] = part
    if scores.prompt_logprobs_M is not None:
        parts = scores.prompt_logprobs_M.split(forest.prompt_counts_P)
        for piece, part in zip(forest.pieces, parts, strict=True):
            if piece.prompt_targets:
                prompts[piece.index] = part


@dataclass(slots=True)
class _StepScores:
    """The scores of a whole step in batch order, and where each completion's lie."""

    scores: Scores
    fields: list[str]
    layout: tuple[list[tuple[int, int]], list[PromptGroup], Tensor, Tensor, int, Tensor]
    spans: dict[tuple[int, int], tuple[int, int]]
    order: dict[tuple[int, int], int]
    prompt_spans: dict[int, tuple[int, int]]

    @classmethod
    def join(
        cls,
        rows: Mapping[tuple[int, int], Mapping[str, Tensor]],
        prompts: Mapping[int, Tensor],
        groups: Mapping[int, PromptGroup],
        device: torch.device,
    ) -> _StepScores:
        def there(values: Tensor) -> Tensor:
            return values if values.device == device else to_device(values, device)

        keys = sorted(rows)
        names = [n for n in (*_SCORE_FIELDS.values(),) if n in rows[keys[0]]]
        scores = Scores()
        for name in names:
            setattr(scores, name, there(torch.cat([rows[k][name] for k in keys])))
        token_field = next(n for n in names if n != "last_C") if names != ["last_C"] else None
        lengths = [len(rows[k][token_field]) if token_field else 0 for k in keys]
        indices = sorted({g for g, _ in keys})
        place = {g: i for i, g in enumerate(indices)}
        nothing = torch.zeros(0, device=rows[keys[0]][names[0]].device)
        prompt_parts = [prompts.get(g, nothing) for g in indices]
        if prompts:
            scores.prompt_logprobs_M = there(torch.cat(prompt_parts))
            names.append("prompt_logprobs_M")

        def spans(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
            start = 0
            for size in sizes:
                yield start, start + size
                start += size

        def tensor(values: Sequence[int]) -> Tensor:
            return to_device(np.array(values, np.int64), device)

        layout = (
            keys,
            [groups[g] for g in indices],
            tensor([place[g] for g, _ in keys]),
            tensor(lengths),
            sum(lengths),
            tensor([len(p) for p in prompt_parts]),
        )
        return cls(
            scores,
            names,
            layout,
            dict(zip(keys, spans(lengths), strict=True)),
            {k: i for i, k in enumerate(keys)},
            dict(zip(indices, spans([len(p) for p in prompt_parts]), strict=True)),
        )

    def require_gradients(self) -> list[Tensor]:
        """Make every score a leaf and return them in the order of `fields`."""
        leaves = []
        for name in self.fields:
            leaf = getattr(self.scores, name).detach().requires_grad_(True)
            setattr(self.scores, name, leaf)
            leaves.append(leaf)
        return leaves

    def project(self, forest: Forest, scores: Scores, gradients: Mapping[str, Tensor]) -> Tensor:
        """Σ score · (gradient of the step's loss with respect to it): its gradient is the loss's."""
        total: Tensor = torch.zeros((), device=forest.token_ids_T.device)
        for name, gradient in gradients.items():
            values = getattr(scores, name)
            if name == "last_C":
                part = gradient[to_device(np.array([self.order[k] for k in forest.keys]), gradient.device)]
            elif name == "prompt_logprobs_M":
                owners = [p.index for p in forest.pieces if p.prompt_targets]
                part = torch.cat([gradient[slice(*self.prompt_spans[g])] for g in owners]) if owners else gradient[:0]
            else:
                part = torch.cat([gradient[slice(*self.spans[k])] for k in forest.keys])
            # log_sum_p2 carries no gradient; everything else does.
            if values.requires_grad:
                total = total + (values * part).sum()
        return total
