"""axolotl's data: a list of sources, each with the type of its rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plaudit.migration.draft import Draft
from plaudit.migration.values import plain

_KNOWN = (
    *("chat_template", "chatml", "llama3", "alpaca", "sharegpt", "completion", "input_output", "pretrain"),
    *("bradley_terry", "zephyr", "passthrough", "user_defined", "intel_apply_chatml", "ultra_apply_chatml"),
)
_FIELDS = {
    "field_prompt": "prompt",
    "field_chosen": "chosen",
    "field_rejected": "rejected",
    "field_completion": "completion",
    "field_label": "label",
    "field_instruction": "instruction",
    "field_output": "output",
    "field_messages": "messages",
    "field": "text",
}
_TYPES = {
    "chatml.intel": {"prompt": "question", "chosen": "chosen", "rejected": "rejected"},
    "intel_apply_chatml": {"prompt": "question", "chosen": "chosen", "rejected": "rejected"},
    "chatml.icr": {"prompt": "input", "chosen": "chosen", "rejected": "rejected"},
    "chatml.argilla_chat": {},
    "chatml.argilla": {"prompt": "instruction", "chosen": "chosen_response", "rejected": "rejected_response"},
    "llama3.intel": {"prompt": "question", "chosen": "chosen", "rejected": "rejected"},
    "llama3.icr": {"prompt": "input", "chosen": "chosen", "rejected": "rejected"},
    "llama3.argilla": {"prompt": "instruction", "chosen": "chosen_response", "rejected": "rejected_response"},
}
"""Type of rows → our field → their column."""
_SILENT = (
    *("path", "split", "name", "type", "data_files", "ds_type", *_FIELDS, "message_property_mappings", "roles"),
    *("message_field_role", "message_field_content", "trust_remote_code", "preprocess_shards", "input_format"),
)
"""Keys of a source that are read, or that change nothing."""
_USUAL = {"role", "content", "from", "value"}
_SO_HERE: dict[str, tuple[Any, ...]] = {
    "roles_to_train": (["assistant"], ["gpt"], ["assistant", "gpt"], ["gpt", "assistant"]),
    "train_on_eos": ("turn",),
    "train_on_eot": ("turn",),
    "chat_template": ("tokenizer_default",),
}
"""Key of a source → values that ask for what is done here."""
_WHOLE_TEXT = ("completion", "pretrain")
"""Types of rows that are text without a prompt."""


def axolotl_sources(draft: Draft) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(training, held-out) sources."""
    train = _sources(draft, "datasets") or _sources(draft, "pretraining_dataset")
    held_out = _sources(draft, "test_datasets")
    return train, held_out


def _sources(draft: Draft, name: str) -> list[dict[str, Any]]:
    given = draft.get(name, plain)
    given = given if isinstance(given, list) else [given] if given else []
    entries = [entry if isinstance(entry, dict) else {"path": str(entry)} for entry in given]
    found = [_source(draft, path, entry) for entry in entries for path in _paths(draft, entry)]
    ours = "data.eval" if name == "test_datasets" else "data.train"
    text = f"{ours}: {', '.join(s['path'] for s in found)}"
    lost = sorted({key for entry in entries for key in _without_counterpart(entry)})
    if lost:
        draft.miss(name, text=f"{text}; without a counterpart: {', '.join(lost)} of its sources")
    else:
        draft.take(name, text=text)
    return found


def is_whole_text(draft: Draft) -> bool:
    """Whether all training rows are text without a prompt, which axolotl cuts into several rows where it is long."""
    sources = draft.get("datasets", plain) or draft.get("pretraining_dataset", plain)
    kinds = [entry.get("type") for entry in sources if isinstance(entry, dict)] if isinstance(sources, list) else []
    return bool(kinds) and all(isinstance(kind, str) and kind.startswith(_WHOLE_TEXT) for kind in kinds)


def _paths(draft: Draft, entry: Mapping[str, Any]) -> list[str]:
    """The file of a source, or its files."""
    path, files = str(entry.get("path") or ""), entry.get("data_files")
    if path in ("json", "csv", "parquet", "") and files:
        return [files] if isinstance(files, str) else [str(file) for file in files]
    if files:
        draft.notes.append(f"source {path}: data_files is not read; write {path}'s file itself")
    return [path]


def _without_counterpart(entry: Mapping[str, Any]) -> list[str]:
    """Keys of a source that change what is learned, and that nothing here does."""
    own = [k for k, v in entry.items() if v not in (None, False, *_SO_HERE.get(k, ())) and k not in _SILENT]
    kind = entry.get("type")
    return own + ([k for k, v in kind.items() if v and k not in _FIELDS] if isinstance(kind, dict) else [])


def _source(draft: Draft, path: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    local = path.endswith((".jsonl", ".json", ".parquet", ".csv")) or path.startswith(("/", "./", "../", "~"))
    whole = ":".join(str(part) for part in (path, entry.get("name"), entry.get("split") or "train") if part)
    source: dict[str, Any] = {"path": path if local else whole}
    columns = _columns(draft, path, entry)
    if columns:
        source["columns"] = columns
    return source


def _columns(draft: Draft, path: str, entry: Mapping[str, Any]) -> dict[str, str]:
    kind = entry.get("type")
    fields = dict(kind) if isinstance(kind, dict) else {}
    found = dict(_TYPES.get(str(kind), {})) if isinstance(kind, str) else {}
    for theirs, ours in _FIELDS.items():
        column = fields.get(theirs) or entry.get(theirs)
        if isinstance(column, str):
            found[ours] = column
    formats = [k for k in fields if k.endswith("format") and fields[k]]
    mapping = entry.get("message_property_mappings") or {}
    keys = (
        mapping.get("role"),
        mapping.get("content"),
        *(entry.get(f"message_field_{k}") for k in ("role", "content")),
    )
    other = sorted({str(key) for key in keys if key is not None} - _USUAL)
    left = sorted(set(_without_counterpart(entry)) - set(formats))
    if formats:
        draft.notes.append(f"source {path}: {', '.join(formats)}: prompts are built by the chat template here")
    if other:
        draft.notes.append(f"source {path}: rename {' and '.join(other)} of its messages to role and content")
    if left:
        draft.notes.append(f"source {path}: without a counterpart: {', '.join(left)}")
    if isinstance(kind, str) and kind.partition(".")[0].partition(":")[0] not in _KNOWN:
        draft.notes.append(f"source {path}: rows of type {kind}; plaudit reads them by their columns (docs/data.md)")
    return {ours: column for ours, column in found.items() if ours != column}
