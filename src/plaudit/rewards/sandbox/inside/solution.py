"""Runs in the sandbox of the program that is tested: loads it, calls it, and says what came back as plain data.

Everything here is at the program's mercy, so nothing here decides anything: what is sent is the program's answer.
"""

from __future__ import annotations

import _operator
import os
import sys

from plaudit.rewards.sandbox.inside import plain

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing `typing` takes longer than most programs run
    from collections.abc import Sequence
    from typing import Any

_LEETCODE = (
    *("bisect", "collections", "functools", "heapq", "itertools", "math", "operator"),
    *("random", "re", "string", "typing"),
)
"""What such solutions use without importing it."""
_MOST_TEXT = 300


def load(source: str) -> dict[str, Any]:
    """The namespace after the program's top level has run."""
    module = type(sys)("solution")
    sys.modules["solution"] = module  # dataclasses and pickle look for it
    names = module.__dict__
    if "class Solution" in source:
        for name in _LEETCODE:
            names[name] = __import__(name)
        for name in ("typing", "collections"):
            names.update((n, getattr(names[name], n)) for n in names[name].__all__)
    names["__file__"] = "solution.py"
    exec(compile(source, "solution.py", "exec", dont_inherit=True), names)
    return names


def said(error: BaseException) -> tuple[Any, ...]:
    """An exception as plain data: the names of its classes, and its message."""
    classes = [kind.__name__ for kind in type(error).__mro__ if issubclass(kind, BaseException)]
    arguments = error.args[:4]
    if not all(isinstance(a, (str, int, float, bool, type(None))) for a in arguments):
        arguments = (_text(error),)
    return "raised", classes, [a[:_MOST_TEXT] if isinstance(a, str) else a for a in arguments]


def _text(value: object) -> str:
    try:
        return str(value)[:_MOST_TEXT]
    except BaseException:  # a __str__ that fails or exits: there is no text then
        return ""


def called(names: dict[str, Any], function: str) -> Any:
    """The function of that name, or the method of the class Solution."""
    if function in names:
        return names[function]
    solution = names.get("Solution")
    if isinstance(solution, type) and hasattr(solution, function):
        return getattr(solution(), function)
    raise NameError(f"name {function!r} is not defined")


def call_all(source: str, function: str, arguments: Sequence[bytes], out: int) -> None:
    """Call the function once for each tuple of arguments, and send each result."""
    try:
        names = load(source)
    except BaseException as error:
        plain.send(out, plain.encode(("unusable", *said(error)[1:])))
        return
    for given in arguments:
        try:
            reply = plain.encode(("ok", called(names, function)(*plain.decode(given))))
        except plain.NotPlain as error:
            reply = plain.encode(("refused", str(error)))
        except BaseException as error:  # SystemExit too: it is an answer to this call
            reply = plain.encode(said(error))
        plain.send(out, reply)


class _Made:
    """A new instance of a class of the program: it stays here, even if the class derives from list."""

    def __init__(self, instance: Any) -> None:
        self.instance = instance


def _is_named(value: Any) -> bool:
    """A named tuple: the grader can have its values."""
    fields = getattr(type(value), "_fields", None)
    return isinstance(value, tuple) and type(fields) is tuple and len(fields) == tuple.__len__(value)


class Server:
    """Answers the grader: calls, attributes and items of the program's objects, which themselves stay here."""

    def __init__(self, names: dict[str, Any], inbox: int, outbox: int) -> None:
        self.names, self.inbox, self.outbox = names, inbox, outbox
        self.objects: list[Any] = []
        self.numbers: dict[int, int] = {}
        self.callbacks: dict[int, Any] = {}

    def stands(self, value: Any) -> tuple[Any, ...] | None:
        """What stands for an object of the program in the grader; None: a tuple is one."""
        if type(value) is _Made:
            value = value.instance
        elif isinstance(value, tuple) and not _is_named(value):
            return None
        number = self.numbers.get(id(value))
        if number is None:
            number = self.numbers[id(value)] = len(self.objects)
            self.objects.append(value)  # kept, so that its id is not used again
        if isinstance(value, type):
            bases = [kind.__name__ for kind in value.__mro__] if issubclass(value, BaseException) else []
            return "h", number, "class", value.__name__[:100], bases
        if _is_named(value):
            return "n", number, list(type(value)._fields), list(tuple.__iter__(value))
        return "h", number, "object", type(value).__name__[:100], []

    def meant(self, stands: tuple[Any, ...]) -> Any:
        """What a special value of the grader is here."""
        tag, what = stands[:2]
        if tag == "h":
            return self.objects[what]
        if tag == "b":
            import builtins

            return getattr(builtins, what)
        if tag == "p":  # the grader's words are trusted here, never the other way round
            import pickle

            return pickle.loads(what)
        if what not in self.callbacks:
            self.callbacks[what] = lambda *args, **named: self._call_back(what, args, named)
        return self.callbacks[what]

    def _call_back(self, number: int, args: Any, named: Any) -> Any:
        plain.send(self.outbox, plain.encode(("callback", number, args, named), self.stands))
        reply = self.serve(until_answer=True)
        if reply[0] == "raised":
            import builtins

            kind = getattr(builtins, reply[1][0], RuntimeError)
            raise kind(*reply[2])
        return reply[1]

    def serve(self, until_answer: bool = False) -> Any:
        """Answer until the grader has gone, or until it answers a callback."""
        while True:
            message = plain.receive(self.inbox)
            if not message:
                os._exit(0)
            try:
                operation, *given = plain.decode(message, self.meant)
                if operation == "answer" and until_answer:
                    return given
                reply = plain.encode(self._do(operation, given), self.stands)
            except plain.NotPlain as error:
                reply = plain.encode(("refused", str(error)))
            except BaseException as error:
                reply = plain.encode(said(error))
            plain.send(self.outbox, reply)

    def _do(self, operation: str, given: list[Any]) -> tuple[Any, ...]:
        if operation == "names":
            return "ok", {name: self._named(name) for name in given[0] if name in self.names}
        if operation == "call":
            return self._call(*given)
        if operation == "get":
            return "ok", getattr(*given)
        if operation == "set":
            setattr(*given)
            return "ok", None
        target, name, args = given
        if name == "iter":
            return "ok", iter(target)
        if name == "next":
            try:
                return "ok", next(target)
            except StopIteration:
                return ("end",)
        if name == "isinstance":
            return "ok", isinstance(args[0], target)
        return "ok", _OPERATIONS[name](target, *args)

    def _named(self, name: str) -> tuple[Any, ...] | None:
        value = self.names[name]
        if isinstance(value, type(sys)):
            return "module", value.__name__
        if isinstance(value, tuple):
            return "value", value
        try:
            plain.encode(value)
        except plain.NotPlain:
            return self.stands(value)
        return "value", value

    def _call(self, target: Any, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
        """The result, with those arguments that the call has changed: they are copies here."""
        held = [*args, *named.values()]
        before = [self._image(value) for value in held]
        value = target(*args, **named)
        if isinstance(target, type) and type(value).__module__ == "solution" and not _is_named(value):
            return "ok", _Made(value), []
        # What is returned too is not sent twice: a long list would be too long.
        changed = [
            (i,) if argument is value else (i, argument)
            for i, argument in enumerate(held)
            if before[i] is not None and self._image(argument) != before[i]
        ]
        return "ok", value, changed

    def _image(self, value: Any) -> bytes | None:
        if type(value) not in (list, dict, set):
            return None
        try:
            return plain.encode(value, self.stands)
        except plain.NotPlain:
            return b""


def _exit(manager: Any, kind: Any = None, arguments: Sequence[Any] = ()) -> bool:
    """The end of a `with`; the exception is made anew, for the grader has its own."""
    if kind is None:
        return bool(type(manager).__exit__(manager, None, None, None))
    try:
        error = kind(*arguments)
    except TypeError:  # a class that wants arguments of its own
        error = kind.__new__(kind)
    return bool(type(manager).__exit__(manager, kind, error, None))


_OPERATIONS: dict[str, Any] = {
    "len": len,
    "bool": bool,
    "str": str,
    "repr": repr,
    "getitem": lambda v, key: v[key],
    "setitem": lambda v, key, new: v.__setitem__(key, new),
    "delitem": lambda v, key: v.__delitem__(key),
    "delattr": delattr,
    "enter": lambda v: type(v).__enter__(v),
    "exit": _exit,
    **{name: getattr(_operator, name) for name in ("neg", "pos", "invert", "abs", "add", "sub", "mul", "truediv")},
    **{name: getattr(_operator, name) for name in ("floordiv", "mod", "pow", "matmul", "xor")},
    "and": _operator.and_,
    "or": _operator.or_,
}
"""Nothing that the tests' own values are compared with or computed from: `abs(result - expected)` must not be answered
by the program. The grader asks for arithmetic of the program's own objects."""


def serve(source: str, inbox: int, outbox: int, function: str | None) -> None:
    """Load the program and answer the grader."""
    try:
        names = load(source)
    except BaseException as error:
        plain.send(outbox, plain.encode(("unusable", *said(error)[1:])))
        return
    if function is not None and function not in names:
        try:
            names[function] = called(names, function)
        except BaseException:  # no such method: the grader is told that there is no such name
            names.pop(function, None)
    plain.send(outbox, plain.encode(("ready",)))
    Server(names, inbox, outbox).serve()


if TYPE_CHECKING:
    given: dict[str, Any] = {}

if __name__ == "__driver__":
    (call_all if given.pop("task") == "calls" else serve)(**given)
