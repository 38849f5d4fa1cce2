"""The prompts of the data with their chosen and rejected answers, and which of them are held out."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from plaudit.data.book import Invalid
from plaudit.data.records import RankingRecord
from plaudit.data.recordset import RecordSet, Sources, read_records
from plaudit.data.turns import Message, Turns, turns_key
from plaudit.errors import DataError
from plaudit.rewards.models.accuracy import Ranked
from plaudit.rewards.models.conversations import Item

Place = tuple[str, int]
"""File and row."""


@dataclass(frozen=True, slots=True)
class Case:
    """A prompt, once, with all that its rows hold.

    Attributes:
        chosen: different answers that no other of their row is better than.
        rejected: different answers that are worse than another of their row.
        extras: the further columns of the prompt's first row.
        held_out: its adversarial answers are only measured on.
    """

    prompt: Turns
    chosen: list[Turns]
    rejected: list[Turns]
    extras: dict[str, Any] = field(default_factory=dict)
    held_out: bool = False

    @property
    def reference(self) -> list[Turns]:
        """All answers of the data, each once, the chosen ones first."""
        known = {answer_key(a) for a in self.chosen}
        return [*self.chosen, *(a for a in self.rejected if answer_key(a) not in known)]


@dataclass(slots=True)
class Cases:
    """The prompts of some sources.

    Attributes:
        cases: in the order of their first rows.
        tied: rows of which no answer is better than another.
        left_out: prompts beyond a limit.
        files: the sources' names.
    """

    cases: list[Case]
    tied: int = 0
    left_out: int = 0
    files: list[str] = field(default_factory=list)
    dropped: int = 0

    @property
    def notes(self) -> list[str]:
        """What is not used, in sentences."""
        found = [
            (self.dropped, "rows could not be used and are left out"),
            (self.tied, "rows are ties and have no chosen answer"),
            (self.left_out, "prompts are left out: there are more than max_prompts"),
        ]
        return [f"{count} {what}" for count, what in found if count]


def read_cases(
    sources: Sources,
    *,
    held_out: float,
    own_held_out: Collection[Place] = (),
    limit: int | None = None,
    invalid: Invalid = "error",
) -> Cases:
    """Read pairs and rankings, and put the rows of each prompt together.

    Args:
        held_out: share of the prompts that is held out, by hash: a prompt is on the same side whatever else is there.
        own_held_out: rows that the training run holds out itself; their prompts are held out here too.
        limit: take so many prompts, those whose hashes are the smallest behind the held-out ones' (a fixed sample).
        invalid: what becomes of rows that cannot be used.

    Raises:
        DataError: PL2xx reading; PL204, a row has tools or variables for the chat template; PL207, all rows are ties.
    """
    found = read_records(sources, "ranking", has_template=True, invalid=invalid)
    out = Cases([], files=[f.path for f in found.files], dropped=found.dropped)
    rows: dict[str, list[tuple[RankingRecord, Place]]] = {}
    for record, source in found:
        _refuse_unwritten(record, str(source))
        if len({rank for rank, _ in record.ranked()}) == 1:
            out.tied += 1
            continue
        rows.setdefault(turns_key(record.prompt), []).append((record, (source.file, source.row)))
    if not rows:
        raise DataError("PL207", "no row is left: all are ties", where=", ".join(out.files), mend="give pairs")
    kept = _limited(list(rows), limit)
    out.left_out = len(rows) - len(kept)
    own = set(own_held_out)
    out.cases = [
        _case([r for r, _ in rows[key]], any(place in own for _, place in rows[key]) or prompt_share(key) < held_out)
        for key in rows
        if key in kept
    ]
    return out


def _refuse_unwritten(record: RankingRecord, where: str) -> None:
    for name in ("tools", "chat_template_kwargs"):
        if getattr(record, name):
            raise DataError(
                "PL204",
                f"the row has {name}, which would be missing from what the policies read",
                where=where,
                mend="leave it out",
            )


def prompt_share(key: str) -> float:
    """A number in [0, 1) that depends on the prompt alone; prompts below a share of it are held out."""
    return int.from_bytes(sha256(key.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64


def _limited(keys: Sequence[str], limit: int | None) -> set[str]:
    """Another hash than the held-out share's chooses: else a small sample would be held out as a whole."""
    if limit is None:
        return set(keys)
    return set(sorted(keys, key=lambda key: prompt_share(f"sample {key}"))[:limit])


def _case(records: Sequence[RankingRecord], held_out: bool) -> Case:
    chosen: dict[str, Turns] = {}
    rejected: dict[str, Turns] = {}
    for record in records:
        order = record.ranked()
        for rank, i in order:
            answer = record.completions[i]
            (chosen if rank == order[0][0] else rejected).setdefault(answer_key(answer), answer)
    extras = records[0].extras
    return Case(records[0].prompt, list(chosen.values()), list(rejected.values()), dict(extras), held_out)


def answer_key(answer: Turns) -> str:
    """Equal for answers that are the same but for white space around them."""
    return turns_key(answer.strip() if isinstance(answer, str) else answer)


def as_answer(text: str, like: Turns) -> Turns:
    """A sampled text in the form of an answer of the data.

    White space in front is made that of the data's answer: a text that lacks the leading space of all chosen answers
    could be told from them by that alone.
    """
    if not isinstance(like, str):
        return [Message(role="assistant", content=text)]
    return like[: len(like) - len(like.lstrip())] + text.lstrip()


def comparisons_of(found: RecordSet[RankingRecord], places: Collection[Place] | None = None) -> Ranked:
    """Every comparison of some rows (None = of all); ties are none."""
    kept: list[tuple[Item, list[tuple[int, int]]]] = []
    for record, source in found:
        if places is not None and (source.file, source.row) not in places:
            continue
        order = record.ranked()
        pairs = [(i, j) for (a, i), (b, j) in itertools.combinations(order, 2) if a < b]
        if pairs:
            kept.append(((record.prompt, record.completions), pairs))
    return kept
