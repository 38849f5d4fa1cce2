"""Which checkpoints go, that nothing else does, and that a kill on the way leaves every checkpoint whole or gone."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from plaudit.errors import RunError
from plaudit.runs import jsonl
from plaudit.runs.checkpoints import complete, step_of
from plaudit.runs.interface import prune_runs
from plaudit.runs.ledger import verify_ledger
from plaudit.runs.pruning import Rule, plan_pruning, prune
from plaudit.runs.rundir import RunDir

DAY = 86400.0


def make(path: Path, steps: list[int], *, best: int | None = None, grid: list[int] | None = None) -> Path:
    """A run with checkpoints of 100 bytes and a model."""
    with RunDir.open(path, "resume", {"method": {"name": "dpo"}}) as run:
        for step in steps:
            folder = run.checkpoints / f"step-{step:08d}"
            folder.mkdir()
            text = jsonl.dumps({"step": step, "best_step": best})
            (folder / "progress.json").write_text(text)
            (folder / "weights.safetensors").write_bytes(b"w" * (100 - len(text)))
        for name in ("model", "best", "kl-2"):
            (path / name).mkdir()
            (path / name / "weights").write_bytes(b"m" * 7)
        if grid is not None:
            (path / "kl_grid.json").write_text(jsonl.dumps([{"step": s, "kl": 2.0, "path": "kl-2"} for s in grid]))
        run.log_event("interrupted", signal=15, step=steps[-1] if steps else 0)
    return path


def steps_of(path: Path) -> list[int]:
    return [step_of(p) for p in complete(path / "checkpoints")]


def everything(path: Path) -> dict[str, Any]:
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file() and f.name != ".lock"}


@pytest.mark.parametrize(
    ("rule", "best", "grid", "left"),
    [
        ({}, None, None, [50]),
        ({"keep": 3}, None, None, [30, 40, 50]),
        ({}, 20, None, [20, 50]),
        ({"keep": 2}, 0, [10], [10, 40, 50]),
        ({"keep": 9}, None, None, [10, 20, 30, 40, 50]),
    ],
)
def test_what_stays(tmp_path: Path, rule: dict[str, Any], best: int | None, grid: list[int] | None, left: list[int]):
    path = make(tmp_path / "r", [10, 20, 30, 40, 50], best=best, grid=grid)
    (path / "checkpoints" / "before-the-change").mkdir()
    before = everything(path)
    plan = plan_pruning(path, Rule(**rule))
    assert everything(path) == before
    gone = [s for s in (10, 20, 30, 40, 50) if s not in left]
    assert [c.step for c in plan.going] == gone
    assert [c.step for c, _ in plan.staying] == left
    assert plan.bytes == 100 * len(gone)
    assert prune(path, Rule(**rule)).bytes == plan.bytes
    assert steps_of(path) == left
    assert (path / "checkpoints" / "before-the-change").is_dir()
    kept = {name for name in before if not name.startswith(tuple(f"checkpoints/step-{s:08d}" for s in gone))}
    assert kept == set(everything(path))
    assert {n: everything(path)[n] for n in kept - {"ledger.jsonl"}} == {n: before[n] for n in kept - {"ledger.jsonl"}}
    checked = verify_ledger(path / "ledger.jsonl")
    assert checked.ok
    pruned = [e for e in checked.events if e["event"] == "pruned"]
    assert [(e["steps"], e["bytes"]) for e in pruned] == ([(gone, plan.bytes)] if gone else [])


def test_only_what_is_old_enough_goes(tmp_path: Path) -> None:
    path = make(tmp_path / "r", [10, 20, 30])
    old = time.time() - 8 * DAY
    os.utime(path / "checkpoints" / "step-00000010", (old, old))
    os.utime(path / "checkpoints" / "step-00000030", (old, old))
    plan = prune(path, Rule(older_than=7 * DAY))
    assert [c.step for c in plan.going] == [10]
    assert [(c.step, reason) for c, reason in plan.staying] == [
        (20, "not old enough"),
        (30, "the last one: the run goes on from it"),
    ]


def test_a_running_run_is_left_alone(tmp_path: Path) -> None:
    path = make(tmp_path / "runs" / "r", [10, 20])
    other = make(tmp_path / "runs" / "other", [10, 20])
    with RunDir.open(path, "resume", {"method": {"name": "dpo"}}):
        for dry_run in (True, False):
            with pytest.raises(RunError, match="PL503"):
                prune_runs([path], dry_run=dry_run)
        found = prune_runs([tmp_path / "runs"], dry_run=False)
        assert [bool(p.skipped) for p in found] == [False, True]
    assert (steps_of(path), steps_of(other)) == ([10, 20], [20])


def test_no_run_can_start_while_checkpoints_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from plaudit.runs import checkpoints

    path = make(tmp_path / "r", [10, 20])
    refused = []

    def delete(folder: Path) -> None:
        with pytest.raises(RunError, match="PL503"):
            RunDir.open(path, "resume", {"method": {"name": "dpo"}})
        refused.append(folder.name)

    monkeypatch.setattr(checkpoints, "delete", delete)
    prune(path, Rule())
    assert refused == ["step-00000010"]
    RunDir.open(path, "resume", {"method": {"name": "dpo"}}).close()


@pytest.mark.parametrize("file", ["checkpoints/step-00000020/progress.json", "kl_grid.json"])
def test_what_cannot_be_read_stops_it_before_anything_goes(tmp_path: Path, file: str) -> None:
    path = make(tmp_path / "r", [10, 20], grid=[10])
    (path / file).write_text("{")
    with pytest.raises(RunError, match="PL504"):
        prune(path, Rule())
    assert steps_of(path) == [10, 20]
    (found,) = prune_runs([tmp_path], dry_run=False)  # of many runs, the others are not held up
    assert found.path == path
    assert found.skipped


def test_a_folder_without_runs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"PL501.*holds no run"):
        prune_runs([tmp_path])
    with pytest.raises(RunError, match="PL501"):
        prune_runs([tmp_path / "gone"])


_OPERATIONS = {"os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}


def test_killed_before_each_file_operation(tmp_path: Path) -> None:
    """One operation later each time, until it comes through: a folder with a checkpoint's name is whole, the last one
    is there, and the next call removes what is left."""
    whole = {"progress.json", "weights.safetensors"}
    for number in range(1, 60):
        path = make(tmp_path / str(number), [10, 20, 30])
        child = os.fork()
        if child == 0:
            seen = 0

            def die(event: str, _: tuple[Any, ...]) -> None:
                nonlocal seen
                if event in _OPERATIONS:
                    seen += 1
                    if seen == number:  # noqa: B023  # it is called in this round only
                        os.kill(os.getpid(), 9)

            sys.addaudithook(die)
            prune(path, Rule())
            os._exit(0)
        _, status = os.waitpid(child, 0)
        for folder in complete(path / "checkpoints"):
            assert {f.name for f in folder.iterdir()} == whole
        assert 30 in steps_of(path)
        if not os.WIFSIGNALED(status):
            break
        prune(path, Rule())
        assert [p.name for p in (path / "checkpoints").iterdir()] == ["step-00000030"]
        assert verify_ledger(path / "ledger.jsonl").ok
    assert number > 6
