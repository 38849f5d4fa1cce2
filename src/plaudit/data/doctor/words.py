"""Keys that are equal for equal texts, and MinHash digests that are alike for similar ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from plaudit.data.doctor.characters import REPLACED
from plaudit.data.doctor.thresholds import PERMUTATIONS, SHINGLE
from plaudit.data.turns import Turns

_PUNCTUATION = {ord(c): " " for c in ".,!?;:'\"…‘’“”。，！？；："}
"""Sentence punctuation separates words and is none itself. Other signs stay: "2-2" and "2+2" are two things."""
_UNSPACED = re.compile("[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
"""Thai, Japanese, Chinese and Korean: a character is a word."""
_NUMBER = re.compile(r"\d+")
_MIX = np.uint64(0x9E3779B97F4A7C15)
"""2⁶⁴ divided by the golden ratio: multiplying by it spreads the hashes of words over the range (Knuth)."""
_SEED = 1


def words(text: str) -> list[str]:
    """Words in small letters, without sentence punctuation; the digits of "3.5" are two words."""
    lower = text.casefold().translate(_PUNCTUATION)
    if not lower.isascii():
        lower = _UNSPACED.sub(r" \g<0> ", REPLACED.sub("\ufffd", lower))
    return lower.split()


def key(text: str) -> int:
    """64 bits; equal for texts that differ in white space only."""
    return _hash(" ".join(text.split()))


def turns_key(turns: Turns | None) -> int:
    """`key` of text, or of messages with their roles."""
    if turns is None or isinstance(turns, str):
        return key(turns or "")
    said = (f"\x00{m.role}\x01{m.content or ''}\x01{m.tool_calls or ''}" for m in turns)
    return key("".join(said))


def loose_key(found: Sequence[str]) -> int:
    """64 bits; equal for texts with the same words."""
    return _hash(" ".join(found))


def numbers(text: str) -> list[str]:
    """The whole numbers in a text, in their order."""
    return _NUMBER.findall(text)


def numbers_key(numbers: Sequence[str]) -> int:
    """64 bits; 0 where there are none."""
    return _hash(" ".join(numbers)) if numbers else 0


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def digests(groups: Sequence[Sequence[tuple[str, Sequence[str]]]]) -> npt.NDArray[np.uint32]:
    """MinHash digests of the shingles of texts; the share of equal slots estimates the Jaccard similarity.

    Args:
        groups: [n] texts that have one digest together, each as (tag, words). Shingles of different tags are different.
            A text with fewer words than a shingle is one shingle.

    Returns:
        [n, PERMUTATIONS]; rows of zeros for groups without words.
    """
    from rensa import RMinHash

    hashes = iter(RMinHash.hash_token_sets([list(found) for group in groups for _, found in group]))
    flat = [np.zeros(0, dtype=np.uint64)]
    offsets = [0]
    for group in groups:
        offsets.append(offsets[-1])
        for tag, _ in group:
            flat.append(_shingles(np.array(next(hashes), dtype=np.uint64)) ^ _salt(tag))
            offsets[-1] += len(flat[-1])
    ends = np.array(offsets, dtype=np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(flat), ends, PERMUTATIONS, _SEED)
    found = np.array(matrix.to_rows(), dtype=np.uint32).reshape(len(groups), PERMUTATIONS)
    found[np.diff(ends) == 0] = 0
    return found


@cache
def _salt(tag: str) -> np.uint64:
    return np.uint64(_hash(tag))


def _shingles(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    if len(hashes) == 0:
        return hashes
    size = min(SHINGLE, len(hashes))
    count = len(hashes) - size + 1
    found = hashes[:count].copy()
    for i in range(1, size):
        found = found * _MIX ^ hashes[i : i + count]
    return found * _MIX ^ np.uint64(size)
