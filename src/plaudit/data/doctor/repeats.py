"""Rows that say again what an earlier row said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from plaudit.data.doctor.facts import Facts
from plaudit.data.doctor.findings import Finding, first, grade
from plaudit.data.doctor.thresholds import (
    BAND_ANSWER,
    BAND_PROMPT,
    BANDS,
    DUPLICATES_FAIL,
    FEWEST_WORDS,
    NEIGHBOURS,
    PERMUTATIONS,
    SIMILAR,
)

Digests = npt.NDArray[np.uint32]
Pairs = npt.NDArray[np.int64]
_AT_ONCE = 1 << 15
"""Pairs of digests that are compared in one go: 32 MiB."""


def duplicates(facts: Sequence[Facts]) -> dict[int, int]:
    """Row → the first row with the same prompt, answers and judgement, up to white space."""
    seen: dict[object, int] = {}
    found: dict[int, int] = {}
    for f in facts:
        said = (f.prompt, tuple(sorted((a.standing, a.key) for a in f.answers)))
        earlier = seen.setdefault(said, f.row)
        if earlier != f.row:
            found[f.row] = earlier
    return found


def near_duplicates(facts: Sequence[Facts]) -> dict[int, tuple[int, float]]:
    """Row → (an earlier row that it resembles, similarity), for rows that are no exact duplicates.

    Prompt and answers both have to be similar, and their numbers the same: "12 + 30" and "12 + 31" are two tasks. Of
    rows that resemble each other the first stays; a row is compared with rows that stay only, so nothing is removed
    because of a row that is gone.
    """
    exact = duplicates(facts)
    rows = [f for f in facts if f.row not in exact]
    found: dict[int, tuple[int, float]] = {}
    seen: dict[object, int] = {}
    for f in rows:
        said = (f.prompt_loose, tuple(sorted((a.standing, a.loose) for a in f.answers)))
        if f.words:
            earlier = seen.setdefault(said, f.row)
            if earlier != f.row:
                found[f.row] = (earlier, 1.0)
    rows = [f for f in rows if f.row not in found and f.words >= FEWEST_WORDS]
    for i, j, similarity in similar(rows):
        if rows[i].row not in found and rows[j].row not in found:
            found[rows[j].row] = (rows[i].row, similarity)
    return found


def similar(rows: Sequence[Facts]) -> Iterator[tuple[int, int, float]]:
    """(i, j, similarity) with i < j of rows whose prompts and answers are both similar, in the order of j."""
    if len(rows) < 2:
        return
    prompts = matrix([f.prompt_digest for f in rows])
    answers = matrix([f.answer_digest for f in rows])
    numbers = np.array([f.numbers for f in rows], dtype=np.uint64)
    pairs = candidates(prompts, answers)
    pairs = pairs[numbers[pairs[:, 0]] == numbers[pairs[:, 1]]]
    likeness = np.minimum(equal_slots(prompts, prompts, pairs), equal_slots(answers, answers, pairs))
    for (i, j), value in zip(pairs.tolist(), likeness.tolist(), strict=True):
        if value >= SIMILAR:
            yield i, j, value


def matrix(found: Sequence[bytes]) -> Digests:
    """[n, PERMUTATIONS] of n digests."""
    return np.frombuffer(b"".join(found), dtype=np.uint32).reshape(len(found), PERMUTATIONS)


def candidates(prompts: Digests, answers: Digests) -> Pairs:
    """[m, 2] pairs i < j of rows that share a band of values, ordered by j, then i (locality-sensitive hashing)."""
    keys = np.array(
        [
            np.bitwise_xor(_mixed(prompts, band, BAND_PROMPT), _mixed(answers, band, BAND_ANSWER) * np.uint64(3))
            for band in range(BANDS)
        ]
    )
    found = [_neighbours(row) for row in keys]
    joined = np.unique(np.concatenate(found), axis=0)
    return joined[np.lexsort((joined[:, 0], joined[:, 1]))]


def _mixed(found: Digests, band: int, width: int) -> npt.NDArray[np.uint64]:
    """A 64-bit value of `width` slots of each row."""
    mixed = np.zeros(len(found), dtype=np.uint64)
    for slot in range(band * width, (band + 1) * width):
        mixed = (mixed ^ found[:, slot % PERMUTATIONS]) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return mixed


def _neighbours(keys: npt.NDArray[np.uint64]) -> Pairs:
    """Pairs of rows with one key: each with the first of them, and with up to `NEIGHBOURS` before it."""
    order = np.argsort(keys, kind="stable")
    ranked = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    heads = np.repeat(starts, np.diff(np.concatenate([starts, [len(ranked)]])))
    place = np.arange(len(ranked))
    found = []
    for back in range(1, NEIGHBOURS + 1):
        inside = place - back >= heads
        found.append(np.stack([order[place[inside] - back], order[place[inside]]], axis=1))
    behind = place - NEIGHBOURS > heads
    found.append(np.stack([order[heads[behind]], order[place[behind]]], axis=1))
    return np.concatenate(found)


def equal_slots(left: Digests, right: Digests, pairs: Pairs) -> npt.NDArray[np.float64]:
    """Share of equal slots of `left[i]` and `right[j]`: the estimated Jaccard similarity."""
    found = np.empty(len(pairs))
    for start in range(0, len(pairs), _AT_ONCE):
        part = pairs[start : start + _AT_ONCE]
        found[start : start + _AT_ONCE] = (left[part[:, 0]] == right[part[:, 1]]).mean(axis=1)
    return found


def check(facts: Sequence[Facts]) -> list[Finding]:
    """Both checks."""
    shown = {f.row: f.shown for f in facts}
    exact, near = duplicates(facts), near_duplicates(facts)
    n = len(facts)
    share, near_share = (len(exact) / n, len(near) / n) if n else (0.0, 0.0)
    return [
        Finding(
            check="duplicates",
            title="duplicates",
            verdict=grade(share, fail=DUPLICATES_FAIL),
            count=len(exact),
            of=n,
            share=share,
            detail="rows that repeat an earlier row: the same prompt, answers and judgement, up to white space",
            examples=first(([earlier, row], shown[row]) for row, earlier in exact.items()),
            mend="keep one; if several people judged the same answers, one row with their votes says more",
            fixed=True,
        ),
        Finding(
            check="near_duplicates",
            title="near duplicates",
            verdict=grade(near_share, fail=DUPLICATES_FAIL),
            count=len(near),
            of=n,
            share=near_share,
            detail=f"prompt and answers both resemble those of an earlier row (MinHash of {PERMUTATIONS} slots: an "
            f"estimated Jaccard similarity of {SIMILAR} or more and the same numbers), or differ in case and "
            "punctuation only",
            examples=first(
                ([earlier, row], f"similarity {likeness:.2f}: {shown[row]}")
                for row, (earlier, likeness) in near.items()
            ),
            mend="keep one",
            fixed=True,
        ),
    ]
