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

    texts = [text for group in groups for text in group]
    lengths = np.array([len(found) for _, found in texts], dtype=np.int64)
    tokens = [word for _, found in texts for word in found]
    hashes = np.array(RMinHash.hash_token_sets([tokens])[0], dtype=np.uint64)
    found, counts = _shingles(hashes, lengths)
    salts = np.array([_salt(tag) for tag, _ in texts], dtype=np.uint64)
    flat = found ^ np.repeat(salts, counts)
    behind = np.concatenate([[0], np.cumsum(counts)])  # shingles before each text, and all
    ends = behind[np.concatenate([[0], np.cumsum([len(group) for group in groups], dtype=np.int64)])].astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(flat, ends, PERMUTATIONS, _SEED)
    rows = np.array(matrix.to_rows(), dtype=np.uint32).reshape(len(groups), PERMUTATIONS)
    rows[np.diff(ends) == 0] = 0
    return rows


@cache
def _salt(tag: str) -> np.uint64:
    return np.uint64(_hash(tag))


def _shingles(
    hashes: npt.NDArray[np.uint64], lengths: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """The shingles of texts whose words' hashes follow each other, and how many each text has."""
    sizes = np.minimum(lengths, SHINGLE)
    counts = np.where(sizes > 0, lengths - sizes + 1, 0)
    starts = np.cumsum(lengths) - lengths
    first = np.arange(counts.sum()) + np.repeat(starts - (np.cumsum(counts) - counts), counts)
    size = np.repeat(sizes, counts)
    found = hashes[first]
    for i in range(1, SHINGLE):
        longer = np.flatnonzero(size > i)
        found[longer] = found[longer] * _MIX ^ hashes[first[longer] + i]
    return found * _MIX ^ size.astype(np.uint64), counts
