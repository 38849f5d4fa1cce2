"""The methods and the options of a run, for the terminal."""

from __future__ import annotations

from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from plaudit.cli.console import Console
from plaudit.cli.detach import DETACH, DETACH_MEANING
from plaudit.cli.launch import OPTIONS

_LABELS = {"Objective": "objective", "When": "when to use it", "Deviations": "differences from the paper"}


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
        console.print(f"{found.title} ({found.paper}). Data: {found.data_kind}.", markup=False)
        console.print(f"`plaudit methods {method}` explains it.\n", markup=False)
    reward = " --reward math" if method and found.is_online() else ""
    console.print(f"  plaudit {name} --model PATH --data FILE.jsonl --lora true{reward}", markup=False)
    console.print(f"  plaudit {name} config.yaml train.epochs=2\n", markup=False)
    console.print(_options_table(option_rows(found)))
    console.print("\nhow it runs (docs/performance.md, docs/runs.md)", markup=False)
    rows = [(f"{flag} N", "integer", "1", meaning) for flag, meaning in OPTIONS.items()]
    console.print(_options_table([*rows, (DETACH, "flag", "false", DETACH_MEANING)]))


def print_method(method: str) -> None:
    """What a method is, what its file says about it, and its own options."""
    from plaudit.config.about import about
    from plaudit.config.docs import method_keys, option_rows
    from plaudit.methods import find

    found = find(method)
    console = Console(highlight=False)
    rates = found.default_learning_rate
    parts = about(found)
    console.print(f"{found.name}: {found.title} ({found.paper})", markup=False, style="bold")
    console.print(" ".join((found.__doc__ or "").split()), markup=False)
    if found.variant_of is not None:
        console.print(f"a variant of {found.variant_of}", markup=False)
    console.print(f"\ndata: {found.data_kind}   models: {', '.join(sorted(found.roles))}", markup=False)
    console.print(f"default learning rate: {rates['lora']:g} with LoRA, {rates['full']:g} in full", markup=False)
    for name, label in _LABELS.items():
        _print_section(console, label, parts.sections.get(name, ()))
    foreign = tuple(f"{theirs}: {ours}" for theirs, ours in sorted(found.elsewhere.items()))
    _print_section(console, "in other tools", (*parts.sections.get("Elsewhere", ()), *foreign))
    own = method_keys(found)
    if own:
        console.print("\noptions", markup=False, style="bold")
        console.print(Padding(_options_table(option_rows(found)[: len(own)]), (0, 0, 0, 2)))


def _print_section(console: Console, label: str, paragraphs: tuple[str, ...]) -> None:
    if not paragraphs:
        return
    console.print(f"\n{label}", markup=False, style="bold")
    for paragraph in paragraphs:
        console.print(Padding(escape(paragraph), (0, 0, 0, 2)))


def print_methods() -> None:
    """One line per method, by family."""
    from plaudit.methods import families

    console = Console(highlight=False)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("method", no_wrap=True)
    table.add_column("name", overflow="fold")
    table.add_column("data", no_wrap=True)
    table.add_column("models", no_wrap=True)
    for family in families():
        for place, found in enumerate(family):
            name = found.name if place == 0 else f"  {found.name}"
            table.add_row(name, escape(found.title), found.data_kind, ", ".join(sorted(found.roles)))
    console.print(table)
    console.print("\nIndented: variants of the method above. `plaudit methods NAME` explains one.", markup=False)
