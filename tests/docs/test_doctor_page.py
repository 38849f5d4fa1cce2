"""The output that the page on the doctor shows is what its command prints."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from plaudit.data.doctor.clean import FIXES
from plaudit.data.interface import doctor
from tests.data.doctor.rows import chats, feedback, pairs

PAGE = Path(__file__).parents[2] / "docs" / "doctor.md"


def test_the_output_is_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = PAGE.read_text(encoding="utf-8")
    shown = re.search(r"^```bash\n(.*?)^```\n\n```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert shown is not None
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    monkeypatch.setenv("COLUMNS", "110")
    done = subprocess.run(["bash", "-euc", shown[1]], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == shown[2]


def test_every_check_is_in_the_table() -> None:
    table = set(re.findall(r"`([a-z_]+)`", PAGE.read_text(encoding="utf-8").partition("## What is looked at")[2]))
    made = {
        name.check
        for rows in (pairs(), feedback(), chats())
        for found in [doctor(rows, against=pairs(3)).diagnosis]
        for name in (*found.findings, *found.skipped)
    }
    assert made | set(FIXES) <= table
