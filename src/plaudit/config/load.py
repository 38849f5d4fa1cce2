"""From files, flags and keyword arguments to one validated, frozen configuration.

Everything that is wrong is found in one go. Nothing here imports torch, so a typo is reported at once.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from plaudit.config import tree
from plaudit.config.elsewhere import Foreign
from plaudit.config.flags import SHORTHANDS, keyword_overrides, parse_arguments
from plaudit.config.keys import all_keys
from plaudit.config.objects import MEMORY
from plaudit.config.problems import COMMAND_LINE, Problem, raise_all
from plaudit.config.replayed import take_from_replayed
from plaudit.config.report import Reporter, shown
from plaudit.config.schema import CriticSection, RewardSection, RolloutSection, RunConfig
from plaudit.config.starts import starts, trained_model
from plaudit.config.tree import Node
from plaudit.methods import find
from plaudit.methods.base import Method, MethodConfig
from plaudit.runs import yaml_text


@dataclass(frozen=True, slots=True)
class Resolved:
    """A run's configuration, complete and checked.

    Attributes:
        run: the configuration tree with derived values; `run.method` holds {name, and all of the method's options}.
        method: the method's class.
        method_config: its options.
        defaulted: dotted key → value, for what was derived because nobody gave it (to be printed).
    """

    run: RunConfig
    method: type[Method]
    method_config: MethodConfig
    defaulted: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for config.yaml; resolving them again gives this configuration again."""
        values = self.run.model_dump(mode="json")
        if self.run.train.warmup_steps is not None:
            del values["train"]["warmup_fraction"]  # without effect, and refused beside warmup_steps
        return values

    def as_yaml(self) -> str:
        """`as_dict` as YAML text."""
        return yaml_text.dump(self.as_dict())


def resolve(
    method: str | None,
    files: Sequence[Path] = (),
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    objects: bool = False,
    files_exist: bool = True,
    trains: bool = True,
) -> Resolved:
    """Read, merge and check a configuration.

    Args:
        method: name of a method or path of a Python file; None takes it from the files or overrides (`method.name`).
        files: YAML files; later ones win key by key.
        overrides: command-line arguments (`train.epochs=2`, `--beta 0.2`, further files), or keyword arguments by name.
        objects: whether the model or the data may be Python objects (`MEMORY`).
        files_exist: whether a named file that is not there is a problem.
        trains: whether a run will follow; who only looks at the data needs no reward.

    Raises:
        ConfigError: PL100 with every problem found, or PL101 for a method that does not exist.
    """
    problems: list[Problem] = []
    layers = [tree.read_yaml(Path(file), problems) for file in files]
    name = method or _method_name(layers, overrides)
    if name is None:
        if not isinstance(overrides, Mapping):  # it may be in a file that cannot be read
            for file in parse_arguments(overrides, all_keys(MethodConfig)).files:
                tree.read_yaml(file, problems)
        if not problems:
            problems.append(Problem(_origin(layers), "method.name", "is required", "for example --method dpo"))
        raise_all(problems)
    assert name is not None
    found = find(name)
    keys = all_keys(found.Config)
    foreign = Foreign(found.name, tuple(found.Config.model_fields), found.elsewhere)
    unread = bool(problems) and any(layer.value == {} for layer in layers)
    if isinstance(overrides, Mapping):
        layers += keyword_overrides(overrides, keys, foreign, problems)
    else:
        arguments = parse_arguments(overrides, keys, foreign)
        problems += arguments.problems
        layers += [tree.read_yaml(file, problems) for file in arguments.files]
        unread = bool(problems) and any(layer.value == {} for layer in layers)
        layers += arguments.overrides
    root = Node({}, _origin(layers))
    for layer in layers:
        root = tree.merge(root, _with_sections(_expanded(layer), problems))
    _set_method(root, name, problems)
    taken = take_from_replayed(root, problems) if files_exist else {}
    report = Reporter(_without_empty_lora(root), found, keys, foreign, problems, unread=unread)
    run, config = _validated(report)
    if run is not None:
        report.findings(run, found, trains=trains)
        if not objects:
            report.objects(run)
        if files_exist:
            report.files(run)
    raise_all(problems)
    assert run is not None
    assert config is not None
    run = run.model_copy(update={"method": {"name": name, **config.model_dump(mode="json")}})
    run, defaulted = _derived(run, found)
    if files_exist:
        run = _with_trained_models(run)
    return Resolved(run, found, config, taken | defaulted)


def given(files: Sequence[Path] = (), overrides: Sequence[str] | Mapping[str, Any] = ()) -> dict[str, Any]:
    """What files and overrides say, as plain values and unchecked: for who has to choose a method before `resolve`."""
    keys = all_keys(MethodConfig)
    layers = [tree.read_yaml(Path(file), []) for file in files]
    if isinstance(overrides, Mapping):
        layers += keyword_overrides(overrides, keys, Foreign(), [])
    else:
        arguments = parse_arguments(overrides, keys)
        layers += [*(tree.read_yaml(file, []) for file in arguments.files), *arguments.overrides]
    root = Node({}, COMMAND_LINE)
    for layer in layers:
        root = tree.merge(root, _expanded(layer))
    values: dict[str, Any] = tree.plain(root)
    return values


def _origin(layers: Sequence[Node]) -> str:
    return layers[0].where.rpartition(":")[0] or layers[0].where if layers else COMMAND_LINE


def _method_name(layers: Sequence[Node], overrides: Sequence[str] | Mapping[str, Any]) -> str | None:
    """The last `method` or `method.name` given anywhere; the other keys can only be read once it is known."""
    if isinstance(overrides, Mapping):
        given = [*map(tree.plain, layers), overrides]
    else:
        arguments = parse_arguments(overrides, all_keys(MethodConfig))
        files = [tree.read_yaml(file, []) for file in arguments.files]
        given = [tree.plain(layer) for layer in (*layers, *files, *arguments.overrides)]
    values = [layer.get("method") for layer in given]
    names = [value.get("name") if isinstance(value, dict) else value for value in values]
    return next((str(name) for name in reversed(names) if name is not None), None)


def _expanded(layer: Node) -> Node:
    """The layer with every shorthand written out: `model: path`, `data: path(s)`, `method: name`, `lora: true`."""
    if not isinstance(layer.value, dict):
        return layer
    entries = dict(layer.value)
    for section, key in SHORTHANDS.items():
        node = entries.get(section)
        if node is not None and node.value is not None and not isinstance(node.value, dict):
            entries[section] = Node({key.partition(".")[2]: node}, node.where)
    data = entries.get("data")
    if data is not None and isinstance(data.value, dict):
        lists = {name: _as_sources(n) if name in ("train", "eval") else n for name, n in data.value.items()}
        entries["data"] = Node(lists, data.where)
    lora = entries.get("lora")
    if lora is not None and isinstance(lora.value, bool):
        entries["lora"] = Node({} if lora.value else None, lora.where)
    return Node(entries, layer.where)


def _with_sections(layer: Node, problems: list[Problem]) -> Node:
    """The layer without sections that are none: a later layer would replace them without a word."""
    if not isinstance(layer.value, dict):
        return layer
    wrong = {
        name: node
        for name, node in layer.value.items()
        if name in RunConfig.model_fields and node.value is not None and not isinstance(node.value, dict)
    }
    for name, node in wrong.items():
        hint = "a space belongs behind the colon" if ":" in str(node.value) else ""
        problems.append(
            Problem(node.where, name, f"expected a section of `key: value` lines, got {shown(node.value)}", hint)
        )
    return Node({name: node for name, node in layer.value.items() if name not in wrong}, layer.where)


def _as_sources(node: Node) -> Node:
    items = node.value if isinstance(node.value, list) else [node]
    return Node([Node({"path": i}, i.where) if isinstance(i.value, str) else i for i in items], node.where)


def _set_method(root: Node, name: str, problems: list[Problem]) -> None:
    section = root.value.setdefault("method", Node({}, root.where))
    if not isinstance(section.value, dict):
        root.value["method"] = section = Node({}, section.where)
    given = section.value.get("name")
    if given is not None and given.value != name:
        what = f"is {given.value!r}, but the command asks for {name!r}"
        problems.append(Problem(given.where, "method.name", what, f"use `plaudit {given.value}`, or remove the key"))
    # The name comes first in the written file.
    rest = {key: node for key, node in section.value.items() if key != "name"}
    root.value["method"] = Node({"name": Node(name, section.where), **rest}, section.where)


def _without_empty_lora(root: Node) -> Node:
    if "lora" in root.value and root.value["lora"].value is None:
        del root.value["lora"]
    return root


def _validated(report: Reporter) -> tuple[RunConfig | None, MethodConfig | None]:
    """The configuration as far as it can be read; what is wrong goes to the report."""
    values = tree.plain(report.root)
    report.scalars(values)
    run: RunConfig | None = None
    config: MethodConfig | None = None
    try:
        run = RunConfig.model_validate(values)
    except ValidationError as error:
        report.errors(error, ())
        run = _without_wrong_keys(values, error)
    try:
        options = {key: value for key, value in values["method"].items() if key != "name"}
        config = report.method.Config.model_validate(options)
    except ValidationError as error:
        report.errors(error, ("method",))
    return run, config


def _without_wrong_keys(values: dict[str, Any], error: ValidationError) -> RunConfig | None:
    """What is left of the configuration, so that its combinations are checked in the same go; None if too little is."""
    rest = copy.deepcopy(values)
    for detail in error.errors(include_url=False):
        _remove(rest, detail["loc"])
    try:
        return RunConfig.model_validate(rest)
    except ValidationError:
        return None


def _remove(values: dict[str, Any], path: Sequence[str | int]) -> None:
    """Take out the entry at `path`, or the nearest named one above it."""
    holder, name, node = values, path[0], values.get(str(path[0]))
    for part in path[1:]:
        if isinstance(node, dict):
            holder, name = node, part
        node = (
            node[part]
            if isinstance(node, list) and isinstance(part, int) and part < len(node)
            else (node.get(part) if isinstance(node, dict) else None)
        )
    holder.pop(str(name), None)


def _derived(run: RunConfig, method: type[Method]) -> tuple[RunConfig, dict[str, Any]]:
    found: dict[str, Any] = {}
    if run.train.learning_rate is None:
        rate = method.default_learning_rate["full" if run.lora is None else "lora"]
        run = run.model_copy(update={"train": run.train.model_copy(update={"learning_rate": rate})})
        found["train.learning_rate"] = rate
    if run.lora is not None and run.lora.alpha is None and run.lora.path is None:
        alpha = 2.0 * run.lora.r
        run = run.model_copy(update={"lora": run.lora.model_copy(update={"alpha": alpha})})
        found["lora.alpha"] = alpha
    if run.train.epochs is None and run.train.max_steps is None:
        run = run.model_copy(update={"train": run.train.model_copy(update={"epochs": 1.0})})
    run, more = _derived_online(run, method) if method.is_online() else (run, {})
    found |= more
    if run.log.every is None:
        run = run.model_copy(update={"log": run.log.model_copy(update={"every": _log_every(run)})})
    if run.eval.best_metric is None and (run.data.eval or run.data.eval_fraction):
        best = "eval/reward" if method.is_online() else "eval/loss"
        run = run.model_copy(update={"eval": run.eval.model_copy(update={"best_metric": best})})
    if run.run.dir is None:
        folder = f"runs/{method.name}-{model_name(run.model.path)}"
        run = run.model_copy(update={"run": run.run.model_copy(update={"dir": folder})})
        found["run.dir"] = folder
    return run, found


def _derived_online(run: RunConfig, method: type[Method]) -> tuple[RunConfig, dict[str, Any]]:
    """The sections that only online methods have, with what the method says where nobody else does."""
    rollout = run.rollout or RolloutSection()
    defaults = {
        "prompts_per_batch": run.train.groups_per_step,
        "completions_per_prompt": method.default_completions,
        "ppo_epochs": method.default_ppo_epochs,
        "dynamic_sampling": method.default_dynamic_sampling and rollout.replay is None,
    }
    missing = {name: value for name, value in defaults.items() if getattr(rollout, name) is None}
    sections: dict[str, Any] = {
        "rollout": rollout.model_copy(update=missing),
        "reward": run.reward or RewardSection(),
        "critic": (run.critic or CriticSection()) if "critic" in method.roles else None,
    }
    return run.model_copy(update=sections), {f"rollout.{name}": value for name, value in missing.items()}


def _with_trained_models(run: RunConfig) -> RunConfig:
    """The directory of a run stands for the model in it; what is written down names that."""
    for key, path in starts(run).items():
        section = key.partition(".")[0]
        if (found := trained_model(path)) != path:
            run = run.model_copy(update={section: getattr(run, section).model_copy(update={"path": found})})
    return run


def _log_every(run: RunConfig) -> int:
    """A line per rollout batch, or per step."""
    rollout = run.rollout
    if rollout is None or rollout.prompts_per_batch is None or rollout.ppo_epochs is None:
        return 1
    return rollout.ppo_epochs * max(1, rollout.prompts_per_batch // run.train.groups_per_step)


def model_name(path: str) -> str:
    """The short name of a model: the last part of its path or hub id, without .gguf."""
    name = re.sub(r"\.gguf$", "", path.rstrip("/").rpartition("/")[2])
    return re.sub(r"[^\w.-]+", "", name) or "model"


__all__ = ["MEMORY", "Resolved", "given", "model_name", "resolve"]
