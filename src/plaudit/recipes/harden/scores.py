"""Scores of many answers by several members: one member is in memory at a time, and its scores are kept in a file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from plaudit.data.turns import Turns, turns_key
from plaudit.errors import ConfigError
from plaudit.recipes.harden.members import Member
from plaudit.rewards.models.conversations import Item
from plaudit.rewards.models.model import ScoringOptions
from plaudit.runs.resumable import ResumableFile

_CHUNK = 64
"""Prompts that are scored together: always the same ones, wherever an earlier call was stopped, because the last digits
of a score depend on what lies beside the answer."""

Scores = list[list[float]]
"""[item][answer]"""


def score_items(
    members: Sequence[Member],
    items: Sequence[Item],
    folder: Path,
    name: str,
    *,
    options: ScoringOptions,
    precision: str,
    on_message: Callable[[str], None],
) -> list[Scores]:
    """Raw scores of every member: [member][item][answer].

    Args:
        folder, name: they are kept in `<folder>/<name>-<number>.jsonl`; what is there is not computed again.

    Raises:
        PlauditError: PL3xx and PL701-PL702 from loading, PL705 from scoring; PL102, a file holds something else.
    """
    digest = items_digest(items)
    found = []
    for number, member in enumerate(members):
        path = folder / f"{name}-{number}.jsonl"
        about = {"model": member.source, "items": digest, "tokens": options.tokens, "precision": precision}
        file = _opened(path, about)
        if file.done < len(items):
            _score_rest(file, member, items, options, precision, on_message)
        found.append([list(row["scores"]) for row in file.rows()])
        file.close()
    return found


def _opened(path: Path, about: dict[str, Any]) -> ResumableFile:
    try:
        return ResumableFile(path, about, holds="scores")
    except ConfigError as error:
        raise ConfigError(
            "PL102",
            error.what,
            where=error.where,
            mend="the pairs (or --eval-data) were changed after training on them had begun: name another output "
            "folder, and give --find-only first to edit them",
        ) from error


def _score_rest(
    file: ResumableFile,
    member: Member,
    items: Sequence[Item],
    options: ScoringOptions,
    precision: str,
    say: Callable[[str], None],
) -> None:
    from plaudit.rewards.models.classifier import Classifier

    say(f"scoring {len(items) - file.done} prompts with {member.source}")
    for name in ("plain_text", "append_eos"):
        if name in member.reading:
            options = replace(options, **{name: member.reading[name]})  # type: ignore[arg-type]  # a bool of these two
    model = Classifier.open(member.source, base=member.base, precision=precision, options=options)
    for note in model.notes:
        say(note)
    first = file.done // _CHUNK * _CHUNK

    def fresh() -> Iterator[dict[str, Any]]:
        for start in range(first, len(items), _CHUNK):
            scores = model.raw_score(items[start : start + _CHUNK])
            for number, row in enumerate(scores, start=start):
                if number >= file.done:
                    yield {"scores": row}

    for _ in file.write(fresh()):
        pass
    if model.truncated:
        say(f"{member.source}: {model.truncated} conversations were too long and lost their oldest tokens")


def items_digest(items: Sequence[Item]) -> str:
    """A hash of prompts and answers."""
    digest = hashlib.blake2b(digest_size=16)
    for prompt, answers in items:
        for part in (prompt, *answers):
            digest.update(_key(part).encode("utf-8", "surrogatepass") + b"\0")
        digest.update(b"\1")
    return digest.hexdigest()


def _key(part: Any) -> str:
    turns: Turns = part
    return turns_key(turns)
