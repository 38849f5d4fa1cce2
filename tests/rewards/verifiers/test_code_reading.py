# ruff: noqa: E501 - programs and rows, many of them in one line
"""Which part of an answer is the program, what a row's tests are, and when two values are the same."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from plaudit.rewards.contract import BadRow, Sample
from plaudit.rewards.sandbox.base import TestCode
from plaudit.rewards.verifiers.code_compare import same_text, same_value, shown
from plaudit.rewards.verifiers.code_program import defines, program
from plaudit.rewards.verifiers.code_tests import Calls, Streams, Tests, read_tests, toothless


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Here:\n```python\nprint(1)\n```\nDone.", "print(1)\n"),
        ("```py\nx = 1\n```\nbetter:\n```python3\nx = 2\n```", "x = 2\n"),
        ("```Python\nx = 1\n```\n```\noutput 3\n```", "x = 1\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("```python\nx = 1\n```\n```bash\npip install x\n```", "x = 1\n"),
        ("```python\nx = 1", "x = 1"),
        ("~~~python\nx = '```'\n~~~", "x = '```'\n"),
        ("1. do\n   ```python\n   def f():\n       return 1\n   ```", "def f():\n    return 1"),
        ("def f(x):\n    return x", "def f(x):\n    return x"),
        ("print(input())", "print(input())"),
        ("import os", "import os"),
        ("```python\r\nx = 1\r\nprint(x)\r\n```\r\nDone.\r\n", "x = 1\nprint(x)\n"),
        ("So: <answer>\nprint(1)\n</answer> Done.", "\nprint(1)\n"),
        ("<answer>print(1)\n</answer><answer>print(2)</answer>", "print(2)"),
        ("<answer>\n```python\nx = 1\n```\n</answer>\n```\nno\n```", "x = 1\n"),
        ("```python\nprint(1)\n```\n<answer>It prints 1.</answer>", "print(1)\n"),
        ("```python\ns = '<answer>x = 2</answer>'\n```", "s = '<answer>x = 2</answer>'\n"),
        ("<answer>\nprint(1)", "\nprint(1)"),
        ("The answer is 42.", None),
        ("```python\n```", None),
        ("```json\n{}\n```", None),
        ("", None),
    ],
)
def test_the_program(text: str, found: str | None) -> None:
    assert program(text) == found


F, G, USE = "def f(x):\n    return g(x)\n", "def g(x):\n    return x\n", "print(f(3))\n"


@pytest.mark.parametrize(
    ("blocks", "found"),
    [
        ([F, USE], F),  # how to call it is no program
        (["def f(x): return 0\n", F, USE], F),  # the last that defines it
        ([G, F, USE], f"{G}\n{F}"),  # a helper of its own block
        (["import math as g\n", F], f"import math as g\n\n{F}"),
        (["from a import (b, g)\n", F], f"from a import (b, g)\n\n{F}"),
        (["G: int = 3\n", "g = 4\n", F + "# G\n"], f"G: int = 3\n\n{F}# G\n"),
        (["x = 3\nprint(f(x))\n", G, F], f"{G}\n{F}"),  # an example: its x is not the argument
        (["H = 1\n", "def g(x): return H\n", F], f"H = 1\n\ndef g(x): return H\n\n{F}"),  # what a helper needs
        (["def g(x): return 0\n", G, F], f"{G}\n{F}"),
        ([G + "def f(x): return 0\n", F], f"{G}def f(x): return 0\n\n{F}"),
        ([F, "class f: pass\n" + G], "class f: pass\n" + G),
        ([F + G, "import f\n"], F + G),
        ([USE, "y = 3\n"], "y = 3\n"),
    ],
)
def test_the_block_that_defines_the_function(blocks: list[str], found: str) -> None:
    answer = "So:\n" + "Then:\n".join(f"```python\n{block}```\n" for block in blocks)
    assert program(answer, ["f"]) == found
    assert program(answer) == blocks[-1]


def test_blocks_of_several_wanted_names_and_without_a_language() -> None:
    assert program("```py\nclass A: pass\n```\n```py\ndef f(): pass\n```\n```py\nf()\n```", ["A", "f"]) == (
        "class A: pass\n\ndef f(): pass\n"
    )
    assert program("```\ndef f(): pass\n```\n```python\nf()\n```", ["f"]) == "def f(): pass\n"


def test_names_of_a_program() -> None:
    source = "import x\nasync def a(): pass\nclass B:\n    def c(self): pass\nd = 1\n"
    assert [name for name in ("a", "B", "c", "d", "e", "x") if defines(source, name)] == ["a", "B", "c", "d"]


def read(**row: Any) -> Tests:
    return read_tests(Sample("q", "a", row))


def test_input_and_output() -> None:
    wanted = Streams((("1\n", "2\n"), ("3", "4")))
    pairs = [{"input": "1\n", "output": "2\n"}, {"input": "3", "output": "4"}]
    assert read(tests=pairs) == wanted
    assert read(tests=json.dumps(pairs)) == wanted
    assert read(test_cases=tuple(pairs)) == wanted
    assert read(input_output={"inputs": ["1\n", "3"], "outputs": ["2\n", "4"]}) == wanted
    assert read(input_output=json.dumps({"inputs": ["1\n", 3], "outputs": ["2\n", 4], "fn_name": None})) == wanted
    assert read(tests={"inputs": [["1", "2"]], "outputs": [["3", "4"]]}) == Streams((("1\n2", "3\n4"),))
    assert read(tests=np.array(pairs, dtype=object)) == wanted


def test_calls() -> None:
    apps = read(input_output={"fn_name": "f", "inputs": [[1, "a"], [[2]]], "outputs": [[3], 4]})
    assert apps == Calls("f", (((1, "a"), [3]), (([2],), 4)), wrapped=True)
    live = [{"input": '[1, 2]\n"x"', "output": "true", "testtype": "functional"}]
    wanted = Calls("g", ((([1, 2], "x"), True),))
    assert read(tests=live, metadata='{"func_name": "g"}') == wanted
    assert read(tests=live, fn_name="g") == wanted
    assert read(tests=[{"input": [1], "output": 2}], entry_point="h") == Calls("h", (((1,), 2),), wrapped=True)


def test_code_of_mbpp_and_humaneval() -> None:
    mbpp = read(
        test_list=["assert len(g(f(2))) == 4", "assert abs(f(3)) < K"],
        test_setup_code="import math\nK = math.pi",
        test_imports=["import re"],
    )
    assert mbpp == TestCode(
        "import re\nimport math\nK = math.pi", ("assert len(g(f(2))) == 4", "assert abs(f(3)) < K"), ("f", "g"), None
    )
    test = "def check(candidate):\n    total = helper(1)\n    assert candidate(total) == 2\n"
    prompt = "import math\n\ndef helper(x):\n    return x\n\ndef f(x):\n    '''Doc.'''\n"
    human = read(test=test, entry_point="f", prompt=prompt)
    assert isinstance(human, TestCode)
    assert (human.entries, human.names, human.function) == (("check(f)",), ("f",), "f")
    assert "def helper" in human.setup
    assert "def f" not in human.setup  # helpers of the prompt are the tests' own; the function is the program's


def test_names_of_builtins_are_pythons_own() -> None:
    assert read(test_list=["assert sorted(f([2, 1])) == [1, 2]"]).names == ("f",)  # type: ignore[union-attr]
    assert read(test_list=["assert sum(1, 2) == 3", "assert sum(2, len('ab')) == 4"]).names == ("sum",)  # type: ignore[union-attr]
    local = "def check(candidate):\n    import math\n    f = 3\n    assert g(candidate(f)) == math.pi"
    assert read(test=local, entry_point="h").names == ("g", "h")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("tests", "names", "imports"),
    [
        (["assert math.isclose(volume(10), 4188.79, rel_tol=0.001)"], "volume", "import math"),
        (["assert Counter(f([1, 2])) == Counter([1, 2])"], "f", "from collections import Counter"),
        (["assert np.allclose(f(2), [1, 2])"], "f", "import numpy as np"),
        (["assert isclose(f(2), pi) and f(3) == date(2020, 1, 2)"], "f", "from datetime import date\nfrom math import isclose\nfrom math import pi"),
        (["assert f(datetime(2020, 1, 2)) == datetime.strptime('3', '%d')"], "f", "from datetime import datetime"),
        (["assert f(1) == datetime.date(2020, 1, 2)"], "f", "import datetime"),
        (["assert gcd(4, 6) == 2", "assert gcd(4, 5) == math.gcd(4, 5)"], "gcd", "import math"),
        (["assert queue(3) == [1]", "assert string(3) == 'a'"], "queue string", ""),  # functions, no modules
        (["assert Counter('aab') == {'a': 2, 'b': 1}"], "Counter", ""),  # the tests call nothing else
        (["assert isclose(sum([1, 2]), 3)"], "", "from math import isclose"),
    ],
)  # fmt: skip
def test_names_of_libraries_are_not_the_programs(tests: list[str], names: str, imports: str) -> None:
    assert read(test_list=tests) == TestCode(imports, tuple(tests), tuple(names.split()), None)


def test_names_of_libraries_that_a_row_asks_for() -> None:
    row = {"test_list": ["assert Counter('aab').most_common(1) == [('a', 2)]", "assert f(1) == 1"]}
    assert read(**row, entry_point="Counter").names == ("Counter", "f")  # type: ignore[union-attr]
    kod = read(
        test="from __future__ import annotations\nfrom solution import deque, sum\n\ndef test_a():\n    assert deque([sum(1)]) == math.pi"
    )
    assert isinstance(kod, TestCode)
    assert kod.names == ("deque", "sum")
    assert kod.setup.startswith("from __future__ import annotations\nimport math\n")


ALONE = [
    "assert is_close(f(2), 4)", "assert is_close(f(2), 4) == True", "assert True is is_close(f(2), 4)", "x = f(2)\nassert is_close(x, 4)",
    "assert is_close(f(2), 4) and f(3) == 9", "assert all(is_close(f(x), y) for x, y in [(1, 1)])", "assert f(2) == square(2)",
    "assert (f(2), f(3)) == (4, square(3))", "assert abs(f(2) - sqrt(16)) < 1e-6", "assert math.isclose(f(2), sqrt(16))", "assert f(2) == FOUR",
    "assert not f(2) != square(2)", "assert poly([1], zero([1])) < 1e-4", "for x in f(3):\n    assert x in g(3)", "if not is_close(f(2), 4):\n    raise ValueError",
    "assert f(3) == P(3)", "assert V(1) == V(1)", "a = V(1)\nb = V(2)\nassert a + b == V(3)", "assert V(1) < V(2)", "assert [V(1)] == sorted([V(1)])",
    "assert light().state == Color.RED", "def test(self):\n    self.assertEqual(f(2), g(2))\ntest(None)",
]  # fmt: skip


@pytest.mark.parametrize("test", ALONE)
def test_assertions_that_the_program_decides_alone(test: str) -> None:
    with pytest.raises(
        BadRow,
        match=r"the column 'test_list': '.*(decided by the program alone: .*(say in the tests)|compare their attributes)",
    ):
        read(test_list=[test, "assert h(1) == 2"])
    candidate = test.replace("f(", "candidate(").replace("\n", "\n    ")
    with pytest.raises(BadRow, match="the column 'test': '"):
        read(test=f"def check(candidate):\n    {candidate}", entry_point="f")


@pytest.mark.parametrize(
    "test",
    [
        "assert decode(encode('abc')) == 'abc'", "e = encode('abc')\nassert decode(e) == 'abc' and e != 'abc'", "assert abs(celsius(fahrenheit(25)) - 25) < 1e-6",
        "assert math.isclose(celsius(fahrenheit(25)), 25)", "assert is_prime(7)", "assert not is_prime(8)", "assert len(f(g(2))) == 4",
        "root = Node(1)\nroot.left = Node(2)\nassert is_balanced(root) == True", "assert total(Node(1)) == 1", "assert V(1).x == 1 and (V(1) + V(2)).x == 3",
        "assert is_sorted(f([3, 1])) and not is_sorted([2, 1])", "assert lcm(4, 6) == 12 and gcd(4, 6) == 2 and lcm(8, 6) * gcd(8, 6) == 48",
        "assert isinstance(make(1), Node) and make(1).v == 1", "assert f(1) == 2 and f([3, 1]) == f([1, 3])", "s = Stack()\ns.push(1)\nassert s.pop() == 1 and s.peek() is None",
        "assert (f(1), g(2)) == (1, 2)", "r = f(1)\nassert r == 1\nr = g(1)\nassert r == 2", "assert list(map(f, [1, 2])) == [1, 4]",
        "for x, y in [(1, 1)]:\n    assert f(x) == y", "values = [3, 1]\nassert f(values) == sorted(values)", "if f(1) != 2:\n    raise ValueError",
        "def test(self):\n    self.assertEqual(f(2), 4)\n    self.assertFalse(is_prime(f(2)))\ntest(None)", "assert abs(f(1) - 2) < 1e-6",
    ],
)  # fmt: skip
def test_assertions_that_compare_with_what_the_tests_know(test: str) -> None:
    assert isinstance(read(test_list=[test]), TestCode)


def test_functions_and_scripts() -> None:
    kod = "from solution import add as plus, sub\n\ndef test_one():\n    assert plus(1, 2) == 3\n\ndef test_two():\n    assert sub(2, 1) == 1\n"
    found = read(test=kod)
    assert isinstance(found, TestCode)
    assert found.entries == ("test_one()", "test_two()")
    assert "plus = add" in found.setup
    assert found.names == ("add", "sub")
    script = read(tests="x = f(1)\nassert x == 1\n")
    assert isinstance(script, TestCode)
    assert script.entries == ("x = f(1)\nassert x == 1",)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({}, "there are no tests in tests, test_cases, input_output, test_list, test .the row has: none."),
        ({"tests": [], "test": ""}, "there are no tests"),
        ({"tests": [{"input": "1", "output": " \n"}]}, "a program that does nothing passes it"),
        ({"tests": [{"input": "1", "output": ""}, {"input": "1", "output": "2"}]}, "does nothing"),
        ({"tests": [{"input": "1"}]}, "without input or output"),
        ({"tests": [{"input": "1", "output": None}]}, "NoneType where text is expected"),
        ({"tests": {"inputs": ["1"], "outputs": []}}, "not as many outputs"),
        ({"tests": {"inputs": [], "outputs": []}}, "has no tests"),
        ({"tests": {"inputs": [[1]], "outputs": [None], "fn_name": "f"}}, "expects None"),
        ({"tests": "[{"}, "no JSON"),
        ({"tests": [1, 2]}, "no form of tests"),
        ({"tests": 5}, "no form of tests"),
        ({"test_list": ["assert f(1) =="]}, "no Python"),
        ({"test_list": ["f(1)"]}, "asserts nothing"),
        ({"test_list": ["assert f(1)", "f(2)"]}, "has a test that asserts nothing"),
        ({"test": "def check(candidate):\n    candidate(1)", "entry_point": "f"}, "asserts nothing"),
        ({"test_list": ["assert True"]}, "asserts nothing"),
        (
            {"test_list": ["assert (f(2) == 4, 'msg')", "assert f(3) == 9"]},
            "always true: brackets make it a tuple .*; write",
        ),
        (
            {"test_list": ["assert f(2) == f(2)", "assert f([2, 1]) == f([1, 2])"]},
            "always returns the same passes it; compare with values",
        ),
        (
            {
                "test": "def other():\n    assert f(1) == 1\n\ndef check(candidate):\n    candidate(1)\n    assert True, 'x'",
                "entry_point": "f",
            },
            "asserts nothing",
        ),
        ({"test": "def check(candidate):\n    assert_equal(candidate(1), 1)", "entry_point": "f"}, "asserts nothing"),
        ({"test": "def check(candidate):\n    assert candidate(1)"}, "no entry_point"),
        ({"test": "def test_a():\n    f(1)"}, "asserts nothing"),
        (
            {
                "test": "import unittest\nclass T(unittest.TestCase):\n    def test(self):\n        self.assertEqual(f(1), 2)\n"
                "unittest.main(exit=False)"
            },
            "calls unittest.main",
        ),
    ],
)
def test_rows_that_cannot_be_used(row: dict[str, Any], why: str) -> None:
    with pytest.raises(BadRow, match=why):
        read(**row)


def test_tests_that_cannot_fail_by_what_they_get() -> None:
    helpers = "def same(a, b):\n    return near(a, b)\n\ndef near(a, b):\n    assert a == b\n"
    for row, free in (
        ({"test_list": ["assert f(1)", "f(2)"], "test_imports": ["import math"]}, "f(2)"),
        ({"test": "def test_a():\n    assert f(1)\n\ndef test_b():\n    f(2)\n"}, "test_b()"),
        ({"test": "def test_a():\n    assert f(1)\n\ndef test_b():\n    return test_b\n"}, "test_b()"),
        ({"test_list": ["same(f(1), 1)", "near(f(2), 2)"], "test_setup_code": helpers}, None),
        ({"test": "import pytest\n\ndef test_a():\n    with pytest.raises(ValueError):\n        f(1)\n"}, None),
        ({"test": "def check(candidate):\n    assert candidate(1)", "entry_point": "f"}, None),
        ({"test_list": ["assert f(1) == 1", "assert f(2) == f(2)"]}, "assert f(2) == f(2)"),
        (
            {
                "test": "from numpy.testing import assert_equal as same\nSAME = same\n\ndef check(candidate):\n    SAME(candidate(1), 1)",
                "entry_point": "f",
            },
            None,
        ),
        (
            {"test": "def check(candidate):\n    assert True, 'x'\n    assert candidate(1) == 1", "entry_point": "f"},
            None,
        ),
        ({"tests": [{"input": "1", "output": "2"}]}, None),
    ):
        assert toothless(read(**row)) == free


def test_a_column_that_is_asked_for() -> None:
    sample = Sample("q", "a", {"mine": [{"input": "1", "output": "2"}], "tests": [{"input": "1", "output": "3"}]})
    assert read_tests(sample, "mine") == Streams((("1", "2"),))
    with pytest.raises(BadRow, match="there are no tests in other"):
        read_tests(sample, "other")


@pytest.mark.parametrize(
    ("printed", "wanted", "tolerance", "same"),
    [
        ("1\n", "1", None, True), ("1  \n2\n\n\n", "1\n2", None, True), ("1\r\n2", "1\n2", None, True), ("", "1", None, False),
        (" 1", "1", None, False), ("1 2", "1  2", None, False), ("1\n\n2", "1\n2", None, False), ("A", "a", None, False),
        ("0.3333", "0.33333", None, False), ("0.3333", "0.33333", 1e-3, True), ("1 x 2.0", "1 x 2", 1e-9, True),
        ("1 y 2.0", "1 x 2", 1e-9, False), ("1000001", "1000000", 1e-5, True), ("nan", "1", 1e9, False), ("1 2", "1", 1, False),
        ("1e300", "42", 1, False), ("85", "42", 1, False), ("84", "42", 1, True), ("60", "42", 0.4, False), ("inf", "42", 1, False),
        ("inf", "inf", 0.1, True), ("1e300", "inf", 0.1, False), ("0", "0.5", 0.5, True), ("-42", "42", 1, False),
    ],
)  # fmt: skip
def test_texts(printed: str, wanted: str, tolerance: float | None, same: bool) -> None:
    assert same_text(printed, wanted, tolerance) is same


@pytest.mark.parametrize(
    ("returned", "wanted", "tolerance", "same"),
    [
        (1, 1, None, True), (1.0, 1, None, True), (True, 1, None, True), ((1, (2,)), [1, [2]], None, True), ("1", 1, None, False),
        ({1: (2,)}, {"1": [2]}, None, True), ({1: 2}, {"1": 3}, None, False), ({"a": 1}, {"b": 1}, None, False), ({1}, [1], None, False),
        (None, 0, None, False), (0.1 + 0.2, 0.3, None, False), (0.1 + 0.2, 0.3, 1e-9, True), ([0.1 + 0.2], [0.3], 1e-9, True),
        (float("nan"), 1.0, 1e9, False), (float("inf"), 1.0, 1e9, False), (1 << 5000, 1.5, 1e-9, False), (b"a", "a", None, False),
        (10**300, 42, 1.0, False), (1 << 5000, 42, 1.0, False), (44, 42, 0.05, True), (45, 42, 0.05, False),
        ({1 << 70: 2, "a": 1}, {"1": 2, "a": 1}, None, False), ([1], [1, 2], None, False), (range(10**12), [1], None, False),
    ],
)  # fmt: skip
def test_values(returned: Any, wanted: Any, tolerance: float | None, same: bool) -> None:
    assert same_value(returned, wanted, tolerance) is same


def test_values_are_shown_in_a_line() -> None:
    assert shown([1, "a"]) == "[1, 'a']"
    assert shown(1 << 100_000) == "<a number of 100001 bits>"
    assert len(shown("x" * 10**6)) < 200
    assert len(shown([["x" * 1000] * 1000] * 1000)) < 200
