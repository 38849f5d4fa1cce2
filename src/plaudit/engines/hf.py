"""An engine on transformers' ``generate``: works wherever the model runs, in the trainer's own process.

Slower than a serving engine, but it needs nothing besides transformers and shares the trainer's weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import numpy as np
import torch
import transformers
from packaging.version import Version
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from plaudit.engines.base import Sampling, nothing
from plaudit.engines.shared import check_fits, end_token_ids, positions_of, take_over
from plaudit.errors import EngineError
from plaudit.models.positions import PositionRegime
from plaudit.types import Completion, FinishReason, Floats, PromptGroup, Tokens

_RECOMPUTES = {"phi3", "phimoe"}
"""Models whose keys transformers computes again where a sequence passes into the other position regime …"""
_RECOMPUTES_SINCE = (5, 20)
"""… from this version on; older ones went on from the last token alone, without a word."""


class _LogProbRecorder(LogitsProcessor):
    """Reads the log-prob of every sampled token from the scores it was sampled from.

    Placed last, it sees the final scores of step t, and at step t + 1 the token that step t drew. Only one [B, V]
    tensor is alive at a time; ``output_scores`` would keep one per step.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._scores: torch.Tensor | None = None
        self._columns: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._check()
        if torch.isnan(scores).any():
            raise EngineError(
                "PL601",
                "the model's logits are not numbers (NaN)",
                mend="check the weights; try a wider precision",
                where="transformers' generate",
            )
        self._gather(input_ids[:, -1])
        self._scores = scores
        return scores

    def _gather(self, tokens_B: torch.Tensor) -> None:
        if self._scores is not None:
            scores = self._scores.float()
            picked = scores.gather(1, tokens_B[:, None]).squeeze(1)
            self._columns.append(picked - scores.logsumexp(dim=1))

    def finish(self, sequences: torch.Tensor) -> torch.Tensor:
        """[B, steps] log-probs; the entries after a row's end are meaningless."""
        self._gather(sequences[:, -1])
        return torch.stack(self._columns, dim=1)


class HFEngine:
    """Samples with transformers' ``generate``, in batches of prompts of similar length, left-padded.

    The model is put into eval mode without gradients for each batch and returned to the state it was in; the global
    random state is restored too, so sampling in the middle of training changes nothing but the clock.

    Args:
        model: the model to sample from (a PEFT model works: its active adapters are used).
        tokenizer: gives the end-of-sequence and padding ids and the text of completions.
        batch_size: sequences per ``generate`` call; the seed is only comparable at the same batch size.
        generation_context: entered around every forward pass, for a model that has to be switched to another
            attention implementation to generate.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int = 32,
        generation_context: Callable[[], AbstractContextManager[Any]] | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.weight_version: int | None = None
        self.check: Callable[[], None] = nothing
        self._generation_context: Callable[[], AbstractContextManager[object]] = generation_context or nullcontext
        self._end_ids = end_token_ids(model, tokenizer)
        regime = PositionRegime.of(model.config)
        self._switch_at = None if regime.stateful else regime.original
        self._recomputes = (
            Version(transformers.__version__).release >= _RECOMPUTES_SINCE
            and model.config.get_text_config().model_type in _RECOMPUTES
        )

    def generate(
        self, prompts: Sequence[Tokens], n: int, sampling: Sampling, *, first: int = 0
    ) -> Iterator[PromptGroup]:
        """See `RolloutEngine.generate`. Errors are raised at the call, not at the first group."""
        assert n > 0
        _refuse(sampling)
        self._check_fits(prompts, sampling.max_new_tokens)
        return self._generate(prompts[first:], n, sampling, first * n)

    def _generate(
        self, prompts: Sequence[Tokens], n: int, sampling: Sampling, before: int = 0
    ) -> Iterator[PromptGroup]:
        # `before`: completions of earlier prompts, which another call samples; no batch may draw what one of its has.
        # Longest first, so that running out of memory shows at the start; the draws of a prompt stay together.
        order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
        rows = [i for i in order for _ in range(n)]
        pending: dict[int, list[Completion]] = {i: [] for i in order}
        emitted = 0
        lengths = [len(p) for p in prompts]
        for number, batch in enumerate(self._batches(rows, lengths, sampling.max_new_tokens)):
            completions = self._sample_batch([prompts[i] for i in batch], sampling, before + number)
            for i, completion in zip(batch, completions, strict=True):
                pending[i].append(completion)
            while emitted < len(prompts) and len(pending[emitted]) == n:
                yield PromptGroup(
                    prompt_ids=prompts[emitted],
                    completions=pending.pop(emitted),
                    prompt_text=self._text(prompts[emitted], skip_special_tokens=False),
                )
                emitted += 1

    def _batches(self, rows: Sequence[int], lengths: Sequence[int], new: int = 0) -> Iterator[Sequence[int]]:
        """Cut `rows`, indices into `lengths`, into batches; `new` tokens come at most.

        A model with two position regimes takes the one of the longest row for a whole batch, so rows share one only if
        they are in the same regime at every step.
        """
        at = self._switch_at

        def regime(i: int) -> int:
            if at is None or lengths[i] + new <= at:
                return 0
            return min(lengths[i], at + 1)  # rows of one length pass into the other one together

        for _, same in itertools.groupby(rows, regime):
            together = list(same)
            yield from (together[i : i + self.batch_size] for i in range(0, len(together), self.batch_size))

    def stream(self, prompt: Tokens, sampling: Sampling, on_text: Callable[[str], None]) -> PromptGroup:
        """See `RolloutEngine.stream`: told at once, when it is done."""
        [group] = self.generate([prompt], 1, sampling)
        on_text(group.completions[0].text or "")
        return group

    @property
    def vocabulary(self) -> int:
        """See `RolloutEngine.vocabulary`."""
        return int(self.model.config.get_text_config().vocab_size)

    @property
    def positions(self) -> int | None:
        """See `RolloutEngine.positions`."""
        return positions_of(self.model)

    def _sample_batch(self, prompts: list[Tokens], sampling: Sampling, number: int) -> list[Completion]:
        device = self.model.device
        ids, mask = _left_pad(prompts, self._pad_id, device)
        recorder = _LogProbRecorder(self.check)
        stop_ids = sorted({*self._end_ids, *sampling.stop_token_ids})
        # Neutral settings here: the warpers are passed in our order with the recorder last, so that the recorded
        # log-probs are those of the distribution that was sampled.
        longest = ids.shape[1] + sampling.max_new_tokens
        config = GenerationConfig(
            use_cache=self._switch_at is None or longest <= self._switch_at or self._recomputes,
            max_new_tokens=sampling.max_new_tokens,
            do_sample=sampling.temperature > 0,
            temperature=1.0,
            top_k=0 if sampling.temperature > 0 else None,  # 0 keeps all; greedy search warns of any value
            top_p=1.0,
            eos_token_id=stop_ids or None,
            pad_token_id=self._pad_id,
        )
        processors = LogitsProcessorList([*_warpers(sampling), recorder])
        with self._sampling_state((sampling.seed * 1_000_003 + number) % 2**63):
            generate = cast(Callable[..., torch.Tensor], self.model.generate)
            try:
                sequences = generate(
                    inputs=ids, attention_mask=mask, generation_config=config, logits_processor=processors
                )
            except torch.OutOfMemoryError as error:
                raise EngineError(
                    "PL601",
                    f"out of memory while sampling {len(prompts)} sequences of {ids.shape[1]} prompt tokens",
                    mend="lower the engine's batch_size or max_new_tokens",
                    where="transformers' generate",
                ) from error
        logprobs = recorder.finish(sequences).cpu().numpy().astype(np.float32)
        sampled = sequences[:, ids.shape[1] :].cpu().numpy().astype(np.int32)
        greedy = sampling.temperature == 0
        return [
            self._completion(tokens, None if greedy else row, stop_ids)
            for tokens, row in zip(sampled, logprobs, strict=True)
        ]

    def _completion(self, tokens: Tokens, logprobs: Floats | None, stop_ids: list[int]) -> Completion:
        ends = np.flatnonzero(np.isin(tokens, stop_ids))
        length = int(ends[0]) + 1 if len(ends) else len(tokens)
        reason: FinishReason = "stop" if len(ends) else "length"
        return Completion(
            token_ids=tokens[:length],
            action_mask=np.ones(length, dtype=np.bool_),
            sampling_logprobs=None if logprobs is None else logprobs[:length],
            finish_reason=reason,
            weight_version=self.weight_version,
            text=self._text(tokens[:length], skip_special_tokens=True),
        )

    def score(self, groups: Sequence[PromptGroup], temperature: float = 1.0) -> list[list[Floats]]:
        """See `RolloutEngine.score`: one padded forward per batch through the model's own forward."""
        pairs = [(g.prompt_ids, c.token_ids) for g in groups for c in g.completions]
        self._check_fits([np.concatenate(p) for p in pairs], 0)
        order = sorted(range(len(pairs)), key=lambda i: -(len(pairs[i][0]) + len(pairs[i][1])))
        scored: dict[int, Floats] = {}
        for batch in self._batches(order, [len(p) + len(c) for p, c in pairs]):
            scored.update(zip(batch, self._score_batch([pairs[i] for i in batch], temperature), strict=True))
        flat = iter(range(len(pairs)))
        return [[scored[next(flat)] for _ in g.completions] for g in groups]

    def _score_batch(self, pairs: list[tuple[Tokens, Tokens]], temperature: float) -> list[Floats]:
        ids, mask = _left_pad([np.concatenate(p) for p in pairs], self._pad_id, self.model.device)
        keep = max(len(completion) for _, completion in pairs) + 1
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        with self._sampling_state(0):
            # Only the last positions have targets: the [B, prompt, V] part of the logits is never made.
            logits = self.model(
                input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=keep
            ).logits
        results: list[Floats] = []
        for row, (_, completion) in enumerate(pairs):
            length = len(completion)
            scores = logits[row, -1 - length : -1].float() / temperature
            targets = ids[row, ids.shape[1] - length :]
            picked = scores.gather(1, targets[:, None]).squeeze(1) - scores.logsumexp(dim=1)
            results.append(picked.cpu().numpy().astype(np.float32))
        return results

    def sync(self, weights: Mapping[str, torch.Tensor] | None, version: int) -> str:
        """See `RolloutEngine.sync`: None when the model is the trainer's own object."""
        checksum = take_over(self.model, weights)
        self.weight_version = version
        return checksum

    @property
    def _pad_id(self) -> int:
        # Padding is masked by position, never recognised by id, so any id serves.
        pad = cast(int | None, self.tokenizer.pad_token_id)
        return pad if pad is not None else (min(self._end_ids) if self._end_ids else 0)

    def _text(self, tokens: Tokens, *, skip_special_tokens: bool) -> str:
        return cast(str, self.tokenizer.decode(tokens.tolist(), skip_special_tokens=skip_special_tokens))

    def _check_fits(self, prompts: Sequence[Tokens], new_tokens: int) -> None:
        check_fits(prompts, new_tokens, self.positions)

    @contextmanager
    def _sampling_state(self, seed: int) -> Iterator[None]:
        """Eval mode, no gradient, native attention, seeded generator: all restored afterwards."""
        training = [module for module in self.model.modules() if module.training]
        device = self.model.device
        devices = [device] if device.type == "cuda" else []
        self.model.train(False)
        try:
            with torch.random.fork_rng(devices=devices), self._generation_context(), torch.no_grad():
                torch.manual_seed(seed)
                yield
        finally:
            for module in training:  # module by module: a frozen part that was in eval mode stays there
                module.training = True


def _refuse(sampling: Sampling) -> None:
    """Options that this engine does not have."""
    for name in ("min_new_tokens", "stop"):
        if getattr(sampling, name):
            raise EngineError(
                "PL604",
                f"this engine (transformers' generate) has no {name}",
                mend="leave it out, or use a model that the local engine runs",
                where=name,
            )


def _warpers(sampling: Sampling) -> list[Any]:
    warpers: list[Any] = []
    if sampling.repetition_penalty != 1:
        warpers.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.temperature not in (0, 1):
        warpers.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k is not None:
        warpers.append(TopKLogitsWarper(top_k=sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(top_p=sampling.top_p))
    if sampling.min_p > 0:
        warpers.append(MinPLogitsWarper(min_p=sampling.min_p))
    return warpers


def _left_pad(rows: Sequence[Tokens], pad_id: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask, both [B, longest row]."""
    width = max(len(row) for row in rows)
    ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = row
        mask[i, width - len(row) :] = 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)
