"""Names that tests use without importing them, and that mean the standard library or a package.

They never come from the program: one that brings its own `math.isclose` or `Counter` would pass whatever it returns.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable

_NOT_MEANT = frozenset({"antigravity", "idlelib", "lib2to3", "test", "this", "turtledemo"})
_MODULES = frozenset(name for name in sys.stdlib_module_names if not name.startswith("_")) - _NOT_MEANT
_PACKAGES = {
    **{name: f"import {name}" for name in ("numpy", "pandas", "pytest", "scipy", "sympy", "torch", "networkx")},
    "np": "import numpy as np",
    "pd": "import pandas as pd",
    "nx": "import networkx as nx",
    "dt": "import datetime as dt",
}
_COMPARATORS = {
    "isclose": "math",
    **dict.fromkeys(("allclose", "array_equal"), "numpy"),
    **dict.fromkeys(("assert_allclose", "assert_almost_equal", "assert_array_equal"), "numpy.testing"),
    "approx": "pytest",
}
_MEMBERS = {
    **_COMPARATORS,
    **dict.fromkeys(("Counter", "OrderedDict", "ChainMap", "defaultdict", "deque", "namedtuple"), "collections"),
    **dict.fromkeys(("pi", "inf", "nan", "isnan", "isinf", "isfinite"), "math"),
    **dict.fromkeys(("date", "datetime", "timedelta", "timezone"), "datetime"),
    **dict.fromkeys(("List", "Dict", "Tuple", "Set", "Optional", "Union", "Any", "Callable", "Iterable"), "typing"),
    **dict.fromkeys(("StringIO", "BytesIO"), "io"),
    **dict.fromkeys(("redirect_stdout", "suppress"), "contextlib"),
    "Decimal": "decimal",
    "Fraction": "fractions",
    "Path": "pathlib",
    "deepcopy": "copy",
}
"""Types, constants and comparisons. Functions such as gcd and factorial are not here: data sets ask for programs that
define them. Where a test means the library's, it imports it, or `code_asserts` says that it must."""
COMPARATORS = frozenset(_COMPARATORS)
"""Of these none is a function under test unless the row says so."""
_OF_DATETIME = frozenset({"MAXYEAR", "MINYEAR", "UTC", "date", "datetime", "time", "timedelta", "timezone", "tzinfo"})


def library(names: Iterable[str], tree: ast.Module) -> dict[str, str]:
    """Those of the names that mean a library as the tests use them, each with the import that gives it.

    A module is only meant where nothing but its attributes is used: `queue.Queue()`, not `queue(3)`.
    """
    asked = set(names)
    bases: dict[str, set[str]] = {}
    held: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in asked:
            bases.setdefault(node.value.id, set()).add(node.attr)
            held.add(id(node.value))
    alone = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id in asked and id(n) not in held}
    found: dict[str, str] = {}
    for name in sorted(asked):
        module = name not in alone and (name in _MODULES or name in _PACKAGES)
        if name == "datetime":  # the module and its class have one name
            module = module and bases[name] <= _OF_DATETIME
        if module:
            found[name] = _PACKAGES.get(name, f"import {name}")
        elif name in _MEMBERS:
            found[name] = f"from {_MEMBERS[name]} import {name}"
    return found
