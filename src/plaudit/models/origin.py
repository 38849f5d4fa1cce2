"""What a saved model or adapter started from: `plaudit.json` in its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from plaudit.errors import ModelError
from plaudit.models.fingerprint import base_fingerprint, head_fingerprint, trunk_fingerprint
from plaudit.models.forest_model import causal_lm
from plaudit.models.heads import is_classifier

ORIGIN_FILE = "plaudit.json"


@dataclass(frozen=True, slots=True)
class Origin:
    """Fingerprints of a start, equal for equal weights in every compute precision."""

    kind: Literal["lm", "reward"]
    base: str
    """the base that an adapter belongs to; for a reward model its trunk"""
    start: str | None = None
    """reward models: the trunk as training found it, with an adapter that was continued"""
    head: str | None = None
    """reward models: the head as training found it"""
    system_prompt: str | None = None
    """reward models: the system message of conversations that had none in training, and have none when scored"""
    scores: Mapping[str, Any] | None = None
    """reward models: how far the scores of the training data reach (`plaudit.train.score_range`)"""


def origin_of(model: nn.Module) -> Origin:
    """Ask before training: the fingerprints are those of the present weights."""
    base = base_fingerprint(model)
    if not is_classifier(causal_lm(model)):
        return Origin("lm", base)
    return Origin("reward", base, trunk_fingerprint(model), head_fingerprint(model))


def write_origin(folder: Path, origin: Origin) -> None:
    """Write `plaudit.json`."""
    values: dict[str, Any] = {"kind": origin.kind, "base_fingerprint": origin.base}
    if origin.kind == "reward":
        values |= {"start_fingerprint": origin.start, "head_fingerprint": origin.head}
        if origin.scores:
            values["scores"] = dict(origin.scores)
        if origin.system_prompt:
            values["system_prompt"] = origin.system_prompt
    (folder / ORIGIN_FILE).write_text(json.dumps(values) + "\n", encoding="utf-8")


def read_origin(folder: Path) -> Origin | None:
    """What `write_origin` wrote; None for a folder from elsewhere.

    Raises:
        ModelError: PL301 when the file is damaged.
    """
    file = folder / ORIGIN_FILE
    if not file.is_file():
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        start, head = values.get("start_fingerprint"), values.get("head_fingerprint")
        system, scores = values.get("system_prompt"), values.get("scores")
        return Origin(values.get("kind", "lm"), values["base_fingerprint"], start, head, system, scores)
    except (ValueError, KeyError, AttributeError) as error:
        raise ModelError(
            "PL301", f"the file is damaged: {error!r}", where=str(file), mend="write the model anew from its run"
        ) from error
