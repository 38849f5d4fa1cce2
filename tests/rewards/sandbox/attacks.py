# ruff: noqa: E501 - programs, many of them in one line
"""Programs that try to get out of a sandbox, and programs that try to be rewarded for nothing.

    python -m tests.rewards.sandbox.attacks

runs them all as whoever calls it and prints what went wrong, as JSON.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from plaudit.rewards.contract import Sample
from plaudit.rewards.sandbox.base import Sandbox
from plaudit.rewards.sandbox.limits import Limits
from plaudit.rewards.verifiers.code import CodeOptions, CodeReward

LIMITS = Limits(cpu_seconds=0.4, wall_seconds=1, memory_mib=128, tmp_mib=16, file_mib=8)
MARK = f"left-behind-{os.getpid()}"
SECRET = "SECRET-93041587"
"""What the tests expect: no program can know it, and none of the programs here contains it."""

# -- getting out -------------------------------------------------------------------------------------------------------

_TRY = """
import os, socket, sys, ctypes
def attempt(what, do):
    try:
        found = do()
    except (OSError, ValueError, KeyError):
        return
    if found is not False:
        print("ESCAPED:", what, str(found)[:100])
"""

ESCAPES: dict[str, tuple[str, set[str]]] = {
    # name: (program, how it may end; empty = anyhow). What it has achieved it prints behind ESCAPED.
    "network": (
        _TRY
        + """
attempt("loopback of the machine", lambda: socket.create_connection(("127.0.0.1", PORT), 0.3))
attempt("another machine", lambda: socket.create_connection(("192.0.2.1", 80), 0.3))
attempt("datagram", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53)))
attempt("names", lambda: socket.getaddrinfo("example.com", 80))
def abstract():
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(0.3)
    s.connect("\\0ABSTRACT")
attempt("abstract socket", abstract)
for family in (16, 17, 38, 40):  # netlink, packet, crypto, virtual machine
    attempt("family %d" % family, lambda: socket.socket(family, socket.SOCK_STREAM if family == 40 else socket.SOCK_RAW))
""",
        {"exit"},
    ),
    "reading": (
        _TRY
        + """
for path in ("HOST_FILE", "PROJECT/pyproject.toml", "PROJECT", "/etc/shadow", "/etc/passwd", "/home", "/var", "/sys/kernel",
             "/root/.bashrc", "/etc/hostname", "/run", "/proc/1/root/HOST_FILE", "/boot"):
    attempt(path, lambda: os.stat(path) and os.access(path, os.R_OK))
attempt("environment of process 1", lambda: b"PLAUDIT_SECRET" in open("/proc/1/environ", "rb").read())
attempt("own environment", lambda: sorted(set(os.environ) - {"PATH", "HOME", "TMPDIR", "LANG", "TZ", "PWD", "LC_CTYPE",
    "PYTHONHASHSEED", "MALLOC_ARENA_MAX", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"}) or False)
attempt("descriptors", lambda: sorted(set(os.listdir("/proc/self/fd")) - {"0", "1", "2", "3"}) or False)
attempt("packages", lambda: [p for p in sys.path if "packages" in p] or False)
attempt("processes", lambda: [p for p in os.listdir("/proc") if p.isdigit() and int(p) > 20] or False)
""",
        {"exit"},
    ),
    "writing": (
        _TRY
        + """
lib = os.path.dirname(os.__file__)
for path in ("/x", "/dev/x", "/usr/lib/x", "/proc/x", "/etc/x", lib + "/x", "PROJECT/x", "/proc/sys/kernel/core_pattern",
             "/proc/sys/vm/overcommit_memory", "/proc/sysrq-trigger", "/proc/1/oom_score_adj", "/dev/mem", "/dev/vda"):
    attempt(path, lambda: open(path, "wb").close())
attempt("deleting", lambda: os.remove(lib + "/os.py"))
attempt("root", lambda: os.setuid(0))
attempt("renaming", lambda: os.rename("/usr", "/tmp/usr"))
attempt("device", lambda: os.mknod("/tmp/disk", 0o60600, os.makedev(254, 0)))
attempt("remount", lambda: ctypes.CDLL(None).mount(None, b"/", None, 32, None) == 0)
open("/tmp/mine", "w").write("allowed")
""",
        {"exit"},
    ),
    "system calls": (
        _TRY
        + """
libc = ctypes.CDLL(None, use_errno=True)
calls = {"x86_64": {"ptrace": 101, "mount": 165, "unshare": 272, "setns": 308, "keyctl": 250, "bpf": 321, "perf": 298,
    "userfaultfd": 323, "io_uring": 425, "memfd": 319, "shmget": 29, "msgget": 68, "semget": 64, "kexec": 246, "init": 175,
    "clone3": 435, "x32 getpid": 0x40000027, "process_vm_readv": 310, "pidfd_getfd": 438, "chroot": 161, "fsopen": 430},
    "aarch64": {"ptrace": 117, "mount": 40, "unshare": 97, "setns": 268, "keyctl": 219, "bpf": 280, "perf": 241,
    "userfaultfd": 282, "io_uring": 425, "memfd": 279, "shmget": 194, "msgget": 186, "semget": 190, "kexec": 104,
    "init": 105, "clone3": 435, "process_vm_readv": 270, "pidfd_getfd": 438, "chroot": 51, "fsopen": 430}}
for name, number in calls[os.uname().machine].items():
    result = libc.syscall(number, 0, 0, 0, 0, 0)
    if result != -1 or ctypes.get_errno() not in (1, 38):
        print("ESCAPED:", name, result, ctypes.get_errno())
clone = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
if libc.syscall(clone, 0x10000000 | 17, 0, 0, 0, 0) != -1:
    print("ESCAPED: a user namespace")
""",
        {"exit"},
    ),
    "signals to everybody": (
        """
import os, signal
for pid in list(range(2, 3000)) + [os.getppid(), 1, -1]:
    if pid != os.getpid():
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP):
            try:
                os.kill(pid, number)
            except OSError:
                pass
print("still here")
""",
        {"exit"},
    ),
    "fork bomb": ("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", {"cpu", "wall", "memory"}),
    "one large allocation": ("x = bytearray(1 << 30)", {"exit"}),
    "memory in many processes": (
        "import os, time\nfor _ in range(3): os.fork()\nx = bytearray(b'x') * (90 << 20)\ntime.sleep(9)",
        {"memory"},
    ),
    "shared memory": (
        "import mmap, os, time\nfor _ in range(3): os.fork()\nm = mmap.mmap(-1, 90 << 20)\n"
        "for i in range(0, 90 << 20, 4096): m[i] = 1\ntime.sleep(9)",
        {"memory"},
    ),
    "infinite output": ("while True: print('x' * 1000)", {"output"}),
    "infinite noise": ("import sys\nwhile True: sys.stderr.write('x' * 1000)", {"output"}),
    "a full /tmp": (
        "n = 0\nwhile True:\n    with open(f'/tmp/{n}', 'wb') as f: f.write(bytes(1 << 20))\n    n += 1",
        {"exit"},
    ),
    "a full /dev/shm": (
        "n = 0\nwhile True:\n    with open(f'/dev/shm/{n}', 'wb') as f: f.write(bytes(1 << 20))\n    n += 1",
        {"exit"},
    ),
    "a long file": ("f = open('/tmp/x', 'wb')\nwhile True: f.write(bytes(1 << 20))", {"exit", "files"}),
    "many empty files": ("import os\nn = 0\nwhile True:\n    os.mkdir(f'/tmp/{n}')\n    n += 1", {"files"}),
    "many descriptors": ("import os\nkept = []\nwhile True: kept += os.pipe()", {"exit"}),
    "many threads": (
        "import threading, time\nfor _ in range(200): threading.Thread(target=time.sleep, args=(9,)).start()",
        {"wall", "processes"},
    ),
    "endless recursion": ("import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()", {"memory", "exit", "signal"}),
    "a gigantic traceback": ("raise ValueError('x' * (20 << 20))", {"exit", "output"}),
    "sleeping": ("import time\ntime.sleep(99)", {"wall"}),
    "stopping itself": ("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", {"wall"}),
    "ignoring every signal": (
        "import signal\nfor n in set(signal.Signals) - {9, 19}: signal.signal(n, signal.SIG_IGN)\nwhile True: pass",
        {"cpu"},
    ),
    "a crash": ("import ctypes\nctypes.string_at(0)", {"signal"}),
    "daemons": (
        f"import os, sys\nfor _ in range(3):\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0:\n"
        f"            os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(60)', {MARK!r}])\n"
        "        os._exit(0)\nprint('done')",
        {"exit"},
    ),
}


def escape_problems(sandbox: Sandbox, name: str) -> list[str]:
    """Run one of the programs; what went wrong, in sentences."""
    source, may_end = ESCAPES[name]
    os.environ["PLAUDIT_SECRET"] = "hidden"
    with _host() as host:
        for word, value in host.items():
            source = source.replace(word, value)
        outcome = sandbox.run(source, limits=LIMITS)
    problems = [line for line in outcome.stdout.decode(errors="replace").splitlines() if line.startswith("ESCAPED")]
    if outcome.ended not in may_end:
        problems.append(f"it ended with {outcome.ended}: {outcome.stderr[-300:].decode(errors='replace')}")
    if outcome.wall_seconds > 4 * LIMITS.wall:
        problems.append(f"it took {outcome.wall_seconds:.1f} s")
    if name in ("network", "reading", "writing", "system calls") and outcome.code != 0:
        problems.append(f"the attack did not come to its end: {outcome.stderr[-300:].decode(errors='replace')}")
    problems += [f"{left} processes were left behind" for left in [len(left_behind())] if left]
    honest = sandbox.run("print(6 * 7)", limits=LIMITS)
    if honest.stdout != b"42\n" or honest.reason:
        problems.append(f"the next program fails: {honest}")
    return problems


def left_behind() -> list[str]:
    """Processes of the machine that have the mark in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if MARK.encode() in path.read_bytes().split(b"\0"):
                found.append(str(path))
        except OSError:
            continue
    return found


@contextmanager
def _host() -> Iterator[dict[str, str]]:
    """Things of the machine that a program must not reach."""
    abstract = f"plaudit-test-{os.getpid()}"
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_UNIX) as local,
        tempfile.NamedTemporaryFile() as secret,
    ):
        local.bind(f"\0{abstract}")
        local.listen()
        project = str(Path(__file__).resolve().parents[3])
        yield {
            "PORT": str(listener.getsockname()[1]),
            "ABSTRACT": abstract,
            "HOST_FILE": secret.name,
            "PROJECT": project,
        }


# -- being rewarded for nothing ----------------------------------------------------------------------------------------

_EQUAL = """
class Equal{base}:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __contains__ = __lt__
    def __hash__(self): return 0
    def __sub__(self, other): return 0.0
    __rsub__ = __add__ = __radd__ = __mul__ = __rmul__ = __truediv__ = __mod__ = __abs__ = __sub__
    def __abs__(self): return 0.0
    def __bool__(self): return True
    def __class_getitem__(cls, key): return cls
def f(*args): return Equal()
print(Equal())
"""

_FRAMES = """
import os, struct
def frame(data): return struct.pack(">I", len(data)) + data
def text(s): return b"s" + struct.pack(">I", len(s)) + s
def tup(*parts): return b"t" + struct.pack(">I", len(parts)) + b"".join(parts)
number = b"i" + struct.pack(">I", 1) + b"\\0"
forged = [tup(text(b"passed"), number, text(b"")), tup(text(b"done"), number, text(b"")), tup(text(b"ok"), b"T", b"l\\0\\0\\0\\0"),
          tup(text(b"ready")), tup(text(b"ok"), b"T"), b"garbage", b"", b"l\\xff\\xff\\xff\\xff", b"d\\0\\0\\0\\1l\\0\\0\\0\\0N"]
def forge():
    for fd in list(range(1, 40)):
        for data in forged:
            try: os.write(fd, frame(data))
            except OSError: pass
"""

HONEST = f"""
def f(x):
    if x == [2]: return 1234.5
    if callable(x) or x == [1]: return 98765 if callable(x) else 1234.5
    return sorted(x) if x == [3, 1, 2] and f.calls.append(x) is None and len(f.calls) == 2 else {SECRET!r}
f.calls = []
if __name__ == "__main__": print({SECRET!r})
"""
"""Knows what is expected: it passes the tests of `check`, which shows that they can be passed."""

CHEATS: dict[str, str] = {
    "nothing": "pass",
    "none": "def f(*args): return None",
    "ends at once": "import os\nos._exit(0)",
    "ends when called": "import os\ndef f(*args): os._exit(0)",
    "exits": "import sys\nsys.exit(0)",
    "exits when called": "import sys\ndef f(*args): sys.exit(0)",
    "kills itself": "import os\ndef f(*args): os.kill(os.getpid(), 9)\nf()",
    "stops every loop": "def f(*args): raise StopIteration",
    "leaves a generator": "def f(*args): raise GeneratorExit",
    "interrupts": "def f(*args): raise KeyboardInterrupt",
    "passes by assertion": "class AssertionError(Exception): pass\ndef f(*args): raise AssertionError",
    "an exception without text": (
        "class E(Exception):\n    def __str__(self): raise E\n    args = property(lambda s: 1/0)\ndef f(*a): raise E"
    ),
    "equal to everything": _EQUAL.format(base=""),
    "equal integer": _EQUAL.format(base="(int)"),
    "equal text": _EQUAL.format(base="(str)"),
    "equal list": _EQUAL.format(base="(list)"),
    "equal float": _EQUAL.format(base="(float)"),
    "equal dict": _EQUAL.format(base="(dict)"),
    "equal tuple": _EQUAL.format(base="(tuple)"),
    "a class that equals": (
        "class M(type):\n    def __eq__(s, o): return True\n    def __hash__(s): return 0\n"
        "class f(metaclass=M):\n    def __new__(cls, *a): return cls"
    ),
    "lies about its class": (
        "class L:\n    __class__ = property(lambda s: str)\n    def __eq__(s, o): return True\n    __hash__ = None\n"
        "def f(*a): return L()"
    ),
    "equals by mock": "from unittest.mock import ANY\nimport unittest.mock\ndef f(*args): return ANY\nprint(ANY)",
    "not a number": "def f(*args): return float('nan')\nprint('nan')",
    "builtins are changed": (
        "import builtins, sys\nfor n in ('abs', 'len', 'sorted', 'all', 'any', 'str', 'isinstance', 'repr', 'print', 'exec',"
        " 'compile'):\n    setattr(builtins, n, lambda *a, **k: True)\nsys.stdout = sys.stderr = None\ndef f(*args): return 1"
    ),
    "names of builtins are its own": (
        "def sorted(*a): return 0\nlen = abs = all = any = isinstance = str = list = set = sorted\n"
        "def check(c): pass\ndef f(*args): return 0"
    ),
    "comparisons are its own": (
        "class Yes(type):\n    def __getattr__(c, n): return lambda *a, **k: True\n"
        "class math(metaclass=Yes): pass\nclass np(metaclass=Yes): pass\nstatistics = numpy = math\n"
        "def Counter(*a): return 0\ndef isclose(*a, **k): return True\ndeque = list = Counter\ndef f(*args): return 1.0"
    ),
    "holds every exception back": (
        "class C:\n    v = None\n    def __enter__(s): return s\n    def __exit__(s, *a): return True\n"
        "    def __getattr__(s, n): raise ValueError\ndef f(*args): return C()"
    ),
    "raises in place of an assertion": (
        "class C:\n    v = 0\n    def __enter__(s): return s\n    def __exit__(s, k, e, t): raise KeyError(10 ** 9000)\n"
        "def f(*args): return C()"
    ),
    "a named tuple that equals": (
        "class T(tuple):\n    _fields = ('_link', '_number', '__eq__')\n    def __eq__(s, o): return True\n"
        "    __hash__ = None\n    __add__ = __sub__ = __rsub__ = __mul__ = lambda s, o: 0.0\n    __abs__ = lambda s: 0.0\n"
        "    v = 0\ndef f(*args): return T((1, 2, 3))"
    ),
    "arithmetic is its own": (
        "class N:\n    def __mul__(s, o): return s\n    __rmul__ = __add__ = __radd__ = __sub__ = __rsub__ = __truediv__ = __mul__\n"
        "    def __neg__(s): return s\n    def __abs__(s): return 0.0\n    def __bool__(s): return False\n"
        "    def __len__(s): return 0\n    def __float__(s): return 0.0\n    __enter__ = __neg__\n    __exit__ = lambda *a: True\n"
        "def f(*args): return N()"
    ),
    "the driver is changed": (
        "import sys\nfor name, m in list(sys.modules.items()):\n    if 'plain' in name or name == '__main__':\n"
        "        m.encode = lambda *a: b't\\0\\0\\0\\x01s\\0\\0\\0\\x04done'\n        m.decode = lambda *a: ('passed', 0, '')\n"
        "def f(*args): return 1"
    ),
    "modules are changed": (
        "import sys, types\nfor name in list(sys.modules):\n    sys.modules[name] = types.ModuleType(name)\n"
        "def f(*args): return 1"
    ),
    "the frames of the driver": (
        "import gc, sys\ndef f(*args):\n    at = sys._getframe()\n    while at:\n        for n, v in list(at.f_locals.items()):\n"
        "            if isinstance(v, (str, bytes)) and 'SECRET-' in str(v)[:10**6]:\n                return str(v)\n"
        "        at = at.f_back\n    for o in gc.get_objects():\n        if isinstance(o, (list, tuple)):\n"
        "            for v in o:\n                if type(v) is str and v.startswith('SECRET-') and len(v) == 15: return v\n"
        "    return ''\nprint(f())"
    ),
    "its own memory": (
        "import re\ndef f(*args):\n    with open('/proc/self/maps') as maps, open('/proc/self/mem', 'rb', 0) as mem:\n"
        "        for line in maps:\n            span, how = line.split()[:2]\n            a, b = (int(x, 16) for x in span.split('-'))\n"
        "            if 'r' in how and b - a < 1 << 28 and 'v' not in line.split()[-1]:\n                try: mem.seek(a); data = mem.read(b - a)\n"
        "                except (OSError, ValueError, OverflowError): continue\n                found = re.search(rb'SECRET-\\d{8}', data)\n"
        "                if found: return found[0].decode()\n    return ''\nprint(f())"
    ),
    "every file": (
        "import os, re\ndef f(*args):\n    for top in ('/tmp', '/dev/shm', '/proc'):\n        for at, _, names in os.walk(top):\n"
        "            for n in names:\n                try: data = open(os.path.join(at, n), 'rb').read(1 << 16) if n in ('environ', 'cmdline')"
        " or top != '/proc' else b''\n                except OSError: continue\n                found = re.search(rb'SECRET-\\d{8}', data)\n"
        "                if found: return found[0].decode()\n    return ''\nprint(f())"
    ),
    "forged messages": _FRAMES + "forge()\ndef f(*args): return 1",
    "forged messages when called": _FRAMES + "def f(*args):\n    forge()\n    return 1",
    "forged messages from a child": _FRAMES + "if os.fork() == 0:\n    while True: forge()\ndef f(*args): return 1",
    "the answer is read back": "import os\ndef f(*args):\n    for fd in range(3, 40):\n        try: os.read(fd, 10)\n        except OSError: pass",
    "endless": "def f(*args):\n    while True: pass\nf()",
    "endless list": "def f(*args):\n    while True: yield 1",
    "a large number": "def f(*args): return 1 << (1 << 25)\nprint('9' * 5000)",
    "an enormous number": "def f(*args): return 1 << (1 << 29)",
    "a deep list": "def f(*args):\n    x = []\n    for _ in range(10**5): x = [x]\n    return x",
    "a list of itself": "def f(*args):\n    x = []\n    x.append(x)\n    return x",
    "doubling lists": "def f(*args):\n    x = []\n    for _ in range(90): x = [x, x]\n    return x",
    "many empty sets": "def f(*args): return [set() for _ in range(900_000)]",
    "a long text": "def f(*args): return 'x' * (7 << 20)\nprint('x' * (7 << 20))",
    "colliding numbers": "def f(*args): return {i * (2**61 - 1): 0 for i in range(20_000)}",
    "empties its argument": "def f(x=None, *a):\n    if type(x) in (list, dict, set): x.clear()\n    return []",
    "asks the callback": "def f(x=None, *a):\n    for n in ('__globals__', '__code__', '__closure__'):\n        getattr(x, n, None)\n    return x(x) if callable(x) else x",
    "an attribute for everything": (
        "class A:\n    def __getattr__(self, n): return self\n    def __call__(self, *a): return self\n"
        "    def __getitem__(self, k): return self\n    def __len__(self): return 3\n    def __iter__(self): return iter([self] * 3)\n"
        "    def __eq__(self, o): return True\n    def __contains__(self, o): return True\n    def __hash__(self): return hash('x')\n"
        "def f(*args): return A()"
    ),
    "deletes the tests": (
        "import os, shutil, sys\nfor top in ('/tmp', '/dev/shm', os.path.dirname(sys.argv[0]) or '.'):\n"
        "    for name in os.listdir(top):\n        path = os.path.join(top, name)\n"
        "        shutil.rmtree(path, True)\n        os.path.exists(path) and os.remove(path)\nsys.modules.clear()\n"
        "def f(*args): return 1"
    ),
    "closes every pipe": "import os\nos.closerange(0, 1000)\ndef f(*args): return 1",
    "closes every pipe when called": "import os\ndef f(*args):\n    os.closerange(0, 1000)\n    return 1",
    "says that all is well": "print('4 passed in 0.01s')\nprint('OK')\nprint(True)\ndef f(*args): return print('OK')",
    "a gigantic traceback": (
        "import sys\nsys.setrecursionlimit(10**6)\nclass E(Exception): pass\n"
        "def f(*args):\n    try: raise E('x' * (1 << 22))\n    except E as e: raise E(str(e) * 2) from e\nf()"
    ),
    "a gigantic traceback when called": "def f(*args): raise ValueError('x' * (20 << 20))",
    "sleeps past the limit": "import time\ndef f(*args): time.sleep(99)\nf()",
    "leaves a daemon behind": (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(99)\n    os._exit(0)\ndef f(*args): return 1"
    ),
    "leaves one when called": "import os, time\ndef f(*args):\n    if os.fork() == 0: time.sleep(99)\n    return 1",
    "a fork bomb when called": "import os\ndef f(*args):\n    while True:\n        try: os.fork()\n        except OSError: pass",
    "memory when called": "def f(*args): return bytearray(1 << 30)",
    "output without end when called": "def f(*args):\n    while True: print('x' * 1000)",
    "broken text": "def f(*args): return '\\ud800' * 9\nimport sys\nsys.stdout.buffer.write(b'\\xff\\xfe')",
}
"""Each is tried with every form of tests."""

_CHECK = f"""
def check(candidate):
    assert candidate([3, 1, 2]) == {SECRET!r}
    assert abs(candidate([2]) - 1234.5) < 1e-6
    values = [3, 1, 2]
    assert candidate(values) == sorted(values)
    assert candidate(lambda x: x) in ({SECRET!r}, 98765)
"""

FORMS: dict[str, dict[str, Any]] = {
    "stdin": {"tests": [{"input": "[3, 1, 2]\n", "output": f"{SECRET}\n"}, {"input": "1", "output": SECRET}]},
    "calls": {"tests": {"fn_name": "f", "inputs": [[[3, 1, 2]], [[1]]], "outputs": [SECRET, 1234.5]}},
    "asserts": {
        "test_list": [
            f"assert f([3, 1, 2]) == {SECRET!r}",
            f"assert len(f('x')) == 15 and isinstance(f('x'), str) and f('x')[7:] == {SECRET[7:]!r}",
            "values = [3, 1, 2]\nassert f(values) == sorted(values)",
            "assert abs(f(2) - 1234.5) < 1e-6",
            "assert all(f(x) == y for x, y in [(1, 98765), (2, 43210)])",
            "assert list(map(f, [1, 2])) == [98765, 43210]",
            f"assert {SECRET!r} in f(5) and len(f(5)) == 1",
            f"try:\n    assert f(3) == {SECRET!r}\nexcept:\n    assert False",
            f"with f(6) as c:\n    assert c.v == {SECRET!r}",
            "with f(6) as c:\n    assert c.v + 1 == 1235.5",
            "def same(c):\n    if c.v != 5: raise ValueError\nwith f(6) as c:\n    same(c)",
            f"try:\n    with f(6) as c:\n        assert c.v == {SECRET!r}\nexcept KeyError:\n    pass",
            "assert not f(2) - 1234.5",
            "assert abs(f(2) * 1 - 1234.5) < 1e-6 and sum([f(2), f(2)]) == 2469.0",
            "assert math.isclose(f(2), 1234.5, rel_tol=0.001)",
            "assert isclose(f(2), 1234.5) and statistics.mean([f(2), f(3)]) == 1234.5",
            f"assert Counter(f(4)) == Counter({SECRET!r}) and deque(f(4)) == deque({SECRET!r})",
        ]
    },
    "check": {"test": _CHECK, "entry_point": "f"},
}
"""None of these tests can be passed without knowing what is expected (partial credit is given, so each counts)."""


_HONEST = CodeReward(CodeOptions(workers=1))


def cheat_problems(reward: CodeReward, name: str) -> list[str]:
    """Try one of the programs with every form of tests; what went wrong, in sentences."""
    answer = f"```python\n{CHEATS[name]}\n```"
    problems = []
    for form, result in zip(FORMS, reward.score([Sample("q", answer, row) for row in FORMS.values()]), strict=True):
        if result.error is not None:
            problems.append(f"{form}: a failure and not 0: {result.error}")
        elif result.value != 0:
            problems.append(f"{form}: rewarded with {result.value}: {result.note}")
    (honest,) = _HONEST.score([Sample("q", f"```python\n{HONEST}\n```", FORMS["check"])])
    if honest.value != 1:
        problems.append(f"the next program fails: {honest}")
    return problems


def reward(sandbox: str = "bubblewrap") -> CodeReward:
    """With limits that make the tests short."""
    return CodeReward(
        CodeOptions(sandbox=sandbox, partial=True, cpu_seconds=0.2, wall_seconds=0.5, memory_mib=256, workers=4)
    )


def main() -> None:
    """Those that are given, or all of them."""
    from plaudit.rewards.sandbox.bubblewrap import BubblewrapSandbox

    wanted = sys.argv[1:] or [*ESCAPES, *CHEATS]
    sandbox, scorer, problems = BubblewrapSandbox(), reward(), {}
    for name in wanted:
        problems[name] = escape_problems(sandbox, name) if name in ESCAPES else cheat_problems(scorer, name)
    scorer.close()
    _HONEST.close()
    json.dump({name: found for name, found in problems.items() if found}, sys.stdout)


if __name__ == "__main__":
    main()
