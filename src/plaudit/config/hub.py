"""The hub's client, as quiet as the rest."""

from __future__ import annotations

import logging


def quieten() -> None:
    """Let huggingface_hub not tell of every request that it repeats: what comes of it is said once."""
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
