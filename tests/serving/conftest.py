"""A server in this process, on a port of its own, and OpenAI's client."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import openai
import pytest

from plaudit.inference.sampling import Sampler
from plaudit.serving.app import Service
from plaudit.serving.server import bound, server, url


@dataclass
class Served:
    """A running server."""

    service: Service
    sampler: Sampler
    url: str
    said: list[str]
    runner: Any

    @cached_property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key="any", max_retries=0, timeout=60)


@pytest.fixture(scope="session")
def serving() -> Iterator[Callable[..., Served]]:
    """Start a server for a model folder or a sampler; all end with the tests."""
    stops: list[Callable[[], None]] = []

    def start(model: Path | Sampler, **options: Any) -> Served:
        sampler = model if isinstance(model, Sampler) else Sampler.of(str(model))
        said: list[str] = []
        service = Service(sampler, "tiny", on_message=said.append, **options)
        at = bound("127.0.0.1", 0)
        runner = server(service)
        thread = threading.Thread(target=runner.run, kwargs={"sockets": [at]})
        thread.start()

        found = Served(service, sampler, url(at), said, runner)

        def stop() -> None:
            found.client.close()
            runner.should_exit = True
            thread.join(timeout=20)
            at.close()
            assert not thread.is_alive()

        stops.append(stop)
        while not runner.started:
            assert thread.is_alive()
            time.sleep(0.01)
        return found

    yield start
    for stop in stops:
        stop()


@pytest.fixture(scope="session")
def served(serving: Callable[..., Served], tiny_model_dir: Path) -> Served:
    """The tiny model, with the local engine."""
    return serving(tiny_model_dir)


@pytest.fixture
def client(served: Served) -> openai.OpenAI:
    return served.client
