"""Runs programs for other machines: the sandbox of a Linux machine behind HTTP.

`POST /run_code` is SandboxFusion's; `/call` and `/grade` are ours, for tests that call functions (see
`plaudit.rewards.sandbox.remote`). Whoever reaches the port can run programs, confined as they are, so that a server
that is open to others should have a key.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from plaudit.errors import PlauditError
from plaudit.rewards.sandbox.base import BadTests, Called, Outcome, Sandbox, SandboxTrouble, TestCode
from plaudit.rewards.sandbox.inside import plain
from plaudit.rewards.sandbox.limits import Limits
from plaudit.rewards.sandbox.open import open_sandbox
from plaudit.rewards.sandbox.remote import ABOUT
from plaudit.rewards.workers import cores
from plaudit.serving.server import bound, need_serving_packages, open_to_others, url

if TYPE_CHECKING:
    import uvicorn

MOST = Limits(
    cpu_seconds=60, wall_seconds=180, memory_mib=4096, processes=64, file_mib=256, tmp_mib=1024, output_kib=16 * 1024
)
"""What a request can ask for at most."""
_GRACE = 3
"""Seconds that running requests have to end after Ctrl-C."""


class _Refused(Exception):
    def __init__(self, status: int, what: str) -> None:
        super().__init__(what)
        self.status = status


class SandboxService:
    """One sandbox behind HTTP.

    Args:
        sandbox: where the programs run.
        workers: programs that run at the same time; None = one per core.
        waiting: requests that may wait for their turn; further ones are refused with status 503.
        most_mib: longest request, in MiB.
        most: limits that no request can exceed.
        api_key: clients must know it; None = anybody may ask.
        on_message: told of what goes wrong.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        *,
        workers: int | None = None,
        waiting: int = 1000,
        most_mib: int = 16,
        most: Limits = MOST,
        api_key: str | None = None,
        on_message: Callable[[str], None] | None = None,
    ) -> None:
        self._sandbox, self._most, self._most_bytes, self._api_key = sandbox, most, most_mib << 20, api_key
        self._workers, self._waiting = workers or cores(), waiting
        self._say = on_message or (lambda _: None)
        self._limiter: CapacityLimiter | None = None
        self._taken = 0
        """requests that run or wait"""

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route(ABOUT, self._guarded(self._about)),
            Route("/run_code", self._guarded(self._run), methods=["POST"]),
            Route("/call", self._guarded(self._call), methods=["POST"]),
            Route("/grade", self._guarded(self._grade), methods=["POST"]),
        ]
        return Starlette(routes=routes)

    def _guarded(self, route: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def checked(request: Request) -> Response:
            try:
                self._check_key(request)
                return await route(request)
            except _Refused as refused:
                return JSONResponse({"error": str(refused)}, refused.status)
            except BadTests as problem:
                return JSONResponse({"bad_tests": str(problem)}, 422)
            except SandboxTrouble as trouble:
                self._say(f"the sandbox failed: {trouble}")
                return JSONResponse({"error": str(trouble)}, 500)
            except PlauditError as error:
                self._say(str(error))
                return JSONResponse({"error": error.what}, 503)
            except ClientDisconnect:
                return Response(status_code=499)  # nobody reads it

        return checked

    def _check_key(self, request: Request) -> None:
        if self._api_key is not None:
            scheme, _, key = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(key.encode(), self._api_key.encode()):
                raise _Refused(401, "the API key is missing or wrong")

    async def _about(self, _: Request) -> Response:
        await to_thread.run_sync(self._sandbox.check)
        return JSONResponse({"server": "plaudit-sandbox", "sandbox": self._sandbox.name, "workers": self._workers})

    async def _body(self, request: Request) -> dict[str, Any]:
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > self._most_bytes:
                raise _Refused(413, f"the request is longer than {self._most_bytes >> 20} MiB")
            parts.append(part)
        try:
            body = json.loads(b"".join(parts))
        except (ValueError, RecursionError) as error:
            raise _Refused(400, f"the request is no JSON: {error}") from None
        if not isinstance(body, dict):
            raise _Refused(400, "the request is no JSON object")
        return body

    async def _done(self, work: Callable[[], Any]) -> Any:
        """Do it in a thread, when it is its turn."""
        if self._limiter is None:
            self._limiter = CapacityLimiter(self._workers)
        if self._taken >= self._workers + self._waiting:
            raise _Refused(503, "too many requests are waiting")
        self._taken += 1
        try:
            return await to_thread.run_sync(work, limiter=self._limiter)
        finally:
            self._taken -= 1

    async def _run(self, request: Request) -> Response:
        body = await self._body(request)
        if body.get("language", "python") not in ("python", "python3"):
            raise _Refused(400, f"the language {body['language']!r} is not known here: only python")
        source, stdin = _text(body, "code"), str(body.get("stdin") or "").encode("utf-8", "surrogatepass")
        given = body.get("plaudit")
        limits = self._limits(given) if given is not None else self._simple_limits(body)
        files = _files(body.get("files") or {})
        try:
            outcome = await self._done(lambda: self._sandbox.run(source, stdin, files=files, limits=limits))
        except SandboxTrouble as trouble:
            self._say(f"the sandbox failed: {trouble}")
            return JSONResponse({"status": "SandboxError", "message": str(trouble), "run_result": None, "files": {}})
        return JSONResponse(_reply(outcome))

    async def _call(self, request: Request) -> Response:
        body = await self._body(request)
        source, function, stop = _text(body, "source"), _text(body, "function"), body.get("stop") is True
        try:
            arguments = plain.decode(base64.b64decode(_text(body, "arguments")))
        except (plain.Malformed, binascii.Error, ValueError) as error:
            raise _Refused(400, f"arguments: {error}") from None
        if not isinstance(arguments, list) or not all(isinstance(each, tuple) for each in arguments):
            raise _Refused(400, "arguments is no list of tuples")
        limits = self._limits(body.get("limits"))
        results = await self._done(lambda: self._sandbox.call(source, function, arguments, limits, stop))
        return JSONResponse({"results": [_result(each) for each in results]})

    async def _grade(self, request: Request) -> Response:
        body = await self._body(request)
        source, setup, function = _text(body, "source"), _text(body, "setup"), body.get("function")
        entries, names = (_texts(body, name) for name in ("entries", "names"))
        if function is not None and not isinstance(function, str):
            raise _Refused(400, "function is no text")
        tests, limits, stop = (
            TestCode(setup, entries, names, function),
            self._limits(body.get("limits")),
            body.get("stop"),
        )
        verdicts = await self._done(lambda: self._sandbox.grade(source, tests, limits, stop is True))
        return JSONResponse({"verdicts": [asdict(each) for each in verdicts]})

    def _limits(self, given: Any) -> Limits:
        """What is asked for, and no more than the server grants."""
        if not isinstance(given, dict):
            raise _Refused(400, "limits is no JSON object")
        known = {field.name for field in fields(Limits)}
        try:
            asked = Limits(**{name: value for name, value in given.items() if name in known})
            least = {name: min(getattr(asked, name), getattr(self._most, name)) for name in known - {"wall_seconds"}}
            return Limits(**least, wall_seconds=min(asked.wall, self._most.wall))
        except (TypeError, ValueError) as error:
            raise _Refused(400, f"limits: {error}") from None

    def _simple_limits(self, body: dict[str, Any]) -> Limits:
        """Of a client that knows SandboxFusion's protocol alone: one time, which counts both ways."""
        given: dict[str, Any] = {"output_kib": self._most.output_kib}
        seconds, memory = body.get("run_timeout"), body.get("memory_limit_MB")
        if seconds:
            given |= {"cpu_seconds": seconds, "wall_seconds": seconds}
        if isinstance(memory, int) and memory > 0:
            given["memory_mib"] = memory
        return self._limits(given)


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise _Refused(400, f"{name} is missing, or no text")
    return value


def _texts(body: dict[str, Any], name: str) -> tuple[str, ...]:
    value = body.get(name)
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise _Refused(400, f"{name} is no list of texts")
    return tuple(value)


def _files(given: Any) -> dict[str, bytes]:
    try:
        files = {name: base64.b64decode(data or "") for name, data in given.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise _Refused(400, f"files: {error}") from None
    if any(not name or name.startswith("/") or ".." in name.split("/") for name in files):
        raise _Refused(400, "files: a name is no path below the working folder")
    return files


def _reply(outcome: Outcome) -> dict[str, Any]:
    status = "TimeLimitExceeded" if outcome.ended in ("cpu", "wall") else "Error" if outcome.reason else "Finished"
    code = outcome.code if outcome.ended == "exit" else -(outcome.code or 9)
    return {
        "status": "Failed" if outcome.reason else "Success",
        "message": outcome.reason,
        "compile_result": None,
        "run_result": {
            "status": status,
            "execution_time": outcome.wall_seconds,
            "return_code": code,
            "stdout": outcome.stdout.decode("utf-8", "replace"),
            "stderr": outcome.stderr.decode("utf-8", "replace"),
        },
        "files": {},
        "plaudit": {
            "ended": outcome.ended,
            "code": outcome.code,
            "cut": outcome.cut,
            "cpu_seconds": outcome.cpu_seconds,
        },
    }


def _result(called: Called) -> dict[str, Any]:
    value = base64.b64encode(plain.encode(called.value)).decode("ascii") if called.state == "returned" else None
    return {"state": called.state, "value": value, "why": called.why}


def server(service: SandboxService) -> uvicorn.Server:
    """Not started: `run(sockets=[…])` serves until a signal or `should_exit`."""
    import uvicorn

    config = uvicorn.Config(
        service.app(),
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=_GRACE,
        ws="none",
    )
    return uvicorn.Server(config)


def serve_sandbox(
    host: str = "127.0.0.1",
    port: int = 8080,
    *,
    workers: int | None = None,
    site_packages: bool = False,
    api_key: str | None = None,
    on_message: Callable[[str], None] = lambda _: None,
) -> None:
    """Run programs for clients until Ctrl-C, in this machine's bubblewrap.

    Raises:
        ConfigError: PL102, the address cannot be used; PL103, packages are missing.
        RewardError: PL707, the sandbox does not work here.
    """
    need_serving_packages()
    sandbox = open_sandbox("bubblewrap", site_packages=site_packages)
    sandbox.check()
    at = bound(host, port)
    on_message(f"running programs for {_base(at)} (Ctrl-C ends it)")
    if api_key is None and open_to_others(at):
        on_message("anybody who reaches the port can run programs here: give an API key")
    service = SandboxService(sandbox, workers=workers, api_key=api_key, on_message=on_message)
    with suppress(KeyboardInterrupt):  # uvicorn closes everything before it passes the signal on
        server(service).run(sockets=[at])
    on_message("stopped")


def _base(at: socket.socket) -> str:
    return url(at).removesuffix("/v1")
