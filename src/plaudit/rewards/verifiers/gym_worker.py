"""Tasks of reasoning-gym, in a worker process: makes a task again and scores an answer to it."""

from __future__ import annotations

import ast
import inspect
import json
import math
import re
import warnings
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from importlib.metadata import version
from typing import Any

PACKAGE = "reasoning_gym"
MOST_CHARACTERS = 20_000
_EVALUATES = re.compile(r"\b(?:eval|exec|parse_expr|sympify)\(\s*(?:answer|user_answer|cleaned|predicted)\b")
_LISTS = {"n_queens", "binary_matrix", "spiral_matrix", "string_insertion"}
_ALGEBRA = {"countdown", "puzzle24", "simple_integration", "intermediate_integration", "polynomial_multiplication"}
_NAMES = {"sin", "cos", "tan", "exp", "log", "ln", "sqrt", "asin", "acos", "atan", "sinh", "cosh", "tanh", "pi", "Abs"}


def packaged() -> str:
    """The version of reasoning-gym, which is part of what a task is."""
    return version(PACKAGE)


@cache
def dataset(task: str, seed: int, size: int, options: str) -> Any:
    """The data set that the task is one of; options as JSON."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # a package below it leaves its files open
        import reasoning_gym

        return reasoning_gym.create_dataset(task, seed=seed, size=size, **json.loads(options))


def evaluates_answers(task: str) -> bool:
    """Whether the package's own scoring runs the answer as Python: an answer could then do anything, its own score
    included."""
    from reasoning_gym.factory import DATASETS

    source = inspect.getsource(DATASETS[task][0].score_answer)
    return bool(_EVALUATES.search(source))


def refused(task: str, answer: str) -> str:
    """Why an answer is not handed to the package; empty where it is. Where the package evaluates answers, only lists of
    literals, or arithmetic with known functions, are."""
    if len(answer) > MOST_CHARACTERS:
        return f"it has {len(answer)} characters"
    if task in _LISTS:
        plain = re.fullmatch(r"[\w\s,-]*", answer) or _is_literal(answer)
        return "" if plain else "it is neither plain text nor a list of numbers and texts"
    if task in _ALGEBRA:
        return "" if _is_algebra(answer) else "it is no plain expression"
    return "its score would run it as a program" if evaluates_answers(task) else ""


def _is_literal(answer: str) -> bool:
    try:
        ast.literal_eval(answer.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return False
    return True


def _is_algebra(answer: str) -> bool:
    if len(answer) > 500 or re.search(r"[^\w\s+\-*/^().,=]|_|[.](?![0-9])|[0-9]{16}", answer):
        return False
    if re.search(r"(?:\*\*|\^)[\s(+-]*(?:[0-9]{3}|[0-9.]+[\s)]*(?:\*\*|\^))|(?:\*\*|\^)\s*\([^()]*[*^]", answer):
        return False  # powers that take for ever
    names = re.findall(r"[^\W\d]\w*", answer)
    return all(len(n) == 1 or n in _NAMES for n in names) and not re.search(r"\b[^\W\d]\s*\(", _without_names(answer))


def _without_names(answer: str) -> str:
    return re.sub("|".join(sorted(_NAMES, key=len, reverse=True)), "1*", answer)


def make(item: dict[str, Any]) -> dict[str, Any]:
    """Problems of a task. Some depend on the order of sets, which is the same in workers alone: tasks are made in them.

    Args:
        item: task, seed, size, options, and the indices `start` and `end`.

    Returns:
        `problems`, (question, answer) each; or `refused`, what the task says about its options.
    """
    try:
        made = dataset(item["task"], item["seed"], item["size"], json.dumps(item["options"], sort_keys=True))
    except (TypeError, ValueError, AssertionError) as error:
        return {"refused": str(error)}
    problems = [made[index] for index in range(item["start"], item["end"])]
    return {"problems": [(p["question"], None if p["answer"] is None else str(p["answer"])) for p in problems]}


def score(item: dict[str, Any]) -> dict[str, Any]:
    """The package's score of an answer, in [0, 1].

    Args:
        item: `entry` (task, seed, size, index, options, as `task_rows` writes them), `reference` (the row's answer, or
            None) and `answer`.

    Returns:
        `score`; or `bad_row`, where the entry makes no task, or another one than the row's.
    """
    entry, answer = item["entry"], item["answer"]
    try:
        made = dataset(entry["task"], entry["seed"], entry["size"], json.dumps(entry["options"], sort_keys=True))
        problem = made[entry["index"]]
    except (KeyError, IndexError, TypeError, ValueError, AssertionError) as error:
        return {"bad_row": f"the entry makes no task: {type(error).__name__}: {error}"}
    if item["reference"] is not None and problem["answer"] is not None and str(problem["answer"]) != item["reference"]:
        return {"bad_row": f"reasoning-gym {packaged()} makes another task of the entry than the row's"}
    why = refused(entry["task"], answer)
    if why:
        return {"score": 0.0, "note": why}
    try:
        return {"score": float(_rule(entry["task"], made)(answer, problem))}
    except (
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        ArithmeticError,
        RecursionError,
        SyntaxError,
    ) as error:
        return {"score": 0.0, "note": f"the task's rule cannot read it: {type(error).__name__}"}


def _rule(task: str, made: Any) -> Callable[[str, Any], float]:
    """The task's own rule; for some of them ours, because an answer that says nothing satisfies theirs."""
    rule: Callable[[str, Any], float] = _OURS.get(task, made.score_answer)
    return rule


def _halting(answer: str, problem: Any) -> float:
    """Theirs takes any text for yes, and no text for no."""
    return float(answer.strip().lower() == str(problem["answer"]).lower())


def _complex(answer: str, problem: Any) -> float:
    """Theirs gives 1 for not a number; the distance decides as it does there."""
    from reasoning_gym.factory import DATASETS

    said = DATASETS["complex_arithmetic"][0].parse_string_to_complex(answer)
    distance = abs(said - complex(*problem["metadata"]["result"]))
    return math.exp(-distance) if math.isfinite(distance) else 0.0


def _probability(answer: str, problem: Any) -> float:
    """Theirs gives a share for every digit that happens to be the same, and all of it for a lone 0."""
    return float(
        abs(Fraction(answer.replace(",", "")) - Fraction(problem["answer"].replace(",", ""))) <= Fraction(1, 10_000)
    )


def _twenty_four(answer: str, problem: Any) -> float:
    """Theirs does not look at which four numbers are used, and cuts decimals off."""
    if re.search(r"[^0-9+\-*/() ]|//|\*\*", answer):
        return 0.0
    used = sorted(map(int, re.findall(r"[0-9]+", answer)))
    exact = re.sub(r"([0-9]+)", r"Fraction(\1)", answer)
    right = used == sorted(problem["metadata"]["numbers"])
    return float(right and eval(exact, {"__builtins__": {}, "Fraction": Fraction}) == 24)


_OURS: dict[str, Callable[[str, Any], float]] = {
    "game_of_life_halting": _halting,
    "complex_arithmetic": _complex,
    "coin_flip": _probability,
    "puzzle24": _twenty_four,
}
