"""Imports go one way: types ← data ← forest ← models ← methods ← train ← engines ← recipes ← cli."""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import plaudit

SOURCES = Path(plaudit.__file__).parent
RANKS = {
    "errors": 0,
    "types": 1,
    "config": 2,
    "runs": 2,
    "data": 3,
    "forest": 4,
    "methods.base": 5,  # the contract: roles and statistics are words that models use too
    "models": 6,
    "methods": 7,
    "config.online_checks": 8,  # as the next one
    "config.watch_checks": 8,  # as the next one
    "config.report": 8,  # resolving a configuration needs the method's own options
    "config.load": 8,
    "config.starts": 3,  # reads the directories of earlier runs
    "config.changed": 8,
    "config.docs": 8,
    "config.json_schema": 8,
    "config.method_pages": 8,
    "train.interrupt": 0,
    "train": 9,
    "engines": 10,
    "rewards": 10,
    "rewards.judges": 12,  # a local judge is a model that is sampled from
    "evaluation": 11,
    "evaluation.frontier": 12,  # samples, and scores as a run does
    "online": 11,
    "inference": 11,
    "inference.locate": 9,
    "starter": 11,  # looks at data and model as train does, and names rewards
    "migration": 11,  # reads configurations, and resolves them with the rewards that they name
    "inspection": 10,  # looks at what train makes of data
    "preflight": 12,  # prepares a run as training does
    "serving": 12,
    "recipes": 12,
    "api": 13,
    "cli": 14,
    "__main__": 15,
}
"""Folder or module → rank; the longest matching name counts. A module imports what ranks lower, and its own folder."""
FILES = sorted(f for f in SOURCES.rglob("*.py") if f != SOURCES / "__init__.py")


def module_name(file: Path) -> str:
    parts = file.relative_to(SOURCES).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def rank(module: str) -> int:
    names = [name for name in RANKS if module == name or module.startswith(name + ".")]
    assert names, f"plaudit.{module} has no rank: add its folder to RANKS"
    return RANKS[max(names, key=len)]


def only_for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(body: list[ast.stmt]) -> Iterator[str]:
    """Modules of the package that are imported when the code runs, inside functions too."""
    for statement in body:
        if only_for_types(statement):
            continue
        for node in [statement] if isinstance(statement, (ast.Import, ast.ImportFrom)) else ast.walk(statement):
            if isinstance(node, ast.Import):
                yield from (a.name.removeprefix("plaudit.") for a in node.names if a.name.startswith("plaudit."))
            elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("plaudit."):
                base = node.module.removeprefix("plaudit.")
                inside = [f"{base}.{a.name}" for a in node.names]
                yield from (name if exists(name) else base for name in inside)
            elif isinstance(node, ast.ImportFrom) and node.module == "plaudit":
                yield from (a.name for a in node.names if exists(a.name))


def exists(module: str) -> bool:
    path = SOURCES.joinpath(*module.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_imports_go_one_way(file: Path) -> None:
    own = module_name(file)
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for other in imports(tree.body):
        same_folder = own.partition(".")[0] == other.partition(".")[0]
        assert same_folder or rank(other) < rank(own), f"plaudit.{own} imports plaudit.{other}"


def test_no_method_imports_another() -> None:
    for file in (SOURCES / "methods").glob("*.py"):
        if file.stem in ("__init__", "base"):
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        others = {name for name in imports(tree.body) if name.startswith("methods.")}
        methods = {
            f"methods.{f.stem}" for f in file.parent.glob("*.py") if "(Method):" in f.read_text(encoding="utf-8")
        }
        assert not others & methods, file.name


HEAVY = "{'torch', 'transformers', 'datasets', 'peft', 'pandas', 'pyarrow', 'numpy'} & set(sys.modules)"


@pytest.mark.parametrize("code", ["import plaudit", "import plaudit.cli", "import plaudit.api"])
def test_import_is_light(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint({HEAVY})"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    "module", ["plaudit.config.load", "plaudit.methods", "plaudit.runs.report", "plaudit.config.docs"]
)
def test_light_commands_need_no_torch(module: str) -> None:
    code = f"import sys, {module}\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def processor_seconds() -> float:
    """Processor time of finished subprocesses: other work on the machine does not count."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_is_instant() -> None:
    code = "import sys; sys.argv = ['plaudit', '--help']; from plaudit.cli import main; main()"
    seconds = []
    for _ in range(5):
        start = processor_seconds()
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        seconds.append(processor_seconds() - start)
    assert min(seconds) < 0.3


@pytest.mark.parametrize("first", ["", "import plaudit.train.interrupt\n", "from plaudit.train import interrupt\n"])
def test_train_is_a_function_before_and_after_its_package_is_imported(first: str) -> None:
    code = (
        f"import plaudit\n{first}"
        "from plaudit.errors import ConfigError\n"
        "try:\n    plaudit.train('dpo', learning_rat=1)\n"
        "except ConfigError as error:\n    print(error.code, 'learning_rate' in str(error))\n"
        "from plaudit.train import interrupt\nimport plaudit.train.interrupt as same\nassert same is interrupt\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["PL100", "True"]


def test_every_folder_is_a_package() -> None:
    """A folder without __init__.py works from the source tree and is missing from the wheel."""
    folders = {path.parent for path in SOURCES.rglob("*.py")}
    assert folders == {path.parent for path in SOURCES.rglob("__init__.py")}
