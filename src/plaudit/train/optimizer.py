"""Optimiser, learning-rate schedule and clipping. Everything here works on the fp32 masters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import Any, overload

import torch
from torch import Tensor, nn

from plaudit.config.schema import TrainConfig
from plaudit.errors import TrainingError
from plaudit.methods.base import Role
from plaudit.models.shards import whole


def parameter_groups(weights: Mapping[str, nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices with weight decay, vectors (biases, norms) without."""
    decayed = [w for w in weights.values() if w.ndim >= 2]
    plain = [w for w in weights.values() if w.ndim < 2]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [g for g in groups if g["params"]]


def check_optimizer(config: TrainConfig) -> None:
    """Raise TrainingError PL405 for an 8-bit optimiser without a GPU or without bitsandbytes: before any work is
    done."""
    if config.optimizer == "adamw":
        return
    if not torch.cuda.is_available():
        raise TrainingError(
            "PL405", f"{config.optimizer} needs a GPU", where="train.optimizer", mend="use train.optimizer=adamw"
        )
    if find_spec("bitsandbytes") is None:
        raise TrainingError(
            "PL405",
            f"{config.optimizer} needs the package bitsandbytes",
            where="train.optimizer",
            mend="pip install bitsandbytes, or use train.optimizer=adamw",
        )


@overload
def build_optimizer(
    config: TrainConfig, weights: Mapping[str, nn.Parameter], learning_rate: float
) -> torch.optim.Optimizer: ...


@overload
def build_optimizer(
    config: TrainConfig, weights: Mapping[Role, Mapping[str, nn.Parameter]], learning_rate: Mapping[Role, float]
) -> torch.optim.Optimizer: ...


def build_optimizer(config: TrainConfig, weights: Any, learning_rate: Any) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101), fused where torch has it; the 8-bit ones come from
    bitsandbytes.

    Args:
        weights: by name, or by role and name; the parameter groups of a role have its name as "role".
        learning_rate: the peak, or that of each role.

    Raises:
        TrainingError: PL405 when an 8-bit optimiser is asked for without bitsandbytes or without a GPU.
    """
    if isinstance(learning_rate, Mapping):
        groups = [
            {**group, "lr": learning_rate[role], "role": role}
            for role, own in weights.items()
            for group in parameter_groups(own, config.weight_decay)
        ]
    else:
        groups = [{**group, "lr": learning_rate} for group in parameter_groups(weights, config.weight_decay)]
    options: dict[str, Any] = {"betas": config.betas, "eps": config.eps}
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, fused=True, **options)
    check_optimizer(config)
    import bitsandbytes

    kind = bitsandbytes.optim.AdamW8bit if config.optimizer == "adamw_8bit" else bitsandbytes.optim.PagedAdamW8bit
    optimizer: torch.optim.Optimizer = kind(groups, **options)
    return optimizer


def warmup_steps(config: TrainConfig, total_steps: int) -> int:
    """Steps over which the learning rate rises; shorter than the run."""
    wanted = config.warmup_steps if config.warmup_steps is not None else round(config.warmup_fraction * total_steps)
    return min(wanted, max(total_steps - 1, 0))


def learning_rate_factor(config: TrainConfig, step: int, total_steps: int) -> float:
    """Share of the peak learning rate at optimiser step `step`, counted from 0.

    The warm-up rises to the peak over its steps (the first step is not at 0); after it a line or half a cosine
    would reach min_lr_ratio one step after the last, so that no step is spent at 0.
    """
    warm = warmup_steps(config, total_steps)
    if step < warm:
        return (step + 1) / (warm + 1)
    if config.schedule == "constant":
        return 1.0
    done = (step - warm) / max(total_steps - warm, 1)
    shape = 1 - done if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return config.min_lr_ratio + (1 - config.min_lr_ratio) * shape


def set_learning_rates(optimizer: torch.optim.Optimizer, peaks: Mapping[Role, float], factor: float) -> None:
    """Give every parameter group the rate of its role for the next step.

    The peaks come from the configuration in each step, not from the groups: those come back from a checkpoint, and
    would bring the rate back that was configured then.

    Args:
        peaks: peak learning rate of each trained role; a single one holds for all groups.
        factor: see `learning_rate_factor`.
    """
    only = next(iter(peaks.values())) if len(peaks) == 1 else None
    for group in optimizer.param_groups:
        group["lr"] = factor * (peaks[group["role"]] if only is None else only)


def clip_by_role(
    weights: Mapping[Role, Mapping[str, nn.Parameter]], limits: Mapping[Role, float | None]
) -> dict[Role, Tensor]:
    """Clip the gradients of each role by themselves: a critic's large ones must not shrink the policy's.

    Returns:
        The norms before, as device scalars; 0 for a role without a gradient in this step.
    """
    return {role: clip_gradients(list(own.values()), limits[role]) for role, own in weights.items()}


def norm_over(norms: Iterable[Tensor]) -> Tensor:
    """Global norm of parts that have these norms; not finite where one of them is not."""
    parts = list(norms)
    return parts[0] if len(parts) == 1 else torch.linalg.vector_norm(torch.stack(parts))


def clip_gradients(parameters: list[nn.Parameter], limit: float | None) -> Tensor:
    """Scale all gradients so that their global norm is at most `limit`; returns the norm before, as a device scalar."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros((), device=parameters[0].device)
    norm = whole(torch.nn.utils.get_total_norm(gradients, foreach=True))
    if limit is not None:
        torch.nn.utils.clip_grads_with_norm_([p for p in parameters if p.grad is not None], limit, norm, foreach=True)
    return norm


def step_unless_not_finite(optimizer: torch.optim.Optimizer, norm: Tensor) -> None:
    """Take the step, unless the gradient norm is NaN or infinite; decided on the device, without waiting for it."""
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
        optimizer.grad_scale = None  # type: ignore[attr-defined]
        optimizer.step()
    elif bool(torch.isfinite(norm)):
        optimizer.step()
