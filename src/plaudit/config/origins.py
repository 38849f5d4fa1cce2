"""Trainers and losses of other tools, and what each is here: one table for the docs and for messages.

Checked against the registry by tests: every method, option and value that is named exists.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal

Tool = Literal["TRL", "LLaMA-Factory"]


@dataclass(frozen=True, slots=True)
class Origin:
    """One loss of another tool and what it is here.

    Attributes:
        trainer: the trainer or stage that has it.
        setting: what chooses it there; empty where the trainer has one loss only.
        method: our method; None where there is none.
        options: what to set for it here, as on the command line without the dashes.
        renamed: their option → ours, where the name differs and the meaning does not.
        note: what else differs.
    """

    tool: Tool
    trainer: str
    setting: str
    method: str | None
    options: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    @property
    def command(self) -> str:
        """`plaudit ipo --aggregation mean`."""
        words = [f"--{name.replace('_', '-')} {value}" for name, _, value in (o.partition("=") for o in self.options)]
        return f"`plaudit {' '.join([str(self.method), *words])}`"

    def advice(self) -> str:
        """What to use instead, in a sentence."""
        if self.method is None:
            return f"there is no such loss here: {self.note}"
        renamed = [f"its {theirs} is {ours} here" for theirs, ours in self.renamed.items()]
        return "; ".join([f"use {self.command}", *renamed, *([self.note] if self.note else [])])


def _trl(trainer: str, setting: str, method: str | None, **rest: Any) -> Origin:
    return Origin("TRL", trainer, setting, method, **rest)


def _factory(stage: str, setting: str, method: str | None, **rest: Any) -> Origin:
    renamed = {"pref_beta": "beta"} if stage == "dpo" and method is not None else {}
    renamed |= rest.pop("renamed", {})
    return Origin("LLaMA-Factory", f"stage: {stage}", setting, method, renamed=renamed, **rest)


_DPO, _CPO, _KTO = "DPOTrainer", "CPOTrainer", "KTOTrainer"
_NLL = ("nll_weight=1", "nll_aggregation=token-mean")
_SMOOTHING = "label_smoothing has no effect there, here it makes cDPO"
_FDPO = "f_alpha_divergence_coef is 1 − alpha"
_DAPO = "epsilon is 0.2 on both sides there, and no prompts are replaced"
_IPO = ("normalisation=mean",)
_ONLINE_DPO = {"reward_funcs": "reward.rewards"}
_MEAN = "per token there; summed, as in the paper, is the default here"

ORIGINS: tuple[Origin, ...] = (
    _trl("SFTTrainer", "", "sft"),
    _trl("RewardTrainer", "", "reward", renamed={"center_rewards_coefficient": "centre_weight"}),
    _trl(_DPO, "loss_type=sigmoid", "dpo", note=_SMOOTHING),
    _trl(_DPO, "loss_type=hinge", "hinge"),
    _trl(_DPO, "loss_type=ipo", "ipo", options=_IPO, renamed={"beta": "tau"}, note=_MEAN),
    _trl(_DPO, "loss_type=exo_pair", "exo"),
    _trl(_DPO, "loss_type=nca_pair", "nca"),
    _trl(_DPO, "loss_type=robust", "robust_dpo"),
    _trl(_DPO, "loss_type=bco_pair", "bco_pair"),
    _trl(_DPO, "loss_type=sppo_hard", "sppo"),
    _trl(_DPO, "loss_type=aot", "aot"),
    _trl(_DPO, "loss_type=aot_unpaired", "aot", options=("unpaired=true",)),
    _trl(_DPO, "loss_type=apo_zero", "apo_zero"),
    _trl(_DPO, "loss_type=apo_down", "apo_down"),
    _trl(_DPO, "loss_type=discopop", "discopop", renamed={"discopop_tau": "tau"}),
    _trl(_DPO, "loss_type=sigmoid_norm", "dpo_norm"),
    _trl(_DPO, "loss_type=[sigmoid, sft]", "dpo", options=_NLL),
    _trl(_DPO, "loss_type=[sigmoid, bco_pair, sft]", "mpo"),
    _trl(_DPO, "loss_type=sft", "sft", note="its rows are prompt and completion"),
    _trl(_DPO, "f_divergence_type", "fdpo", renamed={"f_divergence_type": "divergence"}, note=_FDPO),
    _trl(_DPO, "sync_ref_model=true", "tr_dpo"),
    _trl(_DPO, "use_weighting=true", "dpo", options=("weighting=wpo",)),
    _trl(_CPO, "loss_type=sigmoid", "cpo"),
    _trl(_CPO, "loss_type=hinge", "slic"),
    _trl(_CPO, "loss_type=ipo", None, note="`plaudit ipo` has a reference"),
    _trl(_CPO, "loss_type=simpo", "simpo"),
    _trl(_CPO, "loss_type=alphapo", "alphapo"),
    _trl("ORPOTrainer", "", "orpo", renamed={"beta": "lam"}),
    _trl(_KTO, "loss_type=kto", "kto"),
    _trl(_KTO, "loss_type=apo_zero_unpaired", None, note="`plaudit apo_zero` takes pairs"),
    _trl("BCOTrainer", "", "bco", note="it was removed there"),
    _trl(
        "GRPOTrainer",
        "loss_type=grpo",
        "grpo",
        renamed={
            "beta": "kl_weight",
            "epsilon": "clip_low",
            "epsilon_high": "clip_high",
            "num_generations": "rollout.completions_per_prompt",
            "num_iterations": "rollout.ppo_epochs",
            "scale_rewards": "std",
            "delta": "dual_clip",
            "off_policy_mask_threshold": "off_policy_mask",
        },
    ),
    _trl("GRPOTrainer", "loss_type=dr_grpo", "dr_grpo", note="scale_rewards is none here"),
    _trl("GRPOTrainer", "loss_type=dapo", "dapo", note=_DAPO),
    _trl("GRPOTrainer", "loss_type=bnpo", "grpo", options=("aggregation=token-mean",)),
    _trl("GRPOTrainer", "loss_type=cispo", "cispo", renamed={"epsilon_high": "ratio_cap"}),
    _trl("GRPOTrainer", "loss_type=luspo", None, note="`plaudit gspo` does not weigh answers by their lengths"),
    _trl("GRPOTrainer", "loss_type=sapo", None, note="`plaudit cispo` keeps the gradient of every token too"),
    _trl("GRPOTrainer", "loss_type=vespo", None, note="`plaudit cispo` keeps the gradient of every token too"),
    _trl("GRPOTrainer", "importance_sampling_level=sequence", "gspo", note="its clips are far smaller: see its page"),
    _trl("GRPOTrainer", "scale_rewards=batch", "grpo", options=("std=batch",)),
    _trl(
        "RLOOTrainer",
        "",
        "rloo",
        renamed={"beta": "kl_weight", "epsilon": "clip_low", "num_generations": "rollout.completions_per_prompt"},
    ),
    _trl("OnlineDPOTrainer", "loss_type=sigmoid", "online_dpo", renamed=_ONLINE_DPO),
    _trl("OnlineDPOTrainer", "loss_type=ipo", "online_dpo", options=("loss=ipo",), renamed=_ONLINE_DPO),
    _trl(
        "PPOTrainer",
        "",
        "ppo",
        renamed={
            "kl_coef": "kl_weight",
            "cliprange": "clip_low",
            "cliprange_value": "value_clip",
            "vf_coef": "value_weight",
            "num_ppo_epochs": "rollout.ppo_epochs",
            "missing_eos_penalty": "truncated_penalty",
        },
        note="it was removed there after 1.12",
    ),
    _factory("sft", "", "sft"),
    _factory("pt", "", "sft", options=("train_on=sequence",), note="rows with a `text` column"),
    _factory("rm", "", "reward"),
    _factory("dpo", "pref_loss: sigmoid", "dpo"),
    _factory("dpo", "pref_loss: hinge", "hinge"),
    _factory("dpo", "pref_loss: ipo", "ipo", options=_IPO, renamed={"pref_beta": "tau"}, note=_MEAN),
    _factory(
        "dpo", "pref_loss: kto_pair", "kto", note="its rows are answers with a label: `plaudit convert --to feedback`"
    ),
    _factory("dpo", "pref_loss: orpo", "orpo", renamed={"pref_beta": "lam"}),
    _factory("dpo", "pref_loss: simpo", "simpo"),
    _factory("dpo", "pref_bco_weight", "mpo"),
    _factory("kto", "", "kto"),
    _factory("ppo", "", "ppo", renamed={"ppo_target": "kl_target", "reward_model": "reward.rewards"}),
)

_SETTING = re.compile(r"^(loss_type|pref_loss)[=:] ?(.+)$")
LOSS_OPTIONS = ("loss_type", "pref_loss")
"""Options of other tools that choose a loss."""


def _losses(option: str) -> Iterator[tuple[frozenset[str], Origin]]:
    """(the losses that are combined, what they are here) of every value of an option."""
    for origin in ORIGINS:
        match = _SETTING.match(origin.setting)
        if match is not None and match[1] == option:
            yield frozenset(words(match[2])), origin


def words(value: Any) -> list[str]:
    """The names in a list, or in a text that holds one or several."""
    if isinstance(value, (list, tuple)):
        return [name for part in value for name in words(part)]
    parts = (part.strip("'\"") for part in re.split(r"[\s,]+", str(value).strip("[] ")))
    return [part for part in parts if part]


def explain_loss(option: str, value: Any, method: str | None) -> str:
    """What to use for another tool's loss, asked for with one of `LOSS_OPTIONS`.

    Args:
        option: loss_type or pref_loss.
        value: the loss or losses.
        method: the method that it was given to: CPO's hinge is not DPO's.
    """
    asked = frozenset(words(value))
    found = [origin for losses, origin in _losses(option) if losses == asked]
    trainers = {origin.trainer for origin in ORIGINS if origin.method == method}
    found.sort(key=lambda origin: origin.trainer not in trainers)
    if found and found[0].method == method and not found[0].options:
        return f"that is what `plaudit {method}` computes: leave it out"
    if found:
        return found[0].advice()
    if len(asked) > 1:
        return (
            "losses are combined by nll_weight of dpo and its variants, and by `plaudit mpo` (DPO + BCO + likelihood)"
        )
    known = sorted({name for losses, _ in _losses(option) for name in losses})
    near = get_close_matches(next(iter(asked), ""), known, n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    return f"{guess}a loss is a method of its own here; known values of {option} are {', '.join(known)}"


TRIED: Mapping[str, str] = {
    "wpo": "`plaudit dpo --weighting wpo`; the variants of dpo have it too",
    "ld_dpo": "`plaudit dpo --ld-alpha 0.5`; the variants of dpo have it too",
    "cdpo": "`plaudit dpo --label-smoothing 0.1`",
    "rpo": "`plaudit dpo --nll-weight 1`; the variants of dpo have it too",
    "iterative_rpo": "`plaudit online_dpo --nll-weight 1 --refresh-every 1`",
    "trdpo": "`plaudit tr_dpo`",
    "r_dpo": "`plaudit rdpo`",
    "f_dpo": "`plaudit fdpo`",
    "cal": "`plaudit cal_dpo`",
    "ln_dpo": "`plaudit dpo_norm`",
    "reward_model": "`plaudit reward`",
    "reward_modeling": "`plaudit reward`",
    "reward_modelling": "`plaudit reward`",
    "rm": "`plaudit reward`",
    "bradley_terry": "`plaudit reward`",
    "pretrain": "`plaudit sft --train-on sequence`",
    "pt": "`plaudit sft --train-on sequence`",
    "slic_hf": "`plaudit slic`",
    "rlhf": "`plaudit ppo`",
    "ppo_ptx": "`plaudit ppo` with a section `ptx`",
    "reinforce": "`plaudit rloo`, or `plaudit reinforce_pp`",
    "reinforce++": "`plaudit reinforce_pp`",
    "reinforce_plus_plus": "`plaudit reinforce_pp`",
    "reinforce++_baseline": "`plaudit reinforce_pp --baseline group --completions-per-prompt 4`",
    "dr.grpo": "`plaudit dr_grpo`",
    "drgrpo": "`plaudit dr_grpo`",
    "gspo_token": "`plaudit gspo --token-level true`",
    "lite_ppo": "`plaudit grpo --std batch --aggregation token-mean`",
    "re_max": "`plaudit remax`",
    "oaif": "`plaudit online_dpo`",
    "iterative_dpo": "`plaudit online_dpo` with rollout.prompts_per_batch several times train.groups_per_step",
    "self_rewarding": "`plaudit online_dpo --refresh-every 1` with the reward judge:policy=true",
    "rejection_sampling": "`plaudit raft`",
    "best_of_n": "`plaudit raft`",
    "star": "`plaudit raft --select above --threshold 1`",
    "rest": "`plaudit raft --select above --threshold 0.7`",
    "statistical_rejection_sampling": "`plaudit rso`",
}
"""Names that are tried as methods, besides those in `ORIGINS` → what to use."""

NOT_OFFERED = (*("xpo", "nash_md", "gkd", "prm", "tpo"),)
"""Methods of other tools that no method here stands for."""


def explain_method(name: str) -> str | None:
    """What to use for the name of another tool's method, trainer or loss; None for a name that is not known."""
    plain = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "_", name).lower().replace("-", "_")
    plain = re.sub(r"_?(trainer|config|loss)$", "", plain)
    if plain in TRIED:
        return f"use {TRIED[plain]}"
    if plain in NOT_OFFERED:
        return "it is not offered (`plaudit methods` lists what is)"
    trainers = (o for o in ORIGINS if o.trainer.lower() == f"{plain.replace('_', '')}trainer" and o.method is not None)
    origin = next(trainers, None)
    if origin is not None and plain == name:
        return None  # the method's own name
    if origin is None:
        found = [o for option in LOSS_OPTIONS for losses, o in _losses(option) if losses == {plain}]
        origin = next((o for o in found if o.method not in (None, plain)), None)
    return origin.advice() if origin is not None else None
