"""The routes: HTTP in, orders to the engine's thread, HTTP out."""

from __future__ import annotations

import asyncio
import copy
import hmac
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from plaudit.data.render import Renderer
from plaudit.data.turns import RowProblem
from plaudit.engines.base import Sampling
from plaudit.engines.local.jobs import Report
from plaudit.errors import DataError, EngineError, PlauditError
from plaudit.inference.sampling import Sampler, with_stops
from plaudit.serving.pieces import Pieces
from plaudit.serving.replies import Reply, usage
from plaudit.serving.requests import ChatRequest, CompletionRequest, Refused, parse, refusal
from plaudit.serving.worker import Answer, Event, Failed, Order, Piece, worker_for
from plaudit.types import Tokens, token_array

_OF_THE_REQUEST = {"PL602": "context_length_exceeded", "PL604": "unsupported_parameter"}
"""Errors of the engine that are the client's to mend."""
_STOPS = "the server is being stopped"


class _Gone(Exception):
    """The client does not wait any more."""


@dataclass(slots=True)
class _Asked:
    """A request that is understood."""

    given: ChatRequest | CompletionRequest
    order: Order
    events: asyncio.Queue[Event]
    """of the order"""
    reply: Reply
    texts: list[str]
    """of the prompts, where they are to be repeated"""


class Service:
    """One model behind OpenAI's routes.

    Args:
        sampler: its engine generates in a thread of its own, from the application's start to its end. Of its tokenizer
            a copy is used here, because tokenizers are not made for several threads.
        name: what clients call the model.
        max_new_tokens: longest answer in a chat where the request does not say.
        api_key: clients must know it; None = anybody may ask.
        on_message: told of every request that was answered, and of failures.
    """

    def __init__(
        self,
        sampler: Sampler,
        name: str,
        *,
        max_new_tokens: int = 1024,
        api_key: str | None = None,
        on_message: Callable[[str], None] | None = None,
    ) -> None:
        engine, own = sampler.engine, copy.deepcopy(sampler.renderer.tokenizer)
        self._renderer, self._pieces = Renderer(own, system_prompt=sampler.system), Pieces(own)
        self._tokenizer: Any = own
        self._vocabulary = min(len(own), engine.vocabulary)
        self._name, self._max_new_tokens, self._api_key = name, max_new_tokens, api_key
        self._say = on_message or (lambda _: None)
        self._positions = engine.positions
        self._fingerprint = "fp_" + engine.sync(None, 0)[:16]
        self._created = int(time.time())
        self._worker = worker_for(engine)
        self._open: set[asyncio.Queue[Event]] = set()
        """of the requests that are not answered yet"""
        self._stopping = False

    def stop(self) -> None:
        """Refuse what comes, and end what runs with an error that says so. In the server's thread."""
        self._stopping = True
        for events in self._open:
            events.put_nowait(Failed(Refused(503, _STOPS)))

    def app(self) -> Starlette:
        """The ASGI application."""

        @asynccontextmanager
        async def running(_: Starlette) -> AsyncIterator[None]:
            self._worker.start()
            try:
                yield
            finally:
                self._worker.close()

        routes = [
            Route("/health", self._health),
            Route("/v1/models", self._guarded(self._models)),
            Route("/v1/models/{model:path}", self._guarded(self._model)),
            Route("/v1/chat/completions", self._guarded(self._chat), methods=["POST"]),
            Route("/v1/completions", self._guarded(self._complete), methods=["POST"]),
        ]
        handlers: Any = {
            Refused: _refuse,
            _Gone: _leave,
            ClientDisconnect: _leave,
            HTTPException: _refuse_route,
            Exception: _break,
        }
        return Starlette(routes=routes, lifespan=running, exception_handlers=handlers)

    # -- routes ------------------------------------------------------------------------------------------------------

    def _guarded(self, route: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def checked(request: Request) -> Response:
            if self._api_key is not None:
                scheme, _, key = request.headers.get("authorization", "").partition(" ")
                if scheme.lower() != "bearer" or not hmac.compare_digest(key.encode(), self._api_key.encode()):
                    raise Refused(401, "the API key is missing or wrong", code="invalid_api_key")
            return await route(request)

        return checked

    async def _health(self, _: Request) -> Response:
        alive = self._worker.alive
        return JSONResponse({"status": "ok" if alive else "failed"}, 200 if alive else 503)

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._about()]})

    async def _model(self, request: Request) -> Response:
        self._check_model(request.path_params["model"])
        return JSONResponse(self._about())

    def _about(self) -> dict[str, Any]:
        return {
            "id": self._name,
            "object": "model",
            "created": self._created,
            "owned_by": "plaudit",
            "max_model_len": self._positions,
        }

    async def _chat(self, request: Request) -> Response:
        given = parse(ChatRequest, await request.body())
        self._check_model(given.model)
        if not self._renderer.has_template:
            raise Refused(400, "the model has no chat template: use /v1/completions", param="messages")
        messages = [{**m, "role": "system"} if m.get("role") == "developer" else m for m in given.messages]
        if messages[-1].get("role") == "assistant":
            raise Refused(400, "the last message is the assistant's: there is nothing to answer", param="messages")
        try:
            ids = self._renderer.prompt_ids(messages, chat_template_kwargs=given.chat_template_kwargs)
        except RowProblem as problem:
            raise Refused(400, f"messages: {problem.detail}", param="messages") from None
        except DataError as error:
            raise Refused(400, error.what, param="messages") from None
        return await self._reply(request, self._asked("chat", given, [ids], self._limit(ids, given.limit)))

    async def _complete(self, request: Request) -> Response:
        given = parse(CompletionRequest, await request.body())
        self._check_model(given.model)
        prompts = [self._prompt(p) for p in given.prompts]
        limit = min(self._limit(ids, given.max_tokens) for ids in prompts)
        asked = self._asked("completion", given, prompts, limit)
        if given.echo:
            if given.stream:
                raise Refused(400, "echo is not supported in a stream", param="echo")
            if given.logprobs is not None and not self._worker.reports_prompts:
                raise Refused(400, "this model's engine gives no log-probs of prompts", param="echo")
            asked.order.report_prompts = given.logprobs is not None
            asked.texts = [
                p if isinstance(p, str) else self._tokenizer.decode(p, skip_special_tokens=False) for p in given.prompts
            ]
        return await self._reply(request, asked)

    # -- what is asked -----------------------------------------------------------------------------------------------

    def _check_model(self, name: str | None) -> None:
        if name is not None and name != self._name:
            raise Refused(
                404, f"there is no model {name}: this server has {self._name}", param="model", code="model_not_found"
            )

    def _prompt(self, given: str | list[int]) -> Tokens:
        if isinstance(given, list):
            if not all(0 <= token < self._vocabulary for token in given):
                raise Refused(400, f"prompt: token ids are 0 to {self._vocabulary - 1}", param="prompt")
            ids = token_array(given)
        else:
            try:
                ids = self._renderer.prompt_ids(given)
            except RowProblem as problem:
                raise Refused(400, f"prompt: {problem.detail}", param="prompt") from None
        if not len(ids):
            raise Refused(400, "a prompt is empty", param="prompt")
        return ids

    def _limit(self, ids: Tokens, wanted: int | None) -> int:
        """Tokens that a completion may have."""
        room = None if self._positions is None else self._positions - len(ids)
        if room is not None and room < (1 if wanted is None else wanted):
            asked = "" if wanted is None else f", and {wanted} more are asked for"
            raise Refused(
                400,
                f"the model has {self._positions} positions; the prompt takes {len(ids)}{asked}",
                code="context_length_exceeded",
            )
        if wanted is not None:
            return wanted
        return self._max_new_tokens if room is None else min(room, self._max_new_tokens)

    def _asked(
        self, kind: str, given: ChatRequest | CompletionRequest, prompts: Sequence[Tokens], limit: int
    ) -> _Asked:
        if given.reported is not None and given.reported > self._worker.most_top_logprobs:
            raise Refused(400, "this model's engine gives log-probs of the drawn tokens only", param="top_logprobs")
        try:
            sampling = with_stops(given.sampling(secrets.randbits(62), max(limit, 1)), self._renderer)
        except ValidationError as error:
            raise refusal(Sampling, error) from None
        events: asyncio.Queue[Event] = asyncio.Queue()
        tell = _Mailbox(asyncio.get_running_loop(), events)
        n = given.n if limit else 0
        order = Order(list(prompts), n, sampling, tell, top_logprobs=given.reported, stream=given.stream)
        reply = Reply(kind, self._name, self._fingerprint, self._pieces, given.reported)
        return _Asked(given, order, events, reply, [])

    # -- what is answered --------------------------------------------------------------------------------------------

    async def _reply(self, request: Request, asked: _Asked) -> Response:
        if self._stopping:
            raise Refused(503, _STOPS)
        if not self._worker.alive:
            raise Refused(503, "the engine does not run any more: start the server again")
        start = time.monotonic()
        events = self._events(request, asked)
        if asked.given.stream:
            # The status is sent with the first piece: what fails before it is an error of its own.
            first = await anext(events)
            return StreamingResponse(self._stream(asked, first, events, start), media_type="text/event-stream")
        answers: dict[int, Answer] = {}
        async for event in events:
            if isinstance(event, Answer):
                answers[event.prompt] = event
        choices = [c for number in sorted(answers) for c in self._choices(asked, answers[number])]
        return JSONResponse(asked.reply.body(choices, self._count(asked, answers.values(), start)))

    async def _events(self, request: Request, asked: _Asked) -> AsyncIterator[Event]:
        """What the engine tells, to the last answer.

        Raises:
            Refused: the order failed; _Gone: the client has.
        """
        missing = len(asked.order.prompts)
        gone = asyncio.ensure_future(_disconnected(request))
        self._worker.place(asked.order)
        self._open.add(asked.events)
        following: asyncio.Future[Event] | None = None
        try:
            while missing:
                following = asyncio.ensure_future(asked.events.get())
                await asyncio.wait({following, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    raise _Gone
                event = following.result()
                if isinstance(event, Failed):
                    raise self._refusal(event.error)
                missing -= isinstance(event, Answer)
                yield event
        finally:
            self._open.discard(asked.events)
            gone.cancel()
            if following is not None:
                following.cancel()
            if missing:
                self._worker.cancel(asked.order)

    def _refusal(self, error: Exception) -> Refused:
        if isinstance(error, Refused):
            return error
        if isinstance(error, EngineError) and error.code in _OF_THE_REQUEST:
            return Refused(400, error.what, code=_OF_THE_REQUEST[error.code])
        self._say(f"a request failed: {error if isinstance(error, PlauditError) else repr(error)}")
        return Refused(500, error.what if isinstance(error, PlauditError) else f"the engine failed: {error!r}")

    def _choices(self, asked: _Asked, answer: Answer) -> list[dict[str, Any]]:
        first, n = answer.prompt * asked.given.n, asked.given.n
        found: list[tuple[str, str | None, list[int], list[Report]]] = [
            (c.text or "", c.finish_reason, c.token_ids.tolist(), _finite(r))
            for c, r in zip(answer.completions, answer.reports, strict=True)
        ] or [("", "length", [], [])] * n
        if not asked.texts:
            return [asked.reply.choice(first + i, *own) for i, own in enumerate(found)]
        ids = asked.order.prompts[answer.prompt].tolist()
        prompt = asked.texts[answer.prompt], ids, _finite(answer.prompt_reports)
        return [asked.reply.echoed(first + i, prompt, own) for i, own in enumerate(found)]

    def _count(self, asked: _Asked, answers: Any, start: float) -> dict[str, int]:
        said = usage(sum(map(len, asked.order.prompts)), sum(len(c.token_ids) for a in answers for c in a.completions))
        self._say(
            f"{asked.reply.kind}: {said['prompt_tokens']} + {said['completion_tokens']} tokens "
            f"in {time.monotonic() - start:.2f} s"
        )
        return said

    async def _stream(
        self, asked: _Asked, first: Event, events: AsyncIterator[Event], start: float
    ) -> AsyncIterator[str]:
        reply, n = asked.reply, asked.given.n
        opened = dict.fromkeys(range(n * len(asked.order.prompts)), 0)
        """choice → characters of its tokens so far"""
        answers: list[Answer] = []
        event: Event | None = first
        if reply.kind == "chat":  # all of them and in order, as clients that gather the pieces expect
            for index in opened:
                yield _line(reply.body([reply.opening(index)], None, chunk=True))
        try:
            while event is not None:
                if isinstance(event, Answer):
                    answers.append(event)
                elif isinstance(event, Piece):
                    index = event.prompt * n + event.sample
                    reason = None if event.last is None else event.last.finish_reason
                    choice = reply.delta(
                        index, event.text or None, reason, event.token_ids, _finite(event.reports), opened[index]
                    )
                    opened[index] += sum(len(self._pieces.text(token)) for token in event.token_ids)
                    yield _line(reply.body([choice], None, chunk=True))
                event = await anext(events, None)
            counts = self._count(asked, answers, start)
            if asked.given.wants_usage:
                yield _line(reply.body([], counts, chunk=True))
        except Refused as refused:  # the status is sent already
            yield _line(refused.body)
            return
        except _Gone:
            return
        yield "data: [DONE]\n\n"


class _Mailbox:
    """Carries events from the engine's thread to the request's coroutine."""

    def __init__(self, loop: asyncio.AbstractEventLoop, events: asyncio.Queue[Event]) -> None:
        self._loop, self._events = loop, events

    def __call__(self, event: Event) -> None:
        with suppress(RuntimeError):  # the server may stop, and its loop be closed, before the last row is done
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)


def _finite(reports: Sequence[Report]) -> list[Report]:
    """JSON has no infinity: a token that the model excludes has -9999, as in OpenAI's replies."""
    return [
        replace(r, logprob=max(r.logprob, -9999.0), top_logprobs=[max(v, -9999.0) for v in r.top_logprobs])
        for r in reports
    ]


def _line(body: Any) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"


async def _disconnected(request: Request) -> None:
    """Ends when the client has closed the connection. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return JSONResponse(error.body, error.status)


async def _refuse_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path}: {error.detail}"
    return JSONResponse(Refused(error.status_code, what).body, error.status_code)


async def _leave(_: Request, __: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


async def _break(_: Request, error: Exception) -> Response:
    return JSONResponse(Refused(500, f"the server failed: {error!r}").body, 500)
