"""What a newcomer reads after a mistake: what is wrong, where, and how to mend it. Nothing else, and nothing is lost."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from plaudit.errors import CODES
from tests.conftest import Ended
from tests.mistakes.data import DATA
from tests.mistakes.desk import Desk, Message, Mistake
from tests.mistakes.models import MODELS
from tests.mistakes.options import OPTIONS
from tests.mistakes.surroundings import SURROUNDINGS

MISTAKES = [*DATA, *MODELS, *OPTIONS, *SURROUNDINGS]
TESTS = Path(__file__).parents[1]


@pytest.fixture
def desk(
    tmp_path: Path, tiny_model_dir: Path, call_plaudit: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Desk]:
    """A newcomer's folder, with the network out of reach."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    made = Desk(tmp_path, tiny_model_dir, call_plaudit, monkeypatch)
    yield made
    made.leave()


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake(mistake: Mistake, desk: Desk) -> None:
    command = mistake.command(desk)
    before = desk.files()
    ended = desk.call(*command)
    message = Message.of(ended.err)
    assert ended.status == 2
    assert message.code == mistake.code
    assert mistake.what in message.what
    # The mistakes in a configuration are listed, each with its place and a hint.
    listed = message.what if mistake.code == "PL100" else ""
    assert mistake.where in (listed or message.where)
    assert mistake.mend in listed + message.mend
    assert message.page == f"docs/errors.md#{mistake.code.lower()}"
    assert desk.files() == before


def test_no_name_is_given_twice() -> None:
    names = [mistake.name for mistake in MISTAKES]
    assert sorted(set(names)) == sorted(names)
    assert len(names) >= 60


def test_every_code_is_tried() -> None:
    """By a mistake of the tables, or by a test that is about it."""
    written = {code for file in TESTS.rglob("*.py") for code in re.findall(r"PL\d{3}", file.read_text("utf-8"))}
    assert set(CODES) - written == set()
