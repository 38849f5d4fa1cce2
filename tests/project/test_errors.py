"""Every error code has a page section, and every code that is raised exists."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import plaudit
from plaudit.config.packages import OLDEST
from plaudit.errors import CODES, PlauditError

SOURCES = Path(plaudit.__file__).parent
FAMILIES = {family.__name__ for family in PlauditError.__subclasses__()}
DOCS = Path(__file__).parents[2] / "docs"


@cache
def nodes() -> list[tuple[Path, ast.AST]]:
    """Every node of the sources, with its file."""
    files = [(file, ast.parse(file.read_text(encoding="utf-8"))) for file in sorted(SOURCES.rglob("*.py"))]
    return [(file, node) for file, tree in files for node in ast.walk(tree)]


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
        for file, node in nodes()
        if file.name != "errors.py"
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"PL\d{3}", node.value)
    }
    assert raised == set(CODES)


def test_every_error_says_where_it_is_and_how_to_mend_it() -> None:
    lacking = [
        f"{file.name}:{node.lineno}"
        for file, node in nodes()
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FAMILIES
        # the mistakes of a configuration are listed, each with its place
        if not ast.unparse(node.args[0]).startswith("'PL100'")
        if not {"where", "mend"} <= {keyword.arg for keyword in node.keywords}
    ]
    assert lacking == []


def test_the_oldest_packages_are_those_that_are_asked_for() -> None:
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert [f"{name}>={oldest}" for name, oldest in OLDEST.items()] == project["optional-dependencies"]["train"]


def test_every_section_can_be_linked_to() -> None:
    text = (DOCS / "errors.md").read_text(encoding="utf-8")
    assert re.findall(r'^<a id="(pl\d{3})"></a>\n\n## (PL\d{3}): ', text, re.MULTILINE) == [
        (code.lower(), code) for code in sorted(CODES)
    ]
