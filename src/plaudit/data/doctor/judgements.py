"""Judgements that contradict each other, and pairs without much of a difference."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence

from plaudit.data.doctor.facts import Facts
from plaudit.data.doctor.findings import Finding, first, grade
from plaudit.data.doctor.thresholds import BOTH_SIDES_WARN, SOME

Said = dict[object, dict[object, list[int]]]
"""What is judged (two answers to a prompt, or one answer) → what is said of it → rows."""


def said(facts: Sequence[Facts]) -> Said:
    """All judgements: of two answers to one prompt which is better, of one answer whether it is liked."""
    found: Said = defaultdict(lambda: defaultdict(list))
    for f in facts:
        for a, b in _better(f):
            verdicts = found[(f.prompt, min(a, b), max(a, b))]
            if not verdicts[a] or verdicts[a][-1] != f.row:
                verdicts[a].append(f.row)
        if f.label is not None:
            found[(f.prompt, f.answers[0].key)][f.label].append(f.row)
    return found


def _better(facts: Facts) -> Iterator[tuple[int, int]]:
    for a in facts.answers:
        for b in facts.answers:
            if a.rank is not None and b.rank is not None and a.rank < b.rank and a.key != b.key:
                yield a.key, b.key


def contradictions(facts: Sequence[Facts]) -> list[tuple[list[int], list[int]]]:
    """(rows that say the one, rows that say the opposite), the more frequent judgement first."""
    found = []
    for verdicts in said(facts).values():
        sides = sorted((rows for rows in verdicts.values() if rows), key=len, reverse=True)
        if len(sides) == 2:
            found.append((sides[0], sides[1]))
    return found


def losing(facts: Sequence[Facts]) -> dict[int, list[int]]:
    """Row → the rows that contradict it, for rows to remove: the minority of each contradiction, and both sides of a
    tie, because nothing tells which is right."""
    found: dict[int, list[int]] = {}
    for more, fewer in contradictions(facts):
        for row in fewer:
            found.setdefault(row, more)
        if len(more) == len(fewer):
            for row in more:
                found.setdefault(row, fewer)
    return found


def both_sides(facts: Sequence[Facts], opposed: Collection[int]) -> set[int]:
    """Rows of pairs with an answer that wins there and loses elsewhere, or the other way round.

    Args:
        opposed: rows of contradictions, which do not count here.
    """
    places: dict[tuple[int, int], dict[float, list[int]]] = defaultdict(lambda: defaultdict(list))
    for f in facts:
        if f.row in opposed or {a.rank for a in f.answers} != {1.0, 2.0}:
            continue
        for a in f.answers:
            assert a.rank is not None
            places[f.prompt, a.key][a.rank].append(f.row)
    return {row for sides in places.values() if len(sides) == 2 for rows in sides.values() for row in rows}


def check(facts: Sequence[Facts]) -> list[Finding]:
    """All checks of this family; none for rows without judgements."""
    judged = [f for f in facts if f.label is not None or any(a.rank is not None for a in f.answers)]
    if not judged:
        return []
    pairs = contradictions(judged)
    opposed = {row for sides in pairs for rows in sides for row in rows}
    found = [_contradictions(judged, pairs, opposed)]
    if any(f.label is None for f in judged):
        found += [_both_sides(judged, opposed), _hardly_different(judged)]
    return found


def _contradictions(
    facts: Sequence[Facts], pairs: Sequence[tuple[list[int], list[int]]], rows: Collection[int]
) -> Finding:
    shown = {f.row: f.shown for f in facts}
    share = len(rows) / len(facts)
    feedback = any(f.label is not None for f in facts)
    votes = "" if feedback else ", or write one row with `votes`"
    what = "the same answer is liked and disliked" if feedback else "the same two answers are judged both ways round"
    return Finding(
        check="contradictions",
        title="contradictory judgements",
        verdict=grade(share, fail=SOME),
        count=len(rows),
        of=len(facts),
        share=share,
        detail=f"{what}, {'once' if len(pairs) == 1 else f'{len(pairs):,} times'}",
        numbers={"times": len(pairs)},
        examples=first(([more[0], fewer[0]], shown[fewer[0]]) for more, fewer in pairs),
        mend=f"look at them{votes}; --fix keeps the majority, and neither side of a tie",
        fixed=True,
    )


def _both_sides(facts: Sequence[Facts], opposed: Collection[int]) -> Finding:
    rows = both_sides(facts, opposed)
    share = len(rows) / len(facts)
    return Finding(
        check="both_sides",
        title="answers both chosen and rejected",
        verdict=grade(share, warn=BOTH_SIDES_WARN),
        count=len(rows),
        of=len(facts),
        share=share,
        detail="an answer is chosen in one row and rejected in another, against different answers: a chain of pairs is "
        "fine for methods on pairs, but pairs_to_feedback can use neither side",
        examples=first(([f.row], f.shown) for f in facts if f.row in rows),
        mend="nothing, for methods on pairs; a ranking says it better (`plaudit reward` takes rankings)",
    )


def _hardly_different(facts: Sequence[Facts]) -> Finding:
    rows = [
        f for f in facts
        if any(a.loose == b.loose and a.rank != b.rank for i, a in enumerate(f.answers) for b in f.answers[:i])
    ]  # fmt: skip
    share = len(rows) / len(facts)
    return Finding(
        check="hardly_different",
        title="answers that hardly differ",
        verdict=grade(share),
        count=len(rows),
        of=len(facts),
        share=share,
        detail="two answers of a row differ in white space, case or punctuation only: that is what would be learned",
        examples=first(([f.row], f.shown) for f in rows),
        mend="leave them out, unless form is what you judge",
    )
