"""Rollouts as plain values: nothing is lost on the way into a checkpoint or a file and back."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from plaudit.data.turns import parse_turns
from plaudit.errors import ConfigError, DataError
from plaudit.online.files import Replay, RolloutFile
from plaudit.online.records import Rollout, columns_of, columns_state, rollout_of, rollout_state
from plaudit.rewards.contract import RewardResult
from plaudit.rewards.scoring import ScoredGroup
from plaudit.types import Completion, PromptGroup, Source


def completion(seed: int, *, greedy: bool = False) -> Completion:
    rng = np.random.default_rng(seed)
    n = 3 + seed % 4
    logprobs = None if greedy else rng.normal(-2, 1, n).astype(np.float32)
    return Completion(
        rng.integers(0, 90, n).astype(np.int32),
        np.ones(n, dtype=bool),
        sampling_logprobs=logprobs,
        full_logprobs=None if logprobs is None else logprobs - np.float32(1e-3),
        finish_reason=("stop", "length")[seed % 2],
        weight_version=7,
        reward=None if greedy else 0.1 * seed,
        text=f"text {seed} ÄÖ\n",
    )


def rollout(number: int = 4) -> Rollout:
    chat = parse_turns([{"role": "user", "content": "Hello\u2028there"}])
    groups = [
        PromptGroup(np.arange(5, dtype=np.int32), [completion(1), completion(2)], prompt="p", extras={"answer": "3"}),
        PromptGroup(np.arange(2, dtype=np.int32), [completion(3, greedy=True)], source=Source("f", 9), prompt=chat),
    ]
    good = [
        RewardResult.of(0.1, parts={"math": 1.0, "length": -0.9}, note="read 3", seconds=0.25),
        RewardResult.of(0.2).tried(3),
    ]
    return Rollout(number, groups, [ScoredGroup(good), ScoredGroup([RewardResult.failed("timeout", "10 s")])], 1.5)


def same(a: Rollout, b: Rollout) -> bool:
    """Bit for bit: what is sampled and scored (the prompts are given)."""
    return repr(rollout_state(a)) == repr(rollout_state(b)) and a.scored == b.scored


def test_a_checkpoint_brings_everything_back() -> None:
    before = rollout()
    file = io.BytesIO()
    torch.save(rollout_state(before), file)
    file.seek(0)
    prompts = [replace(g, completions=[]) for g in before.groups]
    after = rollout_of(torch.load(file, weights_only=True), prompts)
    assert same(before, after)
    assert after.usable() == [0]
    assert after.groups[0].extras == {"answer": "3"}


def test_greedy_answers_and_rewards_of_steps_come_back(tmp_path: Path) -> None:
    before = rollout()
    before.groups = before.groups[:1]
    before.groups[0].greedy = completion(5, greedy=True)
    before.groups[0].completions[0].step_rewards = ((0, 0.5), (2, -1.0))
    stepped = RewardResult.of(0.1, steps=[(2, 0.5), (7, -1.0)])
    before.scored = [ScoredGroup([stepped, RewardResult.of(0.2)], RewardResult.of(0.9))]
    file = io.BytesIO()
    torch.save(rollout_state(before), file)
    file.seek(0)
    after = rollout_of(torch.load(file, weights_only=True), [replace(g, completions=[]) for g in before.groups])
    assert same(before, after)
    assert after.groups[0].completions[0].step_rewards == ((0, 0.5), (2, -1.0))
    assert after.groups[0].greedy is not None
    written = RolloutFile(tmp_path / "rollouts.jsonl", "runs/a", 0)
    written.write(before)
    written.close()
    replay = Replay(tmp_path / "rollouts.jsonl")
    found = replay.rollouts[4]
    assert found.scored[0].greedy is not None
    assert (found.scored[0].greedy.value, found.scored[0].results[0].steps) == (0.9, ((2, 0.5), (7, -1.0)))
    assert found.groups[0].greedy is not None
    assert found.groups[0].greedy.text == completion(5).text
    replay.check_greedy()
    found.groups[0].greedy = None
    with pytest.raises(DataError, match="no greedy answers"):
        replay.check_greedy()


def test_columns_come_back() -> None:
    columns = {"old": [[np.float32([1, 2]), np.float32([])], [np.float32([3.5])]]}
    back = columns_of(columns_state(columns))
    assert [[v.tolist() for v in row] for row in back["old"]] == [[[1, 2], []], [[3.5]]]


def test_a_file_can_be_trained_on_again(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "rollouts.jsonl"
    written = RolloutFile(path, "runs/a", 0)
    for number in (0, 1):
        written.write(rollout(number))
    written.close()
    replay = Replay(path)
    assert sorted(replay.rollouts) == [0, 1]
    group, failed = replay.rollouts[1].groups[0], replay.rollouts[1].scored[1]
    original = rollout().groups[0]
    assert group.prompt_ids.tolist() == original.prompt_ids.tolist()
    assert group.extras == {"answer": "3"}
    for a, b in zip(group.completions, original.completions, strict=True):
        assert np.array_equal(a.token_ids, b.token_ids)
        assert np.array_equal(a.sampling_logprobs, b.sampling_logprobs)  # type: ignore[arg-type]  # float32 exactly
        assert np.array_equal(a.full_logprobs, b.full_logprobs)  # type: ignore[arg-type]
        assert (a.text, a.finish_reason) == (b.text, b.finish_reason)
    assert [r.value for r in replay.rollouts[0].scored[0].results] == [0.1, 0.2]
    assert dict(replay.rollouts[0].scored[0].results[0].parts) == {"math": 1.0, "length": -0.9}
    assert failed.results[0].error is not None
    assert replay.rollouts[0].groups[1].prompt[0].content == "Hello\u2028there"


def first_whole(path: Path, folder: Path) -> Path:
    """A copy without the line that was not finished."""
    copy = folder / "whole.jsonl"
    copy.write_text(path.read_text(encoding="utf-8").rpartition("\n")[0], encoding="utf-8")
    return copy


def test_a_resumed_run_rewrites_what_it_does_again(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    first = RolloutFile(path, "runs/a", 0)
    for number in (0, 1, 2):
        first.write(rollout(number))
    first.close()
    with path.open("a", encoding="utf-8") as file:
        file.write('{"rollout": 3, "half')  # a process that was killed
    assert Replay(first_whole(path, tmp_path)).sampled == {}
    sizes = {"prompts_per_batch": 2, "completions_per_prompt": 2, "max_new_tokens": 9}
    again = RolloutFile(path, "runs/a", 2, sizes)  # the file of an older version is this run's too
    again.write(rollout(2))
    again.close()
    assert Replay(path).sampled == sizes
    RolloutFile(path, "runs/a", 3, sizes).close()
    numbers = [json.loads(line).get("rollout") for line in path.read_text(encoding="utf-8").strip().split("\n")]
    assert numbers == [None, 0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("content", ['{"rollouts_of": "runs/b"}\n', '{"anything": 1}\n', "notes\n"])
def test_a_file_of_somebody_else_is_not_touched(tmp_path: Path, content: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"PL102(.|\n)*not this run's"):
        RolloutFile(path, "runs/a", 0)
    assert path.read_text(encoding="utf-8") == content


def masked(tmp_path: Path, **changes: object) -> Path:
    """A file with an answer whose second token is an observation."""
    made = rollout(0)
    made.groups[0].completions[0].action_mask[1] = False
    path = tmp_path / "r.jsonl"
    written = RolloutFile(path, "runs/a", 0)
    written.write(made)
    written.close()
    head, first, *rest = path.read_text(encoding="utf-8").split("\n")
    row = json.loads(first)
    row["completions"][0] |= changes
    path.write_text("\n".join([head, json.dumps(row), *rest]), encoding="utf-8")
    return path


def test_tokens_that_nobody_sampled_stay_untrained(tmp_path: Path) -> None:
    found = Replay(masked(tmp_path)).rollouts[0]
    masks = [c.action_mask.tolist() for g in found.groups for c in g.completions]
    assert masks[0] == [True, False, True, True]
    assert all(all(mask) for mask in masks[1:])
    rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text(encoding="utf-8").strip().split("\n")][1:]
    assert ["action_mask" in c for row in rows for c in row["completions"]] == [True, False, False]


@pytest.mark.parametrize("mask", [[1, 0, 1], [1, 0, 1, 2], [1, 0, 1, None], "1011", None, 3])
def test_a_mask_that_is_none_is_named(tmp_path: Path, mask: object) -> None:
    with pytest.raises(DataError, match=r"PL204(.|\n)*r\.jsonl:2"):
        Replay(masked(tmp_path, action_mask=mask))


@pytest.mark.parametrize(
    "line", ["{", "[]", "{}", '{"rollout": 0, "prompt": "p", "prompt_ids": [1], "completions": []}', '{"rollout": "x"}']
)
def test_a_line_that_is_no_rollout_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"rollouts_of": "a"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"PL204(.|\n)*r\.jsonl:2"):
        Replay(path)


def test_files_that_are_missing_empty_or_too_short(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="PL201"):
        Replay(tmp_path / "none.jsonl")
    path = tmp_path / "r.jsonl"
    RolloutFile(path, "a", 0).close()
    with pytest.raises(DataError, match="PL207"):
        Replay(path)
    written = RolloutFile(path, "a", 0)
    written.write(rollout(0))
    written.close()
    Replay(path).check(1, 4)
    with pytest.raises(DataError, match=r"no batch 1(.|\n)*train\.max_steps=4 "):
        Replay(path).check(3, 4)
