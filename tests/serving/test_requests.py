"""Requests that cannot be answered are refused by name; nothing one client does harms another."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from plaudit.errors import ConfigError
from plaudit.serving.requests import MOST_BYTES
from plaudit.serving.server import bound, open_to_others, url
from tests.serving.conftest import Served

HELLO: Any = [{"role": "user", "content": "Hello"}]


def post(served: Served, path: str, body: bytes, key: str = "any") -> tuple[int, Any]:
    """Past the client, which would not send such things."""
    host, _, port = served.url.removeprefix("http://").removesuffix("/v1").partition(":")
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        reply = b"".join(iter(lambda: connection.recv(65536), b""))
    header, _, content = reply.partition(b"\r\n\r\n")
    return int(header.split()[1]), json.loads(content)


@pytest.mark.parametrize(
    ("wrong", "param", "what"),
    [
        ({"temprature": 1}, "temprature", "did you mean temperature?"),
        ({"temperature": -1}, "temperature", "greater than or equal to 0"),
        ({"temperature": "hot"}, "temperature", "number"),
        ({"temperature": 1e-30}, "temperature", "too small to divide by"),
        ({"repetition_penalty": 1e-30}, "repetition_penalty", "greater than or equal to 0.01"),
        ({"chat_template_kwargs": {"tokenize": True}}, "messages", "tokenize"),
        ({"chat_template_kwargs": {"messages": 1}}, "messages", "messages"),
        ({"stop": ["a"] * 17}, None, "up to 16 texts"),
        ({"stop": "a" * 257}, None, "256 characters"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"n": 1000}, "n", "less than or equal to 128"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"top_logprobs": 3}, None, "needs logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "less than or equal to 20"),
        ({"presence_penalty": 0.5}, "presence_penalty", "use repetition_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "not supported"),
        ({"tools": [{"type": "function"}]}, "tools", "not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format", "not supported"),
        ({"reasoning_effort": "high"}, "reasoning_effort", "chat_template_kwargs"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, None, "differ"),
        ({"max_tokens": 0}, None, "at least 1"),
        ({"min_tokens": 20, "max_tokens": 10}, "min_tokens", "min_tokens 20 exceeds the limit of 10"),
        ({"stream_options": {"include_usage": True}}, None, "for streams only"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options", "Extra inputs"),
        ({"stop": 5}, "stop", "valid string"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "messages", "message 1: role"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages", "is empty"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", "only text"),
        ({"messages": [*HELLO, {"role": "assistant", "content": "a"}]}, "messages", "nothing to answer"),
        ({"messages": None}, "messages", "missing"),
        ({"max_tokens": 5000}, None, "256 positions"),
        ({"messages": [{"role": "user", "content": "word " * 400}]}, None, "256 positions"),
    ],
    ids=str,
)
def test_a_chat_is_refused_by_name(served: Served, wrong: Any, param: str | None, what: str) -> None:
    status, said = post(served, "/v1/chat/completions", json.dumps({"messages": HELLO, **wrong}).encode())
    assert status == 400
    assert what in said["error"]["message"]
    assert said["error"]["param"] == param
    assert said["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"prompt": []}, "prompt is empty"),
        ({"prompt": ""}, "empty"),
        ({"prompt": [[]]}, "a prompt is empty"),
        ({"prompt": [5, 300]}, "0 to 299"),
        ({"prompt": [-1]}, "0 to 299"),
        ({"prompt": [5, "a"]}, "prompt is wrong"),
        ({"prompt": {"text": "a"}}, "prompt is wrong"),
        ({"prompt": [[5]] * 100, "n": 100}, "at most 4096"),
        ({"best_of": 3}, "best_of is not supported"),
        ({"suffix": "end"}, "suffix is not supported"),
        ({"max_tokens": 0}, "at least 1"),
        ({"echo": True, "stream": True}, "echo is not supported in a stream"),
        ({"logprobs": True}, "logprobs is wrong"),
        ({"messages": HELLO}, "not known"),
    ],
    ids=str,
)
def test_a_completion_is_refused_by_name(served: Served, wrong: Any, what: str) -> None:
    status, said = post(served, "/v1/completions", json.dumps({"prompt": "a", **wrong}).encode())
    assert status == 400
    assert what in said["error"]["message"]


@pytest.mark.parametrize(
    ("body", "what"),
    [
        *[(body, "JSON") for body in (b"", b"{", b"[]", b"\xff", b"3", b'{"model": "\\ud800"}')],
        (b"[" * 200_000, "nested too deeply"),
    ],
    ids=range(7),
)
def test_a_body_that_is_no_object(served: Served, body: bytes, what: str) -> None:
    status, said = post(served, "/v1/chat/completions", body)
    assert status == 400
    assert what in said["error"]["message"]


def test_a_body_that_is_too_large(served: Served) -> None:
    assert post(served, "/v1/completions", b" " * (MOST_BYTES + 1))[0] == 413


def test_what_cannot_change_an_answer_is_accepted(client: openai.OpenAI) -> None:
    said = client.chat.completions.create(
        model="tiny",
        messages=HELLO,
        max_tokens=2,
        user="me",
        metadata={"a": "b"},
        store=False,
        presence_penalty=0,
        frequency_penalty=0.0,
        response_format={"type": "text"},
        logit_bias={},
        service_tier="auto",
        extra_body={"top_k": -1, "stop": None},
    )
    assert said.choices[0].finish_reason in ("length", "stop")


def test_other_routes_and_models(served: Served, client: openai.OpenAI) -> None:
    assert post(served, "/v1/embeddings", b"{}")[0] == 404
    status, said = post(served, "/v1/models", b"{}")
    assert status == 405
    assert "POST /v1/models" in said["error"]["message"]
    with pytest.raises(openai.NotFoundError, match="there is no model gpt"):
        client.chat.completions.create(model="gpt", messages=HELLO)


def test_a_key_is_asked_for(serving: Callable[..., Served], tiny_model_dir: Path) -> None:
    locked = serving(tiny_model_dir, api_key="sesame")
    for key in ("", "any", "sesame2"):
        status, said = post(locked, "/v1/chat/completions", json.dumps({"messages": HELLO}).encode(), key)
        assert status == 401
        assert said["error"]["code"] == "invalid_api_key"
    with pytest.raises(openai.AuthenticationError):
        locked.client.models.list()
    knowing = locked.client.with_options(api_key="sesame")
    assert knowing.models.list().data[0].id == "tiny"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_takes_its_rows_with_it(served: Served, stream: bool) -> None:
    worker: Any = served.service._worker
    body = json.dumps({"prompt": "The", "n": 4, "max_tokens": 240, "stream": stream, "min_tokens": 240}).encode()
    host, _, port = served.url.removeprefix("http://").removesuffix("/v1").partition(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    if stream:
        assert b"200" in connection.recv(100)
    until(lambda: worker._running)
    drawn = worker._scheduler.counts.generated_tokens
    connection.close()
    until(lambda: not worker._running)
    until(lambda: not worker._scheduler.busy)
    assert worker._scheduler.counts.generated_tokens - drawn < 4 * 240


def until(true: Callable[[], Any]) -> None:
    """Wait for another thread."""
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_a_failure_of_the_engine_is_told_and_survived(serving: Callable[..., Served], tiny_model_dir: Path) -> None:
    served = serving(tiny_model_dir)
    worker: Any = served.service._worker
    forward = worker._engine._forward
    inner = forward.hidden
    passes = []

    def broken(layout: Any) -> Any:
        passes.append(1)
        if len(passes) == 4:
            raise RuntimeError("out of memory")
        return inner(layout)

    whole = served.client.completions.create(model="tiny", prompt="The", seed=1, max_tokens=20).choices[0].text
    forward.hidden = broken
    with pytest.raises(openai.InternalServerError, match="out of memory"):
        served.client.completions.create(model="tiny", prompt="The", seed=1, max_tokens=20)
    assert any("out of memory" in text for text in served.said)
    again = served.client.completions.create(model="tiny", prompt="The", seed=1, max_tokens=20)
    assert again.choices[0].text == whole
    passes[:] = []
    stream = served.client.completions.create(model="tiny", prompt="The", seed=1, max_tokens=20, stream=True)
    pieces: list[str] = []
    with pytest.raises(openai.APIError, match="out of memory"):
        pieces.extend(c.choices[0].text for c in stream)
    assert whole.startswith("".join(pieces))


def test_a_prompt_that_cannot_be_reported_fails_alone(
    serving: Callable[..., Served], tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serving(tiny_model_dir)
    worker: Any = served.service._worker

    def broken(*_: Any) -> Any:
        raise RuntimeError("no memory for it")

    monkeypatch.setattr(worker._engine, "reports", broken)
    stream = served.client.completions.create(
        model="tiny", prompt="The", max_tokens=200, stream=True, extra_body={"min_tokens": 200}
    )
    pieces = [next(stream)]
    for limit in (0, 2):
        with pytest.raises(openai.InternalServerError, match="no memory for it"):
            served.client.completions.create(model="tiny", prompt=["a", "b"], echo=True, logprobs=1, max_tokens=limit)
    pieces += list(stream)
    assert pieces[-1].choices[0].finish_reason == "length"
    assert not worker._running


def test_what_exceeds_the_cache_is_refused(serving: Callable[..., Served], tiny_model_dir: Path) -> None:
    from plaudit.inference.sampling import Sampler

    sampler = Sampler.of(str(tiny_model_dir), cache_gib=40 * 512 / 2**30)
    served = serving(sampler)
    limit = sampler.engine.limits.tokens  # type: ignore[attr-defined]
    assert limit < 256
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="more than the budget") as caught:
            served.client.completions.create(model="tiny", prompt="The", max_tokens=limit, stream=stream)
        assert caught.value.code == "context_length_exceeded"
    assert served.client.completions.create(model="tiny", prompt="T", max_tokens=limit - 5).choices[0].text


def test_health_needs_no_key_and_knows_a_dead_engine(serving: Callable[..., Served], tiny_model_dir: Path) -> None:
    served = serving(tiny_model_dir, api_key="k")
    at = served.url.removesuffix("/v1") + "/health"
    with urllib.request.urlopen(at) as reply:
        assert json.load(reply) == {"status": "ok"}
    served.service._worker.close()
    with pytest.raises(urllib.error.HTTPError, match="503") as caught:
        urllib.request.urlopen(at)
    caught.value.close()
    status, said = post(served, "/v1/completions", b'{"prompt": "a"}', "k")
    assert status == 503
    assert "does not run" in said["error"]["message"]


def test_a_server_that_is_stopped_says_so_to_those_who_wait(
    serving: Callable[..., Served], tiny_model_dir: Path
) -> None:
    served = serving(tiny_model_dir)
    worker: Any = served.service._worker
    said: list[Any] = []

    def ask(stream: bool) -> None:
        options: Any = {"model": "tiny", "prompt": "The", "max_tokens": 250, "extra_body": {"min_tokens": 250}}
        try:
            found = served.client.completions.create(**options, stream=stream, n=64)
            said.append(list(found))
        except openai.APIError as error:
            said.append(error)

    threads = [threading.Thread(target=ask, args=(stream,)) for stream in (False, True)]
    for thread in threads:
        thread.start()
    until(lambda: len(worker._running) == 2)
    served.runner.should_exit = True
    for thread in threads:
        thread.join(timeout=20)
    assert ["being stopped" in str(error) for error in said] == [True, True]
    until(lambda: not worker.alive)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nobody_waits_for_an_engine_that_has_ended(serving: Callable[..., Served], tiny_model_dir: Path) -> None:
    served = serving(tiny_model_dir)
    worker: Any = served.service._worker

    def ends() -> Any:
        raise SystemExit

    gate = threading.Event()
    worker._calls.put(gate.wait)
    worker._step = ends
    failures: list[Exception] = []

    def ask() -> None:
        try:
            served.client.completions.create(model="tiny", prompt="The", max_tokens=20)
        except openai.InternalServerError as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    until(lambda: len(worker._placed) == 2)
    placed = list(worker._placed)
    worker._calls.put(lambda: None)
    gate.set()
    for thread in threads:
        thread.join(timeout=20)
    assert ["has ended" in str(error) for error in failures] == [True, True]
    assert len(placed) == 2
    until(lambda: not worker.alive)
    with pytest.raises(openai.InternalServerError, match="does not run"):
        served.client.completions.create(model="tiny", prompt="The", max_tokens=20)


def test_addresses() -> None:
    with bound("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        assert url(first) == f"http://127.0.0.1:{port}/v1"
        assert not open_to_others(first)
        first.listen()
        with pytest.raises(ConfigError, match=r"PL102.*in use"):
            bound("127.0.0.1", port)
    with pytest.raises(ConfigError, match="PL102"):
        bound("no.such.host.invalid", 0)
    with bound("0.0.0.0", 0) as everywhere:
        assert open_to_others(everywhere)


def test_clients_at_once_from_many_threads(served: Served) -> None:
    """Texts of tokens, the template and the engine's decoding are used side by side."""
    failures: list[BaseException] = []

    def ask(number: int) -> None:
        try:
            for turn in range(3):
                stream = served.client.chat.completions.create(
                    model="tiny",
                    messages=[{"role": "user", "content": f"{number} {turn}"}],
                    max_tokens=10,
                    stream=True,
                    logprobs=True,
                    top_logprobs=2,
                )
                assert [c for chunk in stream for c in chunk.choices][-1].finish_reason
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
