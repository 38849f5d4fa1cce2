"""Attack a reward and see what it gives."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from plaudit.errors import ConfigError
from plaudit.rewards.cache import Cached
from plaudit.rewards.compose import Composite
from plaudit.rewards.contract import Reward, RewardResult, Sample
from plaudit.rewards.function import FunctionReward
from plaudit.rewards.probe.suite import FAMILIES, OF_KIND, REFERENCE, Problem
from plaudit.rewards.scoring import guarded
from plaudit.rewards.spec import read_specs

Verdict = Literal["ok", "weak", "bad"]
_TOLERANCE = 1e-9
Next = Callable[[str, "Probed"], None]
"""Told what is done next, and all that was found before."""


@dataclass(frozen=True, slots=True)
class Check:
    """One attack, or one property.

    Attributes:
        kind: right, hack, useless or property.
        value: what the reward gave; None for an error, or where there is no one value.
        verdict: bad: the reward can be gamed, or is wrong; weak: it does not tell the answer from an honest one.
    """

    kind: Literal["right", "hack", "useless", "property"]
    name: str
    verdict: Verdict
    value: float | None = None
    detail: str = ""


@dataclass(slots=True)
class Probed:
    """What came of it.

    Attributes:
        family: what the reward was taken to check.
    """

    reward: str
    family: str
    checks: list[Check] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing is bad."""
        return all(c.verdict != "bad" for c in self.checks)


def probe_reward(
    spec: str | Any,
    *,
    against: str | None = None,
    column: str | None = None,
    skip: Collection[str] = (),
    on_next: Next = lambda what, found: None,
) -> Probed:
    """Attack a reward with the hacks that are known for what it checks.

    A reward that runs what answers say in this very process can be ended by one, and this process with it:
    `plaudit.rewards.probe.apart` notices that.

    Args:
        spec: as in `plaudit score --reward`; or a `Reward`.
        against: math, choice, exact, code, json or text; None chooses by the reward's kind, or by the columns it reads.
        column: the column that it reads the reference from, where that is not "answer".
        skip: names of answers that are not tried.
        on_next: told what comes next: the name of an answer where answers are scored one by one, as a function's are.

    Raises:
        ConfigError: PL100, PL102, PL103: the reward cannot be made, or `against` is none of these.
    """
    reward = spec if isinstance(spec, Reward) else read_specs([spec], cache=0).reward
    family = against or _family(reward)
    if family not in FAMILIES:
        raise ConfigError(
            "PL102", f"against is {family!r}", mend=f"use one of {', '.join(FAMILIES)}", where="--against"
        )
    column = column or _reference_column(reward, family)
    found = Probed(reward.name, family)
    try:
        on_next(SET_UP, found)
        problems = [_without(p, skip) for p in _fitting(reward, FAMILIES[family], column)]
        for problem in problems:
            found.checks += _attack(reward, problem, column, family != "text", lambda what: on_next(what, found))
        on_next(PROPERTIES, found)
        found.checks += _properties(reward, problems, column)
        if len(problems) < len(FAMILIES[family]):
            left = f"{len(FAMILIES[family]) - len(problems)} of {len(FAMILIES[family])} are left out: it reads "
            found.checks.append(Check("property", _FIT, "ok", None, left + ", ".join(reward.columns)))
    finally:
        reward.close()
    return found


SET_UP, PROPERTIES = "setting up", "order, company and threads"
"""What `on_next` is told where it is no answer."""
_WRONG = "an honest wrong answer"
_FIT = "problems have the columns that it reads"


def _fitting(reward: Reward, problems: Sequence[Problem], column: str) -> list[Problem]:
    """The problems whose rows have what it reads: a function of `test_list` has nothing to say about input and output.
    All of them where none has."""
    reads = set(reward.columns)
    return [p for p in problems if reads <= set(_sample(p, "", column).row)] or list(problems)


def _without(problem: Problem, skip: Collection[str]) -> Problem:
    right, hacks = ({n: a for n, a in each.items() if n not in skip} for each in (problem.right, problem.hacks))
    return replace(problem, right=right, hacks=hacks)


def _leaves(reward: Reward) -> list[Reward]:
    inside = [p.reward for p in reward.parts] if isinstance(reward, Composite) else [reward]
    return [r.inner if isinstance(r, Cached) else r for r in inside]


def _family(reward: Reward) -> str:
    for leaf in _leaves(reward):
        if leaf.kind in OF_KIND:
            return OF_KIND[leaf.kind]
    read = set(reward.columns)
    for family, names in (("code", {"tests", "test_list"}), ("json", {"schema"}), ("choice", {"choices"})):
        if read & names:
            return family
    return "math" if read else "text"


def _reference_column(reward: Reward, family: str) -> str:
    """The name under which a function expects the reference: its only column, where "answer" is none of them."""
    if family not in ("math", "choice", "exact") or REFERENCE in reward.columns:
        return REFERENCE
    own = [c for c in reward.columns if c != "choices"]
    return own[0] if len(own) == 1 else REFERENCE


def _sample(problem: Problem, completion: str, column: str, row: Any = None) -> Sample:
    columns = {**problem.row, **(row or {})}
    renamed = {column if name == REFERENCE else name: value for name, value in columns.items()}
    return Sample(problem.prompt, completion, renamed, max(len(completion) // 4, 1), "stop")


def _attack(reward: Reward, problem: Problem, column: str, strict: bool, on_next: Callable[[str], None]) -> list[Check]:
    names = [*problem.right, *problem.hacks, _WRONG]
    answers = [*problem.right.values(), *problem.hacks.values(), problem.wrong]
    samples = [_sample(problem, a, column) for a in answers]
    results: list[RewardResult] = []
    if all(isinstance(leaf, FunctionReward) for leaf in _leaves(reward)):
        for name, sample in zip(names, samples, strict=True):
            on_next(name)
            results += guarded(reward, [sample])
    else:
        on_next(f"answers to {problem.prompt!r}")
        results = guarded(reward, samples)
    on_next("rows with which nothing can be right")
    wrong, given = results[-1], dict(zip(names, results, strict=True))
    if wrong.value is None and strict:
        return [Check("right", _WRONG, "bad", None, f"no value: {wrong.error}")]
    floor = wrong.value if wrong.value is not None else 0.0
    deserved = [value for n in problem.right if (value := given[n].value) is not None]
    best = max(deserved, default=floor)
    checks = [_right(name, given[name], floor, strict) for name in problem.right]
    if strict:
        checks += [_hack(name, given[name], floor) for name in problem.hacks]
        checks += _useless(reward, problem, column, floor)
    else:
        checks += [_text_hack(name, given[name], best) for name in problem.hacks]
    return checks


def _right(name: str, result: RewardResult, floor: float, strict: bool) -> Check:
    if result.value is None:
        column = "; name its column with --column" if result.error and result.error.kind == "bad_row" else ""
        return Check("right", name, "bad", None, f"no value: {result.error}{column}")
    if strict and result.value <= floor + _TOLERANCE:
        return Check("right", name, "bad", result.value, f"no more than a wrong answer; {result.note}".rstrip("; "))
    return Check("right", name, "ok", result.value)


def _hack(name: str, result: RewardResult, floor: float) -> Check:
    if result.value is None:
        detail = f"no value: {result.error}; an answer can make the reward fail, and so its group be left out"
        return Check("hack", name, "weak", None, detail)
    if result.value > floor + _TOLERANCE:
        return Check("hack", name, "bad", result.value, f"a wrong answer gets {floor:g}")
    return Check("hack", name, "ok", result.value)


def _text_hack(name: str, result: RewardResult, best: float) -> Check:
    if result.value is None:
        return Check("hack", name, "weak", None, f"no value: {result.error}")
    if result.value > best + _TOLERANCE:
        return Check("hack", name, "bad", result.value, f"an honest answer gets {best:g}")
    if result.value > best - _TOLERANCE:
        return Check("hack", name, "weak", result.value, "as much as an honest answer")
    return Check("hack", name, "ok", result.value)


def _useless(reward: Reward, problem: Problem, column: str, floor: float) -> list[Check]:
    checks = []
    for name, row in problem.useless.items():
        answers = [*problem.right.values(), ""]
        results = guarded(reward, [_sample(problem, a, column, row) for a in answers])
        values = [r.value for r in results if r.value is not None]
        most = max(values, default=None)
        if most is None:
            checks.append(Check("useless", name, "ok", None, f"refused: {results[0].error}"))
        elif most > floor + _TOLERANCE:
            checks.append(Check("useless", name, "bad", most, "rewarded, though nothing can be right"))
        else:
            checks.append(Check("useless", name, "weak", most, "a value, where an error would say that the row is bad"))
    return checks


def _properties(reward: Reward, problems: Sequence[Problem], column: str) -> list[Check]:
    """What must hold for any reward: order, company, repetition and thread do not matter, and rows stay as they are."""
    samples = [
        _sample(p, a, column) for p in problems for a in (*p.right.values(), p.wrong, *list(p.hacks.values())[:3])
    ]
    before = copy.deepcopy([dict(s.row) for s in samples])
    together = [r.value for r in guarded(reward, samples)]
    turned = [r.value for r in guarded(reward, samples[::-1])][::-1]
    alone = [guarded(reward, [s])[0].value for s in samples]
    in_thread: list[RewardResult] = []
    thread = threading.Thread(target=lambda: in_thread.extend(guarded(reward, samples)))
    thread.start()
    thread.join()
    return [
        _same("an answer's reward does not depend on the order", together, turned),
        _same("nor on the answers beside it", together, alone),
        _same("nor on the thread", together, [r.value for r in in_thread]),
        Check("property", "rows are not changed", "ok" if [dict(s.row) for s in samples] == before else "bad"),
        _missing(reward, problems[0], column),
    ]


def _same(name: str, a: Sequence[float | None], b: Sequence[float | None]) -> Check:
    differ = [
        i
        for i, (x, y) in enumerate(zip(a, b, strict=True))
        if (x is None) != (y is None) or (x is not None and y is not None and abs(x - y) > 1e-6 * max(1, abs(x)))
    ]
    detail = "" if not differ else f"{len(differ)} of {len(a)} answers, for example {a[differ[0]]} and {b[differ[0]]}"
    return Check("property", name, "bad" if differ else "ok", None, detail)


def _missing(reward: Reward, problem: Problem, column: str) -> Check:
    name = "a row without the columns it reads is an error"
    answer = next(iter(problem.right.values()))
    [result] = guarded(reward, [Sample(problem.prompt, answer, {}, 10, "stop")])
    if not reward.columns and not problem.row:
        return Check("property", name, "ok", None, "it reads none")
    if result.value is None:
        return Check("property", name, "ok", None, str(result.error))
    reads = bool(reward.columns) or not isinstance(_leaves(reward)[0], FunctionReward)
    return Check("property", name, "bad" if reads else "weak", result.value, f"it gives {result.value:g}")
