"""Position embeddings whose frequencies depend on the longest position of a forward pass.

Longrope (Phi-3) uses one set of frequencies while everything fits the original context and another beyond it. In a
packed row a short group would then be scored differently next to a long one. So each piece has a regime, decided by
its own longest sequence, and only pieces of one regime share a forest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from plaudit.errors import ModelError
from plaudit.forest.layout import Piece, context_ids

_SWITCHING = {"longrope"}
_STATEFUL = {"dynamic"}


@dataclass(frozen=True, slots=True)
class PositionRegime:
    """Regime of a piece: 0 within the original context, 1 beyond it."""

    original: int | None = None
    """Positions of the original context, when the model distinguishes; None = one regime."""
    stateful: bool = False
    """Frequencies depend on what was seen before (dynamic NTK); nothing beyond `original` can be scored
    reproducibly."""

    @classmethod
    def of(cls, config: Any) -> PositionRegime:
        text = config.get_text_config()
        rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
        layers = [rope, *(v for v in rope.values() if isinstance(v, dict))]
        kinds = {p.get("rope_type", p.get("type")) for p in layers}
        if not kinds & (_STATEFUL | _SWITCHING):
            return cls()
        key = "original_max_position_embeddings"
        original = next((p[key] for p in layers if p.get(key)), None)
        original = original or getattr(text, key, None) or text.max_position_embeddings
        return cls(int(original), stateful=bool(kinds & _STATEFUL))

    def __call__(self, piece: Piece, bos_id: int | None = None) -> int:
        """The regime of a piece; `bos_id` as in `build_forest`.

        Raises:
            ModelError: PL307 for a long sequence under dynamic NTK scaling.
        """
        if self.original is None:
            return 0
        context = len(context_ids(piece.group, bos_id))
        longest = context + max((len(c.token_ids) for c in piece.members()), default=0)
        if longest <= self.original:
            return 0
        if self.stateful:
            raise ModelError(
                "PL307",
                f"a sequence of {longest} tokens is longer than {self.original}, and this model's dynamic position "
                "scaling makes such scores depend on what was computed before",
                where=str(piece.group.source or f"group {piece.index}"),
                mend=f"set data.max_length={self.original}",
            )
        return 1

    def floor(self, regime: int) -> int | None:
        """A position that a forest of this regime must contain, so that the model takes the right frequencies."""
        return self.original if regime == 1 else None
