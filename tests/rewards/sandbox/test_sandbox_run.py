# ruff: noqa: E501 - programs, many of them in one line
"""Ordinary programs in the sandboxes of this machine, and what limits do to them."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from struct import pack

import pytest

from plaudit.errors import ConfigError, RewardError
from plaudit.rewards.sandbox import bubblewrap as module
from plaudit.rewards.sandbox.base import BadTests, Called, Sandbox, TestCode
from plaudit.rewards.sandbox.bubblewrap import BubblewrapSandbox, _fixed
from plaudit.rewards.sandbox.interpreter import Interpreter
from plaudit.rewards.sandbox.limits import Limits
from plaudit.rewards.sandbox.open import open_sandbox
from plaudit.rewards.sandbox.process import ProcessSandbox
from plaudit.rewards.sandbox.supervise import Member

SHORT = Limits(cpu_seconds=1, wall_seconds=2)


@pytest.mark.parametrize(
    ("source", "stdin", "stdout"),
    [
        ("print(int(input()) + int(input()))", "3\n4\n", "7\n"),
        ("import sys\nprint(sum(map(int, sys.stdin.read().split())))", "1 2 3", "6\n"),
        ("import sys\nfor line in sys.stdin: print(line.strip()[::-1])", "ab\ncd\n", "ba\ndc\n"),
        ("for line in open('/dev/stdin'): print(line.strip(), flush=True)\nopen('/dev/stdout', 'w').write('end')", "ab\n", "ab\nend"),
        ("print(open(0).read().upper())", "straße ♥ \U0001f600", "STRASSE ♥ \U0001f600\n"),
        ("def main(): print('main')\nif __name__ == '__main__': main()", "", "main\n"),
        ("import sys\nprint('done')\nsys.exit(0)", "", "done\n"),
        ("print('done')\nexit()", "", "done\n"),
        ("print('done')\nquit(0)", "", "done\n"),
        ("import atexit\natexit.register(print, 'late')\nprint('early')", "", "early\nlate\n"),
        ("out = open(1, 'w')\nout.write('not closed')\nclass K:\n    def f(self): return out\nk = K()", "", "not closed"),
        ("import sys, io\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer, 'utf-8')\nprint('ä')", "", "ä\n"),
        ("import sys\nprint('x')\nsys.stdout.flush()\nsys.stdout.close()", "", "x\n"),
        ("import threading\nthreading.Timer(0.05, print, ['later']).start()", "", "later\n"),
        ("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: 'int'\nprint(P(3))", "", "P(x=3)\n"),
        ("import sys, warnings\nwarnings.warn('noise')\nsys.stderr.write('noise')\nprint(1)", "", "1\n"),
        ("import collections, heapq, math, re, itertools, functools, bisect, decimal\nprint(math.gcd(4, 6))", "", "2\n"),
        ("import multiprocessing as m\nif __name__ == '__main__':\n    with m.Pool(2) as p: print(p.map(abs, [-1, 2]))", "", "[1, 2]\n"),
        ("import subprocess\nprint(subprocess.check_output(['echo', 'hi']).decode().strip())", "", "hi\n"),
        ("import tempfile\nwith tempfile.TemporaryFile() as f: f.write(b'x'); print(f.tell())", "", "1\n"),
        ("print(list({'b', 'a', 'd', 'c'}) == list({'b', 'a', 'd', 'c'}), hash('x') % 1000 == hash('x') % 1000)", "", "True True\n"),
    ],
)  # fmt: skip
def test_what_programs_do(sandbox: Sandbox, source: str, stdin: str, stdout: str) -> None:
    outcome = sandbox.run(source, stdin.encode())
    assert (outcome.stdout.decode(), outcome.ended, outcome.code) == (stdout, "exit", 0), outcome
    assert outcome.reason == ""
    assert not outcome.cut


def test_the_order_of_sets_is_the_same_each_time(sandbox: Sandbox) -> None:
    runs = {sandbox.run("print({str(i) for i in range(50)}, hash('plaudit'))").stdout for _ in range(3)}
    assert len(runs) == 1


def test_files_and_failures(sandbox: Sandbox) -> None:
    outcome = sandbox.run(
        "from helper import x\nprint(x, open('data/a.txt').read())", files={"helper.py": b"x = 7", "data/a.txt": b"A"}
    )
    assert outcome.stdout == b"7 A\n"
    failed = sandbox.run("1 / 0")
    assert (failed.ended, failed.code, failed.reason) == ("exit", 1, "it ended with exit code 1")
    assert failed.stderr.endswith(b"ZeroDivisionError: division by zero\n")
    assert sandbox.run("import sys; sys.exit(3)").code == 3
    assert b"SyntaxError" in sandbox.run("def f(:").stderr
    killed = sandbox.run("import os\nos.kill(os.getpid(), 15)")
    assert (killed.ended, killed.code, killed.reason) == ("signal", 15, "it was ended by signal 15")
    for name in ("../x", "/x", ""):
        with pytest.raises(ValueError, match="no path below"):
            sandbox.run("pass", files={name: b""})


def test_large_input_and_output(sandbox: Sandbox) -> None:
    data = b"0123456789abcdef\n" * 200_000
    outcome = sandbox.run("import sys\nd = sys.stdin.read()\nprint(len(d))\nsys.stdout.write(d[:60_000])", data)
    assert outcome.stdout.startswith(b"3400000\n0123")
    assert len(outcome.stdout) == 60_008
    long = sandbox.run("print('x' * 100_000)", limits=Limits(output_kib=1))
    assert (long.ended, long.cut, len(long.stdout), long.reason) == ("output", True, 1024, "it printed too much")
    noisy = sandbox.run("import sys\nsys.stderr.write('x' * 5_000)\nprint('fine')", limits=Limits(output_kib=1))
    assert (noisy.ended, noisy.cut, len(noisy.stderr), noisy.stdout) == ("exit", True, 1024, b"fine\n")


def test_time(sandbox: Sandbox) -> None:
    busy = sandbox.run("while True: pass", limits=Limits(cpu_seconds=0.3))
    assert (busy.ended, busy.reason) == ("cpu", "it ran out of computing time")
    assert 0.3 < busy.cpu_seconds < 2
    asleep = sandbox.run("import time\ntime.sleep(60)", limits=Limits(wall_seconds=0.3))
    assert (asleep.ended, asleep.reason) == ("wall", "it ran out of time")
    assert 0.3 < asleep.wall_seconds < 5
    honest = sandbox.run("import time\nt = time.process_time()\nwhile time.process_time() < t + 0.2: pass")
    assert honest.reason == ""
    assert honest.cpu_seconds >= 0.2


def test_memory(bubblewrap: Sandbox) -> None:
    limits = Limits(memory_mib=100)
    assert bubblewrap.run("x = bytearray(60 << 20)\nprint('fits')", limits=limits).stdout == b"fits\n"
    assert b"MemoryError" in bubblewrap.run("x = bytearray(600 << 20)", limits=limits).stderr


def test_limits_are_checked() -> None:
    assert Limits().wall == 32
    assert Limits(cpu_seconds=1, wall_seconds=9).wall == 9
    with pytest.raises(ValueError, match="cpu_seconds is 0, must be positive"):
        Limits(cpu_seconds=0)
    with pytest.raises(ValueError, match="wall_seconds is nan"):
        Limits(wall_seconds=float("nan"))
    with pytest.raises(ValueError, match="must be 3 or more"):
        Limits(processes=2)


def test_calls(sandbox: Sandbox) -> None:
    source = "calls = 0\ndef f(*args):\n    global calls\n    calls += 1\n    return [calls, *args]\n"
    given = [(1, "ä"), ([None, True], 1.5), ({"k": (1, 2)}, {3}, b"\0"), (1 << 200,)]
    assert sandbox.call(source, "f", given) == [Called("returned", [i + 1, *args]) for i, args in enumerate(given)]
    method = (
        "class Solution:\n    def add(self, a: List[int], b: Optional[int]) -> int:\n        return math.gcd(a[0], b)"
    )
    assert sandbox.call(method, "add", [([4], 6)]) == [Called("returned", 2)]
    raised = sandbox.call("def f(x): return {}[x]", "f", [("key",), ("other",)])
    assert raised == [Called("raised", why="KeyError: key"), Called("raised", why="KeyError: other")]
    (missing,) = sandbox.call("def g(): pass", "f", [()])
    assert missing.why == "NameError: name 'f' is not defined"
    unusable = sandbox.call("import nothing_of_that_name", "f", [(), ()])
    assert [c.state for c in unusable] == ["raised", "raised"]
    assert "ModuleNotFoundError" in unusable[0].why
    assert sandbox.call("x = 1", "f", []) == []


def test_a_call_that_ends_the_program_costs_the_others_nothing(sandbox: Sandbox) -> None:
    source = "import os\ndef f(x):\n    if x == 1: os._exit(0)\n    if x == 2:\n        while True: pass\n    return x"
    found = sandbox.call(source, "f", [(0,), (1,), (2,), (3,)], Limits(cpu_seconds=0.3))
    assert [c.state for c in found] == ["returned", "lost", "lost", "returned"]
    assert [c.why for c in found[1:3]] == ["it ended before it answered", "it ran out of computing time"]
    assert len(sandbox.call(source, "f", [(0,), (1,), (2,), (3,)], stop=True)) == 2
    each = sandbox.call(
        "import time\ndef f(x):\n    t = time.process_time()\n    while time.process_time() < t + 0.2: pass",
        "f",
        [(1,)] * 4,
        Limits(cpu_seconds=0.4),
    )
    assert [c.state for c in each] == ["returned"] * 4  # the limit is of each call
    hanging = sandbox.call(
        "def f(x):\n    while x: pass\n    return x", "f", [(1,)] * 5 + [(0,)], Limits(cpu_seconds=0.1)
    )
    assert [c.state for c in hanging] == ["lost"] * 6
    assert hanging[3].why == "not run: 3 tests ran out of time"


def test_results_that_are_no_plain_data(sandbox: Sandbox) -> None:
    source = "import collections\nclass A: pass\ndef f(x): return eval(x)"
    given = [
        "A()",
        "f",
        "collections.Counter('aab')",
        "collections.namedtuple('P', 'x y')(1, 2)",
        "range(3)",
        "iter([])",
    ]
    found = sandbox.call(source, "f", [(g,) for g in given])
    assert [c.state for c in found] == ["refused", "refused", "returned", "returned", "returned", "refused"]
    assert [c.value for c in found[2:5]] == [{"a": 2, "b": 1}, (1, 2), range(3)]
    assert found[0].why == "the result cannot be passed on: a A is no plain data"


def graded(
    sandbox: Sandbox, source: str, *entries: str, setup: str = "", names: str = "f", limits: Limits = SHORT
) -> list[str]:
    tests = TestCode(setup, entries, tuple(names.split()), None)
    return ["" if v.passed else v.why for v in sandbox.grade(source, tests, limits)]


def test_tests_that_are_code(sandbox: Sandbox) -> None:
    assert graded(
        sandbox, "def f(x, *, y=1): return x + y", "assert f(1) == 2", "assert f(1, y=3) == 5", "assert f('a') == 1"
    ) == [
        "",
        "AssertionError",
        'TypeError: can only concatenate str (not "int") to str',
    ]
    stack = """
class Stack(list):
    size = property(len)
    def push(self, x): self.append(x); return self
    def __enter__(self): return self
    def __exit__(self, *a): self.clear()
class Full(Exception): pass
class Tree:
    def __init__(self, v, left=None): self.v, self.left = v, left
    def __len__(self): return 1 + (len(self.left) if self.left else 0)
    def __iter__(self): yield self.v; yield from self.left or ()
    def __getitem__(self, i): return list(self)[i]
    def __repr__(self): return f"Tree({self.v})"
    def fail(self): raise Full("too full", 3)
LIMIT = 3
import math
def twice(g): return lambda x: g(g(x))
def count(n):
    for i in range(n): yield i
def rotate(m): m.reverse()
"""
    entries = {
        "t = Tree(1, Tree(2))\nassert len(t) == 2 and list(t) == [1, 2] and t[1] == 2 and repr(t) == 'Tree(1)' and t": "",
        "t = Tree(1)\nt.left = Tree(5)\nassert t.left.v == 5 and t.left is t.left": "",
        "try:\n    Tree(1).fail()\nexcept Full as e:\n    assert e.args == ('too full', 3)\nelse:\n    assert False": "",
        "assert isinstance(Tree(1), Tree) and not isinstance(3, Tree)": "",
        "assert LIMIT == 3 and math.sqrt(16) == 4": "",
        "assert twice(lambda x: x + 1)(5) == 7": "",
        "assert list(count(3)) == [0, 1, 2] and 2 in count(9) and sum(count(4)) == 6": "",
        "m = [[1], [2]]\nassert rotate(m) is None and m == [[2], [1]]": "",
        "it = count(1)\nassert next(it) == 0\ntry:\n    next(it)\n    assert False\nexcept StopIteration:\n    pass": "",
        "assert Tree(1) == Tree(1)": "AssertionError",
        "missing": "NameError: name 'missing' is not defined",
    }
    names = "Tree Full LIMIT math twice count rotate"
    assert graded(sandbox, stack, *entries, names=names) == list(entries.values())
    setup = "s = Stack()\ns.push(1)\ns.push(2)"
    assert graded(sandbox, stack, "assert s.size == len(s) == 2 and s[1] == 2", setup=setup, names="Stack") == [""]
    assert graded(sandbox, stack, "assert s", setup="s = Stack(1, 2, 3)", names="Stack") == [
        "TypeError: list expected at most 1 argument, got 3"
    ]


def test_managers_of_the_program_hold_back_what_they_may(sandbox: Sandbox) -> None:
    source = """
import contextlib
class Own(Exception):
    def __init__(self, a, b): super().__init__(a)
class All:
    v = seen = None
    def __enter__(self): return self
    def __exit__(self, kind, error, trace):
        self.seen = (kind.__name__, type(error).__name__, error.args) if kind else None
        return True
    def wrong(self): raise ValueError("wrong")
class Odd:
    def __enter__(self): return self
    def __exit__(self, kind, error, trace): return kind in (ValueError, Own) and isinstance(error, kind)
    def own(self): raise Own(1, 2)
@contextlib.contextmanager
def ignoring(kind):
    try: yield 3
    except kind: pass
def each(see):
    try: see(5)
    except BaseException: pass
"""
    entries = {
        "with All() as c:\n    assert c.v == 5": "AssertionError",
        "with All() as a, Odd() as b:\n    assert a.v == 5": "AssertionError",
        "with All() as c:\n    assert c.v + 1 == 5": "TypeError: unsupported operand type(s) for +: 'NoneType' and 'int'",
        "with All() as c:\n    if c.v != 5: raise ValueError('not 5')": "ValueError: not 5",
        "def verify(c):\n    assert c.v.x == 5\nwith All() as c:\n    verify(c)": "AttributeError: 'NoneType' object has no attribute 'x'",
        "with All() as c:\n    c.wrong()\nassert c.seen == ('ValueError', 'ValueError', ('wrong',))": "",
        "with All() as c:\n    raise KeyError(1, None, 10 ** 30)\nassert c.seen[2] == (1, None, str(10 ** 30))": "",
        "with All() as c:\n    pass\nassert c.seen is None": "",
        "with Odd() as c: raise ValueError\nwith Odd() as c: c.own()\nassert len([c]) == 1": "",
        "with Odd() as c:\n    raise KeyError('k')": "KeyError: 'k'",
        "with ignoring(ValueError) as c:\n    raise ValueError\nassert c == 3": "",
        "with ignoring(AssertionError) as c:\n    assert c == 4": "AssertionError",
        "def see(x):\n    assert x == 6\neach(see)": "AssertionError",
        "def see(x):\n    assert x == 5\neach(see)": "",
    }
    assert graded(sandbox, source, *entries, names="All Odd Own ignoring each") == list(entries.values())


def test_objects_of_the_program_that_are_values(sandbox: Sandbox) -> None:
    source = """
import collections, dataclasses, typing
P = collections.namedtuple("P", "x y count")
class Q(typing.NamedTuple):
    x: int
    y: int = 2
    def total(self): return self.x + self.y
    def __add__(self, other): return Q(self.x + other.x, self.y + other.y)
@dataclasses.dataclass
class V:
    x: float
    def __add__(self, other): return V(self.x + other.x) if isinstance(other, V) else self
    __radd__ = __add__
    def __mul__(self, k): return V(self.x * k)
    __rmul__ = __mul__
    def __matmul__(self, other): return self.x * other.x
    def __sub__(self, k): return 0
    def __neg__(self): return V(-self.x)
    def __abs__(self): return abs(self.x)
ORIGIN = Q(0, 0)
PAIR = (len, V)
def f(*a): return P(*a)
def sort(values):
    values.sort()
    return values
def tidy(values, more):
    more[0] = values.pop()
    return len(values)
"""
    entries = {
        "p = f(1, 2, [3])\nassert p == (1, 2, [3]) and (p.x, p.y, p.count) == (1, 2, [3]) and p._fields == ('x', 'y', 'count')": "",
        "assert f(1, 2, 3) == P(1, 2, 3) and isinstance(f(1, 2, 3), P) and isinstance(f(1, 2, 3), tuple)": "",
        "q = Q(1)\nassert q.total() == 3 and q == (1, 2) and repr(q) == 'Q(x=1, y=2)' and q._replace(x=5).total() == 7": "",
        "assert (Q(1) + Q(2)).total() == 7 and Q(1) + (3,) == (1, 2, 3) and ORIGIN.total() == 0 and {Q(1): 1}[1, 2] == 1": "",
        "assert Q(1).missing": "AttributeError: 'Q' object has no attribute 'missing'",
        "assert PAIR[1](2).x == 2": "",
        "v = V(1) + V(2)\nv += V(4)\nassert v.x == 7 and (-v).x == -7 and V(2) @ V(3) == 6 and abs(V(-2)) == 2": "",
        "assert (V(2) * 3).x == (3 * V(2)).x == 6 and sum([V(1), V(2)]).x == 3": "",
        "assert V(3) - 3 == 0": "TypeError: unsupported operand type(s) for -: 'Remote' and 'int'",
        "assert (V(3) + 3).x == 3": "TypeError: unsupported operand type(s) for +: 'Remote' and 'int'",
        "assert V(1) * V(2) == 2": "AssertionError",
        "a = [3, 1, 2]\nsort(a)\nassert a == [1, 2, 3]": "",
        "assert sort([3, 1, 2]) == [1, 2, 3]": "",
        "a = [3, 1, 2]\nb = sort(a)\nassert b == [1, 2, 3] and a == [3, 1, 2]": "",
        "a = list(range(150_000))[::-1]\nassert len(sort(a)) == 150_000": "",
        "a, b = [3, 1], [0]\ntidy(a, b)\nassert (a, b) == ([3], [1])": "",
    }
    found = graded(sandbox, source, *entries, names="P Q V f sort tidy ORIGIN PAIR", limits=Limits(cpu_seconds=3))
    assert dict(zip(entries, found, strict=True)) == entries


def test_tests_that_cannot_be_run_are_nobodys_fault(sandbox: Sandbox) -> None:
    cases = [
        ("import nothing_of_that_name", "assert f(1) == 1", "No module named 'nothing_of_that_name'"),
        ("", "assert True", "no test asks the program for anything"),
        ("class A: pass", "assert f(A()) == 1", "a A of the test cannot be passed to the program"),
        ("", "class B(K): pass\nassert B()", "a test cannot derive from a class of the program"),
        ("while True: pass", "assert f(1) == 1", "before they asked the program for anything"),
        ("import os\nos._exit(0)", "assert f(1) == 1", "before they asked the program for anything"),
    ]
    for setup, entry, text in cases:
        with pytest.raises(BadTests, match=text):
            graded(
                sandbox,
                "class K: pass\ndef f(x): return 1",
                entry,
                setup=setup,
                names="f K",
                limits=Limits(cpu_seconds=0.3),
            )


def test_a_test_that_ends_the_program_costs_the_others_nothing(sandbox: Sandbox) -> None:
    source = "import os\ndef f(x):\n    if x == 1: os._exit(7)\n    if x == 2:\n        while True: pass\n    return x"
    entries = [f"assert f({i}) == {i}" for i in range(4)]
    found = graded(sandbox, source, *entries, limits=Limits(cpu_seconds=0.3))
    assert found == ["", "it ended with exit code 7", "it ran out of computing time", ""]
    stopped = sandbox.grade(source, TestCode("", tuple(entries), ("f",)), stop=True)
    assert [v.passed for v in stopped] == [True, False]


def test_many_threads_at_once(sandbox: Sandbox) -> None:
    found: dict[int, bytes] = {}

    def run(i: int) -> None:
        found[i] = sandbox.run("print(int(input()) ** 2)", str(i).encode()).stdout

    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: b"%d\n" % i**2 for i in range(8)}
    if before:
        assert len(os.listdir("/proc/self/fd")) == before


def test_packages_are_shown_where_they_are_asked_for(bubblewrap: Sandbox) -> None:
    source = "import numpy\nprint(int(numpy.arange(4).sum()))"
    assert b"ModuleNotFoundError" in bubblewrap.run(source).stderr
    for sandbox in (BubblewrapSandbox(site_packages=True), ProcessSandbox(site_packages=True)):
        assert sandbox.run(source).stdout == b"6\n"
        (called,) = sandbox.call("import numpy\ndef f(): return numpy.float64(2.5)", "f", [()])
        assert called == Called("returned", 2.5)


def test_packages_below_tmp_are_not_hidden_by_the_sandboxs_own(
    bubblewrap: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment in a scratch folder."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        Path(folder, "installed.py").write_text("answer = 42\n")
        here = replace(Interpreter.here(), packages=(folder,))
        monkeypatch.setattr(Interpreter, "here", lambda: here)
        _fixed.cache_clear()
        try:
            source = "import installed\nprint(installed.answer)\nopen('/tmp/own', 'w').write('it can be written')"
            assert BubblewrapSandbox(site_packages=True).run(source).stdout == b"42\n"
            changed = f"open({folder!r} + '/installed.py', 'w')"
            assert b"Read-only file system" in BubblewrapSandbox(site_packages=True).run(changed).stderr
        finally:
            _fixed.cache_clear()


_WEAKER = """#!/bin/sh
left=$#
while [ $left -gt 0 ]; do
    word=$1; shift; left=$((left - 1))
    case $word in
        --unshare-net) ;;
        --seccomp) shift; left=$((left - 1)) ;;
        *) set -- "$@" "$word" ;;
    esac
done
exec BWRAP "$@"
"""


def test_a_machine_without_a_sandbox_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    failing = tmp_path / "bwrap"
    failing.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Operation not permitted' >&2\nexit 1\n")
    failing.chmod(0o755)
    for text, path in (("bubblewrap is not installed", None), ("Operation not permitted", str(failing))):
        monkeypatch.setattr(module, "find_bwrap", lambda path=path: path)
        with pytest.raises(RewardError, match=text) as caught:
            BubblewrapSandbox().run("pass")
        assert caught.value.code == "PL707"
        assert "plaudit[sandbox]" in str(caught.value)
        assert "sandbox: process" in str(caught.value)


def test_what_is_measured_counts_and_not_what_is_hoped(
    bubblewrap: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    weaker = tmp_path / "bwrap"
    weaker.write_text(_WEAKER.replace("BWRAP", str(module.find_bwrap())))
    weaker.chmod(0o755)
    monkeypatch.setattr(module, "find_bwrap", lambda: str(weaker))
    with pytest.raises(RewardError, match=r"is not confined: .*it can make any system call") as caught:
        BubblewrapSandbox().check()
    assert caught.value.code == "PL707"


def test_names_of_sandboxes() -> None:
    assert isinstance(open_sandbox("bubblewrap"), BubblewrapSandbox)
    assert isinstance(open_sandbox("process"), ProcessSandbox)
    assert open_sandbox("https://example.com/x/").name == "https://example.com/x"
    for name in ("docker", "", "ftp://x"):
        with pytest.raises(ConfigError, match="there is no sandbox") as caught:
            open_sandbox(name)
        assert caught.value.code == "PL102"
    with pytest.raises(ConfigError, match="programs run on another"):
        open_sandbox("http://localhost:1", site_packages=True)


@pytest.mark.parametrize(
    ("report", "stopped", "found"),
    [
        (None, False, ("signal", 9)),
        (None, True, ("exit", 0)),
        (9, False, ("signal", 9)),
        (9, True, ("exit", 0)),  # its launcher lived long enough to tell of our signal
        (15, True, ("signal", 15)),
        (7 << 8, True, ("exit", 7)),
    ],
)
def test_a_signal_of_ours_is_nobodys_end(report: int | None, stopped: bool, found: tuple[str, int]) -> None:
    with subprocess.Popen(["true"]) as process:
        member = Member(process, Limits(), {}, isolated=False)
    member.status += b"R"
    member.stopped = stopped
    if report is not None:
        member.status += pack("<id", report, 0.1)
    outcome = member.outcome()
    assert (outcome.ended, outcome.code) == found


def test_what_has_told_its_end_is_not_stopped() -> None:
    with subprocess.Popen(["true"]) as process:
        member = Member(process, Limits(), {}, isolated=False)
    member.status += b"R" + pack("<id", 9, 0.1)
    member.stop()
    assert member.outcome().reason == "it was ended by signal 9"


def test_a_program_that_kills_its_launcher_has_not_ended_well() -> None:
    outcome = ProcessSandbox().run(
        "import os, time\nprint('done', flush=True)\nos.kill(os.getppid(), 9)\ntime.sleep(9)"
    )
    assert (outcome.ended, outcome.code, outcome.stdout) == ("signal", 9, b"done\n")
