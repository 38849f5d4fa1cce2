"""Sample from a model: rows for `plaudit generate`, turns for `plaudit chat`."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from plaudit.config.schema import SourceConfig
from plaudit.data.turns import RowProblem
from plaudit.engines.base import RolloutEngine, Sampling
from plaudit.errors import ConfigError, DataError, EngineError
from plaudit.inference.completion_file import completion_file
from plaudit.inference.locate import load_located, locate
from plaudit.types import PromptGroup, Tokens

if TYPE_CHECKING:
    from plaudit.data.render import Renderer
    from plaudit.models.forest_model import ForestModel
    from plaudit.models.load import LoadedModel

Messages = list[dict[str, Any]]


def sampling_options(**options: Any) -> Sampling:
    """The options of sampling, checked.

    Raises:
        ConfigError: PL102, a value is not allowed.
    """
    try:
        return Sampling(**options)
    except ValidationError as error:
        # An error about two options together has no place, and its input is all of them.
        each = (f"{d['loc'][0]}: {d['msg']}, got {d['input']!r}" if d["loc"] else d["msg"] for d in error.errors())
        what = "; ".join(each)
        raise ConfigError(
            "PL102",
            f"the sampling options are wrong: {what}",
            where=", ".join(f"--{d['loc'][0]}".replace("_", "-") for d in error.errors() if d["loc"]) or "sampling",
            mend="temperature is 0 or more, top_p above 0 and at most 1, top_k and max_new_tokens at least 1",
        ) from error


def with_stops(sampling: Sampling, renderer: Renderer) -> Sampling:
    """An answer ends at the template's end of turn too."""
    stops = tuple(dict.fromkeys([*sampling.stop_token_ids, *renderer.stop_token_ids]))
    return sampling.model_copy(update={"stop_token_ids": stops})


class Sampler:
    """A model with its renderer and engine.

    Args:
        loaded: the model and its tokenizer.
        system: system prompt for conversations that have none.
        max_rows: completions sampled at the same time; None = as many as the engine likes.
        cache_gib: memory for keys and values; None = a share of what is free.

    Attributes:
        note: which engine it is, and why.
        system: the system prompt that is used.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        system: str | None = None,
        max_rows: int | None = None,
        cache_gib: float | None = None,
    ) -> None:
        from plaudit.data.render import Renderer
        from plaudit.engines.open import open_engine

        self.system = system
        self.renderer: Renderer = Renderer(loaded.tokenizer, system_prompt=system)
        self.engine: RolloutEngine
        self.engine, self.note = open_engine(loaded.model, loaded.tokenizer, max_rows=max_rows, cache_gib=cache_gib)

    @classmethod
    def of(
        cls,
        model: str | Path | LoadedModel,
        *,
        base: str | None = None,
        precision: str = "auto",
        system: str | None = None,
        max_rows: int | None = None,
        cache_gib: float | None = None,
    ) -> Sampler:
        """A sampler for what `plaudit.api.load` takes or gives; a run brings the system prompt it trained with."""
        if not isinstance(model, (str, Path)):
            return cls(model, system=system, max_rows=max_rows, cache_gib=cache_gib)
        found = locate(model, base=base, precision=precision)
        own = system or found.system_prompt
        return cls(load_located(found), system=own, max_rows=max_rows, cache_gib=cache_gib)

    def prompt_ids(self, prompt: str | Messages, *, chat: bool, where: str) -> Tokens:
        """[P] the tokens to continue.

        Args:
            chat: put a text into the chat template as a user's message, where there is one.
            where: names the prompt in errors.

        Raises:
            DataError: PL204 for a malformed prompt, PL208 for messages without a template.
        """
        if isinstance(prompt, str) and chat and self.renderer.has_template:
            prompt = [{"role": "user", "content": prompt}]
        try:
            return self.renderer.prompt_ids(prompt)
        except RowProblem as problem:
            raise DataError(
                "PL204",
                f"the prompt cannot be used: {problem.detail}",
                where=where,
                mend="give a text that is not empty, or chat messages with a user's turn last",
            ) from problem

    def file_prompts(self, file: str | Path, columns: Mapping[str, str] | None = None) -> list[PromptGroup]:
        """The prompts of a file, read as training reads prompt data; `columns` maps our field names to the file's.

        Raises:
            DataError: see `plaudit.data.prepare.prepare`.
        """
        from plaudit.data.prepare import prepare

        return prepare([SourceConfig(path=str(file), columns=dict(columns or {}))], "prompt", self.renderer).groups

    def with_stops(self, sampling: Sampling) -> Sampling:
        """See `with_stops`."""
        return with_stops(sampling, self.renderer)

    def sample(self, prompts: Sequence[Tokens], n: int, sampling: Sampling, *, first: int = 0) -> Iterator[PromptGroup]:
        """n completions per prompt, from prompt `first` on."""
        return self.engine.generate(prompts, n, self.with_stops(sampling), first=first)

    def read(
        self,
        prompts: Sequence[Any],
        file: str | Path | None,
        *,
        chat: bool,
        columns: Mapping[str, str] | None = None,
    ) -> tuple[list[Tokens], list[dict[str, Any]]]:
        """The tokens of every prompt, and its row (`prompt`, as it was given, and the other columns of a file): of
        `prompts`, of stdin ("-") or of a file."""
        if file is not None and file != "-":
            groups = self.file_prompts(file, columns)
            return [g.prompt_ids for g in groups], [_prompt_row(g) for g in groups]
        given = list(prompts) if file is None else read_stdin()
        ids = [self.prompt_ids(p, chat=chat, where=f"prompt {i + 1}") for i, p in enumerate(given)]
        return ids, [{"prompt": p} for p in given]


def _prompt_row(group: PromptGroup) -> dict[str, Any]:
    prompt = group.prompt if isinstance(group.prompt, str) else [m.for_template() for m in group.prompt]
    return {"prompt": prompt, **group.extras}


_SHOWN_TOKENS = 128


class PolicyAnswers:
    """What the policy of a run answers to the prompts of some groups, for people to read.

    The most likely tokens, so that a change from one evaluation to the next is the training's and not chance. Prompts
    without room for an answer are left out. One for a run: its engine is made, and checked, once.
    """

    def __init__(self) -> None:
        self._engine: RolloutEngine | None = None

    def __call__(self, policy: ForestModel, tokenizer: Any, groups: Sequence[PromptGroup]) -> list[dict[str, Any]]:
        """See the class."""
        from plaudit.data.render import Renderer
        from plaudit.engines.open import open_engine

        if self._engine is None:
            self._engine, _ = open_engine(policy, tokenizer)
        limit = self._engine.positions or math.inf
        asked = [g for g in groups if 0 < len(g.prompt_ids) < limit]
        if not asked:
            return []
        room = min(_SHOWN_TOKENS, limit - max(len(g.prompt_ids) for g in asked))
        stops = Renderer(tokenizer).stop_token_ids
        options = Sampling(temperature=0, max_new_tokens=int(room), stop_token_ids=stops)
        answers = self._engine.generate([g.prompt_ids for g in asked], 1, options)
        return [{"prompt": a.prompt_text, "completion": a.completions[0].text} for a in answers]


def read_stdin() -> list[str]:
    """Prompts from stdin, one a line; empty lines are none."""
    return [line.rstrip("\n") for line in sys.stdin if line.strip()]


def completion_rows(
    groups: Iterator[PromptGroup], rows: Sequence[dict[str, Any]], *, first: int = 0, per_token: bool = False
) -> Iterator[dict[str, Any]]:
    """One row per completion.

    Args:
        groups: of the prompts from `first` on.
        rows: every prompt's row. Its other columns stand behind ours, which win where both have one.
        per_token: add the token ids and their log-probs.
    """
    for row, (group, given) in enumerate(zip(groups, rows[first:], strict=True), start=first):
        for sample, completion in enumerate(group.completions):
            logprobs = completion.sampling_logprobs
            found = {
                "row": row,
                "sample": sample,
                "prompt": given["prompt"],
                "completion": completion.text,
                "finish_reason": completion.finish_reason,
                "tokens": len(completion.token_ids),
                "logprob": None if logprobs is None else float(logprobs.sum()),
            }
            found |= {name: value for name, value in given.items() if name not in found}
            if per_token:
                full = completion.full_logprobs
                found["token_ids"] = completion.token_ids.tolist()
                found["logprobs"] = None if logprobs is None else logprobs.tolist()
                found["full_logprobs"] = None if full is None else full.tolist()
            yield found


def sampled_rows(
    sampler: Sampler,
    prompts: Sequence[Tokens],
    given: Sequence[dict[str, Any]],
    n: int,
    sampling: Sampling,
    *,
    per_token: bool = False,
    output: Path | None = None,
    overwrite: bool = False,
    on_message: Callable[[str], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """Rows of completions, written to `output` on the way; see `plaudit.generate`."""
    say = on_message or (lambda _: None)
    say(sampler.note)
    first, file = 0, None
    if output is not None:
        weights = sampler.engine.sync(None, 0)
        file = completion_file(output, prompts, n, sampler.with_stops(sampling), weights, overwrite=overwrite)
        first = file.done
        if first:
            say(f"{output}: {first} of {len(prompts)} prompts are there already")
    rows = completion_rows(sampler.sample(prompts, n, sampling, first=first), given, first=first, per_token=per_token)
    return _reporting(rows if file is None else file.write(rows), n, first, len(prompts), on_progress)


def _reporting(
    rows: Iterator[dict[str, Any]], n: int, first: int, total: int, on_progress: Callable[[int, int], None] | None
) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(rows, start=1):
        yield row
        if on_progress is not None and number % n == 0:
            on_progress(first + number // n, total)


class Conversation:
    """A conversation with a model, turn by turn.

    Attributes:
        messages: all turns so far, the system prompt first.
        cut: whether the last answer ended at its length limit and not by itself.

    Raises:
        DataError: PL208, the model has no chat template.
    """

    def __init__(self, sampler: Sampler, sampling: Sampling, system: str | None = None) -> None:
        self._sampler, self._sampling = sampler, sampling
        self.messages: Messages = []
        self.cut = False
        self._attempts = 0
        self.reset(system=system)
        self._check_template()

    def _check_template(self) -> None:
        if not self._sampler.renderer.has_template:
            raise DataError(
                "PL208",
                "the model has no chat template, so it cannot hold a conversation",
                mend="use `plaudit generate --raw`, or a chat model",
                where=str(self._sampler.renderer.tokenizer.name_or_path),
            )

    def reset(self, *, system: str | None = None) -> None:
        """Forget everything said; start with this system prompt, or the one that training used."""
        self.messages = [{"role": "system", "content": system}] if system else []

    def say(self, text: str, on_text: Callable[[str], None] | None = None) -> str:
        """Add a user's turn and return the model's answer.

        Args:
            on_text: told the answer piece by piece, as it is generated. When it raises, nothing was said.

        Raises:
            EngineError: PL602, the conversation fills the model's positions.
        """
        return self._answer([*self.messages, {"role": "user", "content": text}], 0, on_text)

    def regenerate(self, on_text: Callable[[str], None] | None = None) -> str | None:
        """Another answer to the last turn, in place of the one that was given; None where nothing was said yet."""
        if not self.messages or self.messages[-1]["role"] != "assistant":
            return None
        return self._answer(self.messages[:-1], self._attempts + 1, on_text)

    def _answer(self, messages: Messages, attempt: int, on_text: Callable[[str], None] | None) -> str:
        ids = self._sampler.prompt_ids(messages, chat=True, where="the conversation")
        # Each turn draws from its own seed, or two turns of the same length would repeat each other's luck; and so does
        # each further attempt.
        seed = self._sampling.seed + len(messages) + 1_000_003 * attempt
        options = {"seed": seed, "max_new_tokens": self._room(len(ids))}
        sampling = self._sampler.with_stops(self._sampling.model_copy(update=options))
        group = self._sampler.engine.stream(ids, sampling, on_text or (lambda _: None))
        answer = (group.completions[0].text or "").strip()
        self.messages = [*messages, {"role": "assistant", "content": answer}]
        self._attempts, self.cut = attempt, group.completions[0].finish_reason == "length"
        return answer

    def _room(self, said: int) -> int:
        """Tokens that an answer may have: a conversation that grows leaves less and less."""
        wanted, limit = self._sampling.max_new_tokens, self._sampler.engine.positions
        if limit is None or said + wanted <= limit:
            return wanted
        if said >= limit:
            raise EngineError(
                "PL602",
                f"the conversation has {said} tokens, and the model {limit} positions",
                mend="begin anew (/reset)",
                where="the conversation",
            )
        return limit - said
