"""Completions in a file that is gone on with where it was stopped: n lines per prompt, in the order of the prompts.

What decides about them are the weights, the prompts, how many there are of each, and the sampling.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from plaudit.engines.base import Sampling
from plaudit.runs.resumable import ResumableFile
from plaudit.types import Tokens


def completion_file(
    path: Path, prompts: Sequence[Tokens], n: int, sampling: Sampling, weights: str, *, overwrite: bool = False
) -> ResumableFile:
    """One file of completions.

    Args:
        path: where the lines go; it is made, or gone on with.
        prompts: all prompts.
        n: completions per prompt.
        sampling: how they are drawn.
        weights: checksum of the model.
        overwrite: begin anew, whatever is there.

    Raises:
        ConfigError: PL102 when the file holds something else.
    """
    digest = hashlib.blake2b(digest_size=16)
    for prompt in prompts:
        digest.update(f"{len(prompt)}:".encode() + prompt.astype("int64").tobytes())
    about = {"weights": weights, "prompts": digest.hexdigest(), "n": n, "sampling": sampling.model_dump(mode="json")}
    return ResumableFile(path, about, holds="completions", per_item=n, overwrite=overwrite)
