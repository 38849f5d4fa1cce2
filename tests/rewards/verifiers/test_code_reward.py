# ruff: noqa: E501 - programs and rows, many of them in one line
"""Programs in, rewards out: every form of tests, partial credit, and what is a failure and what is 0."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from plaudit.errors import ConfigError
from plaudit.rewards.contract import RewardResult, Sample
from plaudit.rewards.registry import reward_class
from plaudit.rewards.scoring import guarded
from plaudit.rewards.verifiers.code import CodeOptions, CodeReward
from tests.rewards.sandbox.machine import skip_where_impossible

HUMANEVAL = {
    "prompt": (
        "import math\n\ndef poly(xs, x):\n    return sum(c * x ** i for i, c in enumerate(xs))\n\n\n"
        "def find_zero(xs):\n    '''A zero of the polynomial.'''\n"
    ),
    "entry_point": "find_zero",
    "test": (
        "METADATA = {}\n\ndef check(candidate):\n    import math\n    for coeffs in ([1, 2], [-6, 11, -6, 1]):\n"
        "        assert math.fabs(poly(coeffs, candidate(list(coeffs)))) < 1e-4\n"
    ),
}
ZERO = (
    "def find_zero(xs):\n    lo, hi = -1.0, 1.0\n    while poly(xs, lo) * poly(xs, hi) > 0: lo, hi = lo * 2, hi * 2\n"
    "    for _ in range(100):\n        mid = (lo + hi) / 2\n        if poly(xs, lo) * poly(xs, mid) > 0: lo = mid\n"
    "        else: hi = mid\n    return lo\n"
)


@pytest.fixture(scope="module")
def makes() -> Iterator[Any]:
    skip_where_impossible()
    made: list[CodeReward] = []

    def make(**options: Any) -> CodeReward:
        made.append(CodeReward(CodeOptions(**{"cpu_seconds": 2, "workers": 2, **options})))
        return made[-1]

    yield make
    for reward in made:
        reward.close()


def scored(reward: CodeReward, source: str, **row: Any) -> RewardResult:
    (result,) = reward.score([Sample("q", f"<think>hm</think>So:\n```python\n{source}\n```\n", row)])
    return result


ROWS: list[tuple[str, str, dict[str, Any]]] = [
    ("n = int(input())\nprint(n * n)", "print(4)", {"tests": [{"input": "2\n", "output": "4\n"}, {"input": "-3", "output": "9"}]}),
    ("print(sum(map(int, open(0))))", "print(0)", {"input_output": '{"inputs": ["1\\n2\\n", "5"], "outputs": ["3\\n", "5\\n"]}'}),
    ("def f(a, b): return (a, b)", "def f(a, b): return a", {"tests": {"fn_name": "f", "inputs": [[1, 2]], "outputs": [[1, 2]]}}),
    (
        "class Solution:\n    def two(self, nums: List[int], t: int): return [nums.index(t), len(nums)]",
        "class Solution:\n    def two(self, nums, t): return []",
        {"tests": [{"input": "[3, 4]\n4", "output": "[1, 2]", "testtype": "functional"}], "fn_name": "two"},
    ),
    (
        "class Node:\n    def __init__(self, v): self.v = v; self.next = None\ndef total(n): return n.v + (total(n.next) if n.next else 0)",
        "class Node:\n    def __init__(self, v): pass\ndef total(n): return 0",
        {"test_list": ["assert total(a) == 3"], "test_setup_code": "a = Node(1)\na.next = Node(2)"},
    ),
    ("def sum(a, b): return a * b", "def sum(a, b): return a + b", {"test_list": ["assert sum(3, 5) == 15"]}),
    (ZERO, "def find_zero(xs): return 0", HUMANEVAL),
    (ZERO, "def poly(xs, x): return 0\ndef find_zero(xs): return 0", HUMANEVAL),
    (
        "def add(a, b):\n    if a is None: raise TypeError('none')\n    return a + b",
        "def add(a, b): return 3",
        {"test": "from solution import add\ndef test_a():\n    assert add(1, 2) == 3\ndef test_b():\n    try:\n        add(None, 1)\n    except TypeError:\n        return\n    assert False"},
    ),
    ("def f(n):\n    x = [1]\n    for _ in range(n): x.append(sum(x))\n    return x[-1]", "def f(n): return n", {"test_list": ["assert f(300) == 2 ** 299"]}),
]  # fmt: skip


@pytest.mark.parametrize(("right", "wrong", "row"), ROWS)
def test_every_form_of_tests(makes: Any, right: str, wrong: str, row: dict[str, Any]) -> None:
    reward = makes()
    good, bad = scored(reward, right, **row), scored(reward, wrong, **row)
    assert (good.value, good.note) == (1, ""), good
    assert good.parts["passed"] == good.parts["tests"]
    assert bad.value == 0
    assert bad.error is None
    assert bad.note.startswith("test ")
    assert good.seconds > 0


def test_a_bare_continuation_of_the_prompt(makes: Any) -> None:
    body = "\n".join("    " + line[4:] if line.startswith("    ") else line for line in ZERO.splitlines()[1:])
    (result,) = makes().score([Sample("q", body, HUMANEVAL)])
    assert result.value == 1, result
    (chat,) = makes().score([Sample(HUMANEVAL["prompt"], f"```python\n{ZERO}```", {**HUMANEVAL, "prompt": None})])
    assert chat.value == 1, chat


def test_an_answer_that_shows_how_to_call_its_function(makes: Any) -> None:
    blocks = ["def g(x): return x * 2", "def f(x): return g(x) + 1", "print(f(3))  # prints 7"]
    answer = "\r\n".join(f"Step:\r\n```python\r\n{block}\r\n```" for block in blocks)
    calls = {"tests": {"fn_name": "f", "inputs": [[3]], "outputs": [7]}}
    for row in (
        {"test_list": ["assert f(3) == 7"]},
        calls,
        {"test": "def check(c):\n    assert c(3) == 7", "entry_point": "f"},
    ):
        (result,) = makes().score([Sample("q", answer, row)])
        assert result.value == 1, result
    bare = "<think>hm</think><answer>\ndef f(x):\n    return 2 * x + 1\n</answer>"
    assert makes().score([Sample("q", bare, calls)])[0].value == 1


@pytest.mark.parametrize(
    ("test", "own", "right", "wrong"),
    [
        ("math.isclose(f(10), 4188.79, rel_tol=0.001)", "class math: isclose = staticmethod(lambda *a, **k: True)", "4 / 3 * pi * x ** 3", "pi"),
        ("Counter(f([1, 2])) == Counter([1, 1, 2, 2])", "def Counter(x): return 0", "x * 2", "x"),
        ("isclose(f(2), 4)", "def isclose(*a): return True", "x * 2.0", "x"),
    ],
)  # fmt: skip
def test_comparisons_are_the_librarys(makes: Any, test: str, own: str, right: str, wrong: str) -> None:
    row = {"test_list": [f"assert {test}"]}
    found = [
        scored(makes(), f"from math import pi\n{before}\ndef f(x): return {value}", **row)
        for before, value in (("", right), (own, wrong), (own, right))
    ]
    assert [r.value for r in found] == [1, 0, 1], found


def test_a_package_that_a_test_compares_with(makes: Any) -> None:
    row = {"test_list": ["assert np.allclose(f(2), [2.0, 4.0])"]}
    fake = "class np: allclose = staticmethod(lambda *a: True)\ndef f(x): return {}"
    reward = makes(site_packages=True, memory_mib=1024)
    assert [scored(reward, fake.format(value), **row).value for value in ("[x, x * 2]", "0")] == [1, 0]
    without = scored(makes(), fake.format("0"), **row)
    assert without.error is not None
    assert without.error.kind == "bad_row"
    assert "No module named 'numpy'; option site_packages" in without.error.message


def test_partial_credit_and_where_it_stops(makes: Any) -> None:
    tests = [{"input": str(i), "output": str(i if i != 1 else 7)} for i in range(4)]
    whole, share = (scored(makes(partial=p), "print(input())", tests=tests) for p in (False, True))
    assert (whole.value, dict(whole.parts)) == (0, {"tests": 4, "passed": 1})
    assert (share.value, dict(share.parts)) == (0.75, {"tests": 4, "passed": 3})
    assert share.note == "test 2 of 4: printed '1\\n', expected '7'"
    asserts = {"test_list": [f"assert f({i}) == {i if i != 1 else 7}" for i in range(4)]}
    assert scored(makes(partial=True), "def f(x): return x", **asserts).value == 0.75
    calls = {"tests": {"fn_name": "f", "inputs": [[i] for i in range(4)], "outputs": [0, 7, 2, 3]}}
    found = scored(makes(partial=True), "def f(x): return x", **calls)
    assert (found.value, found.note) == (0.75, "test 2 of 4: returned 1, expected 7")


def test_what_the_answer_does_to_itself_is_0(makes: Any) -> None:
    reward = makes(cpu_seconds=0.3)
    row = {"tests": [{"input": "1", "output": "1"}]}
    for source, note in (
        ("while True: pass", "it ran out of computing time"),
        ("def f(:", "SyntaxError"),
        ("print(1", "SyntaxError"),
        ("print(1)\nraise ValueError('late')", "ValueError: late"),
        ("print(1)\nimport sys\nsys.exit(1)", "exit code 1"),
        ("print('x' * 10**6)", "it printed too much"),
        ("(" * 10_000, "exit code 1"),
    ):
        result = scored(reward, source, **row)
        assert result.value == 0
        assert note in result.note
    for answer in (
        "I cannot do that.",
        "",
        "<think>```python\nprint(1)\n```",
        "```python\n" + "#" * (1 << 21) + "\n```",
    ):
        (result,) = reward.score([Sample("q", answer, row)])
        assert (result.value, dict(result.parts)) == (0, {"tests": 1, "passed": 0})
        assert result.note in ("there is no program in the answer", "the program is too long")
    assert scored(reward, "import sys\nprint(1)\nprint('noise', file=sys.stderr)\nsys.exit(0)", **row).value == 1


def test_what_the_row_lacks_is_a_failure(makes: Any) -> None:
    reward = makes()
    for row, text in (
        ({}, "there are no tests"),
        ({"tests": [{"input": "", "output": ""}]}, "does nothing passes it"),
        ({"test_list": ["assert True"]}, "asserts nothing: any program passes it"),
        ({"test_list": ["assert 1 == 1"]}, "no test asks the program for anything"),
        ({"test_list": ["assert 1 == 1", "assert len([]) == 0"]}, "no test asks"),
        ({"test_list": ["assert f(1) == 1"], "test_setup_code": "import missing_module"}, "cannot be run"),
    ):
        result = scored(reward, "def f(x): return x", **row)
        assert result.value is None
        assert result.error is not None
        assert result.error.kind == "bad_row"
        assert text in result.error.message


def test_a_test_that_asserts_nothing_is_no_share(makes: Any) -> None:
    row = {"test_list": ["assert f(1) == 1", "f(2)"], "test_imports": ["import math"]}
    part = scored(makes(partial=True), "def f(x): return 0", **row)
    assert part.error is not None
    assert part.error.kind == "bad_row"
    assert "'f(2)' asserts nothing" in part.error.message
    assert [scored(makes(), f"def f(x): return {v}", **row).value for v in ("x", "0")] == [1, 0]


def test_results_are_in_order_and_others_go_on(makes: Any) -> None:
    rows = [{"tests": [{"input": "", "output": str(i)}]} if i != 3 else {} for i in range(8)]
    found = makes(workers=3).score([Sample("q", f"```python\nprint({i})\n```", row) for i, row in enumerate(rows)])
    assert [r.value for r in found] == [1, 1, 1, None, 1, 1, 1, 1]
    assert makes().score([]) == []


def test_tolerance(makes: Any) -> None:
    row = {"tests": [{"input": "", "output": "0.333333"}]}
    assert [scored(makes(tolerance=t), "print(1 / 3)", **row).value for t in (None, 1e-5)] == [0, 1]
    calls = {"tests": {"fn_name": "f", "inputs": [[3]], "outputs": [0.333333]}}
    assert [scored(makes(tolerance=t), "def f(x): return 1 / x", **calls).value for t in (None, 1e-5)] == [0, 1]


def test_long_expected_output(makes: Any) -> None:
    text = "\n".join(map(str, range(100_000)))
    row = {"tests": [{"input": text, "output": text}]}
    assert scored(makes(), "import sys\nsys.stdout.write(sys.stdin.read())", **row).value == 1


def test_a_sandbox_that_breaks_is_a_failure(makes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from plaudit.rewards.sandbox import bubblewrap

    reward = makes()
    row = {"tests": [{"input": "", "output": "1"}]}
    assert scored(reward, "print(1)", **row).value == 1
    monkeypatch.setattr(bubblewrap, "find_bwrap", lambda: "/usr/bin/false")  # as when it is removed in the middle
    result = scored(reward, "print(1)", **row)
    assert result.error is not None
    assert result.error.kind == "crash"
    monkeypatch.undo()
    assert scored(reward, "print(1)", **row).value == 1


def test_options() -> None:
    assert reward_class("code") is CodeReward
    one, two = CodeReward(CodeOptions(workers=1)), CodeReward(CodeOptions(workers=2))
    assert one.fingerprint() == two.fingerprint() != CodeReward(CodeOptions(partial=True)).fingerprint()
    assert one.pure
    assert (one.columns, CodeReward(CodeOptions(tests="mine")).columns) == ((), ("mine",))
    with pytest.raises(ConfigError, match="there is no sandbox 'docker'"):
        CodeReward(CodeOptions(sandbox="docker"))
    for wrong in ({"cpu_seconds": 0}, {"workers": 0}, {"language": "rust"}, {"processes": 2}, {"unknown": 1}):
        with pytest.raises(ValidationError):
            CodeOptions(**wrong)


def test_closing_does_not_wait_for_programs_that_have_not_begun() -> None:
    import threading
    import time

    skip_where_impossible()
    reward = CodeReward(CodeOptions(workers=1))
    slow = "```python\nimport time\ntime.sleep(0.5)\nprint(input())\n```"
    samples = [Sample("q", slow, {"tests": [{"input": f"{i}\n", "output": f"{i}\n"}]}) for i in range(20)]
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.extend(guarded(reward, samples)))
    thread.start()
    time.sleep(0.3)
    start = time.monotonic()
    reward.close()
    thread.join()
    assert time.monotonic() - start < 4  # all of them take 10 s
    assert {r.error.kind if r.error else None for r in results} == {"exception"}  # and nothing is a score
