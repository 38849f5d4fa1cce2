"""Python's parser for several threads.

CPython counts the depth of syntax trees per interpreter: two threads that parse at the same time can be told
"SystemError: AST constructor recursion depth mismatch" about a text in which nothing is wrong.
"""

from __future__ import annotations

import ast
import threading

_ONE_AT_A_TIME = threading.Lock()
_ATTEMPTS = 5
"""A library may parse in a thread of its own, without the lock."""


def parse(text: str) -> ast.Module:
    """`ast.parse`, from any thread.

    Raises:
        SyntaxError, ValueError, RecursionError, MemoryError: as `ast.parse`.
    """
    with _ONE_AT_A_TIME:
        for _ in range(_ATTEMPTS - 1):
            try:
                return ast.parse(text)
            except SystemError:
                continue
        return ast.parse(text)
