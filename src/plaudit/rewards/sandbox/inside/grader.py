"""Runs in the sandbox of the tests: they call the program, which runs in another sandbox, through a pipe.

The program's functions, classes and objects are stand-ins here (`stand_ins`).
"""

from __future__ import annotations

import builtins
import os
import sys

from plaudit.rewards.sandbox.inside import plain
from plaudit.rewards.sandbox.inside.stand_ins import Gone, Named, Remote, RemoteClass, Unsupported, only

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing `typing` takes longer than most programs run
    from collections.abc import Callable
    from typing import Any

_MOST_TEXT = 300
_SETUP = "setup.py"
_UNHEARD = "the program has ended, or a result could not be read"


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
        self.spoiled = ""
        """why this test has failed, whatever it makes of that: a result could not be read"""
        self.texts: dict[str, str] = {}
        """of the tests, by the names of their files"""

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
        self.spoiled = _UNHEARD
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
        if isinstance(value, (Remote, Named)):
            return "h", object.__getattribute__(value, "_number")
        if isinstance(value, tuple):
            return None  # a named tuple of the tests is a tuple there
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
            case ("n", int(number), list(fields), list(values)) if len(fields) == len(values):
                if not all(isinstance(field, str) for field in fields):
                    raise plain.Malformed("a special value is not understood")
                return Named(values, self, number, fields)
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
            if isinstance(error, AssertionError):  # the program must not catch it
                self.spoiled = self.spoiled or _message(error)
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


# -- the tests ----------------------------------------------------------------------------------------------------


def names_for(link: Link, wanted: list[str]) -> dict[str, Any]:
    """The program's names that the tests use, as values, stand-ins, or modules of our own."""
    found = only(link.ask("names", wanted))
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
    link.texts = {_SETUP: setup, **{_file(number): entry for number, entry in enumerate(entries)}}
    try:
        exec(compile(setup, _SETUP, "exec", dont_inherit=True), names)
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
        tell("unusable", why=link.spoiled or _UNHEARD)
        return
    for number, entry in enumerate(entries):
        state, why = _tested(link, number, entry, names)
        tell(state, number, why)
        if link.gone or state == "unsupported":
            return
        if stop and state == "failed":
            break
    tell("done")


def _file(number: int) -> str:
    return f"test_{number}.py"


def _unusable(link: Link, said: tuple[Any, ...]) -> str:
    match said:
        case (_, list(classes), list(arguments)):
            return _message(link.error(classes, arguments))
        case _:
            return "it cannot be loaded"


def _tested(link: Link, number: int, entry: str, names: dict[str, Any]) -> tuple[str, str]:
    link.spoiled = ""
    try:
        exec(compile(entry, _file(number), "exec", dont_inherit=True), names)
    except Unsupported as error:
        return "unsupported", str(error)
    except Gone as error:
        return ("lost" if link.gone else "failed"), str(error)
    except BaseException as error:
        return ("lost" if link.gone else "failed"), _message(error)
    # A bare `except` of the test may have caught either.
    if link.gone or link.spoiled:
        return ("lost" if link.gone else "failed"), link.spoiled or _UNHEARD
    return "passed", ""


if TYPE_CHECKING:
    given: dict[str, Any] = {}

if __name__ == "__driver__":
    try:
        run(**given)
    except BrokenPipeError:  # nobody listens any more
        os._exit(1)
