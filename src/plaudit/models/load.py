"""Load a model and its tokenizer, put an adapter on it, choose its precision. Every decision is a note for the log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

from plaudit.config.schema import LoraSection, ModelConfig
from plaudit.errors import ModelError
from plaudit.methods.base import Role
from plaudit.models.adapters import add_lora, continue_lora
from plaudit.models.forest_model import RoleSpec, causal_lm, native_implementation
from plaudit.models.heads import is_classifier
from plaudit.models.hub import ask_for
from plaudit.models.pad_token import set_pad_token
from plaudit.models.precision import bf16_note
from plaudit.models.reward_head import as_classifier
from plaudit.models.weights import (
    Task,
    cast,
    first_line,
    read_config,
    read_weights,
    refuse_no_model,
    refuse_out_of_scope,
)


@dataclass(frozen=True, slots=True)
class Outline:
    """A model without its weights: what rendering and packing need."""

    tokenizer: Any
    """as training has it, with the template and the tokens that the configuration adds"""
    config: Any | None
    """transformers' configuration; None where there is a tokenizer and no model"""


def outline_of(loaded: LoadedModel) -> Outline:
    """What rendering and packing need of a model that is there."""
    return Outline(loaded.tokenizer, causal_lm(loaded.model).config)


@dataclass(slots=True)
class LoadedModel:
    """A model that is ready to be wrapped in a `ForestModel`."""

    model: nn.Module
    tokenizer: Any
    roles: dict[Role, RoleSpec]
    """How policy and, with an adapter, the reference use the base; the reward role alone for a reward model."""
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
    ask_for(source, config.revision, "model.path" if config.tokenizer is None else "model.tokenizer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source, revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError, ImportError) as error:
        none = Path(source).is_dir() and not any(Path(source).glob("*token*"))
        what = "the folder has no tokenizer" if none else f"no tokenizer can be loaded: {first_line(error)}"
        raise ModelError(
            "PL301", what, where=source,
            mend="give the folder or hub id of one: model.tokenizer",
        ) from error  # fmt: skip
    return tokenizer


def load_outline(config: ModelConfig) -> Outline:
    """What `load_model` would load, without weights.

    Raises:
        ModelError: PL301, no tokenizer, or a configuration that cannot be read; PL303, an architecture that is out of
            scope.
    """
    tokenizer = load_tokenizer(config)
    _override_template(tokenizer, config)
    _extend(tokenizer, config.added_tokens)
    return Outline(tokenizer, read_config(config))


def load_model(
    config: ModelConfig, lora: LoraSection | None = None, *, train: bool = True, task: Task = "lm"
) -> LoadedModel:
    """Load everything that `config` names.

    Args:
        config: the `model` section.
        lora: the `lora` section, or None for full fine-tuning (or plain inference).
        train: whether weights will be trained (gradients on).
        task: lm, or reward: transformers' sequence classifier with one label. Its trunk comes from the checkpoint; its
            head too if that is a reward model already, else it is new.

    Raises:
        ModelError: PL301 not found or not readable, PL303 an architecture that is out of scope, PL306 an adapter that
            does not fit, PL308 a reward model without a token to pad with.
    """
    notes: list[str] = []
    refuse_no_model(config.path)
    tokenizer = load_tokenizer(config)
    model = read_weights(config, task, notes)
    return _prepare(model, tokenizer, config, lora, train, task, notes)


def prepare_model(
    model: nn.Module,
    tokenizer: Any,
    config: ModelConfig,
    lora: LoraSection | None = None,
    *,
    train: bool = True,
    task: Task = "lm",
) -> LoadedModel:
    """What `load_model` does after reading the weights; also for a model in memory (trained in place).

    For task "reward" a causal language model gives its trunk, without a copy, to the classifier that is returned.
    """
    notes: list[str] = []
    refuse_out_of_scope(causal_lm(model).config)
    if hasattr(model, "peft_config"):
        raise ModelError(
            "PL306",
            "the model already carries an adapter",
            mend="train on with lora.path=<run>/model and a freshly loaded base, or pass "
            "model.merge_and_unload(); a model that was trained with LoRA in this program keeps its adapter",
            where="argument model",
        )
    if task == "reward":
        model = as_classifier(model, notes)
    elif is_classifier(model):
        raise ModelError(
            "PL303",
            f"{type(model).__name__} writes no text",
            mend="give the causal language model, or train a reward",
            where="argument model",
        )
    return _prepare(model, tokenizer, config, lora, train, task, notes)


def _prepare(
    model: nn.Module,
    tokenizer: Any,
    config: ModelConfig,
    lora: LoraSection | None,
    train: bool,
    task: Task,
    notes: list[str],
) -> LoadedModel:
    _override_template(tokenizer, config)
    new_ids = add_tokens(model, tokenizer, config.added_tokens, notes) if config.added_tokens else []
    if task == "reward" and train:
        set_pad_token(model, tokenizer, notes)
    silenced = silence_dropout(model)
    if silenced:
        notes.append(f"dropout of the model set to 0 in {silenced} places")
    _use_whole_attention(causal_lm(model), notes)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = compute_dtype(config.precision)
    cast(model, dtype)
    model.to(device)
    notes.append(f"{_count(model) / 1e6:.1f}M parameters, {str(dtype).removeprefix('torch.')} on {device.type}")
    if dtype == torch.bfloat16 and device.type == "cpu" and (slow := bf16_note()):
        notes.append(slow)
    if lora is None:
        model.requires_grad_(train)
    elif lora.path is None:
        model = add_lora(model, lora, dtype, new_ids)
    else:
        model = continue_lora(model, Path(lora.path), dtype)
        twin = "" if task == "reward" else "; the reference is a frozen copy of it"
        notes.append(f"continuing adapter {lora.path}{twin}")
    if config.gradient_checkpointing:
        enable_checkpointing(model)
    return LoadedModel(model, tokenizer, _roles(task, lora), notes)


def _roles(task: Task, lora: LoraSection | None) -> dict[Role, RoleSpec]:
    adapter = None if lora is None else "default"
    if task == "reward":
        return {"reward": RoleSpec(adapter, head="scalar")}
    if lora is None:
        return {"policy": RoleSpec()}
    return {"policy": RoleSpec(adapter), "reference": RoleSpec(None if lora.path is None else "reference")}


def enable_checkpointing(model: nn.Module) -> None:
    """Recompute activations in the backward pass, without the re-entrant variant (which loses adapters' gradients).

    Raises:
        ModelError: PL303 when the architecture cannot.
    """
    inner: Any = causal_lm(model)
    if not inner.supports_gradient_checkpointing:
        raise ModelError(
            "PL303",
            f"{type(inner).__name__} does not support gradient checkpointing",
            where="model.gradient_checkpointing",
            mend="leave it out; fewer train.tokens_per_microbatch take less memory too",
        )
    if hasattr(inner, "activation_checkpointing_enable"):  # its name in newer versions of transformers
        inner.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    else:
        inner.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


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


def _override_template(tokenizer: Any, config: ModelConfig) -> None:
    if config.chat_template is None:
        return
    path = Path(config.chat_template)
    if not path.is_file():
        raise ModelError(
            "PL301", "the chat template file does not exist", where=str(path), mend="check model.chat_template"
        )
    tokenizer.chat_template = path.read_text(encoding="utf-8")


def _extend(tokenizer: Any, tokens: Sequence[str]) -> None:
    vocabulary = tokenizer.get_vocab()
    tokenizer.add_tokens([t for t in tokens if t not in vocabulary], special_tokens=True)


@torch.no_grad()
def add_tokens(model: nn.Module, tokenizer: Any, tokens: Sequence[str], notes: list[str]) -> list[int]:
    """Add special tokens and return the ids of all of them; rows of new ones start at the mean of the old rows.

    The mean itself, without noise: whoever loads the base again gets the same rows, so an adapter fits it.
    """
    inner = causal_lm(model)
    before = len(tokenizer)
    rows = inner.get_input_embeddings().weight.shape[0]
    _extend(tokenizer, tokens)
    ids = [int(i) for i in tokenizer.convert_tokens_to_ids(list(tokens))]
    if len(tokenizer) > rows:
        inner.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    fresh = [i for i in ids if i >= min(before, rows)]
    for module in filter(None, (inner.get_input_embeddings(), inner.get_output_embeddings())):
        for values in (module.weight, getattr(module, "bias", None)):
            if values is not None and fresh:
                values[fresh] = values[: min(before, rows)].double().mean(0).to(values.dtype)
    known = f" ({len(ids) - len(fresh)} were there already)" if len(fresh) < len(ids) else ""
    notes.append(f"{len(fresh)} tokens added{known}; the embedding has {max(rows, len(tokenizer))} rows")
    return ids


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
