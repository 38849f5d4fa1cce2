"""A page for every method, current and true: its command trains, and logs what the page says."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from plaudit.cli import main
from plaudit.config.about import SECTIONS, about, read_about
from plaudit.config.method_pages import DATA_FILES, command_line, escaped
from plaudit.data.conventions import EXAMPLES
from plaudit.methods import available
from plaudit.methods.base import Method
from plaudit.runs.metrics import is_known

ROOT = Path(__file__).parents[2]
METHODS = list(available())


@cache
def write_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_docs", ROOT / "scripts" / "write_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def pages() -> dict[str, str]:
    written: dict[str, str] = write_docs().pages()
    return written


def test_there_is_a_page_for_every_method_and_no_other() -> None:
    on_disk = {f"methods/{path.name}" for path in (ROOT / "docs" / "methods").iterdir()}
    assert on_disk == {name for name in pages() if name.startswith("methods/")}
    assert on_disk == {"methods/index.md", *(f"methods/{name}.md" for name in METHODS)}


@pytest.mark.parametrize(
    "name", ["configuration.md", "metrics.md", "methods/index.md", *(f"methods/{m}.md" for m in METHODS)]
)
def test_generated_pages_are_current(name: str) -> None:
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == pages()[name], f"docs/{name} is old: run `make docs`"


def test_a_page_of_a_method_that_is_gone_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_docs(), "DOCS", tmp_path)
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "gone.md").write_text("")
    write_docs().main()
    assert {f"methods/{path.name}" for path in (tmp_path / "methods").iterdir()} | {
        path.name for path in tmp_path.glob("*.md")
    } == set(pages())


@pytest.mark.parametrize("name", METHODS)
def test_the_docstring_has_its_sections(name: str) -> None:
    parts = about(available()[name])
    assert tuple(parts.sections) == SECTIONS
    assert all(parts.sections.values()), "a section is empty: write `None.`"
    assert not parts.stray, "lines that belong to no section"
    assert re.search(r"\d{4}", parts.headline), "the first line names the paper and its year"
    assert parts.headline.endswith(".")
    other_tools = " ".join(parts.sections["Elsewhere"])
    assert "TRL" in other_tools
    assert "LLaMA-Factory" in other_tools


@pytest.mark.parametrize("name", METHODS)
def test_the_page_says_what_the_file_says(name: str) -> None:
    page, method = pages()[f"methods/{name}.md"], available()[name]
    for paragraphs in about(method).sections.values():
        assert all(escaped(paragraph) in page for paragraph in paragraphs)
    for option in method.Config.model_fields:
        assert f"| `method.{option}` |" in page
    assert EXAMPLES[method.data_kind] in page
    assert all(f"| `{theirs}` |" in page for theirs in method.elsewhere)
    assert f"[{name}]({name}.md)" in pages()["methods/index.md"]


@pytest.mark.parametrize("name", ["index", *METHODS])
def test_links_lead_somewhere(name: str) -> None:
    folder, text = ROOT / "docs" / "methods", pages()[f"methods/{name}.md"]
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert targets
    assert [t for t in targets if not (folder / t).exists()] == []


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_logs_is_explained(name: str) -> None:
    logged = write_docs().logged_by(available()[name])
    assert logged
    unknown = [metric for metric in logged if not is_known(metric)]
    assert not unknown, f"{unknown}: add them to the table of runs/metrics.py or register them in the method's file"


ROWS = {
    "completion": [{"prompt": f"Thing {i}?", "completion": "It is blue."} for i in range(4)],
    "preference": [{"prompt": f"Thing {i}?", "chosen": "It is blue.", "rejected": "No."} for i in range(4)],
    "ranking": [
        {"prompt": f"Thing {i}?", "completions": ["It is blue.", "Blue", "No."], "ranks": [1, 2, 3]} for i in range(4)
    ],
    "feedback": [{"prompt": f"Thing {i}?", "completion": f"It is {i}.", "label": i % 2 == 0} for i in range(4)],
    "prompt": [{"prompt": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(4)],
}
EVERY_RUN = {"loss", "grad_norm", "learning_rate", "epoch", "num_tokens", "tokens_per_second", "step_seconds"}
EVERY_RUN |= {"peak_memory_gb"}
"""Logged by the trainer whatever the method; with several terms in the loss, `terms/*` too."""


def _table_metrics(page: str) -> set[str]:
    return set(re.findall(r"^\| `([\w/-]+)` \|.*\| always \|$", page, re.MULTILINE))


@pytest.mark.parametrize("name", METHODS)
def test_the_command_of_the_page_trains_and_logs_what_the_page_says(
    name: str, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, method = pages()[f"methods/{name}.md"], available()[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "tiny-model").symlink_to(tiny_model_dir)
    rows = "".join(json.dumps(row) + "\n" for row in ROWS[method.data_kind])
    (tmp_path / DATA_FILES[method.data_kind]).write_text(rows, encoding="utf-8")
    shown = re.search(r"^```bash\n(plaudit .*)\n```$", page, re.MULTILINE)
    assert shown is not None
    assert shown[1] == command_line(method)
    short = ["--max-steps", "1", "--log.every", "1"]
    # The tiny model knows no arithmetic, and where all answers are wrong there is nothing to learn.
    command = shown[1].replace("--reward math", f"--reward {ROOT / 'tests' / 'train' / 'rewarding.py'}:vowels")
    monkeypatch.setattr(sys, "argv", [*shlex.split(command), *short, "--output-dir", "run"])
    with pytest.raises(SystemExit, match=r"^0$"):
        main()
    (line,) = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    logged = {name for name in json.loads(line) if name != "step" and not name.startswith("terms/")}
    if method.is_online():  # what a rollout batch says about itself
        loops = (
            r"reward|reward_std|rewards/(.*/mean|error_rate|retried|excluded)|(completions|rollout|critic)/.*|frac_.*"
        )
        logged = {name for name in logged if not re.fullmatch(loops, name)}
    assert logged - EVERY_RUN == _table_metrics(page)
    assert logged >= EVERY_RUN


def test_a_docstring_in_parts() -> None:
    parts = read_about(
        """Title (Author 2020, arXiv 1).

        Objective:
            One line
            and its end.

            - first
            - second,
              continued

        Elsewhere:
            TRL: a
            and more.
            LLaMA-Factory: b.
        What is this
        """
    )
    assert parts.headline == "Title (Author 2020, arXiv 1)."
    assert parts.sections["Objective"] == ("One line and its end.", "- first", "- second, continued")
    assert parts.sections["Elsewhere"] == ("TRL: a and more.", "LLaMA-Factory: b.")
    assert parts.stray == ("What is this",)


def test_formulas_are_not_markup() -> None:
    assert escaped("π*(y|x) < E[r](x), `a*b[0](c)`") == r"π\*(y|x) \< E[r]\(x), `a*b[0](c)`"


def test_a_users_own_method_may_say_less(tmp_path: Path) -> None:
    from plaudit.config.method_pages import method_page
    from plaudit.methods import find

    (tmp_path / "own.py").write_text(
        "'''Mine.'''\nfrom plaudit.methods.base import Method\n\n\nclass Mine(Method):\n    '''Nothing yet.'''\n\n"
        "    name = 'mine'\n    title = 'Mine'\n    paper = 'none'\n    data_kind = 'preference'\n"
    )
    own: type[Method] = find(str(tmp_path / "own.py"))
    assert about(own).headline == "Mine."
    assert "No options of its own." in method_page(own, {})
