"""Rewards of one's own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plaudit.data.turns import parse_turns
from plaudit.errors import ConfigError
from plaudit.rewards.compose import Composite, Part
from plaudit.rewards.contract import RewardResult, Sample
from plaudit.rewards.function import FunctionOptions, FunctionReward, find_function

ROWS = [Sample("1+1", "2", {"answer": "2"}, 1, "stop"), Sample("1+2", "4", {"answer": "3"}, 1, "length")]


def of(function: Callable[..., Any], **options: Any) -> FunctionReward:
    return FunctionReward(FunctionOptions(function="tests:reward", **options), function)


def values(results: list[RewardResult]) -> list[Any]:
    return [r.value if r.error is None else r.error.kind for r in results]


def test_parameters_are_asked_for_by_name() -> None:
    def reward(completion: str, answer: str, tokens: int, finish_reason: str) -> float:
        assert tokens == 1
        return float(completion == answer) + (0.5 if finish_reason == "length" else 0)

    made = of(reward)
    assert made.columns == ("answer",)
    assert values(made.score(ROWS)) == [1.0, 0.5]


def test_a_function_for_trl_runs_as_it_is() -> None:
    """The form of TRL's GRPOTrainer: lists of messages, columns as lists, further keywords."""

    def reward_func(completions: Any, ground_truth: Any, **kwargs: Any) -> list[float]:
        assert set(kwargs) >= {"prompts", "task"}
        contents = [completion[0]["content"] for completion in completions]
        return [1.0 if c == gt else 0.0 for c, gt in zip(contents, ground_truth, strict=True)]

    chat = [
        Sample(
            parse_turns([{"role": "user", "content": "?"}]),
            parse_turns([{"role": "assistant", "content": said}]),
            {"ground_truth": "7", "task": "t"},
        )
        for said in ("7", "8")
    ]
    assert values(of(reward_func).score(chat)) == [1.0, 0.0]


def test_many_answers_come_in_batches() -> None:
    sizes: list[int] = []

    def reward(completions: list[str]) -> np.ndarray[Any, Any]:
        sizes.append(len(completions))
        return np.arange(len(completions), dtype=np.float32)

    assert values(of(reward, batch=2).score([*ROWS, ROWS[0]])) == [0.0, 1.0, 0.0]
    assert sizes == [2, 1]


def test_async_functions_run_at_the_same_time() -> None:
    async def reward(completion: str) -> float:
        await asyncio.sleep(0.1)
        return float(completion)

    start = time.perf_counter()
    results = of(reward, concurrency=16).score([Sample("q", str(i)) for i in range(16)])
    assert values(results) == [float(i) for i in range(16)]
    assert time.perf_counter() - start < 0.8


def test_async_functions_run_inside_a_running_loop() -> None:
    async def reward(completion: str) -> float:
        return float(completion)

    async def notebook() -> list[RewardResult]:
        return of(reward).score(ROWS)

    assert values(asyncio.run(notebook())) == [2.0, 4.0]


def test_a_mapping_gives_parts() -> None:
    [result] = of(lambda completion: {"value": 0.5, "grammar": 1, "facts": 0}).score(ROWS[:1])
    assert (result.value, dict(result.parts)) == (0.5, {"grammar": 1.0, "facts": 0.0})


@pytest.mark.parametrize(
    ("said", "kind"),
    [(None, "bad_reply"), ("good", "bad_reply"), (float("nan"), "not_finite"), ({"score": 1}, "bad_reply")],
)
def test_what_is_no_number_is_a_failure(said: Any, kind: str) -> None:
    assert values(of(lambda completion: said).score(ROWS[:1])) == [kind]


@pytest.mark.parametrize(
    ("steps", "found"),
    [
        ([], ()),
        ([[3, 1], (9, -0.5)], ((3, 1.0), (9, -0.5))),
        ([[3, float("nan")]], "the step that ends at 3: nan is not finite"),
        ([[3, 1], [3, 0]], "ends are counts of characters that rise"),
        ([[0, 1]], "ends are counts of characters that rise"),
        ([3, 1], "must be [characters up to its end, reward]"),
        ("ab", "steps is str"),
    ],
)
def test_rewards_of_steps(steps: Any, found: Any) -> None:
    def judged(completion: str) -> dict[str, Any]:
        return {"value": 2.0, "steps": steps, "more": 1}

    reward = FunctionReward.of(judged, "tests:judged")
    [result] = reward.score([Sample("p", "c", {})])
    if isinstance(found, str):
        assert result.error is not None
        assert found in result.error.message
        return
    assert (result.value, result.steps, dict(result.parts)) == (2.0, found, {"more": 1.0})
    [total] = Composite([Part(reward, weight=2.0), Part(FunctionReward.of(judged, "again"))], []).score(
        [Sample("p", "c", {})]
    )
    assert total.steps == tuple((end, 3 * value) for end, value in found)


def test_raising_is_a_failure_of_that_answer_alone() -> None:
    def reward(completion: str) -> float:
        if completion == "4":
            raise ValueError("four")
        return 1.0

    results = of(reward).score(ROWS)
    assert values(results) == [1.0, "exception"]
    assert results[1].error is not None
    assert "ValueError: four" in results[1].error.message


def test_a_list_of_the_wrong_length_is_a_failure() -> None:
    results = of(lambda completions: [1.0]).score(ROWS)
    assert values(results) == ["bad_reply"] * 2
    assert results[0].error is not None
    assert "1 values for 2 answers" in results[0].error.message


def test_a_function_that_hangs_is_a_timeout() -> None:
    done = threading.Event()

    def reward(completion: str) -> float:
        if completion == "4":
            done.wait(10)
        return 1.0

    try:
        start = time.perf_counter()
        assert values(of(reward, timeout=0.2).score(ROWS)) == [1.0, "timeout"]
        assert time.perf_counter() - start < 5
    finally:
        done.set()


def test_an_async_function_that_hangs_is_cancelled() -> None:
    cancelled: list[bool] = []

    async def reward(completion: str) -> float:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        return 1.0

    assert values(of(reward, timeout=0.1).score(ROWS)) == ["timeout"] * 2
    assert cancelled == [True, True]


def test_a_missing_column_is_a_bad_row() -> None:
    results = of(lambda completion, gold: 1.0).score(ROWS)
    assert values(results) == ["bad_row"] * 2
    assert results[0].error is not None
    assert "'gold'" in results[0].error.message


def test_a_column_with_a_default_may_be_missing() -> None:
    assert values(of(lambda completion, gold=None: 0.25).score(ROWS)) == [0.25, 0.25]


def test_rows_are_not_changed_by_a_function_that_writes_into_them() -> None:
    def reward(row: dict[str, Any], completion: str) -> float:
        row["answer"] = "stolen"
        return 1.0

    of(reward).score(ROWS)
    assert ROWS[0].row["answer"] == "2"


def test_files_and_modules_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "beside_it.py").write_text("WORTH = 3.0\n")
    file = tmp_path / "mine_of_test_function.py"
    file.write_text("from beside_it import WORTH\n\n\ndef reward(completion):\n    return WORTH\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    for path in (f"{file}:reward", "mine_of_test_function.py:reward", "mine_of_test_function:reward"):
        assert FunctionReward(FunctionOptions(function=path)).score(ROWS[:1])[0].value == 3.0


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("no_such_module_here:reward", "ModuleNotFoundError"),
        ("no_such_file.py:reward", "there is no file"),
        ("math:no_such_function", "has no function no_such_function"),
        ("math:pi", "float"),
        ("reward", "not module:function"),
    ],
)
def test_what_cannot_be_imported_is_explained(path: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        find_function(path)
    assert caught.value.code == "PL102"


def test_a_file_that_does_not_import_is_explained(tmp_path: Path) -> None:
    file = tmp_path / "broken_of_test_function.py"
    file.write_text("import nothing_of_this_name\n")
    with pytest.raises(ConfigError, match="nothing_of_this_name"):
        find_function(f"{file}:reward")


def test_a_function_that_asks_for_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="asks for nothing"):
        of(lambda answer: 1.0)


def test_only_a_function_said_to_be_pure_may_be_remembered() -> None:
    assert of(lambda completion: 1.0).fingerprint() == ""
    assert of(lambda completion: 1.0, pure=True).fingerprint() != ""


def test_none_in_a_list_has_nothing_to_say() -> None:
    """TRL's convention for several tasks: the part is left out of the sum."""
    from plaudit.rewards.compose import Composite, Part

    math = of(lambda completions, task: [1.0 if t == "math" else None for t in task])
    code = of(lambda completions, task: [2.0 if t == "code" else None for t in task])
    code.name = "code"
    samples = [Sample("q", "a", {"task": t}) for t in ("math", "code", "poem")]
    assert values(math.score(samples)) == [1.0, "not_applicable", "not_applicable"]
    assert values(Composite([Part(math), Part(code)]).score(samples)) == [1.0, 2.0, "bad_row"]


def test_what_only_trl_gives_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="asks for completion_ids"):
        of(lambda completions, completion_ids: [0.0])


def test_a_partial_of_an_async_function() -> None:
    import functools

    async def reward(completion: str, scale: float) -> float:
        return scale * float(completion)

    made = of(functools.partial(reward, scale=10))
    assert made.name == "reward"
    assert values(made.score(ROWS)) == [20.0, 40.0]


def test_a_timeout_of_the_function_s_own_keeps_its_words() -> None:
    def reward(completion: str) -> float:
        raise TimeoutError("the database did not answer")

    [result] = of(reward).score(ROWS[:1])
    assert result.error is not None
    assert (result.error.kind, "the database" in result.error.message) == ("exception", True)


def test_closing_ends_what_is_being_scored() -> None:
    seen: list[str] = []

    def reward(completion: str) -> float:
        seen.append(completion)
        if completion == "2":
            made.close()
        return 1.0

    made = of(reward)
    results = made.score([Sample("q", str(i)) for i in range(6)])
    assert values(results) == [1.0, 1.0, 1.0, "crash", "crash", "crash"]
    assert seen == ["0", "1", "2"]
    assert values(made.score([Sample("q", "9")])) == [1.0]  # and it can be used again
