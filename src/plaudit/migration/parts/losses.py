"""Which method of ours a trainer with its loss is, and the options of losses on pairs and on labels."""

from __future__ import annotations

from plaudit.config.origins import ORIGINS, Origin
from plaudit.errors import ConfigError
from plaudit.migration.draft import Draft
from plaudit.migration.parts.policy import choose_policy
from plaudit.migration.tables.trl import CLASSES
from plaudit.migration.values import boolean, names, number, numbers, text, whole


def choose(draft: Draft, forced: str | None) -> None:
    """Find the method and write its options.

    Args:
        forced: one of our methods, whatever the settings say.

    Raises:
        ConfigError: PL104, there is no such loss here.
    """
    if forced is not None:
        draft.choose(forced)
        draft.differ("loss_type", "pref_loss", text=f"--method {forced} was given")
    if draft.trainer in ("grpo", "rloo", "online_dpo", "ppo"):
        choose_policy(draft, forced)
    elif draft.trainer == "cpo":
        _cpo(draft, forced)
    elif draft.trainer == "dpo":
        _dpo(draft, forced)
    else:
        _alone(draft, forced)
    _common(draft)


def origin(draft: Draft, setting: str) -> Origin:
    """What a trainer with this setting is here.

    Raises:
        ConfigError: PL104, nothing.
    """
    trainer = f"{CLASSES[draft.trainer]}Trainer"
    found = next((o for o in ORIGINS if o.trainer == trainer and o.setting == setting), None)
    if found is None or found.method is None:
        known = [o.setting.partition("=")[2] for o in ORIGINS if o.trainer == trainer and o.method]
        raise no_loss(draft, setting, found.note if found else f"known are {', '.join(filter(None, known))}")
    return found


def no_loss(draft: Draft, setting: str, why: str) -> ConfigError:
    """The error for a loss that is not offered."""
    where = next((s.where for s in draft.settings("loss_type", "pref_loss", "rl", "stage")), draft.given.name)
    mend = f"{why}; --method NAME migrates the rest of it to another method (`plaudit methods` lists them)"
    return ConfigError("PL104", f"{setting} has no counterpart here", where=where, mend=mend)


def options_of(draft: Draft, found: Origin) -> None:
    """Write what sets our method to their loss."""
    for option in found.options:
        key, _, value = option.partition("=")
        draft.write(f"method.{key}", {"true": True}.get(value, value), note=f"{draft.dialect.title} computes it so")


# -- pairs with a reference


def _dpo(draft: Draft, forced: str | None) -> None:
    losses = draft.get("loss_type", names, "sigmoid") or ["sigmoid"]
    given = draft.get("loss_weights", numbers) or []
    if given and len(given) != len(losses):
        raise no_loss(draft, f"loss_weights={given}", f"there are {len(losses)} losses")
    weights: dict[str, float] = {}
    for loss, weight in zip(losses, given or [1.0] * len(losses), strict=True):
        weights[loss] = weights.get(loss, 0.0) + weight
    if forced is None:
        _choose_dpo(draft, weights)
    _smoothing(draft, losses)
    if draft.method.name == "discopop":
        draft.write("method.tau", draft.get("discopop_tau", number, 0.05), "discopop_tau")


def _choose_dpo(draft: Draft, weights: dict[str, float]) -> None:
    likelihood = weights.pop("sft", None) if len(weights) > 1 else None
    divergence = draft.get("f_divergence_type", text) or "reverse_kl"
    moves = draft.get("sync_ref_model", boolean) or False
    plain = list(weights) == ["sigmoid"] and list(weights.values()) == [1]
    if draft.unread("loss_type"):
        draft.notes.append("the loss could not be read: plain DPO is written")
    if moves and plain and divergence == "reverse_kl":
        _moving(draft)
    elif divergence != "reverse_kl" and plain and not moves:
        _divergence(draft, divergence)
    elif len(weights) == 1 and list(weights.values()) == [1]:
        found = origin(draft, f"loss_type={next(iter(weights))}")
        draft.choose(str(found.method))
        options_of(draft, found)
    else:
        _mixture(draft, weights)
    said = f"method.name: {draft.method.name}"
    draft.take("loss_type", "loss_weights", "dpo_norm_loss", text=said)
    if draft.trainer == "dpo" and draft.get("dpo_norm_loss", boolean):
        draft.choose("dpo_norm")
        draft.take("dpo_norm_loss", text="method.name: dpo_norm")
    if draft.method.name != "tr_dpo" and moves:
        draft.miss("sync_ref_model", text="only plain DPO has a moving reference here: `plaudit tr_dpo`")
    if draft.method.name != "fdpo" and divergence != "reverse_kl":
        draft.miss("f_divergence_type", text="only plain DPO has other divergences here: `plaudit fdpo`")
    if likelihood is not None:
        _likelihood(draft, likelihood, "token-mean", "loss_type", "loss_weights")
        draft.take("loss_type", "loss_weights", text=f"{said}, method.nll_weight: {likelihood:g}")
    elif draft.method.name == "mpo":
        draft.write("method.nll_weight", 0.0, note="no likelihood in the mixture")


def _moving(draft: Draft) -> None:
    draft.choose("tr_dpo")
    draft.take("sync_ref_model", text="method.name: tr_dpo")
    share, every = draft.get("ref_model_mixup_alpha", number), draft.get("ref_model_sync_steps", whole)
    if share is not None and share >= 1:
        draft.write("method.update", "hard", "ref_model_mixup_alpha")
    elif share is not None:
        draft.write("method.alpha", share, "ref_model_mixup_alpha")
    if every is not None:
        draft.write("method.every", every, "ref_model_sync_steps")


def _divergence(draft: Draft, name: str) -> None:
    ours = name.removesuffix("_divergence")
    if ours not in ("forward_kl", "js", "alpha"):
        raise no_loss(draft, f"f_divergence_type={name}", "known are reverse_kl, forward_kl, js and alpha")
    draft.choose("fdpo")
    draft.write("method.divergence", ours, "f_divergence_type")
    if ours == "alpha":
        share = 1 - (draft.get("f_alpha_divergence_coef", number, 0.5) or 0.0)
        draft.write("method.alpha", share, "f_alpha_divergence_coef", note="1 minus theirs")


def _mixture(draft: Draft, weights: dict[str, float]) -> None:
    members: dict[str, float] = {}
    for loss, weight in weights.items():
        found = origin(draft, f"loss_type={loss}")
        if found.method in ("aot", "sft"):
            raise no_loss(draft, f"loss_type={list(weights)}", f"{loss} cannot be mixed: it is no loss of a pair alone")
        members[str(found.method)] = weight
        if found.options:
            draft.notes.append(f"{found.method} in a mixture has its own defaults, not {' '.join(found.options)}")
    draft.choose("mpo")
    draft.write("method.losses", members, "loss_type", "loss_weights")


def _smoothing(draft: Draft, losses: list[str]) -> None:
    """label_smoothing: TRL's robust and exo_pair read it, its sigmoid does not; that of the other tools does."""
    value = draft.get("label_smoothing", number, 0.0)
    if value is None:
        return
    if draft.method.name in ("robust_dpo", "exo") and (value or draft.method.name == "robust_dpo"):
        draft.write("method.label_smoothing", value, "label_smoothing")
    elif value and draft.method.name == "dpo" and draft.dialect.tool == "trl":
        draft.differ("label_smoothing", text="left out: TRL's sigmoid loss does not read it; here it would make cDPO")
    elif value and draft.has("method.label_smoothing"):
        draft.write("method.label_smoothing", value, "label_smoothing")
    elif value and set(losses) & {"aot", "aot_unpaired"}:
        draft.miss("label_smoothing", text="aot has none")
    elif value:
        draft.differ("label_smoothing", text=f"left out: {'/'.join(losses)} does not read it there")
    else:
        draft.idle("label_smoothing", text="asks for nothing; so it is here too")


# -- pairs without a reference


def _cpo(draft: Draft, forced: str | None) -> None:
    loss = draft.get("loss_type", text, "sigmoid") or "sigmoid"
    bend = draft.get("alpha", number) or 0.0
    loss = "alphapo" if loss == "simpo" and bend else loss
    if forced is None:
        draft.choose(str(origin(draft, f"loss_type={loss}").method))
        draft.take("loss_type", "rl", text=f"method.name: {draft.method.name}")
    likelihood = draft.get("cpo_alpha", number, 1.0)
    beta = draft.get("beta", number, 0.1)
    if draft.method.name == "slic" and beta and likelihood is not None:
        draft.write("method.delta", 1 / beta, "beta", note="1 / beta")
        note = f"cpo_alpha / beta: the whole loss is {beta:g} times ours there"
        draft.write("method.nll_weight", likelihood / beta, "cpo_alpha", note=note)
        if likelihood:
            draft.write("method.nll_aggregation", "token-mean", note="TRL computes it so")
    elif likelihood is not None and draft.has("method.nll_weight"):
        _likelihood(draft, likelihood, "token-mean", "cpo_alpha")
    if draft.has("method.gamma"):
        draft.write("method.gamma", draft.get("simpo_gamma", number, 0.5), "simpo_gamma")
    if draft.method.name == "alphapo":
        draft.write("method.alpha", bend, "alpha")
    elif bend:
        draft.miss("alpha", text="only SimPO's reward is bent here: `plaudit alphapo`")
    if draft.get("label_smoothing", number):
        draft.miss("label_smoothing", text=f"{draft.method.name} has none")


# -- one loss only


def _alone(draft: Draft, forced: str | None) -> None:
    """sft, reward, kto, bco, orpo."""
    if forced is None and draft.trainer == "kto" and draft.dialect.tool == "trl":
        draft.choose(str(origin(draft, f"loss_type={draft.get('loss_type', text, 'kto') or 'kto'}").method))
    elif forced is None:
        draft.choose(draft.trainer)
    if draft.trainer == "sft" and draft.get("loss_type", text, "nll") not in ("nll", "chunked_nll", None):
        draft.miss("loss_type", text="fine-tuning has one loss here: the negative log-likelihood")
    elif forced is None:
        draft.take("loss_type", "pref_loss", text=f"method.name: {draft.method.name}")
    if draft.trainer == "kto" and draft.get("sync_ref_model", boolean):
        names_ = ("sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps")
        draft.miss(
            *names_, text=f"the reference of {draft.method.name} never moves: only `plaudit tr_dpo` has one that does"
        )
    if draft.has("method.desirable_weight"):
        for side in ("desirable_weight", "undesirable_weight"):
            draft.write(f"method.{side}", draft.get(side, number, 1.0), side)
    if draft.has("method.lam") and not draft.unread("beta"):
        draft.write("method.lam", draft.get("beta", number, 0.1), "beta", note="the weight λ of the odds-ratio term")
    centre = draft.get("center_rewards_coefficient", number) if draft.has("method.centre_weight") else None
    if centre is not None:
        draft.write("method.centre_weight", centre, "center_rewards_coefficient")


def _likelihood(draft: Draft, weight: float, aggregation: str, *names_: str) -> None:
    draft.write("method.nll_weight", weight, *names_)
    # A likelihood of weight 0 has nothing to add up.
    if weight and draft.keys["method.nll_aggregation"].default != aggregation:
        draft.write("method.nll_aggregation", aggregation, note=f"{draft.dialect.title} computes it so")


def _common(draft: Draft) -> None:
    """Options that several methods on pairs have."""
    ours = "method.tau" if draft.method.name == "ipo" else "method.beta"
    if draft.has(ours) and ours not in draft.lines:
        beta = draft.get("beta", number)
        if beta is not None:
            draft.write(ours, beta, "beta")
    tail = draft.get("ld_alpha", number) if draft.has("method.ld_alpha") else None
    if tail is not None:
        draft.write("method.ld_alpha", tail, "ld_alpha")
    if draft.has("method.weighting") and draft.get("use_weighting", boolean):
        draft.write("method.weighting", "wpo", "use_weighting")
    extra = draft.get("rpo_alpha", number) if draft.has("method.nll_aggregation") else None
    if extra is not None:
        _likelihood(draft, extra, "token-mean", "rpo_alpha")
