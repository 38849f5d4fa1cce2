"""What of the assertions of tests the program decides alone.

An assertion compares something of the program with something that the tests know. Where both come out of the program
(`f(3) == g(3)`), or where a function of the program judges the result of another one (`is_close(f(3), 9)`), a program
that returns nothing useful passes. Round trips (`decode(encode(s)) == s`) are compared with what the tests know.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from plaudit.rewards.verifiers.code_names import COMPARATORS

_CLASS = re.compile(r"_*[A-Z][A-Za-z0-9]*")
_KEEPS = frozenset({"dict", "list", "max", "min", "set", "sorted", "tuple"})
"""What these return holds the objects that it is given."""
_OF_KINDS = frozenset({"callable", "hasattr", "isinstance", "issubclass"})
_EQUALITIES = (ast.Eq, ast.In)
_OPPOSITES = (ast.NotEq, ast.NotIn)
_ORDERS: tuple[tuple[str, type[ast.cmpop]], ...] = (
    *(("assertnotin", ast.NotIn), ("assertnot", ast.NotEq), ("assertin", ast.In)),
    *(("assertgreater", ast.Gt), ("assertless", ast.Lt), ("assert", ast.Eq)),
)
_ADVICE = "say in the tests (test_setup_code, or the test itself) what {0} is, or compare with a value"


@dataclass(frozen=True, slots=True)
class _Result:
    """A value that comes out of the program."""

    root: str
    """the name of the program that it comes from"""
    made: bool = False
    """whether it is an object as its class makes it"""
    of: frozenset[str] = frozenset()
    """other functions of the program whose results it was made from"""


_Known = dict[str, tuple[_Result, ...]]


def toothless_tuple(tree: ast.AST) -> str | None:
    """The first `assert (condition, "message")`, which is always true."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert) and isinstance(node.test, ast.Tuple) and node.test.elts:
            return ast.unparse(node)
    return None


def always_true(node: ast.AST) -> bool:
    """Whether an assertion is of a constant: `assert True`, which stands in the tests of HumanEval to no effect."""
    return isinstance(node, ast.Assert) and isinstance(node.test, ast.Constant) and bool(node.test.value)


def _last_name(call: ast.expr) -> str:
    """Of `a.b.c(…)`, c."""
    called = call.func if isinstance(call, ast.Call) else None
    return called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""


def _pairs(one: ast.expr, other: ast.expr) -> list[tuple[ast.expr, ast.expr]]:
    """Of `(a, b)` and `(c, d)`, a with c and b with d."""
    if not (isinstance(one, (ast.Tuple, ast.List)) and isinstance(other, (ast.Tuple, ast.List))):
        return []
    return list(zip(one.elts, other.elts, strict=True)) if len(one.elts) == len(other.elts) else []


def _difference(node: ast.expr) -> tuple[ast.expr, ast.expr] | None:
    """Of `abs(a - b)`, a and b: it is compared with how far they may be apart."""
    if isinstance(node, ast.Call) and _last_name(node) in ("abs", "fabs") and len(node.args) == 1:
        inner = node.args[0]
        if isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.Sub):
            return inner.left, inner.right
    return None


class Assertions:
    """Reads the assertions of tests.

    Args:
        tree: the tests, with what is run before them.
        names: of the program.
        function: what the argument of `check` is.

    Attributes:
        weak: assertions, as text, that only compare results of one function with each other: a constant passes.
    """

    def __init__(self, tree: ast.Module, names: Iterable[str], function: str | None) -> None:
        self.names, self.function = frozenset(names), function
        self.weak: set[str] = set()
        self._strong = False
        self._text = ""
        self._objects: list[str] = []
        self._judged: list[tuple[str, str, str]] = []
        self._mixed: list[tuple[frozenset[str], str]] = []
        self._settled: set[str] = set()
        """functions with a result that is compared with a known value, or that must be false somewhere"""
        self._later: list[tuple[ast.FunctionDef | ast.AsyncFunctionDef, _Known]] = []
        self._visit(tree.body, {})
        while self._later:
            node, outer = self._later.pop(0)
            self._visit(node.body, self._inside(node, outer))

    def problem(self) -> str | None:
        """What is wrong with the first assertion that the program decides alone, and how to mend it."""
        for text in self._objects:
            return (
                f"{text!r} compares objects of the program with each other, and only the program could say whether they"
                f" are equal: compare their attributes with values"
            )
        for judge, result, text in self._judged:
            if judge not in self._settled:
                return (
                    f"{text!r} is decided by the program alone: its own {judge} judges the result of its {result}:"
                    f" {_ADVICE.format(judge)}"
                )
        for roots, text in self._mixed:
            if not roots <= self._settled:
                both = " and ".join(sorted(roots))
                free = " or ".join(sorted(roots - self._settled))
                return f"{text!r} is decided by the program alone: {both} both come out of it: {_ADVICE.format(free)}"
        return None

    # -- statements ------------------------------------------------------------------------------------------------

    def _inside(self, node: ast.FunctionDef | ast.AsyncFunctionDef, outer: _Known) -> _Known:
        arguments = [*node.args.posonlyargs, *node.args.args]
        known = {**outer, **{each.arg: () for each in [*arguments, *node.args.kwonlyargs]}}
        if node.name == "check" and self.function is not None and arguments:
            known[arguments[0].arg] = (_Result(self.function),)
        return known

    def _visit(self, body: Sequence[ast.stmt], known: _Known) -> None:
        for node in body:
            self._statement(node, known)

    def _statement(self, node: ast.stmt, known: _Known) -> None:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._later.append((node, known))
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    self._bind(target, value, known)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                self._bind(target, value, known)
            case ast.AugAssign(target=ast.Name(id=name), value=value):
                known[name] = (*self._results(node.target, known), *self._results(value, known))
            case ast.Assert(test=test):
                self._assertion(node, test, True, known)
            case ast.Expr(value=ast.Call() as call):
                self._asserting_call(node, call, known)
            case ast.If(test=test, body=[ast.Raise(), *_]):
                self._assertion(node, test, False, known)
            case ast.For(target=target, iter=values) | ast.AsyncFor(target=target, iter=values):
                self._hold(target, self._results(values, known), known)
            case ast.With(items=items) | ast.AsyncWith(items=items):
                for item in items:
                    if item.optional_vars is not None:
                        self._hold(item.optional_vars, self._results(item.context_expr, known), known)
            case _:
                pass
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return
        for field in ("body", "orelse", "finalbody"):
            self._visit(getattr(node, field, []), known)
        for part in [*getattr(node, "handlers", []), *getattr(node, "cases", [])]:
            self._visit(part.body, known)

    def _bind(self, target: ast.expr, value: ast.expr, known: _Known) -> None:
        pairs = _pairs(target, value)
        for one, held in pairs:
            self._bind(one, held, known)
        if pairs:
            return
        self._hold(target, self._results(value, known), known)

    def _hold(self, target: ast.expr, found: tuple[_Result, ...], known: _Known) -> None:
        match target:
            case ast.Name(id=name):
                known[name] = found
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                for part in parts:
                    self._hold(part, found, known)
            case ast.Starred(value=part):
                self._hold(part, found, known)
            case ast.Subscript(value=ast.Name(id=name)):
                known[name] = tuple(dict.fromkeys((*known.get(name, ()), *found)))
            case _:
                pass

    # -- assertions ------------------------------------------------------------------------------------------------

    def _assertion(self, node: ast.stmt, test: ast.expr, expected: bool, known: _Known) -> None:
        self._strong, self._text = False, ast.unparse(node).replace("\n", " ")[:100]
        self._truth(test, expected, known)
        if not self._strong:
            self.weak.add(ast.unparse(node))

    def _asserting_call(self, node: ast.stmt, call: ast.Call, known: _Known) -> None:
        """self.assertEqual(a, b), np.testing.assert_allclose(a, b)."""
        name = _last_name(call)
        said = name.lower().replace("_", "")
        if not said.startswith("assert") or name in self.names or "raises" in said or "instance" in said:
            return
        if len(call.args) > 1 and not said.startswith(("asserttrue", "assertfalse")):
            order = next(kind for start, kind in _ORDERS if said.startswith(start))
            test: ast.expr = ast.Compare(call.args[0], [order()], [call.args[1]])
            self._assertion(node, ast.copy_location(test, call), True, known)
        elif call.args:
            self._assertion(node, call.args[0], not said.startswith("assertfalse"), known)

    def _truth(self, node: ast.expr, expected: bool, known: _Known) -> None:
        match node:
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                self._truth(operand, not expected, known)
            case ast.BoolOp(values=values):
                for value in values:
                    self._truth(value, expected, known)
            case ast.Compare(left=left, ops=orders, comparators=others):
                sides = [left, *others]
                for one, order, other in zip(sides, orders, others, strict=False):
                    self._comparison(one, order, other, expected, known)
            case ast.Call(args=[one, other, *_]) if _last_name(node) in COMPARATORS - self.names:
                self._comparison(one, ast.Eq(), other, expected, known)
            case ast.Call(func=ast.Name(id="all" | "any" | "bool"), args=[argument]):
                if isinstance(argument, (ast.GeneratorExp, ast.ListComp)):
                    self._truth(argument.elt, expected, self._within(argument.generators, known))
                else:
                    self._alone(argument, expected, known)
            case ast.Call(func=ast.Name(id=name)) if name in _OF_KINDS:
                self._strong = self._strong or not any(
                    _CLASS.fullmatch(r.root) for each in node.args[1:] for r in self._results(each, known)
                )
            case _:
                self._alone(node, expected, known)

    def _alone(self, node: ast.expr, expected: bool, known: _Known) -> None:
        """A value that must be true, or false."""
        found = self._results(node, known)
        roots = frozenset(result.root for result in found)
        if len(roots) > 1:
            self._mixed.append((roots, self._text))
            return
        self._strong = True
        if not expected:
            self._settled |= roots
        else:
            self._judge(found)

    def _judge(self, found: Iterable[_Result]) -> None:
        for result in found:
            for other in sorted(result.of - {result.root})[:1]:
                self._judged.append((result.root, other, self._text))

    def _comparison(self, one: ast.expr, order: ast.cmpop, other: ast.expr, expected: bool, known: _Known) -> None:
        for side, value in ((one, other), (other, one)):
            if isinstance(value, ast.Constant) and isinstance(value.value, bool):
                same = isinstance(order, (ast.Eq, ast.Is)) == value.value
                self._truth(side, same == expected, known)
                return
        pairs = _pairs(one, other) if isinstance(order, ast.Eq) else []
        for a, b in pairs:
            self._comparison(a, order, b, expected, known)
        if pairs:
            return
        near = _difference(one) if isinstance(order, (ast.Lt, ast.LtE)) else None
        if near is not None and not self._results(other, known):
            self._comparison(near[0], ast.Eq(), near[1], expected, known)
            return
        left, right = self._results(one, known), self._results(other, known)
        roots = frozenset(result.root for result in (*left, *right))
        if isinstance(order, (ast.Is, ast.IsNot)):
            self._strong = self._strong or not (left and right)
        elif left and right and any(result.made for result in (*left, *right)):
            self._objects.append(self._text)
        elif len(roots) > 1:
            self._mixed.append((roots, self._text))
        elif not (left and right):
            self._strong = True
            if isinstance(order, _EQUALITIES if expected else _OPPOSITES):
                self._settled |= roots
            else:
                self._judge((*left, *right))

    # -- expressions -----------------------------------------------------------------------------------------------

    def _results(self, node: ast.AST, known: _Known) -> tuple[_Result, ...]:
        """What of the program is in the value of an expression."""
        match node:
            case ast.Name(id=name):
                return known[name] if name in known else (_Result(name),) if name in self.names else ()
            case ast.Call(func=called, args=args, keywords=named):
                return self._called(called, [*args, *(each.value for each in named)], known)
            case ast.Attribute(value=value) | ast.Subscript(value=value):
                return tuple(dict.fromkeys(replace(r, made=False) for r in self._results(value, known)))
            case ast.Lambda(args=arguments, body=body):
                return self._results(body, {**known, **{each.arg: () for each in arguments.args}})
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp():
                return self._results(node.elt, self._within(node.generators, known))
            case ast.DictComp(key=key, value=value, generators=generators):
                inner = self._within(generators, known)
                return tuple(dict.fromkeys((*self._results(key, inner), *self._results(value, inner))))
            case _:
                parts = (r for child in ast.iter_child_nodes(node) for r in self._results(child, known))
                return tuple(dict.fromkeys(parts))

    def _called(self, called: ast.expr, args: Sequence[ast.expr], known: _Known) -> tuple[_Result, ...]:
        given = tuple(dict.fromkeys(r for each in args for r in self._results(each, known)))
        base = self._results(called, known)
        if not base:
            kept = isinstance(called, ast.Name) and called.id in _KEEPS
            return given if kept else tuple(dict.fromkeys(replace(r, made=False) for r in given))
        # What classes make is what a function works on, as the nodes of a tree are; it is no result of another one.
        of = {r.root for r in given if not r.made} | {name for r in (*given, *base) for name in r.of}
        made = isinstance(called, ast.Name) and _CLASS.fullmatch(base[0].root) is not None
        return (_Result(base[0].root, made, frozenset(of)),)

    def _within(self, generators: Sequence[ast.comprehension], known: _Known) -> _Known:
        inner = dict(known)
        for each in generators:
            self._hold(each.target, self._results(each.iter, inner), inner)
        return inner
