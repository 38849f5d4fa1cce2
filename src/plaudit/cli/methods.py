"""`plaudit methods`."""

from __future__ import annotations

import typer


def command(name: str = typer.Argument(None, help="A method, or the path of a Python file that defines one.")) -> None:
    """List the methods, or explain one with its options."""
    from plaudit.cli.method_help import print_method, print_methods

    if name is None:
        print_methods()
    else:
        print_method(name)
