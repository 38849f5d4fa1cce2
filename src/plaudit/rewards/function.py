"""A reward of one's own: a Python function, by import path or file.

    def no_apology(completion: str) -> float:
        return 0.0 if "sorry" in completion.lower() else 1.0

A function asks for what it needs by the names of its parameters: `prompt`, `completion`, `sample`, `row`, or any column
of the row. With the parameter `completions` (or `samples`) it is called once for many answers, with lists, and then
returns a list; that is how reward functions for TRL are written, and those of prompts, completions and columns run as
they are. It may be `async`. Rows are handed over as copies, and never to two calls at the same time unless it is async.

It returns a number, or a mapping with `value` and numbers that are logged beside it. A mapping may have `steps` too:
pairs of the number of characters up to the end of a step of the answer, and the step's reward (process supervision).
Raising, None and NaN are failures: the answer is scored again, and then left out. They are never 0. In a list, None
says that the function has nothing to say about the row, as in TRL: its part of the sum is left out.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import wait
from pathlib import Path
from typing import Any

from pydantic import Field

from plaudit.config.paths import meant
from plaudit.config.user_code import line_in
from plaudit.data.turns import Turns
from plaudit.errors import ConfigError
from plaudit.rewards.background import OF_SOMEBODY_ELSE, in_background
from plaudit.rewards.contract import Reward, RewardOptions, RewardResult, Sample

_ONE = ("prompt", "completion", "sample", "row", "tokens", "finish_reason")
_MANY = ("prompts", "completions", "samples", "rows")
_OF_TRL = ("completion_ids", "trainer_state", "log_extra", "log_metric", "environments")
_KINDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class FunctionOptions(RewardOptions):
    """Which function, and how it is called."""

    function: str
    """module:function, or path/to/file.py:function."""
    timeout: float | None = Field(None, gt=0)
    """Seconds for a call; past it the answers of the call are failures. A call that is not async goes on in its thread
    until it returns: for code that may hang for ever, end it yourself."""
    batch: int = Field(64, ge=1)
    """Most answers of one call of a function that takes many."""
    concurrency: int = Field(8, ge=1)
    """Calls at the same time of an async function that takes one answer."""
    pure: bool = False
    """The same answer always gets the same value, so that it need not be asked again."""


class FunctionReward(Reward):
    """What a Python function returns."""

    kind = "function"
    title = "A Python function: module:function or file.py:function"
    Options = FunctionOptions
    ignores = frozenset()

    def __init__(self, options: RewardOptions, function: Callable[..., Any] | None = None) -> None:
        super().__init__(options)
        self.function = function or find_function(self.options.function)
        self.pure = self.options.pure
        plain = self.function
        while isinstance(plain, functools.partial):
            plain = plain.func
        self.name = getattr(plain, "__name__", type(plain).__name__)
        self._lock = threading.Lock()
        self._closed = 0
        self._parameters = _parameters(self.function, self.options.function)
        self.many = any(name in self._parameters for name in _MANY)
        self._everything = any(p.kind is p.VAR_KEYWORD for p in self._parameters.values())
        call = plain if inspect.isroutine(plain) else type(plain).__call__
        self._asynchronous = inspect.iscoroutinefunction(call)

    @classmethod
    def of(cls, function: Callable[..., Any], path: str) -> FunctionReward:
        """A function that is there already; `path` is what messages call it."""
        return cls(FunctionOptions.model_validate({"function": path}), function)

    @property
    def columns(self) -> tuple[str, ...]:
        """Parameters without a default that are no words of the contract."""
        return tuple(
            name
            for name, p in self._parameters.items()
            if p.kind in _KINDS and p.default is p.empty and name not in (*_ONE, *_MANY)
        )

    def fingerprint(self) -> str:
        """With the source of the function's module."""
        return self.identity() if self.pure and self._source() else ""

    def identity(self) -> str:
        """With the source of the function's module."""
        digest = hashlib.blake2b(self._source().encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        return f"{self.kind}:{self.options.model_dump_json()}:{digest}"

    def _source(self) -> str:
        try:
            return inspect.getsource(inspect.getmodule(self.function) or self.function)
        except (OSError, TypeError):
            return ""

    def score(self, samples: Sequence[Sample]) -> list[RewardResult]:
        """See `Reward`."""
        missing = [next((c for c in self.columns if c not in s.row), None) for s in samples]
        ready = [s for s, column in zip(samples, missing, strict=True) if column is None]
        closed = self._closed
        with self._lock:
            found = iter(self._ready(ready, closed))
        return [
            next(found) if column is None else _lacks(column, s) for s, column in zip(samples, missing, strict=True)
        ]

    def close(self) -> None:
        """Make no further call for what is being scored: nobody wants the answers any more."""
        self._closed += 1

    def _ready(self, samples: Sequence[Sample], closed: int) -> list[RewardResult]:
        if self._asynchronous:
            return _in_new_loop(self._all_async(samples)) if samples else []
        size = self.options.batch if self.many else 1
        found: list[RewardResult] = []
        for start in range(0, len(samples), size):
            if self._closed != closed:
                gone = RewardResult.failed("crash", "scoring was stopped")
                return found + [gone] * (len(samples) - start)
            chunk = samples[start : start + size]
            found += self._call(chunk)
        return found

    def _call(self, samples: Sequence[Sample]) -> list[RewardResult]:
        start = time.perf_counter()
        try:
            said = _within(self.options.timeout, self.function, self._arguments(samples))
        except OF_SOMEBODY_ELSE as error:  # whatever it raises is a failure of these answers
            return self._failed(samples, error, time.perf_counter() - start)
        return self._read(samples, said, time.perf_counter() - start)

    async def _all_async(self, samples: Sequence[Sample]) -> list[RewardResult]:
        size = self.options.batch if self.many else 1
        gate = asyncio.Semaphore(self.options.concurrency)
        chunks = [samples[start : start + size] for start in range(0, len(samples), size)]
        return [r for results in await asyncio.gather(*(self._await(c, gate) for c in chunks)) for r in results]

    async def _await(self, samples: Sequence[Sample], gate: asyncio.Semaphore) -> list[RewardResult]:
        async with gate:
            start = time.perf_counter()
            try:
                said = await _awaited(self.function(**self._arguments(samples)), self.options.timeout)
            except OF_SOMEBODY_ELSE as error:  # as in _call
                return self._failed(samples, error, time.perf_counter() - start)
            return self._read(samples, said, time.perf_counter() - start)

    def _arguments(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """The arguments of one call: lists for a function that takes many."""
        if self.many:
            columns = dict.fromkeys(name for s in samples for name in s.row)
            rows = [copy.deepcopy(dict(s.row)) for s in samples]
            offered: dict[str, Any] = {name: [row.get(name) for row in rows] for name in columns}
            offered |= {
                "prompts": [_given(s.prompt) for s in samples],
                "completions": [_given(s.completion) for s in samples],
                "samples": [dataclasses.replace(s, row=row) for s, row in zip(samples, rows, strict=True)],
                "rows": rows,
            }
        else:
            [sample] = samples
            row = copy.deepcopy(dict(sample.row))
            offered = row | {
                "prompt": _given(sample.prompt),
                "completion": sample.text,
                "sample": dataclasses.replace(sample, row=row),
                "row": row,
                "tokens": sample.tokens,
                "finish_reason": sample.finish_reason,
            }
        if self._everything:
            return offered
        return {name: value for name, value in offered.items() if name in self._parameters}

    def _failed(self, samples: Sequence[Sample], error: BaseException, seconds: float) -> list[RewardResult]:
        late = isinstance(error, _TooLong)
        message = "the function took too long" if late else f"{type(error).__name__}: {error}{self._line(error)}"
        kind: Any = "timeout" if late else "exception"
        return [RewardResult.failed(kind, message, seconds=seconds / len(samples)) for _ in samples]

    def _line(self, error: BaseException) -> str:
        """Where in the function's own file it is, in brackets."""
        try:
            file = inspect.getsourcefile(inspect.unwrap(self.function))
        except TypeError:  # a callable object
            file = None
        return "" if file is None else f" ({Path(line_in(error, file)).name})"

    def _read(self, samples: Sequence[Sample], said: Any, seconds: float) -> list[RewardResult]:
        if not self.many:
            return [_result(said, seconds)]
        values = said.tolist() if hasattr(said, "tolist") else said
        if not isinstance(values, (list, tuple)) or len(values) != len(samples):
            what = f"{len(values)} values" if isinstance(values, (list, tuple)) else type(said).__name__
            message = f"the function returned {what} for {len(samples)} answers"
            return [RewardResult.failed("bad_reply", message, seconds=seconds / len(samples)) for _ in samples]
        each = seconds / len(samples)
        return [_nothing_to_say(each) if value is None else _result(value, each) for value in values]


def _nothing_to_say(seconds: float) -> RewardResult:
    return RewardResult.failed("not_applicable", "the function returned None for it", seconds=seconds)


def _given(turns: Turns) -> Any:
    return turns if isinstance(turns, str) else [m.for_template() for m in turns]


def _result(said: Any, seconds: float) -> RewardResult:
    if isinstance(said, RewardResult):
        return said.timed(seconds)
    if isinstance(said, Mapping):
        parts = {str(name): part for name, part in said.items() if name not in ("value", "steps")}
        if "value" not in said:
            have = ", ".join(map(str, said)) or "nothing"
            return RewardResult.failed("bad_reply", f"the mapping has no 'value', but: {have}", seconds=seconds)
        return RewardResult.of(said.get("value"), parts=parts, steps=said.get("steps", ()), seconds=seconds)
    return RewardResult.of(said, seconds=seconds)


class _TooLong(Exception):
    """The function's time is up."""


def _lacks(name: str, sample: Sample) -> RewardResult:
    have = ", ".join(sorted(map(str, sample.row))) or "none"
    return RewardResult.failed("bad_row", f"the function wants {name!r}, and the row has: {have}")


def _within(timeout: float | None, function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Call a function, for at most so long."""
    if timeout is None:
        return function(**arguments)
    future = in_background("function", function, **arguments)
    done, _ = wait([future], timeout)
    if not done:
        raise _TooLong
    return future.result()


async def _awaited(coroutine: Any, timeout: float | None) -> Any:
    """Await for at most so long. A TimeoutError of the function's own is not ours."""
    task = asyncio.ensure_future(coroutine)
    done, _ = await asyncio.wait([task], timeout=timeout)
    if not done:
        task.cancel()
        await asyncio.wait([task], timeout=1)
        raise _TooLong
    return task.result()


def _in_new_loop(coroutine: Any) -> list[RewardResult]:
    """Run a coroutine to its end, also where this thread has a loop of its own (a notebook)."""
    return list(in_background("function", asyncio.run, coroutine).result())


def _parameters(function: Callable[..., Any], where: str) -> Mapping[str, inspect.Parameter]:
    try:
        found = inspect.signature(function).parameters
    except (TypeError, ValueError) as error:
        raise ConfigError(
            "PL102",
            f"the parameters of the function are not known: {error}",
            where=where,
            mend="write it in Python: def reward(completion)",
        ) from error
    theirs = [n for n, p in found.items() if n in _OF_TRL and p.default is p.empty]
    if theirs:
        raise ConfigError(
            "PL102",
            f"the function asks for {', '.join(theirs)}, which TRL's trainer gives and nobody here",
            where=where,
            mend="give the parameter a default; prompts, completions and the row's columns are given",
        )
    unnamed = [n for n, p in found.items() if p.kind is p.POSITIONAL_ONLY]
    known = {*_ONE, *_MANY} & set(found)
    if unnamed or (not known and not any(p.kind is p.VAR_KEYWORD for p in found.values())):
        raise ConfigError(
            "PL102",
            "the function asks for nothing that a reward is given",
            where=where,
            mend="name a parameter completion (one answer at a time) or completions (a list); others are columns",
        )
    return found


def find_function(path: str) -> Callable[..., Any]:
    """Import a function.

    Args:
        path: module:function or path/to/file.py:function. The present folder, or the file's, is where the module and
            what it imports are looked for, as if it were run from there.

    Raises:
        ConfigError: PL102, it cannot be imported, or is no function.
    """
    module_name, _, name = path.rpartition(":")
    if not module_name or not name:
        raise ConfigError("PL102", "not module:function", where=path, mend="for example my_rewards.py:no_apology")
    module = _imported(module_name, path)
    found: Any = module
    try:
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError:
        own = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise ConfigError(
            "PL102",
            f"{module_name} has no function {name}",
            where=path,
            mend=f"it has: {', '.join(own[:10]) or 'none'}" + (", …" if own[10:] else ""),
        ) from None
    if not callable(found):
        raise ConfigError(
            "PL102", f"is {type(found).__name__}, must be a function", where=path, mend=f"write def {name}(completion)"
        )
    return found  # type: ignore[no-any-return]  # callable, checked


def _imported(name: str, path: str) -> Any:
    """The module, or the file as one; `path` is how the function was named."""
    in_file = name.endswith(".py")
    if in_file and not Path(name).is_file():
        raise ConfigError("PL102", f"there is no file {name}", where=path, mend=meant(name))
    try:
        return _file_module(Path(name)) if in_file else _module(name)
    except OF_SOMEBODY_ELSE as error:  # whatever the user's code raises while it is imported; it may leave, too
        what = f"{name} cannot be imported: {type(error).__name__}: {error}"
        if in_file:
            where, mend = line_in(error, name), f"mend the file; `python {name}` shows all of the error"
        else:
            where, mend = path, "a module must be importable from this folder; a file is named as FILE.py:FUNCTION"
        raise ConfigError("PL102", what, where=where, mend=mend) from error


def _module(name: str) -> Any:
    _look_in(Path.cwd())
    return importlib.import_module(name)


def _look_in(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _file_module(file: Path) -> Any:
    _look_in(file.resolve().parent)
    name = f"plaudit_reward_{file.stem}_{hashlib.blake2b(str(file.resolve()).encode(), digest_size=4).hexdigest()}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # inspect and pickle look there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
