"""LLaMA-Factory's data: names that dataset_info.json explains."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from plaudit.migration.draft import Draft
from plaudit.migration.values import names, numbers, text, whole

_INFO = "dataset_info.json"
_ALPACA = {"prompt": "instruction", "query": "input", "response": "output", "system": "system", "history": "history"}
_ANSWERS = ("chosen", "rejected", "kto_tag")
_MAPPED = ("instruction", "output", *_ANSWERS)
"""Columns of Alpaca rows that data.train.N.columns can name; the others need their own names."""
_TAGS = ({"from", "value"}, {"role", "content"})


def factory_sources(draft: Draft) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(training, held-out) sources."""
    folder = draft.get("dataset_dir", text) or "data"
    info = None if folder == "ONLINE" else _info(draft, folder)
    limit = draft.get("max_samples", whole)
    train = [_source(draft, name, info, limit) for name in draft.get("dataset", names) or []]
    held_out = [_source(draft, name, info, limit) for name in draft.get("eval_dataset", names) or []]
    draft.take("dataset", text=f"data.train: {', '.join(s['path'] for s in train)}")
    draft.take("eval_dataset", text=f"data.eval: {', '.join(s['path'] for s in held_out)}")
    if limit is not None:
        draft.take("max_samples", text=f"limit: {limit} of each source")
    draft.take("dataset_dir", text=f"read {info[0] / _INFO}" if info else "hub ids")
    if info is None and folder != "ONLINE" and train:
        draft.notes.append(
            f"{folder}/{_INFO} was not found: data.train has the names as hub ids; write the files there"
        )
        draft.differ("dataset", "dataset_dir", text=f"{folder}/{_INFO} was not found: names are taken for hub ids")
    _mixing(draft, len(train))
    return train, held_out


def _info(draft: Draft, folder: str) -> tuple[Path, Mapping[str, Any]] | None:
    """The folder of the data and what its dataset_info.json says.

    The tool is started in its repository and configurations lie below it, so the folders above the input are tried too.
    """
    above = [draft.given.folder, *draft.given.folder.parents]
    for base in (Path(), *above):
        file = base / folder / _INFO
        try:
            read = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(read, dict):
            return base / folder, read
    return None


def _source(draft: Draft, name: str, info: tuple[Path, Mapping[str, Any]] | None, limit: int | None) -> dict[str, Any]:
    entry = info[1].get(name) if info is not None else {"hf_hub_url": name}
    if not isinstance(entry, dict):
        draft.notes.append(f"{_INFO} has no data set {name}: it is taken for a hub id")
        entry = {"hf_hub_url": name}
    source: dict[str, Any] = {"path": _path(draft, name, entry, info[0] if info else Path())}
    columns = dict(_columns(draft, name, entry))
    if columns:
        source["columns"] = columns
    rows = [n for n in (entry.get("num_samples"), limit) if isinstance(n, int)]
    if rows:
        source["limit"] = min(rows)
    return source


def _path(draft: Draft, name: str, entry: Mapping[str, Any], folder: Path) -> str:
    if "hf_hub_url" in entry:
        parts = (entry["hf_hub_url"], entry.get("subset"), entry.get("split", "train"))
        return ":".join(str(part) for part in parts if part)
    for place in ("ms_hub_url", "om_hub_url", "script_url", "cloud_file_name"):
        if place in entry:
            draft.notes.append(f"data set {name} comes from {place}, which is not read here: save it as a file")
            return str(entry[place])
    return str(folder / str(entry.get("file_name", name)))


def _columns(draft: Draft, name: str, entry: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Our field → the file's column, where a column has another name than rows of this shape have."""
    given = entry.get("columns") or {}
    if draft.get("stage", text) == "pt" and entry.get("formatting", "alpaca") == "alpaca":
        column = given.get("prompt") or _ALPACA["prompt"]  # the whole text, in the place of a prompt
        if column != "text":
            yield "text", str(column)
        return
    if entry.get("formatting", "alpaca") == "alpaca":
        pairs = [(ours, given.get(theirs)) for theirs, ours in _ALPACA.items()]
    else:
        pairs = [("conversations", given.get("messages")), ("system", given.get("system"))]
        tags = entry.get("tags") or {}
        used = {tags.get("role_tag", "from"), tags.get("content_tag", "value")}
        if used not in _TAGS:
            draft.notes.append(
                f"data set {name} has messages with {' and '.join(sorted(used))}: rename them to role and content"
            )
    pairs += [(ours, given.get(ours)) for ours in _ANSWERS]
    for ours, column in pairs:
        if column in (None, "", ours) or (ours, column) == ("conversations", "messages"):
            continue
        if ours in (*_MAPPED, "conversations"):
            yield ours, str(column)
        else:
            draft.notes.append(f"data set {name}: rename the column {column} to {ours}")


def _mixing(draft: Draft, count: int) -> None:
    strategy, shares = draft.get("mix_strategy", text) or "concat", draft.get("interleave_probs", numbers)
    if strategy == "concat" or count < 2:
        draft.idle("mix_strategy", "interleave_probs", text="all rows of all sources")
        return
    why = "rows of all sources are used once each epoch; data.train.N.weight says how often a source is seen"
    draft.miss("mix_strategy", "interleave_probs", text=why if shares is None else f"{why} (theirs: {shares})")
