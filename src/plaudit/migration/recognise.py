"""Which tool a configuration is of, and which trainer of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plaudit.config.origins import ORIGINS
from plaudit.errors import ConfigError
from plaudit.methods import find
from plaudit.migration import values
from plaudit.migration.draft import Dialect
from plaudit.migration.rules import Table
from plaudit.migration.settings import TOOLS, Given, Tool
from plaudit.migration.tables.axolotl import AXOLOTL, AXOLOTL_DEFAULTS, AXOLOTL_NAMES
from plaudit.migration.tables.llama_factory import LLAMA_FACTORY, LLAMA_FACTORY_DEFAULTS, LLAMA_FACTORY_NAMES
from plaudit.migration.tables.trl import CLASSES, LORA_CONFIG_DEFAULTS, TRL, TRL_DEFAULTS

_TABLES: Mapping[Tool, tuple[Table, Mapping[str, str]]] = {
    "trl": (TRL, {}),
    "llama-factory": (LLAMA_FACTORY, LLAMA_FACTORY_NAMES),
    "axolotl": (AXOLOTL, AXOLOTL_NAMES),
}
_MARKS: Mapping[Tool, frozenset[str]] = {
    "trl": frozenset(
        {"dataset_name", "use_peft", "dataset_train_split", "loss_type", "reward_funcs", "lora_target_modules"}
    ),
    "llama-factory": frozenset(
        {
            "stage",
            "finetuning_type",
            "template",
            "cutoff_len",
            "lora_rank",
            "lora_target",
            "dataset_dir",
            "pref_loss",
            "dataset",
        }
    ),
    "axolotl": frozenset(
        {"base_model", "rl", "micro_batch_size", "num_epochs", "sequence_len", "adapter", "lr_scheduler", "optimizer"}
    ),
}
"""Keys that one of the tools has and the others have not."""
_ONLY: Mapping[str, frozenset[str]] = {
    "grpo": frozenset(
        {"scale_rewards", "importance_sampling_level", "delta", "top_entropy_quantile", "use_bias_correction_kl"}
    ),
    "rloo": frozenset({"normalize_advantages", "reward_clip_range"}),
    "dpo": frozenset({"f_divergence_type", "discopop_tau", "ld_alpha", "use_weighting", "loss_weights", "rpo_alpha"}),
    "kto": frozenset({"desirable_weight", "undesirable_weight"}),
    "cpo": frozenset({"cpo_alpha", "simpo_gamma"}),
    "reward": frozenset({"center_rewards_coefficient"}),
    "sft": frozenset(
        {"assistant_only_loss", "completion_only_loss", "packing", "dataset_text_field", "packing_strategy"}
    ),
    "ppo": frozenset({"kl_coef", "cliprange", "vf_coef", "num_ppo_epochs", "sft_model_path", "total_episodes"}),
}
"""Trainer of TRL → keys that only it has."""
_SAMPLED = frozenset({"num_generations", "steps_per_generation", "generation_batch_size", "num_iterations"})
"""Keys that GRPO and RLOO have and nobody else."""
_LOSSES: Mapping[str, str] = {
    **dict.fromkeys(("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"), "grpo"),
    **dict.fromkeys(("simpo", "alphapo"), "cpo"),
    **dict.fromkeys(("kto", "apo_zero_unpaired"), "kto"),
    **dict.fromkeys(("nll", "dft", "chunked_nll"), "sft"),
    **dict.fromkeys(("exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired"), "dpo"),
    **dict.fromkeys(("apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"), "dpo"),
}
"""loss_type → the trainer of TRL that has it, where only one has."""


def tool_of(given: Given) -> Tool:
    """The tool whose keys these are.

    Raises:
        ConfigError: PL104, they are nobody's.
    """
    if given.tool is not None:
        return given.tool
    keys = {setting.key for setting in given.settings}
    marks = {tool: len(keys & _MARKS[tool]) for tool in TOOLS}
    if not any(marks.values()):
        marks = {tool: len(keys & {*_TABLES[tool][0], *_TABLES[tool][1]}) for tool in TOOLS}
    best = max(TOOLS, key=lambda tool: marks[tool])
    if not marks[best]:
        raise ConfigError(
            "PL104",
            "this is no configuration of TRL, LLaMA-Factory or axolotl: none of its keys is known",
            where=given.name,
            mend=f"--from {'|'.join(TOOLS)} says whose it is",
        )
    return best


def trainer_of(given: Given, tool: Tool, method: str | None) -> tuple[str, str | None]:
    """(trainer as TRL's command has it, our method where `method` names one that is no trainer's).

    Raises:
        ConfigError: PL104, the settings fit several; PL101, there is no such method.
    """
    if method is not None:
        wanted = method.replace("-", "_")
        if wanted in CLASSES:
            return wanted, None
        return _trainer_for(wanted), wanted
    if tool == "llama-factory":
        return _factory(given), None
    if tool == "axolotl":
        return _axolotl(given), None
    return (given.trainer if given.trainer is not None and given.trainer in CLASSES else _trl(given)), None


def dialect_of(tool: Tool, trainer: str, given: Given) -> Dialect:
    """The tool's keys and its defaults for a trainer."""
    table, names = _TABLES[tool]
    if tool == "trl":
        return Dialect(tool, table, names, {**TRL_DEFAULTS[trainer], **(LORA_CONFIG_DEFAULTS if given.script else {})})
    defaults: dict[str, Any] = dict(LLAMA_FACTORY_DEFAULTS if tool == "llama-factory" else AXOLOTL_DEFAULTS)
    rl = _value(given, "rl")
    if tool == "axolotl" and rl in ("ipo", "simpo"):
        defaults["loss_type"] = rl
    return Dialect(tool, table, names, defaults)


def _value(given: Given, key: str) -> Any:
    return next((values.plain(s.value) for s in given.settings if s.key == key), None)


def _trainer_for(method: str) -> str:
    """The trainer of TRL whose losses include our method, or whose data it takes."""
    found = find(method)
    for origin in ORIGINS:
        if origin.tool == "TRL" and origin.method == method:
            return next(command for command, name in CLASSES.items() if f"{name}Trainer" == origin.trainer)
    kinds = {"prompt": "grpo", "feedback": "kto", "ranking": "reward", "completion": "sft", "preference": "dpo"}
    return kinds[found.data_kind]


def _factory(given: Given) -> str:
    stage = str(_value(given, "stage") or "sft")
    loss = _value(given, "pref_loss")
    stages = {"pt": "sft", "sft": "sft", "rm": "reward", "ppo": "ppo", "kto": "kto"}
    given.trainer = stage
    if stage == "dpo":
        return {"orpo": "orpo", "simpo": "cpo", "kto_pair": "kto"}.get(str(loss), "dpo")
    if stage not in stages:
        raise _unclear(given, f"stage {stage} is not known", [*stages, "dpo"])
    return stages[stage]


def _axolotl(given: Given) -> str:
    rl = _value(given, "rl")
    if rl is None or rl is False:
        return "reward" if _value(given, "reward_model") is True else "sft"
    trainers = {
        "dpo": "dpo",
        "ipo": "dpo",
        "kto": "kto",
        "orpo": "orpo",
        "simpo": "cpo",
        "grpo": "grpo",
        "gdpo": "grpo",
    }
    if rl is True:  # what it once meant
        return "dpo"
    if str(rl) not in trainers:
        raise _unclear(given, f"rl: {rl} has no counterpart here", list(trainers))
    return trainers[str(rl)]


def _trl(given: Given) -> str:
    """A file for `trl NAME --config` does not say NAME: its keys, its loss or the file's name do."""
    keys = {setting.key for setting in given.settings}
    fits = [trainer for trainer, own in _ONLY.items() if keys & own]
    loss = _value(given, "loss_type")
    by_loss = _LOSSES.get(str(loss[0] if isinstance(loss, list) and loss else loss))
    if len(fits) == 1 or by_loss in fits:
        return str(by_loss if by_loss in fits else fits[0])
    if by_loss is not None and not fits:
        return by_loss
    if isinstance(loss, list):
        return "dpo"
    stem = Path(given.name).stem.lower().replace("-", "_")
    named = [
        command for command in sorted(CLASSES, key=len, reverse=True) if command in stem.split("_") or command in stem
    ]
    if named:
        return named[0]
    candidates = fits or (["grpo", "rloo"] if keys & _SAMPLED else list(CLASSES))
    raise _unclear(given, "the keys fit several trainers of TRL", candidates)


def _unclear(given: Given, what: str, candidates: Sequence[str]) -> ConfigError:
    mend = f"--method NAME says which: {', '.join(candidates)}"
    return ConfigError("PL104", what, where=given.name, mend=mend)
