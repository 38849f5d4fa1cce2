"""Turns what validation finds into problems that name the user's own places and keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from plaudit.config import tree
from plaudit.config.checks import inconsistencies, missing_files, non_finite
from plaudit.config.elsewhere import Foreign
from plaudit.config.flags import same_meaning
from plaudit.config.keys import Key, closest, describe, field_at, limits, sections, suggestion
from plaudit.config.objects import MEMORY
from plaudit.config.online_checks import online_findings
from plaudit.config.problems import Problem
from plaudit.config.schema import RewardSection, RunConfig, SourceConfig
from plaudit.config.starts import runs_without_model
from plaudit.config.tree import Node
from plaudit.config.watch_checks import watch_findings
from plaudit.methods.base import Method
from plaudit.runs.metrics import spec


class Reporter:
    """Turns what validation finds into problems with the user's own places and keys."""

    def __init__(
        self,
        root: Node,
        method: type[Method],
        keys: Mapping[str, Key],
        foreign: Foreign,
        problems: list[Problem],
        *,
        unread: bool = False,
    ) -> None:
        self.root, self.method, self.keys, self.foreign, self.problems = root, method, keys, foreign, problems
        self.unread = unread
        """a file could not be read: what seems to be missing may be in it"""

    def _add(self, path: Sequence[str | int], what: str, hint: str = "") -> None:
        node, _ = tree.find(self.root, path)
        self.problems.append(Problem(node.where, ".".join(map(str, path)), what, hint))

    def scalars(self, values: Any) -> None:
        """Values that validation would convert without a word: true as 1, "3" as 3; and numbers that are not finite."""
        for path in non_finite(values):
            self._add(path, "must be a finite number")
        for key, node in tree.leaves(self.root):
            path = tuple(int(p) if p.isdigit() else p for p in key.split("."))
            info, taken = field_at(path, self.method.Config)
            if info is None or taken != path:
                continue
            words = describe(info.annotation)
            wrong_bool = isinstance(node.value, bool) and "true or false" not in words
            wrong_text = isinstance(node.value, str) and not any(w in words for w in _TEXT_FITS)
            wrong_number = isinstance(node.value, (int, float)) and words == "true or false"
            if wrong_bool or wrong_text or (wrong_number and not isinstance(node.value, bool)):
                quoted = wrong_text and isinstance(tree.parse_text(node.value), (int, float)) and "number" in words
                hint = "write it without quotes" if quoted else ""
                self._add(path, f"expected {words}, got {shown(node.value)}", hint)

    def errors(self, error: ValidationError, prefix: tuple[str, ...]) -> None:
        """What pydantic found; `prefix` leads to the validated section."""
        details = error.errors(include_url=False)
        for detail in details:
            # A list with one wrong entry counts as empty too; the entry is what has to be mended.
            below = any(d["loc"][: len(detail["loc"])] == detail["loc"] and d is not detail for d in details)
            if detail["type"] != "too_short" or not below:
                self._error(detail, (*prefix, *detail["loc"]))

    def _error(self, detail: ErrorDetails, location: tuple[str | int, ...]) -> None:
        info, path = field_at(location, self.method.Config)
        kind = detail["type"]
        if kind == "extra_forbidden":
            self._unknown(path)
        elif kind == "too_short":
            self._add(path, "is empty", "name at least one source" if path[0] == "data" else "")
        elif kind == "missing" and len(path) == len(location):
            if not self.unread:
                self._add(path, "is required", _EXAMPLES.get(".".join(map(str, path)), ""))
        elif any(
            p.key == ".".join(map(str, path)) and p.what.startswith(("expected", "must be")) for p in self.problems
        ):
            return  # reported with its type already; unions report once per branch
        elif kind == "literal_error" and info is not None:
            choices = detail["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
            near = closest(str(detail["input"]), choices, 0.5)
            what = f"expected one of {', '.join(choices)}, got {shown(detail['input'])}"
            self._add(path, what, f"did you mean {near}?" if near else "")
        elif kind in _CONSTRAINTS:
            must = detail["msg"].replace("Input should be", "must be")
            several = limits(info) if info is not None else []
            # all at once: whoever mends one should not run into the next
            hint = f"it is {', '.join([describe(info.annotation), *several])}" if info and len(several) > 1 else ""
            self._add(path, f"{must[0].lower()}{must[1:]}, got {shown(detail['input'])}", hint)
        elif kind == "value_error":
            self._add(path, str(detail["ctx"]["error"]))
        else:
            what = describe(info.annotation) if info is not None else detail["msg"]
            node, exact = tree.find(self.root, path)
            self._add(path, f"expected {what}, got {shown(tree.plain(node) if exact else detail['input'])}")

    def _unknown(self, path: Sequence[str | int]) -> None:
        name = str(path[-1])
        instead = self._elsewhere(path)
        if instead is not None:
            self._add(path, "there is no such key here", instead)
            return
        if len(path) == 1 and (key := same_meaning(name, self.keys)) is not None:
            self._add(path, "unknown key", f"did you mean {key}?")
            return
        if len(path) > 2:  # an entry of data.train or data.eval, or of the gold reward
            inner = RewardSection if path[0] == "watch" else SourceConfig
            near: str | None = closest(name, list(inner.model_fields))
        else:
            section = str(path[0]) if len(path) == 2 else ""
            near = suggestion(section, name, self.keys)
            if not section and near is None:
                near = closest(name, list(sections(self.method.Config)))
        self._add(path, "unknown key", f"did you mean {near}?" if near else "")

    def _elsewhere(self, path: Sequence[str | int]) -> str | None:
        """What to use for another tool's key; those of losses stand at the top or in the section of the method."""
        name, node = str(path[-1]), tree.find(self.root, path)[0]
        if len(path) == 1 or path[0] == "method":
            return self.foreign.explain(name, tree.plain(node))
        return Foreign().explain(name, tree.plain(node))

    def findings(self, run: RunConfig, method: type[Method], *, trains: bool = True) -> None:
        """Combinations that cannot be meant."""
        online = online_findings(run, method, trains=trains)
        for key, what, hint in (*inconsistencies(run), *online, *watch_findings(run, method)):
            self._add(key.split("."), what, hint)
        metric = run.eval.best_metric
        if metric is not None and spec(metric).direction == "neutral":
            self._add(("eval", "best_metric"), f"{metric} has no better direction", "for example eval/loss")

    def files(self, run: RunConfig) -> None:
        """Named files that are not there, and runs that have no model."""
        for key, what, hint in (*missing_files(run), *runs_without_model(run)):
            path = tuple(int(p) if p.isdigit() else p for p in key.split("."))
            self._add(path, what, hint)

    def objects(self, run: RunConfig) -> None:
        """Configurations of runs that were given Python objects, which no file can bring back."""
        for key, path in {"model.path": run.model.path, "data.train": run.data.train[0].path}.items():
            if path == MEMORY:
                self._add(key.split("."), "was a Python object in that run and cannot be read again", "give a path")


_TEXT_FITS = ("text", "one of", "the word", "list", "section", "map")
_CONSTRAINTS = {"greater_than", "greater_than_equal", "less_than", "less_than_equal", "multiple_of", "too_long"}


_EXAMPLES = {
    "model": "for example --model PATH",
    "model.path": "for example --model PATH",
    "data": "for example --data FILE",
}


def shown(value: Any) -> str:
    """A value as a message shows it."""
    if isinstance(value, str):
        return f"the text {value!r}"
    if isinstance(value, dict):
        return "a section"
    if value is None or isinstance(value, bool):
        return {True: "true", False: "false", None: "null"}[value]
    return repr(value)
