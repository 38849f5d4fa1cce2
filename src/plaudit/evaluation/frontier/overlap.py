"""Whether the prompts that a frontier is measured on were trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from plaudit.config.load import resolve
from plaudit.errors import PlauditError
from plaudit.models.load import LoadedModel, outline_of
from plaudit.runs.rundir import CONFIG_NAME
from plaudit.train.intake import take_in
from plaudit.types import PromptGroup


def overlap_note(run: Path, loaded: LoadedModel, prompts: Sequence[PromptGroup]) -> str | None:
    """A warning where prompts are among those that a run trained on; also where that cannot be found out.

    The run's data is read as the run read it, its held-out split apart, and compared as tokens.

    Args:
        loaded: a model with the tokenizer of the run.
    """
    try:
        trained = _trained(run, loaded)
    except PlauditError as error:
        return f"whether {run.name} trained on these prompts is not known, its data cannot be read: {error.what}"
    again = sum(p.prompt_ids.tobytes() in trained for p in prompts)
    if not again:
        return None
    return (
        f"of the {len(prompts):,} prompts, {again:,} were trained on by {run.name}: what it gains on them says little "
        "about others"
    )


def _trained(run: Path, loaded: LoadedModel) -> set[bytes]:
    resolved = resolve(None, [run / CONFIG_NAME], files_exist=False, objects=True)
    method = resolved.method(resolved.method_config)
    rollout = resolved.run.rollout
    found = take_in(
        resolved.run.data, method, outline_of(loaded), None, None, reserve=rollout.reserve if rollout else 0
    )
    return {group.prompt_ids.tobytes() for group in found.train.groups}
