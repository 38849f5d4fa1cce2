"""Sample answers of the policy while it trains: what people look at, in terminal, report and samples.jsonl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from plaudit.engines.base import Sampling
from plaudit.engines.hf import HFEngine
from plaudit.models.forest_model import ForestModel
from plaudit.types import PromptGroup

_LENGTH = 64


def sample_answers(policy: ForestModel, tokenizer: Any, groups: Sequence[PromptGroup]) -> list[Mapping[str, Any]]:
    """One greedy answer per group, at most 64 tokens, beside the answers that the data holds.

    Groups without a prompt are left out: there is nothing to answer.
    """
    asked = [g for g in groups if len(g.prompt_ids)]
    if not asked:
        return []
    model: Any = policy.model
    engine = HFEngine(model, tokenizer, generation_context=policy.native)
    sampling = Sampling(temperature=0, max_new_tokens=_LENGTH)
    rows: list[Mapping[str, Any]] = []
    with policy.role("policy"):
        answered = engine.generate([g.prompt_ids for g in asked], 1, sampling)
        for group, answer in zip(asked, answered, strict=True):
            shown = group.prompt_text or tokenizer.decode(group.prompt_ids.tolist())
            names = ("chosen", "rejected") if len(group.completions) == 2 else ("demonstration",)
            known = {n: c.text for n, c in zip(names, group.completions, strict=False) if c.text}
            rows.append({"prompt": shown, "completion": answer.completions[0].text or "", **known})
    return rows
