"""What the names of a script stand for where they come from another module."""

from __future__ import annotations

import ast
from collections.abc import Iterator


class Imported:
    """The imports of a script, wherever they stand in it.

    Attributes:
        names: name → everything that it is imported as: (module, name in it), the latter empty for the module itself.
            A relative import has no module: which package the script is in is not known.
        modules: dotted names that `import` makes known under themselves.
    """

    def __init__(self, module: ast.Module) -> None:
        self.names: dict[str, set[tuple[str, str]]] = {}
        self.modules: set[str] = set()
        for node in ast.walk(module):
            if isinstance(node, ast.Import):
                self._modules(node)
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    origin = (node.module or "") if node.level == 0 else ""
                    self.names.setdefault(alias.asname or alias.name, set()).add((origin, alias.name))

    def _modules(self, node: ast.Import) -> None:
        for alias in node.names:
            first = alias.name if alias.asname else alias.name.partition(".")[0]
            self.names.setdefault(alias.asname or first, set()).add((first, ""))
            if not alias.asname:
                self.modules.add(alias.name)

    def origin(self, node: ast.expr) -> tuple[str, str] | None:
        """(module, name) of a name or of attributes of one; None where it is a module, or no single import says it.

        What is reached through a name that a module exports is in a module below it (`from pkg import rewards;
        rewards.tidy`), but for a class, which a capital begins.
        """
        chain = list(_chain(node))
        known = self.names.get(chain[0], set()) if chain else set()
        if len(known) != 1:
            return None
        ((module, name),) = known
        if not module:
            return None
        inner = chain[1:]
        if name:
            if not inner or name[:1].isupper():
                return module, ".".join([name, *inner])
            return f"{module}.{name}", ".".join(inner)
        while len(inner) > 1 and f"{module}.{inner[0]}" in _with_parents(self.modules):
            module, inner = f"{module}.{inner[0]}", inner[1:]
        return (module, ".".join(inner)) if inner else None


def _with_parents(modules: set[str]) -> set[str]:
    return {".".join(parts[:n]) for parts in (m.split(".") for m in modules) for n in range(1, len(parts) + 1)}


def _chain(node: ast.expr) -> Iterator[str]:
    """The words of `a.b.c`; none where it is anything else."""
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Attribute):
        words = list(_chain(node.value))
        if words:
            yield from (*words, node.attr)


def functions(module: ast.Module) -> set[str]:
    """Names of functions that the script defines; a method is none of them, since no bare name means it."""
    methods = {id(inner) for node in ast.walk(module) if isinstance(node, ast.ClassDef) for inner in node.body}
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {n.name for n in ast.walk(module) if isinstance(n, kinds) and id(n) not in methods}
