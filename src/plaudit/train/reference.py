"""Reference log-probs on disk, keyed by the model's bytes, the token ids and the scoring options, and by nothing else.

A second run with another learning rate or β finds everything here and does no reference forward at all.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from plaudit.errors import RunError
from plaudit.forest.layout import context_ids
from plaudit.methods.base import Scored
from plaudit.types import Completion, PromptGroup

_FORMAT = 1  # raise when the meaning of a stored value changes


def default_folder() -> Path:
    """The user's cache folder for reference log-probs."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "plaudit" / "reference"


class ReferenceCache:
    """Log-probs of completions under one frozen model.

    Args:
        folder: where the database lies; None keeps everything in memory.
        fingerprint: of the exact weights (`scoring_fingerprint`).
        options: what else a score depends on (precision, path, temperature), as a stable string.
    """

    def __init__(self, folder: Path | None, fingerprint: str, options: str) -> None:
        self.memory: dict[bytes, np.ndarray[tuple[int], np.dtype[np.float32]]] = {}
        """without a folder: everything"""
        self.path: Path | None = None
        self._database: sqlite3.Connection | None = None
        if folder is None:
            return
        name = hashlib.blake2b(f"{_FORMAT}|{fingerprint}|{options}".encode(), digest_size=16).hexdigest()
        self.path = folder / f"{name}.sqlite"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.path, timeout=60)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS logprobs (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID"
            )
        except (OSError, sqlite3.Error) as error:
            raise RunError(
                "PL501",
                f"the cache of reference log-probs cannot be opened: {error}",
                where=str(self.path),
                mend="set run.reference_cache to a folder you can write to, or to off",
            ) from error

    @staticmethod
    def key(group: PromptGroup, completion: Completion, bos_id: int | None) -> bytes:
        """Identity of a score: context, completion and which of its tokens are targets."""
        digest = hashlib.blake2b(digest_size=16)
        for part in (context_ids(group, bos_id), completion.token_ids, np.packbits(completion.action_mask)):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(np.ascontiguousarray(part).data)
        return digest.digest()

    def find(self, groups: Sequence[PromptGroup], bos_id: int | None) -> list[list[Scored | None]]:
        """For each group the scores of its completions; None for those that are unknown."""
        keys = [[self.key(g, c, bos_id) for c in g.completions] for g in groups]
        known = self.memory if self._database is None else self._read([k for row in keys for k in row])
        return [[Scored(logprobs=known[k]) if k in known else None for k in row] for row in keys]

    def _read(self, keys: list[bytes]) -> dict[bytes, np.ndarray[tuple[int], np.dtype[np.float32]]]:
        assert self._database is not None
        found: dict[bytes, np.ndarray[tuple[int], np.dtype[np.float32]]] = {}
        for start in range(0, len(keys), 500):
            part = keys[start : start + 500]
            marks = ",".join("?" * len(part))
            rows = self._database.execute(f"SELECT key, value FROM logprobs WHERE key IN ({marks})", part)
            for key, value in rows:
                found[key] = np.frombuffer(value, dtype=np.float32)
        return found

    def store(self, groups: Sequence[PromptGroup], scored: Sequence[Sequence[Scored]], bos_id: int | None) -> None:
        """Keep what was computed; on disk it is there for the next run.

        The first value of a key stays: two micro-batches give the same score to rounding only, and a resumed run must
        find the bits that the interrupted one has trained with. So callers take the values from `find`.
        """
        rows: dict[bytes, np.ndarray[tuple[int], np.dtype[np.float32]]] = {}
        for group, row in zip(groups, scored, strict=True):
            for completion, score in zip(group.completions, row, strict=True):
                assert score.logprobs is not None
                rows.setdefault(self.key(group, completion, bos_id), score.logprobs)
        if self._database is None:
            for key, value in rows.items():
                self.memory.setdefault(key, value)
            return
        values = [(key, value.tobytes()) for key, value in rows.items()]
        with self._database:
            self._database.executemany("INSERT OR IGNORE INTO logprobs VALUES (?, ?)", values)

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None
