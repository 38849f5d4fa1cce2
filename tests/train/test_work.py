"""How much a run computes, against counting every step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from plaudit.config.load import Resolved, resolve
from plaudit.forest.layout import piece_tokens
from plaudit.inspection.mask import WithoutWeights
from plaudit.methods.base import Method
from plaudit.models.positions import PositionRegime
from plaudit.train.parallel import World
from plaudit.train.planning import needs_last, plan_slots
from plaudit.train.schedule import Schedule, chunks
from plaudit.train.work import Amount, Work, _groups_of_run
from plaudit.types import Completion, PromptGroup

MODEL = WithoutWeights(None, PositionRegime())
BUDGET = 120


def groups(count: int, answers: int) -> list[PromptGroup]:
    """Ragged groups with so many completions each."""
    rng = np.random.default_rng(0)

    def ids(least: int, most: int) -> Any:
        return rng.integers(0, 90, rng.integers(least, most)).astype(np.int32)

    def completion() -> Completion:
        tokens = ids(2, 20)
        return Completion(tokens, np.ones(len(tokens), dtype=bool), rank=1.0)

    return [PromptGroup(ids(3, 30), [completion() for _ in range(answers)]) for _ in range(count)]


def made(method: str, **options: Any) -> tuple[Resolved, Method]:
    given = {"model": "m", "data": "d.jsonl", "train": {"groups_per_step": 4, "epochs": 2, **options.pop("train", {})}}
    resolved = resolve(method, overrides={**given, **options}, files_exist=False, objects=True)
    return resolved, resolved.method(resolved.method_config)


def counted(method: Method, schedule: Schedule, own: list[PromptGroup]) -> dict[str, int]:
    """All steps, packed one by one."""
    total = {"prompts": 0, "completions": 0, "tokens": 0, "slots": 0}
    for step in range(schedule.total_steps):
        of_step = [own[i] for i in schedule.groups_of(step)]
        slots = plan_slots(
            list(enumerate(of_step)), MODEL, World(), budget=BUDGET, unit=method.unit, score_last=needs_last(method)
        )
        total["prompts"] += len(of_step)
        total["completions"] += sum(len(g.completions) for g in of_step)
        total["slots"] += len(slots)
        total["tokens"] += sum(piece_tokens(p, None, needs_last(method)) for slot in slots for p in slot.pieces)
    return total


def work_of(method: str, own: list[PromptGroup], weight: float = 1.0, **options: Any) -> tuple[Work, dict[str, int]]:
    resolved, chosen = made(method, **options)
    schedule = Schedule.of(resolved.run, [len(own)], [weight], False, chosen.min_groups)
    return Work.of(resolved.run, chosen, schedule, own, MODEL, BUDGET), counted(chosen, schedule, own)


@pytest.mark.parametrize(("method", "answers"), [("dpo", 2), ("sft", 1), ("kto", 1), ("reward", 2)])
@pytest.mark.parametrize("count", [8, 10])
def test_every_step_is_packed_where_there_are_few(method: str, answers: int, count: int) -> None:
    work, total = work_of(method, groups(count, answers), train={"epochs": 1})
    assert work.exact
    assert work.micro_batches is not None
    assert (work.prompts.run, work.completions.run) == (total["prompts"], total["completions"])
    assert work.tokens.run == pytest.approx(total["tokens"])
    assert work.micro_batches.run == pytest.approx(total["slots"])
    assert work.prompts.step == pytest.approx(total["prompts"] / work.steps)
    assert work.largest is not None
    assert 0 < work.largest <= total["tokens"]
    facts = {name: fact for row in work.rows().values() for name, fact in row.facts.items()}
    assert {name: facts[name] for name in ("optimiser_steps", "prompts", "completions", "micro_batches")} == {
        "optimiser_steps": work.steps,
        "prompts": total["prompts"],
        "completions": total["completions"],
        "micro_batches": total["slots"],
    }
    assert facts["packed_tokens"] == pytest.approx(total["tokens"])
    assert facts["prompts_per_step"] == pytest.approx(work.prompts.step, abs=0.01)


def test_several_epochs_and_the_weight_of_a_source() -> None:
    work, total = work_of("dpo", groups(10, 2), weight=1.5)
    assert work.prompts.epoch == 15
    assert work.prompts.run == total["prompts"] == 30
    assert work.completions.run == total["completions"] == 60
    assert work.tokens.run == pytest.approx(total["tokens"], rel=0.1)


def test_a_run_that_ends_within_an_epoch() -> None:
    work, total = work_of("dpo", groups(10, 2), train={"epochs": None, "max_steps": 4})
    assert work.steps_per_epoch == 3
    assert work.prompts.run == total["prompts"] == 14
    assert work.completions.run == pytest.approx(28)


def test_many_steps_are_extrapolated() -> None:
    work, total = work_of("dpo", groups(400, 2), train={"epochs": 1})
    assert not work.exact
    assert work.prompts.run == total["prompts"] == 400
    assert work.tokens.run == pytest.approx(total["tokens"], rel=0.05)
    rows = work.rows()
    assert rows["packed tokens"].count("≈") == 3
    assert rows["packed tokens"].facts["packed_tokens_is"] == "estimate"
    assert rows["packed tokens"].facts["packed_tokens"] == pytest.approx(work.tokens.run, abs=0.5)
    assert rows["prompts (groups)"].facts == {"prompts": 400, "prompts_per_epoch": 400, "prompts_per_step": 4}
    assert "≈" not in rows["prompts (groups)"]


def test_answers_that_are_still_to_be_sampled() -> None:
    own = [PromptGroup(np.arange(10, dtype=np.int32), []) for _ in range(32)]
    resolved, method = made(
        "ppo",
        train={"groups_per_step": 4, "epochs": 1},
        rollout={"prompts_per_batch": 8, "completions_per_prompt": 3, "max_new_tokens": 20, "ppo_epochs": 2},
        reward={"rewards": ["length"]},
    )
    schedule = Schedule.of(resolved.run, [32], [1.0], False, method.min_groups)
    work = Work.of(resolved.run, method, schedule, own, MODEL, BUDGET)
    assert work.steps == 16, "4 batches of 8 prompts, each 2 passes of 2 minibatches"
    assert work.prompts == Amount(4, 32, 32)
    assert work.completions == Amount(12, 96, 96)
    assert work.tokens == Amount(4 * (10 + 3 * 20), 16 * 280, 16 * 280)
    assert work.micro_batches is None
    row = work.rows()["packed tokens"]
    assert row.startswith("at most ")
    assert row.facts["packed_tokens_is"] == "upper bound"


def test_rollout_batches_that_the_prompts_do_not_fill() -> None:
    """Batches of 8, 8 and 4 prompts, two steps on each; 5 steps end with the 4."""
    own = [PromptGroup(np.arange(10, dtype=np.int32), []) for _ in range(20)]
    resolved, method = made(
        "grpo",
        train={"groups_per_step": 4, "epochs": None, "max_steps": 5},
        rollout={"prompts_per_batch": 8, "completions_per_prompt": 3, "max_new_tokens": 20, "ppo_epochs": 1},
        reward={"rewards": ["length"]},
    )
    schedule = Schedule.of(resolved.run, [20], [1.0], False, method.min_groups)
    work = Work.of(resolved.run, method, schedule, own, MODEL, BUDGET)
    assert work.prompts == Amount(4, 20, 20)
    assert work.completions.run == 60


def test_the_steps_of_many_rows_are_counted_at_once() -> None:
    chunks.cache_clear()
    resolved, method = made("dpo", train={"epochs": 1.5})
    schedule = Schedule.of(resolved.run, [1000], [1.0], False, method.min_groups)
    assert _groups_of_run(schedule, 1000) == 1500
    assert chunks.cache_info().misses == 1, "an epoch is cut once, and not again for every step"


def test_numbers_stand_under_each_other() -> None:
    work, _ = work_of("dpo", groups(10, 2))
    rows = list(work.rows().values())
    for word in ("a step", "an epoch", "in all"):
        assert len({row.index(word) for row in rows}) == 1
    assert rows[0].split() == ["1", "a", "step", "3", "an", "epoch", "6", "in", "all"]
    assert "3.3 a step" in rows[1], "10 prompts in 3 steps"
