"""Runs in the sandbox of the tests: they call the program, which runs in another sandbox, through a pipe.

The program's functions, classes and objects are stand-ins here. What comes back is plain data, or an object that can be
called and asked for attributes and items, and that equals nothing but itself: overriding `__eq__`, `__sub__` or
`__contains__` buys nothing, because the program is never shown what a result is compared with.
"""

from __future__ import annotations

import builtins
import os
import sys

from plaudit.rewards.sandbox.inside import plain

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing `typing` takes longer than most programs run
    from collections.abc import Callable
    from typing import Any

_MOST_TEXT = 300
_UNHEARD = "the program has ended, or a result could not be read"


class Gone(BaseException):
    """The program has ended, or its reply cannot be read. No `except Exception` of a test may catch it."""


class Unsupported(BaseException):
    """The test does something that cannot be done across the boundary."""


class Link:
    """The grader's end of the pipe."""

    def __init__(self, inbox: int, outbox: int, on_first: Callable[[], None]) -> None:
        self.inbox, self.outbox = inbox, outbox
        self.asked = False
        """whether a test has had anything from the program"""
        self._on_first = on_first
        self.remote: dict[int, Any] = {}
        self.errors: dict[str, type] = {}
        self.lent: list[Any] = []
        """functions of the tests that the program may call"""
        self.gone = False
        self.spoiled = False
        """whether a result of this test could not be read"""

    def touch(self) -> None:
        """A test has something from the program."""
        if not self.asked:
            self.asked = True
            self._on_first()

    def lost(self, why: str) -> Gone:
        """The end of all dealings with the program, whatever a test makes of the exception."""
        self.gone = True
        return Gone(why)

    def unreadable(self, why: str) -> Gone:
        """The end of this test; the next one may go better."""
        self.spoiled = True
        return Gone(why)

    def ask(self, operation: str, *given: Any) -> Any:
        """Let the program do something.

        Raises:
            Gone: it has ended; or what the program raised, by the names of its classes.
        """
        if self.gone:
            raise self.lost("the program has ended")
        try:
            message = plain.encode((operation, *given), self.stands)
        except plain.NotPlain as error:
            raise Unsupported(f"a value of the test cannot be passed on: {error}") from None
        try:
            plain.send(self.outbox, message)
        except OSError:
            raise self.lost("the program has ended") from None
        while True:
            reply = self.read()
            if reply[0] != "callback":
                return self.checked(reply)
            self._call_back(*reply[1:])

    def read(self) -> tuple[Any, ...]:
        """The next message of the program."""
        try:
            message = plain.receive(self.inbox)
        except plain.Malformed as error:
            raise self.lost(f"the program's reply is not understood: {error}") from None
        if not message:
            raise self.lost("the program has ended")
        try:
            reply = plain.decode(message, self.meant)
        except plain.Malformed as error:
            raise self.unreadable(f"the result cannot be read: {error}") from None
        if not isinstance(reply, tuple) or not reply or not isinstance(reply[0], str):
            raise self.lost("the program's reply is not understood")
        return reply

    def checked(self, reply: tuple[Any, ...]) -> Any:
        """The content of a reply."""
        match reply:
            case ("ok", *content):
                return content
            case ("end",):
                return None
            case ("raised", list(classes), list(arguments)):
                raise self.error(classes, arguments)
            case ("refused", why):
                raise self.unreadable(f"the result cannot be passed on: {str(why)[:_MOST_TEXT]}")
            case _:
                raise self.lost("the program's reply is not understood")

    def error(self, classes: list[Any], arguments: list[Any]) -> BaseException:
        """The exception that stands for the program's."""
        for name in classes:
            if name in self.errors:
                return _made(self.errors[name], arguments)
            kind = getattr(builtins, str(name), None)
            if isinstance(kind, type) and issubclass(kind, BaseException):
                # One that ends the grader or a loop of the tests must not come from the program.
                if not issubclass(kind, Exception) or issubclass(kind, (StopIteration, StopAsyncIteration)):
                    return RuntimeError(f"the program raised {kind.__name__}")
                return _made(kind, arguments)
        return RuntimeError("the program raised an exception")

    def stands(self, value: Any) -> tuple[Any, ...] | None:
        """What stands for a value of the tests in the program."""
        if isinstance(value, Remote):
            return "h", object.__getattribute__(value, "_number")
        if isinstance(value, type) and value in self.errors.values():
            return "h", value.number  # type: ignore[attr-defined]
        name = getattr(value, "__name__", None)
        if isinstance(name, str) and getattr(builtins, name, self) is value:
            return "b", name
        if callable(value) and not isinstance(value, type):
            if value not in self.lent:
                self.lent.append(value)
            return "k", self.lent.index(value)
        if type(value).__module__.partition(".")[0] in sys.stdlib_module_names:
            return _pickled(value)
        raise Unsupported(f"a {type(value).__name__} of the test cannot be passed to the program")

    def meant(self, stands: tuple[Any, ...]) -> Any:
        """What a special value of the program is here."""
        match stands:
            case ("h", int(number), str(kind), str(name), list(bases)):
                if number not in self.remote:
                    self.remote[number] = self._made(number, kind, name, bases)
                return self.remote[number]
            case _:
                raise plain.Malformed("a special value is not understood")

    def _made(self, number: int, kind: str, name: str, bases: list[Any]) -> Any:
        if kind != "class":
            return Remote(self, number, name)
        for base in bases:
            local = getattr(builtins, str(base), None)
            if isinstance(local, type) and issubclass(local, Exception):
                made = type(name, (local,), {"number": number})
                self.errors.setdefault(name, made)
                return made
        return RemoteClass(self, number, name)

    def _call_back(self, number: Any, args: Any, named: Any) -> None:
        if not isinstance(number, int) or not 0 <= number < len(self.lent):
            raise self.lost("the program's reply is not understood")
        try:
            reply: tuple[Any, ...] = ("answer", "ok", self.lent[number](*args, **named))
        except Exception as error:
            reply = ("answer", "raised", [type(error).__name__], [str(error)[:_MOST_TEXT]])
        plain.send(self.outbox, plain.encode(reply, self.stands))


def _pickled(value: Any) -> tuple[str, bytes]:
    import pickle

    try:
        return "p", pickle.dumps(value)
    except Exception as error:  # a generator, a lock: each kind of object has its own
        raise Unsupported(f"a {type(value).__name__} of the test cannot be passed to the program: {error}") from None


def _made(kind: type, arguments: list[Any]) -> BaseException:
    try:
        made = kind(*arguments)
    except TypeError:  # UnicodeDecodeError and the like want arguments of their own
        made = RuntimeError(f"the program raised {kind.__name__}")
    assert isinstance(made, BaseException)
    return made


class Remote:
    """An object of the program. It equals itself and nothing else, and no arithmetic is done with it."""

    __slots__ = ("_link", "_name", "_number")

    def __init__(self, link: Link, number: int, name: str) -> None:
        object.__setattr__(self, "_link", link)
        object.__setattr__(self, "_number", number)
        object.__setattr__(self, "_name", name)

    def __getattribute__(self, name: str) -> Any:
        if name[:2] == name[-2:] == "__" and name not in ("__name__", "__doc__", "__module__"):
            return object.__getattribute__(self, name)
        link: Link = object.__getattribute__(self, "_link")
        return _one(link.ask("get", self, name))

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
            yield _one(content)

    def __next__(self) -> Any:
        content = _link(self).ask("op", self, "next", ())
        if content is None:
            raise StopIteration
        return _one(content)

    def __getitem__(self, key: Any) -> Any:
        return _operate(self, "getitem", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        _operate(self, "setitem", key, value)

    def __delitem__(self, key: Any) -> None:
        _operate(self, "delitem", key)

    def __enter__(self) -> Any:
        return _operate(self, "enter")

    def __exit__(self, *_: object) -> bool:
        return _operate(self, "exit") is True

    def __str__(self) -> str:
        return str(_expected(_operate(self, "str"), str))

    def __repr__(self) -> str:
        return str(_expected(_operate(self, "repr"), str))


class RemoteClass(Remote):
    """A class of the program."""

    __slots__ = ()

    def __instancecheck__(self, value: Any) -> bool:
        return isinstance(value, Remote) and _operate(self, "isinstance", value) is True

    def __mro_entries__(self, _: Any) -> Any:
        raise Unsupported("a test cannot derive from a class of the program")


def _link(remote: Remote) -> Link:
    link = object.__getattribute__(remote, "_link")
    assert isinstance(link, Link)
    return link


def _one(content: Any) -> Any:
    if not content:
        raise TypeError("the program replied nothing")
    return content[0]


def _expected(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"the program replied a {type(value).__name__}, not a {kind.__name__}")
    return value


def _operate(remote: Remote, name: str, *args: Any) -> Any:
    return _one(_link(remote).ask("op", remote, name, args))


def _call(remote: Remote, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    link = _link(remote)
    link.touch()
    content = link.ask("call", remote, args, named)
    if len(content) != 2 or not isinstance(content[1], list):
        raise link.lost("the program's reply is not understood")
    held = [*args, *named.values()]
    # What a function changes in place it does not return. Else `f(values) == sorted(values)` would hold for a program
    # that empties the list.
    for change in content[1] if content[0] is None else ():
        match change:
            case (int(i), value) if 0 <= i < len(held) and type(value) is type(held[i]):
                _copy_into(held[i], value)
            case _:
                raise link.lost("the program's reply is not understood")
    return content[0]


def _copy_into(mine: Any, value: Any) -> None:
    if isinstance(mine, list):
        mine[:] = value
    elif isinstance(mine, (dict, set)):
        mine.clear()
        mine.update(value)


# -- the tests ----------------------------------------------------------------------------------------------------


def names_for(link: Link, wanted: list[str]) -> dict[str, Any]:
    """The program's names that the tests use, as values, stand-ins, or modules of our own."""
    found = _one(link.ask("names", wanted))
    names: dict[str, Any] = {}
    for name in wanted:
        match found.get(name) if isinstance(found, dict) else None:
            case ("value", value):
                names[name] = value
            case ("module", str(module)) if name == module.rpartition(".")[2] and _harmless(module):
                names[name] = sys.modules.get(module) or __import__(module, fromlist=["_"])
            case ("h", *_) as stands:
                names[name] = link.meant(stands)
            case _:
                continue
    if not all(isinstance(value, (Remote, type, type(sys))) for value in names.values()):
        link.touch()  # a plain value
    return names


def _harmless(module: str) -> bool:
    """unittest.mock has an object that equals everything."""
    return module.partition(".")[0] in sys.stdlib_module_names - {"unittest"}


def _message(error: BaseException) -> str:
    if isinstance(error, Gone):
        return str(error)[:_MOST_TEXT]
    try:
        text = str(error)
    except BaseException:  # the stand-in of an object whose program has ended
        text = ""
    return f"{type(error).__name__}: {text}"[:_MOST_TEXT] if text else type(error).__name__


def run(setup: str, entries: list[str], wanted: list[str], stop: bool, inbox: int, outbox: int, report: int) -> None:
    """Run the tests one by one, and say of each what came of it.

    Reports: "reading" before and "named" after the first words of the program, "asked" at the first call; then one of
    each test, passed, failed, unsupported or lost (the program has ended), and "done"; or at once unusable (the
    program) or broken (the tests). All are (name, number of the test, why).
    """

    def tell(what: str, number: int = -1, why: str = "") -> None:
        plain.send(report, plain.encode((what, number, why)))

    link = Link(inbox, outbox, lambda: tell("asked"))
    tell("reading")
    try:
        first = link.read()
        if first[0] != "ready":
            tell("unusable", why=_unusable(link, first))
            return
        names: dict[str, Any] = {"__name__": "tests", "__builtins__": builtins, **names_for(link, wanted)}
    except (Gone, Exception) as error:
        tell("unusable", why=_message(error))
        return
    tell("named")
    try:
        exec(compile(setup, "setup.py", "exec", dont_inherit=True), names)
    except Unsupported as error:
        tell("broken", why=str(error))
        return
    except ModuleNotFoundError as error:
        lent = "option site_packages lets tests import what is installed"
        tell("unusable" if link.asked else "broken", why=f"{_message(error)}; {lent}")
        return
    except BaseException as error:
        missing = isinstance(error, NameError) and error.name in wanted
        tell("unusable" if link.asked or missing or isinstance(error, Gone) else "broken", why=_message(error))
        return
    if link.gone or link.spoiled:
        tell("unusable", why=_UNHEARD)
        return
    for number, entry in enumerate(entries):
        state, why = _tested(link, number, entry, names)
        tell(state, number, why)
        if link.gone or state == "unsupported":
            return
        if stop and state == "failed":
            break
    tell("done")


def _unusable(link: Link, said: tuple[Any, ...]) -> str:
    match said:
        case (_, list(classes), list(arguments)):
            return _message(link.error(classes, arguments))
        case _:
            return "it cannot be loaded"


def _tested(link: Link, number: int, entry: str, names: dict[str, Any]) -> tuple[str, str]:
    link.spoiled = False
    try:
        exec(compile(entry, f"test_{number}.py", "exec", dont_inherit=True), names)
    except Unsupported as error:
        return "unsupported", str(error)
    except Gone as error:
        return ("lost" if link.gone else "failed"), str(error)
    except BaseException as error:
        return ("lost" if link.gone else "failed"), _message(error)
    # A bare `except` of the test may have caught either.
    if link.gone or link.spoiled:
        return ("lost" if link.gone else "failed"), _UNHEARD
    return "passed", ""


if TYPE_CHECKING:
    given: dict[str, Any] = {}

if __name__ == "__driver__":
    try:
        run(**given)
    except BrokenPipeError:  # nobody listens any more
        os._exit(1)
