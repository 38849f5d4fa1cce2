"""Stopping early: a signal ends what is being sampled or scored within a step, nothing is counted twice, and what
failed in the background is told when it is asked for."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plaudit.config.schema import RolloutSection
from plaudit.engines.base import RolloutEngine, Sampling
from plaudit.engines.hf import HFEngine
from plaudit.engines.local.engine import LocalEngine
from plaudit.errors import RewardError
from plaudit.methods.sft import SFT
from plaudit.models.forest_model import ForestModel
from plaudit.online.ahead import Ahead
from plaudit.online.maker import RolloutMaker
from plaudit.online.prompts import PromptChooser, Request
from plaudit.online.records import Rollout
from plaudit.rewards.contract import Reward, RewardOptions, RewardResult, Sample
from plaudit.rewards.scoring import Scoring
from plaudit.train.interrupt import StepAbandoned
from plaudit.train.parallel import World
from plaudit.types import PromptGroup
from tests.engines.tiny import Words, tiny_llama
from tests.online.conftest import METHOD
from tests.train import runs
from tests.train.runs import Job, Kill

LONG = 90.0
"""Seconds that a reward takes which nobody must wait for."""


def reward_file(folder: Path, call: int, *, signum: int = 0) -> Path:
    """A reward that hangs at a call of the first process, after a signal to its own process; and now and then fails."""
    path, struck = folder / "hanging.py", str(folder / "struck")
    path.write_text(
        "import os, time\nCALLS = []\n"
        "def hanging(completions, **_):\n"
        "    CALLS.append(1)\n"
        f"    if len(CALLS) == {call} and not os.path.exists({struck!r}):\n"
        f"        open({struck!r}, 'w').close()\n"
        f"        {f'os.kill(os.getpid(), {int(signum)})' if signum else 'pass'}\n"
        f"        time.sleep({LONG})\n"
        "    return [None if len(c) % 7 == 0 else float(len(c)) for c in completions]\n",
        encoding="utf-8",
    )
    return path


CASES: dict[str, tuple[int, dict[str, Any]]] = {
    # A batch is eight calls, the evaluation before the first step three or four: the second batch, after step 2.
    "between two batches": (16, {"data.eval_fraction": 0.3, "eval.every": 3, "train.epochs": 3.0}),
    "the first batch of all": (3, {"rollout.ahead": 1}),
    # The third batch, with weights of after the first, while the second is trained on.
    "in the background": (20, {"rollout.ahead": 1, "rollout.ppo_epochs": 2, "rollout.correction": "token_truncate"}),
    "in the background, an adapter": (20, {"rollout.ahead": 1, "lora": {"r": 4}, "rollout.engine": "generate"}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_signal_while_a_reward_hangs(case: str, options: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """Nobody waits for it; the run that goes on ends with the same bits, failures that it has counted included."""
    call, more = CASES[case]
    path = reward_file(tmp_path, call, signum=signal.SIGTERM)
    changes = {"train.epochs": 2.0, "reward.retries": 0, "reward.max_error_fraction": 1.0, "checkpoint.every": 3}
    changes |= {"reward.rewards": [f"{path}:hanging"], **more}
    broken = Job(METHOD, options("run", **changes), tmp_path / "run.json")
    outcome = runs.run_process(broken)
    assert outcome.get("interrupted") == signal.SIGTERM, outcome
    assert outcome["seconds"] < LONG / 2
    runs.completed(broken)
    control = Job(METHOD, options("control", **changes), tmp_path / "control.json")
    runs.completed(control)
    found = [final(Path(j.options["run.dir"])) for j in (broken, control)]
    assert found[1]["source"]["scoring"]["failed"]
    assert ("held_out_scoring" in found[1]["source"]) == ("data.eval_fraction" in more)
    assert runs.difference(*found) is None


def final(run: Path) -> dict[str, Any]:
    state = runs.state_of(run)
    last = run / "checkpoints" / state.pop("checkpoints")[-1]  # the signal has written one more
    return state | {"source": torch.load(last / "source.pt", weights_only=True)}


def test_the_weights_of_an_abandoned_batch_are_kept(options: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """It was begun with weights that the policy no longer has."""
    changes = {"rollout.ahead": 1, "rollout.ppo_epochs": 2, "rollout.prompts_per_batch": 4}
    path = reward_file(tmp_path, 5)  # of the second batch, which is made while the first is trained on
    own = Job(METHOD, options("run", **changes, **{"reward.rewards": [f"{path}:hanging"]}), tmp_path / "run.json")
    outcome = runs.run_process(Job(METHOD, own.options, own.outcome, Kill("step", 1, signum=signal.SIGINT)))
    assert outcome.get("interrupted") == signal.SIGINT, outcome
    [checkpoint] = (tmp_path / "run" / "checkpoints").iterdir()
    kept = torch.load(checkpoint / "source.pt", weights_only=True)
    assert "ahead" not in kept
    assert (kept["ahead_begun"]["request"]["number"], kept["ahead_begun"]["version"]) == (1, 0)
    trained = runs.safetensors.torch.load_file(checkpoint / "weights.safetensors")
    assert kept["ahead_begun"]["weights"].keys() == trained.keys()
    assert any(not torch.equal(kept["ahead_begun"]["weights"][n], w) for n, w in trained.items())


def _engines() -> dict[str, Callable[[], RolloutEngine]]:
    return {
        "local": lambda: LocalEngine(ForestModel(tiny_llama()), Words()),
        "generate": lambda: HFEngine(tiny_llama(), Words()),  # type: ignore[arg-type]
    }


@pytest.mark.parametrize("name", _engines())
def test_an_engine_asks_before_every_forward_pass(name: str) -> None:
    engine, asked = _engines()[name](), []

    def check() -> None:
        asked.append(1)
        if len(asked) == 3:
            raise StepAbandoned

    prompts = [np.arange(2, 6, dtype=np.int32)] * 4
    options = Sampling(max_new_tokens=20, min_new_tokens=0 if name == "generate" else 20, seed=1)
    list(engine.generate(prompts, 2, options))
    engine.check = check
    before = torch.get_rng_state()
    with pytest.raises(StepAbandoned):
        list(engine.generate(prompts, 2, options))
    assert len(asked) == 3
    assert torch.equal(torch.get_rng_state(), before)


class Failing(Reward):
    """Every answer fails."""

    kind = "failing"

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__(RewardOptions())
        self.seconds = seconds

    def score(self, samples: Any) -> list[RewardResult]:
        time.sleep(self.seconds)
        return [RewardResult.failed("timeout", "slow") for _ in samples]


def test_results_that_nobody_wants_are_not_awaited() -> None:
    scoring, start = Scoring(Failing(LONG), retries=0), time.perf_counter()

    def check() -> None:
        raise StepAbandoned

    with pytest.raises(StepAbandoned):
        list(scoring.stream([1], lambda _: [[Sample("p", "c", {}, 1, "stop")]], check=check))
    assert time.perf_counter() - start < LONG / 2


class Makes:
    """Makes empty rollouts; what is asked for before it may be given is awaited."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.asked, self.stopped, self.free = error, [], lambda: False, threading.Event()
        self.seen: list[float] = []
        self.copy = torch.zeros(2)

    def make(self, request: Request, version: int) -> Rollout:
        self.asked.append((request.number, version))
        self.seen.append(float(self.copy[0]))
        if self.error is not None and request.number == 1:
            raise self.error
        return Rollout(request.number, [], [])


def request(number: int) -> Request:
    return Request(number, (), 0, 0)


def restored(ahead: Ahead, state: dict[str, Any]) -> Ahead:
    chooser = PromptChooser(None, RolloutSection(), 0, 0)  # type: ignore[arg-type]
    ahead.restore(state, chooser, lambda kept: Rollout(kept["number"], [], []))
    return ahead


def ahead_of(maker: Makes, policy: torch.Tensor) -> Ahead:
    return Ahead(maker, {"w": policy}, {"w": maker.copy})  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [RewardError("PL706", "none has a reward"), MemoryError()], ids=["reward", "memory"])
def test_what_fails_in_the_background_prevents_no_checkpoint(error: Exception) -> None:
    maker, policy = Makes(error), torch.ones(2)
    ahead = ahead_of(maker, policy)
    ahead.take(0, request, 0, False)
    policy += 1  # the batch is trained on
    kept = ahead.state()["ahead_begun"]
    assert (kept["request"]["number"], kept["version"], kept["weights"]["w"].tolist()) == (1, 0, [1.0, 1.0])
    with pytest.raises(type(error)):
        ahead.take(1, request, 4, True)
    assert ahead.state()["ahead_begun"]["request"]["number"] == 1
    ahead.close()

    again = Makes()
    resumed = restored(ahead_of(again, policy + 5), {"ahead_begun": kept})
    assert resumed.take(1, request, 4, False).number == 1
    assert resumed.take(2, request, 8, True).number == 2
    assert again.asked == [(1, 0), (2, 4)]
    assert again.seen == [1.0, 7.0]  # with the weights that it was begun with, and then the policy's
    assert resumed.state() == {}


def test_a_batch_that_is_there_is_kept_itself() -> None:
    maker = Makes()
    ahead = ahead_of(maker, torch.ones(2))
    ahead.take(0, request, 0, False)
    state = ahead.state()
    assert state["ahead"]["rollout"]["number"] == 1
    again = Makes()
    resumed = restored(ahead_of(again, torch.ones(2)), state)
    assert resumed.take(1, request, 4, True).number == 1
    assert again.asked == []


def test_a_batch_that_is_given_up_counts_no_failure() -> None:
    scoring = Scoring(Failing(), retries=0, max_error_fraction=0.0)

    class Scorer:
        def __init__(self) -> None:
            self.scoring = scoring

        def score(self, groups: Any, count: int, check: Any) -> Any:
            yield from self.scoring.score([[Sample("p", "c", {}, 1, "stop")]])

    class Sampler:
        def rollout(self, *_: Any) -> list[PromptGroup]:
            return []

    scoring.remember([False] * 40)
    before = scoring.state()
    maker = RolloutMaker(World(), RolloutSection(), SFT(), [], None, Sampler(), Scorer())  # type: ignore[arg-type]
    with pytest.raises(RewardError, match="PL706"):
        maker.make(request(0), 0)
    assert scoring.state() == before
