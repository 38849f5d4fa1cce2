"""A judge behind an OpenAI-compatible endpoint: a service, vLLM, llama.cpp, or `plaudit serve`."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from plaudit.errors import RewardError
from plaudit.rewards.contract import Failure
from plaudit.rewards.judges.backend import Conversation, Reply
from plaudit.rewards.judges.choices import Position, option_logprobs
from plaudit.rewards.judges.transport import Refusal, Transport

_MOST_LIKELY = 20
_MOST_LIKELY_OF_OLD = 5
_CONCERN_ALL = frozenset((401, 403, 404, 405))
"""A wrong key, model or address is wrong for every answer."""
_TOO_LONG = ("context_length", "context length", "maximum context", "too long", "max_model_len")


@dataclass(frozen=True, slots=True)
class _Dialect:
    """What this server takes; found out once."""

    top_logprobs: int | None = _MOST_LIKELY
    limit: str = "max_tokens"


class Endpoint:
    """POST {base_url}/chat/completions.

    Log-probs are asked for with options. A server that refuses them is asked without from then on, and `remarks` say
    so; a server that leaves them out is read by its text.

    Args:
        base_url: up to and with "/v1".
        model: its name there; None = the server's only one.
        api_key_env: name of the environment variable with the key; None = no key.
        concurrency: requests at the same time, over all calls.
        timeout: seconds for one attempt.
        retries: attempts after the first, where the server is busy or cannot be reached.
        first_pause: seconds before the first retry at most; doubled before each further one.

    Raises:
        RewardError: PL708, the address or the key cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        *,
        api_key_env: str | None = None,
        concurrency: int = 8,
        timeout: float = 60.0,
        retries: int = 4,
        first_pause: float = 0.5,
    ) -> None:
        url = f"{_checked(base_url).removesuffix('/chat/completions')}/chat/completions"
        headers = {} if api_key_env is None else {"Authorization": f"Bearer {_key(api_key_env)}"}
        self._transport = Transport(url, headers, timeout=timeout, retries=retries, first_pause=first_pause)
        self.model, self.concurrency = model, concurrency
        self._dialect = _Dialect()
        self._answered = False
        self._without: str | None = None
        """why there are no log-probs"""
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None

    def ask(
        self,
        conversations: Sequence[Conversation],
        *,
        max_tokens: int,
        temperature: float,
        options: Sequence[str] | None,
    ) -> list[Reply | Failure]:
        """See `ChatBackend`.

        Raises:
            RewardError: PL708, the server refuses what is wrong with every request: key, model, address, options.
        """
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(self.concurrency, thread_name_prefix="judge")
            pool = self._threads
        stop = threading.Event()
        futures = [pool.submit(self._one, c, max_tokens, temperature, options, stop) for c in conversations]
        try:
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()  # an error is not to wait for the others
            return [future.result() for future in futures]
        except BaseException:
            stop.set()
            for future in futures:
                future.cancel()
            raise

    def remarks(self) -> list[str]:
        """See `ChatBackend`."""
        return [] if self._without is None else [f"the endpoint gives no log-probs ({self._without}): its text is read"]

    def close(self) -> None:
        """See `ChatBackend`."""
        with self._lock:
            pool, self._threads = self._threads, None
        if pool is not None:
            pool.shutdown(cancel_futures=True)

    def _one(
        self,
        conversation: Conversation,
        max_tokens: int,
        temperature: float,
        options: Sequence[str] | None,
        stop: threading.Event,
    ) -> Reply | Failure:
        dialect, first = self._dialect, None
        while True:
            body = self._body(conversation, max_tokens, temperature, dialect, options is not None)
            found = self._transport.post(body, stop)
            if isinstance(found, Failure):
                return found
            if not isinstance(found, Refusal):
                return self._reply(found, options, "logprobs" in body)
            first = first or found
            other = self._adapted(dialect, found, "logprobs" in body)
            if other is None:
                return self._refused(first)
            dialect = other

    def _body(
        self, conversation: Conversation, max_tokens: int, temperature: float, dialect: _Dialect, likely: bool
    ) -> dict[str, Any]:
        body: dict[str, Any] = {"messages": conversation, dialect.limit: max_tokens, "temperature": temperature}
        if self.model is not None:
            body["model"] = self.model
        if likely and dialect.top_logprobs is not None:
            body |= {"logprobs": True, "top_logprobs": dialect.top_logprobs}
        return body

    def _adapted(self, dialect: _Dialect, refusal: Refusal, with_logprobs: bool) -> _Dialect | None:
        """What to ask with instead, or None where no other way of asking would help."""
        if refusal.status in _CONCERN_ALL or _of_this_question(refusal):
            return None
        other = None
        if dialect.limit == "max_tokens" and refusal.names("max_completion_tokens"):
            other = replace(dialect, limit="max_completion_tokens")
        elif with_logprobs and refusal.names("logprob"):
            fewer = _MOST_LIKELY_OF_OLD if dialect.top_logprobs == _MOST_LIKELY else None
            other = replace(dialect, top_logprobs=fewer)
        elif with_logprobs and not self._answered:  # some refuse without a word of what they do not like
            other = replace(dialect, top_logprobs=None)
        if other is None:
            return None
        with self._lock:
            if self._dialect == dialect:
                self._dialect = other
            if other.top_logprobs is None and dialect.top_logprobs is not None:
                self._without = self._without or f"HTTP {refusal.status}: {refusal.message}"
        return other

    def _refused(self, refusal: Refusal) -> Failure:
        failure = _of_this_question(refusal)
        if failure is not None:
            return failure
        what = f"HTTP {refusal.status}: {refusal.message}"
        if self._answered and refusal.status not in _CONCERN_ALL:  # so it is this question that it does not like
            return Failure("bad_reply", f"the endpoint refuses the request ({what})")
        mends = {
            401: "check the key, and which variable api_key_env names",
            403: "check what the key is allowed",
            404: "check the address, which mostly ends in /v1, and endpoint_model",
        }
        mend = mends.get(refusal.status, "check the options of the judge against what the endpoint takes")
        raise RewardError("PL708", f"the endpoint refuses: {what}", where=self._transport.url, mend=mend)

    def _reply(self, values: Mapping[str, Any], options: Sequence[str] | None, with_logprobs: bool) -> Reply | Failure:
        try:
            choice = values["choices"][0]
            text = choice["message"]["content"]
        except (KeyError, IndexError, TypeError):
            return Failure("bad_reply", f"the endpoint's reply has no message: {str(values)[:120]}")
        if not isinstance(text, str):
            reason = choice.get("finish_reason")
            return Failure("bad_reply", f"the judge's message has no text (finish_reason {reason!r})")
        self._answered = True
        if options is None:
            return Reply(text)
        positions = _positions(choice) if with_logprobs else []
        if not positions:
            if with_logprobs:
                self._without = self._without or "it leaves them out"
            return Reply(text)
        return Reply(text, option_logprobs(positions, options))


def _of_this_question(refusal: Refusal) -> Failure | None:
    """The failure where only this question is refused, as its words say."""
    what = f"HTTP {refusal.status}: {refusal.message}"
    if refusal.status == 413 or refusal.names(*_TOO_LONG):
        return Failure("bad_row", f"the question is too long for the judge ({what})")
    if refusal.names("content_filter", "content management policy"):
        return Failure("bad_reply", f"the endpoint refuses the content ({what})")
    return None


def _positions(choice: Mapping[str, Any]) -> list[Position]:
    """The reply's tokens with the most likely ones; none where they are missing or malformed."""
    try:
        return [_position(entry) for entry in choice["logprobs"]["content"]]
    except (KeyError, TypeError, ValueError):
        return []


def _position(entry: Mapping[str, Any]) -> Position:
    token, logprob = str(entry["token"]), _logprob(entry["logprob"])
    likely = [(str(each["token"]), _logprob(each["logprob"])) for each in entry["top_logprobs"]]
    if not likely:
        raise ValueError("no most likely tokens")
    known = any(text == token for text, _ in likely)  # a drawn token need not be a likely one
    return Position(token, likely if known else [*likely, (token, logprob)])


def _logprob(value: Any) -> float:
    number = float(value)
    if math.isnan(number) or number > 1e-3:
        raise ValueError(f"{number} is no log-prob")
    return min(number, 0.0)


def _checked(base_url: str) -> str:
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RewardError(
            "PL708",
            "the address is not http:// or https://",
            where=f"endpoint {base_url!r}",
            mend="for example http://localhost:8000/v1",
        )
    if parts.username or parts.password or parts.query:
        where = f"endpoint {parts.scheme}://{parts.hostname}"
        raise RewardError("PL708", "the address holds a password or a query", where=where, mend="use api_key_env")
    return base_url.rstrip("/")


def _key(name: str) -> str:
    value = os.environ.get(name, "").strip()
    if not value or not value.isascii() or not value.isprintable():
        state = "is not set" if not value else "holds characters that no key has"
        raise RewardError(
            "PL708", f"the environment variable {name} {state}", where="api_key_env", mend=f"export {name}=…"
        )
    return value
