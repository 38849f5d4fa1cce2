"""Results of pure rewards, kept by the content of what was scored.

In reinforcement learning the same wrong answer comes again and again, and a retry asks all parts of a sum anew.
Failures are never kept.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from plaudit.data.turns import turns_key
from plaudit.rewards.contract import Reward, RewardResult, Sample


def content_key(fingerprint: str, sample: Sample, ignores: frozenset[str] = frozenset()) -> bytes | None:
    """A hash of everything that a pure reward may depend on: the sample without some columns of its row. None where
    the row has values of which nobody knows what they are made of."""
    row = {name: value for name, value in sample.row.items() if name not in ignores}
    try:
        columns = json.dumps(row, sort_keys=True, default=_plain, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return None
    turns = (turns_key(sample.prompt), turns_key(sample.completion))
    digest = hashlib.blake2b(digest_size=20)
    for part in (fingerprint, *turns, columns, str(sample.tokens), str(sample.finish_reason)):
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(f"{len(encoded)}:".encode() + encoded)
    return digest.digest()


def _plain(value: Any) -> Any:
    """Arrays and numbers of numpy as lists and numbers.

    Raises:
        TypeError: it is something else.
    """
    if hasattr(value, "tolist"):
        return [type(value).__name__, str(getattr(value, "dtype", "")), value.tolist()]
    raise TypeError(type(value).__name__)


def _named(value: Any) -> set[str]:
    """Every text in some options: a column that is named there is read."""
    if isinstance(value, str):
        return {value}
    if isinstance(value, dict):
        return {name for inner in value.items() for part in inner for name in _named(part)}
    return {name for inner in value for name in _named(inner)} if isinstance(value, (list, tuple)) else set()


class Cached(Reward):
    """A pure reward that remembers.

    Args:
        reward: what is asked where nothing is remembered.
        size: results that are kept; the longest unused go first.

    Attributes:
        hits: results that were remembered.
    """

    kind = "cached"
    title = "A reward that remembers"

    def __init__(self, reward: Reward, size: int = 100_000) -> None:
        super().__init__(reward.options)
        self.name = reward.name
        self.inner, self.size, self.hits = reward, size, 0
        self._ignores = reward.ignores - set(reward.columns) - _named(reward.options.model_dump())
        self._kept: OrderedDict[bytes | str, RewardResult] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the reward inside."""
        return self.inner.columns

    def fingerprint(self) -> str:
        """Of the reward inside."""
        return self.inner.fingerprint()

    def identity(self) -> str:
        """Of the reward inside."""
        return self.inner.identity()

    def close(self) -> None:
        """Close the reward inside; what is remembered stays."""
        self.inner.close()

    def score(self, samples: Sequence[Sample]) -> list[RewardResult]:
        """See `Reward`; equal samples of one call are scored once."""
        fingerprint = self.fingerprint()
        if not fingerprint:
            return self.inner.score(samples)
        keys = [content_key(fingerprint, s, self._ignores) or str(i) for i, s in enumerate(samples)]
        with self._lock:
            found = {k: self._kept[k] for k in keys if k in self._kept}
            for key in found:
                self._kept.move_to_end(key)
            self.hits += sum(key in found for key in keys)
        missing = {key: sample for key, sample in zip(keys, samples, strict=True) if key not in found}
        fresh = dict(zip(missing, self.inner.score(list(missing.values())) if missing else [], strict=True))
        with self._lock:
            for key, result in fresh.items():
                if result.error is None and isinstance(key, bytes):
                    self._kept[key] = replace(result, seconds=0.0)
            while len(self._kept) > self.size:
                self._kept.popitem(last=False)
        everything = found | fresh
        return [everything[key] for key in keys]
