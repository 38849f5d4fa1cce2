"""The model: where it is, its precision, its adapter, and where its weights are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from plaudit.migration.draft import Draft
from plaudit.migration.values import boolean, names, number, text, whole

MODEL = "YOUR-MODEL"
"""Stands for a model that the input does not name."""
_PEFT_TARGETS = ["q_proj", "v_proj"]
"""peft's default for Llama, Mistral, Qwen, Gemma and most others."""


def model(draft: Draft) -> None:
    """Path, revision, template, precision."""
    for name in ("sft_model_path", "model_name_or_path") if draft.trainer == "ppo" else ("model_name_or_path",):
        path = draft.get(name, text)
        if path is not None:
            draft.write("model.path", path, name)
            break
    else:
        draft.write("model.path", MODEL, note="not named there: write it here")
        draft.notes.append(f"model.path is {MODEL}: write the model's path or hub id there")
    revision = draft.get("model_revision", text)
    path = draft.lines["model.path"].value
    if revision not in (None, "main") and not Path(str(path)).expanduser().exists():
        draft.write("model.revision", revision, "model_revision")
    else:
        draft.idle("model_revision", text="the model as it is")
    _tokens(draft)
    _template(draft)
    _precision(draft)
    if draft.get("disable_gradient_checkpointing", boolean):
        draft.write("model.gradient_checkpointing", False, "disable_gradient_checkpointing")


def _tokens(draft: Draft) -> None:
    """axolotl's special_tokens: more of them, and other words for those that the tokenizer has."""
    given = draft.get("special_tokens", _anything)
    if not isinstance(given, dict):
        return
    more = given.get("additional_special_tokens")
    other = [name for name, token in given.items() if token and name not in ("additional_special_tokens", "pad_token")]
    if more:
        draft.write("model.added_tokens", [str(token) for token in more], "special_tokens")
    if other:
        draft.miss("special_tokens", text=f"save a tokenizer with this {' and '.join(other)}: model.tokenizer")
    elif not more:
        draft.miss("special_tokens", text="nothing is padded with it in training", changes=False)


def _template(draft: Draft) -> None:
    file = draft.get("chat_template_path", text) or draft.get("chat_template_jinja", text)
    name = draft.get("chat_template", text)
    if file is not None and file.endswith((".jinja", ".jinja2", ".j2")):
        draft.write("model.chat_template", file, "chat_template_path", "chat_template_jinja")
    elif file is not None:
        draft.miss(
            "chat_template_path",
            "chat_template_jinja",
            text="write the template into a .jinja file: model.chat_template",
        )
    if name in ("jinja", "tokenizer_default", None):
        draft.idle("chat_template", text="the tokenizer's own, or model.chat_template")
    else:
        draft.differ(
            "chat_template", text="the tokenizer's own template is used; model.chat_template names a .jinja file"
        )


def _precision(draft: Draft) -> None:
    half = ("fp16", "float16")
    switches = {name: draft.get(name, _switch) for name in ("bf16", "bfloat16", *half, "float32")}
    dtype = draft.get("dtype", text) or draft.get("torch_dtype", text)
    if any(switches[name] is True for name in half) or dtype in ("float16", "fp16"):
        names_ = [n for n in (*half, "dtype", "torch_dtype") if draft.says(n)]
        draft.write("model.precision", "bf16", *names_, note="fp16 is not offered")
        draft.differ(*names_, text="model.precision: bf16; fp16 is not offered")
    elif switches["bf16"] is True or switches["bfloat16"] is True:
        draft.write("model.precision", "bf16", "bf16", "bfloat16")
    elif switches["float32"] is True or (switches["bf16"] is False and draft.dialect.tool == "trl"):
        draft.write("model.precision", "fp32", "float32", "bf16")
    elif dtype in ("bfloat16", "bf16"):
        draft.write("model.precision", "bf16", "dtype", "torch_dtype")
    for name in ("dtype", "torch_dtype"):
        if name in draft.outcomes or not draft.says(name):
            continue
        draft.differ(name, text="trained weights are always kept in fp32; model.precision is what is computed in")
    draft.take(
        *(n for n in switches if n not in draft.outcomes), text="model.precision: auto (bf16 on a GPU that has it)"
    )


def _switch(value: Any) -> bool | str:
    return value if value in ("auto", "full") else boolean(value)


def adapter(draft: Draft) -> None:
    """LoRA: whether, and how."""
    tuning = {"trl": "use_peft", "llama-factory": "finetuning_type", "axolotl": "adapter"}[draft.dialect.tool]
    wanted = draft.get(tuning, _wants_adapter)
    where = draft.get("adapter_name_or_path", text) or draft.get("lora_model_dir", text)
    if not wanted:
        draft.idle(tuning, text="all weights are trained")
        draft.take(*(n for n in _LORA if draft.says(n)), text="has no effect without an adapter")
        return
    draft.take(tuning, text="lora: an adapter")
    kind = draft.get(tuning, text)
    if kind in ("qlora", "oft", "freeze"):
        why = {"qlora": "the base is not quantised: plain LoRA, which takes more memory"}.get(str(kind))
        draft.miss(tuning, text=why or f"{kind} is not offered: LoRA in its place")
    if where is not None:
        draft.write("lora.path", where.split(",")[0], "adapter_name_or_path", "lora_model_dir")
        draft.take(*(n for n in _LORA if draft.says(n)), text="comes from the adapter that is continued")
        return
    _fresh(draft)


_LORA = (
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_target_modules",
    "lora_modules_to_save",
    "use_rslora",
    "use_dora",
)


def _wants_adapter(value: Any) -> bool:
    return value not in ("full", None, "", "none") and (
        (isinstance(value, str) and not _is_boolean(value)) or boolean(value)
    )


def _is_boolean(value: str) -> bool:
    return value.lower() in ("true", "false", "yes", "no", "1", "0")


def _fresh(draft: Draft) -> None:
    draft.copy("lora.r", "lora_r", whole)
    draft.copy("lora.alpha", "lora_alpha", number)
    _targets(draft)
    dropout = draft.get("lora_dropout", number)
    if dropout and (draft.method.is_online() or draft.method.scope == "step"):
        text_ = "0: dropout would make the scored distribution differ from the one that is sampled or compared"
        draft.differ("lora_dropout", text=text_)
        if not draft.says("lora_dropout"):
            draft.notes.append(f"lora.dropout is {text_} (their default is {dropout:g})")
    elif dropout is not None:
        draft.write("lora.dropout", dropout, "lora_dropout")
    kept = draft.get("lora_modules_to_save", names)
    if kept:
        draft.write("lora.modules_to_save", kept, "lora_modules_to_save")
    for theirs, ours in (("use_rslora", "lora.rslora"), ("use_dora", "lora.dora")):
        if draft.get(theirs, boolean):
            draft.write(ours, True, theirs)
    if not any(key.startswith("lora.") for key in draft.lines):
        draft.write("lora.r", 16, note="an adapter with our defaults")


def _targets(draft: Draft) -> None:
    """ "all" and all-linear are ours; nothing at all is peft's choice for the architecture."""
    given = draft.get("lora_target_modules", names)
    if draft.get("lora_target_linear", boolean) or (given and set(given) & {"all", "all-linear"}):
        draft.write("lora.target_modules", "all-linear", "lora_target_linear", "lora_target_modules")
    elif given:
        draft.write("lora.target_modules", given, "lora_target_modules")
        draft.take("lora_target_linear", text="lora.target_modules: all-linear or as named")
    elif not draft.unread("lora_target_modules"):
        note = "peft's choice for Llama, Mistral, Qwen and Gemma; ours is all-linear"
        draft.write("lora.target_modules", _PEFT_TARGETS, "lora_target_modules", note=note)


def weights(draft: Draft) -> None:
    """deepspeed and fsdp → train.sharding."""
    given = [n for n in ("deepspeed", "fsdp", "fsdp_config") if draft.get(n, _anything)]
    if not given:
        return
    stage = str(draft.get("deepspeed", _anything) or "").lower()
    whole_weights = any(part in stage for part in ("zero0", "zero1", "zero_1", "z0", "z1", "stage1"))
    if draft.method.is_online() or draft.method.name == "tr_dpo":
        draft.differ(
            *given, text=f"{draft.method.name} keeps whole weights in each process (train.sharding: replicated)"
        )
    elif draft.lines.get("train.optimizer") is not None and draft.lines["train.optimizer"].value != "adamw":
        draft.differ(*given, text="train.sharding: replicated; the 8-bit optimisers do not know sharded weights")
    elif whole_weights:
        draft.differ(*given, text="train.sharding: replicated; only the optimiser's state is spread there")
    else:
        draft.write("train.sharding", "fsdp", *given)
        draft.differ(*given, text="train.sharding: fsdp, with settings of its own; the result does not depend on it")


def _anything(value: Any) -> Any:
    return value
