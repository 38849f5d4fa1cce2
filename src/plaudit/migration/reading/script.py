"""Python scripts: what their calls say in so many words. A script is parsed and never run."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from plaudit.errors import ConfigError
from plaudit.migration.reading.imported import Imported, functions
from plaudit.migration.settings import Given, Setting
from plaudit.migration.tables.trl import CLASSES, LORA_CONFIG, TRL_REWARDS

_OF_CLASS = {name.lower(): command for command, name in CLASSES.items()}
_MODELS = (
    "AutoModelForCausalLM",
    "AutoModelForSequenceClassification",
    "FastLanguageModel",
    "AutoPeftModelForCausalLM",
)
_CLASSIFIER = "AutoModelForSequenceClassification"
_PUNISHMENT = "get_soft_overlong_punishment"
_DATA = ("train_dataset", "eval_dataset")
_UNSLOTH = {"model_name": "model_name_or_path", "max_seq_length": "max_seq_length", "load_in_4bit": "load_in_4bit"}
_LOAD = "load_dataset"
_SAME_ROWS = ("train_test_split", "shuffle", "remove_columns", "select_columns", "with_format", "flatten_indices")
"""Calls on loaded data that are read, or leave the rows as they are."""
_MUTATORS = ("append", "extend", "insert", "remove", "pop", "clear", "update", "setdefault")
_OBJECTS = ("args", "model", "tokenizer", "processing_class", "peft_config", "value_model", "policy")
"""Arguments of a trainer that are objects which other calls of the script have made."""


def read_script(path: Path) -> Given:
    """The settings of a script's DPOConfig(…), LoraConfig(…), DPOTrainer(…), load_dataset(…) and so on.

    Raises:
        ConfigError: PL104, it is no Python, or calls nothing that is known.
    """
    try:
        module = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        raise ConfigError(
            "PL104", f"not a Python file: {error}", where=f"{path}:{line}", mend="mend it first"
        ) from None
    reader = _Reader(path, module)
    reader.read()
    if reader.given.trainer is None and not reader.given.settings:
        known = ", ".join(f"{name}Config" for name in list(CLASSES.values())[:4])
        raise ConfigError(
            "PL104", "the script makes no configuration of TRL", where=str(path), mend=f"known are {known} and so on"
        )
    reader.given.tool = "trl"
    return reader.given


class _Reader:
    def __init__(self, path: Path, module: ast.Module) -> None:
        self.path, self.module = path, module
        self.given = Given(name=str(path), folder=path.parent, script=True)
        self.functions, self.imported = functions(module), Imported(module)
        self.assigned = _assignments(module)
        self.classifies = False
        """whether what it trains is a classifier; elsewhere one is a reward model or a value model"""
        elsewhere = {*self.functions, *self.imported.names}  # which of the two a name means, only running would tell
        self.names = {n: v[0] for n, v in self.assigned.items() if len(v) == 1 and n not in elsewhere}

    def read(self) -> None:
        """Configurations first, then trainers: what a trainer is given counts only where nothing else says it."""
        calls = [node for node in ast.walk(self.module) if isinstance(node, ast.Call)]
        self.classifies = any(_name(call) in ("RewardTrainer", "RewardConfig") for call in calls)
        trainers = [call for call in calls if _name(call).endswith("Trainer")]
        given = [(k.arg, id(self._resolved(k.value))) for call in trainers for k in call.keywords]
        given += [("model", id(self._resolved(model))) for call in trainers for model in call.args[:1]]
        references = {node for key, node in given if key == "ref_model"} - {n for key, n in given if key == "model"}
        for call in calls:
            if id(call) not in references:  # the model that it loads is not the one that is trained
                self._configuration(call)
        for call in calls:
            self._trainer(call)

    # -- calls

    def _configuration(self, call: ast.Call) -> None:
        name, owner = _name(call), _owner(call)
        if name.endswith("Config") and name.removesuffix("Config").lower() in _OF_CLASS:
            self.given.trainer = self.given.trainer or _OF_CLASS[name.removesuffix("Config").lower()]
            self._keywords(call)
        elif name == "TrainingArguments":
            self._keywords(call)
        elif name == "LoraConfig" or (name == "get_peft_model" and owner == "FastLanguageModel"):
            self._add("use_peft", call, True)
            for keyword in call.keywords:
                if keyword.arg not in (None, "model", "use_gradient_checkpointing", "random_state"):
                    self._argument(LORA_CONFIG.get(str(keyword.arg), str(keyword.arg)), keyword.value)
        elif name == "BitsAndBytesConfig":
            self._keywords(call)
        elif name == "from_pretrained" and owner in _MODELS and (owner != _CLASSIFIER or self.classifies):
            self._model(call)

    def _trainer(self, call: ast.Call) -> None:
        name = _name(call)
        if not name.endswith("Trainer") or name.removesuffix("Trainer").lower() not in _OF_CLASS:
            return
        self.given.trainer = _OF_CLASS[name.removesuffix("Trainer").lower()]
        places = ("model", "reward_funcs") if self.given.trainer in ("grpo", "rloo") else ("model",)
        placed = [ast.keyword(key, value) for key, value in zip(places, call.args, strict=False)]
        for keyword in [*placed, *call.keywords]:
            if keyword.arg in _DATA:
                self._data(str(keyword.arg), keyword.value)
            elif keyword.arg in ("reward_funcs", "reward_model"):
                self._rewards(str(keyword.arg), keyword.value)
            elif keyword.arg == "ref_model":
                self._reference(keyword.value)
            elif keyword.arg == "model" and isinstance(self._resolved(keyword.value), ast.Constant):
                self._argument("model_name_or_path", keyword.value)
            elif keyword.arg == "model" and not self._has("model_name_or_path"):
                self._unread("model_name_or_path", keyword.value)
            elif keyword.arg is not None and keyword.arg not in _OBJECTS:
                self._argument(keyword.arg, keyword.value)

    def _model(self, call: ast.Call) -> None:
        if call.args:
            self._argument("model_name_or_path", call.args[0])
        renamed = {**_UNSLOTH, "pretrained_model_name_or_path": "model_name_or_path", "revision": "model_revision"}
        kept = ("torch_dtype", "dtype", "attn_implementation", "trust_remote_code", "load_in_8bit")
        for keyword in call.keywords:
            if keyword.arg in renamed:
                self._argument(renamed[keyword.arg], keyword.value)
            elif keyword.arg in kept and isinstance(self._resolved(keyword.value), ast.Attribute):
                self._add(keyword.arg, keyword.value, ast.unparse(keyword.value).rpartition(".")[2])
            elif keyword.arg in kept:
                self._argument(keyword.arg, keyword.value)

    def _data(self, argument: str, value: ast.expr) -> None:
        """`load_dataset("name", split="train")`, also through a name, an index, and calls on it (map, select …)."""
        node, split = value, None
        shares = self._changes(argument, value)
        while not (isinstance(node, ast.Call) and _name(node) == _LOAD):
            if isinstance(node, ast.Name) and (first := self._first(node.id)) is not None:
                node = first
            elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                split, node = str(node.slice.value), node.value
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                node = node.func.value
            else:
                break
        if not (isinstance(node, ast.Call) and _name(node) == _LOAD):
            self._unread(argument if argument == "eval_dataset" else "dataset_name", value)
            return
        split = None if shares else split
        path, subset, loaded_split = self._dataset(node, split)
        if argument == "eval_dataset" and shares:
            return  # a share of the training rows: test_split_size
        if path is None:
            self._unread(argument if argument == "eval_dataset" else "dataset_name", value)
        elif argument == "eval_dataset":
            parts = (path, subset, split or loaded_split or "test")
            whole = path.endswith((".jsonl", ".json", ".csv", ".parquet"))
            self._add("eval_dataset", value, path if whole else ":".join(p for p in parts if p))
        else:
            self._add("dataset_name", value, path)
            if subset:
                self._add("dataset_config", value, subset)
            self._add("dataset_train_split", value, split or loaded_split or "train")

    def _changes(self, argument: str, value: ast.expr) -> bool:
        """Note the calls that make other rows of those that were loaded; whether one of them splits the rows."""
        calls: list[ast.Call] = []
        waiting, seen = [value], set[str]()
        while waiting:
            node = waiting.pop()
            if isinstance(node, ast.Name) and node.id not in seen:
                seen.add(node.id)
                waiting += self.assigned.get(node.id, [])
            elif isinstance(node, ast.Subscript):
                waiting.append(node.value)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr != _LOAD:
                calls.append(node)
                waiting.append(node.func.value)
        splits = [call for call in calls if _name(call) == "train_test_split"]
        if splits and argument == "eval_dataset":  # as the training rows, of which it is a share
            return True
        for call in splits:
            given = {"test_size": call.args[0]} if call.args else {}
            given |= {str(k.arg): k.value for k in call.keywords}
            self._argument("test_split_size", given.get("test_size", ast.Constant(0.25, lineno=call.lineno)))
        for call in calls:
            if _name(call) not in _SAME_ROWS:
                self._unread(f"{argument}.{_name(call)}", call)
        return bool(splits)

    def _dataset(self, call: ast.Call, split: str | None) -> tuple[str | None, str | None, str | None]:
        """(path, subset, split) of a `load_dataset`; a builder's file is the path, and several files are none.

        Args:
            split: that is taken of what was loaded; None where it is not a dictionary of splits.
        """
        given = dict(zip(("path", "name"), call.args, strict=False))
        given |= {str(k.arg): k.value for k in call.keywords}
        read = {key: self._literal(node) for key, node in given.items()}
        path, files = read.get("path"), read.get("data_files")
        if path in ("json", "csv", "parquet") and files:
            if isinstance(files, dict):
                files = files.get(split or read.get("split") or "train", [])
            several = not isinstance(files, str) and len(files) != 1
            path = None if several else files if isinstance(files, str) else files[0]
        parts = (path, read.get("name"), read.get("split"))
        return tuple(p if isinstance(p, str) else None for p in parts)  # type: ignore[return-value]

    def _rewards(self, argument: str, value: ast.expr) -> None:
        node = self._resolved(value)
        items = node.elts if isinstance(node, (ast.List, ast.Tuple)) else [node]
        found = [self._reward(self._resolved(item)) for item in items]
        models = [item["path"] for item in found if isinstance(item, dict) and item["kind"] == "model"]
        if argument == "reward_model" and len(found) == len(models) == 1:
            self._add(argument, value, models[0])
        elif argument == "reward_funcs" and found and None not in found:
            self._add(argument, value, found)
        else:
            self._unread(argument, value)

    def _reward(self, node: ast.expr) -> str | dict[str, str] | None:
        """One reward as it is here; as text where it is TRL's own or the script's (`:name`); None where it is not read.

        A text in a script is the path of a model, whatever is in it; only files and commands name functions by text.
        """
        literal = self._literal(node)
        if isinstance(literal, str):
            return {"kind": "model", "path": literal}
        if isinstance(node, ast.Call):
            return self._loaded_model(node) or self._punishment(node)
        if not isinstance(node, (ast.Name, ast.Attribute)):
            return None
        defined = isinstance(node, ast.Name) and node.id in self.functions
        first = next(n.id for n in ast.walk(node) if isinstance(n, ast.Name)) if _is_path(node) else "?"
        if first == "?" or first in self.assigned or (defined and first in self.imported.names):
            return None
        if defined:
            return f":{first}"
        origin = self.imported.origin(node)
        if origin is None:
            return None
        module, name = origin
        if _of_trl(module) and (name in TRL_REWARDS or name.startswith("get_")):  # get_…: makes one, and is none
            return name if name in TRL_REWARDS else None
        return {"kind": "function", "function": f"{module}:{name}"}

    def _loaded_model(self, call: ast.Call) -> dict[str, str] | None:
        """`AutoModelForSequenceClassification.from_pretrained("path")`, where a revision does not make it another."""
        if _name(call) != "from_pretrained" or _owner(call) != _CLASSIFIER:
            return None
        given = {"pretrained_model_name_or_path": call.args[0]} if call.args else {}
        given |= {str(k.arg): k.value for k in call.keywords}
        path = self._literal(given.get("pretrained_model_name_or_path", call))
        return None if not isinstance(path, str) or "revision" in given else {"kind": "model", "path": path}

    def _punishment(self, call: ast.Call) -> str | None:
        """`get_soft_overlong_punishment(2048, 512)`, with its numbers; None where they cannot be read."""
        module, called = self.imported.origin(call.func) or ("trl.rewards", _name(call))
        if called != _PUNISHMENT or not _of_trl(module) or called in self.functions:
            return None
        given = dict(zip(("max_completion_len", "soft_punish_cache"), call.args, strict=False))
        given |= {str(k.arg): k.value for k in call.keywords}
        numbers = [self._literal(given.get(key, call)) for key in ("max_completion_len", "soft_punish_cache")]
        return f"{called}({numbers[0]}, {numbers[1]})" if all(isinstance(n, int) for n in numbers) else None

    def _reference(self, value: ast.expr) -> None:
        if isinstance(value, ast.Constant) and value.value is None:
            self._add("ref_model", value, None)
        else:
            self._add("ref_model", value, ast.unparse(value))

    # -- values

    def _keywords(self, call: ast.Call) -> None:
        for keyword in call.keywords:
            if keyword.arg is None:
                self._unread(f"**{ast.unparse(keyword.value)}", keyword.value)
            else:
                self._argument(keyword.arg, keyword.value)

    def _argument(self, key: str, node: ast.expr) -> None:
        try:
            value = ast.literal_eval(self._resolved(node))
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            self._unread(key, node)
        else:
            self._add(key, node, value)

    def _literal(self, node: ast.expr) -> Any:
        try:
            return ast.literal_eval(self._resolved(node))
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return None

    def _resolved(self, node: ast.expr) -> ast.expr:
        """What a name stands for, where the script assigns it once."""
        for _ in range(8):
            if not (isinstance(node, ast.Name) and node.id in self.names):
                break
            node = self.names[node.id]
        return node

    def _first(self, name: str) -> ast.expr | None:
        """The first value of a name that is not made of itself: `rows = load_dataset(…)`, not `rows = rows.map(…)`."""
        for value in self.assigned.get(name, []):
            inner = {node.id for node in ast.walk(value) if isinstance(node, ast.Name)}
            if not inner & {name, "?"}:
                return value
        return None

    def _has(self, key: str) -> bool:
        return any(s.key == key for s in self.given.settings)

    def _add(self, key: str, node: ast.expr | ast.Call, value: Any) -> None:
        self.given.add([Setting(key, value, f"{self.path}:{node.lineno}")])

    def _unread(self, key: str, node: ast.expr) -> None:
        source = " ".join(ast.unparse(node).split())
        source = source if len(source) <= 60 else source[:57] + "…"
        self.given.add([Setting(key, None, f"{self.path}:{node.lineno}", source)])


def _name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _is_path(node: ast.expr) -> bool:
    """Whether it is `a` or `a.b.c`."""
    return _is_path(node.value) if isinstance(node, ast.Attribute) else isinstance(node, ast.Name)


def _of_trl(module: str) -> bool:
    return module == "trl" or module.startswith("trl.")


def _owner(call: ast.Call) -> str:
    value = call.func.value if isinstance(call.func, ast.Attribute) else None
    return value.attr if isinstance(value, ast.Attribute) else getattr(value, "id", "")


def _assignments(module: ast.Module) -> dict[str, list[ast.expr]]:
    """Name → everything that the script assigns to it; a name that cannot be followed has a "?" besides."""
    found: dict[str, list[ast.expr]] = {}
    unknown = ast.Name("?")
    for node in ast.walk(module):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                for inner in ast.walk(target):
                    if isinstance(inner, ast.Name):
                        found.setdefault(inner.id, []).extend([node.value] if inner is target else [unknown, unknown])
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            found.setdefault(node.target.id, []).append(node.value)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _MUTATORS:
            if isinstance(node.func.value, ast.Name):  # what it was made of is not all that it is
                found.setdefault(node.func.value.id, []).extend([unknown, unknown])
        elif isinstance(node, (ast.AugAssign, ast.For)) and isinstance(node.target, ast.Name):
            found.setdefault(node.target.id, []).extend([unknown, unknown])
        elif isinstance(node, ast.arg):
            found.setdefault(node.arg, []).extend([unknown, unknown])
    return found
