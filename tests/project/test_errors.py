"""Every error code has a page section, and every code that is raised exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import plaudit
from plaudit.errors import CODES

SOURCES = Path(plaudit.__file__).parent
DOCS = Path(__file__).parents[2] / "docs"


def test_docs_have_a_section_for_every_code() -> None:
    sections = re.findall(r"^## (PL\d{3}): (.+)$", (DOCS / "errors.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert dict(sections) == CODES
    assert [code for code, _ in sections] == sorted(CODES)


def test_every_section_says_what_to_do() -> None:
    text = (DOCS / "errors.md").read_text(encoding="utf-8")
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        assert len(section.partition("\n")[2].split()) >= 8, section


def test_every_raised_code_exists_and_every_code_is_raised() -> None:
    raised = {
        node.value
        for file in SOURCES.rglob("*.py")
        if file.name != "errors.py"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"PL\d{3}", node.value)
    }
    assert raised == set(CODES)
