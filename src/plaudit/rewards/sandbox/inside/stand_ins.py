"""Stand-ins for what the program has, in the sandbox of the tests.

What comes back from the program is plain data, or an object that can be called and asked for attributes and items, and
that equals nothing but itself: overriding `__eq__`, `__sub__` or `__contains__` buys nothing, because the program is
never shown what a result is compared with. Only what the tests compute from its own objects alone it computes itself.
"""

from __future__ import annotations

import builtins
import sys

from plaudit.rewards.sandbox.inside import statements

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing `typing` takes longer than most programs run
    from collections.abc import Callable
    from typing import Any

    from plaudit.rewards.sandbox.inside.grader import Link

_BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor")
_UNARY = ("neg", "pos", "invert", "abs")
_MOST_TEXT = 300


class Gone(BaseException):
    """The program has ended, or its reply cannot be read. No `except Exception` of a test may catch it."""


class Unsupported(BaseException):
    """The test does something that cannot be done across the boundary."""


class Remote:
    """An object of the program. It equals itself and nothing else; arithmetic it does with the program's objects."""

    __slots__ = ("_link", "_name", "_number")

    def __init__(self, link: Link, number: int, name: str) -> None:
        object.__setattr__(self, "_link", link)
        object.__setattr__(self, "_number", number)
        object.__setattr__(self, "_name", name)

    def __getattribute__(self, name: str) -> Any:
        if name[:2] == name[-2:] == "__" and name not in ("__name__", "__doc__", "__module__"):
            return object.__getattribute__(self, name)
        link: Link = object.__getattribute__(self, "_link")
        return only(link.ask("get", self, name))

    def __setattr__(self, name: str, value: Any) -> None:
        _link(self).ask("set", self, name, value)

    def __delattr__(self, name: str) -> None:
        _operate(self, "delattr", name)

    def __call__(self, *args: Any, **named: Any) -> Any:
        return _call(self, args, named)

    def __bool__(self) -> bool:
        return _operate(self, "bool") is True

    def __len__(self) -> int:
        return int(_expected(_operate(self, "len"), int))

    def __iter__(self) -> Any:
        iterator = _operate(self, "iter")
        while True:
            content = _link(self).ask("op", iterator, "next", ())
            if content is None:
                return
            yield only(content)

    def __next__(self) -> Any:
        content = _link(self).ask("op", self, "next", ())
        if content is None:
            raise StopIteration
        return only(content)

    def __getitem__(self, key: Any) -> Any:
        return _operate(self, "getitem", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        _operate(self, "setitem", key, value)

    def __delitem__(self, key: Any) -> None:
        _operate(self, "delitem", key)

    def __enter__(self) -> Any:
        return _operate(self, "enter")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
        if kind is None or error is None:
            _operate(self, "exit")
            return False
        if not issubclass(kind, Exception):  # the end of the test, or of the program
            return False
        try:
            held_back = _operate(self, "exit", _handed(_link(self), kind), _plain_arguments(error)) is True
        except Exception:
            if issubclass(kind, AssertionError):
                return False  # what the program raises must not take its place
            raise
        # An exception that the program provokes, and holds back, must not spare it the assertions behind.
        mine = not issubclass(kind, AssertionError)
        return mine and held_back and statements.holds_no_check(_link(self).texts, sys._getframe(1))

    def __str__(self) -> str:
        return str(_expected(_operate(self, "str"), str))

    def __repr__(self) -> str:
        return str(_expected(_operate(self, "repr"), str))


class RemoteClass(Remote):
    """A class of the program."""

    __slots__ = ()

    def __instancecheck__(self, value: Any) -> bool:
        return isinstance(value, (Remote, Named)) and _operate(self, "isinstance", value) is True

    def __mro_entries__(self, _: Any) -> Any:
        raise Unsupported("a test cannot derive from a class of the program")


class Named(tuple):  # type: ignore[type-arg]
    """A named tuple of the program: its values are here, and equal what tuples equal; its methods stay there."""

    _link: Link
    _number: int

    def __new__(cls, values: list[Any], link: Link, number: int, fields: list[str]) -> Named:
        made = tuple.__new__(cls, values)
        vars(made).update(zip(fields, values, strict=True))
        vars(made).update(_fields=tuple(fields), _link=link, _number=number)  # whatever the fields are called
        return made

    def __getattr__(self, name: str) -> Any:
        if name[:2] == name[-2:] == "__":
            raise AttributeError(name)
        return only(self._link.ask("get", self, name))

    def __repr__(self) -> str:
        return str(_expected(_operate(self, "repr"), str))


def _link(remote: Remote | Named) -> Link:
    link: Link = object.__getattribute__(remote, "_link")
    return link


def _handed(link: Link, kind: type[BaseException]) -> type[BaseException]:
    """The class as the program knows it, or the nearest one that it knows."""
    known = [*link.errors.values(), *(v for v in vars(builtins).values() if isinstance(v, type))]
    return next(each for each in kind.__mro__ if each in known)


def _plain_arguments(error: BaseException) -> list[Any]:
    return [a if isinstance(a, (float, bool, type(None))) or _is_short(a) else _brief(a) for a in error.args[:4]]


def _is_short(value: Any) -> bool:
    return isinstance(value, int) and value.bit_length() < 64


def _brief(value: Any) -> str:
    try:
        return str(value)[:_MOST_TEXT]
    except ValueError:  # a number of many digits
        return type(value).__name__


def only(content: Any) -> Any:
    """What a reply holds."""
    if not content:
        raise TypeError("the program replied nothing")
    return content[0]


def _expected(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"the program replied a {type(value).__name__}, not a {kind.__name__}")
    return value


def _operate(remote: Remote | Named, name: str, *args: Any) -> Any:
    return only(_link(remote).ask("op", remote, name, args))


def _call(remote: Remote, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    link = _link(remote)
    link.touch()
    content = link.ask("call", remote, args, named)
    if len(content) != 2 or not isinstance(content[1], list):
        raise link.lost("the program's reply is not understood")
    value, changes = content
    held = [*args, *named.values()]
    # What a function changes in place it does not return, unless nobody looks at that. Else
    # `f(values) == sorted(values)` would hold for a program that empties the list.
    if value is not None and changes and not statements.result_is_dropped(link.texts, sys._getframe(2)):
        return value
    for change in changes:
        match (*change, value)[:2] if isinstance(change, tuple) else ():
            case (int(i), new) if 0 <= i < len(held) and type(new) is type(held[i]):
                _copy_into(held[i], new)
            case _:
                raise link.lost("the program's reply is not understood")
    return value


def _copy_into(mine: Any, value: Any) -> None:
    if isinstance(mine, list):
        mine[:] = value
    elif isinstance(mine, (dict, set)):
        mine.clear()
        mine.update(value)


def _combined(name: str, one: Any, other: Any) -> Any:
    """What the program makes of two of its objects, or of one and a factor of the tests: that must be an object again.

    A difference from an expected value is not asked for: it would be nothing.
    """
    ours = [each for each in (one, other) if not isinstance(each, (Remote, Named))]
    remote = one if isinstance(one, (Remote, Named)) else other
    if ours:
        factor = name in ("mul", "truediv") or (name == "add" and ours[0] == 0)  # `sum` begins with 0
        if isinstance(remote, Named) or type(ours[0]) not in (int, float) or not factor:
            return NotImplemented
    value = only(_link(remote).ask("op", one, name, (other,)))
    if ours and not isinstance(value, (Remote, Named)):
        raise TypeError(f"the program replied a {type(value).__name__}, not an object")
    return value


def _method(name: str, reflected: bool) -> Callable[[Any, Any], Any]:
    if reflected:
        return lambda self, other: _combined(name, other, self)
    return lambda self, other: _combined(name, self, other)


def _unary(name: str) -> Callable[[Any], Any]:
    return lambda self: _operate(self, name)


for _name in _BINARY:
    setattr(Remote, f"__{_name}__", _method(_name, False))
    setattr(Remote, f"__r{_name}__", _method(_name, True))
for _name in _UNARY:
    setattr(Remote, f"__{_name}__", _unary(_name))
    setattr(Named, f"__{_name}__", _unary(_name))


def _added(self: Named, other: Any) -> Any:
    return _combined("add", self, other) if isinstance(other, (Remote, Named)) else tuple.__add__(self, other)


Named.__add__ = _added  # type: ignore[assignment]
for _name in _BINARY[1:]:
    if _name != "mul":
        setattr(Named, f"__{_name}__", _method(_name, False))
