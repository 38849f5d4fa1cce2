"""Tests of programs as data sets write them.

- input and output: `tests: [{"input": "1 2\\n", "output": "3\\n"}]`, or `{"inputs": [...], "outputs": [...]}`
  (APPS, TACO, LiveCodeBench);
- calls: the same with `fn_name`: each input holds the arguments (a list, or lines of JSON), each output the result;
- asserts: `test_list: ["assert f(1) == 2"]` with `test_setup_code` and `test_imports` (MBPP);
- `check`: `test` with a function `check(candidate)`, and `entry_point` (HumanEval);
- functions `test_…`, with `from solution import f` (KodCode).

Every form may be JSON in a text. A test that a program passes by doing nothing is refused: it would be a reward for
nothing, and the policy would find it. So are assertions that the program decides alone (`code_asserts`), and tests that
only `unittest.main()` would run: no program passes them.
"""

from __future__ import annotations

import ast
import builtins
import json
import symtable
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from plaudit.rewards.contract import BadRow, Sample
from plaudit.rewards.sandbox.base import TestCode
from plaudit.rewards.syntax import parse
from plaudit.rewards.verifiers.code_asserts import Assertions, always_true, toothless_tuple
from plaudit.rewards.verifiers.code_names import COMPARATORS, library

COLUMNS = ("tests", "test_cases", "input_output", "test_list", "test")
"""Where tests are looked for, in this order."""
_FUNCTION_COLUMNS = ("fn_name", "entry_point", "func_name")


@dataclass(frozen=True, slots=True)
class Streams:
    """Texts for stdin, with what must be printed."""

    cases: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Calls:
    """Arguments, with what must be returned.

    Attributes:
        wrapped: whether an expected value may be alone in a list, as APPS writes it.
    """

    function: str
    cases: tuple[tuple[tuple[Any, ...], Any], ...]
    wrapped: bool = False


Tests = Streams | Calls | TestCode


def read_tests(sample: Sample, column: str | None = None) -> Tests:
    """The tests of a row.

    Args:
        column: where they are; None: the first of `COLUMNS` that has something.

    Raises:
        BadRow: there are none, or they are unusable.
    """
    row = sample.row
    names = (column,) if column is not None else COLUMNS
    for name in names:
        value = _plain(row.get(name), name)
        if value is not None and not (isinstance(value, (str, list, dict)) and not value):
            return _read(value, name, sample)
    have = ", ".join(sorted(map(str, row))) or "none"
    raise BadRow(f"there are no tests in {', '.join(names)} (the row has: {have})")


def _plain(value: Any, name: str) -> Any:
    """Lists and mappings out of what readers of files give."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except ValueError as error:
            raise BadRow(f"the column {name!r} is no JSON: {error}") from None
        except RecursionError:
            raise BadRow(f"the column {name!r} is nested too deeply") from None
    return list(value) if isinstance(value, tuple) else value


def _read(value: Any, name: str, sample: Sample) -> Tests:
    if isinstance(value, Mapping) and "inputs" in value and "outputs" in value:
        inputs, outputs = value["inputs"], value["outputs"]
        if not isinstance(inputs, Sequence) or not isinstance(outputs, Sequence) or len(inputs) != len(outputs):
            raise BadRow(f"the column {name!r} has not as many outputs as inputs")
        return _pairs(list(zip(inputs, outputs, strict=True)), value.get("fn_name") or _function(sample), name)
    if isinstance(value, list) and all(isinstance(each, Mapping) for each in value):
        if not all("input" in each and "output" in each for each in value):
            raise BadRow(f"the column {name!r} has a test without input or output")
        called = any(each.get("testtype") == "functional" or not isinstance(each["input"], str) for each in value)
        return _pairs([(e["input"], e["output"]) for e in value], _function(sample) if called else None, name)
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        setup = [*_texts(sample, "test_imports"), *_texts(sample, "test_setup_code")]
        return _code("\n".join(setup), value, name, _function(sample))
    if isinstance(value, str):
        return _script(value, name, sample)
    raise BadRow(f"the column {name!r} holds no form of tests that is known: {type(value).__name__}")


def _function(sample: Sample) -> str | None:
    for name in _FUNCTION_COLUMNS:
        if isinstance(sample.row.get(name), str) and sample.row[name].strip():
            return str(sample.row[name]).strip()
    about = _plain(sample.row.get("metadata"), "metadata")
    found = about.get("func_name") if isinstance(about, Mapping) else None
    return found if isinstance(found, str) else None


def _texts(sample: Sample, name: str) -> list[str]:
    value = _plain(sample.row.get(name), name)
    return [str(each) for each in (value if isinstance(value, list) else [value]) if each]


# -- input and output, calls -------------------------------------------------------------------------------------------


def _pairs(pairs: Sequence[tuple[Any, Any]], function: str | None, name: str) -> Streams | Calls:
    if not pairs:
        raise BadRow(f"the column {name!r} has no tests")
    if function is None:
        cases = tuple((_stream(given, name), _stream(wanted, name)) for given, wanted in pairs)
        if not all(wanted.strip() for _, wanted in cases):
            raise BadRow(
                f"the column {name!r} has a test without expected output: a program that does nothing passes it"
            )
        return Streams(cases)
    if all(isinstance(given, str) for given, _ in pairs):  # arguments are lines of JSON, the result is JSON
        calls = tuple((tuple(map(_json, given.splitlines())), _json(wanted)) for given, wanted in pairs)
    else:
        calls = tuple((tuple(g) if isinstance(g, (list, tuple)) else (g,), wanted) for g, wanted in pairs)
    if any(wanted is None for _, wanted in calls):
        raise BadRow(f"the column {name!r} expects None: a function that does nothing returns it")
    return Calls(function, calls, wrapped=not isinstance(pairs[0][0], str))


def _stream(value: Any, name: str) -> str:
    if isinstance(value, (list, tuple)):
        return "\n".join(_stream(each, name) for each in value)
    if value is None or isinstance(value, (dict, bytes)):
        raise BadRow(f"the column {name!r} has a {type(value).__name__} where text is expected")
    return str(value)


def _json(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


# -- tests that are code -----------------------------------------------------------------------------------------------


def _script(text: str, name: str, sample: Sample) -> TestCode:
    tree = _parsed(text, name)
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    if "check" in defined:
        function = _function(sample)
        if function is None:
            raise BadRow(f"the column {name!r} has check(candidate), and the row no entry_point")
        return _code(f"{_helpers(sample, function)}\n{text}", [f"check({function})"], name, function)
    tests = [test for test in defined if test.startswith("test")]
    if tests:
        rest, own = _without_import(tree)
        return _code(ast.unparse(rest), [f"{test}()" for test in tests], name, None, own)
    if any(isinstance(node, ast.Expr) and ast.unparse(node).startswith("unittest.main(") for node in tree.body):
        raise BadRow(f"the column {name!r} calls unittest.main(), which finds no tests here; use test_ functions")
    setup = "\n".join([*_texts(sample, "test_imports"), *_texts(sample, "test_setup_code")])
    rest, own = _without_import(tree)
    return _code(setup, [ast.unparse(rest)], name, _function(sample), own)


def _parsed(text: str, name: str) -> ast.Module:
    try:
        return parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadRow(f"the column {name!r} is no Python: {error}") from None


def _without_import(tree: ast.Module) -> tuple[ast.Module, set[str]]:
    """`from solution import f` means the program: its names are there anyway. The tests without it, and the names."""
    body: list[ast.stmt] = []
    own: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module in ("solution", "main"):
            renamed = (f"{alias.asname} = {alias.name}" for alias in node.names if alias.asname)
            own |= {alias.name for alias in node.names}
            body += [statement for line in renamed for statement in parse(line).body]
        else:
            body.append(node)
    return ast.Module(body, tree.type_ignores), own


def _helpers(sample: Sample, function: str) -> str:
    """What the prompt defines beside the function: the tests use it too, and must not use the program's."""
    text = prompt_code(sample, function)
    if text is None:
        return ""
    tree = parse(text)
    tree.body = [n for n in tree.body if not (isinstance(n, ast.FunctionDef) and n.name == function)]
    return ast.unparse(tree)


def prompt_code(sample: Sample, function: str) -> str | None:
    """The prompt, where it is Python and begins the function, as HumanEval's are."""
    for text in (sample.row.get("prompt"), sample.prompt):
        if isinstance(text, str) and f"def {function}" in text:
            try:
                parse(text)
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                continue
            return text
    return None


def _code(setup: str, entries: Sequence[str], name: str, function: str | None, own: Iterable[str] = ()) -> TestCode:
    """The tests, if a program can fail them.

    Args:
        own: names that the tests say to be the program's.
    """
    return _read_code(setup, tuple(entries), name, function, frozenset(own))


@lru_cache(maxsize=256)  # several answers are scored by the same tests
def _read_code(setup: str, entries: tuple[str, ...], name: str, function: str | None, own: frozenset[str]) -> TestCode:
    if not entries:
        raise BadRow(f"the column {name!r} has no tests")
    whole = _parsed("\n".join([setup, *entries]), name)
    for entry in entries:
        _parsed(entry, name)
    always = toothless_tuple(whole)
    if always is not None:
        raise BadRow(
            f"the column {name!r} has {always!r}, which is always true: brackets make it a tuple that is not empty;"
            " write the condition and the message without them"
        )
    defined = _defined(setup)
    if not any(_checks_something(entry, defined) for entry in [_runs(setup), *entries]):
        raise BadRow(f"the column {name!r} asserts nothing: any program passes it")
    if len(entries) > 1 and not setup and not all(map(_checks_something, entries)):
        raise BadRow(f"the column {name!r} has a test that asserts nothing")
    names, imports = _wanted(setup, entries, function, own)
    found = Assertions(whole, names, function)
    problem = found.problem()
    if problem is not None:
        raise BadRow(f"the column {name!r}: {problem}")
    if found.weak and not any(_checks_something(entry, defined, found.weak) for entry in [_runs(setup), *entries]):
        raise BadRow(
            f"the column {name!r} only compares what the program returns with what it returns elsewhere: a program that"
            " always returns the same passes it; compare with values"
        )
    return TestCode(_with_imports(setup, imports), entries, names, function)


def _with_imports(setup: str, imports: Sequence[str]) -> str:
    """`from __future__` has to come first."""
    if not imports:
        return setup
    future = [
        n.end_lineno or 0 for n in parse(setup).body if isinstance(n, ast.ImportFrom) and n.module == "__future__"
    ]
    lines = setup.splitlines()
    at = max(future, default=0)
    return "\n".join([*lines[:at], *imports, *lines[at:]])


def toothless(tests: Tests) -> str | None:
    """A test that asserts nothing, by itself or by what the setup defines; None where there is none.

    Where all tests must pass, one that only calls the program is harmless. Where each counts for itself, any program
    that can be called has its share.
    """
    if not isinstance(tests, TestCode):
        return None
    whole = parse("\n".join([tests.setup, *tests.entries]))
    weak = Assertions(whole, tests.names, tests.function).weak
    defined = _defined(tests.setup)
    return next((entry for entry in tests.entries if not _checks_something(entry, defined, weak)), None)


def _defined(setup: str) -> dict[str, ast.AST]:
    """What the names of the setup are: functions, classes, values, and assertions that it imports."""
    found: dict[str, ast.AST] = {}
    for node in parse(setup).body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found[name] = node
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                found[name] = value
            case ast.ImportFrom(names=aliases):
                raising = ast.Raise()
                found |= {a.asname or a.name: raising for a in aliases if a.name.startswith("assert")}
            case _:
                pass
    return found


def _runs(setup: str) -> str:
    """What of the setup runs by itself: it can find a result wrong too."""
    tree = parse(setup)
    tree.body = [n for n in tree.body if not isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))]
    return ast.unparse(tree)


def _checks_something(entry: str, defined: Mapping[str, ast.AST] | None = None, weak: Collection[str] = ()) -> bool:
    """Whether a test, or anything of `defined` that it uses, can find a result wrong; assertions of `weak` cannot."""
    waiting: list[ast.AST] = [parse(entry)]
    left = dict(defined or {})
    while waiting:
        for node in ast.walk(waiting.pop()):
            if _checks(node) and not (weak and isinstance(node, ast.stmt) and ast.unparse(node) in weak):
                return True
            if isinstance(node, ast.Name) and node.id in left:
                waiting.append(left.pop(node.id))
    return False


def _checks(node: ast.AST) -> bool:
    """Statements that fail a test, calls such as self.assertEqual(…), and `with pytest.raises(…)`."""
    if isinstance(node, ast.withitem):
        return _method(node.context_expr) == "raises"
    if isinstance(node, ast.Expr):
        return _method(node.value).startswith("assert")
    return isinstance(node, ast.Raise) or (isinstance(node, ast.Assert) and not always_true(node))


def _method(node: ast.AST) -> str:
    """Of a call such as `a.b()`, b; of anything else, nothing."""
    return node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""


def _wanted(
    setup: str, entries: Sequence[str], function: str | None, own: Iterable[str]
) -> tuple[tuple[str, ...], list[str]]:
    """Names that the tests use and do not make themselves: the program's; and imports for those that are a library's.

    Names of built-in functions stay Python's own, and what tests use of the standard library is the library's, or a
    program could redefine `all`, or `math`. Some programs are asked for a function of such a name: the row or the tests
    say so, or the tests call nothing else.
    """
    text = "\n".join([setup, *entries])
    top = symtable.symtable(text, "tests", "exec")
    made = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported() or s.is_namespace()}
    used: set[str] = set()
    tables = [top]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (table is top or symbol.is_global()):
                used.add(symbol.get_name())
    free = {name for name in used - made if not name.startswith("__")}
    mine = free & {*own, *(() if function is None else (function,))}
    unsaid = free - mine
    imports = library(unsaid, parse(text))
    names = mine | {name for name in unsaid - imports.keys() if not hasattr(builtins, name)}
    if function is not None:
        names.add(function)
    if not names:
        names = set.intersection(*(_outermost(entry) for entry in entries))
    return tuple(sorted(names)), [line for name, line in imports.items() if name not in names]


def _outermost(entry: str) -> set[str]:
    """Names that are called on the left of a comparison, not inside of another call."""
    found: set[str] = set()
    for node in ast.walk(parse(entry)):
        if isinstance(node, ast.Assert):
            left = node.test.left if isinstance(node.test, ast.Compare) else node.test
            if isinstance(left, ast.Call) and isinstance(left.func, ast.Name) and left.func.id not in COMPARATORS:
                found.add(left.func.id)
    return found
