"""The template engine of every page, and the style that they share."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import BaseLoader, ChoiceLoader, Environment, PackageLoader, StrictUndefined

_OWN = "plaudit.runs"
STYLE = "report.css"
"""What all pages look like; a page may add to it."""


def template_engine(package: str = _OWN, styles: Sequence[str] = ()) -> tuple[Environment, str]:
    """(an engine for the templates of a package, the style of its pages). Every text is escaped.

    Args:
        package: has a folder `templates`; those of a run's report can be included too.
        styles: style sheets among the templates, beyond the common one.
    """
    packages = dict.fromkeys([package, _OWN])
    loader: BaseLoader = ChoiceLoader([PackageLoader(name, "templates") for name in packages])
    engine = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return engine, "\n".join(source(engine, name) for name in (STYLE, *styles))


def source(engine: Environment, name: str) -> str:
    """The text of one of its files."""
    assert engine.loader is not None
    return engine.loader.get_source(engine, name)[0]


__all__ = ["source", "template_engine"]
