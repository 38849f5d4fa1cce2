"""`plaudit runs` and `plaudit watch` as a user gives them, on runs that are made without a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plaudit.cli.runs_view import seconds_of
from plaudit.errors import ConfigError
from plaudit.runs.metrics import format_bytes
from plaudit.runs.rundir import RunDir
from tests.conftest import Ended


@pytest.fixture
def plaudit(
    call_plaudit: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Ended]:
    """`call_plaudit` in a temporary directory."""
    monkeypatch.chdir(tmp_path)
    return call_plaudit


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with one run of each kind of end."""
    folder = tmp_path / "runs"
    for number, (name, end) in enumerate(
        {
            "done": ("completed", {}),
            "halted": ("stopped", {"code": "kl_jump", "step": 9}),
            "broken": ("failed", {"code": "PL402", "what": "loss not finite"}),
            "stopped": ("interrupted", {"signal": 15, "step": 9}),
        }.items()
    ):
        config = {"method": {"name": "dpo", "beta": 0.1 + number}, "model": {"path": "tiny"}}
        with RunDir.open(folder / name, "resume", config) as run:
            for step in range(1, 10):
                run.log_metrics(step, {"loss": 1 / (step + number), "rewards/margins": step / 10 + number})
                (run.checkpoints / f"step-{step:08d}").mkdir()
                (run.checkpoints / f"step-{step:08d}" / "progress.json").write_text('{"best_step": 4}')
            if end[0] == "completed":
                run.mark_complete({"steps": 9})
            else:
                run.log_event(end[0], **end[1])
    return folder


def test_the_list_has_every_run_with_its_end(plaudit: Any, runs: Path) -> None:
    shown = plaudit("runs", "list").out
    rows = {line.split()[0]: line.split() for line in shown.splitlines() if line.startswith("runs/")}
    assert rows["runs/done"][1:7] == ["dpo", "tiny", "finished", "9/9", "0.1111", "margin"]
    assert rows["runs/halted"][3] == "stopped"
    assert "runs/halted: stopped, by kl_jump at step 9 (watch.stop)" in shown
    assert "runs/broken: failed, [PL402] loss not finite" in shown
    assert "runs/done:" not in shown
    named = plaudit("runs", "list", runs).out
    assert {"done", "halted", "broken", "stopped"} <= {line.split()[0] for line in named.splitlines() if line}
    assert "there are no runs in" in plaudit("runs", "list", runs / "done" / "checkpoints").out


def test_the_list_can_be_sorted_and_read_by_programs(plaudit: Any, runs: Path) -> None:
    def order(*options: str) -> list[str]:
        return [run["name"] for run in json.loads(plaudit("runs", "list", runs, "--json", *options).out)]

    assert order("--sort", "loss") == ["stopped", "broken", "halted", "done"]
    assert order("--sort", "loss", "--reverse") == ["done", "halted", "broken", "stopped"]
    assert order("--sort", "metric") == ["stopped", "broken", "halted", "done"]
    assert order("--sort", "name") == ["broken", "done", "halted", "stopped"]
    wrong = plaudit("runs", "list", runs, "--sort", "colour")
    assert (wrong.status, "[PL102] there is no column 'colour'" in wrong.err) == (2, True)
    first = json.loads(plaudit("runs", "list", runs, "--json", "--sort", "name").out)[0]
    assert (first["state"], first["exit_status"], first["step"]) == ("failed", 2, 9)


def test_a_narrow_terminal_gets_whole_numbers(plaudit: Any, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    from plaudit.cli import runs_view

    monkeypatch.setattr(runs_view, "_console", lambda: Console(highlight=False, width=80))
    rows = [line for line in plaudit("runs", "list", runs).out.splitlines() if " dpo " in line]
    assert len(rows) == 4
    assert all("9/9" in row or " 9 " in row for row in rows)
    assert all(len(row) <= 80 for row in rows)


def test_one_run_on_a_page(plaudit: Any, runs: Path) -> None:
    shown = plaudit("runs", "show", "runs/halted").out
    for part in (
        "halted  dpo on tiny",
        "stopped, by kl_jump at step 9 (watch.stop)",
        "method.beta",
        "default 0.1",
        "rewards/margins",
        "best evaluation",
        "how to go on",
    ):
        assert part in shown
    found = json.loads(plaudit("runs", "show", "runs/halted", "--json").out)
    assert found["changed"]["method.beta"] == 1.1
    assert [c["step"] for c in found["checkpoints"]] == list(range(1, 10))


def test_runs_side_by_side(plaudit: Any, runs: Path) -> None:
    done = plaudit("runs", "compare", "runs/done", "runs/halted", "--html", "page.html")
    assert done.status == 0
    lines = [line.split() for line in done.out.splitlines()]
    assert ["method.beta", "0.1", "1.1"] in lines
    assert ["loss", "0.1111", "0.1", "*", "lower"] in lines
    assert ["rewards/margins", "0.9", "1.9", "*", "higher"] in lines
    assert done.out.splitlines()[-1].endswith("page.html")
    assert Path("page.html").read_text().count("<figure") == 2
    found = json.loads(plaudit("runs", "compare", "runs/done", "runs/halted", "--json").out)
    assert found["config"] == {"method.beta": {"done": "0.1", "halted": "1.1"}}
    assert plaudit("runs", "compare", "runs/done").status == 2


def test_pruning_changes_nothing_without_yes(plaudit: Any, runs: Path) -> None:
    def left() -> set[str]:
        return {p.name for p in (runs / "done" / "checkpoints").iterdir()}

    before = left()
    shown = plaudit("runs", "prune", "runs/done", "--keep", "2").out
    assert left() == before
    assert shown.count("  goes ") == 6
    assert "step-00000004: the best evaluation" in shown
    assert "6 folders, 96 B would go; nothing is changed yet: --yes deletes" in shown
    shown = plaudit("runs", "prune", "runs/done", "--keep", "2", "--older-than", "1h", "--yes").out
    assert "nothing to delete" in shown
    shown = plaudit("runs", "prune", "runs/done", "--keep", "2", "--yes").out
    assert left() == {"step-00000004", "step-00000008", "step-00000009"}
    assert "deleted 6 folders, 96 B" in shown
    found = json.loads(plaudit("runs", "prune", runs, "--json").out)
    assert (found["deleted"], len(found["runs"]), found["bytes"]) == (False, 4, 16 + 3 * 7 * 16)


def test_a_running_run_is_neither_pruned_nor_called_dead(plaudit: Any, runs: Path) -> None:
    config = {"method": {"name": "dpo", "beta": 3.1}, "model": {"path": "tiny"}}
    with RunDir.open(runs / "stopped", "resume", config):
        refused = plaudit("runs", "prune", "runs/stopped", "--yes")
        assert (refused.status, "[PL503]" in refused.err, "plaudit runs stop" in refused.err) == (2, True, True)
        assert "left alone: " in plaudit("runs", "prune", "runs", "--yes").out
        assert len(list((runs / "stopped" / "checkpoints").iterdir())) == 9
        assert "running" in plaudit("runs", "list", "runs").out


@pytest.mark.parametrize(("name", "status"), [("done", 0), ("halted", 3), ("broken", 2), ("stopped", 143)])
def test_watching_a_run_that_has_ended_gives_its_exit_status(plaudit: Any, runs: Path, name: str, status: int) -> None:
    done = plaudit("watch", f"runs/{name}")
    assert done.status == status
    assert done.out.count("\nstep=") + done.out.startswith("step=") == 9
    assert plaudit("watch", f"runs/{name}", "--stop").status == (0 if name in ("done", "stopped", "halted") else status)


def test_stopping_a_run_that_is_not_running_is_no_error(plaudit: Any, runs: Path) -> None:
    done = plaudit("runs", "stop", "runs/done")
    assert (done.status, done.out) == (0, "finished\n")
    stopped = plaudit("runs", "stop", "runs/stopped")
    assert (stopped.status, stopped.out.startswith("stopped: by SIGTERM after step 9")) == (0, True)


@pytest.mark.parametrize("command", ["show", "stop", "prune"])
def test_a_folder_without_a_run(plaudit: Any, tmp_path: Path, command: str) -> None:
    done = plaudit("runs", command, tmp_path)
    assert (done.status, "[PL501] the directory holds no run" in done.err) == (2, True)


@pytest.mark.parametrize(
    ("age", "seconds"), [("30m", 1800), ("12h", 43200), ("7d", 604800), ("1.5w", 907200), ("2 d", 172800)]
)
def test_ages(age: str, seconds: float) -> None:
    assert seconds_of(age) == seconds


@pytest.mark.parametrize("age", ["", "7", "d", "7y", "-1d"])
def test_no_ages(age: str) -> None:
    with pytest.raises(ConfigError, match="PL102"):
        seconds_of(age)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (123456, "123 kB"), (5_300_000_000, "5.3 GB"), (2e12, "2 TB")],
)
def test_sizes(count: int, text: str) -> None:
    assert format_bytes(count) == text
