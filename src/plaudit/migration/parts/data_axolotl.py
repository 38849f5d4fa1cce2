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
    *("message_field_role", "message_field_content", "trust_remote_code", "preprocess_shards"),
)
"""Keys of a source that are read, or that change nothing."""
_USUAL = {"role", "content", "from", "value"}


def axolotl_sources(draft: Draft) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(training, held-out) sources."""
    train = _sources(draft, "datasets") or _sources(draft, "pretraining_dataset")
    held_out = _sources(draft, "test_datasets")
    return train, held_out


def _sources(draft: Draft, name: str) -> list[dict[str, Any]]:
    given = draft.get(name, plain)
    entries = given if isinstance(given, list) else [given] if given else []
    found = [_source(draft, entry if isinstance(entry, dict) else {"path": str(entry)}) for entry in entries]
    ours = "data.eval" if name == "test_datasets" else "data.train"
    draft.take(name, text=f"{ours}: {', '.join(s['path'] for s in found)}")
    return found


def _source(draft: Draft, entry: Mapping[str, Any]) -> dict[str, Any]:
    files = entry.get("data_files")
    path = str(entry.get("path") or "")
    if path in ("json", "csv", "parquet", "") and files:
        path = str(files if isinstance(files, str) else files[0])
    elif files:
        draft.notes.append(f"source {path}: data_files is not read; write {path}'s file itself")
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
    left = sorted({k for k, v in entry.items() if v not in (None, False)} - set(_SILENT))
    if formats:
        draft.notes.append(f"source {path}: {', '.join(formats)}: prompts are built by the chat template here")
    if other:
        draft.notes.append(f"source {path}: rename {' and '.join(other)} of its messages to role and content")
    if left:
        draft.notes.append(f"source {path}: without a counterpart: {', '.join(left)}")
    if isinstance(kind, str) and kind.partition(".")[0].partition(":")[0] not in _KNOWN:
        draft.notes.append(f"source {path}: rows of type {kind}; plaudit reads them by their columns (docs/data.md)")
    return {ours: column for ours, column in found.items() if ours != column}
