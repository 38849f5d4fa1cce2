"""Findings that are told row by row: counted from the facts' problems and flags."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from plaudit.data.doctor.facts import Facts
from plaudit.data.doctor.findings import Finding, first, grade, percent
from plaudit.data.doctor.personal import KINDS
from plaudit.data.doctor.thresholds import LONE_SYSTEM_PROMPT, QUOTES_WARN, SOME


@dataclass(frozen=True, slots=True)
class _Kind:
    check: str
    title: str
    detail: str
    mend: str
    reasons: tuple[str, ...] = ()
    warn: float = 0.0
    fail: float | None = SOME
    fixed: bool = True


UNUSABLE = (
    _Kind(
        "empty", "empty prompts or answers", "nothing in it, or white space only: training refuses the file",
        "leave them out (data.invalid: drop does it while training)", ("empty",), fail=0.0,
    ),
    _Kind(
        "identical_pairs", "identical answers", "two answers that are judged differently are the same: training "
        "refuses the file", "leave them out", ("identical",), fail=0.0,
    ),
    _Kind(
        "self_contradictions", "rows against themselves", "by the row's own votes or preference the rejected answer is "
        "the better one: training refuses the file", "swap the answers, or leave the rows out", ("contradicts",),
        fail=0.0,
    ),
    _Kind(
        "no_signal", "rankings that rank nothing", "one answer, or all tied: training refuses the file",
        "leave them out", ("no_signal",), fail=0.0,
    ),
    _Kind(
        "malformed", "malformed rows", "missing columns or values, or values of the wrong type: training refuses the "
        "file", "mend them by hand; --fix leaves them out", ("columns", "missing", "wrong_type"), fail=0.0,
    ),
)  # fmt: skip
"""Rows that the readers refuse, by the readers' own reasons."""
CHECK_OF = {reason: kind.check for kind in UNUSABLE for reason in kind.reasons}
"""Reason of the readers → check."""

FLAGGED = (
    _Kind(
        "prompt_leak", "answers that begin with their prompt", "the model would learn to repeat the question",
        "cut the prompt off the answers",
    ),
    _Kind(
        "prompt_quoted", "answers that contain their prompt", "right for rewriting and proof-reading",
        "look at a few", warn=QUOTES_WARN, fail=None, fixed=False,
    ),
    _Kind(
        "special_tokens", "special tokens as text", "a chat template's control tokens in a message or an answer: "
        "tokenizers make real ones of them, and the answer ends, or another turn begins, where none should",
        "cut them off; --fix does so at both ends of an answer, and leaves rows out that have them inside",
    ),
    _Kind(
        "rendered_prompts", "prompts rendered by hand", "text prompts that hold a chat template's tokens: they are "
        "used as they are, and fit one family of models only",
        "give messages (role, content) instead, or make sure that it is your model's template", fail=None, fixed=False,
    ),
    _Kind(
        "role_markers", "turns inside answers", "a line of an answer begins with Human:, User:, ### Instruction or the "
        "like: it may go on with somebody else's turn", "cut the answers there", fail=None, fixed=False,
    ),
    _Kind(
        "turn_order", "conversations out of order", "users and assistants do not take turns, or a system message is "
        "not the first: several templates refuse that", "join or remove messages", fail=None, fixed=False,
    ),
    _Kind(
        "mojibake", "wrongly decoded text", "UTF-8 that was read as Windows-1252 or Latin-1 (Ã© for é)",
        "decode it rightly",
    ),
    _Kind(
        "replacement_characters", "replacement characters", "what stood at � (or half a surrogate pair) is lost",
        "get the text from its source again; --fix leaves the rows out",
    ),
    _Kind(
        "invisible_characters", "invisible characters", "byte order marks, zero-width spaces or control characters",
        "remove them",
    ),
)  # fmt: skip


def unusable(facts: Sequence[Facts]) -> list[Finding]:
    """Rows that the readers refuse.

    Args:
        facts: of all rows.
    """
    found = []
    for kind in UNUSABLE:
        rows = [(f.row, f.problem) for f in facts if f.problem is not None and f.problem[0] in kind.reasons]
        found.append(_finding(kind, len(rows), len(facts), [(row, detail) for row, (_, detail) in rows]))
    return found


def flagged(facts: Sequence[Facts]) -> list[Finding]:
    """Faults inside the texts of usable rows."""
    found = []
    for kind in FLAGGED:
        rows = [(f.row, f.flags[kind.check]) for f in facts if kind.check in f.flags]
        found.append(_finding(kind, len(rows), len(facts), rows))
    return found


def _finding(kind: _Kind, count: int, of: int, rows: Sequence[tuple[int, str]]) -> Finding:
    share = count / of if of else 0.0
    return Finding(
        check=kind.check,
        title=kind.title,
        verdict=grade(share, warn=kind.warn, fail=kind.fail),
        count=count,
        of=of,
        share=share,
        detail=kind.detail,
        examples=first(([row], text) for row, text in rows),
        mend=kind.mend,
        fixed=kind.fixed,
    )


def private(facts: Sequence[Facts]) -> list[Finding]:
    """Personal data. Account and card numbers (their checksums are right) and keys fail; the rest warns."""
    found = []
    for kind, title in KINDS.items():
        rows = [f for f in facts if kind in f.values]
        values = sum(f.values[kind] for f in rows)
        share = len(rows) / len(facts) if facts else 0.0
        found.append(
            Finding(
                check=kind,
                title=title,
                verdict=grade(share, fail=0.0 if kind in ("ibans", "cards", "secrets") else None),
                count=len(rows),
                of=len(facts),
                share=share,
                detail=f"{values:,} value{'s' if values > 1 else ''}: a model can repeat what it was trained on",
                numbers={"values": values},
                examples=first(([f.row], f.flags[kind]) for f in rows),
                mend="revoke the keys; then mask or leave out"
                if kind == "secrets"
                else "mask them, or leave the rows out",
                fixed=True,
            )
        )
    return found


def system_prompts(facts: Sequence[Facts]) -> list[Finding]:
    """How many different system prompts there are, and whether some rows lack one; nothing for text."""
    chats = [f for f in facts if f.chat]
    if not chats:
        return []
    with_one = [f for f in chats if f.system is not None]
    share = len(with_one) / len(chats)
    different = Counter(f.system for f in with_one)
    few = 0 < share < LONE_SYSTEM_PROMPT or 1 - LONE_SYSTEM_PROMPT < share < 1
    odd = [f for f in chats if (f.system is None) == (share > 0.5)] if few else []
    detail = f"{percent(share)} of the conversations have one; {len(different):,} different"
    if different:
        detail += f", the most frequent in {percent(different.most_common(1)[0][1] / len(chats))}"
    return [
        Finding(
            check="system_prompts",
            title="system prompts",
            verdict="WARN" if few else "OK",
            count=len(odd) if few else len(with_one),
            of=len(chats),
            share=len(odd) / len(chats) if few else share,
            detail=detail,
            numbers={"with": len(with_one), "different": len(different)},
            examples=first(([f.row], f.flags.get("system_prompt", f"none: {f.shown}")) for f in odd),
            mend="give all rows one, or none, unless the difference is meant",
        )
    ]
