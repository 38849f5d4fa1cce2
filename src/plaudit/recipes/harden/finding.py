"""One round's search: sample, score, select, ask the gold reward, and write the pairs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plaudit.data.convert_file import json_lines
from plaudit.data.turns import Turns
from plaudit.recipes.harden.candidates import Candidates, collect, sample
from plaudit.recipes.harden.cases import Case
from plaudit.recipes.harden.gold import Gold, ask_gold
from plaudit.recipes.harden.members import Member
from plaudit.recipes.harden.options import Options
from plaudit.recipes.harden.report import Found, PolicyCount
from plaudit.recipes.harden.scores import Scores, score_items
from plaudit.recipes.harden.selection import Array, Criterion, Mask, Scale, Verdict, bars, best_of_each, judge
from plaudit.rewards.models.conversations import Item
from plaudit.rewards.models.model import ScoringOptions
from plaudit.runs.jsonl import write_atomically
from plaudit.runs.rundir import read_json

DETAILS = "adversarial"
"""The column of the pairs with what is known about them; training keeps it and does not read it."""


@dataclass(frozen=True, slots=True)
class Places:
    """The files of a round: pairs to train on, pairs to measure on, and a folder for the rest."""

    adversarial: Path
    held_out: Path
    folder: Path

    @property
    def found(self) -> Path:
        """Written when the round's search is done."""
        return self.folder / "found.json"

    @classmethod
    def of(cls, output: Path, number: int) -> Places:
        more = "" if number == 1 else f"-{number}"
        return cls(output / f"adversarial{more}.jsonl", output / f"held-out{more}.jsonl", output / f"round-{number}")


@dataclass(frozen=True, slots=True)
class Search:
    """What is searched, and with what."""

    round: int
    policies: Sequence[str]
    members: Sequence[Member]
    cases: Sequence[Case]
    criterion: Criterion
    options: Options
    files: Sequence[str]
    """names of the data's sources"""


def answers(search: Search, places: Places, on_message: Callable[[str], None]) -> list[Path]:
    """The policies' answers of a round, a file for each policy; what is there already is not sampled again.

    Raises:
        PlauditError: whatever sampling raises.
    """
    places.folder.mkdir(parents=True, exist_ok=True)
    options = search.options
    return sample(
        search.policies,
        search.cases,
        places.folder,
        n=options.n,
        sampling=options.sampling.model_copy(update={"seed": options.sampling.seed + 1000 * (search.round - 1)}),
        precision=options.precision,
        system=options.system,
        on_message=on_message,
    )


def find(search: Search, places: Places, on_message: Callable[[str], None]) -> Found:
    """Search, and write both files of pairs; once that is done they are never written again.

    Raises:
        PlauditError: whatever sampling, scoring and the gold reward raise.
    """
    done = read_json(places.found)
    if done is not None:
        return Found.of(done)
    options = search.options
    files = answers(search, places, on_message)
    candidates = collect(files, search.cases, options.n, keep_truncated=options.keep_truncated)
    judged = _judged(search, candidates, places, on_message)
    gold = _gold(search, candidates, judged.verdict, places)
    found, rows = _settled(search, candidates, judged, gold)
    for path, held_out in ((places.adversarial, False), (places.held_out, True)):
        write_atomically(path, "".join(json_lines(row for out, row in rows if out == held_out)))
    write_atomically(places.found, json.dumps(asdict(found), indent=2) + "\n")
    return found


@dataclass(frozen=True, slots=True)
class _Judged:
    """Scores of a round.

    Attributes:
        raw_MN: of the candidates.
        chosen: [case][chosen answer] standardised.
    """

    scale: Scale
    raw_MN: Array
    verdict: Verdict
    chosen: list[list[float]]
    reference: int


def _judged(search: Search, candidates: Candidates, places: Places, on_message: Callable[[str], None]) -> _Judged:
    cases, options = search.cases, search.options
    answers = candidates.of_case(len(cases))
    items: list[Item] = [(c.prompt, [*c.reference, *more]) for c, more in zip(cases, answers, strict=True)]
    scores = score_items(
        search.members,
        items,
        places.folder,
        "scores",
        options=scoring(options),
        precision=options.precision,
        on_message=on_message,
    )
    sizes = [len(c.reference) for c in cases]
    reference_MR = _part(scores, [(0, size) for size in sizes])
    raw_MN = _part(scores, [(size, None) for size in sizes])
    scale = Scale.of(reference_MR, search.criterion, options.divergence, search.files)
    standard = iter(scale.score(reference_MR).tolist())
    chosen = []
    for case in cases:
        values = [next(standard) for _ in case.reference]
        chosen.append(values[: len(case.chosen)])
    bar = np.array(bars(chosen, options.quantile), dtype=np.float64)
    of = np.array([c.case for c in candidates.found], dtype=np.intp)
    return _Judged(scale, raw_MN, judge(scale, raw_MN, bar[of], options.z), chosen, reference_MR.shape[1])


def scoring(options: Options) -> ScoringOptions:
    """How members read."""
    return ScoringOptions(tokens=options.tokens, overlong=options.overlong)


def _part(scores: Sequence[Scores], ranges: Sequence[tuple[int, int | None]]) -> Array:
    """[M, N] of every item the answers in its range."""
    found = [[s for row, (a, b) in zip(items, ranges, strict=True) for s in row[a:b]] for items in scores]
    return np.array(found, dtype=np.float64).reshape(len(scores), -1)


def _gold(search: Search, candidates: Candidates, verdict: Verdict, places: Places) -> Gold | None:
    if not search.options.gold:
        return None
    asked = np.flatnonzero(verdict.adversarial).tolist()
    return ask_gold(list(search.options.gold), search.cases, candidates.found, asked, places.folder / "gold.jsonl")


def _settled(
    search: Search, candidates: Candidates, judged: _Judged, gold: Gold | None
) -> tuple[Found, list[tuple[bool, dict[str, Any]]]]:
    """The counts, and the pairs: (held out, row)."""
    verdict, found = judged.verdict, candidates.found
    wrong = np.array([_fate(i, found[i].case, gold) for i in range(len(found))], dtype=object)
    wanted: Mask = verdict.adversarial & (wrong == "wrong")
    kept = best_of_each([c.case for c in found], verdict.score, wanted, search.options.per_prompt)
    counts = [
        PolicyCount(policy, candidates.sampled[p], **candidates.not_used[p]) for p, policy in enumerate(search.policies)
    ]
    rows = []
    for i, candidate in enumerate(found):
        count = counts[candidate.policy]
        if not verdict.high[i]:
            count.low += 1
        elif not verdict.unusual[i]:
            count.usual += 1
        elif wrong[i] != "wrong":
            setattr(count, wrong[i], getattr(count, wrong[i]) + 1)
        elif not kept[i]:
            count.over_limit += 1
        else:
            held_out = search.cases[candidate.case].held_out
            count.held_out += held_out
            count.added += not held_out
            rows.append((held_out, _pair(search, judged, gold, candidates, i)))
    _add_means(counts, candidates, verdict, gold)
    scale = judged.scale
    chosen = [s for scores in judged.chosen for s in scores]
    out = Found(
        search.round,
        len(search.cases),
        sum(c.held_out for c in search.cases),
        [m.source for m in search.members],
        judged.reference,
        scale.mean,
        scale.std,
        float(np.mean(chosen)),
        counts,
    )
    return out, rows


def _fate(i: int, case: int, gold: Gold | None) -> str:
    """What the gold reward says of a candidate: "wrong" is an adversarial answer, "right" is a good one."""
    if gold is None or i not in gold.candidates:
        return "wrong"
    value, best = gold.candidates[i], gold.best_chosen(case)
    if value is None or best is None:
        return "unknown"
    return "right" if value >= best[1] else "wrong"


def _add_means(counts: Sequence[PolicyCount], candidates: Candidates, verdict: Verdict, gold: Gold | None) -> None:
    of = np.array([c.policy for c in candidates.found], dtype=np.intp)
    for p, count in enumerate(counts):
        mine = of == p
        if mine.any():
            count.mean_score = float(verdict.score[mine].mean())
            count.mean_z = float(verdict.z[mine].mean())
        values = [] if gold is None else [v for i, v in gold.candidates.items() if of[i] == p and v is not None]
        count.mean_gold = float(np.mean(values)) if values else None


def _pair(search: Search, judged: _Judged, gold: Gold | None, candidates: Candidates, i: int) -> dict[str, Any]:
    """A row for training. The chosen answer is the gold reward's best one, else the one with the highest score."""
    candidate = candidates.found[i]
    case, scores = search.cases[candidate.case], judged.chosen[candidate.case]
    best = None if gold is None else gold.best_chosen(candidate.case)
    place = max(range(len(scores)), key=lambda k: (scores[k], -k)) if best is None else best[0]
    standard = judged.scale.standard(judged.raw_MN[:, i : i + 1])[:, 0]
    details: dict[str, Any] = {
        "policy": search.policies[candidate.policy],
        "round": search.round,
        "score": _short(judged.verdict.score[i]),
        "chosen_score": _short(scores[place]),
        "z": _short(judged.verdict.z[i]),
        "member_scores": [_short(s) for s in standard],
    }
    if best is not None and gold is not None:
        details |= {"gold": gold.candidates[i], "chosen_gold": best[1]}
    answers = {"chosen": _plain(case.chosen[place]), "rejected": _plain(candidate.answer)}
    return {"prompt": _plain(case.prompt), **answers, DETAILS: details}


def _short(value: float) -> float:
    """Enough digits for people."""
    return round(float(value), 4)


def _plain(turns: Turns) -> Any:
    return turns if isinstance(turns, str) else [m.model_dump(exclude_none=True) for m in turns]
