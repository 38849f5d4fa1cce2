"""reasoning-gym: every task by its own rule, in worker processes, and never as a program."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from plaudit.errors import ConfigError
from plaudit.rewards.contract import RewardResult, Sample
from plaudit.rewards.verifiers import gym_worker
from plaudit.rewards.verifiers.gym import GymOptions, GymReward, task_names, task_rows
from plaudit.rewards.workers import Limits, WorkerPool

DATASETS = pytest.importorskip("reasoning_gym.factory").DATASETS
NEEDS_OPTIONS = {"composite"}
NAMES_NO_ANSWER = {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"}


@pytest.fixture(scope="module")
def reward() -> Iterator[GymReward]:
    made = GymReward(GymOptions(workers=2))
    yield made
    made.close()


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, Any]]:
    """One row of every task."""
    names = sorted(set(task_names()) - NEEDS_OPTIONS)
    entries = [{"task": name, "seed": 7, "size": 1, "index": 0, "options": {}} for name in names]
    pool = WorkerPool("plaudit.rewards.verifiers.gym_worker:make", limits=Limits(100, 200))
    try:
        replies = pool.map([{**entry, "start": 0, "end": 1} for entry in entries])
    finally:
        pool.close()
    made = [reply.value["problems"][0] for reply in replies]
    return {
        name: {"prompt": question, "answer": answer, "reasoning_gym": entry}
        for name, entry, (question, answer) in zip(names, entries, made, strict=True)
    }


def sample(row: dict[str, Any], answer: str) -> Sample:
    return Sample(row["prompt"], answer, row)


def value(result: RewardResult) -> Any:
    return result.error.kind if result.error is not None else result.value


def test_every_task_gives_its_own_answer_the_whole_score(reward: GymReward, rows: dict[str, dict[str, Any]]) -> None:
    known = {name: row for name, row in rows.items() if row["answer"] is not None}
    assert set(rows) - set(known) == NAMES_NO_ANSWER
    answers = [sample(row, f"I see. <answer>{row['answer']}</answer>") for row in known.values()]
    results = dict(zip(known, reward.score(answers), strict=True))
    assert {name: r.note for name, r in results.items() if r.value != 1} == {}


@pytest.mark.slow
def test_no_task_rewards_an_answer_that_says_nothing(reward: GymReward, rows: dict[str, dict[str, Any]]) -> None:
    for nothing in ("", "I do not know.", "<answer></answer>"):
        results = dict(zip(rows, reward.score([sample(r, nothing) for r in rows.values()]), strict=True))
        assert {name for name, r in results.items() if r.value is not None and r.value > 0} == set()


CONSTANTS = ("nan", "inf", "0", "1", "True", "False", "yes", "no", "[]", "6*4*1*1", "8*3", "24", "None", "x")
FAIR_GUESSES = {"True", "False", "yes", "no", "0", "1"}
"""Some tasks have one of these as their answer."""


@pytest.mark.slow
def test_no_constant_answer_is_right_by_its_form(reward: GymReward, rows: dict[str, dict[str, Any]]) -> None:
    """A constant gets 1 where it is the row's answer, and nowhere else."""
    cases = [(row, constant) for row in rows.values() for constant in CONSTANTS]
    results = reward.score([sample(row, f"<answer>{constant}</answer>") for row, constant in cases])
    undeserved = {
        (row["reasoning_gym"]["task"], constant)
        for (row, constant), result in zip(cases, results, strict=True)
        if result.value and constant not in FAIR_GUESSES and constant != row["answer"]
    }
    assert undeserved == set()


@pytest.mark.parametrize(("answer", "right"), [("8*6*1/2", 1), ("6*4*1*1", 0), ("8*6/2", 0), ("8*6/2*1", 1), ("24", 0)])
def test_our_rule_for_twenty_four(answer: str, right: float) -> None:
    assert gym_worker._twenty_four(answer, {"metadata": {"numbers": [8, 6, 2, 1]}}) == right


def test_our_rule_for_probabilities() -> None:
    problem = {"answer": "0.03125"}
    assert [gym_worker._probability(a, problem) for a in ("1/32", "0.03125", "0", "0.03", "1")] == [1, 1, 0, 0, 0]


ATTACKS = (
    "__import__('os').system('touch {file}')",
    "[__import__('os').system('touch {file}')]",
    "[c for c in ().__class__.__base__.__subclasses__()]",
    "(lambda: open('{file}', 'w'))()",
    "open('{file}', 'w')",
    "exec(\"open('{file}', 'w')\")",
    "[open('{file}', 'w')]",
    "x.__class__",
    "print(1)",
)


def broken(
    file: Path, reward: GymReward, rows: dict[str, dict[str, Any]], attacks: Callable[[int, str], Sequence[str]]
) -> set[str]:
    """Give every task its attacks as answers; the tasks that reward one, and the file if it was written."""
    samples = [
        sample(row, f"<answer>{attack.format(file=file)}</answer>")
        for number, (name, row) in enumerate(rows.items())
        for attack in attacks(number, name)
    ]
    results = reward.score(samples)
    rewarded = {s.row["reasoning_gym"]["task"] for s, r in zip(samples, results, strict=True) if r.value}
    return rewarded | ({file.name} if file.exists() else set())


def test_no_answer_is_run_as_a_program(tmp_path: Path, reward: GymReward, rows: dict[str, dict[str, Any]]) -> None:
    """Every attack on the tasks that evaluate answers, and two on each of the others, other ones in turn."""

    def attacks(number: int, name: str) -> Sequence[str]:
        first = 2 * number % len(ATTACKS)
        return ATTACKS if gym_worker.evaluates_answers(name) else (ATTACKS * 2)[first : first + 2]

    assert broken(tmp_path / "broken_out", reward, rows, attacks) == set()


@pytest.mark.slow
def test_no_answer_is_run_as_a_program_by_any_task(
    tmp_path: Path, reward: GymReward, rows: dict[str, dict[str, Any]]
) -> None:
    assert broken(tmp_path / "broken_out", reward, rows, lambda number, name: ATTACKS) == set()


def test_the_tasks_that_evaluate_answers_are_known() -> None:
    """A new version of the package with another such task fails here, and is refused when it runs."""
    evaluating = {name for name in DATASETS if gym_worker.evaluates_answers(name)}
    assert evaluating
    assert evaluating <= gym_worker._LISTS | gym_worker._ALGEBRA


@pytest.mark.parametrize(
    ("task", "answer", "fine"),
    [
        ("countdown", "(1 + 2) * 3 - 4/5", True),
        ("countdown", "9**9**9**9", False),
        ("countdown", "9^999999999", False),
        ("countdown", "factorial(9)", False),
        ("simple_integration", "3*x**2 + sin(x)*exp(x) + C", True),
        ("simple_integration", "x(1)", False),
        ("polynomial_multiplication", "x**12 + 3*x*y", True),
        ("countdown", "1.real", False),
        ("countdown", "a_b", False),
        ("countdown", "[1]", False),
        ("n_queens", "_ Q _\nQ _ _", True),
        ("n_queens", "[['_', 'Q']]", True),
        ("n_queens", "[f()]", False),
        ("leg_counting", "f()", True),
        ("leg_counting", "1" * 30_000, False),
    ],
)
def test_what_is_handed_to_the_package(task: str, answer: str, fine: bool) -> None:
    assert (gym_worker.refused(task, answer) == "") is fine


def test_answers_with_words_around(reward: GymReward, rows: dict[str, dict[str, Any]]) -> None:
    row = rows["leg_counting"]
    right = row["answer"]
    said = (right, f"<think>1</think>{right}", rf"\boxed{{{right}}}", f"It is {right}, or so.", f"{right} or 7")
    results = reward.score([sample(row, a) for a in said])
    assert [value(r) for r in results] == [1, 1, 1, 0, 0]


def test_partial_credit_is_asked_for(rows: dict[str, dict[str, Any]]) -> None:
    reward = GymReward(GymOptions(partial=True, workers=1))
    try:
        row = rows["number_sorting"]
        [result] = reward.score([sample(row, "<answer>[1]</answer>")])
        assert 0 <= float(value(result)) < 1
        assert dict(result.parts) == {"share": result.value}
    finally:
        reward.close()


@pytest.mark.parametrize(
    "entry", [None, "", "no json", {}, {"task": "x"}, {"task": "x", "seed": 0, "size": 1, "index": 0, "options": {}}]
)
def test_an_entry_that_makes_no_task_is_a_bad_row(reward: GymReward, entry: Any) -> None:
    [result] = reward.score([Sample("q", "1", {"reasoning_gym": entry})])
    assert value(result) == "bad_row"


def test_a_row_of_another_version_is_noticed(reward: GymReward, rows: dict[str, dict[str, Any]]) -> None:
    row = {**rows["leg_counting"], "answer": "something else"}
    [result] = reward.score([sample(row, "1")])
    assert value(result) == "bad_row"


@pytest.mark.slow
def test_tasks_are_the_same_for_the_same_seed_and_take_options() -> None:
    first = list(task_rows("word_ladder", 3, 1))  # which depends on the order of sets
    assert list(task_rows("word_ladder", 3, 1)) == first
    assert [row["reasoning_gym"]["index"] for row in first] == [0, 1, 2]
    [row] = task_rows("chain_sum", 1, 1, ["min_terms=2", "max_terms=2"])
    assert row["reasoning_gym"]["options"] == {"min_terms": 2, "max_terms": 2}


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("leg_countin", [], "did you mean leg_counting?"),
        ("chain_sum", ["terms"], "is not key=value"),
        ("chain_sum", ["no_such=1"], "cannot be made"),
        ("chain_sum", ["min_terms=9", "max_terms=2"], "cannot be made"),
    ],
)
def test_tasks_that_cannot_be_made(name: str, options: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says.replace("?", r"\?")):
        list(task_rows(name, 1, 0, options))
