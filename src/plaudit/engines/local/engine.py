"""`LocalEngine`: samples from the model that is trained, through its own modules, in the same process."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch

from plaudit.engines.base import Sampling, nothing
from plaudit.engines.local.cache import PromptBucket
from plaudit.engines.local.forward import ModuleForward
from plaudit.engines.local.graphs import cuda_capture
from plaudit.engines.local.jobs import Job, Report, Stops
from plaudit.engines.local.layouts import PromptLayout
from plaudit.engines.local.memory import default_budget
from plaudit.engines.local.packed import PackedLinears
from plaudit.engines.local.sampler import Likely
from plaudit.engines.local.scheduler import Counts, Limits, Scheduler
from plaudit.engines.local.streaming import TextStream
from plaudit.engines.shared import check_fits, end_token_ids, positions_of, take_over
from plaudit.errors import ConfigError, EngineError
from plaudit.methods.base import Role
from plaudit.models.forest_model import ForestModel, causal_lm
from plaudit.train.parallel import World
from plaudit.train.scorer import GroupScorer
from plaudit.types import Floats, PromptGroup, Tokens

_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.25, torch.float16: 5e-2}
"""Nats. In bf16 a token computed alone and the same token in a row differ by the model's own rounding."""
_REPORTED_AT_ONCE = 256
"""Positions of a prompt whose logits are there at the same time."""


class LocalEngine:
    """Generation through the model's own modules with shared prompts and a bounded cache.

    Each unique prompt is read in once; its keys and values are kept once, however many completions continue it. Rows
    that are done leave and waiting ones take their place. The draws of a completion depend on the seed, its prompt and
    its number alone; the logits of a row depend on the other rows by rounding only (about 1e-6 in fp32), so the same
    seed gives the same text in any batch unless a draw falls within that distance of a boundary between two tokens.

    Args:
        model: on the path "forest". Evaluation mode and role are set for each forward and put back.
        tokenizer: gives end-of-sequence ids and the text of completions.
        role: whose adapter is active.
        cache_gib: memory for keys and values; None = a quarter of what is free, at most 4 GiB (half on a GPU).
        max_rows: completions that run at the same time.
        prefill_tokens: prompt tokens of one forward pass.
        packing: multiply with packed copies of the weights on the CPU (see `PackedLinears`), which are made for each
            call and given back after it.
        graphs: record steps as CUDA graphs (see `StepGraphs`), where the model's positions allow it.

    Raises:
        EngineError: PL605 for a model that cannot generate this way (use `plaudit.engines.open.open_engine`).
        ConfigError: PL102, `cache_gib` is no amount of memory.
    """

    def __init__(
        self,
        model: ForestModel,
        tokenizer: Any,
        *,
        role: Role = "policy",
        cache_gib: float | None = None,
        max_rows: int = 512,
        prefill_tokens: int = 2048,
        packing: bool = True,
        graphs: bool = True,
    ) -> None:
        self.model, self.tokenizer, self.role = model, tokenizer, role
        self.weight_version: int | None = None
        self.check: Callable[[], None] = nothing
        self.counts = Counts()
        """Of the latest call of `generate`."""
        if model.path != "forest":
            raise EngineError(
                "PL605",
                "the model runs on the padded path, where keys and values cannot be stored apart",
                mend="use transformers' generate (HFEngine)",
                where="model.attention",
            )
        inner = causal_lm(model.model)
        self._packed = PackedLinears(model) if packing else None
        # Frequencies that depend on the length are chosen on the host, anew in every step.
        recorded = graphs and model.device.type == "cuda" and model.regime.original is None
        self._forward = ModuleForward(model, role, self._packed, cuda_capture(model.device) if recorded else None)
        self._stops = Stops(end_token_ids(inner, tokenizer), self._forward.vocabulary, self.decode)
        if cache_gib is not None and not 0 < cache_gib < math.inf:
            raise ConfigError(
                "PL102",
                f"cache_gib is {cache_gib}",
                mend="give a number of GiB above 0, or leave it out",
                where="cache_gib",
            )
        budget = default_budget(model.device) if cache_gib is None else int(cache_gib * 2**30)
        self.limits = Limits(budget, self._bytes_per_token(), max_rows, prefill_tokens)

    def generate(
        self, prompts: Sequence[Tokens], n: int, sampling: Sampling, *, first: int = 0
    ) -> Iterator[PromptGroup]:
        """See `RolloutEngine.generate`. Errors in the prompts are raised at the call, not at the first group.

        Closing the iterator ends the work. After a `sync` in between the next group is an error (PL606).
        """
        assert n > 0
        jobs = self.jobs(prompts, n, sampling)[first:]
        return (self.group(job) for job in self._in_order(self.run(jobs), first))

    def stream(self, prompt: Tokens, sampling: Sampling, on_text: Callable[[str], None]) -> PromptGroup:
        """See `RolloutEngine.stream`."""
        [job] = self.jobs([prompt], 1, sampling)
        text = TextStream(self.decode, on_text, sampling.stop, sampling.min_new_tokens)
        job.on_token = lambda _, __, history: text.update(history.tokens)
        for _ in self.run([job]):
            text.finish(job.completions[0].text or "")
        return self.group(job)

    def jobs(self, prompts: Sequence[Tokens], n: int, sampling: Sampling) -> list[Job]:
        """One job per prompt, checked.

        Raises:
            EngineError: PL602 for a prompt that cannot be continued by `max_new_tokens`.
        """
        check_fits(prompts, sampling.max_new_tokens, self.positions)
        before: Counter[bytes] = Counter()
        found = []
        for number, prompt in enumerate(prompts):
            tokens = np.asarray(prompt, dtype=np.int32)
            found.append(Job(tokens, n, sampling, number=number, occurrence=before[tokens.tobytes()]))
            before[tokens.tobytes()] += 1
        return found

    def scheduler(self, limits: Limits | None = None) -> Scheduler:
        """A scheduler of this engine's model; several share the model, each has its own cache."""
        return Scheduler(
            self._forward,
            self._stops,
            limits or self.limits,
            switch_at=self.model.regime.original,
            version=lambda: self.weight_version,
        )

    def run(self, jobs: Iterable[Job]) -> Iterator[Job]:
        """Do the jobs and give each back as soon as it is done."""
        scheduler = self.scheduler()
        self.counts = scheduler.counts
        return self._run(scheduler, jobs)

    def _run(self, scheduler: Scheduler, jobs: Iterable[Job]) -> Iterator[Job]:
        rows = 0
        for job in jobs:
            scheduler.submit(job)
            rows += job.n

        def steps() -> Iterator[Job]:
            with self.holding(rows):
                while scheduler.busy:
                    self.check()
                    yield from scheduler.step()

        return steps()

    def holding(self, rows: int) -> AbstractContextManager[None]:
        """Around calls during which the weights stay as they are: what is prepared for them is kept from one call to
        the next. `rows`: completions at the same time."""
        return self._forward.holding(rows)

    @staticmethod
    def _in_order(jobs: Iterator[Job], following: int) -> Iterator[Job]:
        waiting: dict[int, Job] = {}
        for job in jobs:
            waiting[job.number] = job
            while following in waiting:
                yield waiting.pop(following)
                following += 1

    def group(self, job: Job) -> PromptGroup:
        """The job's prompt with its completions, in the order of their numbers."""
        return PromptGroup(
            prompt_ids=job.prompt,
            completions=[job.completions[k] for k in sorted(job.completions)],
            prompt_text=cast(str, self.tokenizer.decode(job.prompt.tolist(), skip_special_tokens=False)),
        )

    def reports(self, prompt: Tokens, top_logprobs: int = 0) -> list[Report]:
        """What the model says of every token of a prompt but the first: P - 1 reports.

        Raises:
            EngineError: PL602 for a prompt that the model has no positions for.
        """
        check_fits([prompt], 0, self.positions)
        tokens = torch.from_numpy(np.asarray(prompt, dtype=np.int64)).to(self._forward.device)
        bucket = PromptBucket([len(prompt)], self._forward.device)
        layout = PromptLayout.of([np.asarray(prompt, dtype=np.int32)], [(bucket, 0)], self._forward.device)
        found: list[Report] = []
        with self._forward.running():
            hidden_PD = self._forward.hidden(layout)
            for start in range(0, len(prompt) - 1, _REPORTED_AT_ONCE):
                end = min(start + _REPORTED_AT_ONCE, len(prompt) - 1)
                likely = Likely.of(self._forward.logits(hidden_PD[start:end]))
                found += likely.reports(tokens[start + 1 : end + 1], top_logprobs)
        return found

    def score(self, groups: Sequence[PromptGroup], temperature: float = 1.0) -> list[list[Floats]]:
        """See `RolloutEngine.score`: by the packed forward pass that training uses."""
        rows = [np.concatenate([g.prompt_ids, c.token_ids]) for g in groups for c in g.completions]
        check_fits(rows, 0, self.positions)
        whole = [
            replace(g, completions=[replace(c, action_mask=np.ones_like(c.action_mask)) for c in g.completions])
            for g in groups
        ]
        scorer = GroupScorer({self.role: self.model}, World(), self.limits.prefill_tokens, temperature=temperature)
        return [[c.logprobs for c in group if c.logprobs is not None] for group in scorer(self.role, whole)]

    def verify(self) -> float:
        """Generate a few tokens and score them by the packed forward pass.

        Returns:
            The largest difference.

        Raises:
            EngineError: PL605 when the model does not generate what it is scored with.
        """
        rng = np.random.default_rng(7)
        prompts = [rng.integers(0, self._forward.vocabulary, n).astype(np.int32) for n in (7, 3)]
        new = min(6, (self.positions or 16) - 7)  # enough for the first steps that a graph repeats
        if new < 1:
            return 0.0
        # In a cache of its own: what a user's budget is too small for is no fault of the model.
        scheduler = self.scheduler(replace(self.limits, budget_bytes=64 * self.limits.bytes_per_token))
        groups = list(
            map(
                self.group,
                self._run(scheduler, self.jobs(prompts, 2, Sampling(max_new_tokens=new, min_new_tokens=new, seed=1))),
            )
        )
        own = [c.full_logprobs for g in groups for c in g.completions if c.full_logprobs is not None]
        scored = [s for by_group in self.score(groups) for s in by_group]
        differences = [float(np.abs(a - b).max()) for a, b in zip(own, scored, strict=True)]
        spread = max(1.0, float(np.concatenate(scored).std()))
        if not max(differences) <= _TOLERANCE[self.model.dtype] * spread:
            raise EngineError(
                "PL605",
                f"generated tokens and their scores differ by {max(differences):.2g} nats",
                mend="use transformers' generate (HFEngine), and report the model's config",
                where="the local engine",
            )
        return max(differences)

    def sync(self, weights: Mapping[str, torch.Tensor] | None, version: int) -> str:
        """See `RolloutEngine.sync`: None when the model is the trainer's own object."""
        checksum = take_over(self.model.model, weights)
        if self._packed is not None and version != self.weight_version:
            self._packed.forget()  # what is still held was made of other weights
        self.weight_version = version
        return checksum

    @property
    def described(self) -> str:
        """What makes it fast here, for the log; empty where nothing does."""
        packed, graphs = self.packed_bytes / 2**20, self._forward.graphs
        if graphs is not None and graphs.failure is not None:
            return f"steps not recorded as CUDA graphs: {graphs.failure}"
        if graphs is not None:
            return "steps recorded as CUDA graphs"
        return f"weights packed while it works, {packed:.0f} MiB" if packed else ""

    @property
    def packed_bytes(self) -> int:
        """Memory of the packed weights while the engine works."""
        return 0 if self._packed is None else self._packed.wanted_bytes

    @property
    def vocabulary(self) -> int:
        """See `RolloutEngine.vocabulary`."""
        return self._forward.vocabulary

    @property
    def positions(self) -> int | None:
        """See `RolloutEngine.positions`. With dynamic position scaling it is the original context: beyond it a token
        depends on what was computed before."""
        regime = self.model.regime
        return regime.original if regime.stateful else positions_of(causal_lm(self.model.model))

    def decode(self, tokens: Any) -> str:
        """The text of tokens, without the special ones."""
        return cast(str, self.tokenizer.decode(list(map(int, tokens)), skip_special_tokens=True))

    def _bytes_per_token(self) -> int:
        """Found by reading in one token; a model that cannot be run this way fails here and not in the middle."""
        bucket = PromptBucket([1], self._forward.device)
        layout = PromptLayout.of([np.zeros(1, dtype=np.int32)], [(bucket, 0)], self._forward.device)
        with self._forward.running():
            self._forward.hidden(layout)
        return bucket.nbytes
