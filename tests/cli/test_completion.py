"""Completion in shells: what is offered, and that bash asks for it."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from plaudit.cli import app
from plaudit.cli.candidates import ARGUMENTS, VALUES, candidates
from plaudit.cli.completion import SCRIPTS
from plaudit.config.docs import method_keys
from plaudit.config.flags import flag_names
from plaudit.config.keys import all_keys
from plaudit.methods import available
from plaudit.rewards.registry import KINDS
from tests.conftest import Ended

PROGRAM: Any = typer.main.get_command(app)


def offered(line: str) -> list[str]:
    """Behind `plaudit `; a line that ends with a space begins a new word."""
    return [text for text, _ in candidates(PROGRAM, line.split(" "))]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("ini", ["init"]),
        ("--v", ["--version"]),
        ("runs p", ["prune"]),
        ("runs list --rev", ["--reverse"]),
        ("dpo --schedule ", ["linear", "cosine", "constant"]),
        ("dpo --train.schedule c", ["cosine", "constant"]),
        ("dpo --schedule=c", ["--schedule=cosine", "--schedule=constant"]),
        ("dpo train.schedule=l", ["train.schedule=linear"]),
        ("dpo c.yaml train.sched", ["train.schedule="]),
        ("grpo --dynamic-s", ["--dynamic-sampling"]),
        ("dpo gradient_checkpointing=", []),  # a key has its section
        (
            "dpo model.gradient_checkpointing=",
            ["model.gradient_checkpointing=true", "model.gradient_checkpointing=false"],
        ),
        ("dpo --tokens-per-microbatch ", ["auto"]),
        ("train --method kt", ["kto"]),
        ("train --method kto --desirable", ["--desirable-weight"]),
        ("train --method=kto --desirable", ["--desirable-weight"]),
        ("dpo --desirable", []),
        ("grpo --reward m", ["math", "model"]),
        ("reward --loss ", list(all_keys(available()["reward"].Config)["method.loss"].annotation.__args__)),
        ("score a.jsonl --reward m", ["math", "model"]),
        ("methods orp", ["orpo"]),
        ("methods orpo ", []),
        ("config show ipo --tau", ["--tau"]),
        ("rewards show cod", ["code"]),
        ("convert a b --to fe", ["feedback"]),
        ("completion ", ["bash", "zsh", "fish"]),
        ("dpo --lr", ["--lr", "--lr-scheduler-type"]),
        ("dpo ", []),  # a file
        ("dpo --data ", []),
        ("inspect --long", ["--longest", "--longer"]),
        ("nonsense --x", []),
    ],
)
def test_what_is_offered(line: str, found: list[str]) -> None:
    assert offered(line) == found


def test_every_method_and_every_option_is_offered() -> None:
    assert set(available()) <= set(offered(""))
    for name, method in available().items():
        assert {"--help", "--gpus", "--detach"} <= set(offered(f"{name} --"))
        keys, flags = all_keys(method.Config), set(offered(f"{name} --"))
        assert {flag_names(key, keys)[0] for key in method_keys(method)} <= flags
    meanings = dict(candidates(PROGRAM, ["dpo", "--beta"]))
    assert meanings["--beta"].startswith("Strength of the KL constraint")


def test_the_tables_name_what_there_is() -> None:
    options = {name for _, command in _commands(PROGRAM, "") for option in command.params for name in option.opts}
    assert set(VALUES) <= options
    assert set(ARGUMENTS) <= {name for name, _ in _commands(PROGRAM, "")}
    assert list(VALUES["--reward"]()) == list(KINDS)


def _commands(group: Any, path: str) -> list[tuple[str, Any]]:
    found = []
    for name, command in group.commands.items():
        found.append((f"{path} {name}".strip(), command))
        found += _commands(command, f"{path} {name}".strip()) if hasattr(command, "commands") else []
    return found


def test_bash_asks_and_takes_the_answer(tmp_path: Path) -> None:
    """A real bash: its completion is called as it would call it, also behind a = that begins a new word for it."""
    program = tmp_path / "plaudit"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m plaudit "$@"\n')
    program.chmod(0o755)
    ask = 'COMP_LINE="plaudit $1"; COMP_POINT=${#COMP_LINE}; _plaudit; printf "%s|" "${COMPREPLY[@]}"; echo'
    script = f"{SCRIPTS['bash']}complete -p plaudit; ask() {{ {ask}; }}\n"
    script += 'ask "dpo train.optimizer=ad"; ask "dpo pairs.js"'
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(["bash", "-c", script], env=path | _python_path(), capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "complete -o bashdefault -o default -F _plaudit plaudit",
        "adamw|adamw_8bit|",
        "|",
    ]


_TYPED = {
    "plaudit dpo --warmup-f": "plaudit dpo --warmup-fraction ",
    "plaudit dpo --schedule=l": "plaudit dpo --schedule=linear ",
    "plaudit dpo model.grad": "plaudit dpo model.gradient_checkpointing=",  # and no space: the value comes next
    "plaudit comple": "plaudit completion ",
    "plaudit dpo pai": "plaudit dpo pairs.jsonl ",
    "plaudit dpo --data=pai": "plaudit dpo --data=pairs.jsonl ",
    "plaudit dpo ~/pai": "plaudit dpo ~/pairs.jsonl ",
}
"""What is typed → what the line is behind Tab."""


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_completes_behind_tab(tmp_path: Path, warm_plaudit: Path) -> None:
    """A real zsh on a terminal; Ctrl-T is Tab, and then the line between marks."""
    (tmp_path / "pairs.jsonl").touch()
    ours, theirs = pty.openpty()
    environment = {"PATH": f"{warm_plaudit.parent}:/usr/bin:/bin", "HOME": str(tmp_path), "TERM": "dumb"}
    shell = subprocess.Popen(
        ["zsh", "-f", "-i"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=tmp_path,
        env=environment | {"LC_ALL": "C.UTF-8"},
        start_new_session=True,
    )
    setup = (
        "PS1=; unsetopt prompt_sp zle_bracketed_paste 2>/dev/null; autoload -Uz compinit; compinit -u -D; "
        'eval "$(plaudit completion zsh)"; '
        'probe() { zle complete-word; print -r -- "<<${BUFFER}>>"; BUFFER= }; zle -N probe; bindkey "^T" probe; '
        'print "rea""dy"\n'
    )
    try:
        os.write(ours, setup.encode())
        _read_to(ours, "ready")
        for typed, line in _TYPED.items():
            os.write(ours, f"{typed}\x14".encode())
            assert re.findall(r"<<(.*)>>", _read_to(ours, ">>")) == [line]
    finally:
        shell.kill()
        shell.wait()
        os.close(ours)
        os.close(theirs)


def _read_to(terminal: int, mark: str) -> str:
    """What the terminal shows until the mark."""
    shown = ""
    while mark not in shown:
        assert select.select([terminal], [], [], 60)[0], f"nothing more behind {shown!r}"
        shown += os.read(terminal, 65536).decode(errors="replace")
    return shown


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
def test_fish_completes(tmp_path: Path, warm_plaudit: Path) -> None:
    (tmp_path / "pairs.jsonl").touch()
    asked = "".join(f"complete -C '{typed}'; echo END\n" for typed in _TYPED)
    environment = {"PATH": f"{warm_plaudit.parent}:/usr/bin:/bin", "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"plaudit completion fish | source\n{asked}"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    offered = [part.strip().partition("\t")[0] for part in done.stdout.split("END\n")[:-1]]
    assert offered == [line.split()[-1] for line in _TYPED.values()]


def _python_path() -> dict[str, str]:
    return {"PYTHONPATH": ":".join(path for path in sys.path if path)}


def test_what_each_shell_is_told(call_plaudit: Callable[..., Ended]) -> None:
    for shell, script in SCRIPTS.items():
        assert call_plaudit("completion", shell).out == script
    line = ("--", "dpo", "--bet")
    assert call_plaudit("completion", "fish", *line).out.startswith("--beta\tStrength of")
    assert call_plaudit("completion", "zsh", *line).out.startswith("--beta:Strength of")
    assert call_plaudit("completion", "bash", *line).out.splitlines()[0] == "--beta"
    done = call_plaudit("completion", "tcsh")
    assert (done.status, "[PL102] there is no completion for 'tcsh'" in done.err) == (2, True)


def test_it_imports_nothing_heavy_and_no_other_method() -> None:
    code = (
        "import sys; sys.argv = ['plaudit', 'completion', 'bash', '--', 'dpo', '--optimizer', '']\n"
        "from plaudit.cli import main\ntry:\n    main()\nfinally:\n"
        "    print(*{'torch', 'transformers', 'datasets', 'plaudit.methods.kto'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["adamw", "adamw_8bit", "paged_adamw_8bit", ""]
