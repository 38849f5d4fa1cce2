"""Attack a reward and see what it gives."""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
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


def probe_reward(spec: str | Any, *, against: str | None = None, column: str | None = None) -> Probed:
    """Attack a reward with the hacks that are known for what it checks.

    Args:
        spec: as in `plaudit score --reward`; or a `Reward`.
        against: math, choice, exact, code, json or text; None chooses by the reward's kind, or by the columns it reads.
        column: the column that it reads the reference from, where that is not "answer".

    Raises:
        ConfigError: PL100, PL102, PL103: the reward cannot be made, or `against` is none of these.
    """
    reward = spec if isinstance(spec, Reward) else read_specs([spec], cache=0).reward
    family = against or _family(reward)
    if family not in FAMILIES:
        raise ConfigError("PL102", f"against is {family!r}", mend=f"use one of {', '.join(FAMILIES)}")
    column = column or _reference_column(reward, family)
    found = Probed(reward.name, family)
    try:
        for problem in FAMILIES[family]:
            found.checks += _attack(reward, problem, column, strict=family != "text")
        found.checks += _properties(reward, FAMILIES[family], column)
    finally:
        reward.close()
    return found


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


def _attack(reward: Reward, problem: Problem, column: str, *, strict: bool) -> list[Check]:
    names = [*problem.right, *problem.hacks]
    answers = [*problem.right.values(), *problem.hacks.values(), problem.wrong]
    results = guarded(reward, [_sample(problem, a, column) for a in answers])
    wrong, given = results[-1], dict(zip(names, results, strict=False))
    if wrong.value is None and strict:
        return [Check("right", "an honest wrong answer", "bad", None, f"no value: {wrong.error}")]
    floor = wrong.value if wrong.value is not None else 0.0
    best = max((given[n].value or floor for n in problem.right), default=floor)
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
