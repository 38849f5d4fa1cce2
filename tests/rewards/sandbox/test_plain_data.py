"""Plain data over a pipe: what goes in comes out, and nothing that comes in can do harm."""

from __future__ import annotations

import datetime
import os
import random
import struct
import time
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from typing import Any

import pytest

from plaudit.rewards.sandbox.inside.plain import (
    MOST_BYTES,
    MOST_LEVELS,
    Frames,
    Malformed,
    NotPlain,
    decode,
    encode,
    framed,
    receive,
    send,
)

Point = namedtuple("Point", "x y")


class Colour(IntEnum):
    RED = 3


VALUES: list[Any] = [
    None, True, False, 0, -1, 127, 128, -129, 1 << 64, -(1 << 5000), 0.0, -0.0, 1e308, float("inf"), 1j,
    "", "a\0b", "ä♥\U0001f600", "\ud800", b"", b"\xff\0", [], (), {}, set(), frozenset(),
    [1, [2, (3, {"k": {4, 5}})]], {(1, "a"): None, 2.5: [True]}, frozenset({1, "a", frozenset()}),
    range(1, 9, 2), Decimal("1.50"), Fraction(1, 3), deque([1, 2]), datetime.date(2024, 2, 29),
    datetime.datetime(2024, 2, 29, 1, 2, 3, tzinfo=datetime.UTC), datetime.timedelta(days=1, microseconds=5),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda v: type(v).__name__)
def test_it_comes_back(value: Any) -> None:
    found = decode(encode(value))
    assert found == value
    assert type(found) is type(value)
    assert repr(found) == repr(value)  # the sign of zero, the order of a dict, bools that are no numbers


def test_subclasses_travel_as_what_they_are_made_of() -> None:
    for value, plain in (
        (Point(1, 2), (1, 2)),
        (Counter("aab"), {"a": 2, "b": 1}),
        (defaultdict(list, k=[1]), {"k": [1]}),
        (OrderedDict(a=1), {"a": 1}),
        (Colour.RED, 3),
        (bytearray(b"x"), b"x"),
    ):
        found = decode(encode(value))
        assert found == plain
        assert type(found) is type(plain)


def test_what_cannot_travel() -> None:
    deep: Any = 1
    for _ in range(MOST_LEVELS + 1):
        deep = [deep]
    endless: list[Any] = []
    endless.append(endless)
    double: Any = []
    for _ in range(60):
        double = [double, double]
    for value, why in (
        (object(), "a object is no plain data"),
        (len, "is no plain data"),
        (deep, "nested deeper than 100 levels"),
        (endless, "nested deeper"),
        (double, "more than 200000 values"),
        ("x" * (MOST_BYTES + 1), "larger than 8 MiB"),
        (["x" * (MOST_BYTES // 2)] * 2, "larger than 8 MiB"),
        (1 << (8 * MOST_BYTES + 8), "larger than 8 MiB"),
    ):
        with pytest.raises(NotPlain, match=why):
            encode(value)


def test_specials_need_somebody_who_knows_them() -> None:
    data = encode([object()], lambda value: ("object", 7))
    assert decode(data, lambda stands: stands) == [("object", 7)]
    with pytest.raises(Malformed, match="not expected"):
        decode(data)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"q", b"i", b"i\0\0\0\x05x", b"s\xff\xff\xff\xffx", b"l\xff\xff\xff\xff", b"NN", b"f1234567",
        b"s\0\0\0\1\xff",
        b"d\0\0\0\1l\0\0\0\0N",
        b"e\0\0\0\1l\0\0\0\0", b"vN", b"vt\0\0\0\0", b"vt\0\0\0\1s\0\0\0\2os", b"xN",
        *(
            b"v" + encode(made)
            for made in [
                ("builtins.range", 1, 0, 0), ("fractions.Fraction", 1, 0), ("fractions.Fraction", 1, 1 << 20_000),
                ("decimal.Decimal", "words"), ("decimal.Decimal", "1" * 20_000), ("os.system", "true"),
                ("datetime.date", []),
            ]
        ),
        b"l\0\0\0\1" * 5000 + b"N",
    ],
)  # fmt: skip
def test_bytes_that_are_no_value(data: bytes) -> None:
    with pytest.raises(Malformed):
        decode(data)


def test_any_bytes_at_all_are_a_value_or_malformed() -> None:
    draw = random.Random(0)
    words = [encode(v) for v in VALUES]
    seen = {"value": 0, "malformed": 0}
    for _ in range(3000):
        data = bytearray(draw.choice(words) + draw.choice(words))[: draw.randrange(1, 60)]
        for _ in range(draw.randrange(4)):
            data[draw.randrange(len(data))] = draw.choice(b"NTFisfbcltezdvx\0\1\2\xff")
        try:
            decode(bytes(data), lambda stands: stands)
            seen["value"] += 1
        except Malformed:
            seen["malformed"] += 1
    assert min(seen.values()) > 20


def test_keys_that_collide_are_refused_at_once() -> None:
    modulus = (1 << 61) - 1
    for data in (
        b"d" + struct.pack(">I", 50_000) + b"".join(encode(i * modulus) + b"N" for i in range(50_000)),
        b"e" + struct.pack(">I", 50_000) + b"".join(encode((i * modulus, 1)) for i in range(50_000)),
    ):
        start = time.process_time()
        with pytest.raises(Malformed, match="same hash"):
            decode(data)
        assert time.process_time() - start < 5
    many = {i: str(i) for i in range(20_000)}
    assert decode(encode(many)) == many


def test_messages_over_a_pipe() -> None:
    inbox, outbox = os.pipe()
    try:
        send(outbox, b"first")
        send(outbox, b"")
        os.write(outbox, framed(b"cut")[:-1])
        os.close(outbox)
        assert receive(inbox) == b"first"
        assert receive(inbox) == b""
        with pytest.raises(Malformed, match="cut off"):
            receive(inbox)
        assert receive(inbox) is None
    finally:
        os.close(inbox)
    frames = Frames()
    whole = framed(b"one") + framed(b"two")
    assert [m for i in range(len(whole)) for m in frames.feed(whole[i : i + 1])] == [b"one", b"two"]
    with pytest.raises(Malformed, match="too long"):
        frames.feed(struct.pack(">I", MOST_BYTES + 1))
