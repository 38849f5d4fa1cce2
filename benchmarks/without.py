"""Our own techniques, each switched off inside a worker. What a configuration can switch off is not here.

- "sharing": every completion brings its own copy of the prompt. Pairs stay together, so the loss is the same.
- "fused head": log-probs by the model's own head module, chunk by chunk, each recomputed in the backward pass.
- "fused layers": norms, rotary positions and gates by the model's own code.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any


def switch_off(technique: str | None) -> None:
    """Switch one technique off in this process; None leaves everything as it is.

    Raises:
        ValueError: the technique is unknown.
    """
    if technique is None:
        return
    {"sharing": _no_sharing, "fused head": _module_head, "fused layers": _plain_layers}[technique]()


def alone(piece: Any) -> list[Any]:
    """A piece's completions as pieces of their own; the first carries the prompt's targets."""
    return [
        replace(piece, completions=(k,), prompt_targets=piece.prompt_targets and n == 0)
        for n, k in enumerate(piece.completions)
    ]


def _no_sharing() -> None:
    from plaudit.forest import layout
    from plaudit.forest import pack as packing
    from plaudit.train import planning as planned

    pack: Any = packing
    planning: Any = planned
    tokens, build = layout.piece_tokens, layout.build_forest

    def piece_tokens(piece: Any, *args: Any) -> int:
        return sum(tokens(part, *args) for part in alone(piece))

    def build_forest(pieces: Any, **options: Any) -> Any:
        return build([part for piece in pieces for part in alone(piece)], **options)

    # The budget counts the copies too.
    pack.piece_tokens = planning.piece_tokens = piece_tokens
    planning.build_forest = build_forest


def _module_head() -> None:
    from plaudit.models import forest_model

    head: Any = forest_model._LmHead
    made = head.__init__

    def unfused(self: Any, *args: Any) -> None:
        made(self, *args)
        self.fused = False

    head.__init__ = unfused


def _plain_layers() -> None:
    from plaudit.models import forest_model

    model: Any = forest_model
    model.use_fused = lambda _: 0
