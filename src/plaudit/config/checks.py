"""Options that make no sense together. One without effect is an error, because somebody believes that it has one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plaudit.config.paths import meant
from plaudit.config.schema import DataConfig, EvalConfig, LoraSection, RunConfig, Section

Finding = tuple[str, str, str]
"""(dotted key, what is wrong, hint)"""


def changed(section: Section, name: str) -> bool:
    """Whether a key has another value than its default."""
    default = type(section).model_fields[name].get_default(call_default_factory=True, validated_data={})
    return bool(getattr(section, name) != default)


def inconsistencies(run: RunConfig) -> Iterator[Finding]:
    """Every combination that cannot be meant."""
    yield from _evaluation(run)
    yield from _conversion(run.data)
    yield from _training(run)
    yield from _lora(run.lora)
    yield from _model(run)
    if changed(run.log, "project") and not run.log.sinks:
        yield "log.project", "has no effect without log.sinks", "add log.sinks, or remove it"
    for key, values in (("log.sinks", run.log.sinks), ("model.added_tokens", run.model.added_tokens)):
        if len(set(values)) < len(values):
            yield key, "an entry is given twice", ""


def _evaluation(run: RunConfig) -> Iterator[Finding]:
    if run.data.eval or run.data.eval_fraction:
        return
    for name in EvalConfig.model_fields:
        if changed(run.eval, name):
            yield f"eval.{name}", "has no effect without held-out data", "add data.eval or data.eval_fraction"


def _conversion(data: DataConfig) -> Iterator[Finding]:
    for name, wanted in (
        ("pairs_per_prompt", ("feedback_to_pairs", "ranking_to_pairs")),
        ("feedback_threshold", ("ranking_to_feedback",)),
    ):
        if changed(data, name) and data.convert not in wanted:
            hint = f"add data.convert: {' or '.join(wanted)}, or remove it"
            yield f"data.{name}", "has no effect without such a conversion", hint


def _training(run: RunConfig) -> Iterator[Finding]:
    train = run.train
    if train.warmup_steps is not None and changed(train, "warmup_fraction"):
        yield "train.warmup_fraction", "has no effect beside warmup_steps", "give one of the two"
    if train.schedule == "constant" and changed(train, "min_lr_ratio"):
        yield "train.min_lr_ratio", "has no effect with a constant schedule", "use linear or cosine, or remove it"


def _lora(lora: LoraSection | None) -> Iterator[Finding]:
    if lora is None or lora.path is None:
        return
    for name in LoraSection.model_fields:
        if name != "path" and changed(lora, name):
            yield f"lora.{name}", "has no effect beside lora.path: it comes from that adapter", "remove one of the two"


def _model(run: RunConfig) -> Iterator[Finding]:
    model = run.model
    on_disk = model.path.endswith(".gguf") or Path(model.path).expanduser().exists()
    if model.revision is not None and on_disk:
        yield "model.revision", "has no effect for a model on disk", "only hub models have revisions"
    if model.trust_remote_code and model.path.endswith(".gguf"):
        yield "model.trust_remote_code", "has no effect for a .gguf file, which ships no code", "remove it"


_FILES = (".jsonl", ".json", ".parquet", ".csv", ".gguf", ".jinja")


def missing_files(run: RunConfig) -> Iterator[Finding]:
    """Files that are named and not there. A name that may be a hub id is left to the loader."""
    named = {f"model.{name}": getattr(run.model, name) for name in ("path", "tokenizer", "chat_template")}
    named["lora.path"] = run.lora.path if run.lora else None
    for side, sources in (("train", run.data.train), ("eval", run.data.eval)):
        named.update({f"data.{side}.{i}.path": source.path for i, source in enumerate(sources)})
    for key, name in named.items():
        local = name is not None and (name.startswith(("/", "./", "../", "~")) or name.lower().endswith(_FILES))
        if name is not None and local and not Path(name).expanduser().exists():
            yield key, f"there is no file or folder {name!r}", meant(name)


def non_finite(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Paths of numbers that are infinite or not a number: no option means anything by them."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from non_finite(inner, (*path, name))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from non_finite(inner, (*path, i))
    elif isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        yield path
