"""Methods that sample their own answers: GRPO's losses, RLOO, online DPO, PPO; their options, sampling and rewards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from plaudit.config.origins import ORIGINS
from plaudit.errors import ConfigError
from plaudit.migration.draft import Draft
from plaudit.migration.values import boolean, bounds, number, plain, text, whole

_TOKENS, _SUMS = "token-mean", "seq-mean-token-sum-norm"
_GRPO = {"grpo": ("grpo", None), "bnpo": ("grpo", _TOKENS), "dapo": ("dapo", None), "cispo": ("cispo", None)}
"""loss_type → our method, and its aggregation where that is not its default."""
_PPO: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "cliprange": ("method.clip_low", number),
    "cliprange_value": ("method.value_clip", number),
    "vf_coef": ("method.value_weight", number),
    "gamma": ("method.gamma", number),
    "lam": ("method.lam", number),
    "whiten_rewards": ("method.whiten_rewards", boolean),
    "num_ppo_epochs": ("rollout.ppo_epochs", whole),
}
_STD = {"group": "sample", "batch": "batch", "none": "none", True: "sample", False: "none"}


def choose_policy(draft: Draft, forced: str | None) -> None:
    """Find the method and write its options.

    Raises:
        ConfigError: PL104, there is no such loss here.
    """
    if draft.trainer == "grpo":
        _grpo(draft, forced)
    elif forced is None:
        draft.choose(draft.trainer)
        draft.take("loss_type", text=f"method.name: {draft.trainer}")
    if draft.trainer == "online_dpo":
        _online_dpo(draft)
    elif draft.trainer == "ppo":
        _ppo(draft)
    if not draft.method.is_online():
        return
    if draft.trainer in ("grpo", "rloo") and draft.get("sync_ref_model", boolean):
        _moving_reference(draft)
    _kl(draft)
    _clips(draft)
    _answers(draft)


# -- the loss


def _grpo(draft: Draft, forced: str | None) -> None:
    loss = draft.get("loss_type", text, "dapo") or "dapo"
    sequence = draft.get("importance_sampling_level", text) in ("sequence", "sequence_token")
    scale = draft.get("scale_rewards", plain, "group")
    std = _STD.get(scale if isinstance(scale, bool) else str(scale), "sample")
    aggregation: str | None = None
    if forced is None:
        name, aggregation = _grpo_method(draft, loss, std, sequence)
        draft.choose(name)
        draft.take("loss_type", "importance_sampling_level", "rl", text=f"method.name: {name}")
    if sequence and loss != "grpo" and draft.method.name == "gspo":
        text_ = f"gspo averages answers, each alike, where {loss} there weighs their tokens"
        draft.differ("loss_type", text=text_)
        draft.notes.append(text_)
    if aggregation is not None:
        draft.write("method.aggregation", aggregation, "loss_type")
    if draft.has("method.std"):
        draft.write("method.std", std, "scale_rewards")
    elif std == "none":
        draft.idle("scale_rewards", text=f"{draft.method.name} divides by nothing")
    if draft.method.name == "dapo":
        draft.write("rollout.dynamic_sampling", False, note="TRL replaces no prompts")


def _grpo_method(draft: Draft, loss: str, std: str, sequence: bool) -> tuple[str, str | None]:
    if sequence:
        return "gspo", None
    if loss == "dr_grpo":  # there it is an aggregation; Dr. GRPO divides by no deviation besides
        return ("dr_grpo", None) if std == "none" else ("grpo", _SUMS)
    if loss not in _GRPO:
        found = next((o for o in ORIGINS if o.setting == f"loss_type={loss}" and o.trainer == "GRPOTrainer"), None)
        why = found.note if found else f"known are {', '.join([*_GRPO, 'dr_grpo'])}"
        where = next((s.where for s in draft.settings("loss_type")), draft.given.name)
        mend = f"{why}; --method NAME migrates the rest of it to another method"
        raise ConfigError("PL104", f"loss_type={loss} has no counterpart here", where=where, mend=mend)
    return _GRPO[loss]


def _moving_reference(draft: Draft) -> None:
    names = ("sync_ref_model", "ref_model_sync_steps", "ref_model_mixup_alpha")
    share, every = draft.get("ref_model_mixup_alpha", number, 0.6), draft.get("ref_model_sync_steps", whole, 512)
    if share == 1 and every and draft.has("method.reference_every"):
        draft.write("method.reference_every", every, *names)
    else:
        draft.miss(*names, text="a reference that is mixed is not offered; method.reference_every replaces it whole")


def _online_dpo(draft: Draft) -> None:
    draft.write("method.loss", draft.get("loss_type", text, "sigmoid") or "sigmoid", "loss_type")
    if isinstance(draft.get("beta", plain), list):
        betas = draft.get("beta", plain)
        draft.write("method.beta", number(betas[0]), "beta")
        if len(betas) > 1:
            draft.differ("beta", text=f"β is the same in every epoch: {number(betas[0]):g}")
    else:
        draft.write("method.beta", draft.get("beta", number, 0.1), "beta")


def _ppo(draft: Draft) -> None:
    if draft.dialect.tool == "llama-factory":
        draft.write("method.kl_controller", "adaptive", note="as in the TRL that LLaMA-Factory is built on")
        draft.write("method.kl_target", draft.get("ppo_target", number), "ppo_target")
    draft.write("method.kl_weight", draft.get("kl_coef", number, 0.05), "kl_coef")
    for theirs, (ours, read) in _PPO.items():
        value = draft.get(theirs, read)
        if value is not None:
            draft.write(ours, value, theirs)
    if draft.get("ppo_score_norm", boolean):
        draft.write("method.reward_scale", "batch", "ppo_score_norm")
        draft.differ("ppo_score_norm", text="method.reward_scale: batch: by each rollout batch, not by a running mean")


def _kl(draft: Draft) -> None:
    beta = draft.get("beta", number) if draft.trainer in ("grpo", "rloo") else None
    if beta is None:
        return
    draft.write("method.kl_weight", beta, "beta")
    corrected = draft.get("use_bias_correction_kl", boolean)
    if beta and draft.has("method.kl_estimator"):
        draft.write("method.kl_estimator", "k3_corrected" if corrected else "k3", "use_bias_correction_kl")
    elif not beta:
        draft.idle("use_bias_correction_kl", text="has no effect while beta is 0")


def _clips(draft: Draft) -> None:
    low, high = draft.get("epsilon", number), draft.get("epsilon_high", number)
    if draft.method.name == "cispo":
        draft.write("method.ratio_cap", high or low, *(["epsilon_high"] if high else ["epsilon"]))
        draft.idle("epsilon", text="cispo clips no ratio" if high else f"method.ratio_cap: {low:g}")
    elif draft.has("method.clip_low") and low is not None:
        draft.write("method.clip_low", low, "epsilon")
        if high is not None or draft.keys["method.clip_high"].default is not None:
            note = "" if high is not None else "as epsilon: TRL's default"
            draft.write("method.clip_high", high if high is not None else low, "epsilon_high", note=note)
        else:
            draft.idle("epsilon_high", text="null: as clip_low")
    options = (
        ("delta", "dual_clip"),
        ("entropy_coef", "entropy_weight"),
        ("off_policy_mask_threshold", "off_policy_mask"),
    )
    for theirs, ours in options:
        value = draft.get(theirs, number)
        if value is not None and draft.has(f"method.{ours}"):
            draft.write(f"method.{ours}", value, theirs)
    limits = draft.get("reward_clip_range", bounds)
    if limits is not None:
        steps = [{"clip": dict(zip(("low", "high"), limits, strict=True))}]
        draft.write("reward.shaping", steps, "reward_clip_range")


# -- the answers


def _answers(draft: Draft) -> None:
    longest = {"ppo": "response_length", "online_dpo": "max_new_tokens"}.get(draft.trainer, "max_completion_length")
    if draft.dialect.tool == "llama-factory":
        longest = "max_new_tokens"
    tokens = draft.get(longest, whole)
    if tokens is not None:
        draft.write("rollout.max_new_tokens", tokens, longest)
    draft.copy("rollout.completions_per_prompt", "num_generations", whole)
    draft.copy("rollout.ppo_epochs", "num_iterations", whole)
    draft.copy("rollout.temperature", "temperature", number)
    _filters(draft)
    if draft.get("mask_truncated_completions", boolean):
        draft.write("method.truncated", "mask", "mask_truncated_completions")
    penalty = draft.get("missing_eos_penalty", number)
    if penalty:
        draft.write("method.truncated", "subtract", "missing_eos_penalty")
        draft.write("method.truncated_penalty", penalty, "missing_eos_penalty")


def _filters(draft: Draft) -> None:
    top_k, top_p, min_p = draft.get("top_k", whole), draft.get("top_p", number), draft.get("min_p", number)
    if top_k is not None and top_k > 0:
        draft.write("rollout.top_k", top_k, "top_k")
    else:
        draft.idle("top_k", text="keeps every token; so it is here")
    if top_p is not None:
        draft.write("rollout.top_p", top_p, "top_p")
    if min_p is not None:
        draft.write("rollout.min_p", min_p, "min_p")


def drop_without_effect(draft: Draft) -> None:
    """Options that the size of a rollout batch makes meaningless; ours are errors then."""
    once = draft.lines.get("rollout.ppo_epochs") is None or draft.lines["rollout.ppo_epochs"].value == 1
    step, batch = (draft.lines.get(key) for key in ("train.groups_per_step", "rollout.prompts_per_batch"))
    same = step is None or batch is None or step.value == batch.value
    if once and same and "method.off_policy_mask" in draft.lines:
        del draft.lines["method.off_policy_mask"]
        draft.differ(
            "off_policy_mask_threshold", text="left out: each rollout batch gets one step, so it masks nothing"
        )
