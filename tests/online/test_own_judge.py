"""Self-rewarding: the judge is the policy, with its weights as they are, and a run with it resumes exactly."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

import plaudit
from plaudit.errors import ConfigError, RewardError, TrainingError
from plaudit.inference.sampling import Sampler
from plaudit.online.scoring import read_reward
from plaudit.rewards.contract import Sample
from plaudit.rewards.interface import score
from plaudit.rewards.judges.judge import Answered, Judge
from plaudit.rewards.judges.local import LocalModel
from plaudit.rewards.judges.reward import JudgeOptions, JudgeReward
from plaudit.rewards.judges.rubric import Rubric
from plaudit.train.session import TrainResult
from tests.conftest import write_tiny_model
from tests.online.conftest import Run, metrics_of
from tests.train import runs
from tests.train.runs import Job, Kill

OWN = {"kind": "judge", "policy": True, "rubric": "additive", "least_mass": 0.0}
"""The tiny model has nothing to say about labels: whatever it says is taken."""


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with room for a question."""
    return write_tiny_model(tmp_path_factory.mktemp("roomy") / "tiny-llama", positions=4096)


@pytest.fixture
def judged(roomy: Path, train: Run, tmp_path: Path) -> Callable[..., TrainResult]:
    def of(name: str = "run", **changes: Any) -> TrainResult:
        shared = {"model__path": str(roomy), "reward__rewards": [OWN], "rollout__prompts_per_batch": 4}
        return train(name, method="online_dpo", **(shared | changes))

    return of


@pytest.mark.parametrize("lora", [pytest.param(None, marks=pytest.mark.slow), {"r": 4}], ids=["full", "lora"])
def test_it_judges_with_the_weights_of_the_moment(
    lora: Any, judged: Callable[..., TrainResult], roomy: Path, tmp_path: Path
) -> None:
    """The first batch has the values of the model as it was, the last one those of the model behind all steps but one:
    a judge of its own says the same."""
    place = tmp_path / "r.jsonl"
    changes = {"lora": lora, "rollout__save": str(place), "train__learning_rate": 2e-2, "train__max_steps": 2}
    first = judged("first", **(changes | {"train__max_steps": 1}))
    place.unlink()
    judged("second", **changes)
    rows = runs.lines(place)[1:]

    def said(model: Path, number: int) -> tuple[list[float], list[float | None]]:
        """The rewards of a batch, and what a model says of its answers."""
        answers = [(row["prompt"], a) for row in rows if row["rollout"] == number for a in row["completions"]]
        asked = [(prompt, a) for prompt, a in answers if a["text"].strip()]
        judge = Judge(LocalModel.of(model, precision="fp32"), Rubric.read("additive"), least_mass=0.0)
        found = judge.scores([Answered(prompt, a["text"]) for prompt, a in asked])
        return [a["reward"] for _, a in asked], [r.value for r in found]

    for model, number in ((roomy, 0), (first.run_dir, 1)):
        own, theirs = said(model, number)
        assert own == pytest.approx(theirs, abs=2e-5)
    own, theirs = said(roomy, 1)
    assert own != pytest.approx(theirs, abs=1e-3), "the step changed what it says"


def test_no_second_model_is_loaded(judged: Callable[..., TrainResult], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sampler, "of", lambda *_, **__: pytest.fail("a model was loaded to judge"))
    lines = metrics_of(judged(rollout__completions_per_prompt=2, train__max_steps=1))
    assert all(0 <= line["reward"] <= 1 and line["rewards/error_rate"] == 0 for line in lines if "reward" in line)
    assert all("rewards/judge/mass/mean" in line for line in lines if "reward" in line)


@pytest.mark.slow
@pytest.mark.parametrize("case", [{}, {"reasoning": True, "max_tokens": 4}], ids=["verdicts", "reasons"])
def test_killed_and_gone_on_with(
    case: dict[str, Any], roomy: Path, options: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """With held-out prompts, which are judged in between; in the middle of a batch and at its end."""
    changes = {
        "model.path": str(roomy),
        "reward.rewards": [OWN | case],
        "lora": {"r": 4},
        "data.eval_fraction": 0.3,
        "eval.every": 3,
        "checkpoint.every": 3,
        "method.refresh_every": 1,
    }
    jobs = [Job("online_dpo", options(name, **changes), tmp_path / f"{name}.json") for name in ("control", "run")]
    runs.completed(jobs[0])
    assert runs.run_process(replace(jobs[1], kill=Kill("operation", 14))) == {}
    runs.completed(jobs[1])
    control, found = (runs.state_of(Path(job.options["run.dir"])) for job in jobs)
    for state in (control, found):
        del state["summary"]["reference_tokens"]  # of the last process alone
    assert runs.difference(found, control) is None


@pytest.mark.slow
def test_two_processes_are_one_run(roomy: Path, options: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    changes = {"model.path": str(roomy), "reward.rewards": [OWN], "rollout.prompts_per_batch": 4}
    one = Job("online_dpo", options("one", **changes), tmp_path / "one.json")
    two = Job("online_dpo", options("two", **changes), tmp_path / "two.json")
    runs.completed(one)
    for outcome in runs.two_ranks(two):
        assert "steps" in outcome, outcome.get("traceback", outcome)
    lines = [runs.lines(Path(j.options["run.dir"]) / "metrics.jsonl") for j in (one, two)]
    for a, b in zip(*([runs.without_timing(x) for x in found] for found in lines), strict=True):
        assert {k: v for k, v in a.items() if k != "num_tokens"} == pytest.approx(
            {k: v for k, v in b.items() if k != "num_tokens"}, rel=1e-3, abs=1e-4
        )


def test_nothing_is_kept_of_what_it_said() -> None:
    """The weights change from batch to batch: a result of earlier ones is none."""
    from plaudit.config.schema import RewardSection

    spec = read_reward(RewardSection(rewards=(OWN,)))
    assert spec is not None
    reward = JudgeReward(JudgeOptions(policy=True))
    assert reward.fingerprint() == ""
    assert reward.of_policy
    assert not reward.exact
    assert reward.identity() != JudgeReward(JudgeOptions(policy=True, rubric="additive")).identity()


def test_where_there_is_no_policy() -> None:
    reward = JudgeReward(JudgeOptions(policy=True))
    with pytest.raises(RewardError, match="here none is") as refused:
        reward.score([Sample("Which colour is the sky?", "Blue.")])
    assert refused.value.code == "PL708"
    with pytest.raises(RewardError, match="here none is"):
        list(score([{"prompt": "a", "completion": "b"}], "judge:policy=true"))


def test_it_cannot_judge_while_it_is_trained(judged: Callable[..., TrainResult]) -> None:
    with pytest.raises(TrainingError, match="cannot while it is trained"):
        judged(rollout__ahead=1)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"model": "x"}, "give one of endpoint"),
        ({"base": "x"}, "base mean nothing with policy"),
        ({"concurrency": 2}, "concurrency mean nothing with policy"),
        ({"temperature": 0.7}, "a policy judges at temperature 0"),
    ],
)
def test_options_without_effect(more: dict[str, Any], message: str, judged: Callable[..., TrainResult]) -> None:
    with pytest.raises(ConfigError, match=message):
        judged(reward__rewards=[OWN | more])


def test_the_additive_rubric() -> None:
    """Five points; probabilities of the six verdicts give their expectation, on a scale of 0 to 1."""
    rubric = Rubric.read("additive")
    assert rubric.scale == (0, 5)
    assert [c.name for c in rubric.criteria] == ["additive"]


def test_questions_have_no_system_prompt_of_the_data(roomy: Path) -> None:
    from plaudit.engines.open import open_engine
    from plaudit.models.forest_model import ForestModel
    from plaudit.online.own_judge import OwnJudge

    loaded = plaudit.load(roomy, precision="fp32")
    policy = ForestModel(loaded.model)
    engine, _ = open_engine(policy, loaded.tokenizer)
    own = OwnJudge(policy, engine, AutoTokenizer.from_pretrained(roomy))
    local = LocalModel(lambda: own)
    [reply] = local.ask([[{"role": "user", "content": "5?"}]], max_tokens=1, temperature=0.0, options=["1", "5"])
    apart = LocalModel.of(roomy, precision="fp32")
    [theirs] = apart.ask([[{"role": "user", "content": "5?"}]], max_tokens=1, temperature=0.0, options=["1", "5"])
    assert {k: math.exp(v) for k, v in reply.options.items()} == pytest.approx(
        {k: math.exp(v) for k, v in theirs.options.items()}, rel=1e-5
    )
    prompts = [np.array([5, 6, 7], dtype=np.int32)]
    from plaudit.engines.base import Sampling

    [mine] = own.sample(prompts, 1, Sampling(temperature=0.0, max_new_tokens=4))
    [other] = apart.sampler.sample(prompts, 1, Sampling(temperature=0.0, max_new_tokens=4))
    assert mine.completions[0].token_ids.tolist() == other.completions[0].token_ids.tolist()
