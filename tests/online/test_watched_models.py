"""What a run watches of its reward models: the range that is kept with them, disagreement, latents; and resuming."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plaudit.errors import RewardError
from plaudit.rewards.contract import Sample
from plaudit.rewards.models.classifier import Classifier
from plaudit.rewards.models.combine import member_std
from plaudit.rewards.models.ensemble import Ensemble
from plaudit.rewards.models.model import RewardModel, normalise
from plaudit.rewards.models.shared import share_reward
from plaudit.rewards.trained import ModelOptions, ModelReward
from tests.online.conftest import Run, metrics_of
from tests.rewards.conftest import ITEMS
from tests.rewards.models.writing import write_own
from tests.train import runs
from tests.train.runs import Job, Kill
from tests.train.test_cast import policy

REFERENCE = ITEMS[:2]
SAMPLES = [Sample(prompt, answer) for prompt, answers in ITEMS[:1] for answer in answers if isinstance(answer, str)]


def card(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "plaudit.json").read_text(encoding="utf-8"))
    return found


def test_a_trained_reward_model_keeps_how_far_its_scores_reach(reward_run: Path) -> None:
    """Of the very answers it was trained on, under the weights that were saved."""
    kept = card(reward_run / "model")["scores"]
    rows = runs.lines(reward_run.parent / "preference.jsonl")
    model = RewardModel.load(reward_run)
    scores = sorted(
        s for row in model.raw_score([(r["prompt"], [r["chosen"], r["rejected"]]) for r in rows]) for s in row
    )
    assert kept["answers"] == len(scores) == 48
    assert kept["highest"] == pytest.approx(scores[-1], abs=1e-4)
    assert kept["p99"] == pytest.approx(scores[47], abs=1e-4)  # ⌈0.99 · 48⌉ = 48
    assert kept["mean"] == pytest.approx(np.mean(scores), abs=1e-4)
    assert kept["std"] == pytest.approx(np.std(scores), abs=1e-4)
    assert model.highest == pytest.approx(kept["highest"])


def test_the_range_is_that_of_everything_it_was_measured_on(tmp_path: Path, tiny_model_dir: Path) -> None:
    folder = write_own(tmp_path / "rm", tiny_model_dir)
    model = Classifier.open(folder)
    assert model.highest is None  # nobody has measured it
    items = [(p, a) for p, a in REFERENCE]
    raw = [s for answers in model.raw_score(items) for s in answers]
    normalise(model, items, std=2.0)
    model.save_normalisation()
    again = Classifier.open(folder)
    assert again.highest == pytest.approx(model.normalisation(max(raw)))
    (folder / "plaudit.json").write_text(json.dumps(card(folder) | {"scores": {"highest": "much"}}))
    with pytest.raises(RewardError, match="PL702"):
        Classifier.open(folder)


def reward(model: RewardModel, **more: Any) -> ModelReward:
    found = ModelReward(ModelOptions(path="unused"))
    found.use(model)
    found.name, found.watched = "rm", True
    for name, value in more.items():
        setattr(found, name, value)
    return found


def test_a_score_above_the_range_is_marked(tmp_path: Path, tiny_model_dir: Path) -> None:
    model = Classifier.open(write_own(tmp_path / "rm", tiny_model_dir, noise=0.2))
    scores = [r.value for r in reward(model).score(SAMPLES)]
    best = int(np.argmax([s or 0.0 for s in scores]))
    others = [(s.prompt, [s.completion]) for i, s in enumerate(SAMPLES) if i != best]
    normalise(model, others)
    marked = [r.parts["above_range"] for r in reward(model).score(SAMPLES)]
    assert marked == [float(i == best) for i in range(len(SAMPLES))]
    normalise(model, [(s.prompt, [s.completion]) for s in SAMPLES])
    assert not any(r.parts["above_range"] for r in reward(model).score(SAMPLES))  # the highest itself is in the range


def test_what_is_not_watched_has_nothing_beside_it(tmp_path: Path, tiny_model_dir: Path) -> None:
    model = Classifier.open(write_own(tmp_path / "rm", tiny_model_dir))
    plain, watched = reward(model, watched=False).score(SAMPLES), reward(model, with_latents=True).score(SAMPLES)
    assert not any(r.parts or r.latents for r in plain)
    assert [r.value for r in plain] == [r.value for r in watched]  # to the bit


def test_the_latent_is_what_the_head_reads(tmp_path: Path, tiny_model_dir: Path) -> None:
    model = Classifier.open(write_own(tmp_path / "rm", tiny_model_dir))
    head = model.inner.score.weight.detach()[0].numpy()
    for result in reward(model, with_latents=True).score(SAMPLES):
        assert result.value == pytest.approx(float(result.latents["rm"] @ head), rel=1e-4)


def test_the_latent_on_the_policys_base(reward_run: Path, tiny_model_dir: Path) -> None:
    shared = share_reward(policy(tiny_model_dir, {"r": 4}), reward_run)
    assert not isinstance(shared, str)
    apart = RewardModel.load(reward_run)
    pairs = [reward(m, with_latents=True).score(SAMPLES) for m in (shared, apart)]
    for a, b in zip(*pairs, strict=True):
        assert a.value == pytest.approx(b.value, abs=1e-4)
        assert np.allclose(a.latents["rm"], b.latents["rm"], atol=1e-4)
    assert shared.highest == pytest.approx(apart.highest)


@pytest.fixture
def both(tmp_path: Path, tiny_model_dir: Path) -> Path:
    """An ensemble of two."""
    members = [Classifier.open(write_own(tmp_path / f"m{i}", tiny_model_dir, seed=i, noise=0.1)) for i in range(2)]
    Ensemble.build(members, REFERENCE, how="min").save(tmp_path / "both")
    return tmp_path / "both"


def test_the_disagreement_of_members(both: Path) -> None:
    model = RewardModel.load(both)
    assert isinstance(model, Ensemble)
    items = [(s.prompt, [s.completion]) for s in SAMPLES]
    by_member = np.array([[s for answers in m for s in answers] for m in model.score_members(items)])
    expected = member_std(by_member) / model.reference.mean
    found = reward(model, with_latents=True).score(SAMPLES)
    assert [r.parts["disagreement"] for r in found] == pytest.approx(expected.tolist(), rel=1e-5)
    assert not any(r.latents for r in found)
    # On the reference set the mean is 1, and the lowest member's best answer is the top of the range.
    whole = [s for answers in model.look(REFERENCE).spread or [] for s in answers]
    assert np.mean(whole) == pytest.approx(1, abs=1e-5)
    top = max(s for answers in model.score(REFERENCE) for s in answers)
    assert model.highest == pytest.approx(top, abs=1e-5)


def test_a_run_logs_what_it_watches(train: Run, both: Path, reward_run: Path) -> None:
    rewards = [f"model:path={reward_run},name=one", f"model:path={both},name=two"]
    found = metrics_of(train(method="rloo", reward__rewards=rewards, data__eval_fraction=0.3, eval__every=2))
    line = next(x for x in found if "reward" in x)
    assert {
        "rewards/one/mean",
        "rewards/one/above_range",
        "rewards/two/above_range",
        "rewards/two/disagreement",
    } <= set(line)
    assert "rewards/one/disagreement" not in line
    assert 0 <= line["rewards/one/above_range"] <= 1
    assert not any(name.endswith("range/mean") for name in line)
    assert any("eval/rewards/one/above_range" in x for x in found)
    assert not any(name.endswith("outliers") for x in found for name in x)  # still being gathered


EVERYTHING: dict[str, Any] = {
    "rollout.prompts_per_batch": 4,
    "rollout.completions_per_prompt": 32,
    "rollout.max_new_tokens": 3,
    "rollout.eval_temperature": 1.0,
    "rollout.ppo_epochs": 2,
    "rollout.samples_every": 1,
    "train.groups_per_step": 4,
    "train.epochs": 2.0,
    "train.learning_rate": 1e-2,
    "train.warmup_steps": 0,
    "watch.outlier_answers": 200,
    "train.tokens_per_microbatch": 4096,
    "checkpoint.kl_grid": [1e-5, 0.5],
    "checkpoint.every": 3,
    "data.eval_fraction": 0.3,
    "eval.every": 3,
    "lora": {"r": 4},
}


def test_killed_with_everything_on(reward_run: Path, options: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """Gold, monitors and grid: while the reference's latents are gathered (step 1) and after."""
    (tmp_path / "gold.py").write_text("def gold(completions, **_):\n    return [float(len(c)) for c in completions]\n")
    changes = EVERYTHING | {"reward.rewards": [f"model:path={reward_run},name=rm"]}
    changes["watch.gold"] = f"{tmp_path / 'gold.py'}:gold"
    control = Job("rloo", options("control", **changes), tmp_path / "control.json")
    broken = Job("rloo", options("run", **changes), tmp_path / "run.json")
    runs.completed(control)
    for kill in (Kill("samples", 3), Kill("step", 7)):
        outcome = runs.run_process(replace(broken, kill=kill))
        assert outcome == {}, outcome.get("traceback", kill)
    runs.completed(broken)
    found = [runs.state_of(tmp_path / name) for name in ("run", "control")]
    for one in found:
        del one["summary"]["reference_tokens"]
    assert runs.difference(*found) is None
    lines = found[0]["metrics"]
    assert any("rewards/rm/outliers" in line for line in lines)
    assert any("eval/gold_gap" in line for line in lines)
    assert (tmp_path / "run" / "kl_grid.json").exists()


@pytest.mark.slow
def test_ahead_keeps_the_latents_of_what_was_sampled(
    reward_run: Path, options: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    changes = EVERYTHING | {"reward.rewards": [f"model:path={reward_run},name=rm"], "rollout.ahead": 1}
    control = Job("rloo", options("control", **changes), tmp_path / "control.json")
    broken = Job("rloo", options("run", **changes), tmp_path / "run.json")
    runs.completed(control)
    assert runs.run_process(replace(broken, kill=Kill("step", 4))) == {}
    runs.completed(broken)
    lines = [[runs.without_timing(x) for x in runs.lines(tmp_path / n / "metrics.jsonl")] for n in ("run", "control")]
    assert lines[0] == lines[1]
    assert any("rewards/rm/outliers" in line for line in lines[0])


@pytest.mark.slow
def test_two_processes_watch_as_one(reward_run: Path, options: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    changes = EVERYTHING | {"reward.rewards": [f"model:path={reward_run},name=rm"], "checkpoint.kl_grid": [1e-5]}
    one = Job("rloo", options("one", **changes), tmp_path / "one.json")
    two = Job("rloo", options("two", **changes), tmp_path / "two.json")
    runs.completed(one)
    for outcome in runs.two_ranks(two):
        assert "steps" in outcome, outcome.get("traceback", outcome)
    lines = [[runs.without_timing(x) for x in runs.lines(tmp_path / n / "metrics.jsonl")] for n in ("one", "two")]
    for a, b in zip(*lines, strict=True):
        assert a.keys() == b.keys()
        a["num_tokens"] = b["num_tokens"] = 0  # of what is packed together
        assert a == pytest.approx(b, rel=1e-3, abs=0.02)
    assert any("rewards/rm/outliers" in line for line in lines[0])


def test_no_reading_of_the_device_between_log_lines(
    train: Run, reward_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watched run reads metrics back as often as any other: once for a log line."""
    from plaudit.train.step import Totals

    seen: list[int] = []
    original = Totals.read

    def read(self: Totals, world: Any) -> dict[str, float]:
        seen.append(1)
        return original(self, world)

    monkeypatch.setattr(Totals, "read", read)
    counts = []
    for name, more in (
        ("plain", {"watch__outliers": None}),
        ("watched", {"checkpoint__kl_grid": [1.0], "watch__stop": ["kl_jump"]}),
    ):
        seen.clear()
        train(name, method="rloo", reward__rewards=[str(reward_run)], log__every=4, **more)
        counts.append(len(seen))
    assert counts[0] == counts[1]
    assert torch.get_num_threads() == 1
