"""What LLaMA-Factory adds to a loss on pairs."""

from __future__ import annotations

from plaudit.migration.draft import Draft
from plaudit.migration.values import number, text


def additions(draft: Draft) -> None:
    """Its likelihood term, its BCO term, and the way it computes ORPO."""
    pairs = draft.get("loss_type", text)
    if draft.method.name == "kto" and pairs == "kto_pair":
        draft.write("data.convert", "pairs_to_feedback", note="kto learns from single answers")
    weight = draft.get("pref_bco_weight", number) or 0.0
    if weight and draft.method.name == "dpo":
        draft.choose("mpo")
        shares = {"dpo": round(1 / (1 + weight), 6), "bco_pair": round(weight / (1 + weight), 6)}
        draft.write("method.losses", shares, "pref_bco_weight", note="their sum is divided by 1 + the weight there")
        draft.take("loss_type", text="method.name: mpo")
        draft.write("method.nll_weight", 0.0, note="no likelihood in the mixture")
    elif weight:
        draft.miss("pref_bco_weight", text=f"mixed with DPO only (`plaudit mpo`), not with {draft.method.name}")
    extra = draft.get("pref_ftx", number) or 0.0
    if draft.method.name == "orpo":
        draft.write("method.nll_over", "completion", note="LLaMA-Factory computes it so")
        draft.write("method.nll_aggregation", "sequence-mean", note="LLaMA-Factory computes it so")
        if extra:
            draft.write("method.nll_weight", 1.0 + extra, "pref_ftx", note="1 + pref_ftx")
    elif extra and draft.has("method.nll_weight"):
        draft.write("method.nll_weight", extra, "pref_ftx")
    elif extra:
        draft.miss("pref_ftx", text=f"{draft.method.name} has no additional likelihood term")
