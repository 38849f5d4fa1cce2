"""A small OpenAI-like server on loopback whose replies are a function of the request."""

from __future__ import annotations

import json
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Said:
    """A reply of the server.

    Attributes:
        body: a JSON value, or bytes that are sent as they are.
        promised: Content-Length, where it is not that of the body.
        delay: seconds before the status is sent.
        drip: seconds between the bytes of the body.
    """

    body: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    promised: int | None = None
    delay: float = 0.0
    drip: float = 0.0


DROPPED = Said(None, status=0)
"""The connection is closed without a word."""
Script = Callable[[dict[str, Any]], Said]


@dataclass
class Scripted:
    """A running server.

    Attributes:
        requests: bodies, with the key `authorization` of the headers.
    """

    url: str
    requests: list[dict[str, Any]]
    times: list[float]


@contextmanager
def serving_script(script: Script) -> Iterator[Scripted]:
    """Serve until the block ends."""
    found = Scripted("", [], [])
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                found.requests.append(body | {"authorization": self.headers.get("Authorization")})
                found.times.append(time.monotonic())
            said = script(body) if self.path == "/v1/chat/completions" else error(404, f"no {self.path}")
            if said is DROPPED:
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            time.sleep(said.delay)
            sent = said.body if isinstance(said.body, bytes) else json.dumps(said.body).encode()
            try:
                self.send_response(said.status)
                for name, value in said.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(sent) if said.promised is None else said.promised))
                self.end_headers()
                for start in range(0, len(sent), 1 if said.drip else max(1, len(sent))):
                    time.sleep(said.drip)
                    self.wfile.write(sent[start : start + 1] if said.drip else sent)
                    self.wfile.flush()
            except OSError:  # the client did not wait
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()  # waits for the handlers


def says(text: str | None, tokens: Sequence[tuple[str, Mapping[str, float]]] | None = None) -> Said:
    """A chat completion.

    Args:
        tokens: of each token its text and the probabilities of the likeliest ones there; None = no log-probs.
    """
    logprobs = None
    if tokens is not None:
        content = [
            {
                "token": token,
                "logprob": math.log(likely.get(token, 1e-6)),
                "top_logprobs": [{"token": t, "logprob": math.log(p)} for t, p in likely.items()],
            }
            for token, likely in tokens
        ]
        logprobs = {"content": content}
    message = {"role": "assistant", "content": text}
    return Said({"choices": [{"index": 0, "message": message, "logprobs": logprobs, "finish_reason": "stop"}]})


def error(status: int, message: str, **headers: str) -> Said:
    """An error in OpenAI's form."""
    return Said(
        {"error": {"message": message, "code": None}}, status, {k.replace("_", "-"): v for k, v in headers.items()}
    )


def asked(body: dict[str, Any]) -> str:
    """All that the judge was told."""
    return "\n".join(m["content"] for m in body["messages"])
