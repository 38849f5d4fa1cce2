"""The one example type: a prompt with its completions.

SFT has one completion per prompt, DPO two (chosen first), K-wise ranking K, KTO one with a label, GRPO a sampled group.
Every reader produces groups, every engine produces groups, every method consumes groups.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int32]
"""Token ids, shape [length]."""
Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

DataKind = Literal["completion", "preference", "ranking", "feedback", "prompt"]
FinishReason = Literal["stop", "length", "error"]


def token_array(ids: Iterable[int]) -> Tokens:
    """Token ids as the array type of this module."""
    return np.fromiter(ids, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a group came from: shown in every error and report."""

    file: str
    row: int
    """Row number in the file, counted from 1 (the line number for JSONL)."""

    def __str__(self) -> str:
        return f"{self.file}:{self.row}"


@dataclass(slots=True)
class Completion:
    """One answer to a prompt.

    Shapes: L = number of completion tokens.
    """

    token_ids: Tokens
    """[L] the tokens, with the end-of-turn token when the answer has ended."""
    action_mask: Mask
    """[L] True where the token was sampled (or is to be learned), False for tool output and observations."""
    sampling_logprobs: Floats | None = None
    """[L] log-probability of each token under the distribution that sampled it, in nats."""
    full_logprobs: Floats | None = None
    """[L] log-probability of each sampled token under the whole softmax at the sampling temperature (1 for greedy), in
    nats: without the penalty and the filters that the sampled distribution went through."""
    finish_reason: FinishReason | None = None
    weight_version: int | None = None
    reward: float | None = None
    label: bool | None = None
    """Binary feedback: True is desirable (KTO)."""
    rank: float | None = None
    """1 is best; equal ranks are ties (rankings)."""
    weight: float = 1.0
    """Weight of the example in its term (normally 1)."""
    text: str | None = None
    """The text shown to people (samples, reports); never tokenised again."""
    step_rewards: tuple[tuple[int, float], ...] | None = None
    """(index of the token that ends a step, the step's reward), in order, where a reward judges steps (process
    supervision); None where it does not."""

    def __post_init__(self) -> None:
        assert self.token_ids.shape == self.action_mask.shape, "action_mask must have one entry per token"
        for logprobs in (self.sampling_logprobs, self.full_logprobs):
            assert logprobs is None or logprobs.shape == self.token_ids.shape, "one log-prob per token, trained or not"


@dataclass(slots=True)
class PromptGroup:
    """A prompt with its completions.

    Shapes: P = number of prompt tokens (0 is allowed).
    """

    prompt_ids: Tokens
    """[P]"""
    completions: list[Completion]
    prompt_mask: Mask | None = None
    """[P] True where a prompt token is itself a target (full-sequence SFT, ORPO's NLL); None = no prompt token is.
    Position 0 has nothing before it and is never a target."""
    source: Source | None = None
    margin: float | None = None
    """Annotated strength of a preference (Llama-2 margin)."""
    preference: float | None = None
    """Probability that the first completion is better than the second, from votes or a judge; None = the label is
    certain."""
    greedy: Completion | None = None
    """The policy's most likely answer with its reward, where a method compares with it (ReMax); never trained."""
    prompt_text: str | None = None
    """The prompt as text, with the chat template's own words."""
    prompt: Any = None
    """The prompt as its row gave it, text or messages, for rewards that write it in a form of their own; None where no
    row did."""
    extras: dict[str, Any] = field(default_factory=dict)
    """What the row carried besides (annotator, verifier fields, …); kept, never trained on."""

    def __post_init__(self) -> None:
        assert self.prompt_mask is None or self.prompt_mask.shape == self.prompt_ids.shape

    @property
    def unique_tokens(self) -> int:
        """Tokens that have to be computed once: the prompt and every completion."""
        return len(self.prompt_ids) + sum(len(c.token_ids) for c in self.completions)
