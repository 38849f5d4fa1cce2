"""The contract of an engine that samples completions, and the checksum that proves whose weights it holds.

Token in, token out: an engine takes token ids and returns the ids it sampled, so what is trained is what was sampled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Protocol

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from plaudit.types import Floats, PromptGroup, Tokens

if TYPE_CHECKING:
    import torch

LEAST_TEMPERATURE = 1e-3
"""Below it logits may overflow when they are divided, and a row that is not a number stops all beside it."""


def nothing() -> None:
    """Nobody wants to end the work early."""


class Sampling(BaseModel):
    """How completions are drawn. An engine honours every field or refuses it by name.

    The order is that of transformers' ``generate``: repetition_penalty, min_new_tokens, temperature, top_k, top_p,
    min_p.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    temperature: Annotated[float, Field(ge=0)] = 1.0
    """Logits are divided by it. 0 takes the most likely token, and the completions then carry no sampling log-probs."""
    top_k: Annotated[int, Field(gt=0)] | None = None
    """Keep only the k most likely tokens."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Keep the smallest set of tokens that holds this much probability."""
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Drop tokens with less than this share of the most likely token's probability."""
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    """Logits of tokens that occur in the prompt or the completion are divided by it where positive and multiplied where
    negative (CTRL, Keskar et al. 2019, §4.1)."""
    max_new_tokens: Annotated[int, Field(gt=0)] = 256
    """Length limit; a completion that reaches it unfinished has finish_reason "length"."""
    min_new_tokens: Annotated[int, Field(ge=0)] = 0
    """No end-of-sequence or stop token is drawn before this many tokens, and a stop text counts behind them only."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end a completion besides the model's own end-of-sequence tokens; they are kept as its last token."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Texts that end a completion. Its tokens are kept up to the one that completed the text; the completion's `text`
    ends before it."""
    seed: int = 0
    """The draws of a completion depend on the seed, its prompt and its number among the completions of the prompt."""

    @model_validator(mode="after")
    def _lengths_agree(self) -> Sampling:
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(f"min_new_tokens {self.min_new_tokens} exceeds max_new_tokens {self.max_new_tokens}")
        return self

    @field_validator("temperature")
    @classmethod
    def _divides(cls, value: float) -> float:
        if 0 < value < LEAST_TEMPERATURE:
            raise ValueError(f"is too small to divide by: at least {LEAST_TEMPERATURE}, or 0 for the most likely token")
        return value


class RolloutEngine(Protocol):
    """What the online loop, the evaluation and the command line need of an engine."""

    weight_version: int | None
    """What completions carry; set by `sync`, or by a trainer whose tensors the engine shares."""
    check: Callable[[], None]
    """Called before every forward pass of `generate`; what it raises ends the work. `nothing`, until somebody sets
    it."""

    def generate(
        self, prompts: Sequence[Tokens], n: int, sampling: Sampling, *, first: int = 0
    ) -> Iterator[PromptGroup]:
        """Sample n completions per prompt.

        Args:
            prompts: token ids, rendered and ready ([P] each, P >= 1).
            n: completions per prompt.
            first: begin with this prompt; those before it were done by an earlier call.

        Returns:
            One group per prompt, in the order of the prompts, each as soon as it is ready. A completion carries its
            token ids (the end token included), finish_reason, weight_version, text and, unless the temperature is 0,
            sampling_logprobs: nats under the distribution that was sampled, after penalty, temperature and filters.

        Raises:
            EngineError: PL602 (a prompt that does not fit), PL601 (generation failed).
        """
        ...

    def stream(self, prompt: Tokens, sampling: Sampling, on_text: Callable[[str], None]) -> PromptGroup:
        """One completion, its text told piece by piece as it is generated, or at once by an engine that cannot.

        Raises:
            EngineError: as `generate`. Whatever `on_text` raises ends the work and is passed on.
        """
        ...

    @property
    def vocabulary(self) -> int:
        """Token ids that the model knows: 0 to vocabulary - 1."""
        ...

    @property
    def positions(self) -> int | None:
        """Tokens that prompt and completion may have together; None = no limit."""
        ...

    def sync(self, weights: Mapping[str, torch.Tensor] | None, version: int) -> str:
        """Take over new weights; later completions carry ``version``.

        Args:
            weights: parameter name → tensor, complete; None for an engine that shares the trainer's tensors.

        Groups that are still being generated end with PL606: their stored keys are those of the old weights.

        Returns:
            `weights_checksum` of what the engine now holds, in its own dtype, for the trainer to compare.

        Raises:
            EngineError: PL603 (names or shapes do not match).
        """
        ...

    def score(self, groups: Sequence[PromptGroup], temperature: float = 1.0) -> list[list[Floats]]:
        """The scoring probe: log-probs (nats) of given completions under the engine's weights, without filters.

        Returns:
            Per group and completion an array [L], one entry per completion token.
        """
        ...


def weights_checksum(weights: Mapping[str, torch.Tensor], dtype: torch.dtype | None = None) -> str:
    """A digest of names, shapes and bytes; two sides hold the same weights when their digests are equal.

    Args:
        dtype: cast floating-point tensors first (the engine's dtype, when the trainer's masters are wider).
    """
    import torch

    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(weights):
        tensor = weights[name].detach()
        if dtype is not None and tensor.is_floating_point():
            tensor = tensor.to(dtype)
        digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype}".encode())
        digest.update(tensor.contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
