"""What clients send: the fields of OpenAI's chat and completion requests, each one honoured or refused by name.

A field that is silently ignored gives answers that the client did not ask for; so only those that cannot change an
answer (user, metadata, …) are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from plaudit.engines.base import Sampling

MOST_COMPLETIONS = 128
MOST_TOP_LOGPROBS = 20
MOST_ROWS = 4096
"""prompts × n of one request"""
MOST_BYTES = 8 << 20
"""of a request's body"""
_MOST_STOPS, _LONGEST_STOP = 16, 256

_WITHOUT_EFFECT = frozenset(
    {"user", "metadata", "store", "service_tier", "prompt_cache_key", "safety_identifier", "parallel_tool_calls"}
)
"""They label a request or steer a platform; the answer is the same without them."""
_ONLY: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "suffix": ("",),
}
"""Fields of the protocol that are not supported, with the values that mean that they are not used."""
_INSTEAD = {
    "presence_penalty": "use repetition_penalty",
    "frequency_penalty": "use repetition_penalty",
    "reasoning_effort": "use chat_template_kwargs, where the model's template has such a switch",
}


class Refused(Exception):
    """A request that gets no answer, as the client is told.

    Args:
        status: of the HTTP reply.
        message: what is wrong, for people.
        param: the field that is wrong.
        code: OpenAI's stable key, where it has one.
    """

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        self.status, self.param, self.code = status, param, code
        super().__init__(message)

    @property
    def body(self) -> dict[str, Any]:
        """OpenAI's form of an error."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


class StreamOptions(BaseModel):
    """What a stream brings besides the text."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False
    """A last piece with the number of tokens."""
    include_obfuscation: bool = False
    """Padding against those who watch the sizes of encrypted pieces; without effect here."""


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    n: Annotated[int, Field(ge=1, le=MOST_COMPLETIONS)] = 1
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    stop: str | list[str] = []
    seed: int | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    # not OpenAI's, but what other servers of open models have
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    min_tokens: Annotated[int, Field(ge=0)] = 0
    stop_token_ids: list[Annotated[int, Field(ge=0)]] = []

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> _Request:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is for streams only: set stream, or leave it out")
        stops = [self.stop] if isinstance(self.stop, str) else self.stop
        if len(stops) > _MOST_STOPS or any(len(s) > _LONGEST_STOP for s in stops):
            raise ValueError(f"stop may have up to {_MOST_STOPS} texts of up to {_LONGEST_STOP} characters")
        return self

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the number of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self, seed: int, max_new_tokens: int) -> Sampling:
        """How the completions are drawn.

        Args:
            seed: where the request has none.
            max_new_tokens: what its limit amounts to.

        Raises:
            Refused: 400, it asks for more tokens than that; ValidationError: see `Sampling`.
        """
        if self.min_tokens > max_new_tokens:
            what = f"min_tokens {self.min_tokens} exceeds the limit of {max_new_tokens} tokens"
            raise Refused(400, what, param="min_tokens")
        return Sampling(
            temperature=self.temperature,
            top_k=self.top_k if self.top_k is not None and self.top_k > 0 else None,  # 0 and -1 turn it off
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            max_new_tokens=max_new_tokens,
            min_new_tokens=self.min_tokens,
            stop=tuple(s for s in ([self.stop] if isinstance(self.stop, str) else self.stop) if s),
            stop_token_ids=tuple(self.stop_token_ids),
            seed=seed if self.seed is None else self.seed,
        )


class ChatRequest(_Request):
    """POST /v1/chat/completions."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    chat_template_kwargs: dict[str, Any] = {}

    @model_validator(mode="after")
    def _options_agree(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: set it to true")
        if self.max_tokens == 0:
            raise ValueError("max_tokens must be at least 1")
        given = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(given) > 1:
            raise ValueError("max_tokens and max_completion_tokens differ: give one of them")
        return self

    @property
    def limit(self) -> int | None:
        """Longest answer in tokens."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def reported(self) -> int | None:
        """Most likely tokens to report with every token; None = no reports."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(_Request):
    """POST /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    echo: bool = False
    best_of: int | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = 16

    @model_validator(mode="after")
    def _options_agree(self) -> CompletionRequest:
        if self.best_of is not None and self.best_of != self.n:
            raise ValueError("best_of is not supported: leave it out, and choose among n completions yourself")
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens must be at least 1, or 0 with echo")
        if not self.prompts:
            raise ValueError("prompt is empty")
        if len(self.prompts) * self.n > MOST_ROWS:
            raise ValueError(f"prompts × n is {len(self.prompts) * self.n}: at most {MOST_ROWS} in one request")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """Every prompt, as text or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        one = [p for p in self.prompt if isinstance(p, int)]
        return [one] if one else [p for p in self.prompt if not isinstance(p, int)]

    @property
    def reported(self) -> int | None:
        """See `ChatRequest.reported`."""
        return self.logprobs


R = TypeVar("R", bound=_Request)


def parse(kind: type[R], body: bytes) -> R:
    """The body of a request.

    Raises:
        Refused: 400, with the field and what is wrong with it.
    """
    if len(body) > MOST_BYTES:
        raise Refused(413, f"the body has {len(body)} bytes: at most {MOST_BYTES}")
    try:
        values = json.loads(body)
        json.dumps(values, ensure_ascii=False).encode()
    except RecursionError:
        raise Refused(400, "the body is nested too deeply") from None
    except ValueError as error:  # not JSON, not UTF-8, or halves of surrogate pairs
        raise Refused(400, f"the body is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise Refused(400, "the body must be a JSON object")
    values = {k: v for k, v in values.items() if v is not None and k not in _WITHOUT_EFFECT}
    for field, unused in _ONLY.items():
        if field in values and values.pop(field) not in unused:
            raise Refused(
                400,
                f"{field} is not supported by this server: {_INSTEAD.get(field, 'leave it out')}",
                param=field,
                code="unsupported_parameter",
            )
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise refusal(kind, error) from None


def refusal(kind: type[BaseModel], error: ValidationError) -> Refused:
    """The first of the errors in values for a model, for the client."""
    errors = error.errors(include_url=False)
    # For a field that takes several types there is an error for each of them; the field is what matters.
    first: Mapping[str, Any] = errors[0]
    if not first["loc"]:
        return Refused(400, _plain(first["msg"]))
    field = str(first["loc"][0])
    if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
        close = get_close_matches(field, kind.model_fields, 1)
        hint = _INSTEAD.get(field) or (f"did you mean {close[0]}?" if close else "leave it out")
        return Refused(400, f"{field} is not known to this server: {hint}", param=field, code="unknown_parameter")
    if first["type"] == "missing":
        return Refused(400, f"{field} is missing", param=field, code="missing_required_parameter")
    same = [e for e in errors if e["loc"][:1] == first["loc"][:1]]
    what = "; ".join(dict.fromkeys(_plain(e["msg"]) for e in same))
    where = ".".join(map(str, first["loc"])) if len(same) == 1 else field
    return Refused(400, f"{where} is wrong: {what}", param=field, code="invalid_value")


def _plain(message: str) -> str:
    return str(message).removeprefix("Value error, ")
