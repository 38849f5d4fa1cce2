"""The parser from several threads at once."""

from __future__ import annotations

import ast
from concurrent.futures import ThreadPoolExecutor

import pytest

from plaudit.rewards import syntax

_CALLS = ", ".join(f"f({i})[{i}] + g({i})" for i in range(400))
DEEP = "x = " + "(" * 40 + "1" + ")" * 40 + f"\ny = [{_CALLS}]"


def test_threads_do_not_disturb_each_other() -> None:
    with ThreadPoolExecutor(8) as pool:
        trees = list(pool.map(syntax.parse, [DEEP] * 64))
    assert {ast.dump(tree) for tree in trees} == {ast.dump(ast.parse(DEEP))}


def test_what_a_library_does_in_its_own_thread_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = ast.parse, []

    def disturbed(text: str) -> ast.Module:
        calls.append(text)
        if len(calls) < 3:
            raise SystemError("AST constructor recursion depth mismatch (before=33, after=34)")
        return real(text)

    monkeypatch.setattr(ast, "parse", disturbed)
    assert ast.dump(syntax.parse("a = 1")) == ast.dump(real("a = 1"))
    assert len(calls) == 3


def test_a_fault_of_the_text_is_said_at_once() -> None:
    with pytest.raises(SyntaxError):
        syntax.parse("def")
