"""A judge in this process: a model whose probabilities of the options are computed and not guessed from its replies."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from plaudit.data.render import Renderer
from plaudit.data.turns import RowProblem
from plaudit.engines.base import Sampling
from plaudit.errors import RewardError
from plaudit.inference.sampling import Sampler
from plaudit.rewards.contract import Failure
from plaudit.rewards.judges.backend import Conversation, Reply
from plaudit.types import Completion, PromptGroup, Tokens, token_array

_LEADS = ("", " ")
"""What a reply may begin with; the probabilities of an option with each of them are added up."""

_AT_ONCE = {"enable_thinking": False}
"""For templates that have such a switch: the verdict is the next token, and reasons have a turn of their own."""


class Asked(Protocol):
    """What a judge is: a `Sampler`, or the policy of a run."""

    renderer: Renderer

    @property
    def engine(self) -> Any:
        """Scores, and knows its positions."""
        ...

    def sample(self, prompts: Sequence[Tokens], n: int, sampling: Sampling) -> Iterator[PromptGroup]:
        """n completions per prompt."""
        ...


class LocalModel:
    """Reads the question once and scores every option as its continuation; text is generated only where there are no
    options.

    Args:
        open_model: gives the model with its chat template, when it is first needed.
    """

    def __init__(self, open_model: Callable[[], Asked]) -> None:
        self._open = open_model
        self._sampler: Asked | None = None
        self._special: list[str] = []
        self._lock = threading.Lock()
        self._asked = 0

    @classmethod
    def of(cls, path: str | Path, *, base: str | None = None, precision: str = "auto") -> LocalModel:
        """A judge of what `Sampler.of` takes."""
        return cls(lambda: Sampler.of(path, base=base, precision=precision))

    @property
    def sampler(self) -> Asked:
        """The model, loaded.

        Raises:
            ModelError: PL3xx from loading; RewardError: PL708, it has no chat template.
        """
        if self._sampler is None:
            sampler = self._open()
            if not sampler.renderer.has_template:
                mend = "use a model that is made for conversations"
                raise RewardError(
                    "PL708",
                    "the judge has no chat template, so nothing can be asked of it",
                    mend=mend,
                    where=str(sampler.renderer.tokenizer.name_or_path),
                )
            added = sampler.renderer.tokenizer.added_tokens_decoder.values()
            self._special = sorted({t.content for t in added if t.special and len(t.content) > 1})
            self._sampler = sampler
        return self._sampler

    def ask(
        self,
        conversations: Sequence[Conversation],
        *,
        max_tokens: int,
        temperature: float,
        options: Sequence[str] | None,
    ) -> list[Reply | Failure]:
        """See `ChatBackend`. With options nothing is generated; `max_tokens` and `temperature` then have no effect."""
        with self._lock:  # one model, one forward pass at a time
            prompts = [self._prompt(conversation) for conversation in conversations]
            sequences = {} if options is None else self._sequences(options)
            new = max(map(len, sequences), default=max_tokens)
            late = {i: failure for i, p in enumerate(prompts) if (failure := self._too_long(p, new)) is not None}
            fitting = [prompt for i, prompt in enumerate(prompts) if i not in late]
            if options is None:
                replies = iter(self._generated(fitting, max_tokens, temperature))
            else:
                replies = iter(self._scored(fitting, options, sequences))
            return [late[i] if i in late else next(replies) for i in range(len(prompts))]

    def remarks(self) -> list[str]:
        """See `ChatBackend`."""
        return []

    def close(self) -> None:
        """Let the model go."""
        with self._lock:
            self._sampler = None

    def _prompt(self, conversation: Conversation) -> Tokens:
        """Its tokens. What the tokenizer would read as one of its special tokens, wherever it stands, is broken up."""
        renderer, messages = self.sampler.renderer, []
        for message in conversation:
            content = message["content"]
            for token in self._special:
                content = content.replace(token, f"{token[0]} {token[1:]}")
            messages.append({"role": message["role"], "content": content})
        try:
            return renderer.prompt_ids(messages, chat_template_kwargs=_AT_ONCE)
        except RowProblem as problem:
            what = f"the judge's chat template refuses the question: {problem.detail}"
            has_system = messages[0]["role"] == "system"
            mend = "leave out the rubric's system message" if has_system else "use another judge"
            raise RewardError("PL708", what, where=str(renderer.tokenizer.name_or_path), mend=mend) from problem

    def _too_long(self, prompt: Tokens, new: int) -> Failure | None:
        limit = self.sampler.engine.positions
        if limit is None or len(prompt) + new <= limit:
            return None
        what = f"{len(prompt)} tokens and up to {new} of a reply, and it has {limit} positions"
        return Failure("bad_row", f"the question is too long for the judge: {what}")

    def _sequences(self, options: Sequence[str]) -> dict[tuple[int, ...], str]:
        """The token sequences that are an option."""
        encoder = self.sampler.renderer.encoder
        return {tuple(encoder.continuation(lead + option)): option for option in options for lead in _LEADS}

    def _scored(
        self, prompts: Sequence[Tokens], options: Sequence[str], sequences: dict[tuple[int, ...], str]
    ) -> list[Reply]:
        groups = [PromptGroup(prompt, [_completion(ids) for ids in sequences]) for prompt in prompts]
        scores = self.sampler.engine.score(groups) if groups else []
        replies = []
        for by_sequence in scores:
            whole = {ids: float(np.exp(s.sum(dtype=np.float64))) for ids, s in zip(sequences, by_sequence, strict=True)}
            found = dict.fromkeys(options, 0.0)
            for ids, option in sequences.items():
                found[option] += max(0.0, whole[ids] - math.fsum(whole[more] for more in _continued(ids, sequences)))
            likeliest = max(found, key=lambda option: found[option])
            replies.append(Reply(likeliest, {o: math.log(p) if p > 0 else -math.inf for o, p in found.items()}))
        return replies

    def _generated(self, prompts: Sequence[Tokens], max_tokens: int, temperature: float) -> list[Reply]:
        # Draws depend on the seed and the prompt alone: with the same seed, asking again would be of no use.
        sampling = Sampling(temperature=temperature, max_new_tokens=max_tokens, seed=self._asked)
        self._asked += 1
        return [Reply(g.completions[0].text or "") for g in self.sampler.sample(prompts, 1, sampling)]


def _completion(ids: tuple[int, ...]) -> Completion:
    return Completion(token_array(ids), np.ones(len(ids), dtype=np.bool_))


def _continued(ids: tuple[int, ...], sequences: dict[tuple[int, ...], str]) -> list[tuple[int, ...]]:
    """The sequences that go on from this one, without those that go on from another of them: "10" is no "1"."""
    longer = [s for s in sequences if len(s) > len(ids) and s[: len(ids)] == ids]
    return [s for s in longer if not any(s != t and s[: len(t)] == t for t in longer)]
