"""A judge that knows better than the reward model: it looks at what seems adversarial before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plaudit.data.turns import Turns
from plaudit.recipes.harden.candidates import Candidate
from plaudit.recipes.harden.cases import Case


@dataclass(frozen=True, slots=True)
class Gold:
    """What the judge says.

    Attributes:
        candidates: value of each candidate that was asked about; None where it gave none.
        chosen: [case] values of the chosen answers, for the cases that were asked about.
    """

    candidates: dict[int, float | None]
    chosen: dict[int, list[float | None]]

    def best_chosen(self, case: int) -> tuple[int, float] | None:
        """(place, value) of the chosen answer with the greatest value, of equal ones the first; None without any."""
        values = [(v, -i) for i, v in enumerate(self.chosen[case]) if v is not None]
        if not values:
            return None
        value, place = max(values)
        return -place, value


def ask_gold(
    spec: Any, cases: Sequence[Case], candidates: Sequence[Candidate], asked: Sequence[int], file: Path
) -> Gold:
    """Ask about some candidates, and about the chosen answers of their prompts.

    Args:
        spec: one or several rewards, in the forms of `plaudit.api.score`.
        asked: numbers of candidates.
        file: what it says is kept here, and not asked again.

    Raises:
        PlauditError: PL100, PL102 for the rewards; PL706, too many answers have no value; PL709.
    """
    from plaudit.rewards.interface import score

    order = sorted({candidates[i].case for i in asked})
    rows, places = [], list[tuple[str, int, int]]()
    for case in order:
        for place, answer in enumerate(cases[case].chosen):
            rows.append(_row(cases[case], answer, None, "stop"))
            places.append(("chosen", case, place))
    for i in asked:
        c = candidates[i]
        rows.append(_row(cases[c.case], c.answer, c.tokens, c.finish_reason))
        places.append(("candidate", i, 0))
    found = Gold({}, {case: [None] * len(cases[case].chosen) for case in order})
    if not rows:
        return found
    for _ in score(rows, spec, output=file):
        pass
    for (what, number, place), value in zip(places, _values(file), strict=True):
        if what == "chosen":
            found.chosen[number][place] = value
        else:
            found.candidates[number] = value
    return found


def _row(case: Case, answer: Turns, tokens: int | None, finish: str) -> dict[str, Any]:
    reserved = {"score", "score_parts", "score_error", "score_note"}
    row = {name: value for name, value in case.extras.items() if name not in reserved}
    row |= {"prompt": _plain(case.prompt), "completion": _plain(answer), "finish_reason": finish}
    return row | ({} if tokens is None else {"tokens": tokens})


def _plain(turns: Turns) -> Any:
    return turns if isinstance(turns, str) else [m.model_dump(exclude_none=True) for m in turns]


def _values(file: Path) -> list[float | None]:
    return [json.loads(line)["score"] for line in file.read_text(encoding="utf-8").split("\n")[:-1]]
