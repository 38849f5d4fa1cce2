"""Values as plain bytes, for pipes whose other end is not trusted.

Only exact built-in types travel (and a few value types of the standard library, which are made anew at the other end
from numbers and text). Nothing that is read here runs code of the other side, and every length is checked before
memory is taken: pickle and marshal promise neither.
"""

from __future__ import annotations

import os
import sys
from _struct import pack, unpack_from

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing `typing` takes longer than most programs run
    from collections.abc import Callable
    from typing import Any

    Other = Callable[[Any], tuple[Any, ...] | None]
    """Gives a plain tuple that stands for a value that is not plain, or None."""

MOST_BYTES = 8 << 20
"""Longest message."""
MOST_VALUES = 200_000
"""Values in one message: an empty set has five bytes here and hundreds in memory."""
MOST_ALIKE = 64
"""Keys with the same hash in one dict or set: each is compared with all others, and numbers can be made so."""
MOST_DIGITS = 10_000
"""Longest text, and bits of a number, from which a value is made: reducing a fraction of millions takes hours."""
MOST_LEVELS = 100
"""Deepest nesting."""


class NotPlain(Exception):
    """The value cannot travel; the message says why."""


class Malformed(Exception):
    """The bytes are not what `encode` writes."""


class Encoder:
    """Turns one value into bytes."""

    def __init__(self, other: Other | None = None) -> None:
        self.parts: list[bytes] = []
        self.size = self.values = 0
        self.other = other

    def add(self, data: bytes) -> None:
        """Append, unless the message becomes too long."""
        self.size += len(data)
        if self.size > MOST_BYTES:
            raise NotPlain(f"it is larger than {MOST_BYTES >> 20} MiB")
        self.parts.append(data)

    def value(self, value: Any, level: int = 0) -> None:
        """Append a value."""
        self.values += 1
        if self.values > MOST_VALUES:
            raise NotPlain(f"it has more than {MOST_VALUES} values")
        if level > MOST_LEVELS:
            raise NotPlain(f"it is nested deeper than {MOST_LEVELS} levels")
        if value is None or value is True or value is False:
            self.add(b"N" if value is None else b"T" if value else b"F")
        elif not self._scalar(value) and not self._named(value, level) and not self._container(value, level):
            self._special(value, level)

    def _block(self, tag: bytes, data: bytes) -> None:
        if len(data) > MOST_BYTES:
            raise NotPlain(f"it is larger than {MOST_BYTES >> 20} MiB")
        self.add(tag + pack(">I", len(data)))
        self.add(data)

    # Subclasses travel as what they are made of: a Counter is a dict, a named tuple is a tuple unless `other` knows it.
    def _scalar(self, value: Any) -> bool:
        if isinstance(value, int):
            self._block(b"i", int.to_bytes(value, int.bit_length(value) // 8 + 1, "big", signed=True))
        elif isinstance(value, str):
            self._block(b"s", str.encode(value, "utf-8", "surrogatepass"))
        elif isinstance(value, float):
            self.add(b"f" + pack(">d", value))
        elif isinstance(value, (bytes, bytearray)):
            self._block(b"b", bytes(value))
        elif isinstance(value, complex):
            self.add(b"c" + pack(">dd", value.real, value.imag))
        else:
            return False
        return True

    def _named(self, value: Any, level: int) -> bool:
        if self.other is None or type(value) is tuple or not isinstance(value, tuple):
            return False
        stands = self.other(value)
        if stands is not None:
            self.add(b"x")
            self.value(stands, level + 1)
        return stands is not None

    def _container(self, value: Any, level: int) -> bool:
        if isinstance(value, dict):
            items = list(dict.items(value))
            self.add(b"d" + pack(">I", len(items)))
            for key, held in items:
                self.value(key, level + 1)
                self.value(held, level + 1)
            return True
        for tag, kind in ((b"l", list), (b"t", tuple), (b"e", set), (b"z", frozenset)):
            if isinstance(value, kind):
                elements: list[Any] = list(kind.__iter__(value))  # type: ignore[arg-type]
                self.add(tag + pack(">I", len(elements)))
                for element in elements:
                    self.value(element, level + 1)
                return True
        return False

    def _special(self, value: Any, level: int) -> None:
        kind = type(value)
        name = f"{kind.__module__}.{kind.__qualname__}"
        entry = _VALUES.get(name)
        if entry is not None and getattr(sys.modules.get(kind.__module__), kind.__name__, None) is kind:
            self.add(b"v")
            self.value((name, *entry(value)), level + 1)
            return
        if kind.__module__ == "numpy" and hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
            self.value(value.item(), level + 1)
            return
        stands = None if self.other is None else self.other(value)
        if stands is None:
            raise NotPlain(f"a {kind.__qualname__[:80]} is no plain data")
        self.add(b"x")
        self.value(stands, level + 1)


_VALUES: dict[str, Callable[[Any], tuple[Any, ...]]] = {
    "builtins.range": lambda v: (v.start, v.stop, v.step),
    "decimal.Decimal": lambda v: (str(v),),
    "fractions.Fraction": lambda v: (v.numerator, v.denominator),
    "collections.deque": lambda v: (list(v),),
    "datetime.date": lambda v: (v.year, v.month, v.day),
    "datetime.datetime": lambda v: (v.isoformat(),),
    "datetime.timedelta": lambda v: (v.days, v.seconds, v.microseconds),
}
"""Value types of the standard library: name → what they are made from."""


def encode(value: Any, other: Other | None = None) -> bytes:
    """The bytes of a value.

    Raises:
        NotPlain: it holds something else than plain data, is too long or too deep.
    """
    encoder = Encoder(other)
    try:
        encoder.value(value)
    except RecursionError:
        raise NotPlain("it is nested too deeply") from None
    return b"".join(encoder.parts)


class _Decoder:
    def __init__(self, data: bytes, special: Callable[[tuple[Any, ...]], Any] | None) -> None:
        self.data, self.at, self.special, self.values = data, 0, special, 0

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise Malformed("it is cut off")
        self.at += size
        return self.data[self.at - size : self.at]

    def length(self) -> int:
        (size,) = unpack_from(">I", self.take(4))
        if size > len(self.data) - self.at:  # every element has a byte of its own at least
            raise Malformed("it is cut off")
        return int(size)

    def value(self, level: int = 0) -> Any:
        self.values += 1
        if self.values > MOST_VALUES:
            raise Malformed("it has too many values")
        if level > MOST_LEVELS + 2:
            raise Malformed("it is nested too deeply")
        tag = self.take(1)
        if tag in _CONSTANTS:
            return _CONSTANTS[tag]
        if tag == b"i":
            return int.from_bytes(self.take(self.length()), "big", signed=True)
        if tag == b"s":
            return self.take(self.length()).decode("utf-8", "surrogatepass")
        if tag == b"f":
            return unpack_from(">d", self.take(8))[0]
        if tag == b"b":
            return self.take(self.length())
        if tag == b"c":
            return complex(*unpack_from(">dd", self.take(16)))
        if tag in _CONTAINERS:
            elements = [self.value(level + 1) for _ in range(self.length())]
            return _CONTAINERS[tag](elements if tag in (b"l", b"t") else _different(elements))
        if tag == b"d":
            flat = [self.value(level + 1) for _ in range(2 * self.length())]
            return dict(zip(_different(flat[::2]), flat[1::2], strict=True))
        return self._made(tag, level)

    def _made(self, tag: bytes, level: int) -> Any:
        if tag not in (b"v", b"x"):
            raise Malformed("there is no such kind of value")
        stands = self.value(level + 1)
        if not isinstance(stands, tuple) or not stands:
            raise Malformed("a special value is no tuple")
        if tag == b"x":
            if self.special is None:
                raise Malformed("a special value is not expected here")
            return self.special(stands)
        name, *given = stands
        if name not in _VALUES:
            raise Malformed("there is no such kind of value")
        for each in given:
            if (
                len(each) if isinstance(each, str) else each.bit_length() if isinstance(each, int) else 0
            ) > MOST_DIGITS:
                raise Malformed("a number is too long")
        module, _, kind = name.rpartition(".")
        made = getattr(__import__(module), kind)
        return made.fromisoformat(*given) if kind == "datetime" else made(*given)


_CONSTANTS: dict[bytes, Any] = {b"N": None, b"T": True, b"F": False}
_CONTAINERS: dict[bytes, Callable[[list[Any]], Any]] = {b"l": list, b"t": tuple, b"e": set, b"z": frozenset}


def _different(keys: list[Any]) -> list[Any]:
    """The keys, unless so many have one hash that making a dict of them takes for ever."""
    many: dict[int, int] = {}
    for key in keys if len(keys) > MOST_ALIKE else ():
        found = many[hash(key)] = many.get(hash(key), 0) + 1
        if found > MOST_ALIKE:
            raise Malformed("too many keys have the same hash")
    return keys


def decode(data: bytes, special: Callable[[tuple[Any, ...]], Any] | None = None) -> Any:
    """The value of some bytes.

    Args:
        data: from anybody.
        special: makes what stands for a value that is not plain.

    Raises:
        Malformed: they are not what `encode` writes.
    """
    decoder = _Decoder(data, special)
    try:
        value = decoder.value()
    except Malformed:
        raise
    except (ArithmeticError, LookupError, MemoryError, RecursionError, TypeError, ValueError) as error:
        raise Malformed(f"it cannot be read: {type(error).__name__}") from None  # an unhashable key, a Decimal of words
    if decoder.at != len(data):
        raise Malformed("something follows")
    return value


def framed(data: bytes) -> bytes:
    """The message with its length before it."""
    return pack(">I", len(data)) + data


def send(fd: int, data: bytes) -> None:
    """Write a message to a pipe."""
    rest = memoryview(framed(data))
    while rest:
        rest = rest[os.write(fd, rest) :]


def receive(fd: int) -> bytes | None:
    """Read a message from a pipe; None where the other end has closed it.

    Raises:
        Malformed: it is longer than allowed, or cut off.
    """
    head = _exactly(fd, 4)
    if not head:
        return None
    (size,) = unpack_from(">I", head)
    if size > MOST_BYTES:
        raise Malformed("it is too long")
    return _exactly(fd, size) if size else b""


def _exactly(fd: int, size: int) -> bytes:
    parts: list[bytes] = []
    while size:
        part = os.read(fd, min(size, 1 << 16))
        if not part:
            if parts:
                raise Malformed("it is cut off")
            return b""
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


class Frames:
    """Takes messages out of what comes through a pipe, piece by piece."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are complete now.

        Raises:
            Malformed: one is longer than allowed.
        """
        self._waiting += data
        found: list[bytes] = []
        while len(self._waiting) >= 4:
            (size,) = unpack_from(">I", self._waiting)
            if size > MOST_BYTES:
                raise Malformed("it is too long")
            if len(self._waiting) < 4 + size:
                break
            found.append(bytes(self._waiting[4 : 4 + size]))
            del self._waiting[: 4 + size]
        return found
