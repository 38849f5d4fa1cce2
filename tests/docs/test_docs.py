"""What the documents show works: Python and shell blocks are run, configurations resolve, links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from plaudit.config.load import resolve

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
"""Pages written by hand, and generated ones of which there is one; those of methods: test_method_pages.py."""
LONG = {
    *("data", "evaluation", "generation", "hardening", "index", "online", "performance", "reward-hacking"),
    *("inspect", "reward-models", "rewards", "runs"),
}
"""Pages with so many commands that they are among the slow tests."""
NOT_RUN = 3
"""How many blocks may be marked `norun: reason` (they need the network, or minutes)."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its info string, text and first line."""

    language: str
    mark: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in re.finditer(r"^```(\w*)([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        line = text.count("\n", 0, match.start()) + 2
        found.append(Block(match[1], match[2].strip(), match[3], line))
    return found


def runnable(page: Path) -> list[Block]:
    return [b for b in blocks(page) if b.language in ("python", "bash") and not b.mark]


@pytest.fixture
def reader(
    tmp_path: Path, tiny_model_dir: Path, preference_file: Path, warm_plaudit: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A directory with what a reader of the documents has: `tiny-model`, `pairs.jsonl` and `more-pairs.jsonl`.

    `plaudit` is a warm one: a page has many commands, and each would import for seconds."""
    folder = tmp_path / "reader"
    folder.mkdir()
    (folder / "tiny-model").symlink_to(tiny_model_dir)
    rows = preference_file.read_text(encoding="utf-8")
    (folder / "pairs.jsonl").write_text(rows, encoding="utf-8")
    (folder / "more-pairs.jsonl").write_text(rows, encoding="utf-8")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MODEL", "tiny-model")  # as the quickstart calls its model
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(
        "PATH", os.pathsep.join([str(warm_plaudit.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    )
    return folder


def paced(page: Path) -> Any:
    return pytest.param(page, id=page.stem, marks=[pytest.mark.slow] if page.stem in LONG else [])


@pytest.mark.parametrize("page", [paced(p) for p in PAGES if runnable(p)])
def test_blocks_run_in_their_order(page: Path, reader: Path) -> None:
    names: dict[str, Any] = {"__name__": "documentation"}
    for block in runnable(page):
        if block.language == "python":
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), names)
            continue
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.text], cwd=reader, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{page.name}:{block.line}\n{done.stderr}"


def test_blocks_that_are_not_run_are_rare_and_say_why() -> None:
    marked = [(p.name, b) for p in PAGES for b in blocks(p) if b.language in ("python", "bash") and b.mark]
    assert all(re.fullmatch(r"norun: \w.+", block.mark) for _, block in marked), marked
    assert len(marked) <= NOT_RUN


@pytest.mark.parametrize(
    "page", [p for p in PAGES if any(b.language == "yaml" for b in blocks(p))], ids=lambda p: p.stem
)
def test_configurations_resolve(page: Path, tmp_path: Path) -> None:
    for block in blocks(page):
        if block.language == "yaml":
            base, shown = tmp_path / "base.yaml", tmp_path / "shown.yaml"
            base.write_text("model: tiny-model\ndata: pairs:train\n", encoding="utf-8")
            shown.write_text(block.text, encoding="utf-8")
            own = "name: " in block.text
            found = resolve(None if own else "dpo", [base, shown], files_exist=False)
            assert yaml.safe_load(found.as_yaml())["method"]["name"] == found.method.name


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_make_targets_and_commands_in_the_documents_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    for page in PAGES:
        for target in re.findall(r"`make ([\w-]+)`|^make ([\w-]+)", page.read_text(encoding="utf-8"), re.MULTILINE):
            assert (target[0] or target[1]) in targets, f"{page.name}: make {target}"


def test_the_lines_that_the_page_on_ppo_shows_are_there() -> None:
    text = (ROOT / "docs" / "ppo.md").read_text(encoding="utf-8")
    rows = re.findall(r"\| `([\w/]+\.py)`: `(.+)` \|$", text, re.MULTILINE)
    assert len(rows) > 30
    sources = ROOT / "src" / "plaudit"
    missing = [(file, line) for file, line in rows if line not in (sources / file).read_text(encoding="utf-8")]
    assert missing == []


def test_the_output_that_the_page_on_inspection_shows_is_what_the_command_prints(reader: Path) -> None:
    page = ROOT / "docs" / "inspect.md"
    command, shown = blocks(page)[:2]
    assert (command.language, shown.language) == ("bash", "text")
    done = subprocess.run(["bash", "-c", command.text], cwd=reader, capture_output=True, text=True, check=True)
    assert done.stdout == shown.text
    assert done.stderr == ""
