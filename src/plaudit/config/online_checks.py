"""Options of sampling, rewards and the critic that make no sense together, or with a method that samples nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from plaudit.config.checks import Finding, changed
from plaudit.config.schema import CriticSection, RolloutSection, RunConfig
from plaudit.methods.base import Method

SECTIONS = ("reward", "rollout", "critic", "ptx")
"""What only methods have that sample answers."""
_SAMPLING = ("completions_per_prompt", "max_new_tokens", "min_new_tokens", "top_k", "top_p", "min_p", "stop", "engine")


def online_findings(run: RunConfig, method: type[Method], *, trains: bool = True) -> Iterator[Finding]:
    """Every combination that cannot be meant.

    Args:
        trains: whether a run will follow, which needs a reward.
    """
    if not method.is_online():
        for name in SECTIONS:
            if getattr(run, name) is not None:
                what = f"has no effect with {method.name}, which learns from answers that are there already"
                yield name, what, "`plaudit methods` lists the methods whose data is prompts"
        return
    rollout = run.rollout or RolloutSection()
    if trains and not (run.reward and run.reward.rewards) and rollout.replay is None:
        hint = "for example --reward math, or the folder of a reward model; `plaudit rewards` lists them"
        yield "reward", "is required: nothing says which answers are good", hint
    if run.reward is not None and run.reward.shaping and not run.reward.rewards:
        yield "reward.shaping", "has no effect without rewards", "add reward.rewards"
    yield from _sizes(run, rollout, method)
    yield from _steps(run, rollout, method)
    yield from _prompts(run, rollout, method)
    yield from _correction(rollout)
    yield from _replay(rollout)
    yield from _critic(run, method)
    if run.run.reference_cache is not None:
        hint = "every answer is new, so there is nothing to keep: remove it"
        yield "run.reference_cache", f"has no effect with {method.name}", hint
    if run.lora is not None and run.lora.dropout > 0:
        yield "lora.dropout", "would make the scored distribution differ from the sampled one", "set it to 0"
    if not (run.data.eval or run.data.eval_fraction):
        for name in ("eval_completions", "eval_temperature"):
            if changed(rollout, name):
                yield f"rollout.{name}", "has no effect without held-out data", "add data.eval or data.eval_fraction"
    elif rollout.eval_completions > 1 and rollout.eval_temperature == 0:
        yield "rollout.eval_completions", "would give the same answer each time", "set rollout.eval_temperature too"


def _sizes(run: RunConfig, rollout: RolloutSection, method: type[Method]) -> Iterator[Finding]:
    size, step = rollout.prompts_per_batch, run.train.groups_per_step
    if size is not None and (size < step or size % step):
        hint = f"for example {step * max(1, round(size / step))}: each rollout batch is cut into such steps"
        yield "rollout.prompts_per_batch", f"is {size}, no multiple of train.groups_per_step = {step}", hint
    wanted = rollout.completions_per_prompt
    if wanted is not None and wanted < method.min_completions:
        what = f"is {wanted}; {method.name} compares the answers to a prompt and needs {method.min_completions}"
        yield "rollout.completions_per_prompt", what, ""
    alone = (wanted or method.default_completions) == 1 and rollout.replay is None
    if alone and run.method.get("baseline") == "group":
        what = "is 1, and method.baseline=group compares the answers to a prompt"
        yield "rollout.completions_per_prompt", what, "for example 4, or method.baseline=none"
    buffer = run.method.get("overlong_buffer")
    if isinstance(buffer, int) and buffer > rollout.max_new_tokens:
        what = f"is {buffer}, more than the {rollout.max_new_tokens} tokens of rollout.max_new_tokens"
        yield "method.overlong_buffer", what, "the paper's is a fifth of it"
    if rollout.replay is None:
        yield from _choice(run.method, wanted or method.default_completions)
    if rollout.min_new_tokens > rollout.max_new_tokens:
        what = f"is {rollout.min_new_tokens}, more than max_new_tokens = {rollout.max_new_tokens}"
        yield "rollout.min_new_tokens", what, ""


def _choice(options: Mapping[str, Any], answers: int) -> Iterator[Finding]:
    """Numbers of answers to choose that the sampled ones do not make a choice of."""
    if options["name"] == "raft" and options.get("select", "best") == "best" and answers == 1:
        what = "is 1, and method.select=best keeps the best of several"
        yield "rollout.completions_per_prompt", what, "for example 8, or method.select=above"
    pairs, accepted = (_whole(options.get(name)) for name in ("pairs", "accepted"))
    if options["name"] == "online_dpo" and (pairs or 1) > answers // 2:
        what = f"is {pairs}, and {answers} answers to each prompt make {answers // 2} pairs"
        yield "method.pairs", what, "lower it, or raise rollout.completions_per_prompt"
    if options["name"] == "rso" and (accepted or 2) >= answers:
        what = f"is {accepted} of {answers} answers to each prompt: all are accepted, and nothing is selected"
        yield "method.accepted", what, "lower it, or raise rollout.completions_per_prompt to several times as many"


def _whole(value: Any) -> int | None:
    """A number as it is; what is none, or not given, is nobody's business here."""
    return value if type(value) is int else None


def _steps(run: RunConfig, rollout: RolloutSection, method: type[Method]) -> Iterator[Finding]:
    epochs = rollout.ppo_epochs or method.default_ppo_epochs
    parts = (rollout.prompts_per_batch or run.train.groups_per_step) // run.train.groups_per_step
    once, behind = epochs * parts == 1, rollout.old_logprobs == "engine" and rollout.ahead
    # A batch that was sampled ahead is scored by other weights than those that sampled it.
    for name, useless in (("target_kl", once), ("off_policy_mask", once and not behind)):
        if useless and run.method.get(name) is not None:
            what = "has no effect where each rollout batch gets one step"
            yield f"method.{name}", what, "raise rollout.ppo_epochs or rollout.prompts_per_batch, or remove it"
    if not method.reads_old:
        for name in ("old_logprobs", "correction"):
            if changed(rollout, name):
                yield (
                    f"rollout.{name}",
                    f"has no effect with {method.name}: its loss has no old policy in it",
                    "remove it",
                )
    elif rollout.old_logprobs == "engine" and rollout.engine == "generate":
        what = "is not to be had from transformers' generate, which gives no log-probs of the whole distribution"
        yield "rollout.old_logprobs", what, "use recompute, or the local engine"


def _prompts(run: RunConfig, rollout: RolloutSection, method: type[Method]) -> Iterator[Finding]:
    alone = "baseline" in method.Config.model_fields and run.method.get("baseline", "none") == "none"
    plain = method.teaches is Method.teaches or alone
    if rollout.dynamic_sampling and plain:
        hint = "it is for methods that compare the answers to a prompt: remove it"
        yield "rollout.dynamic_sampling", f"has no effect with {method.name}: every answer teaches something", hint
    dynamic = method.default_dynamic_sampling if rollout.dynamic_sampling is None else rollout.dynamic_sampling
    if changed(rollout, "dynamic_rounds") and not dynamic:
        yield "rollout.dynamic_rounds", "has no effect without dynamic_sampling", "add rollout.dynamic_sampling=true"
    if changed(rollout, "curriculum_uniform") and rollout.curriculum == "none":
        yield "rollout.curriculum_uniform", "has no effect without a curriculum", "add rollout.curriculum=learnability"
    if rollout.curriculum != "none" and changed(run.data, "shuffle"):
        yield (
            "data.shuffle",
            "has no effect beside rollout.curriculum, which draws the prompts",
            "remove one of the two",
        )


def _correction(rollout: RolloutSection) -> Iterator[Finding]:
    if rollout.correction == "none":
        for name in ("correction_cap", "correction_floor"):
            if changed(rollout, name):
                yield (
                    f"rollout.{name}",
                    "has no effect without rollout.correction",
                    "add it, for example token_truncate",
                )
        return
    masks = rollout.correction.endswith("_mask")
    if changed(rollout, "correction_floor") and not masks:
        hint = "use a _mask correction, or remove it"
        yield "rollout.correction_floor", f"has no effect with {rollout.correction}, which only has a cap", hint
    if masks and rollout.correction_floor >= rollout.correction_cap:
        yield "rollout.correction_floor", "is not below correction_cap: nothing would be kept", ""


def _replay(rollout: RolloutSection) -> Iterator[Finding]:
    if rollout.replay is None:
        return
    for name in (*_SAMPLING, "ahead", "max_rows", "cache_gib", "dynamic_sampling", "curriculum"):
        if changed(rollout, name) and name not in ("max_new_tokens", "completions_per_prompt"):
            hint = "the file's answers are trained on; remove one of the two"
            yield f"rollout.{name}", "has no effect beside rollout.replay: nothing is sampled", hint
    if rollout.save is not None:
        yield "rollout.save", "would write what rollout.replay reads", "remove one of the two"


def _critic(run: RunConfig, method: type[Method]) -> Iterator[Finding]:
    if run.critic is None:
        return
    critic: CriticSection = run.critic
    if "critic" not in method.roles:
        yield "critic", f"has no effect with {method.name}, which has no critic", "remove it, or use `plaudit ppo`"
        return
    if critic.separate and run.lora is None:
        yield "critic.separate", "has no effect without lora: the critic is a model of its own then", "remove it"
    if critic.separate and critic.path is not None:
        yield "critic.separate", "has no effect beside critic.path, which names a model of its own", "remove it"
    own = run.lora is None or critic.separate or critic.path is not None
    if critic.start == "reward" and not own and run.rollout is not None and run.rollout.ahead:
        what = "would be an adapter beside the reward model's, which has a model of its own with rollout.ahead"
        yield "critic.start", what, "set rollout.ahead to 0, or critic.separate=true"
    if critic.start == "reward" and critic.path is not None:
        yield "critic.start", "has no effect beside critic.path", "remove one of the two"
