"""The endpoint against a real HTTP server that behaves as services do: busy, slow, gone, and particular."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from plaudit.errors import RewardError
from plaudit.rewards.contract import Failure
from plaudit.rewards.judges.backend import Conversation, Reply
from plaudit.rewards.judges.endpoint import Endpoint
from tests.rewards.judges.scripted import DROPPED, Said, Script, Scripted, error, says

HELLO: Conversation = [{"role": "user", "content": "Hello?"}]
Start = Callable[[Script], Scripted]
Open = Callable[..., tuple[Endpoint, Scripted]]


@pytest.fixture
def opened(scripted: Start) -> Iterator[Open]:
    """An endpoint on a scripted server; it is closed after the test."""
    made: list[Endpoint] = []

    def start(script: Script, **options: Any) -> tuple[Endpoint, Scripted]:
        server = scripted(script)
        made.append(Endpoint(server.url, **{"first_pause": 0.01, "timeout": 10, **options}))
        return made[-1], server

    yield start
    for endpoint in made:
        endpoint.close()


def ask(endpoint: Endpoint, n: int = 1, options: list[str] | None = None) -> list[Reply | Failure]:
    return endpoint.ask([HELLO] * n, max_tokens=5, temperature=0.25, options=options)


def in_turn(*replies: Said) -> Script:
    """One reply after the other; the last one for ever."""
    waiting = list(replies)
    return lambda _: waiting.pop(0) if len(waiting) > 1 else waiting[0]


def test_what_is_sent(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", " sk-secret\n")
    endpoint, server = opened(in_turn(says("Hi.")), model="big", api_key_env="A_KEY")
    assert ask(endpoint) == [Reply("Hi.")]
    assert ask(endpoint, options=["A", "B"]) == [Reply("Hi.")]
    plain = {"messages": HELLO, "max_tokens": 5, "temperature": 0.25, "model": "big"}
    key = {"authorization": "Bearer sk-secret"}
    assert server.requests == [plain | key, plain | {"logprobs": True, "top_logprobs": 20} | key]
    assert endpoint.remarks() == ["the endpoint gives no log-probs (it leaves them out): its text is read"]


def test_probabilities_of_options(opened: Open) -> None:
    endpoint, _ = opened(in_turn(says("7", [("7", {"7": 0.6, "8": 0.2, "no": 0.1})])))
    [reply] = ask(endpoint, options=["7", "8", "9"])
    assert isinstance(reply, Reply)
    assert reply.options == {"7": pytest.approx(math.log(0.6)), "8": pytest.approx(math.log(0.2)), "9": -math.inf}
    assert endpoint.remarks() == []


def test_many_at_once_keep_their_order(opened: Open) -> None:
    def script(body: dict[str, Any]) -> Said:
        number = int(body["messages"][0]["content"])
        return Said(says(str(number)).body, delay=0.02 * (number % 3))

    endpoint, server = opened(script, concurrency=4)
    asked = [[{"role": "user", "content": str(i)}] for i in range(12)]
    found = endpoint.ask(asked, max_tokens=5, temperature=0, options=None)
    assert found == [Reply(str(i)) for i in range(12)]
    endpoint.close()
    assert endpoint.ask(asked[:1], max_tokens=5, temperature=0, options=None) == [Reply("0")]
    assert len(server.requests) == 13


def test_no_more_requests_at_the_same_time_than_allowed(opened: Open) -> None:
    running, most = [0], [0]

    def script(_: dict[str, Any]) -> Said:
        running[0] += 1
        most[0] = max(most[0], running[0])
        time.sleep(0.03)
        running[0] -= 1
        return says("x")

    endpoint, _ = opened(script, concurrency=3)
    ask(endpoint, 12)
    assert 2 <= most[0] <= 3


@pytest.mark.parametrize("status", [429, 500, 503])
def test_busy_then_well(opened: Open, status: int) -> None:
    endpoint, server = opened(in_turn(error(status, "busy"), error(status, "busy"), says("ok")))
    assert ask(endpoint) == [Reply("ok")]
    assert len(server.requests) == 3


def test_retry_after_is_honoured(opened: Open) -> None:
    endpoint, server = opened(in_turn(error(429, "slow down", Retry_After="0.4"), says("ok")))
    assert ask(endpoint) == [Reply("ok")]
    assert 0.4 <= server.times[1] - server.times[0] < 2


def test_retry_after_may_be_a_date_and_too_far(opened: Open) -> None:
    when = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    endpoint, server = opened(in_turn(error(429, "come back", Retry_After=when)))
    [found] = ask(endpoint)
    assert isinstance(found, Failure)
    assert found.kind == "unavailable"
    assert "asks to wait 3" in found.message  # 3600 s, or a second less
    assert len(server.requests) == 1


def test_an_error_for_ever_is_unavailable(opened: Open) -> None:
    endpoint, server = opened(in_turn(error(500, "out of memory")), retries=2)
    assert ask(endpoint) == [Failure("unavailable", "HTTP 500: out of memory (3 attempts)")]
    assert len(server.requests) == 3


def test_nobody_is_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        endpoint = Endpoint(f"http://127.0.0.1:{taken.getsockname()[1]}/v1", retries=1, first_pause=0.01)
        [found] = ask(endpoint)
        endpoint.close()
    assert isinstance(found, Failure)
    assert found.kind == "unavailable"
    assert "refused" in found.message


@pytest.mark.parametrize(
    "slow", [Said({}, delay=0.6), Said(b" " * 20, drip=0.05)], ids=["before the status", "a byte now and then"]
)
def test_too_slow_is_a_timeout(opened: Open, slow: Said) -> None:
    endpoint, _ = opened(in_turn(slow), retries=0, timeout=0.2)
    start = time.monotonic()
    assert ask(endpoint) == [Failure("timeout", "no whole reply within 0.2 s")]
    assert time.monotonic() - start < 0.6


def test_dropped_and_cut_connections_are_tried_again(opened: Open) -> None:
    cut = Said(b'{"choices": [', promised=100)
    endpoint, server = opened(in_turn(DROPPED, cut, says("ok")), timeout=1)
    assert ask(endpoint) == [Reply("ok")]
    assert len(server.requests) == 3
    endpoint, _ = opened(in_turn(DROPPED), retries=1)
    [found] = ask(endpoint)
    assert isinstance(found, Failure)
    assert found.kind == "unavailable"


@pytest.mark.parametrize(
    ("said", "what"),
    [
        (Said(b"<html>hello"), "is not JSON: '<html>hello'"),
        (Said(b"\xff\xfe"), "is not JSON"),
        (Said([1, 2]), "no object: list"),
        (Said({"choices": []}), "no message"),
        (Said({"choices": [{"message": {}}]}), "no message"),
        (Said({"choices": 3}), "no message"),
        (Said({"error": {"message": "no such luck"}}), "no such luck"),
        (says(None), "no text (finish_reason 'stop')"),
    ],
)
def test_replies_that_are_none(opened: Open, said: Said, what: str) -> None:
    endpoint, server = opened(in_turn(said))
    [found] = ask(endpoint)
    assert isinstance(found, Failure)
    assert found.kind == "bad_reply"
    assert what in found.message
    assert len(server.requests) == 1


@pytest.mark.parametrize(("status", "mend"), [(401, "api_key_env"), (403, "allowed"), (404, "/v1"), (400, "options")])
def test_what_concerns_every_request_stops_at_once(opened: Open, status: int, mend: str) -> None:
    endpoint, server = opened(in_turn(error(status, "not like this")), concurrency=1, retries=9)
    with pytest.raises(RewardError) as caught:
        ask(endpoint, 5)
    assert caught.value.code == "PL708"
    assert "not like this" in caught.value.what
    assert caught.value.where == server.url + "/chat/completions"
    assert mend in (caught.value.mend or "")
    assert len(server.requests) <= 2


def test_one_error_does_not_wait_for_those_that_try_again(opened: Open) -> None:
    def script(body: dict[str, Any]) -> Said:
        busy = body["messages"][0]["content"] == "busy"
        return error(503, "busy", Retry_After="60") if busy else error(401, "no")

    endpoint, _ = opened(script, concurrency=2)
    start = time.monotonic()
    with pytest.raises(RewardError, match="PL708"):
        endpoint.ask(
            [[{"role": "user", "content": c}] for c in ("busy", "key")], max_tokens=1, temperature=0, options=None
        )
    assert time.monotonic() - start < 5


def test_the_key_is_never_shown(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "sk-very-secret")
    endpoint, _ = opened(in_turn(error(401, "the key sk-very-secret is wrong")), api_key_env="A_KEY")
    with pytest.raises(RewardError) as caught:
        ask(endpoint)
    assert "sk-very" not in str(caught.value)
    assert "the key *** is wrong" in str(caught.value)


def test_a_request_that_is_refused_after_others_were_answered_costs_itself_only(opened: Open) -> None:
    endpoint, _ = opened(in_turn(says("ok"), error(400, "that word is not allowed")))
    assert ask(endpoint) == [Reply("ok")]
    [found] = ask(endpoint)
    assert found == Failure("bad_reply", "the endpoint refuses the request (HTTP 400: that word is not allowed)")


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (error(400, "This model's maximum context length is 8192 tokens"), "bad_row"),
        (Said({"error": {"message": "no", "code": "context_length_exceeded"}}, 400), "bad_row"),
        (error(413, "too much"), "bad_row"),
        (Said({"error": {"message": "filtered", "code": "content_filter"}}, 400), "bad_reply"),
    ],
)
def test_refusals_of_one_question(opened: Open, said: Said, kind: str) -> None:
    endpoint, server = opened(in_turn(said))
    [found] = ask(endpoint, options=["A"])
    assert isinstance(found, Failure)
    assert found.kind == kind
    assert server.requests[0]["logprobs"] is True  # and it is still asked for them
    [found] = ask(endpoint, options=["A"])
    assert server.requests[-1]["logprobs"] is True


@pytest.mark.parametrize("message", ["logprobs is not supported", "unknown field"])
def test_refused_logprobs_are_noticed_once(opened: Open, message: str) -> None:
    endpoint, server = opened(lambda body: error(400, message) if "logprobs" in body else says("7"), concurrency=1)
    assert ask(endpoint, 3, options=["7"]) == [Reply("7")] * 3
    refused = [r for r in server.requests if "logprobs" in r]
    assert len(refused) == (2 if "logprobs" in message else 1)  # fewer of them, first
    assert len(server.requests) == len(refused) + 3
    assert endpoint.remarks() == [f"the endpoint gives no log-probs (HTTP 400: {message}): its text is read"]


def test_fewer_logprobs_where_twenty_are_too_many(opened: Open) -> None:
    def script(body: dict[str, Any]) -> Said:
        if body["top_logprobs"] > 5:
            return error(400, "top_logprobs must be at most 5")
        return says("7", [("7", {"7": 0.9})])

    endpoint, server = opened(script)
    [reply] = ask(endpoint, options=["7"])
    assert isinstance(reply, Reply)
    assert reply.options == {"7": pytest.approx(math.log(0.9))}
    assert [r["top_logprobs"] for r in server.requests] == [20, 5]
    assert endpoint.remarks() == []


def test_the_newer_name_of_the_limit(opened: Open) -> None:
    def script(body: dict[str, Any]) -> Said:
        if "max_tokens" in body:
            return error(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        return says(f"up to {body['max_completion_tokens']}")

    endpoint, server = opened(script)
    assert ask(endpoint) == [Reply("up to 5")]
    assert ask(endpoint) == [Reply("up to 5")]
    assert len(server.requests) == 3


def test_redirects_are_not_followed(opened: Open) -> None:
    elsewhere = Said({}, 302, {"Location": "http://127.0.0.1:9/v1/chat/completions"})
    endpoint, server = opened(in_turn(elsewhere))
    with pytest.raises(RewardError, match="HTTP 302"):
        ask(endpoint)
    assert len(server.requests) == 1


@pytest.mark.parametrize("logprobs", [3, {"content": None}, {"content": [{"token": "7"}]}, {"content": []}])
def test_malformed_logprobs_are_none(opened: Open, logprobs: Any) -> None:
    said = says("7")
    said.body["choices"][0]["logprobs"] = logprobs
    endpoint, _ = opened(in_turn(said))
    assert ask(endpoint, options=["7"]) == [Reply("7")]


def test_addresses_and_keys_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("localhost:8000/v1", "ftp://localhost/v1", "http://", "http://me:word@localhost/v1"):
        with pytest.raises(RewardError, match="PL708") as caught:
            Endpoint(address)
        assert "word@" not in str(caught.value)
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(RewardError, match="NO_KEY is not set"):
        Endpoint("http://localhost/v1", api_key_env="NO_KEY")
    monkeypatch.setenv("ODD_KEY", "sk-\nX: y")
    with pytest.raises(RewardError, match="holds characters") as caught:
        Endpoint("http://localhost/v1", api_key_env="ODD_KEY")
    assert "sk-" not in str(caught.value)


def test_the_whole_address_may_be_given(scripted: Start) -> None:
    server = scripted(in_turn(says("ok")))
    endpoint = Endpoint(server.url + "/chat/completions/")
    assert ask(endpoint) == [Reply("ok")]
    endpoint.close()
