"""Hold out whole prompts by hash: a prompt is on the same side whatever rows are added later."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from plaudit.errors import DataError
from plaudit.types import PromptGroup


def split_by_prompt(groups: Sequence[PromptGroup], fraction: float) -> tuple[list[int], list[int]]:
    """Indices of (train, held out) groups, both in the order of `groups`.

    All groups with one prompt are on one side (of texts without one: all that are the same), and so are all groups that
    came from one row (a conversation that became one group per turn): they share the key of the row's first prompt.

    Args:
        fraction: expected share of the prompts that is held out, in [0, 1).

    Raises:
        DataError: PL207, no prompt falls on one of the sides.
    """
    sides: tuple[list[int], list[int]] = ([], [])
    row_key: dict[tuple[str, int], bytes] = {}
    for i, group in enumerate(groups):
        key = _key(group)
        if group.source is not None:
            key = row_key.setdefault((group.source.file, group.source.row), key)
        sides[int.from_bytes(key[:8], "big") / 2**64 < fraction].append(i)
    if fraction > 0 and not all(sides):
        missing = "training" if not sides[0] else "evaluation"
        raise DataError(
            "PL207", f"eval_fraction {fraction:g} leaves no {missing} rows: there are {len(set(map(_key, groups)))} "
            "different prompts", where="data.eval_fraction", mend="give data.eval, or another fraction",
        )  # fmt: skip
    return sides


def _key(group: PromptGroup) -> bytes:
    text = group.prompt_text
    if not text and not len(group.prompt_ids):  # a plain text, of which nothing is asked
        return sha256(b"".join(c.token_ids.tobytes() for c in group.completions)).digest()
    return sha256(text.encode() if text else group.prompt_ids.tobytes()).digest()
