"""What stands where a test is just now. The tests' own text is read, never the program's."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing `typing` takes longer than most programs run, and so does `ast`, which few tests need
    import ast
    from collections.abc import Mapping
    from types import FrameType


def result_is_dropped(texts: Mapping[str, str], frame: FrameType) -> bool:
    """Whether the call that runs in a frame is a statement by itself, so that its result is compared with nothing."""
    import ast

    tree = _tree(texts, frame)
    at = list(frame.f_code.co_positions())[frame.f_lasti // 2]
    return tree is not None and any(
        isinstance(node, ast.Expr) and _position(node.value) == at and isinstance(node.value, ast.Call)
        for node in ast.walk(tree)
    )


def holds_no_check(texts: Mapping[str, str], frame: FrameType) -> bool:
    """Whether the `with` that ends in a frame has nothing in it that could find a result wrong.

    What cannot be found in the text may have: then the answer is no.
    """
    import ast

    tree = _tree(texts, frame)
    if tree is None:
        return False
    line = frame.f_lineno
    found = [
        node
        for node in ast.walk(tree)
        if isinstance(node, (ast.With, ast.AsyncWith)) and node.lineno <= line <= node.body[0].lineno
    ]
    if not found:
        return False
    functions: dict[str, ast.AST] = {}
    for text in texts.values():
        functions |= {n.name: n for n in ast.walk(_parsed(text)) if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    waiting: list[ast.AST] = [statement for node in found for statement in node.body]
    while waiting:
        for node in ast.walk(waiting.pop()):
            if _checks(node):
                return False
            if isinstance(node, ast.Name) and node.id in functions:
                waiting.append(functions.pop(node.id))
    return True


def _checks(node: ast.AST) -> bool:
    """A `raise` by itself is what the manager is given; one under a condition says that something is wrong."""
    import ast

    if isinstance(node, ast.Call):
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        return name.startswith(("assert", "fail", "raises"))
    return isinstance(node, ast.Assert) or (
        isinstance(node, (ast.If, ast.For, ast.While, ast.Try, ast.Match, ast.IfExp))
        and any(isinstance(each, ast.Raise) for each in ast.walk(node))
    )


def _tree(texts: Mapping[str, str], frame: FrameType) -> ast.Module | None:
    text = texts.get(frame.f_code.co_filename)
    return None if text is None else _parsed(text)


def _parsed(text: str) -> ast.Module:
    import ast

    return ast.parse(text)


def _position(node: ast.expr) -> tuple[int, int | None, int, int | None]:
    return node.lineno, node.end_lineno, node.col_offset, node.end_col_offset
