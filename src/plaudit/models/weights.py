"""Read a checkpoint, completely or not at all: a causal language model, or one with a reward head on its trunk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_file

from plaudit.config.schema import ModelConfig
from plaudit.errors import ModelError
from plaudit.models.heads import CLASSIFIER_HEAD
from plaudit.models.hub import ask_for
from plaudit.models.one_at_a_time import from_pretrained
from plaudit.models.reward_head import check_one_label, classifier_class, put_head

Task = Literal["lm", "reward"]
"""What a model computes: words, or one score per text."""

_HEAD_WEIGHT = f"{CLASSIFIER_HEAD}.weight"
_GIVE = "give a folder with config.json, a .gguf file or a hub id that this machine can reach"
_ENCODERS = ("ForMaskedLM", "ForPreTraining", "ForQuestionAnswering", "ForTokenClassification")
"""Ends of the names of architectures that read text from both sides."""
_LM_HEADS = ("lm_head.", "embed_out.")


def read_weights(config: ModelConfig, task: Task, notes: list[str]) -> nn.Module:
    """The model that `config` names, as transformers has it.

    Args:
        task: lm = a causal language model; reward = its sequence classifier with one label, whose head is the
            checkpoint's own, or new where the checkpoint is a language model.
        notes: decisions are added to it.

    Raises:
        ModelError: PL301 not found, not readable or not complete, PL303 an architecture that is out of scope.
    """
    source, where = _source(config)
    ask_for(source, config.revision)
    try:
        found = AutoConfig.from_pretrained(source, **where)
        refuse_out_of_scope(found)
        classifier = any(name.endswith("ForSequenceClassification") for name in found.architectures or ())
        if task == "reward":
            model = _read_reward(found, source, where, config.path, classifier, notes)
        else:
            if classifier:
                raise ModelError(
                    "PL301",
                    f"this is a classifier or a reward model ({found.architectures[0]}): it writes no text",
                    where=config.path,
                    mend="give the checkpoint of a causal language model",
                )
            auto: Any = AutoModelForCausalLM  # its annotation does not know output_loading_info
            model, report = from_pretrained(auto, source, **where, dtype="auto", output_loading_info=True)
            _refuse_incomplete(report, config.path, "a causal language model")
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise _unreadable(config, error) from error
    loaded: nn.Module = model
    return loaded


def read_config(config: ModelConfig) -> Any | None:
    """transformers' configuration of the model that `config` names; None where there is none.

    Raises:
        ModelError: PL301 one that cannot be read, PL303 an architecture that is out of scope.
    """
    source, where = _source(config)
    try:
        found = AutoConfig.from_pretrained(source, **where)
    except (OSError, ValueError, ImportError) as error:
        here = Path(source)
        if (here / "config.json").exists() if here.is_dir() else not isinstance(error, OSError):
            raise _unreadable(config, error) from error
        return None
    refuse_out_of_scope(found)
    return found


def refuse_no_model(path: str) -> None:
    """Refuse a folder without a model, before a library speaks of files that it misses.

    Raises:
        ModelError: PL301, nothing is there, or an adapter alone.
    """
    folder = Path(path)
    if not folder.is_dir() or (folder / "config.json").is_file():
        return
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        base = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path") or "BASE"
        raise ModelError(
            "PL301",
            "the folder holds an adapter, and no whole model",
            where=path,
            mend=f"--model {base} --lora.path {path} trains it on; `plaudit merge {path} FOLDER` makes a model of it",
        )
    inside = [
        p.parent if p.name == "config.json" else p for p in (*folder.glob("*/config.json"), *folder.glob("*.gguf"))
    ]
    raise ModelError(
        "PL301",
        "the folder holds no model: there is no config.json in it",
        where=path,
        mend=f"did you mean {min(inside)}?" if inside else f"{_GIVE}",
    )


def _unreadable(config: ModelConfig, error: Exception) -> ModelError:
    said = first_line(error)
    if "trust_remote_code" in str(error):
        said = "it brings code of its own, which runs only where that is permitted"
        mend = "read the code, and if you trust it: model.trust_remote_code=true"
    elif "does not recognize this architecture" in str(error):
        mend = "this version of transformers does not know it: pip install -U transformers"
    elif isinstance(error, (SafetensorError, RuntimeError)) or "no file named" in said:
        mend = "the files are not whole, or others than config.json says: copy or download the folder again"
    else:
        mend = _GIVE
    return ModelError("PL301", f"the model cannot be loaded: {said}", where=config.path, mend=mend)


def _source(config: ModelConfig) -> tuple[str, dict[str, Any]]:
    """Folder or hub id, and what else transformers is told about it."""
    where: dict[str, Any] = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    if not config.path.endswith(".gguf"):
        return config.path, where
    from plaudit.models.gguf import convert_gguf

    return str(convert_gguf(Path(config.path))), where


def _read_reward(
    found: Any, source: str, where: dict[str, Any], path: str, classifier: bool, notes: list[str]
) -> nn.Module:
    if classifier:
        check_one_label(found, path)
    else:
        found.num_labels = 1
    classifier_class(found)
    auto: Any = AutoModelForSequenceClassification
    with _without_load_report():
        model, report = from_pretrained(auto, source, **where, config=found, dtype="auto", output_loading_info=True)
    if not classifier:
        report["missing_keys"] = set(report["missing_keys"]) - {_HEAD_WEIGHT}
    _refuse_incomplete(report, path, "a causal language model or a reward model")
    unused = sorted(k for k in report["unexpected_keys"] if not k.startswith(_LM_HEADS))
    if unused:
        shown = ", ".join(unused[:3]) + (", …" if unused[3:] else "")
        notes.append(f"{len(unused)} weights of the checkpoint have no place in the model and are not used: {shown}")
    loaded: nn.Module = model
    if classifier:
        put_head(loaded, _stored(source, where["revision"], _HEAD_WEIGHT))
        notes.append("reward head: the checkpoint's own")
    else:
        put_head(loaded, None)
        notes.append("reward head: new, the same one for every run that starts from a model of this width")
    return loaded


@contextmanager
def _without_load_report() -> Iterator[None]:
    """transformers warns of the head that we are about to make and of the one that nobody needs any more."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def _stored(source: str, revision: str | None, name: str) -> Tensor | None:
    """A weight in the precision of its file (loading rounds it to the model's), or None where there is no safetensors
    file to read it from."""

    def file(of: str) -> str | None:
        try:
            found: str | None = cached_file(source, of, revision=revision)
        except OSError:
            return None
        return found

    index = file("model.safetensors.index.json")
    shard = "model.safetensors"
    if index is not None:
        shard = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].get(name, shard)
    path = file(shard)
    if path is None:
        return None
    with safe_open(path, framework="pt") as tensors:
        tensor: Tensor | None = tensors.get_tensor(name) if name in tensors.keys() else None  # noqa: SIM118
        return tensor


def _refuse_incomplete(report: dict[str, Any], where: str, wanted: str) -> None:
    """transformers fills in random weights for whatever a checkpoint lacks."""
    missing = sorted(report["missing_keys"]) + sorted(str(k[0]) for k in report["mismatched_keys"])
    if missing:
        raise ModelError(
            "PL301",
            f"the checkpoint lacks {len(missing)} of the model's weights: {', '.join(missing[:3])}"
            + (", …" if missing[3:] else ""),
            where=where,
            mend=f"give the checkpoint of {wanted}, with all of its files",
        )


def refuse_out_of_scope(config: Any) -> None:
    """Raise ModelError PL303, by name, for what plaudit does not train."""
    where = getattr(config, "name_or_path", None) or config.model_type
    kind = None
    if getattr(config, "is_encoder_decoder", False):
        kind = "an encoder-decoder model"
    elif hasattr(config, "vision_config") or hasattr(config, "audio_config"):
        kind = "a multimodal model"
    elif any(name.endswith(_ENCODERS) for name in config.architectures or ()):
        kind = "an encoder, which writes no text"
    if kind is not None:
        raise ModelError(
            "PL303",
            f"{config.model_type} is {kind}; plaudit trains decoder-only models of text",
            where=where,
            mend="give a causal language model (its config.json names a …ForCausalLM)",
        )
    quantised = getattr(config, "quantization_config", None)
    if quantised is not None:
        how = quantised.get("quant_method") if isinstance(quantised, dict) else getattr(quantised, "quant_method", None)
        raise ModelError(
            "PL303",
            f"the weights are quantised ({getattr(how, 'value', how)}) and cannot be trained",
            where=where,
            mend="use the unquantised checkpoint (of a GGUF file the weights are unpacked: model.path=FILE.gguf)",
        )


def cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Change the parameters' precision; buffers (RoPE frequencies) keep theirs, as do modules that must be fp32."""
    keep = tuple(getattr(model, "_keep_in_fp32_modules", None) or ()) + tuple(
        getattr(model, "_keep_in_fp32_modules_strict", None) or ()
    )
    for name, parameter in model.named_parameters():
        exact = name == _HEAD_WEIGHT or any(part in name for part in keep)
        wanted = torch.float32 if exact else dtype
        if parameter.is_floating_point() and parameter.dtype != wanted:
            parameter.data = parameter.data.to(wanted)
    config: Any = model.config
    config.dtype = dtype


def first_line(error: BaseException) -> str:
    """The first line of what an error says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
