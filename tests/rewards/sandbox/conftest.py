"""Sandboxes of this machine; where there is none, the tests say why they are skipped."""

from __future__ import annotations

import pytest

from plaudit.errors import RewardError
from plaudit.rewards.sandbox.base import Sandbox
from plaudit.rewards.sandbox.bubblewrap import BubblewrapSandbox
from plaudit.rewards.sandbox.process import ProcessSandbox


@pytest.fixture(scope="session")
def bubblewrap() -> Sandbox:
    sandbox = BubblewrapSandbox()
    try:
        sandbox.check()
    except RewardError as error:
        pytest.skip(str(error))
    return sandbox


@pytest.fixture(params=["bubblewrap", "process"])
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    return request.getfixturevalue("bubblewrap") if request.param == "bubblewrap" else ProcessSandbox()
