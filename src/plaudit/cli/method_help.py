"""The options of a method and of every run, for the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def _options_table(rows: list[tuple[str, str, str, str]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column("flag", no_wrap=True)
    table.add_column("meaning", overflow="fold")
    for flag, kind, default, meaning in rows:
        value = default if default == "required" else f"= {default}"
        table.add_row(escape(f"{flag} {value}"), escape(f"{meaning} [{kind}]"))
    return table


def print_training_help(method: str | None) -> None:
    """Usage and all options of a training command; without a method, those that every method has."""
    from plaudit.config.docs import option_rows
    from plaudit.methods import Method, find

    found = find(method) if method else Method
    console = Console(highlight=False)
    name = method or "train --method NAME"
    if method and method.endswith(".py"):
        name = f"train --method {method}"
    console.print(f"Usage: plaudit {name} [CONFIG.yaml]... [KEY=VALUE]... [--KEY VALUE]...\n", markup=False)
    if method:
        console.print(f"{found.title} ({found.paper}). Data: {found.data_kind}.\n", markup=False)
    console.print(f"  plaudit {name} --model PATH --data FILE.jsonl --lora true", markup=False)
    console.print(f"  plaudit {name} config.yaml train.epochs=2\n", markup=False)
    console.print(_options_table(option_rows(found)))


def print_method(method: str) -> None:
    """What a method is, its paper and its own options."""
    from plaudit.config.docs import method_keys, option_rows
    from plaudit.methods import find

    found = find(method)
    console = Console(highlight=False)
    rates = found.default_learning_rate
    about = " ".join((found.__doc__ or "").split())
    console.print(f"{found.name}: {found.title} ({found.paper})\n{about}\n", markup=False)
    console.print(f"data: {found.data_kind}   models: {', '.join(sorted(found.roles))}", markup=False)
    console.print(f"default learning rate: {rates['lora']:g} with LoRA, {rates['full']:g} in full\n", markup=False)
    console.print(_options_table(option_rows(found)[: len(method_keys(found))]))


def print_methods() -> None:
    """One line per method."""
    from plaudit.methods import available

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("method", "name", "data", "models", "paper"):
        table.add_column(title)
    for name, found in available().items():
        table.add_row(name, found.title, found.data_kind, ", ".join(sorted(found.roles)), found.paper)
    Console(highlight=False).print(table)
