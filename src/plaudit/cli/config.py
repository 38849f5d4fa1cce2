"""`plaudit config show` and `plaudit config schema`."""

from __future__ import annotations

import json

import typer

from plaudit.cli.train import OPEN

app = typer.Typer(
    help="Show a resolved configuration, or the JSON schema for editors.", no_args_is_help=True, rich_markup_mode=None
)
_ARGUMENTS = typer.Argument(None, metavar="[CONFIG.yaml]... [KEY=VALUE]... [--KEY VALUE]...")


@app.command("show", context_settings=OPEN["context_settings"])
def show(method: str = typer.Argument(..., help="A method's name or file."), arguments: list[str] = _ARGUMENTS) -> None:
    """Print the configuration that these arguments resolve to."""
    from plaudit.config.load import resolve

    typer.echo(resolve(method, overrides=arguments or [], files_exist=False).as_yaml(), nl=False)


@app.command("schema")
def schema(method: str = typer.Argument(..., help="A method's name or file.")) -> None:
    """Print the JSON schema of a configuration file."""
    from plaudit.config.docs import json_schema
    from plaudit.methods import find

    typer.echo(json.dumps(json_schema(find(method)), indent=2, ensure_ascii=False))
