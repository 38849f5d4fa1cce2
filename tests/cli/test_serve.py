"""`plaudit serve` as a user runs it: a process, an address, Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import openai
import pytest

import plaudit as package
from plaudit.errors import ConfigError


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, -signal.SIGTERM)])
def test_it_answers_until_it_is_stopped(
    tiny_model_dir: Path, number: signal.Signals, status: int, request: pytest.FixtureRequest
) -> None:
    program = [sys.executable, "-m", "plaudit"] if status == 0 else [request.getfixturevalue("warm_plaudit")]
    process = subprocess.Popen(
        [*program, "serve", str(tiny_model_dir), "--port", "0", "--name", "mine"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PLAUDIT_API_KEY": "sesame"},
    )
    assert process.stderr is not None
    try:
        said = ""
        while (at := re.search(r"serving at (\S+)", said)) is None:
            line = process.stderr.readline()
            assert line, said
            said += line
        assert "local engine" in said
        assert "warning" not in said
        with openai.OpenAI(base_url=at[1], api_key="sesame", max_retries=20) as client:
            answer = client.completions.create(model="mine", prompt="The sky", max_tokens=5)
            assert answer.usage is not None
            assert answer.usage.completion_tokens <= 5
        with openai.OpenAI(base_url=at[1], api_key="other", max_retries=0) as client, pytest.raises(openai.APIError):
            client.models.list()
        process.send_signal(number)
        rest = process.stderr.read()
        assert process.wait(timeout=30) == status
        assert "completion: " in rest
        assert "Traceback" not in rest
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_an_address_that_is_taken_is_found_before_the_model_is_loaded(tiny_model_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"PL102.*\n.*127.0.0.1:{port}"):
            package.serve("no/such/model", port=port)


def test_an_open_door_is_warned_of(monkeypatch: pytest.MonkeyPatch, tiny_model_dir: Path) -> None:
    from plaudit.serving import server

    monkeypatch.setattr(server, "serve_until_stopped", lambda service, at, say: None)
    said: list[str] = []
    package.serve(str(tiny_model_dir), host="0.0.0.0", port=0, on_message=said.append)
    assert any("warning: every machine that reaches 0.0.0.0" in text for text in said)
    said.clear()
    package.serve(str(tiny_model_dir), host="0.0.0.0", port=0, api_key="k", on_message=said.append)
    package.serve(str(tiny_model_dir), port=0, on_message=said.append)
    assert not any("warning" in text for text in said)


def test_an_empty_key_is_no_key() -> None:
    with pytest.raises(ConfigError, match=r"PL102.*empty"):
        package.serve("anything", port=0, api_key="")


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from plaudit.config import packages

    monkeypatch.setattr(packages, "find_spec", lambda name: None if name == "uvicorn" else object())
    with pytest.raises(ConfigError, match=r"PL103.*uvicorn"):
        package.serve("anything", port=0)
