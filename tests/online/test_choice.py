"""Methods that choose among the sampled answers, in the loop: minibatches, counts, the reference, resume."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from plaudit.errors import ConfigError
from plaudit.online.source import RolloutSource
from tests.online.conftest import Run, metrics_of
from tests.train import runs
from tests.train.runs import Job, Kill

TWO_STEPS = {"rollout__prompts_per_batch": 4, "train__groups_per_step": 2, "log__every": 1}
"""Three rollout batches of four prompts, two steps on each."""


@pytest.mark.parametrize("lora", [None, {"r": 4}], ids=["full", "lora"])
@pytest.mark.parametrize(("every", "fresh"), [(None, {1}), (1, {1, 3, 5}), (2, {1, 5})])
def test_every_round_starts_at_log_2(lora: Any, every: int | None, fresh: set[int], train: Run) -> None:
    """With the reference refreshed the policy is its own reference again, and no sooner: in the second step on a batch
    it has moved."""
    lines = metrics_of(train(method="online_dpo", lora=lora, method__refresh_every=every, **TWO_STEPS))
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    for line in lines:
        at_start = abs(line["loss"] - math.log(2)) < 1e-5 and abs(line["rewards/margins"]) < 1e-5
        assert at_start == (line["step"] in fresh), line
    for line in lines[::2]:
        assert (abs(line["kl_per_token"]) < 1e-5) == (line["step"] in fresh), line


class Batches:
    """The prepared batches of a run and which groups each step took."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[Any] = []
        original = RolloutSource.streams

        def streams(source: RolloutSource, step: int, totals: Any) -> Any:
            found = original(source, step, totals)
            self.seen += [(s.batch, tuple(s.indices)) for s in found]
            return found

        monkeypatch.setattr(RolloutSource, "streams", streams)


def test_iterative_dpo(train: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One large rollout batch, two passes of three minibatches: every pair once a pass; the pairs are the best and the
    worst of what was sampled, with their rewards."""
    batches = Batches(monkeypatch)
    place = str(tmp_path / "r.jsonl")
    changes = {"rollout__prompts_per_batch": 12, "rollout__ppo_epochs": 2, "rollout__save": place}
    train(method="online_dpo", **changes)
    batch = batches.seen[0][0]
    assert all(found is batch for found, _ in batches.seen)
    assert len(batches.seen) == 6
    for epoch in (batches.seen[:3], batches.seen[3:]):
        assert sorted(i for _, indices in epoch for i in indices) == list(range(len(batch.groups)))
    written = {tuple(row["prompt_ids"]): row["completions"] for row in runs.lines(tmp_path / "r.jsonl")[1:]}
    assert len(batch.groups) == len(written) == 12
    for group in batch.groups:
        rewards = [answer["reward"] for answer in written[tuple(group.prompt_ids.tolist())]]
        assert [c.reward for c in group.completions] == [max(rewards), min(rewards)]
        ids = [answer["token_ids"] for answer in written[tuple(group.prompt_ids.tolist())]]
        assert all(c.token_ids.tolist() in ids for c in group.completions)


def reward_file(folder: Path, body: str) -> str:
    (folder / "own.py").write_text(f"def own(completions, **_):\n    {body}\n", encoding="utf-8")
    return f"{folder / 'own.py'}:own"


@pytest.mark.parametrize("method", ["online_dpo", "rso", "raft"])
def test_a_batch_in_which_nothing_is_chosen(method: str, train: Run, tmp_path: Path) -> None:
    """Ties, or nothing above the threshold: it is counted, said, and changes no weight."""
    rewards = [reward_file(tmp_path, "return [0.5] * len(completions)")]
    more = {"method__threshold": 0.6} if method == "raft" else {}
    result = train(method=method, reward__rewards=rewards, **more)
    lines = metrics_of(result)
    name = "kept/none" if method == "raft" else "pairs/none"
    batches = [line for line in lines if "reward" in line]
    assert batches
    assert all(line[name] == 1.0 and line["rollout/idle_steps"] == 1.0 for line in batches)
    assert not any("loss" in line or "pairs/gap" in line for line in lines)


def test_what_is_kept_is_what_the_log_says(train: Run) -> None:
    """Two of three answers to a prompt are below the best: a third is kept, and it is worth more."""
    lines = [line for line in metrics_of(train(method="raft")) if "reward" in line]
    assert lines
    for line in lines:
        assert line["kept/share"] == pytest.approx(1 / 3)
        assert line["kept/none"] == 0
        assert line["kept/reward"] > line["reward"]


@pytest.mark.parametrize("method", ["online_dpo", "rso", "raft"])
@pytest.mark.parametrize("option", [{"correction": "token_mask"}, {"old_logprobs": "recompute"}], ids=str)
def test_nothing_of_an_old_policy_can_be_asked_for(method: str, option: dict[str, str], train: Run) -> None:
    with pytest.raises(ConfigError, match="its loss has no old policy in it"):
        train(method=method, **{f"rollout__{name}": value for name, value in option.items()})


@pytest.mark.parametrize(
    ("method", "more", "message"),
    [
        ("raft", {"rollout__completions_per_prompt": 1}, "select=best keeps the best of several"),
        ("online_dpo", {"rollout__completions_per_prompt": 1}, "compares the answers to a prompt and needs 2"),
        ("online_dpo", {"method__pairs": 2}, "3 answers to each prompt make 1 pairs"),
        ("rso", {"method__accepted": 4}, "is 4 of 3 answers to each prompt: all are accepted"),
    ],
)
def test_choices_that_are_none(method: str, more: dict[str, Any], message: str, train: Run) -> None:
    with pytest.raises(ConfigError, match=message):
        train(method=method, **more)


@pytest.mark.slow
def test_killed_in_the_middle_of_a_round_with_a_moving_reference(
    options: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """What is chosen is chosen again, and the reference is that of the round."""
    changes = {"method.refresh_every": 1, "lora": {"r": 4}, "checkpoint.every": 3}
    jobs = [Job("rso", options(name, **changes), tmp_path / f"{name}.json") for name in ("control", "run")]
    runs.completed(jobs[0])
    assert runs.run_process(replace(jobs[1], kill=Kill("step", 3))) == {}
    runs.completed(jobs[1])
    control, found = (runs.state_of(Path(job.options["run.dir"])) for job in jobs)
    for state in (control, found):
        del state["summary"]["reference_tokens"]  # of the last process alone
    assert runs.difference(found, control) is None
    assert any(not torch.equal(v, torch.zeros_like(v)) for v in found["weights"].values())
