"""What a run says about itself before its first step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plaudit.config.schema import RunConfig
from plaudit.forest.layout import piece_tokens
from plaudit.forest.pack import split_group
from plaudit.methods.base import Method
from plaudit.models.forest_model import ForestModel
from plaudit.runs.alerts import FULL_LEARNING_RATES, LORA_LEARNING_RATES, AlertSettings
from plaudit.runs.plan import InWords
from plaudit.runs.rundir import CONFIG_NAME, read_config
from plaudit.train.planning import needs_last
from plaudit.types import PromptGroup

if TYPE_CHECKING:
    from plaudit.train.prepared import Prepared


def plan_of(prepared: Prepared) -> dict[str, Any]:
    """The plan that is shown at the start: label → value."""
    trainer, held_out = prepared.trainer, prepared.intake.held_out
    config, schedule, model = trainer.config, trainer.schedule, trainer.model
    total = sum(p.numel() for p in model.parameters())
    trained = sum(w.numel() for w in trainer.masters.parameters)
    precision, device = str(model.dtype).removeprefix("torch."), model.device.type
    kept = config.checkpoint.keep
    held_out_prompts = len(held_out.groups) if held_out else 0
    plan: dict[str, Any] = {
        "method": InWords(f"{trainer.method.title} ({trainer.method.name})", method=trainer.method.name),
        "model": config.model.path,
        "parameters": InWords(f"{total:,}, {trained:,} trained", parameters=total, trained_parameters=trained),
        "precision": InWords(f"{precision} on {device}", precision=precision, device=device),
        "attention": model.path,
        **({"weights": "sharded over all processes"} if model.sharded else {}),
        **prepared.work.rows(),
        "held out": InWords(f"{held_out_prompts:,} prompts" if held_out else "none", held_out_prompts=held_out_prompts),
        "tokens per micro-batch": prepared.budget.row,
        "learning rate": config.train.learning_rate,
        "evaluation": InWords(
            _every(schedule.eval_every) if schedule.eval_every else "none", eval_every=schedule.eval_every
        ),
        "checkpoints": InWords(
            f"{_every(schedule.checkpoint_every)}, {f'the last {kept} are' if kept > 1 else 'the last is'} kept",
            checkpoint_every=schedule.checkpoint_every,
            checkpoints_kept=kept,
        ),
        "run directory": str(prepared.path),
    }
    if config.watch.stop:
        plan["stops at"] = ", ".join(config.watch.stop)
    if config.checkpoint.kl_grid:
        plan["models kept at"] = f"a KL of {', '.join(f'{v:g}' for v in config.checkpoint.kl_grid)} nats per answer"
    if trainer.world.size > 1:
        plan["processes"] = trainer.world.size
    return {**plan, **prepared.described}


def _every(steps: int) -> str:
    return f"every {steps:,} steps" if steps > 1 else "every step"


def oversize_note(method: Method, model: ForestModel, budget: int, groups: Sequence[PromptGroup]) -> str | None:
    """A unit is never cut: one that exceeds the budget makes a larger micro-batch, and memory follows it."""
    sizes = [
        piece_tokens(piece, model.bos_id, needs_last(method))
        for group in groups
        for piece in split_group(group, 0, budget=budget, unit=method.unit, bos_id=model.bos_id)
    ]
    larger = [size for size in sizes if size > budget]
    if not larger:
        return None
    return (
        f"{len(larger)} of {len(sizes)} {method.unit}s are larger than train.tokens_per_microbatch="
        f"{budget} (up to {max(larger)} tokens): each is a micro-batch of its own size"
    )


def earlier_run_note(config: RunConfig) -> list[str]:
    """That the model comes from a run whose system prompt is not this one's: it is not taken over."""
    run = Path(config.model.path).expanduser().parent
    if not (run / CONFIG_NAME).is_file():
        return []
    before, now = read_config(run).get("data", {}).get("system_prompt"), config.data.system_prompt
    if before == now:
        return []
    return [f"{run} trained with data.system_prompt = {before!r}; this run has {now!r}"]


def alert_settings(config: RunConfig, method: Method) -> AlertSettings:
    """What the alert rules hold the run against."""
    watch = config.watch
    return AlertSettings(
        alert_after=config.log.alert_after,
        learning_rate=config.train.learning_rate,
        learning_rate_range=FULL_LEARNING_RATES if config.lora is None else LORA_LEARNING_RATES,
        max_grad_norm=config.train.max_grad_norm,
        watch_chosen="policy" in method.roles,
        watch_loss=method.data_kind == "completion",
        chosen_reward_floor=watch.chosen_reward_floor,
        chosen_logp_drop=watch.chosen_logp_drop,
        kl_budget=watch.kl_budget,
        kl_jump=watch.kl_jump,
        entropy_share=watch.entropy_share,
        shorter=watch.shorter,
        longer=watch.longer,
        clip_fraction=watch.clip_fraction,
        approx_kl=watch.approx_kl,
        explained_variance=watch.explained_variance,
        zero_std_share=watch.zero_std_share,
        unfilled_share=watch.unfilled_share,
        capped_share=watch.capped_share,
        error_share=watch.error_share,
        repeated_share=watch.repeated_share,
        repeated_rise=watch.repeated_rise,
        flat_errors=watch.flat_errors,
        held_out_errors=watch.held_out_errors,
        gap_mean=watch.gap_mean,
        gap_k3=watch.gap_k3,
        gap_ess=watch.gap_ess,
        reward_above=watch.reward_above,
        gold_errors=watch.gold_errors,
        gold_correlation=watch.gold_correlation,
        above_range=watch.above_range,
        disagreement=watch.disagreement,
        outliers=watch.outliers,
    )
