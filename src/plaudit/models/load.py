"""Load a model and its tokenizer, put an adapter on it, choose its precision. Every decision is a note for the log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from plaudit.config.schema import LoraSection, ModelConfig
from plaudit.errors import ModelError
from plaudit.methods.base import Role
from plaudit.models.adapters import add_lora, continue_lora
from plaudit.models.forest_model import RoleSpec, causal_lm, native_implementation


@dataclass(slots=True)
class LoadedModel:
    """A model that is ready to be wrapped in a `ForestModel`."""

    model: nn.Module
    tokenizer: Any
    roles: dict[Role, RoleSpec]
    """How policy and, with an adapter, the reference use the base."""
    notes: list[str] = field(default_factory=list)
    """Decisions, for the log."""


def compute_dtype(precision: str) -> torch.dtype:
    """auto = bf16 on a GPU that computes it natively, else fp32."""
    if precision == "auto":
        return torch.bfloat16 if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def load_tokenizer(config: ModelConfig) -> Any:
    """The tokenizer that `config` names."""
    transformers_logging.disable_progress_bar()  # what is worth saying is said in notes
    source = config.tokenizer or config.path
    if config.tokenizer is None and config.path.endswith(".gguf"):
        from plaudit.models.gguf import convert_gguf

        source = str(convert_gguf(Path(config.path)))
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source, revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise _not_loaded("tokenizer", source, error, "give model.tokenizer") from error
    return tokenizer


def _not_loaded(what: str, source: str, error: Exception, mend: str) -> ModelError:
    """A folder that holds no such thing, or a name that is no folder and that the hub does not give either."""
    if Path(source).exists():
        return ModelError("PL301", f"no {what} can be loaded: {_first_line(error)}", where=source, mend=mend)
    return ModelError(
        "PL301",
        f"there is no folder {source!r} here, and the hub does not give such a model: {_first_line(error)}",
        where="model.path",
        mend="check the spelling; give a folder with config.json, a .gguf file or a hub id that this machine can reach",
    )


def load_model(config: ModelConfig, lora: LoraSection | None = None, *, train: bool = True) -> LoadedModel:
    """Load everything that `config` names.

    Args:
        config: the `model` section.
        lora: the `lora` section, or None for full fine-tuning (or plain inference).
        train: whether weights will be trained (gradients on).

    Raises:
        ModelError: PL301 not found or not readable, PL303 an architecture that is out of scope.
    """
    tokenizer = load_tokenizer(config)
    model = _load_weights(config)
    return prepare_model(model, tokenizer, config, lora, train=train)


def prepare_model(
    model: nn.Module, tokenizer: Any, config: ModelConfig, lora: LoraSection | None = None, *, train: bool = True
) -> LoadedModel:
    """What `load_model` does after reading the weights; also for a model in memory (trained in place)."""
    notes: list[str] = []
    _refuse_out_of_scope(causal_lm(model).config)
    if hasattr(model, "peft_config"):
        raise ModelError(
            "PL306",
            "the model already carries an adapter",
            mend="train on with lora.path=<run>/model and a freshly loaded base, or pass "
            "model.merge_and_unload(); a model that was trained with LoRA in this program keeps its adapter",
        )
    if config.chat_template is not None:
        _override_template(tokenizer, Path(config.chat_template))
    new_ids = add_tokens(model, tokenizer, config.added_tokens, notes) if config.added_tokens else []
    silenced = silence_dropout(model)
    if silenced:
        notes.append(f"dropout of the model set to 0 in {silenced} places")
    _use_whole_attention(causal_lm(model), notes)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = compute_dtype(config.precision)
    _cast(model, dtype)
    model.to(device)
    notes.append(f"{_count(model) / 1e6:.1f}M parameters, {str(dtype).removeprefix('torch.')} on {device.type}")
    roles: dict[Role, RoleSpec] = {"policy": RoleSpec()}
    if lora is None:
        model.requires_grad_(train)
    elif lora.path is None:
        model = add_lora(model, lora, dtype, new_ids)
        roles = {"policy": RoleSpec("default"), "reference": RoleSpec(None)}
    else:
        model = continue_lora(model, Path(lora.path), dtype)
        roles = {"policy": RoleSpec("default"), "reference": RoleSpec("reference")}
        notes.append(f"continuing adapter {lora.path}; the reference is a frozen copy of it")
    if config.gradient_checkpointing:
        enable_checkpointing(model)
    return LoadedModel(model, tokenizer, roles, notes)


def enable_checkpointing(model: nn.Module) -> None:
    """Recompute activations in the backward pass, without the re-entrant variant (which loses adapters' gradients).

    Raises:
        ModelError: PL303 when the architecture cannot.
    """
    inner: Any = causal_lm(model)
    if not inner.supports_gradient_checkpointing:
        raise ModelError("PL303", f"{type(inner).__name__} does not support gradient checkpointing")
    if hasattr(inner, "activation_checkpointing_enable"):  # its name in newer versions of transformers
        inner.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    else:
        inner.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def _load_weights(config: ModelConfig) -> nn.Module:
    if config.path.endswith(".gguf"):
        from plaudit.models.gguf import convert_gguf

        source: str = str(convert_gguf(Path(config.path)))
    else:
        source = config.path
    auto: Any = AutoModelForCausalLM  # its annotation does not know output_loading_info
    try:
        _refuse_out_of_scope(
            AutoConfig.from_pretrained(source, revision=config.revision, trust_remote_code=config.trust_remote_code)
        )
        model, report = auto.from_pretrained(
            source,
            revision=config.revision,
            trust_remote_code=config.trust_remote_code,
            dtype="auto",
            output_loading_info=True,
        )
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            "PL301",
            f"the model cannot be loaded: {_first_line(error)}",
            where=config.path,
            mend="give a folder with config.json, a .gguf file or a hub id that this machine can reach",
        ) from error
    _refuse_incomplete(report, config.path)
    loaded: nn.Module = model
    return loaded


def _refuse_incomplete(report: dict[str, Any], where: str) -> None:
    """transformers fills in random weights for whatever a checkpoint lacks."""
    missing = sorted(report["missing_keys"]) + sorted(str(k[0]) for k in report["mismatched_keys"])
    if missing:
        raise ModelError(
            "PL301",
            f"the checkpoint lacks {len(missing)} of the model's weights: {', '.join(missing[:3])}"
            + (", …" if missing[3:] else ""),
            where=where,
            mend="give the checkpoint of a causal language model, with all of its files",
        )


def _refuse_out_of_scope(config: Any) -> None:
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            "PL303", f"{config.model_type} is an encoder-decoder model; plaudit trains decoder-only models"
        )
    if hasattr(config, "vision_config") or hasattr(config, "audio_config"):
        raise ModelError("PL303", f"{config.model_type} is a multimodal model; plaudit trains text-only models")
    quantised = getattr(config, "quantization_config", None)
    if quantised is not None:
        kind = (
            quantised.get("quant_method") if isinstance(quantised, dict) else getattr(quantised, "quant_method", None)
        )
        raise ModelError(
            "PL303",
            f"the weights are quantised ({getattr(kind, 'value', kind)}) and cannot be trained",
            where=config.model_type,
            mend="use the unquantised checkpoint",
        )


def silence_dropout(model: nn.Module) -> int:
    """Set every dropout of the model to 0 and return how many were not.

    Dropout makes the scored distribution differ from the sampled one, and two passes over one step differ from each
    other.
    """
    changed = 0
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            changed += module.p > 0
            module.p = 0.0
        for name in ("attention_dropout", "dropout", "activation_dropout", "hidden_dropout"):
            value = getattr(module, name, None)
            if isinstance(value, float) and value > 0:
                setattr(module, name, 0.0)
                changed += 1
    return changed


def _use_whole_attention(inner: Any, notes: list[str]) -> None:
    """Sampling without a `ForestModel` must compute what training does; see `native_implementation`."""
    whole = native_implementation(inner)
    if inner.config._attn_implementation == "sdpa" and whole != "sdpa":
        inner.set_attn_implementation(whole)
        notes.append("attention by the eager implementation: sdpa would leave out the model's soft-capping")


def _cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Change the parameters' precision; buffers (RoPE frequencies) keep theirs, as do modules that must be fp32."""
    keep = tuple(getattr(model, "_keep_in_fp32_modules", None) or ()) + tuple(
        getattr(model, "_keep_in_fp32_modules_strict", None) or ()
    )
    for name, parameter in model.named_parameters():
        wanted = torch.float32 if any(part in name for part in keep) else dtype
        if parameter.is_floating_point() and parameter.dtype != wanted:
            parameter.data = parameter.data.to(wanted)
    causal_lm(model).config.dtype = dtype


def _override_template(tokenizer: Any, path: Path) -> None:
    if not path.is_file():
        raise ModelError(
            "PL301", "the chat template file does not exist", where=str(path), mend="check model.chat_template"
        )
    tokenizer.chat_template = path.read_text(encoding="utf-8")


@torch.no_grad()
def add_tokens(model: nn.Module, tokenizer: Any, tokens: Sequence[str], notes: list[str]) -> list[int]:
    """Add special tokens and return the ids of all of them; rows of new ones start at the mean of the old rows.

    The mean itself, without noise: whoever loads the base again gets the same rows, so an adapter fits it.
    """
    inner = causal_lm(model)
    before, vocabulary = len(tokenizer), tokenizer.get_vocab()
    rows = inner.get_input_embeddings().weight.shape[0]
    tokenizer.add_tokens([t for t in tokens if t not in vocabulary], special_tokens=True)
    ids = [int(i) for i in tokenizer.convert_tokens_to_ids(list(tokens))]
    if len(tokenizer) > rows:
        inner.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    fresh = [i for i in ids if i >= min(before, rows)]
    for module in (inner.get_input_embeddings(), inner.get_output_embeddings()):
        for values in (module.weight, getattr(module, "bias", None)):
            if values is not None and fresh:
                values[fresh] = values[: min(before, rows)].double().mean(0).to(values.dtype)
    known = f" ({len(ids) - len(fresh)} were there already)" if len(fresh) < len(ids) else ""
    notes.append(f"{len(fresh)} tokens added{known}; the embedding has {max(rows, len(tokenizer))} rows")
    return ids


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
