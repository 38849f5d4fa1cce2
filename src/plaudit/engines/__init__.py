"""Rollout engines: prompts in, sampled completions out, token for token.

`base` holds the contract, `hf` an engine on transformers' ``generate``. Nothing here imports torch at import time.
"""

from plaudit.engines.base import RolloutEngine, Sampling

__all__ = ["RolloutEngine", "Sampling"]
