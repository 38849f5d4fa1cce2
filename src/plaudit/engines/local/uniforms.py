"""Random numbers that belong to a completion, not to a batch.

The number behind a token is a function of the completion's key and the token's index: whatever else is generated beside
it, in which order, and whether it was interrupted, the completion draws the same numbers. There is no generator state.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from plaudit.types import Tokens

Keys = np.ndarray[Any, np.dtype[np.uint64]]

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))


def completion_key(seed: int, prompt: Tokens, occurrence: int, sample: int) -> int:
    """The key of one completion.

    Args:
        occurrence: how many times the same prompt came before in the same call, so that a repeated prompt does not
            repeat its completions.
        sample: number of the completion among those of its prompt.
    """
    digest = hashlib.blake2b(digest_size=8)
    digest.update(f"{seed}:{occurrence}:{sample}:".encode())
    digest.update(np.ascontiguousarray(prompt, dtype=np.int64).tobytes())
    return int.from_bytes(digest.digest(), "little")


def uniforms(keys: Keys, index: Keys) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Numbers in [0, 1) with 53 random bits, a pure function of (key, index).

    SplitMix64 (Steele, Lea & Flood 2014) read at position `index`: its state after i steps is key + i·γ, so any
    position is reached at once. Keys are hashes, so no two streams overlap by design.
    """
    with np.errstate(over="ignore"):
        x = keys + (index + np.uint64(1)) * _STEP
        for shift, factor in _MIX:
            x = (x ^ (x >> shift)) * factor
        x = x ^ (x >> np.uint64(31))
    found: np.ndarray[Any, np.dtype[np.float64]] = (x >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return found
