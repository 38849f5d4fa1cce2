"""How often each label is given, and at which place the better answer stood."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from plaudit.data.doctor.findings import Finding, Skipped, percent, wilson
from plaudit.data.doctor.thresholds import FEWEST_COMPARISONS, LABELS_WARN, POSITION_WARN

if TYPE_CHECKING:
    from plaudit.data.doctor.facts import Facts

POSITION_COLUMNS = (
    *("chosen_position", "position", "chosen_side", "side", "chosen_index", "winner", "winner_side"),
    *("preferred", "preferred_side", "choice", "selected", "better"),
)
"""Columns in which tools keep the place of the preferred answer (winner: LMSYS; choice: Label Studio)."""
_FIRST = {"a", "left", "first", "0", "model_a", "response_a", "answer_a", "option_a", "response 1", "answer 1"}
_SECOND = {"b", "right", "second", "1", "model_b", "response_b", "answer_b", "option_b", "response 2", "answer 2"}
_COUNTED = {"1": "first", "2": "second"}
"""Columns that count from 1; told from 0 and 1 by the values of the whole file."""


def position_of(extras: Mapping[str, object]) -> tuple[str, str] | None:
    """(column, value) of the first column that may say where the better answer was shown."""
    for name in POSITION_COLUMNS:
        value = extras.get(name)
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            continue
        text = str(value).strip().lower()
        if text in _FIRST | _SECOND or text in _COUNTED:
            return name, text
    return None


def check(facts: Sequence[Facts]) -> Iterable[Finding | Skipped]:
    """Both checks."""
    return [label_balance(facts), position_balance(facts)]


def label_balance(facts: Sequence[Facts]) -> Finding | Skipped:
    """Liked and disliked answers."""
    title = "label balance"
    labels = Counter(f.label for f in facts if f.label is not None)
    if not labels:
        return Skipped(check="label_balance", title=title, why="only feedback has labels")
    liked, disliked = labels[True], labels[False]
    total = liked + disliked
    smaller, larger = sorted((liked, disliked))
    ratio = larger / smaller if smaller else float(larger)
    weight = "desirable_weight" if liked < disliked else "undesirable_weight"
    if not smaller:
        mend = (
            "add answers of the other label (`plaudit convert PAIRS OUT --to feedback` gives both), or train with sft"
        )
    else:
        mend = f"set method.{weight} (kto, bco), or method.desirable_weight: auto (kto)"
    low, high = wilson(liked, total)
    return Finding(
        check="label_balance",
        title=title,
        verdict="FAIL" if not smaller else "WARN" if ratio > LABELS_WARN else "OK",
        count=liked,
        of=total,
        share=liked / total,
        detail=f"{liked:,} liked, {disliked:,} disliked: {percent(liked / total)} liked "
        f"(95 % interval {percent(low)} – {percent(high)})",
        numbers={"liked": liked, "disliked": disliked, "low": low, "high": high},
        mend=mend,
    )


def position_balance(facts: Sequence[Facts]) -> Finding | Skipped:
    """The place at which the better answer was shown, where a column says so."""
    title = "position balance"
    told = [f.position for f in facts if f.position is not None]
    column = Counter(name for name, _ in told).most_common(1)[0][0] if told else ""
    values = [value for name, value in told if name == column]
    places = _places(values)
    if len(places) < FEWEST_COMPARISONS:
        why = "no column says where the better answer was shown (position, winner, …)" if not told else (
            f"column {column} says it for {len(places)} rows only"
        )  # fmt: skip
        return Skipped(check="position_balance", title=title, why=why)
    hits, n = sum(places), len(places)
    low, high = wilson(hits, n)
    bad = low > 0.5 + POSITION_WARN or high < 0.5 - POSITION_WARN
    return Finding(
        check="position_balance",
        title=title,
        verdict="WARN" if bad else "OK",
        count=hits,
        of=n,
        share=hits / n,
        detail=f"the better answer was shown first in {percent(hits / n)} of {n:,} rows (column {column}; 95 % "
        f"interval {percent(low)} – {percent(high)})",
        numbers={"low": low, "high": high},
        mend="show answers in random order, or have each pair judged in both orders and keep what agrees",
    )


def _places(values: Sequence[str]) -> list[bool]:
    """Whether each was the first place; 1 is the second where 0 occurs, and the first where 2 does."""
    if "2" in values and "0" not in values:
        return [value == "1" or value in _FIRST - {"0"} for value in values]
    if values and set(values) == {"1"}:
        return []  # nothing tells whether it counts from 0 or from 1
    return [value in _FIRST for value in values]
