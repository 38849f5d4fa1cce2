"""A sandbox on another machine: our own server, and one that knows SandboxFusion's protocol alone."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from plaudit.errors import RewardError
from plaudit.rewards.contract import Sample
from plaudit.rewards.sandbox.base import BadTests, Called, Sandbox, SandboxTrouble, TestCode
from plaudit.rewards.sandbox.limits import Limits
from plaudit.rewards.sandbox.remote import RemoteSandbox
from plaudit.rewards.verifiers.code import CodeOptions, CodeReward
from plaudit.serving.sandbox_server import SandboxService, server
from plaudit.serving.server import bound


@contextmanager
def serving(sandbox: Sandbox, **options: Any) -> Iterator[str]:
    at = bound("127.0.0.1", 0)
    running = server(SandboxService(sandbox, **options))
    thread = threading.Thread(target=lambda: running.run(sockets=[at]))
    thread.start()
    try:
        yield f"http://127.0.0.1:{at.getsockname()[1]}"
    finally:
        running.should_exit = True
        thread.join()
        at.close()


@pytest.fixture(scope="module")
def url(bubblewrap: Sandbox) -> Iterator[str]:
    with serving(bubblewrap, most=Limits(cpu_seconds=1, wall_seconds=3, output_kib=2048), most_mib=2) as at:
        yield at


def posted(url: str, route: str, body: Any, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    try:
        connection.request("POST", route, body if isinstance(body, bytes) else json.dumps(body).encode(), headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_it_does_what_a_local_one_does(url: str, bubblewrap: Sandbox) -> None:
    remote = RemoteSandbox(url)
    for source, stdin, files in (
        ("print(input()[::-1])", "ähm\n".encode(), None),
        ("import sys\nprint('x', file=sys.stderr)\nsys.exit(3)", b"", None),
        ("import os\nos.kill(os.getpid(), 9)", b"", None),
        ("print(open('a/b.txt').read())", b"", {"a/b.txt": b"B"}),
        ("print('x' * 100_000)", b"", None),
    ):
        here, there = bubblewrap.run(source, stdin, files=files), remote.run(source, stdin, files=files)
        assert (there.stdout, there.stderr, there.ended, there.code, there.cut) == (
            (here.stdout, here.stderr, here.ended, here.code, here.cut)
        )
    assert remote.run("while True: pass", limits=Limits(cpu_seconds=0.3)).ended == "cpu"
    found = remote.call("def f(x): return {x: (1, 2.5, {x})} if x else 1 / 0", "f", [(1,), (0,)])
    assert found == [
        Called("returned", {1: (1, 2.5, {1})}),
        Called("raised", why="ZeroDivisionError: division by zero"),
    ]
    tests = TestCode("", ("assert f(1) == 1", "assert f(2) == 1", "assert f(3) == 3"), ("f",))
    assert [v.passed for v in remote.grade("def f(x): return x", tests)] == [True, False, True]
    assert len(remote.grade("def f(x): return x", tests, stop=True)) == 2
    with pytest.raises(BadTests, match="cannot be run"):
        remote.grade("def f(x): return x", TestCode("import nothing_of_that_name", ("assert f(1)",), ("f",)))


def test_the_reward_over_the_network(url: str) -> None:
    reward = CodeReward(CodeOptions(sandbox=url, partial=True, cpu_seconds=1))
    good, bad = "```python\ndef f(x): return x * x\n```", "```python\nimport os\nos._exit(0)\n```"
    row = {"test_list": ["assert f(2) == 4", "assert f(3) == 9"]}
    assert [r.value for r in reward.score([Sample("q", a, row) for a in (good, bad)])] == [1, 0]
    reward.close()


def test_what_the_server_refuses(url: str) -> None:
    for route, body, status, text in (
        ("/run_code", b"{", 400, "no JSON"),
        ("/run_code", [], 400, "no JSON object"),
        ("/run_code", {"language": "python"}, 400, "code is missing"),
        ("/run_code", {"code": "1", "language": "rust"}, 400, "'rust' is not known"),
        ("/run_code", {"code": "1", "files": {"../x": ""}}, 400, "no path below"),
        ("/run_code", {"code": "1", "plaudit": {"cpu_seconds": -1}}, 400, "must be positive"),
        ("/run_code", {"code": "x" * (3 << 20)}, 413, "longer than 2 MiB"),
        ("/call", {"source": "", "function": "f", "arguments": "AAAA", "limits": {}}, 400, "arguments"),
        ("/grade", {"source": "", "setup": "", "entries": [1], "names": [], "limits": {}}, 400, "no list of texts"),
    ):
        found = posted(url, route, body)
        assert found[0] == status, found
        assert text in found[1]["error"]


def test_limits_of_the_server_hold(url: str) -> None:
    status, reply = posted(url, "/run_code", {"code": "while True: pass", "language": "python", "run_timeout": 900})
    assert (status, reply["status"], reply["run_result"]["status"]) == (200, "Failed", "TimeLimitExceeded")
    assert reply["run_result"]["execution_time"] < 5


def test_a_key(bubblewrap: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(bubblewrap, api_key="right") as url:
        with pytest.raises(RewardError, match="does not accept the key") as caught:
            RemoteSandbox(url, api_key="wrong").check()
        assert caught.value.code == "PL707"
        assert RemoteSandbox(url, api_key="right").run("print(1)").stdout == b"1\n"
        monkeypatch.setenv("PLAUDIT_SANDBOX_KEY", "right")
        assert RemoteSandbox(url).run("print(1)").stdout == b"1\n"
        assert posted(url, "/run_code", {"code": "1"})[0] == 401


def test_no_more_run_than_the_server_allows(bubblewrap: Sandbox) -> None:
    with serving(bubblewrap, workers=1, waiting=1) as url:
        remote, found = RemoteSandbox(url), list[str]()

        def run() -> None:
            try:
                found.append(remote.run("import time\ntime.sleep(0.5)").ended)
            except SandboxTrouble as trouble:
                found.append(f"unavailable {trouble.unavailable}: {trouble}")

        remote.check()
        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(f[:16] for f in found) == ["exit", "exit", "unavailable True", "unavailable True"]
    assert "too many requests are waiting" in sorted(found)[-1]


def test_a_server_that_is_not_there() -> None:
    at = bound("127.0.0.1", 0)
    url = f"http://127.0.0.1:{at.getsockname()[1]}"
    at.close()
    with pytest.raises(RewardError, match="cannot be reached") as caught:
        CodeReward(CodeOptions(sandbox=url)).score([])
    assert caught.value.code == "PL707"


class _Fusion(BaseHTTPRequestHandler):
    """As SandboxFusion replies: other routes are not found, and `run_code` has its fields alone."""

    replies: dict[str, dict[str, Any]]
    asked: list[dict[str, Any]]

    def do_GET(self) -> None:
        self._send(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(asked)
        status, result = self.replies[asked["code"]]["status"], self.replies[asked["code"]]["run_result"]
        self._send(200, {"status": status, "message": "", "compile_result": None, "run_result": result,
                         "executor_pod_name": None, "files": {}})  # fmt: skip

    def _send(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def result(status: str, code: int | None, stdout: str = "") -> dict[str, Any]:
    return {"status": status, "execution_time": 0.5, "return_code": code, "stdout": stdout, "stderr": ""}


def test_a_server_of_sandboxfusion() -> None:
    _Fusion.asked = []
    _Fusion.replies = {
        "good": {"status": "Success", "run_result": result("Finished", 0, "4\n")},
        "bad": {"status": "Failed", "run_result": result("Finished", 1)},
        "slow": {"status": "Failed", "run_result": result("TimeLimitExceeded", None)},
        "killed": {"status": "Failed", "run_result": result("Finished", -9)},
        "broken": {"status": "SandboxError", "run_result": None},
    }
    with ThreadingHTTPServer(("127.0.0.1", 0), _Fusion) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        try:
            remote = RemoteSandbox(f"http://127.0.0.1:{httpd.server_address[1]}")
            found = [remote.run(name, b"2") for name in ("good", "bad", "slow", "killed")]
            assert [o.reason for o in found] == [
                "", "it ended with exit code 1", "it ran out of time", "it was ended by signal 9"
            ]  # fmt: skip
            assert found[0].stdout == b"4\n"
            assert _Fusion.asked[0].pop("run_timeout") == Limits().wall
            assert _Fusion.asked[0] == {
                "code": "good", "language": "python", "stdin": "2", "memory_limit_MB": 512, "files": {}
            }  # fmt: skip
            with pytest.raises(SandboxTrouble, match="the sandbox failed"):
                remote.run("broken")
            with pytest.raises(RewardError, match="runs programs alone") as caught:
                remote.call("good", "f", [(1,)])
            assert caught.value.code == "PL707"
        finally:
            httpd.shutdown()
            thread.join()
