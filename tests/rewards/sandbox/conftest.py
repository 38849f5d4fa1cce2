"""Sandboxes of this machine; where there is none, the tests say why they are skipped."""

from __future__ import annotations

import pytest

from plaudit.rewards.sandbox.base import Sandbox
from plaudit.rewards.sandbox.bubblewrap import BubblewrapSandbox
from plaudit.rewards.sandbox.process import ProcessSandbox
from tests.rewards.sandbox.machine import skip_where_impossible


@pytest.fixture(scope="session")
def bubblewrap() -> Sandbox:
    sandbox = BubblewrapSandbox()
    skip_where_impossible()
    sandbox.check()
    return sandbox


@pytest.fixture(params=["bubblewrap", "process"])
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    return request.getfixturevalue("bubblewrap") if request.param == "bubblewrap" else ProcessSandbox()
