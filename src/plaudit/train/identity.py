"""Fingerprints of what a run starts from. A run that goes on from something else is another run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from plaudit.types import PromptGroup


def data_fingerprint(groups: Iterable[PromptGroup]) -> str:
    """Hash of everything that training reads of the groups, in their order."""
    digest = hashlib.blake2b(digest_size=20)
    for group in groups:
        digest.update(f"|{len(group.prompt_ids)} {len(group.completions)} {group.margin} {group.preference}".encode())
        digest.update(np.ascontiguousarray(group.prompt_ids).data)
        if not group.completions:  # the row decides about the rewards of what is sampled
            digest.update(json.dumps(group.extras, sort_keys=True, default=str).encode("utf-8", "surrogatepass"))
        if group.prompt_mask is not None:
            digest.update(np.packbits(group.prompt_mask).data)
        for c in group.completions:
            digest.update(f"|{len(c.token_ids)} {c.reward} {c.label} {c.rank} {c.weight}".encode())
            digest.update(np.ascontiguousarray(c.token_ids).data)
            digest.update(np.packbits(c.action_mask).data)
    return digest.hexdigest()


def method_identity(name: str) -> dict[str, str]:
    """A user's own method is a file, and an edited file is another loss under the same configuration."""
    if not name.endswith(".py"):
        return {}
    return {"the method's file": hashlib.blake2b(Path(name).read_bytes(), digest_size=20).hexdigest()}
