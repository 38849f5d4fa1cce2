"""`plaudit config show` and `plaudit config schema`."""

from __future__ import annotations

import json
from pathlib import Path

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
def schema(
    method: str = typer.Argument(None, help="A method's name or file. Default: whichever the file names."),
    output: Path = typer.Option(None, "--output", "-o", help="The file to write; default is stdout."),  # noqa: B008
) -> None:
    """Print the JSON schema of a configuration file, for editors."""
    from plaudit.config.json_schema import json_schema

    text = json.dumps(json_schema(method), indent=1, ensure_ascii=False)
    if output is None:
        typer.echo(text)
        return
    from plaudit.cli.generate import check_writable

    check_writable(output)
    output.write_text(text + "\n", encoding="utf-8")
    typer.echo(f"wrote {output}")
