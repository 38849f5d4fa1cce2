"""The rows: sources of each tool as ours, held-out data, order, lengths, and what of a row is learned."""

from __future__ import annotations

from typing import Any

from plaudit.data.conventions import FIELDS
from plaudit.migration.draft import Draft
from plaudit.migration.parts.data_axolotl import axolotl_sources, is_whole_text
from plaudit.migration.parts.data_factory import factory_sources
from plaudit.migration.values import boolean, number, plain, text, whole

DATA = "YOUR-DATA:train"
"""Stands for data that the input does not name."""
Source = dict[str, Any]
_BUILDERS = ("json", "csv", "parquet")
_ROW_FILES = (".jsonl", ".json", ".parquet", ".csv")


def sources(draft: Draft) -> None:
    """data.train, data.eval and data.eval_fraction."""
    if draft.dialect.tool == "llama-factory":
        train, held_out = factory_sources(draft)
    elif draft.dialect.tool == "axolotl":
        train, held_out = axolotl_sources(draft)
    else:
        train, held_out = _trl_sources(draft)
    if not train:
        train = [{"path": DATA}]
        draft.notes.append(f"data.train is {DATA}: write the file or hub id there")
    for source in (*train, *held_out):
        _known_columns(draft, source)
    draft.write("data.train", train)
    if held_out:
        draft.write("data.eval", held_out)
    _share(draft, bool(held_out))
    _order(draft)


def _known_columns(draft: Draft, source: Source) -> None:
    """Leave the fields that rows of the method's kind have; another field is an error of ours."""
    columns = {
        ours: column for ours, column in source.pop("columns", {}).items() if ours in FIELDS[draft.method.data_kind]
    }
    if columns:
        source["columns"] = columns


def hub(path: str, subset: str | None, split: str | None) -> str:
    """A hub id as `name:subset:split`; a file is its own name."""
    if path.endswith(_ROW_FILES) or path.startswith(("./", "../", "/", "~")):
        return path
    return ":".join(part for part in (path, subset, split) if part)


# -- TRL


def _trl_sources(draft: Draft) -> tuple[list[Source], list[Source]]:
    mixture = draft.get("datasets", plain)
    if isinstance(mixture, list):
        draft.take("datasets", text="data.train: its sources")
        draft.idle("dataset_name", "dataset_config", "dataset_train_split", text="datasets comes first")
        return [source for entry in mixture for source in _of_mixture(draft, entry)], []
    train, split = draft.get("dataset_name", text), draft.get("dataset_train_split", text)
    if train is None:
        return [], _loaded(draft, "eval_dataset", "data.eval")
    train_source = _with_column(draft, {"path": hub(train, draft.get("dataset_config", text), split)})
    draft.take("dataset_name", "dataset_config", "dataset_train_split", text=f"data.train: {train_source['path']}")
    draft.take("train_dataset", text=f"data.train: {train_source['path']}")
    held_out = _loaded(draft, "eval_dataset", "data.eval")
    evaluates = (draft.get("eval_strategy", text) or draft.get("evaluation_strategy", text) or "no") != "no"
    by_command = not draft.given.script and draft.get("test_split_size", number) is None
    if not held_out and evaluates and by_command:
        test = hub(train, draft.get("dataset_config", text), draft.get("dataset_test_split", text))
        if test != train_source["path"]:
            held_out = [{"path": test}]
            draft.take("dataset_test_split", text=f"data.eval: {test}")
    return [train_source], held_out


def _loaded(draft: Draft, name: str, ours: str) -> list[Source]:
    """Data of a script that is loaded by `load_dataset`, which the reader has written out as a hub id."""
    path = draft.get(name, text)
    if path is None:
        return []
    draft.take(name, text=f"{ours}: {path}")
    return [{"path": path}]


def _of_mixture(draft: Draft, entry: Any) -> list[Source]:
    """A source of TRL's `datasets`; a builder with several files is several of ours."""
    entry = entry if isinstance(entry, dict) else {"path": str(entry)}
    path, files, split = str(entry.get("path", DATA)), entry.get("data_files"), entry.get("split") or "train"
    paths = [path]
    if path in _BUILDERS and files:
        files = files.get(split, []) if isinstance(files, dict) else files
        paths = [files] if isinstance(files, str) else [str(file) for file in files]
    left = {"data_dir", "columns", "fraction"} & {k for k, v in entry.items() if v is not None}
    if left:
        text_ = f"{path}: {', '.join(sorted(left))} without a counterpart (weight is ours)"
        draft.notes.append(f"datasets, {text_}")
        draft.miss("datasets", text=f"data.train: its sources; {text_}")
    return [{"path": hub(path, entry.get("name"), split)} for path in paths]


def _with_column(draft: Draft, source: Source) -> Source:
    column = draft.get("dataset_text_field", text)
    if column in (None, "text"):
        draft.idle("dataset_text_field", text="text")
        return source
    draft.take("dataset_text_field", text=f"data.train.0.columns: {{text: {column}}}")
    return {**source, "columns": {"text": column}}


# -- all three


def _share(draft: Draft, held_out: bool) -> None:
    names_ = ("test_split_size", "val_size", "val_set_size")
    for name in names_:
        share = draft.get(name, number)
        if share is None:
            continue
        if share and held_out:
            draft.differ(name, text="left out: data.eval is given")
        elif share and share < 1:
            draft.write("data.eval_fraction", float(share), name, note="whole prompts, chosen by hash")
        elif share:
            draft.miss(name, text=f"a number of rows ({share:g}); data.eval_fraction is a share", changes=False)
        else:
            draft.idle(name, text="nothing is held out")


def _order(draft: Draft) -> None:
    strategy = draft.get("train_sampling_strategy", text)
    fixed = strategy == "sequential" or draft.get("disable_shuffling", boolean) is True
    fixed = fixed or draft.get("shuffle_merged_datasets", boolean) is False
    shuffles = draft.get("shuffle_dataset", boolean)
    fixed = fixed or (draft.method.is_online() and shuffles is False)
    names_ = ("train_sampling_strategy", "disable_shuffling", "shuffle_merged_datasets", "shuffle_dataset")
    if fixed:
        note = "TRL's order for KTO; ours may be shuffled" if not draft.settings(*names_) else ""
        draft.write("data.shuffle", False, *names_, note=note)
    else:
        draft.idle(*names_, text="a new order each epoch")
    draft.idle("shuffle_before_merging_datasets", text="a new order each epoch")


def lengths(draft: Draft) -> None:
    """data.max_length and data.overlong."""
    if draft.method.is_online():
        _prompt_length(draft)
        return
    name = "max_length" if draft.says("max_length") or not draft.says("max_seq_length") else "max_seq_length"
    longest = draft.get(name, whole)
    if longest is None:
        draft.idle(name, "truncation_mode", "excess_length_strategy", text="no limit but the model's positions")
    else:
        draft.write("data.max_length", longest, name)
        policy, note = _policy(draft)
        draft.write("data.overlong", policy, "truncation_mode", "excess_length_strategy", note=note)
        if policy == "drop":
            draft.notes.append(
                "rows over data.max_length are dropped as there, but at most data.max_drop_fraction of them"
            )
    rest = "with data.max_length for prompt and answer together; only longer rows are cut (data.overlong)"
    draft.differ("max_prompt_length", "max_prompt_len", text=rest)
    draft.differ("max_completion_length", text=rest)


def _policy(draft: Draft) -> tuple[str, str]:
    if (draft.dialect.tool == "axolotl" and is_whole_text(draft)) or draft.get("stage", text) == "pt":
        draft.notes.append("a long text goes on in a further row there; here its end is cut: data.overlong")
        return "truncate_completion", "theirs goes on in a further row"
    if draft.dialect.tool == "llama-factory":
        text_ = "data.overlong: truncate_prompt; theirs cuts prompt and answer by their lengths"
        draft.differ("max_length", text=f"data.max_length, and {text_}")
        return "truncate_prompt", "theirs cuts prompt and answer by their lengths"
    if draft.dialect.tool == "axolotl":
        cut = (draft.get("excess_length_strategy", text) or "drop").startswith("truncate")
        return ("truncate_completion" if cut else "drop"), ""
    if draft.trainer == "reward":
        return "drop", "TRL drops them"
    if draft.get("truncation_mode", text) == "keep_end":
        return "truncate_prompt", "keep_end"
    return "truncate_completion", "TRL keeps the start (keep_start)"


def _prompt_length(draft: Draft) -> None:
    prompt = draft.get("max_prompt_length", whole)
    new = draft.lines["rollout.max_new_tokens"].value if "rollout.max_new_tokens" in draft.lines else 256
    if draft.dialect.tool == "llama-factory":
        prompt = draft.get("max_length", whole)
        names_: tuple[str, ...] = ("max_length",)
    else:
        names_ = ("max_prompt_length",)
    if prompt is not None and new is not None:
        draft.write("data.max_length", prompt + new, *names_, note=f"{prompt} of the prompt + {new} of the answer")
        draft.write("data.overlong", "truncate_prompt", note="the oldest tokens of a longer prompt are cut")
    draft.differ("max_prompt_len", text="prompts leave room for rollout.max_new_tokens; data.max_length limits both")
    if draft.trainer == "online_dpo" or draft.dialect.tool == "axolotl":
        draft.differ("max_length", text="the model's positions limit prompt + answer; data.max_length says less")


def learned(draft: Draft) -> None:
    """method.train_on: which tokens of a conversation."""
    names_ = ("completion_only_loss", "assistant_only_loss", "train_on_prompt", "mask_history", "train_on_inputs")
    if draft.method.name != "sft":
        return
    everything = draft.get("train_on_prompt", boolean) or draft.get("train_on_inputs", boolean)
    if draft.given.trainer == "pt" or everything:
        draft.write("method.train_on", "sequence", *names_)
    elif draft.get("mask_history", boolean) or draft.get("completion_only_loss", boolean):
        draft.write("method.train_on", "completion", *names_)
    elif draft.get("assistant_only_loss", boolean) or draft.dialect.tool != "trl":
        draft.write("method.train_on", "assistant", *names_)
    else:
        note = "for messages and text; of rows with prompt and completion it learns the completion"
        draft.write("method.train_on", "sequence", *names_, note=note)
