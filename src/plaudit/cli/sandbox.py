"""`plaudit sandbox`."""

from __future__ import annotations

import typer


def command(
    host: str = typer.Option("127.0.0.1", help="Address to listen at; 0.0.0.0 is every network of the machine."),
    port: int = typer.Option(8080, min=0, max=65535, help="Port; 0 takes a free one and says which."),
    workers: int = typer.Option(None, min=1, help="Programs at the same time. Default: one per core."),
    site_packages: bool = typer.Option(False, "--site-packages", help="Programs may import what is installed here."),
    api_key: str = typer.Option(
        None,
        envvar="PLAUDIT_API_KEY",
        help="Clients must send this key. Default: anybody who reaches the port may run programs.",
    ),
) -> None:
    """Run programs for other machines, isolated; their rewards name it: code:sandbox=http://HOST:PORT.

    It speaks SandboxFusion's /run_code.
    """
    from plaudit.api import serve_sandbox

    serve_sandbox(
        host=host,
        port=port,
        workers=workers,
        site_packages=site_packages,
        api_key=api_key,
        on_message=lambda text: typer.echo(text, err=True),
    )
