"""A sandbox on another machine, over HTTP.

Running a program alone speaks the protocol of SandboxFusion (`POST /run_code`), so that its servers can be used too.
Calls and tests that are code need two programs that talk to each other, which that protocol does not have; they work
with a server of plaudit (`plaudit.serving.sandbox_server`), which has routes of its own for them.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any, get_args
from urllib.parse import urlsplit

from plaudit.errors import RewardError
from plaudit.rewards.sandbox.base import BadTests, Called, Ended, Outcome, Sandbox, SandboxTrouble, TestCode, Verdict
from plaudit.rewards.sandbox.inside import plain
from plaudit.rewards.sandbox.limits import Limits

ABOUT = "/plaudit"
"""Route that says what a server of plaudit offers."""
_WAITING = 120.0
"""Seconds that a request may wait for its turn and travel, beside the time of its programs."""
_MOST_REPLY = 64 << 20


class RemoteSandbox(Sandbox):
    """See the module.

    Args:
        url: http(s)://host:port, with a path before the routes if there is one.
        api_key: sent as a bearer token; default is the environment variable PLAUDIT_SANDBOX_KEY.
    """

    def __init__(self, url: str, *, api_key: str | None = None) -> None:
        self.name = url.rstrip("/")
        parts = urlsplit(self.name)
        self._secure, self._at, self._path = parts.scheme == "https", parts.netloc.rpartition("@")[2], parts.path
        self._key = api_key if api_key is not None else os.environ.get("PLAUDIT_SANDBOX_KEY")
        self._lock = threading.Lock()
        self._ours: bool | None = None

    def check(self) -> None:
        """See `Sandbox.check`. The server is asked once what it is."""
        with self._lock:
            if self._ours is None:
                self._ours = self._ask_what_it_is()

    def _ask_what_it_is(self) -> bool:
        try:
            status, reply = self._exchange("GET", ABOUT, None, 10.0)
        except SandboxTrouble as trouble:
            mend = "start the server, or mend the URL"
            raise RewardError("PL707", str(trouble), where=self.name, mend=mend) from trouble
        if status in (401, 403):
            mend = "set PLAUDIT_SANDBOX_KEY to the server's key"
            raise RewardError("PL707", "the server does not accept the key", where=self.name, mend=mend)
        if status == 503:
            what = f"the server has no sandbox that works: {_error(reply)}"
            raise RewardError("PL707", what, where=self.name, mend="mend it on that machine")
        return status == 200 and isinstance(reply, dict) and reply.get("server") == "plaudit-sandbox"

    def run(
        self, source: str, stdin: bytes = b"", *, files: Mapping[str, bytes] | None = None, limits: Limits | None = None
    ) -> Outcome:
        """See `Sandbox.run`."""
        self.check()
        limits = limits or Limits()
        asked = {
            "code": source,
            "language": "python",
            "stdin": stdin.decode("utf-8", "replace"),
            "run_timeout": limits.wall,
            "memory_limit_MB": limits.memory_mib,
            "files": {name: base64.b64encode(data).decode("ascii") for name, data in (files or {}).items()},
        }
        if self._ours:
            asked["plaudit"] = limits.to_json()
        reply = self._post("/run_code", asked, limits.wall)
        result = reply.get("run_result")
        if reply.get("status") == "SandboxError" or not isinstance(result, dict):
            raise SandboxTrouble(f"{self.name}: {str(reply.get('message') or 'the sandbox failed')[:500]}")
        return _outcome(result, reply.get("plaudit"), limits)

    def call(
        self,
        source: str,
        function: str,
        arguments: Sequence[Sequence[Any]],
        limits: Limits | None = None,
        stop: bool = False,
    ) -> list[Called]:
        """See `Sandbox.call`."""
        limits = limits or Limits()
        given = base64.b64encode(plain.encode([tuple(each) for each in arguments])).decode("ascii")
        asked = {"source": source, "function": function, "arguments": given, "limits": limits.to_json(), "stop": stop}
        results = self._own("/call", asked, limits.wall * len(arguments)).get("results")
        return [_called(each) for each in _listed(results, self.name)]

    def grade(self, source: str, tests: TestCode, limits: Limits | None = None, stop: bool = False) -> list[Verdict]:
        """See `Sandbox.grade`."""
        limits = limits or Limits()
        asked = {
            "source": source,
            "setup": tests.setup,
            "entries": list(tests.entries),
            "names": list(tests.names),
            "function": tests.function,
            "limits": limits.to_json(),
            "stop": stop,
        }
        verdicts = self._own("/grade", asked, (limits.wall + 5) * len(tests.entries)).get("verdicts")
        return [Verdict(each.get("passed") is True, str(each.get("why"))) for each in _listed(verdicts, self.name)]

    def _own(self, route: str, asked: dict[str, Any], seconds: float) -> dict[str, Any]:
        self.check()
        if not self._ours:
            raise RewardError(
                "PL707",
                "the server runs programs alone; tests that call functions need two that talk to each other",
                where=self.name,
                mend="use tests of input and output with this server, or a sandbox server of plaudit",
            )
        return self._post(route, asked, seconds)

    def _post(self, route: str, asked: dict[str, Any], seconds: float) -> dict[str, Any]:
        status, reply = self._exchange("POST", route, json.dumps(asked).encode("utf-8"), seconds + _WAITING)
        if status == 422 and isinstance(reply, dict) and "bad_tests" in reply:
            raise BadTests(str(reply["bad_tests"]))
        if status != 200 or not isinstance(reply, dict):
            raise SandboxTrouble(f"{self.name}{route}: status {status}: {_error(reply)}", unavailable=status != 500)
        return reply

    def _exchange(self, method: str, route: str, body: bytes | None, seconds: float) -> tuple[int, Any]:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        try:
            connection = kind(self._at, timeout=seconds)
            try:
                connection.request(method, self._path + route, body, headers)
                response = connection.getresponse()
                data = response.read(_MOST_REPLY + 1)
            finally:
                connection.close()
        except (OSError, http.client.HTTPException) as error:
            raise SandboxTrouble(
                f"{self.name} cannot be reached: {error or type(error).__name__}", unavailable=True
            ) from error
        if len(data) > _MOST_REPLY:
            raise SandboxTrouble(f"{self.name}: the reply is longer than {_MOST_REPLY >> 20} MiB")
        try:
            return response.status, json.loads(data)
        except (ValueError, RecursionError):
            return response.status, data[:300].decode("utf-8", "replace")


def _error(reply: Any) -> str:
    return str(reply.get("error", reply) if isinstance(reply, dict) else reply)[:300]


def _listed(value: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise SandboxTrouble(f"{where}: the reply is not understood")
    return value


def _called(said: dict[str, Any]) -> Called:
    state, why = said.get("state"), str(said.get("why", ""))
    if state == "returned":
        try:
            return Called("returned", plain.decode(base64.b64decode(str(said.get("value")))))
        except (plain.Malformed, ValueError) as error:
            raise SandboxTrouble(f"the reply is not understood: {error}") from error
    if state not in ("raised", "refused", "lost"):
        raise SandboxTrouble("the reply is not understood")
    return Called(state, why=why)


def _outcome(result: dict[str, Any], own: Any, limits: Limits) -> Outcome:
    """The protocol's result; our own server says more."""
    most = limits.output_kib * 1024
    out, err = (str(result.get(name) or "").encode("utf-8", "surrogatepass") for name in ("stdout", "stderr"))
    seconds = float(result.get("execution_time") or 0.0)
    code = result.get("return_code")
    ended: Ended = "exit"
    if result.get("status") == "TimeLimitExceeded":
        ended, code = "wall", None
    elif not isinstance(code, int):
        code = 1
    elif code < 0:
        ended, code = "signal", -code
    cpu, cut = seconds, len(out) > most or len(err) > most
    if isinstance(own, dict) and own.get("ended") in get_args(Ended):
        ended, code, cut, cpu = own["ended"], own.get("code"), bool(own.get("cut")), float(own.get("cpu_seconds", 0.0))
    elif len(out) > most:
        ended, code = "output", None
    return Outcome(out[:most], err[:most], cut, ended, code, cpu, seconds)
