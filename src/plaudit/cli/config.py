"""`plaudit config show` and `plaudit config schema`."""

from __future__ import annotations

import json

import typer

from plaudit.cli.train import OPEN

_FILES = (".yaml", ".yml", ".json")

app = typer.Typer(
    help="Show a resolved configuration, or the JSON schema for editors.", no_args_is_help=True, rich_markup_mode=None
)
_ARGUMENTS = typer.Argument(None, metavar="[CONFIG.yaml]... [KEY=VALUE]... [--KEY VALUE]...")


@app.command("show", context_settings=OPEN["context_settings"])
def show(
    method: str = typer.Argument(None, help="A method's name or file; can be left out where a configuration names it."),
    arguments: list[str] = _ARGUMENTS,
) -> None:
    """Print the configuration that these arguments resolve to."""
    from plaudit.config.load import resolve

    rest = arguments or []
    named = method is not None and not (method.startswith("-") or "=" in method or method.endswith(_FILES))
    if method is not None and not named:
        rest = [method, *rest]
    typer.echo(resolve(method if named else None, overrides=rest, files_exist=False).as_yaml(), nl=False)


@app.command("schema")
def schema(method: str = typer.Argument(..., help="A method's name or file.")) -> None:
    """Print the JSON schema of a configuration file."""
    from plaudit.config.docs import json_schema
    from plaudit.methods import find

    typer.echo(json.dumps(json_schema(find(method)), indent=2, ensure_ascii=False))
