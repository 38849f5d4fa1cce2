"""Rows that the evaluation data has too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plaudit.data.doctor.facts import Facts
from plaudit.data.doctor.findings import Finding, first, grade
from plaudit.data.doctor.repeats import candidates, equal_slots, matrix
from plaudit.data.doctor.thresholds import FEWEST_WORDS, SIMILAR, SOME


@dataclass(frozen=True, slots=True)
class Overlap:
    """Rows of the data whose prompt the evaluation data has.

    Attributes:
        exact: row → row of the evaluation data, for prompts that are the same up to white space.
        near: row → (row of the evaluation data, similarity), for similar ones.
    """

    exact: dict[int, int]
    near: dict[int, tuple[int, float]]


def overlap(facts: Sequence[Facts], others: Sequence[Facts]) -> Overlap:
    """The rows of `facts` with a prompt of `others`. Text without prompts is compared as a whole."""
    keys = {_key(f): f.row for f in reversed(others)}
    loose = {_loose(f): f.row for f in reversed(others)}
    exact = {f.row: keys[_key(f)] for f in facts if _key(f) in keys}
    rest = [f for f in facts if f.row not in exact]
    near = {f.row: (loose[_loose(f)], 1.0) for f in rest if _words(f) and _loose(f) in loose}
    rest = [f for f in rest if f.row not in near and _words(f) >= FEWEST_WORDS]
    asked = [f for f in others if _words(f) >= FEWEST_WORDS]
    return Overlap(exact, near | _similar(rest, asked))


def _similar(facts: Sequence[Facts], others: Sequence[Facts]) -> dict[int, tuple[int, float]]:
    if not facts or not others:
        return {}
    found = matrix([_digest(f) for f in (*others, *facts)])
    numbers = np.array([_numbers(f) for f in (*others, *facts)], dtype=np.uint64)
    pairs = candidates(found, found)
    across = (pairs[:, 0] < len(others)) & (pairs[:, 1] >= len(others))
    pairs = pairs[across & (numbers[pairs[:, 0]] == numbers[pairs[:, 1]])]
    near: dict[int, tuple[int, float]] = {}
    for (i, j), value in zip(pairs.tolist(), equal_slots(found, found, pairs).tolist(), strict=True):
        row = facts[j - len(others)].row
        if value >= SIMILAR and (row not in near or value > near[row][1]):
            near[row] = (others[i].row, value)
    return near


def _key(f: Facts) -> int:
    return f.prompt if f.prompt_loose else f.answers[0].key


def _loose(f: Facts) -> int:
    return f.prompt_loose or f.answers[0].loose


def _words(f: Facts) -> int:
    return f.prompt_words if f.prompt_loose else f.words


def _numbers(f: Facts) -> int:
    return f.prompt_numbers if f.prompt_loose else f.numbers


def _digest(f: Facts) -> bytes:
    return f.prompt_digest if f.prompt_loose else f.answer_digest


def check(facts: Sequence[Facts], others: Sequence[Facts], name: str) -> list[Finding]:
    """Exact and near overlap with one evaluation source; the verdict goes by the share of its rows that are known."""
    found = overlap(facts, others)
    shown = {f.row: f.shown for f in facts}
    keys = {_key(f) for f in facts if f.row in found.exact}
    seen = sum(_key(f) in keys for f in others)
    alike = {row for row, _ in found.near.values()}
    mend = "take these rows out of the training data, or the evaluation measures memory"
    return [
        Finding(
            check="eval_overlap",
            title=f"prompts of {name}",
            verdict=grade(seen / len(others) if others else 0.0, fail=SOME),
            count=len(found.exact),
            of=len(facts),
            share=len(found.exact) / len(facts) if facts else 0.0,
            detail=f"{seen:,} of {len(others):,} rows of {name} have a prompt of this file",
            numbers={"eval_rows": seen, "eval_of": len(others)},
            examples=first(([row], f"= row {other} of {name}: {shown[row]}") for row, other in found.exact.items()),
            mend=mend,
            fixed=True,
        ),
        Finding(
            check="eval_near_overlap",
            title=f"prompts similar to those of {name}",
            verdict=grade(len(alike) / len(others) if others else 0.0, fail=SOME),
            count=len(found.near),
            of=len(facts),
            share=len(found.near) / len(facts) if facts else 0.0,
            detail=f"{len(alike):,} of {len(others):,} rows of {name} have a prompt that is nearly one of this file",
            numbers={"eval_rows": len(alike), "eval_of": len(others)},
            examples=first(
                ([row], f"~ row {other} of {name} ({likeness:.2f}): {shown[row]}")
                for row, (other, likeness) in found.near.items()
            ),
            mend=mend,
            fixed=True,
        ),
    ]
